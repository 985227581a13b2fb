"""Apply the retention policy to the snapshots of one environment in either repository."""

import logging

from dodeka_db.errors import RepositoryFullError
from dodeka_db.restic import retention_policy
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, of_environment, pre_restore
from dodeka_db.settings import Environment

log = logging.getLogger("dodeka_db")


def apply(repository: Repository, environment: Environment) -> int:
    """Forget and prune what the policy does not keep; returns the number of removed snapshots.

    While a snapshot is from the future that is 0, with a warning. Raises the failure of restic.
    """
    listed = _listed(repository, environment)
    future = [snapshot for snapshot in listed if snapshot.is_from_the_future]
    if future:
        newest = future[-1]  # it counts as the latest: the policy would remove the true latest
        where = " in the off-site repository" if repository.settings.is_offsite else ""
        log.warning(
            "snapshot %s%s is from the future (%s): no snapshot is removed while it exists;"
            " if the clock is right now (timedatectl): %s",
            newest.short_id,
            where,
            newest.time.isoformat(timespec="seconds"),
            repository.settings.make(f"restic ARGS='forget {newest.short_id}'"),
        )
        return 0
    since = retention_policy.pre_restore_since()
    expired = [snapshot for snapshot in pre_restore(listed) if snapshot.time < since]
    try:
        if expired:
            repository.forget_these(expired)
        return len(expired) + repository.forget(environment)
    except RepositoryFullError:
        log.warning("no space for a normal prune: only completely unused packs are removed")
        repository.forget_without_room(environment, expired)
        return len(listed) - len(_listed(repository, environment))


def _listed(repository: Repository, environment: Environment) -> list[Snapshot]:
    return of_environment(repository.listed(), environment.name)
