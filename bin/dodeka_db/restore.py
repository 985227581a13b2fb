"""Put other data in the place of an environment's database: a snapshot, or what the last restore replaced."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

from dodeka_db import database, lock, processes, recovery, staging, swap
from dodeka_db import service as services
from dodeka_db.database import DatabaseInUse, NotWhole
from dodeka_db.errors import BackupError, DatabaseError, ServiceError, SnapshotError
from dodeka_db.fetch import fetch
from dodeka_db.interrupts import Interrupted, interruptible, shielded
from dodeka_db.repository import PRE_RESTORE, Repository, Snapshot, newest_pre_restore
from dodeka_db.service import Service
from dodeka_db.settings import Environment, Settings

log = logging.getLogger("dodeka_db")


@dataclass(frozen=True)
class Origin:
    """Where the data comes from: whose they are, of when, and what writes them to a file as a database.

    `kept` is the file where they are what a restore kept.
    """

    shown: str
    environment: str
    time: datetime
    write: Callable[[BinaryIO], None]
    kept: Path | None = None


@dataclass(frozen=True)
class Change:
    """What is about to be done, for the question: the rows of each table `now` and `then`.

    `now` is None, with a `problem`, where they cannot be counted; `damaged` if because it is no whole database.
    """

    target: Environment
    origin: Origin
    then: Mapping[str, int]
    now: Mapping[str, int] | None
    problem: str = ""
    damaged: bool = False


Confirm = Callable[[Change], None]


def restore(
    settings: Settings, target: Environment, repository: Repository, snapshot: Snapshot, confirm: Confirm
) -> None:
    """Replace the database of `target` by the one in `snapshot` of `repository`, once `confirm` does not raise.

    All that takes long, and all that can be wrong with the snapshot, comes before that, while the service is
    up. Raises BackupError or Interrupted with either the old or the new database in place, whole, the service
    started again, and the old one in the repository or kept beside the new one.
    """
    _restore(settings, target, lambda: _from_snapshot(repository, target, snapshot), confirm)


def undo(settings: Settings, target: Environment, confirm: Confirm) -> None:
    """Put back what the last restore of `target` replaced, the same way. Raises as restore() does."""
    _restore(settings, target, lambda: _from_last_restore(settings, target), confirm)


def _restore(settings: Settings, target: Environment, choose: Callable[[], Origin], confirm: Confirm) -> None:
    service = services.of(settings, target)
    service.check()
    live = target.live
    state, doing = staging.state_folder(settings), f"restore of {target.name}"
    with ExitStack() as stack:
        with lock.held(state, doing, settings.lock_wait_s):
            recovery.clean_up(settings)
            origin = choose()
            staged = stack.enter_context(staging.beside(live))
            change = _stage(target, origin, staged)
            before = _identity(live)
        confirm(change)  # without the lock: backups go on while somebody thinks
        with lock.held(state, doing, settings.lock_wait_s):
            if _identity(live) != before:
                raise DatabaseError(f"{live} was replaced by another restore meanwhile", "look again")
            _put_in_place(settings, service, change, staged)


def _from_snapshot(repository: Repository, target: Environment, snapshot: Snapshot) -> Origin:
    def write(file: BinaryIO) -> None:
        fetch(repository, snapshot, file)

    shown = f"snapshot {snapshot.short_id}"
    if snapshot.environment != target.name:
        shown += f" of {snapshot.environment}"
    if repository.is_offsite:
        shown += " of the off-site repository"
    return Origin(shown, snapshot.environment, snapshot.time, write)


def _from_last_restore(settings: Settings, target: Environment) -> Origin:
    kept, damaged = swap.kept_files(target.live), swap.damaged_files(target.live)
    if not kept:
        repository = Repository(settings)
        snapshot = newest_pre_restore(repository.snapshots(), target.name)
        if damaged and swap.kept_since(damaged[-1]) > snapshot.time:
            raise SnapshotError(
                f"what the last restore replaced was damaged, and is kept as {damaged[-1]}",
                f"an older state: make restore ENV={target.name} SNAPSHOT={snapshot.short_id}",
            )
        return _from_snapshot(repository, target, snapshot)
    newest = kept[-1]

    def write(file: BinaryIO) -> None:
        log.info("copying %s", newest)
        with open(newest, "rb") as source:
            shutil.copyfileobj(source, file)

    return Origin(newest.name, target.name, swap.kept_since(newest), write, newest)


def _stage(target: Environment, origin: Origin, staged: Path) -> Change:
    """Write the new database to `staged`, prove that it is one, and compare it with the one that is there."""
    live = target.live
    try:
        with open(staged, "wb") as file:
            origin.write(file)
    except OSError as error:
        raise BackupError(
            f"cannot write {error.filename or staged}: {error.strerror}", "nothing was changed"
        ) from error
    log.info("checking")
    try:
        database.verify(staged, f"the database in {origin.shown}")
    except NotWhole as error:
        raise SnapshotError(error.message, "choose another snapshot; nothing was changed") from error
    then = database.row_counts(staged)
    database.fit(staged, live)
    try:
        return Change(target, origin, then, now=database.row_counts(live))
    except DatabaseError as error:  # the very case that a restore is for
        return Change(target, origin, then, None, error.message, damaged=isinstance(error, NotWhole))


def _put_in_place(settings: Settings, service: Service, change: Change, staged: Path) -> None:
    target, origin, live = change.target, change.origin, change.target.live
    kept = swap.new_name(live)
    new = _identity(staged)
    done = f"{target.name} has the data of {origin.shown}"
    try:
        with shielded():  # signals wait, but where interruptible() lets them in
            _swap(settings, service, change, staged, kept)
        if origin.kept:
            swap.remove(origin.kept)  # it is the live database again
        log.info("storing what was there")
        try:
            recovery.store_kept(settings, target)
        except BackupError as error:
            message = f"{done}, but what was there is not stored: {error.message}"
            raise type(error)(message, _where(target, kept)) from error
        except OSError as error:
            message = f"{done}, but what was there is not stored: {error.filename or kept}: {error.strerror}"
            raise BackupError(message, _where(target, kept)) from error
    except Interrupted as interruption:
        if not interruption.note and _identity(live) == new:
            interruption.note = f"{done}; {_where(target, kept)}"
        raise
    log.info("done: %s", done)


def _where(target: Environment, kept: Path) -> str:
    if kept.exists():
        return f"what was there is kept as {kept}; to put it back: make undo ENV={target.name}"
    return f"what was there is a snapshot tagged {PRE_RESTORE}, or damaged and kept beside it"


def _swap(settings: Settings, service: Service, change: Change, staged: Path, kept: Path) -> None:
    """From the old database under a running service to the new one, or back to the old one."""
    target, live = change.target, change.target.live
    swap.keep(live, kept)
    if service.managed:
        log.info("stopping %s", service.unit)
    log.info("replacing %s", live)
    stopped = time.monotonic()
    # until it is started again nothing is said: a terminal that is held (Ctrl-S) must not hold us
    try:
        with interruptible():
            service.stop()
            _refuse_if_open(live)
        old = swap.replace(live, staged, kept, change.damaged)
    except BaseException as error:
        try:
            swap.forget_unswapped(live)
        finally:
            _start_again(service, str(error))
        raise
    try:
        service.start()
        with interruptible():
            if service.managed:
                log.info("started %s, after %.1f s; watching it", service.unit, time.monotonic() - stopped)
            service.watch(settings.start_wait_s, target.health_url)
    except ServiceError as error:
        _put_back(settings, target, service, old, error)
    if old != kept:
        for path in sorted(live.parent.glob(f"{old.name}*")):
            log.warning("what was there is kept as it was: %s", path)


def _put_back(
    settings: Settings, target: Environment, service: Service, old: Path, error: ServiceError
) -> NoReturn:
    if not old.exists():
        down = "" if service.is_active() else ": IT IS DOWN"
        message = f"{error.message}; there was no database before, so the new one stays{down}"
        raise ServiceError(message, error.hint) from error
    try:
        service.stop()  # systemd may be trying it again and again
        _refuse_if_open(target.live)
        swap.put_back(target.live, old)
    except (BackupError, OSError) as second:
        problem = f"{error.message}, and the old database could not be put back: {second}"
        problem += f"; it is kept as {old}"
        _start_again(service, problem)
        raise ServiceError(problem) from second
    problem = f"{error.message}; the old database is back"
    _start_again(service, problem)
    try:
        service.watch(settings.start_wait_s, target.health_url)
    except ServiceError as second:
        down = "" if service.is_active() else ": IT IS DOWN"
        raise ServiceError(f"{problem}, and with that {second.message}{down}", second.hint) from error
    raise ServiceError(f"{problem}, and it runs with that", error.hint)


def _start_again(service: Service, problem: str) -> None:
    try:
        service.start()
    except ServiceError as second:
        raise ServiceError(f"{problem}; then {second.message}: IT IS DOWN", second.hint) from second
    if service.managed:
        log.info("started %s again", service.unit)


def _refuse_if_open(live: Path) -> None:
    # a writer that survived would write to the old file, and lose what it writes
    holders = processes.that_have_open(live)
    if holders:
        raise DatabaseInUse(
            f"database {live} is still open in {', '.join(holders)}", "end that, then run this again"
        )


def _identity(live: Path) -> tuple[int, int] | None:
    try:
        status = live.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
