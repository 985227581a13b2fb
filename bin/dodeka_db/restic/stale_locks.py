"""restic's own locks in a repository: whose they are, and the removal of those that nobody holds any more."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from dodeka_db.host.programs import Completed
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures, json_values, server_watch

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


class _Restic(Protocol):
    """The part of runner.Restic, which removes locks on its way, that is needed here."""

    @property
    def repository(self) -> RepositorySettings: ...
    def start(self, verb: str, *rest: str, timeout_s: float | None) -> Completed: ...
    def parsed(self, convert: Callable[[Any], Lock], output: bytes) -> Lock: ...


def read(restic: _Restic) -> tuple[list[Lock], list[str]]:
    """The locks that are there now, and the IDs of those whose content cannot be read. Raises BackupError."""
    listed = restic.start("list", "--no-lock", "locks", timeout_s=server_watch.LOOK_S)
    if listed.exit_code:
        raise failures.of_restic(restic.repository, "list", listed)
    found, unreadable = [], []
    for lock_id in listed.stdout.decode(errors="replace").split():
        done = restic.start("cat", "--no-lock", "lock", lock_id, timeout_s=server_watch.LOOK_S)
        if isinstance(failures.of_restic(restic.repository, "cat", done), failures.LockUnreadableError):
            unreadable.append(lock_id)
        elif not done.exit_code:  # else it is gone
            found.append(restic.parsed(partial(_lock, lock_id), done.stdout))
    return found, unreadable


def remove(restic: _Restic) -> None:
    """Have restic remove the locks that are stale, if there is one and that harms nobody. Raises BackupError."""
    found, _ = read(restic)
    if can_be_removed(found):
        # never --remove-all; whether it helped shows now: restic 0.14 says that it did in any case
        restic.start("unlock", timeout_s=None if restic.repository.folder else server_watch.LOOK_S)


def _lock(lock_id: str, content: dict[str, Any]) -> Lock:
    return Lock(
        lock_id,
        json_values.count(content["pid"]),
        str(content["hostname"]),
        json_values.moment(content["time"]),
    )


def can_be_removed(locks: list[Lock]) -> bool:
    """Whether `restic unlock` removes one of `locks`, and harms nobody.

    To see whether the process of a lock that is not old lives, it sends SIGHUP to the ID (0.14 to 0.19): after a reboot
    that may be any program's.
    """
    asked = (lock for lock in locks if lock.is_of_this_host and not lock.is_old)
    return any(lock.is_stale for lock in locks) and all(lock.is_stale for lock in asked)
