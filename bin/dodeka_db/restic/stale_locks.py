"""restic's own locks in a repository: whose they are, and which of them nobody holds any more."""

import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

# from when on restic calls any lock stale; a live one is renewed every 5 minutes
STALE = timedelta(minutes=30)


@dataclass(frozen=True)
class Lock:
    """A lock of restic's own in the repository: whose, on which host, since when (renewed while it lives)."""

    id: str
    process: int
    host: str
    renewed: datetime

    @property
    def is_old(self) -> bool:
        """Whether it was not renewed for so long that restic calls it stale whosever it is."""
        return datetime.now().astimezone() - self.renewed > STALE

    @property
    def is_of_this_host(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_stale(self) -> bool:
        """Whether nobody holds it: its process was on this host and is gone, or it is old."""
        return self.is_old or (self.is_of_this_host and not Path(f"/proc/{self.process}").exists())


def can_be_unlocked(locks: list[Lock]) -> bool:
    """Whether `restic unlock` removes one of `locks`, and harms nobody.

    To see whether the process of a lock that is not old lives, it sends SIGHUP to the ID (0.14 to 0.19): after a reboot
    that may be any program's.
    """
    asked = (lock for lock in locks if lock.is_of_this_host and not lock.is_old)
    return any(lock.is_stale for lock in locks) and all(lock.is_stale for lock in asked)
