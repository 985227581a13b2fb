"""The retention policy, applied to the snapshots of one environment in either repository."""

import logging
from datetime import datetime
from typing import TypeVar

from dodeka_db import schedule
from dodeka_db.repository import Listed, Repository
from dodeka_db.settings import Environment

log = logging.getLogger("dodeka_db")
AnyListed = TypeVar("AnyListed", bound=Listed)


def apply(repository: Repository, environment: Environment) -> int:
    """Forget and prune what the policy does not keep; how many snapshots were removed.

    None, with a warning, while one is from the future. Raises what restic's failure is.
    """
    listed = [snapshot for snapshot in repository.listed() if snapshot.environment == environment.name]
    future = [snapshot for snapshot in listed if snapshot not in of_the_past(listed)]
    if not future:
        return repository.forget(environment)
    newest = future[-1]  # it counts as the latest: the policy would have the true latest removed
    log.warning(
        "snapshot %s%s is from the future (%s): nothing is removed until that is mended;"
        " check the clock (timedatectl), then: restic forget %s",
        newest.short_id,
        " in the off-site repository" if repository.is_offsite else "",
        newest.time.isoformat(timespec="seconds"),
        newest.short_id,
    )
    return 0


def of_the_past(snapshots: list[AnyListed]) -> list[AnyListed]:
    """Those that a clock may have made that is right, give or take a little."""
    limit = datetime.now().astimezone() + schedule.CLOCK_TOLERANCE
    return [snapshot for snapshot in snapshots if snapshot.time <= limit]
