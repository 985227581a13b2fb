"""make backup: one snapshot of the live database of an environment."""

from contextlib import suppress

from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.flows import leftovers, pins, row_loss, stray_writes
from dodeka_db.flows.in_the_end import in_the_end
from dodeka_db.flows.take_snapshot import Taken, take_snapshot
from dodeka_db.host import run_lock, service, staging
from dodeka_db.log import log
from dodeka_db.restic.repository import Repository
from dodeka_db.settings import Environment, Settings


def run(settings: Settings, environment: Environment, note: str | None = None) -> Taken:
    """Take one snapshot of the environment's live database; with a `note`, a pinned one. Raises what a step raises.

    With the snapshot safe it raises RowsLostError if the database has lost many rows; and with the snapshot or without it
    ServiceError if a service is still down that a restore left stopped. Otherwise DatabaseError if SQLite's check found
    defects in the database.
    """
    tags = () if note is None else pins.tags(note)
    main = settings.main
    with staging.locked(main, f"backup of {environment.name}"):
        repository = Repository(main)
        down, done, loss = leftovers.recover(settings), "", None
        with (
            in_the_end(lambda: row_loss.fail_if_lost(loss)),
            in_the_end(lambda: leftovers.fail_if_down(down, done)),
        ):
            with run_lock.beside(environment.live, main.lock_wait_s):
                taken = of_live(settings, repository, environment, tags)
            done = f"snapshot {taken.snapshot_id} is safe"
            with in_the_end(lambda: fail_if_defective(taken, environment)):
                loss = row_loss.look(settings, repository, environment, taken)
    return taken


def of_live(
    settings: Settings,
    repository: Repository,
    environment: Environment,
    extra_tags: tuple[str, ...] = (),
    lists: bool = False,
) -> Taken:
    """take_snapshot() of the live database, with a warning where the service writes to another one."""
    taken = take_snapshot(repository, environment, environment.database, extra_tags, lists=lists)
    with suppress(BackupError):  # make status reports a systemd that does not answer
        if stray := stray_writes.found(service.of_environment(settings, environment), environment.live):
            log.warning("%s: its new rows are in no snapshot; see BACKUP.md, 'Written elsewhere'", stray)
    return taken


def fail_if_defective(taken: Taken, environment: Environment) -> None:
    """Raise DatabaseError, with the snapshot safe, if SQLite's check found defects in the environment's database."""
    if taken.findings.defects:
        raise DatabaseError(
            f"snapshot {taken.snapshot_id} is safe, but database {environment.database} has defects:"
            f" {taken.findings.defects_shown}",
            "REINDEX repairs an index; no restore is needed: BACKUP.md, 'The database has defects'",
        )
