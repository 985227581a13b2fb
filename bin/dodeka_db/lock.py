"""One run at a time on this machine. The kernel drops the lock when its holder dies, however it dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dodeka_db.errors import Busy, SetupError


@contextmanager
def held(state: Path, doing: str, wait_s: int) -> Iterator[None]:
    """Hold the lock in the folder `state` while the block runs.

    Waits up to `wait_s` seconds for another run, then raises Busy, naming it: `doing` says what a run is
    about, for those who wait for it. restic and systemctl do not inherit the lock.
    """
    file = state / "lock"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"lock {file} cannot be opened: {error.strerror}", "check who owns it") from error
    try:
        deadline = time.monotonic() + wait_s
        while not _take(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "unknown"
                raise Busy(f"another run holds {file} ({holder})", "wait for it to end, then run this again")
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{doing}, process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
