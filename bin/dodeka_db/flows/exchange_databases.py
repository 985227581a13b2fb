"""Stop the service, replace the live database by the staged one, start and watch the service, save the replaced database.

If the service does not run with the new database, the two are exchanged back.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BufferedRandom
from pathlib import Path

from dodeka_db.errors import BackupError, ServiceError, as_line
from dodeka_db.flows import leftovers, row_loss
from dodeka_db.flows.restore_question import Change
from dodeka_db.flows.staged_database import rights_of_new
from dodeka_db.host import file_rights, open_files, whole_clones
from dodeka_db.host.file_rights import Rights
from dodeka_db.host.service import Service, ServiceNotAnsweringError, ServiceNotRunningError
from dodeka_db.interrupts import Interrupted, interruptible, shielded
from dodeka_db.log import log
from dodeka_db.restic.snapshots import PRE_RESTORE
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import kept_files, swap
from dodeka_db.sqlite.checkpoint import refuse_if_open
from dodeka_db.sqlite.failures import DatabaseInUseError
from dodeka_db.sqlite.swap import Kept

# how often to stop a unit that something else starts again (Upholds=)
STOPS = 3


@dataclass(frozen=True)
class _Outcome:
    """The end of an exchange of two databases: the one in place, and the other.

    `done` says what is in place; `kept` is the path of the other database, None if there was none, and `kept_shown` its name
    in messages. `error` is the failure of a run whose databases are both safe. `is_new` is whether the new database is in place.
    """

    done: str
    kept: Path | None
    kept_shown: str = "the replaced database"
    error: BackupError | None = None
    is_new: bool = True

    @property
    def said(self) -> str:
        return self.error.message if self.error else self.done

    def failed(self, error: BackupError, message: str) -> "_Outcome":
        """This outcome, with an error of the kind and the next step of `error`."""
        return replace(self, error=type(error)(message, error.hint))


def exchange(settings: Settings, service: Service, change: Change, staged: BufferedRandom) -> None:
    target = change.target
    outcome = None
    try:
        with shielded():  # signals wait, except where interruptible() lets them in
            service.remember_state()
            answered = service.answers(target.health_url)
            kept, began = _exchange(settings, service, change, Path(staged.name))
            staged.close()  # otherwise we ourselves would have the live database open
            done = f"{target.name} has the data of {change.shown}{_stays_stopped(service)}"
            outcome = _Outcome(done, kept)
            outcome = _start(settings, service, target, outcome, answered, began)
        _record_rows(settings, change, outcome)
        where = _save(settings, target, outcome)
    except Interrupted as interruption:
        if outcome:
            _record_rows(settings, change, outcome)
            interruption.note = _joined(outcome.said, _where(settings, target, outcome))
        raise
    if outcome.error:
        raise type(outcome.error)(_joined(outcome.said, where), outcome.error.hint)
    if outcome.kept and kept_files.has_damaged_name(outcome.kept):
        log.warning("%s", where)
    log.info("done: %s", outcome.done)


def _record_rows(settings: Settings, change: Change, outcome: _Outcome) -> None:
    """Take the rows of the new database for good, if it is in place."""
    if outcome.is_new:
        row_loss.after_restore(settings, change.target, change.origin.stored_as[:8], change.then)


def _exchange(
    settings: Settings, service: Service, change: Change, staged: Path
) -> tuple[Path | None, float]:
    """Stop the service and put the new database in place.

    Returns the path of the old database, None if there was none, and when the service was stopped.
    """
    target, live = change.target, change.target.live
    its_rights = rights_of_new(settings, target, change.origin, staged)
    others = [live, *kept_files.all_beside(live)]
    whole_clones.remember(settings.main.state, target.name, staged, change.whole_clone_of, others)
    kept = swap.keep(live)
    if service.managed:
        log.info("stopping %s", service.unit)
    log.info("replacing %s", live)
    began = time.monotonic()
    # nothing is logged until the service runs again: a paused terminal (Ctrl-S) must not pause us
    try:
        with interruptible():
            service.stop()
        return _replace(service, live, staged, kept, change.damaged, its_rights), began
    except BaseException as error:
        try:
            swap.remove_stale_link(live)
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
            # on the last try replace the database even though it is open; _part() restarts the unit
            return swap.replace(live, new, kept, is_damaged, its_rights, even_in_use=not tries_left)
        except DatabaseInUseError:
            if not tries_left or not service.was_started_meanwhile():
                raise
            service.stop()


def _start(
    settings: Settings, service: Service, target: Environment, outcome: _Outcome, answered: bool, began: float
) -> _Outcome:
    """Start the service with the new database and watch it, or put the old one back, if the service ran with that."""
    old = outcome.kept
    failure: BackupError
    try:
        service.start()
        holders = _part(service, target.live, old) if old else []
        with interruptible():
            if service.managed and not service.was_stopped:
                log.info("started %s, after %.1f s; watching it", service.unit, time.monotonic() - began)
            service.watch(settings.start_wait_s, target.health_url)
    except Interrupted:
        service.accept_unwatched()
        raise
    except ServiceNotAnsweringError as error:
        failure = error
        why = "" if answered else "; it did not answer before either, so the new database stays"
    except ServiceNotRunningError as error:
        failure, why = error, ""
    except (BackupError, OSError) as error:
        failure = error if isinstance(error, BackupError) else BackupError(as_line(error))
        why = "; the new data did not cause this, so the new database stays"
    else:
        if not holders:
            return outcome
        message = (
            f"{outcome.done}, but {old} is still open in {', '.join(holders)}:"
            " rows written to it are not in the new database"
        )
        return replace(
            outcome, error=DatabaseInUseError(message, "end that process; the next backup saves the file")
        )
    if old is None:
        why = "; there was no database before, so the new one stays"
    elif kept_files.has_damaged_name(old):
        why = "; the old database was damaged, so the new one stays"
    elif not why:
        return _put_back(settings, service, target, outcome, old, failure)
    return outcome.failed(failure, f"{outcome.done}, but {failure.message}{why}{service.if_down()}")


def _part(service: Service, live: Path, replaced: Path) -> list[str]:
    """Restart the service if it runs on the replaced database; returns the processes that still have that open.

    Something else may have started the unit between its stop and the rename.
    """
    holders = open_files.processes_with(replaced)
    if not holders:
        return []
    swap.part(live, replaced)
    service.stop()
    left = open_files.processes_with(replaced)
    service.start()
    if left != holders:
        log.warning(
            "%s had opened the old database before it was replaced; %s was stopped and started once more",
            *(", ".join(holders), service.unit),
        )
    return left


def _put_back(
    settings: Settings,
    service: Service,
    target: Environment,
    outcome: _Outcome,
    old: Path,
    failure: BackupError,
) -> _Outcome:
    """Put the `old` database back, since the service fails with the new one."""
    live = target.live
    try:
        kept = swap.keep(live)
        service.stop()  # systemd may be restarting it again and again
        refuse_if_open(old)
        leftovers.settle_for_use(old)
        taken_out = _replace(service, live, old, kept, False, file_rights.read(old))
    except (BackupError, OSError) as second:
        problem = f"{failure.message}, and the old database could not be put back: {as_line(second)}"
        with suppress(BackupError):
            service.start()
        with suppress(OSError):  # if not, the next run does it
            swap.remove_stale_link(live)
        return outcome.failed(failure, f"{outcome.done}, but {problem}{service.if_down()}")
    back = f"{failure.message}; the old database is back"
    try:
        service.start()
        if taken_out:
            _part(service, live, taken_out)
        service.watch(settings.start_wait_s, target.health_url)
        said = "and the service runs with it"
    except (ServiceNotRunningError, ServiceNotAnsweringError) as second:
        said = f"but with that too {second.message}: the data is not the cause{service.if_down()}"
    except (BackupError, OSError) as second:
        said = f"but {as_line(second)}{service.if_down()}"
    done = f"{back}, {said}"
    kept_shown = "the new database, with what was written to it,"
    return _Outcome(done, taken_out, kept_shown, is_new=False).failed(failure, done)


def _start_again(settings: Settings, service: Service, problem: str) -> None:
    """Start the service with the database that it had, because of a `problem`. ServiceError if it does not come up."""
    try:
        service.start()
        service.watch(settings.start_wait_s, health_url=None)
    except BackupError as second:
        raise ServiceError(
            f"{problem}; starting the service again failed: {as_line(second)}{service.if_down()}"
        ) from second
    if service.managed and not service.was_stopped:
        log.info("started %s again", service.unit)


def _stays_stopped(service: Service) -> str:
    return f"; {service.unit} was stopped before, and stays stopped" if service.was_stopped else ""


def _save(settings: Settings, target: Environment, outcome: _Outcome) -> str:
    """Make a snapshot of the database that is not in place; returns where it is now. Raises BackupError if that fails."""
    if isinstance(outcome.error, DatabaseInUseError):
        return _where(settings, target, outcome)  # a process may still write to it
    if outcome.kept and not kept_files.has_damaged_name(outcome.kept):
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
            f"{outcome.said}, but another program removed {outcome.kept} before it was saved",
            f"{outcome.kept_shown} is lost, except what the last snapshot has:"
            f" {settings.main.make(f'snapshots ENV={target.name}')}",
        )
    return _where(settings, target, outcome)


def _where(settings: Settings, target: Environment, outcome: _Outcome) -> str:
    kept = outcome.kept
    if kept is None:
        return ""
    if not kept.exists():
        return f"{outcome.kept_shown} is a snapshot tagged {PRE_RESTORE}"
    if kept_files.has_damaged_name(kept):
        return f"{outcome.kept_shown} is damaged, and kept as it was: {kept}"
    return f"{outcome.kept_shown} is kept as {kept}; to put it back: {settings.main.make(f'undo ENV={target.name}')}"


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
