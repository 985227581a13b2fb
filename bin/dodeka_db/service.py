"""The systemd unit that has the database open: may we, stop it, start it, does it stay up."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from dodeka_db import command
from dodeka_db.errors import ServiceError
from dodeka_db.settings import Environment, Settings

# longer than systemd itself waits before it kills (TimeoutStopSec, TimeoutStartSec: 90 s)
PATIENCE_S = 120
POLL_S = 0.25


@dataclass(frozen=True)
class Service:
    """A unit, and the command that manages units as words; no words: there is no service here.

    The file `mark` exists while the unit is stopped by us: where a run that was killed has left it, the
    next one knows that the unit is to be started.
    """

    unit: str
    systemctl: tuple[str, ...]
    mark: Path

    @property
    def managed(self) -> bool:
        return bool(self.systemctl)

    def check(self) -> None:
        """Raise ServiceError unless systemd knows the unit and lets us stop and start it.

        Changes nothing. sudo asks for its password here, if it needs one, and not when the unit is down.
        """
        if not self.managed:
            return
        state = self._ask("LoadState")
        if state != "loaded":
            raise ServiceError(
                f"systemd does not know {self.unit} (it says {state or 'nothing'})",
                "install its unit, or set DODEKA_SYSTEMCTL=none where no service is managed",
            )
        if os.path.basename(self.systemctl[0]) == "sudo" and not self._sudo_allows():
            asked = command.run(self._sudo[0], *self._sudo[1:], "-v")  # on the terminal, if there is one
            if asked.exit_code or not self._sudo_allows():
                reason = asked.failure if asked.exit_code else "its rules do not allow it"
                raise ServiceError(
                    f"sudo does not let us stop and start {self.unit}: {reason}",
                    "see BACKUP.md, 'Set up a server', step 4; nothing was changed",
                )

    def stop(self) -> None:
        """Stop the unit and make sure that its main process has ended; ServiceError if it has not."""
        if not self.managed:
            return
        process = self._ask("MainPID")
        self.mark.touch()
        self._run(*self.systemctl, "stop", self.unit, failing="could not stop")
        # asking systemd would take longer than all that is done while the unit is down
        if process != "0" and Path(f"/proc/{process}").exists():
            raise ServiceError(
                f"{self.unit} has not stopped: its process {process} is still there", self._hint
            )

    def start(self) -> None:
        """Start the unit; ServiceError if that fails and it is not up already."""
        if not self.managed:
            return
        try:
            self._run(*self.systemctl, "start", self.unit, failing="could not start")
        except ServiceError:
            if not self.is_active():
                raise
        self.mark.unlink(missing_ok=True)

    def state(self) -> str:
        """What systemd says of the unit: "active", "failed" and so on, or "not-found", "masked"."""
        loaded = self._ask("LoadState")
        return self._ask("ActiveState") if loaded == "loaded" else loaded

    def is_active(self) -> bool:
        """Whether systemd says that it is."""
        return self._ask("ActiveState") == "active"

    def watch(self, wait_s: int, health_url: str | None) -> None:
        """Raise ServiceError unless the unit, just started, is up.

        That is: it stays active, with one main process, for `wait_s` seconds; or, with a `health_url`,
        until that answers with a 2xx within as many.
        """
        if not self.managed:
            return
        from dodeka_db import health  # what it imports takes time, and no backup needs it

        deadline = time.monotonic() + wait_s
        first = self._ask("MainPID")
        while True:
            if (state := self._ask("ActiveState")) != "active":
                raise ServiceError(f"{self.unit} does not stay up (it is {state})", self._hint)
            if self._ask("MainPID") != first:
                raise ServiceError(f"{self.unit} does not stay up (it was started again)", self._hint)
            answer = health.problem(health_url) if health_url else None
            if answer == "":
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        if answer:
            raise ServiceError(
                f"{self.unit} does not answer at its health address within {wait_s} s ({answer})", self._hint
            )

    @property
    def _sudo(self) -> tuple[str, ...]:
        return self.systemctl[: self._systemctl_at]

    @property
    def _systemctl_at(self) -> int:
        words = [os.path.basename(word) for word in self.systemctl]
        return words.index("systemctl") if "systemctl" in words else 0

    @property
    def _hint(self) -> str:
        return f"see: systemctl status {self.unit}"

    def _sudo_allows(self) -> bool:
        # -l asks whether it may be run, and does not run it; -n: without a word
        program = self.systemctl[self._systemctl_at :]
        return all(
            command.run(*self._sudo, "-n", "-l", *program, verb, self.unit).exit_code == 0
            for verb in ("stop", "start")
        )

    def _ask(self, what: str) -> str:
        # anyone may ask: without sudo, whose rules may allow no more than stop and start
        ask = self.systemctl[self._systemctl_at :]
        return self._run(
            *ask, "show", f"--property={what}", "--value", self.unit, failing="could not ask about"
        )

    def _run(self, *words: str, failing: str) -> str:
        try:
            done = command.run(*words, timeout_s=PATIENCE_S)
        except command.TimedOut as error:
            raise ServiceError(f"{failing} {self.unit} within {PATIENCE_S} s", self._hint) from error
        if done.exit_code:
            raise ServiceError(f"{failing} {self.unit}: {done.failure}", self._hint)
        return done.stdout.decode(errors="replace").strip()


def of(settings: Settings, environment: Environment) -> Service:
    """The service of an environment."""
    return Service(environment.unit, settings.systemctl, settings.state / f"stopped-{environment.name}")
