"""Put other data in the place of an environment's database: a snapshot, or what the last restore replaced."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO

from dodeka_db import safe_open
from dodeka_db.errors import WHO, BackupError, DatabaseError, ServiceError, SnapshotError, as_line
from dodeka_db.flows import leftovers
from dodeka_db.flows.download import fetch
from dodeka_db.flows.incoming import Incoming
from dodeka_db.host import disks, file_rights, open_files, run_lock, staging
from dodeka_db.host import service as services
from dodeka_db.host.file_rights import Rights
from dodeka_db.host.service import DoesNotAnswer, DoesNotRun, Service
from dodeka_db.interrupts import Interrupted, interruptible, shielded
from dodeka_db.restic.repository import PRE_RESTORE, Repository, Snapshot, newest_pre_restore
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import database, swap
from dodeka_db.sqlite.database import DatabaseInUse, Findings, NotWhole
from dodeka_db.sqlite.swap import Kept

log = logging.getLogger("dodeka_db")

# something else may start the unit again and again (Upholds=) while it is to be stopped
STOPS = 3


@dataclass(frozen=True)
class Origin:
    """Where the data comes from: whose they are, of when, and what writes them to a file as a database.

    `kept` is the file where they are a database that the last restore replaced.
    """

    shown: str
    environment: str
    time: datetime
    write: Callable[[Incoming], None]
    kept: Path | None = None


@dataclass(frozen=True)
class Change:
    """What is about to be done, for the question: the rows of each table `now` and `then`, None where SQLite cannot tell.

    `findings` is what is wrong with the new database, `fixed` names what was until its indexes were rebuilt.
    `now` is None, with a `problem`, where they cannot be counted; `damaged` if because it is no whole database.
    """

    target: Environment
    origin: Origin
    findings: Findings
    fixed: str
    then: Mapping[str, int | None]
    now: Mapping[str, int | None] | None
    problem: str = ""
    damaged: bool = False


Confirm = Callable[[Change], None]


def restore(
    settings: Settings, target: Environment, repository: Repository, snapshot: Snapshot, confirm: Confirm
) -> None:
    """Replace the database of `target` by the one in `snapshot` of `repository`, once `confirm` does not raise.

    All that takes long, and all that can be wrong with the snapshot, comes before that, while the service is
    up. Raises BackupError or Interrupted with either the old or the new database in place, whole, the service
    as it was found, and the other one in the repository or kept beside it.
    """
    _restore(settings, target, lambda: _from_snapshot(repository, target, snapshot), confirm)


def undo(settings: Settings, target: Environment, confirm: Confirm) -> None:
    """Put back what the last restore of `target` replaced, the same way. Raises as restore() does."""
    _restore(settings, target, lambda: _from_last_restore(settings, target), confirm)


def _restore(settings: Settings, target: Environment, choose: Callable[[], Origin], confirm: Confirm) -> None:
    service = services.of(settings, target)
    service.check()
    live = target.live
    _check_link(target.database, live)
    if stray := service.strays_from(live):
        raise ServiceError(f"{stray}; nothing was changed", "save that first: BACKUP.md, 'Written elsewhere'")
    state, doing = staging.state_folder(settings), f"restore of {target.name}"
    with ExitStack() as stack:
        with run_lock.held(state, doing, settings.lock_wait_s):
            down = leftovers.clean_up(settings)
            origin = choose()
            staged = stack.enter_context(staging.beside(live))
            change = _stage(settings, target, origin, staged)
            before = _identity(live)
        confirm(change)  # without the lock: backups go on while somebody thinks
        with run_lock.held(state, doing, settings.lock_wait_s), run_lock.beside(live, settings.lock_wait_s):
            if _identity(live) != before:
                raise DatabaseError(f"{live} was replaced by another restore meanwhile", "look again")
            _put_in_place(settings, service, change, staged)
    leftovers.fail_if_down(down)


def _check_link(link: Path, live: Path) -> None:
    """Raise DatabaseError where the `link` leads to no database: whoever may set it could have any file replaced.

    In a folder of another user, who may change any of that meanwhile, only to a file of the same name: none of ours has it.
    """
    if live == Path(os.path.realpath(link.parent), link.name):
        return  # what becomes a link from now on is replaced itself
    try:
        database.read_header(live)
    except DatabaseError as error:
        raise DatabaseError(
            f"{link} links to {live}, which is no database ({error.message})",
            "put that link right; nothing was changed",
        ) from error
    if live.name != link.name and not safe_open.is_ours(link.parent):
        raise DatabaseError(
            f"{link} links to {live}, in a folder of another user",
            f"call that file {link.name} too; nothing was changed",
        )


def _from_snapshot(repository: Repository, target: Environment, snapshot: Snapshot) -> Origin:
    shown = f"snapshot {snapshot.short_id}"
    if snapshot.environment != target.name:
        shown += f" of {snapshot.environment}"
    if repository.is_offsite:
        shown += " of the off-site repository"
    return Origin(shown, snapshot.environment, snapshot.time, lambda file: fetch(repository, snapshot, file))


def _from_last_restore(settings: Settings, target: Environment) -> Origin:
    if kept := swap.kept_files(target.live):
        origin = _from_kept_file(target, kept[-1])
    else:
        repository = Repository(settings)
        origin = _from_snapshot(
            repository, target, newest_pre_restore(settings, repository.snapshots(), target.name)
        )
    damaged = swap.damaged_files(target.live)
    if damaged and swap.kept_since(damaged[-1]) > origin.time:
        raise SnapshotError(
            f"what the last restore replaced was damaged, and is kept as {damaged[-1]}",
            f"choose an older state: {settings.make(f'restore ENV={target.name}')}",
        )
    return origin


def _from_kept_file(target: Environment, kept: Path) -> Origin:
    swap.refuse_if_open(kept)

    def write(file: Incoming) -> None:
        file.start_over()
        log.info("copying %s", kept)
        with open(kept, "rb", opener=safe_open.no_link) as source:
            shutil.copyfileobj(source, file)

    return Origin(kept.name, target.name, swap.kept_since(kept), write, kept)


def _stage(settings: Settings, target: Environment, origin: Origin, file: IO[bytes]) -> Change:
    """Write the new database to `file`, prove that it is one, and compare it with the one that is there.

    By its descriptor: its name may be another file's by now, where the folder belongs to somebody else.
    """
    live, shown, staged = target.live, f"the database in {origin.shown}", Path(file.name)
    try:
        origin.write(Incoming(file.raw, shown, swap.LARGER_DISK))
    except OSError as error:
        raise BackupError(f"{error.filename or staged}: {error.strerror}", "nothing was changed") from error
    log.info("checking")
    try:
        found = findings = database.verify(staged, shown)
        if found.defects:
            _reindex(staged, shown)
            findings = database.verify(staged, shown)
    except NotWhole as error:
        raise SnapshotError(error.message, "choose another snapshot; nothing was changed") from error
    then = database.row_counts(staged)
    database.match_journal_mode(staged, live)
    _its_rights(settings, target, origin, staged)
    os.fsync(file.fileno())
    fixed = replace(found, defects=tuple(line for line in found.defects if line not in findings.defects))
    change = Change(target, origin, findings, fixed.defects_shown, then, now=None)
    try:
        return replace(change, now=database.row_counts(live))
    except DatabaseError as error:  # the very case that a restore is for
        return replace(change, problem=error.message, damaged=isinstance(error, NotWhole))


def _reindex(staged: Path, shown: str) -> None:
    log.info("rebuilding its indexes")
    try:
        disks.for_database(staged.parent, staged.stat().st_size, swap.LARGER_DISK).check()  # for its journal
        database.reindex(staged, shown)
    except BackupError as error:  # it is whole, or the next check says so
        log.warning("the indexes are not rebuilt: %s", error.message)


def _its_rights(settings: Settings, target: Environment, origin: Origin, staged: Path) -> Rights:
    """The rights that the new database will have, those of the live one; its owner and attributes `staged` has from now on.

    A clone has no right that the database does not have whose data it holds. Raises DatabaseError if we cannot give them.
    """
    live = target.live
    source = live if origin.environment == target.name else settings.environment(origin.environment).live
    try:
        its_rights = file_rights.of(live) if live.exists() else file_rights.of_a_new_file(live.parent)
        if source != live:
            of_source = file_rights.of(source) if source.exists() else file_rights.of_a_new_file(live.parent)
            its_rights = its_rights.stricter(of_source.within(source.parent))
        its_rights.own(staged)
    except OSError as error:
        raise DatabaseError(
            f"{live} belongs to another user or group, or {source.parent} is closed to us ({error.strerror})",
            WHO,
        ) from error
    return its_rights


@dataclass(frozen=True)
class _Outcome:
    """How the exchange of two databases ended: what is in place now, and what is not.

    `done` says what is in place; `kept` is where `kept_shown`, the other database, is, None if there was none. `error` is
    why the run fails all the same.
    """

    done: str
    kept: Path | None
    kept_shown: str = "the replaced database"
    is_new: bool = True
    error: BackupError | None = None

    @property
    def said(self) -> str:
        return self.error.message if self.error else self.done

    def failed(self, error: BackupError, message: str) -> "_Outcome":
        """The same, with an error of the kind and the next step of `error`."""
        return replace(self, error=type(error)(message, error.hint))


def _put_in_place(settings: Settings, service: Service, change: Change, staged: IO[bytes]) -> None:
    target, origin = change.target, change.origin
    outcome = None
    try:
        with shielded():  # signals wait, but where interruptible() lets them in
            service.find()
            answered = service.answers(target.health_url)
            kept, began = _exchange(settings, service, change, Path(staged.name))
            staged.close()  # or we ourselves would have the live database open
            done = f"{target.name} has the data of {origin.shown}{_stays_stopped(service)}"
            outcome = _Outcome(done, kept)
            outcome = _start(settings, service, target, outcome, answered, began)
        if origin.kept and outcome.is_new and not open_files.that_have_open(origin.kept):
            swap.remove(origin.kept)  # it is the live database again
        where = _save(settings, target, outcome)
    except Interrupted as interruption:
        if outcome:
            interruption.note = _joined(outcome.said, _where(settings, target, outcome))
        raise
    if outcome.error:
        raise type(outcome.error)(_joined(outcome.said, where), outcome.error.hint)
    if outcome.kept and swap.is_damaged(outcome.kept):
        log.warning("%s", where)
    log.info("done: %s", outcome.done)


def _exchange(
    settings: Settings, service: Service, change: Change, staged: Path
) -> tuple[Path | None, float]:
    """From the old database under a running service to the new one under none.

    Returns where the old one is, None if there was none, and when the service was stopped.
    """
    target, live = change.target, change.target.live
    its_rights = _its_rights(settings, target, change.origin, staged)
    kept = swap.keep(live)
    if service.managed:
        log.info("stopping %s", service.unit)
    log.info("replacing %s", live)
    began = time.monotonic()
    # until it is started again nothing is said: a terminal that is held (Ctrl-S) must not hold us
    try:
        with interruptible():
            service.stop()
        return _replace(service, live, staged, kept, change.damaged, its_rights), began
    except BaseException as error:
        try:
            swap.forget_unswapped(live)
        finally:
            _start_again(settings, service, as_line(error))
        if isinstance(error, BackupError):
            raise type(error)(f"{error.message}{_stays_stopped(service)}", error.hint) from error
        raise


def _replace(
    service: Service, live: Path, new: Path, kept: Kept, is_damaged: bool, its_rights: Rights
) -> Path | None:
    tries_left = STOPS
    while True:
        tries_left -= 1
        try:
            # what starts the unit again and again does not win: _part() stops it on the replaced database
            return swap.replace(live, new, kept, is_damaged, its_rights, even_in_use=not tries_left)
        except DatabaseInUse:
            if not tries_left or not service.was_started_meanwhile():
                raise
            service.stop()


def _start(
    settings: Settings, service: Service, target: Environment, outcome: _Outcome, answered: bool, began: float
) -> _Outcome:
    """Start the service with the new database and watch it, or go back to the old one, if that is known to do better."""
    old = outcome.kept
    try:
        service.start()
        holders = _part(service, target.live, old) if old else []
        with interruptible():
            if service.managed and not service.was_stopped:
                log.info("started %s, after %.1f s; watching it", service.unit, time.monotonic() - began)
            service.watch(settings.start_wait_s, target.health_url)
    except Interrupted:
        service.is_not_watched()
        raise
    except DoesNotAnswer as error:
        failure, why = error, "" if answered else "; it did not before either, so the new database stays"
    except DoesNotRun as error:
        failure, why = error, ""
    except (BackupError, OSError) as error:
        failure = error if isinstance(error, BackupError) else BackupError(as_line(error))
        why = "; the data is not the reason, so the new database stays"
    else:
        if not holders:
            return outcome
        message = f"{outcome.done}, but {old} is still open in {', '.join(holders)}: what that writes is there alone"
        return replace(outcome, error=DatabaseInUse(message, "end that; the next backup saves it"))
    if old is None:
        why = "; there was no database before, so the new one stays"
    elif swap.is_damaged(old):
        why = "; the old database was damaged, so the new one stays"
    if not why:
        return _put_back(settings, service, target, outcome, failure)
    return outcome.failed(failure, f"{outcome.done}, but {failure.message}{why}{service.if_down()}")


def _part(service: Service, live: Path, replaced: Path) -> list[str]:
    """Let nobody go on with the replaced database; who still has it open.

    Something else may have started the unit between its stop and the rename: then it runs on that file.
    """
    holders = open_files.that_have_open(replaced)
    if not holders:
        return []
    swap.part(live, replaced)
    service.stop()
    left = open_files.that_have_open(replaced)
    service.start()
    if left != holders:
        log.warning(
            "%s had opened the old database before it was replaced; %s was stopped and started once more",
            *(", ".join(holders), service.unit),
        )
    return left


def _put_back(
    settings: Settings, service: Service, target: Environment, outcome: _Outcome, failure: BackupError
) -> _Outcome:
    live, old = target.live, outcome.kept
    try:
        kept = swap.keep(live)
        service.stop()  # systemd may be trying it again and again
        swap.refuse_if_open(old)
        leftovers.settle(old)
        taken_out = _replace(service, live, old, kept, False, file_rights.of(old))
    except (BackupError, OSError) as second:
        problem = f"{failure.message}, and the old database could not be put back: {as_line(second)}"
        with suppress(BackupError):
            service.start()
        with suppress(OSError):  # else the next run does it
            swap.forget_unswapped(live)
        return outcome.failed(failure, f"{outcome.done}, but {problem}{service.if_down()}")
    back = f"{failure.message}; the old database is back"
    try:
        service.start()
        _part(service, live, taken_out)
        service.watch(settings.start_wait_s, target.health_url)
        said = "and it runs with that"
    except (DoesNotRun, DoesNotAnswer) as second:
        said = f"and with that {second.message}: the data was not the reason{service.if_down()}"
    except (BackupError, OSError) as second:
        said = f"and with that {as_line(second)}{service.if_down()}"
    back = _Outcome(
        f"{back}, {said}", taken_out, "the new database, with what was written to it,", is_new=False
    )
    return back.failed(failure, back.done)


def _start_again(settings: Settings, service: Service, problem: str) -> None:
    """Start the service with the database that it had, because of a `problem`. ServiceError if it does not come up."""
    try:
        service.start()
        service.watch(settings.start_wait_s, health_url=None)
    except BackupError as second:
        raise ServiceError(f"{problem}; then {as_line(second)}{service.if_down()}") from second
    if service.managed and not service.was_stopped:
        log.info("started %s again", service.unit)


def _stays_stopped(service: Service) -> str:
    return f"; {service.unit} was stopped before, and stays stopped" if service.was_stopped else ""


def _save(settings: Settings, target: Environment, outcome: _Outcome) -> str:
    """Make a snapshot of the database that is not in place; where that is now. Raises BackupError if it could not be saved."""
    if isinstance(outcome.error, DatabaseInUse):
        return _where(settings, target, outcome)  # it is still being written to
    if outcome.kept and not swap.is_damaged(outcome.kept):
        log.info("saving %s", outcome.kept_shown)
    try:
        became = leftovers.store_kept(settings, target)
    except (BackupError, OSError) as error:
        kind = type(error) if isinstance(error, BackupError) else BackupError
        message = f"{outcome.said}, but {outcome.kept_shown} is not saved: {as_line(error)}"
        raise kind(message, _where(settings, target, outcome)) from error
    if outcome.kept in became:
        return f"{outcome.kept_shown} is {became[outcome.kept]}"
    if outcome.kept and not outcome.kept.exists():
        raise BackupError(
            f"{outcome.said}, but something else removed {outcome.kept} before it was saved",
            f"{outcome.kept_shown} is lost, but for the last snapshot of it:"
            f" {settings.make(f'snapshots ENV={target.name}')}",
        )
    return _where(settings, target, outcome)


def _where(settings: Settings, target: Environment, outcome: _Outcome) -> str:
    kept = outcome.kept
    if kept is None:
        return ""
    if not kept.exists():
        return f"{outcome.kept_shown} is a snapshot tagged {PRE_RESTORE}"
    if swap.is_damaged(kept):
        return f"{outcome.kept_shown} is damaged, and kept as it was: {kept}"
    return (
        f"{outcome.kept_shown} is kept as {kept}; to put it back: {settings.make(f'undo ENV={target.name}')}"
    )


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _identity(live: Path) -> tuple[int, int] | None:
    try:
        status = live.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
