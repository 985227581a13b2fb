"""What a restore left behind: one that was killed, or that could not store what was there."""

import logging
from pathlib import Path

from dodeka_db import backup, database, service, staging, swap
from dodeka_db.database import DatabaseInUse, NotWhole
from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.repository import PRE_RESTORE, Repository
from dodeka_db.service import Service
from dodeka_db.settings import ENVIRONMENTS, Environment, Settings

log = logging.getLogger("dodeka_db")


def recover(settings: Settings) -> None:
    """Clean up behind killed restores, and store what any restore kept. To be called under the lock.

    What cannot be done is warned of, and tried again by the next run: no backup is to fail for it.
    """
    clean_up(settings)
    for name in ENVIRONMENTS:
        environment = settings.environment(name)
        try:
            store_kept(settings, environment)
        except (BackupError, OSError) as error:
            log.warning("what a restore of %s kept is not stored yet: %s", name, error)


def clean_up(settings: Settings) -> None:
    """Remove files that a killed restore was working on, and start a service that it had stopped."""
    for name in ENVIRONMENTS:
        environment = settings.environment(name)
        live = environment.live
        unit = service.of(settings, environment)
        try:
            staging.remove_left_beside(live)
            if swap.forget_unswapped(live) or _was_left_stopped(unit):
                _settle(live)
            for kept in swap.kept_files(live):
                _settle(kept)
        except (BackupError, OSError) as error:
            log.warning("what a killed restore of %s left is not mended yet: %s", name, error)
        if _was_left_stopped(unit):
            _start(unit, live)


def _was_left_stopped(unit: Service) -> bool:
    return unit.managed and unit.mark.exists()


def _settle(path: Path) -> None:
    # the last steps may have been SQLite's own: roll back or finish what they left in the journals
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


def _start(unit: Service, live: Path) -> None:
    what = f"a restore left {unit.unit} stopped"
    if not live.exists():
        log.warning("%s, and %s is missing: IT IS DOWN; run the restore again", what, live)
        return
    log.warning("%s: starting it", what)
    try:
        unit.start()
    except BackupError as error:
        log.warning("%s: IT IS DOWN", error)


def store_kept(settings: Settings, environment: Environment) -> None:
    """Make pre-restore snapshots of what restores kept, the oldest first.

    What is not a whole database cannot become one, and stays under another name. Raises BackupError or
    OSError, with the file in place.
    """
    for kept in swap.kept_files(environment.live):
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
            log.warning("what was there is kept as it was: %s", damaged)
        else:
            swap.remove(kept)
            log.info("what was there is snapshot %s, tagged %s", taken.snapshot_id, PRE_RESTORE)
