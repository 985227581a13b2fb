"""The retention policy, applied to the snapshots of one environment in either repository."""

import logging
from datetime import datetime, timedelta

from dodeka_db.errors import RepositoryFull
from dodeka_db.restic.repository import PRE_RESTORE_MONTHS, Repository, Snapshot, of_the_past
from dodeka_db.settings import Environment

log = logging.getLogger("dodeka_db")


def apply(repository: Repository, environment: Environment) -> int:
    """Forget and prune what the policy does not keep; how many snapshots were removed.

    None, with a warning, while one is from the future. Raises what restic's failure is.
    """
    listed = _listed(repository, environment)
    future = [snapshot for snapshot in listed if snapshot not in of_the_past(listed)]
    if future:
        newest = future[-1]  # it counts as the latest: the policy would have the true latest removed
        log.warning(
            "snapshot %s%s is from the future (%s): nothing is removed while it is there;"
            " check the clock (timedatectl), then: make restic ARGS='forget %s'%s",
            newest.short_id,
            " in the off-site repository" if repository.is_offsite else "",
            newest.time.isoformat(timespec="seconds"),
            newest.short_id,
            " OFFSITE=1" if repository.is_offsite else "",
        )
        return 0
    # restic's own --keep-within counts from the newest one of a group, so the last of them would stay for ever
    since = _months_before(datetime.now().astimezone(), PRE_RESTORE_MONTHS)
    expired = [snapshot for snapshot in listed if snapshot.is_pre_restore and snapshot.time < since]
    try:
        if expired:
            repository.forget_these(expired)
        return len(expired) + repository.forget(environment)
    except RepositoryFull:
        log.warning("there is no room to prune as usual: only what is unused as a whole is removed")
        repository.forget_without_room(environment, expired)
        return len(listed) - len(_listed(repository, environment))


def _listed(repository: Repository, environment: Environment) -> list[Snapshot]:
    return [snapshot for snapshot in repository.listed() if snapshot.environment == environment.name]


def _months_before(moment: datetime, months: int) -> datetime:
    """The same day of the month, or so many days later where that month is too short, as restic itself counts."""
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    return moment.replace(year=year, month=month + 1, day=1) + timedelta(days=moment.day - 1)
