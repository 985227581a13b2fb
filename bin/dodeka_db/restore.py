"""Put a snapshot in the place of an environment's database."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from dodeka_db import backup, database, frames, staging
from dodeka_db.errors import BackupError, DatabaseError, ServiceError, SnapshotError
from dodeka_db.interrupts import interruptible, shielded
from dodeka_db.repository import PRE_RESTORE, Repository, Snapshot
from dodeka_db.service import Service
from dodeka_db.settings import Environment, Settings

log = logging.getLogger("dodeka_db")


def restore(settings: Settings, repository: Repository, target: Environment, snapshot: Snapshot) -> None:
    """Replace the database of `target` by the one in `snapshot`. To be called under the lock.

    What takes long and can go wrong with the snapshot happens first, while the service is up. Raises
    BackupError or Interrupted with the old database in place and the service started again.
    """
    service = Service(target.unit, settings.systemctl)
    service.check()
    live = Path(os.path.realpath(target.database))  # a symbolic link stays one
    with _staged_beside(live) as staged:
        _fetch(settings, repository, snapshot, staged)
        database.fit(staged, live)
        kept = live.with_name(f"{live.name}.{PRE_RESTORE}-{datetime.now():%Y%m%dT%H%M%S}")
        with shielded():  # signals wait, but where interruptible() lets them in
            try:
                with interruptible():
                    _say(service, "stopping %s")
                    service.stop()
                    whole = _back_up_current(settings, repository, target)
                log.info("replacing %s", live)
                replace = database.replace if whole else database.replace_damaged
                replace(live, staged, kept)
            except BaseException as error:
                _start_again(service, error)
                raise
            try:
                _say(service, "starting %s")
                service.start()
            except ServiceError as error:
                _put_back(service, live, kept, error)
            if whole:
                kept.unlink()  # it is in the repository
            elif kept.exists():
                log.warning("what was there is kept as it was: %s", kept)
            log.info("done: %s has the data of snapshot %s", target.name, snapshot.short_id)


def _say(service: Service, what: str) -> None:
    if service.managed:
        log.info(what, service.unit)


def _fetch(settings: Settings, repository: Repository, snapshot: Snapshot, staged: Path) -> None:
    with staging.folder(settings) as folder:
        archive = folder / "download.zst"
        try:
            with open(archive, "x+b") as file, open(staged, "xb") as decompressed:
                log.info("downloading snapshot %s", snapshot.short_id)
                repository.dump(snapshot, file)
                file.seek(0)
                log.info("decompressing")
                frames.decompress(file, decompressed)
        except OSError as error:
            raise BackupError(
                f"cannot write {error.filename or staged}: {error.strerror}", "nothing was changed"
            ) from error
    log.info("checking")
    try:
        database.verify(staged, f"the database in snapshot {snapshot.short_id}")
    except DatabaseError as error:
        raise SnapshotError(error.message, "choose another snapshot; nothing was changed") from error


@contextmanager
def _staged_beside(live: Path) -> Iterator[Path]:
    # on the file system of the live database, so that one rename can put it in place
    staged = live.with_name(f"{live.name}.restoring")
    try:
        _remove(staged)
        yield staged
    finally:
        _remove(staged)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _back_up_current(settings: Settings, repository: Repository, target: Environment) -> bool:
    """Store what is there, so that the restore can be undone; False if it is not a whole database."""
    try:
        taken = backup.take_snapshot(settings, repository, target, (PRE_RESTORE,))
    except database.DatabaseInUse:
        raise
    except DatabaseError as error:
        # the very case that a restore is for
        log.warning("no %s snapshot: %s", PRE_RESTORE, error.message)
        return False
    log.info("what was there is snapshot %s, tagged %s", taken.snapshot_id, PRE_RESTORE)
    return True


def _start_again(service: Service, error: BaseException) -> None:
    _say(service, "starting %s again")
    try:
        service.start()
    except ServiceError as second:
        raise ServiceError(f"{error}; then {second.message}: IT IS DOWN", second.hint) from error


def _put_back(service: Service, live: Path, kept: Path, error: ServiceError) -> None:
    if kept.exists():
        service.stop()  # systemd may be trying it again and again
        database.put_back(kept, live)
    _start_again(service, error)
    raise ServiceError(f"{error.message}; the old database is back, and it runs with that", error.hint)
