"""Apply the retention policy to the snapshots of one environment in either repository."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dodeka_db.errors import RepositoryFullError, SetupError
from dodeka_db.flows import erasures
from dodeka_db.formatting import columns, when_briefly
from dodeka_db.host import row_baselines, row_records
from dodeka_db.log import log
from dodeka_db.restic import retention_policy
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import PRE_RESTORE, Snapshot, of_environment, pre_restore
from dodeka_db.settings import Environment, Settings


def preview(repository: Repository, environment: Environment) -> list[str]:
    """What the next run would do as things are now, as a table: each snapshot, whether it stays, and why. Nothing is removed."""
    settings = repository.settings
    kept, removed = repository.decided(environment)
    since = retention_policy.pre_restore_since()
    rows = [("ID", "When", "Next run", "Why")]
    snapshots = of_environment(repository.snapshots(), environment.name)
    future = next((snapshot for snapshot in snapshots if snapshot.is_from_the_future), None)
    nothing = ""
    if not settings.retains:
        nothing = "OFFSITE_RETENTION=none: left to the server"
    elif loss := _loss(settings.states[-1], environment):
        nothing = f"nothing is removed {loss}"
    elif future:
        nothing = f"nothing is removed while {future.short_id} is from the future"
    for snapshot in snapshots:
        stays, why = True, ", ".join(kept.get(snapshot.id, [])).replace(" snapshot", "")
        if snapshot.is_pinned:
            why = f"pinned: {snapshot.note}" if snapshot.note else "pinned"
        elif snapshot.is_pre_restore:
            stays = snapshot.time >= since
            why = f"{PRE_RESTORE}, for {retention_policy.PRE_RESTORE_MONTHS} months"
        elif snapshot.id in removed:
            stays, why = False, ""
        if nothing and not stays:
            stays, why = True, nothing
        rows.append((snapshot.short_id, when_briefly(snapshot.time), "keeps" if stays else "removes", why))
    return columns(rows, "<<<<")


def is_allowed(settings: Settings, environment: Environment) -> bool:
    """Whether old snapshots of `environment` may go: not with a loss of rows that is open, or while that is not known.

    The cron run of that environment fails then.
    """
    loss = _loss(settings.main.state, environment)
    if loss:
        log.warning("none of the old snapshots of %s is removed %s", environment.name, loss)
    return not loss


def _loss(state: Path, environment: Environment) -> str:
    try:
        has_lost = row_baselines.has_open_loss(state, environment.name)
        return f"after a loss of rows ({environment.name})" if has_lost else ""
    except SetupError as error:
        return f"while it is not known whether rows were lost: {error.message}"


def apply(
    repository: Repository,
    environment: Environment,
    known: Callable[[], Sequence[Snapshot]] | None = None,
) -> int:
    """Forget and prune what the policy does not keep, and remove its records of rows; returns the number of removed snapshots.

    `known` gives what Repository.known() has just found, if the caller has asked. While a snapshot is from the future, nothing
    is removed, with a warning. Raises the failure of restic.
    """
    everything = (known or repository.known)()
    listed = of_environment(everything, environment.name)
    future = [snapshot for snapshot in listed if snapshot.is_from_the_future]
    if future:
        newest = future[-1]  # it counts as the latest: the policy would remove the true latest
        where = " in the off-site repository" if repository.settings.is_offsite else ""
        forget = repository.settings.make(f"restic ARGS='forget {newest.short_id}'")
        log.warning(
            "snapshot %s%s is from the future (%s): no snapshot is removed while it exists;"
            " if the clock is right now (timedatectl): %s",
            *(newest.short_id, where, newest.time.isoformat(timespec="seconds"), forget),
        )
        return 0
    since = retention_policy.pre_restore_since()
    expired = [
        snapshot for snapshot in pre_restore(listed) if snapshot.time < since and not snapshot.is_pinned
    ]
    try:
        if expired:
            repository.forget_these(expired)
        removed = {*(one.id for one in expired), *repository.forget(environment)}
        left = [one for one in everything if one.id not in removed]
    except RepositoryFullError:
        log.warning("no space for a normal prune: only completely unused packs are removed")
        repository.forget_without_room(environment, expired)
        left = repository.listed()
    row_records.keep_only(repository.settings.state, (one.stored_as for one in left))
    erasures.expire(repository, left)
    return len(everything) - len(left)
