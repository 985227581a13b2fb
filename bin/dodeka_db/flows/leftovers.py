"""Clean up after earlier restores: files of killed ones, kept files that are not saved yet, a service that is down."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dodeka_db.errors import BackupError, BusyError, DatabaseError, ServiceError, as_line
from dodeka_db.flows.take_snapshot import take_snapshot
from dodeka_db.host import open_files, run_lock, service, staging, whole_clones
from dodeka_db.host.service import Service, ServiceNotAnsweringError
from dodeka_db.log import log
from dodeka_db.restic import retention_policy
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import PRE_RESTORE, tags_of_replaced
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import journals, kept_files, swap
from dodeka_db.sqlite.checkpoint import checkpoint_and_close, refuse_if_open
from dodeka_db.sqlite.failures import RETRY, DatabaseInUseError, NotWholeError
from dodeka_db.sqlite.row_counts import row_counts

# the services that a restore left stopped and that do not start, with the reason of each
Down = list[tuple[Service, ServiceError]]


def recover(settings: Settings, saving: bool = True) -> Down:
    """Clean up after killed restores, and save the databases that any restore kept. To be called under the lock.

    A step that fails is only a warning, and tried again by the next run: a backup is taken all the same. Services that stay
    down are returned, for fail_if_down(). With `saving` False the kept files stay where they are.
    """
    down: Down = []
    for environment in settings.environments:
        name = environment.name
        unit = service.of_environment(settings, environment)
        try:
            with run_lock.beside(environment.live, wait_s=0):
                with _warning_of("files left by a killed restore of %s could not be removed: %s", name):
                    _clean_up_files(environment.live, unit)
                if error := _bring_up(settings, environment, unit):
                    log.warning("%s", error)
                    down.append((unit, error))
                if saving:
                    with _warning_of(
                        "the database replaced by a restore of %s could not be saved yet: %s", name
                    ):
                        store_kept(settings, environment)
        except (BusyError, DatabaseError) as error:
            log.info("not cleaning up after killed restores of %s now: %s", name, error.message)
    return down


@contextmanager
def _warning_of(message: str, name: str) -> Iterator[None]:
    try:
        yield
    except (BackupError, OSError) as error:
        log.warning(message, name, as_line(error))


def fail_if_down(down: Down, done: str = "") -> None:
    """Raise the ServiceError of a service that a restore left stopped and that is still down; the message begins with what is `done`."""
    for unit, error in down:
        if unit.is_marked:
            raise ServiceError(f"{done}, but {error.message}" if done else error.message, error.hint)


def _clean_up_files(live: Path, unit: Service) -> None:
    staging.remove_left_beside(live)
    if any(open_files.processes_with(kept) for kept in kept_files.kept_beside(live)) and unit.is_marked:
        unit.stop()  # it was started before the rename, and runs on the replaced database
    if swap.remove_stale_link(live) or unit.is_marked:
        settle(live)
    for kept in kept_files.kept_beside(live):
        settle(kept)


def settle(path: Path) -> None:
    """Let SQLite finish or roll back what the last process to use the database at `path` left in its journals."""
    if not journals.exist(path):
        return
    try:
        row_counts(path)
    except NotWholeError:
        return  # a damaged database stays as it is, with its journals
    except DatabaseError:
        pass  # a reader cannot roll back
    with suppress(DatabaseInUseError):  # a process that has it open has done that
        checkpoint_and_close(path)


def settle_for_use(path: Path) -> None:
    """settle(), for a file that is used by itself from now on. Raises DatabaseInUseError if it still has a journal."""
    settle(path)
    if journals.hold_rows(path):
        raise DatabaseInUseError(f"database {path} has rows in a journal that could not be folded in", RETRY)


def _bring_up(settings: Settings, environment: Environment, unit: Service) -> ServiceError | None:
    """Start and watch a unit that a killed restore left stopped; returns the failure if it does not start."""
    what = f"a restore left {unit.unit} stopped"
    try:
        if not unit.needs_start():
            return None
        if not environment.live.exists():
            return ServiceError(
                f"{what}, and {environment.live} is missing: IT IS DOWN", "run the restore again"
            )
        log.warning("%s: starting it", what)
        unit.start()
        unit.watch(settings.start_wait_s, environment.health_url)
    except ServiceNotAnsweringError as error:
        log.warning("it is active again, but %s", error)
    except (BackupError, OSError) as error:
        return ServiceError(f"{what}, and it does not come up: {as_line(error)}{unit.if_down()}")
    return None


def store_kept(settings: Settings, environment: Environment) -> dict[Path, str]:
    """Make pre-restore snapshots of the databases that restores kept, the last one last; returns what became of each file.

    A file that is not a whole database cannot become a snapshot, and stays under another name. To be called under the lock of the
    database. Raises BackupError or OSError, with the file in place.
    """
    became = {}
    for kept in kept_files.kept_beside(environment.live):
        refuse_if_open(kept)
        settle(kept)
        before = _version(kept)
        try:
            of = whole_clones.source(settings.main.state, environment.name, kept)
            taken = take_snapshot(
                Repository(settings.main), environment, kept, tags_of_replaced(of), _time_of_snapshot(kept)
            )
        except NotWholeError as error:
            damaged = kept_files.set_aside(kept, journals_of=kept)
            log.warning("no %s snapshot: %s", PRE_RESTORE, error.message)
            log.warning("the damaged database is kept as it was: %s", damaged)
            became[kept] = f"damaged, and kept as it was: {damaged}"
        else:
            refuse_if_open(kept)  # since then
            if _version(kept) != before or journals.hold_rows(kept):
                raise DatabaseInUseError(
                    f"{kept} was written to while it was saved as snapshot {taken.snapshot_id}",
                    "the next backup saves it again",
                )
            kept_files.remove(kept)
            became[kept] = f"snapshot {taken.snapshot_id}, tagged {PRE_RESTORE}" + (
                f": a whole clone of {of}" if of else ""
            )
            log.info("%s is now %s", kept.name, became[kept])
    return became


def _version(kept: Path) -> tuple[int, int, int]:
    status = kept.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _time_of_snapshot(kept: Path) -> datetime:
    """The time at which `kept` was replaced, by which undo finds the last one.

    One whose snapshot would expire at once, or whose name is from the future because the clock was wrong, stays for a week. It
    counts as older than all others, as in kept_files.kept_beside().
    """
    replaced, oldest = kept_files.since(kept), retention_policy.pre_restore_since() + timedelta(days=7)
    return replaced if oldest < replaced <= datetime.now(UTC) else oldest
