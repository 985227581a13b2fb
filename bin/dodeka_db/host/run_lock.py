"""Locks: one run at a time. The kernel drops a lock when its holder dies, however it dies.

held(): one run per state folder. beside(): one run per database, whatever its state folder.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import WHO, BusyError, DatabaseError, SetupError
from dodeka_db.host import open_files
from dodeka_db.log import log

POLL_S = 0.2
# the name of the off-site copy in messages of runs that wait for it
COPY = "off-site copy"
_LINE = re.compile(r"(.+), process (\d+), since (\S+)")


@dataclass(frozen=True)
class Holder:
    """The run that holds the lock."""

    doing: str
    process: int
    since: datetime


@contextmanager
def held(state: Path, doing: str, wait_s: int) -> Iterator[None]:
    """Hold the lock in the folder `state` while the block runs.

    Logs which run it waits for, up to `wait_s` seconds, then raises BusyError. `doing` describes this run to others that
    wait. restic and systemctl do not inherit the lock.
    """
    file = state / "lock"
    try:
        descriptor = safe_open.no_link(file, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise SetupError(
            f"lock {file} cannot be opened: {error.strerror}", f"see its owner: ls -l {file}"
        ) from error
    with safe_open.closed_at_end(descriptor):
        _wait(
            descriptor, file, wait_s, lambda: os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        )
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        # a full disk: the text is only for people, and a restore must not need room there
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{doing}, process {os.getpid()}, since {since}\n".encode(), 0)
        yield


@contextmanager
def beside(live: Path, wait_s: int) -> Iterator[None]:
    """Hold the lock of the database file `live` while the block runs: on its folder, so that no file is needed.

    Logs which run it waits for, up to `wait_s` seconds, then raises BusyError. Without a folder there is nothing to lock.
    """
    try:
        descriptor = os.open(live.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    except OSError as error:
        raise DatabaseError(f"folder {live.parent} cannot be read: {error.strerror}", WHO) from error
    with safe_open.closed_at_end(descriptor):
        _wait(descriptor, live.parent, wait_s, lambda: _holder_of(descriptor))
        yield


def _wait(descriptor: int, path: Path, wait_s: int, who: Callable[[], str]) -> None:
    deadline = time.monotonic() + wait_s
    waits_for = ""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        holder = who() or "unknown"
        if time.monotonic() >= deadline:
            raise BusyError(
                f"another run holds {path} ({holder})", "wait until that run has ended, then run this again"
            )
        if holder != waits_for:
            log.info("waiting up to %d s for another run: %s", wait_s, holder)
            waits_for = holder
        time.sleep(POLL_S)


def _holder_of(descriptor: int) -> str:
    """The process that has locked the file of `descriptor` (https://man7.org/linux/man-pages/man5/proc_locks.5.html); empty if not shown."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5] == file:
            return f"process {words[4]}"
    return ""


def holder(state: Path) -> Holder | None:
    """The run that holds the lock, found without taking the lock; None if there is none, or the run in the file has ended.

    OSError if the file cannot be read.
    """
    file = state / "lock"
    try:
        with open(file, errors="replace", opener=safe_open.no_link) as opened:
            match = _LINE.fullmatch(opened.read(1000).strip())
        found = Holder(match[1], int(match[2]), datetime.fromisoformat(match[3])) if match else None
    except (FileNotFoundError, ValueError):
        return None
    return found if found and open_files.has_open(found.process, file) else None
