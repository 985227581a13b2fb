"""Openers for open(): open a file where somebody else may have put a link, a pipe or a device.

`open(path, "rb", opener=safe_open.regular)` follows links, for files that an operator may have linked; `safe_open.no_link`
follows none, for names that are ours. Neither waits for the other end of a pipe, as an ordinary open() does for ever.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

# /dev/null reads as empty: as a settings file it means none
_NULL = os.stat(os.devnull).st_rdev


def regular(path: str | os.PathLike[str], flags: int) -> int:
    """A descriptor of the regular file at `path`, or of /dev/null; OSError if it is anything else. A new file is 0600."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            error.strerror = "it is a symbolic link"
        elif error.errno == errno.ENXIO:  # a socket, or a pipe that is opened for writing
            raise _is_none(path) from error
        raise
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def no_link(path: str | os.PathLike[str], flags: int) -> int:
    """As regular(), and `path` itself must not be a symbolic link."""
    return regular(path, flags | os.O_NOFOLLOW)


@contextmanager
def closed_at_end(descriptor: int) -> Iterator[int]:
    """Close `descriptor` when the block ends."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file at `path` itself, not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_ours(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` belongs to us: the owner of a folder can replace any file in it, at any time. Raises OSError."""
    return os.stat(folder).st_uid == os.geteuid()


def check(path: str | os.PathLike[str]) -> None:
    """Raise OSError if anything other than a regular file is at `path` itself. Does not open it, which would drop SQLite's locks."""
    if os.path.lexists(path) and not is_regular(path):
        _check(os.lstat(path), path)


def _check(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode) and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL):
        raise _is_none(path)


def _is_none(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.ENXIO, "it is not a regular file", os.fspath(path))
