"""make cron: a snapshot that is read back, then the retention policy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from dodeka_db import data_description, schedule
from dodeka_db.errors import BackupError, RepositoryFullError, SetupError, as_line
from dodeka_db.flows import backup, offsite, retention, row_loss, snapshot_growth
from dodeka_db.flows.in_the_end import in_the_end
from dodeka_db.flows.leftovers import fail_if_down, recover
from dodeka_db.flows.row_loss import Loss
from dodeka_db.flows.take_snapshot import Taken
from dodeka_db.formatting import counted
from dodeka_db.host import day_records, job_records, run_lock, staging
from dodeka_db.interrupts import Interrupted
from dodeka_db.log import log
from dodeka_db.restic.repository import Repository
from dodeka_db.settings import Environment, Settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done:
    """The snapshot that was taken, and how many old ones were removed."""

    taken: Taken
    removed: int

    @property
    def summary(self) -> str:
        return f"{self.taken.summary}, {counted(self.removed, 'old snapshot')} removed"


def run(settings: Settings, environment: Environment) -> Done:
    """Take a snapshot, apply the retention policy, and record the result.

    Raises BusyError when another run holds the lock until the next one is due, and whatever a step raises; a
    failure after the snapshot was stored says so. In the end it raises RowsLostError if the database has lost many rows:
    then nothing old is removed. Otherwise ServiceError if a service is still down that a restore left stopped, whatever else
    has failed; and DatabaseError if SQLite's check found defects in the database.
    """
    began, due = time.monotonic(), schedule.seconds_until_next(environment.name, datetime.now())

    main = settings.main

    def wait_s() -> int:
        return max(0, min(main.lock_wait_s, due - int(time.monotonic() - began)))

    with (
        day_records.counted(main.state, environment.name) as today,
        job_records.failures(main.state, job(environment)),
    ):
        with staging.locked(main, f"cron run of {environment.name}", wait_s()):
            repository = Repository(main)
            down, done, loss, removed = recover(settings), "", None, 0
            with (
                in_the_end(lambda: row_loss.fail_if_lost(loss, removed)),
                in_the_end(lambda: fail_if_down(down, done)),
            ):
                with run_lock.beside(environment.live, wait_s()):
                    taken, removed = _store(settings, repository, environment)
                done = f"snapshot {taken.snapshot_id} is safe"
                today.has_stored, today.members = True, _members(taken)
                with in_the_end(lambda: backup.fail_if_defective(taken, environment)):
                    loss = row_loss.look(settings, repository, environment, taken, removed)
                    removed += _clean_up(settings, repository, environment, taken, loss)
                    today.stored_bytes = _after_snapshot(
                        *(taken, "counting the stored bytes", "done"),
                        lambda: snapshot_growth.sample(repository, environment),
                    )
        job_records.passed(main.state, job(environment))
    return Done(taken, removed)


def job(environment: Environment) -> str:
    """The name of the cron run of `environment` in the records."""
    return f"cron-{environment.name}"


def _members(taken: Taken) -> int | None:
    """The number of members in the snapshot; None if that is not known, of which row_loss warns."""
    try:
        return data_description.read().count_of_members(taken.rows or {})
    except SetupError:
        return None


def _clean_up(
    settings: Settings, repository: Repository, environment: Environment, taken: Taken, loss: Loss | None
) -> int:
    """Apply the retention policy if that is allowed now; returns how many snapshots it has removed."""
    if loss:
        log.info("snapshot %s is stored; after a loss of rows nothing is removed", taken.snapshot_id)
        return 0
    if offsite.is_copying(settings):
        log.info(
            "snapshot %s is stored; an off-site copy is running, so no snapshot is removed", taken.snapshot_id
        )
        return 0
    log.info("snapshot %s is stored; applying the retention policy", taken.snapshot_id)
    return _after_snapshot(
        *(taken, "the retention", "applied"), lambda: retention.apply(repository, environment, taken.known)
    )


def _store(settings: Settings, repository: Repository, environment: Environment) -> tuple[Taken, int]:
    """The snapshot, and the number of snapshots removed first because the repository was full."""
    try:
        return backup.of_live(settings, repository, environment, lists=True), 0
    except RepositoryFullError as full:
        if offsite.is_copying(settings):
            raise
        log.warning("%s: applying the retention policy first, then trying once more", full.message)
    removed = 0
    try:
        for one in settings.environments:
            # only the run that tells a loss may say that something had to go
            if one == environment or retention.is_allowed(settings, one):
                removed += retention.apply(repository, one)
        return backup.of_live(settings, repository, environment, lists=True), removed
    except RepositoryFullError as full:
        message = f"{full.message}, even after the retention policy removed {removed} old snapshots"
        raise RepositoryFullError(message, "see BACKUP.md, 'The volume is full'") from full


def _after_snapshot(taken: Taken, what: str, done: str, work: Callable[[], Result]) -> Result:
    """Do `work` after a snapshot was stored: its failure or interruption says that the snapshot is safe, and names `what`."""
    try:
        return work()
    except (BackupError, OSError) as error:
        message = f"snapshot {taken.snapshot_id} is safe, but {what} failed: {as_line(error)}"
        kind = type(error) if isinstance(error, BackupError) else BackupError
        raise kind(message) from error
    except Interrupted as interruption:
        interruption.note = f"snapshot {taken.snapshot_id} is safe, but {what} was not {done}"
        raise
