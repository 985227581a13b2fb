"""Who has a file open, by what Linux says of every process in /proc."""

import os
from pathlib import Path


def that_have_open(file: Path) -> list[str]:
    """The other processes that have `file` open, as 'python3 (process 1234)'.

    Those of other users are seen by root alone (https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html).
    """
    try:
        wanted = file.stat()
    except FileNotFoundError:
        return []
    return [
        f"{_name(process)} (process {process})"
        for process in sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        if process != os.getpid() and any(os.path.samestat(opened, wanted) for opened in _open_files(process))
    ]


def has_open(process: int, file: Path) -> bool:
    """Whether that process has `file` open, as far as we may see."""
    try:
        wanted = file.stat()
    except FileNotFoundError:
        return False
    return any(os.path.samestat(opened, wanted) for opened in _open_files(process))


def _open_files(process: int) -> list[os.stat_result]:
    folder = f"/proc/{process}/fd"
    found = []
    try:
        for descriptor in os.listdir(folder):
            try:
                found.append(os.stat(f"{folder}/{descriptor}"))
            except OSError:
                continue  # closed meanwhile, or on a file system that does not answer
    except OSError:
        pass  # ended meanwhile, or another user's
    return found


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return "a program that has ended"
