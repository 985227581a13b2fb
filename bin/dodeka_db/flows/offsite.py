"""The second copy: the snapshots that are missing elsewhere, the newest of them read back, and the retention there."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dodeka_db.errors import BackupError, RepositoryDamaged, SetupError, as_line
from dodeka_db.flows import retention, verify
from dodeka_db.host import job_records, run_lock, staging
from dodeka_db.restic import failures
from dodeka_db.restic.repository import Config, Repository, Snapshot, of_the_past, resolve
from dodeka_db.settings import ENVIRONMENTS, Settings

log = logging.getLogger("dodeka_db")
JOB = "offsite"


@dataclass(frozen=True)
class Done:
    """How many snapshots were copied, which were read back, and how many old ones were removed (None: as is set).

    `is_removable` is whether this machine could remove what is there.
    """

    copied: int
    read_back: tuple[Snapshot, ...]
    removed: int | None
    is_removable: bool


def of(settings: Settings) -> Settings:
    """The settings of the off-site repository; SetupError if there is none."""
    if settings.offsite is None:
        raise SetupError("OFFSITE_REPOSITORY is not set", "see BACKUP.md, 'Off-site'")
    return settings.offsite


def check_apart(one: Config | None, other: Config | None) -> None:
    """Raise SetupError if the two are the same repository, however their addresses are written."""
    if one and other and one.id == other.id:
        raise SetupError(
            "OFFSITE_REPOSITORY is RESTIC_REPOSITORY itself, or a copy of its files",
            "a second copy needs a repository of its own, in another place: make init OFFSITE=1",
        )


def last(settings: Settings) -> job_records.Record:
    """How the last copy ended; a good one to another place than today's off-site repository counts as none."""
    record, shown = job_records.read(settings, JOB), of(settings).repository_shown
    return record if record.details.get("to", shown) == shown else replace(record, passed=None)


@contextmanager
def without_copy(settings: Settings, doing: str) -> Iterator[None]:
    """While the block runs no copy begins; for one that is at work it waits. For what restic has to be alone for.

    To be entered before the lock that backups wait for. Raises Busy.
    """
    if settings.offsite is None:
        yield
        return
    with run_lock.held(staging.state_folder(settings.offsite), doing, settings.lock_wait_s):
        yield


def run(settings: Settings) -> Done:
    """Copy what is missing, prove the newest of each environment there, apply the retention, see whether anything there can be
    removed, write down how it ended.

    It holds no lock that backups wait for: however slow or dead the other server is, they go on. Only what restic has
    to be alone for waits (without_copy) or, the retention, is left out (cron.py). Raises what a step raises.
    """
    there = of(settings)
    # one that finds another at work, as the hourly one does behind a long first copy, leaves the record to that
    with run_lock.held(staging.state_folder(there), run_lock.COPY, settings.lock_wait_s):
        with job_records.failures(settings, JOB):
            here, elsewhere = Repository(settings), Repository(there)
            with run_lock.held(staging.state_folder(settings), run_lock.COPY, settings.lock_wait_s):
                pass  # a run that did not see us when it began has ended
            check_apart(here.config(), elsewhere.config())
            listed = here.listed()
            before = {snapshot.id for snapshot in elsewhere.listed()}
            log.info("copying what is missing to %s", there.repository_shown)
            damaged = elsewhere.copy_from(settings, listed)
            wanted = [one for one in listed if not one.is_pre_restore and one not in damaged]
            snapshots = elsewhere.snapshots()
            copied = sum(snapshot.id not in before for snapshot in snapshots)
            proven = _prove(there, elsewhere, wanted, snapshots)
            removed = _retain(there, elsewhere, copied)
            if damaged:
                ids = ", ".join(snapshot.short_id for snapshot in damaged)
                raise RepositoryDamaged(
                    f"{copied} snapshots are copied, but {ids} of {settings.repository_shown} cannot be: damaged",
                    f"see {failures.DAMAGED}",
                )
            with staging.folder(there) as folder:
                is_removable = elsewhere.is_removable(folder)
            details = {
                "to": there.repository_shown,
                "snapshots": [one.short_id for one in proven],
                "is_removable": is_removable,
            }
            job_records.passed(settings, JOB, details)
    return Done(copied, tuple(proven), removed, is_removable)


def _prove(
    there: Settings, elsewhere: Repository, wanted: list[Snapshot], snapshots: list[Snapshot]
) -> list[Snapshot]:
    proven = []
    for name in ENVIRONMENTS:
        ours = [snapshot for snapshot in of_the_past(wanted) if snapshot.environment == name]
        if not ours:
            continue
        newest = resolve(there, snapshots, name, verify.NEWEST)
        if newest.time < ours[-1].time:
            raise BackupError(
                f"the newest snapshot of {name} is not in {there.repository_shown} after the copy"
            )
        verify.prove(there, elsewhere, newest)
        proven.append(newest)
    return proven


def _retain(there: Settings, elsewhere: Repository, copied: int) -> int | None:
    if not there.retains:
        return None
    log.info("applying the retention policy there")
    try:
        return sum(retention.apply(elsewhere, there.environment(name)) for name in ENVIRONMENTS)
    except (BackupError, OSError) as error:
        what = as_line(error)
        if isinstance(error, failures.RemovalRefused):
            what = f"{error.message}; if it is to be so (append-only): OFFSITE_RETENTION=none"
        kind = type(error) if isinstance(error, BackupError) else BackupError
        raise kind(
            f"{copied} snapshots are copied, and the newest read back, but nothing old was removed: {what}"
        ) from error
