"""The systemd unit that has the database open: is it known, stop it, start it."""

import os
from dataclasses import dataclass

from dodeka_db import command
from dodeka_db.errors import ServiceError


@dataclass(frozen=True)
class Service:
    """A unit, and the command that manages units as words; no words: there is no service here."""

    unit: str
    systemctl: tuple[str, ...]

    @property
    def managed(self) -> bool:
        return bool(self.systemctl)

    def check(self) -> None:
        """Raise ServiceError unless systemd runs here and knows the unit; changes nothing."""
        if not self.managed:
            return
        # anyone may ask: without sudo, whose rules may allow no more than stop and start
        words = [os.path.basename(word) for word in self.systemctl]
        ask = self.systemctl[words.index("systemctl") :] if "systemctl" in words else self.systemctl
        state = self._run(
            ask, "show", "--property=LoadState", "--value", self.unit, failing="could not ask about"
        )
        if state != "loaded":
            raise ServiceError(
                f"systemd does not know {self.unit} (it says {state or 'nothing'})",
                "install its unit, or set DODEKA_SYSTEMCTL=none where no service is managed",
            )

    def stop(self) -> None:
        """Stop the unit and wait until it has stopped."""
        if self.managed:
            self._run(self.systemctl, "stop", self.unit, failing="could not stop")

    def start(self) -> None:
        """Start the unit."""
        if self.managed:
            self._run(self.systemctl, "start", self.unit, failing="could not start")

    def _run(self, words: tuple[str, ...], *arguments: str, failing: str) -> str:
        done = command.run(*words, *arguments)
        if done.exit_code:
            raise ServiceError(
                f"{failing} {self.unit}: {done.failure}", f"try: {' '.join(words)} status {self.unit}"
            )
        return done.stdout.decode(errors="replace").strip()
