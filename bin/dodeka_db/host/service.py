"""The systemd unit that has the database open: check our rights, look at its state, stop, start, watch it."""

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import BackupError, NoProcessError, ServiceError
from dodeka_db.host import programs
from dodeka_db.log import log
from dodeka_db.settings import Environment, Settings

# longer than systemd itself waits before it kills (TimeoutStopSec, TimeoutStartSec: 90 s)
PATIENCE_S = 120
POLL_S = 0.25
# for how long a start that is refused is tried again, and how often
RETRY_S = 30
RETRY_EVERY_S = 1
# the mode of a mark: a run of the folder's owner can read it, nobody else can write it
_MARK_MODE = 0o644
# the time limit for a whole answer of the health address
ANSWER_S = 2


class ServiceNotRunningError(ServiceError):
    """systemd started the unit, but it did not stay up: its database may be the reason."""


class ServiceNotAnsweringError(ServiceError):
    """The unit is active, but does not answer at its health address."""


@dataclass(frozen=True)
class Condition:
    """The properties of a unit: LoadState, ActiveState, MainPID (0: none), InvocationID (one for each start), Result, and
    since when it is active, in s of time.monotonic().

    https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html
    """

    load: str
    state: str
    process: int
    invocation: str
    result: str
    since: float

    @property
    def is_active(self) -> bool:
        return self.state in ("active", "reloading")

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped on purpose: it has not failed, and is not about to be started again."""
        return self.state in ("inactive", "deactivating")

    def was_started_since(self, before: "Condition") -> bool:
        return self.invocation not in ("", before.invocation)


class Service:
    """A unit, and the words of the command that manages units; without words no service is managed.

    The file `mark`, beside the database, exists from when we stop the unit until it is up again: by a mark that a killed
    run left, the next run knows that it must start the unit, whatever its state folder.
    """

    def __init__(self, unit: str, systemctl: tuple[str, ...], mark: Path) -> None:
        self.unit, self._systemctl, self._mark = unit, systemctl, mark
        names = [os.path.basename(word) for word in systemctl]
        at = names.index("systemctl") if "systemctl" in names else 0
        self._sudo, self._program = systemctl[:at], systemctl[at:]
        self._before: Condition | None = None
        self.was_stopped = False  # before we changed anything

    @property
    def managed(self) -> bool:
        return bool(self._systemctl)

    @property
    def is_marked(self) -> bool:
        """Whether a restore has stopped the unit, and has not seen it up since."""
        return self.managed and self._marked() is not None

    def check(self) -> None:
        """Raise ServiceError unless systemd knows the unit and lets us stop and start it.

        Changes nothing. sudo asks for its password here, if it needs one, and not while the unit is down.
        """
        if not self.managed:
            return
        loaded = self.look().load
        if loaded != "loaded":
            raise ServiceError(
                f"systemd does not know {self.unit} (LoadState: {loaded or 'none'})",
                "install its unit, or set DODEKA_SYSTEMCTL=none where no service is managed",
            )
        if self._asks_sudo and not self._sudo_allows():
            # asks on the terminal, if there is one
            asked = programs.run(*self._sudo, "-v")
            if asked.exit_code or not self._sudo_allows():
                reason = asked.failure if asked.exit_code else "its rules do not allow it"
                raise ServiceError(
                    f"sudo does not allow this user to stop and start {self.unit}: {reason}",
                    "see BACKUP.md, 'Set up a server'; nothing was changed",
                )

    def look(self) -> Condition:
        """The condition of the unit now. Raises ServiceError."""
        # without sudo, whose rules may allow no more than stop and start: any user may ask
        properties = "LoadState,ActiveState,MainPID,InvocationID,Result,ActiveEnterTimestampMonotonic"
        shown = self._run(
            *self._program, "show", f"--property={properties}", self.unit, failing="could not ask about"
        )
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        return Condition(
            values.get("LoadState", ""),
            values.get("ActiveState", ""),
            int(values.get("MainPID") or 0),
            values.get("InvocationID", ""),
            values.get("Result", ""),
            int(values.get("ActiveEnterTimestampMonotonic") or 0) / 1e6,
        )

    def remember_state(self) -> None:
        """Remember the state of the unit, so that start() can restore it: one that was stopped stays stopped. Raises ServiceError."""
        if self.managed:
            self._before = self.look()
            self.was_stopped = self._before.is_stopped and not self.is_marked

    def stop(self) -> None:
        """Stop the unit and make sure that its main process has ended; ServiceError if it has not."""
        if not self.managed:
            return
        self._before = now = self.look()
        if now.state == "inactive":
            return
        if not self.was_stopped:
            self._write_mark(now)
        self._run(*self._systemctl, "stop", self.unit, failing="could not stop")
        # asking systemd would take longer than everything else that is done while the unit is down
        if now.process and Path(f"/proc/{now.process}").exists():
            raise ServiceError(
                f"{self.unit} has not stopped: its process {now.process} is still running", self._hint
            )

    def start(self) -> None:
        """Start the unit, unless it was stopped before we came.

        Raises ServiceNotRunningError if it was started and ended again, another ServiceError if it was never started: the
        start limit was reached, a permission or a process was missing, and its database is not the reason.
        """
        if not self.managed or self.was_stopped:
            return
        before, deadline, has_reset = self._before or self.look(), time.monotonic() + RETRY_S, False
        while True:
            try:
                self._run(*self._systemctl, "start", self.unit, failing="could not start")
                break
            except NoProcessError as error:
                failure = ServiceError(f"could not start {self.unit}: {error.message}", error.hint)
            except ServiceError as error:
                now, failure = self.look(), error
                if now.is_active:
                    break
                if now.was_started_since(before) and now.result != "resources":
                    raise self._does_not_run(error.message) from error
                if now.state == "failed" and not has_reset:
                    self._reset(error)
                    has_reset = True
                    continue
            if time.monotonic() >= deadline:
                raise failure
            time.sleep(RETRY_EVERY_S)
        if has_reset:
            log.info("%s had reached its start limit: ran systemctl reset-failed", self.unit)

    def watch(self, wait_s: int, health_url: str | None) -> None:
        """Raise ServiceNotRunningError or ServiceNotAnsweringError unless the unit, just started, is up.

        It is up if it stays active, with one main process, for `wait_s` seconds; or, with a `health_url`, if that answers
        with a 2xx within `wait_s` seconds.
        """
        if not self.managed or self.was_stopped:
            return
        answer = self._watched(wait_s, health_url)
        self._remove_mark()
        if answer:
            raise ServiceNotAnsweringError(
                f"{self.unit} does not answer at its health address within {wait_s} s ({answer})", self._hint
            )

    def accept_unwatched(self) -> None:
        """For an interruption before watch() is done: accept the unit if it is active now."""
        with suppress(BackupError):
            if self.is_marked and self.look().is_active:
                self._remove_mark()

    def _watched(self, wait_s: int, health_url: str | None) -> str:
        """Watch the unit; returns what is wrong with the answer of `health_url`, or "". Raises ServiceNotRunningError."""
        deadline = time.monotonic() + wait_s
        first = self.look()
        while True:
            now = self.look()
            if not now.is_active:
                raise self._does_not_run(f"{self.unit} does not stay up (ActiveState: {now.state})")
            if now.process != first.process:
                raise self._does_not_run(f"{self.unit} does not stay up (it was restarted)")
            answer = _health_problem(health_url) if health_url else ""
            if (health_url and not answer) or time.monotonic() >= deadline:
                return answer
            time.sleep(POLL_S)

    def _does_not_run(self, message: str) -> ServiceNotRunningError:
        """The error, with the mark saying that the start which failed was ours."""
        with suppress(BackupError):
            self._write_mark(self.look())
        return ServiceNotRunningError(message, self._hint)

    def answers(self, health_url: str | None) -> bool:
        """Whether the unit is active and its `health_url` answers with a 2xx, now."""
        if not self.managed or not health_url:
            return False
        return self.look().is_active and not _health_problem(health_url)

    def was_started_meanwhile(self) -> bool:
        """Whether something else has started the unit since stop()."""
        return self.managed and not self.was_stopped and self.look().is_active

    def if_down(self) -> str:
        """The end of a message if the unit ran before and is not active now; otherwise empty."""
        if not self.managed or self.was_stopped:
            return ""
        how = f"to start it: sudo systemctl start {self.unit}"
        try:
            return "" if self.look().is_active else f": IT IS DOWN; {how}"
        except BackupError as error:
            return f": IT MAY BE DOWN ({error.message}); {how}"

    def needs_start(self) -> bool:
        """Whether a killed restore left the unit stopped.

        If the unit was started since, the mark is removed, even if it has been stopped again, on purpose.
        """
        if not self.is_marked:
            return False
        now = self.look()
        if now.is_active or (
            now.state == "inactive" and now.was_started_since(replace(now, invocation=self._marked() or ""))
        ):
            self._remove_mark()
            return False
        self._before = now
        return True

    @property
    def _hint(self) -> str:
        return f"see: systemctl status {self.unit}"

    @property
    def is_refused(self) -> bool:
        """Whether sudo would not let this user stop and start the unit, or would first ask for a password. False where it is not
        sudo that decides: polkit cannot be asked without doing it.
        """
        return self._asks_sudo and not self._sudo_allows()

    @property
    def _asks_sudo(self) -> bool:
        return os.path.basename(self._systemctl[0]) == "sudo"

    def _sudo_allows(self) -> bool:
        # -l asks whether a command is allowed, and does not run it; -n never asks for a password
        return all(
            programs.run(*self._sudo, "-n", "-l", *self._program, verb, self.unit).exit_code == 0
            for verb in ("stop", "start")
        )

    def _write_mark(self, now: Condition) -> None:
        try:
            self._mark.unlink(missing_ok=True)  # it may be a link, in another user's folder
            with open(self._mark, "x", opener=safe_open.no_link) as file:
                file.write(f"{now.invocation}\n")
                os.fchmod(file.fileno(), _MARK_MODE)
        except OSError as error:
            raise BackupError(
                f"{self._mark} cannot be written: {error.strerror}", f"see: ls -ld {self._mark.parent}"
            ) from error

    def _marked(self) -> str | None:
        """The invocation of the unit that a restore has stopped; None if there is no mark.

        In another user's folder only a mark that we wrote counts. Otherwise that user could have a unit started that an
        administrator has stopped.
        """
        try:
            with open(self._mark, errors="replace", opener=safe_open.no_link) as file:
                status = os.fstat(file.fileno())
                is_ours = (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), _MARK_MODE)
                return file.read(1000).strip() if is_ours or safe_open.is_ours(self._mark.parent) else None
        except OSError:
            return None

    def _remove_mark(self) -> None:
        with suppress(OSError):  # the next run sees that the unit is active, and tries again
            self._mark.unlink(missing_ok=True)

    def _reset(self, refused: ServiceError) -> None:
        sudo = (*self._sudo, "-n") if self._sudo else ()
        try:
            self._run(*sudo, *self._program, "reset-failed", self.unit, failing="could not reset")
        except ServiceError as error:
            raise ServiceError(
                refused.message, f"its start limit, perhaps: sudo systemctl reset-failed {self.unit}"
            ) from error

    def _run(self, *words: str, failing: str) -> str:
        try:
            done = programs.run(*words, timeout_s=PATIENCE_S)
        except programs.ProgramTimeoutError as error:
            raise ServiceError(f"{failing} {self.unit} within {PATIENCE_S} s", self._hint) from error
        except OSError as error:
            raise ServiceError(f"{failing} {self.unit}: {error.strerror}", self._hint) from error
        if done.exit_code:
            raise ServiceError(f"{failing} {self.unit}: {done.failure}", self._hint)
        return done.stdout.decode(errors="replace").strip()


def of_environment(settings: Settings, environment: Environment) -> Service:
    live = environment.live
    return Service(environment.unit, settings.systemctl, live.with_name(f"{live.name}.stopped"))


def _health_problem(url: str) -> str:
    from dodeka_db.host import http_probe  # slow to import, and no backup needs it

    # the address is on this server: no proxy of a shell
    return http_probe.problem(url, ANSWER_S, direct=True)
