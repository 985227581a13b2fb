"""What restores left behind: one that was killed, one that could not save what it replaced, a service that is down."""

import logging
from pathlib import Path

from dodeka_db import backup, database, lock, processes, service, staging, swap
from dodeka_db.database import DatabaseInUse, NotWhole
from dodeka_db.errors import BackupError, Busy, DatabaseError, ServiceError
from dodeka_db.repository import PRE_RESTORE, Repository
from dodeka_db.service import DoesNotAnswer, Service
from dodeka_db.settings import ENVIRONMENTS, Environment, Settings

log = logging.getLogger("dodeka_db")

# the services that a restore left stopped and that do not come up, with the reason of each
Down = list[tuple[Service, ServiceError]]


def recover(settings: Settings) -> Down:
    """Clean up behind killed restores, and save what any restore kept. To be called under the lock.

    What cannot be done is warned of, and tried again by the next run: no backup is left out for it. A service that is
    down is returned as well, for fail_if_down().
    """
    down = clean_up(settings)
    for name in ENVIRONMENTS:
        environment = settings.environment(name)
        try:
            with lock.beside(environment.live, wait_s=0):
                store_kept(settings, environment)
        except Busy:
            pass  # clean_up() has said so
        except (BackupError, OSError) as error:
            log.warning("what a restore of %s replaced is not saved yet: %s", name, error)
    return down


def clean_up(settings: Settings) -> Down:
    """Remove files that a killed restore was working on, and start a service that it had stopped; what did not come up."""
    down = []
    for name in ENVIRONMENTS:
        environment = settings.environment(name)
        unit = service.of(settings, environment)
        try:
            with lock.beside(environment.live, wait_s=0):
                _clean_up_files(environment.live, unit)
                _bring_up(settings, environment, unit)
        except Busy as busy:
            log.info("nothing is cleaned up behind restores of %s now: %s", name, busy.message)
        except ServiceError as error:
            log.warning("%s", error)
            down.append((unit, error))
        except (BackupError, OSError) as error:
            log.warning("what a killed restore of %s left is not cleaned up yet: %s", name, error)
    return down


def fail_if_down(down: Down) -> None:
    """Raise the ServiceError of a service that a restore left stopped and that is still down."""
    for unit, error in down:
        if unit.is_marked:
            raise error


def _clean_up_files(live: Path, unit: Service) -> None:
    staging.remove_left_beside(live)
    if swap.forget_unswapped(live) or unit.is_marked:
        settle(live)
    for kept in swap.kept_files(live):
        settle(kept)


def settle(path: Path) -> None:
    """Let SQLite finish or roll back what the last process to use the database at `path` left in its journals."""
    if not any(Path(f"{path}{suffix}").exists() for suffix in swap.JOURNALS):
        return
    try:
        database.row_counts(path)
    except NotWhole:
        return  # what is damaged stays as it is, with its journals
    except DatabaseError:
        pass  # a reader cannot roll back
    try:
        database.fold(path)
    except DatabaseInUse:
        pass  # whoever has it open has done that


def _bring_up(settings: Settings, environment: Environment, unit: Service) -> None:
    """Start and watch a unit that a killed restore left stopped. Raises ServiceError if it does not come up."""
    if not unit.was_left_stopped():
        return
    what = f"a restore left {unit.unit} stopped"
    if not environment.live.exists():
        raise ServiceError(f"{what}, and {environment.live} is missing: IT IS DOWN", "run the restore again")
    log.warning("%s: starting it", what)
    try:
        unit.start()
        unit.watch(settings.start_wait_s, environment.health_url)
    except DoesNotAnswer as error:
        log.warning("it is active again, but %s", error)
    except BackupError as error:
        raise ServiceError(
            f"{what}, and it does not come up: {error.message}: IT IS DOWN",
            f"{error.hint}; to start it: {unit.how_to_start}",
        ) from error


def store_kept(settings: Settings, environment: Environment) -> dict[Path, str]:
    """Make pre-restore snapshots of the databases that restores kept, the last one last; what became of each file.

    What is not a whole database cannot become one, and stays under another name. To be called under the lock of the
    database. Raises BackupError or OSError, with the file in place.
    """
    became = {}
    for kept in swap.kept_files(environment.live):
        if holders := processes.that_have_open(kept):
            raise DatabaseInUse(f"{kept} is still open in {', '.join(holders)}", "end that")
        settle(kept)
        try:
            taken = backup.take_snapshot(
                settings,
                Repository(settings),
                environment,
                source=kept,
                extra_tags=(PRE_RESTORE,),
                read_back=True,  # for then the only other copy goes,
                full_check=True,  # and undo would refuse what does not pass
            )
        except NotWhole as error:
            damaged = swap.set_aside(kept, journals_of=kept)
            log.warning("no %s snapshot: %s", PRE_RESTORE, error.message)
            log.warning("the damaged database is kept as it was: %s", damaged)
            became[kept] = f"damaged, and kept as it was: {damaged}"
        else:
            swap.remove(kept)
            became[kept] = f"snapshot {taken.snapshot_id}, tagged {PRE_RESTORE}"
            log.info("%s is now %s", kept.name, became[kept])
    return became
