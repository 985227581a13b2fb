"""The processes that have a file open, by the kernel's lease and by /proc."""

import fcntl
import os
import signal
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from dodeka_db import safe_open

UNSEEN = "another process"  # one of another user, whose files we may not look at


def processes_with(file: Path) -> list[str]:
    """The other processes that have `file` open, as 'python3 (process 1234)'; UNSEEN if we may not see who.

    The kernel tells the owner of a file whether any process has it open. Which process is in /proc, for root of all
    processes, for other users of their own (https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html).
    """
    try:
        if is_alone(file):
            return []
        wanted = file.stat()
    except FileNotFoundError:
        return []
    holders = [
        process
        for process in sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        if any(os.path.samestat(opened, wanted) for opened in _open_files(process))
    ]
    others = [f"{_name(process)} (process {process})" for process in holders if process != os.getpid()]
    return others if holders or is_alone(file) is not False else [UNSEEN]


def has_open(process: int, file: Path) -> bool:
    """Whether that process has `file` open, as far as we may see."""
    try:
        wanted = file.stat()
    except FileNotFoundError:
        return False
    return any(os.path.samestat(opened, wanted) for opened in _open_files(process))


def count_open(file: IO[bytes]) -> int:
    """The number of our descriptors that lead to the file that `file` is open on."""
    return sum(os.path.samestat(opened, os.fstat(file.fileno())) for opened in _open_files(os.getpid()))


def group(process: int) -> list[int]:
    """`process` and all others of its control group: for a unit's main process, all processes of the unit."""
    its_own = _control_group(process)
    others = (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != process)
    return [process, *(other for other in others if its_own and _control_group(other) == its_own)]


def databases(process: int) -> list[str] | None:
    """The SQLite databases that `process` has open, by the names that Linux gives; for a deleted one also the path by
    which it can still be read. None if we may not look.
    """
    folder, found = f"/proc/{process}/fd", []
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return None
    for descriptor in descriptors:
        path = f"{folder}/{descriptor}"
        with suppress(OSError):  # closed meanwhile
            if not stat.S_ISREG(os.stat(path).st_mode):
                continue
            with open(path, "rb") as file:
                if file.read(16) == b"SQLite format 3\0":
                    name = os.readlink(path)
                    found.append(f"{name}: {path}" if name.endswith(" (deleted)") else name)
    return sorted(set(found))


def _control_group(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cgroup").read_text()
    except OSError:
        return ""  # it has ended


def is_alone(file: Path) -> bool | None:
    """Whether no process has `file` open, not even ours; None if the kernel does not tell. Raises OSError.

    The kernel gives the owner of a file a write lease if no process has it open (https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html).
    """
    try:
        descriptor = safe_open.no_link(file, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError:  # not ours to read, or no file
        return None
    try:
        # a process that opens the file in these microseconds waits only until we give the lease back
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None  # not ours, or a file system without leases
    finally:
        os.close(descriptor)


def _open_files(process: int) -> list[os.stat_result]:
    folder = f"/proc/{process}/fd"
    found = []
    with suppress(OSError):  # ended meanwhile, or another user's
        for descriptor in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile, or on a file system that does not answer
                found.append(os.stat(f"{folder}/{descriptor}"))
    return found


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return "a program that has ended"
