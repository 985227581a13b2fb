"""restic's own locks in a repository: whose they are, and whether restic may remove those that nobody holds any more."""

import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dodeka_db.restic import json_values

# the age at which restic calls any lock stale; a live one is renewed every 5 minutes
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
        """Whether restic calls it stale for its age alone."""
        return datetime.now().astimezone() - self.renewed > STALE

    @property
    def is_of_this_host(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_stale(self) -> bool:
        """Whether nobody holds it: its process was on this host and is gone, or it is old."""
        return self.is_old or (self.is_of_this_host and not Path(f"/proc/{self.process}").exists())


def from_json(lock_id: str, content: dict[str, Any]) -> Lock:
    """The lock of that ID by what `restic cat lock` prints. Raises as json_values do."""
    return Lock(
        lock_id,
        json_values.count(content["pid"]),
        str(content["hostname"]),
        json_values.moment(content["time"]),
    )


def can_be_removed(locks: list[Lock]) -> bool:
    """Whether `restic unlock` would remove one of `locks`, and harm no other process.

    To see whether the process of a lock lives that is not old, restic sends SIGHUP to its ID (0.14 to 0.19): after a reboot
    any program may have that ID.
    """
    asked = (lock for lock in locks if lock.is_of_this_host and not lock.is_old)
    return any(lock.is_stale for lock in locks) and all(lock.is_stale for lock in asked)
