"""SQLite's errors as failures of ours."""

import errno
import os
import re
import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import WHO, BackupError, DatabaseError

THIS_SQLITE = f"SQLite {sqlite3.sqlite_version}"
# an index over what a row expands to takes any amount; a row may have about a third of this
MEMORY_BYTES = 256_000_000
RESTORE = "restore it: BACKUP.md, 'Restore'"
RETRY = "try again"
DISK = "check its disk: sudo dmesg"


class DatabaseInUseError(DatabaseError):
    """A process still has the database open."""


class NotWholeError(DatabaseError):
    """There is no database whose rows can all be read: it is missing, empty, damaged, or something else."""


class CannotCompactError(DatabaseError):
    """VACUUM INTO cannot copy this database; its pages can be copied, perhaps."""


def failure_of_sqlite(path: Path, shown: str, error: sqlite3.Error, is_alone: bool) -> BackupError:
    name, said = name_of(error), one_line(error)
    rolls_nothing_back = is_alone and name == "SQLITE_BUSY" and Path(f"{path}-journal").exists()
    if name == "SQLITE_NOTADB" or said == "unsupported file format":
        return NotWholeError(
            f"{shown} is not a database that {THIS_SQLITE} can read: {said}",
            "a newer SQLite can, perhaps; else restore it: BACKUP.md, 'Restore'",
        )
    if is_damage(error) or said.startswith("Could not decode"):
        return NotWholeError(f"{shown} is damaged: {said}", RESTORE)
    if name in ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY") or rolls_nothing_back:
        return DatabaseError(
            f"{shown} has an unfinished transaction in its journal",
            "start its service once, which rolls it back",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return DatabaseInUseError(f"{shown} is locked by another process", RETRY)
    if name == "SQLITE_FULL":
        return BackupError(f"no room left on the disk of {shown}", "free some space on it")
    if name == "SQLITE_IOERR_NOMEM":
        return BackupError(f"{shown}: {one_line(MemoryError())}", "look with: top")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        if reason := _why_not_opened(path):
            place = f"{reason.filename}: {reason.strerror}"
            return DatabaseError(f"{shown} cannot be read: {place}", next_step(reason))
        return DatabaseError(f"{shown} cannot be read: {said} ({name})", DISK)
    return DatabaseError(f"{THIS_SQLITE} cannot read {shown}: {said}")


def _why_not_opened(path: Path) -> OSError | None:
    """The reason, which SQLite does not tell, why it could not open the database at `path` or a file beside it."""
    try:
        with ExitStack() as stack:  # all of them at once: there is a limit
            for suffix in ("", "-wal", "-shm", "-journal"):
                if not suffix or os.path.lexists(f"{path}{suffix}"):
                    stack.enter_context(open(f"{path}{suffix}", "rb", opener=safe_open.regular))
            file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            file.write(bytes(32768))  # a -shm has as many
            file.flush()
    except OSError as error:
        if not str(error.filename).startswith(str(path)):
            error.filename = str(path.parent)
        return error
    return None


def next_step(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return WHO
    if error.errno == errno.EROFS:
        return "its disk is mounted read-only; why, says: sudo dmesg"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files: ulimit -n"
    wrong_place = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
    if error.errno in wrong_place:
        return "check DODEKA_BACKEND"
    return DISK


def is_beyond_us(error: sqlite3.Error | MemoryError) -> bool:
    """Whether this SQLite lacks what the schema needs, or the data are beyond its limits or ours: no fault of the data."""
    if isinstance(error, MemoryError):
        return True
    name, said = name_of(error), str(error)
    if name.startswith("SQLITE_CORRUPT"):  # damaged is what names a page that is not there
        return bool(
            re.match(r"malformed database schema \(.*\) - (?!invalid rootpage|orphan index)", said, re.DOTALL)
        )
    return name == "SQLITE_TOOBIG" or (name.startswith("SQLITE_ERROR") and said != "unsupported file format")


def is_of_the_database(error: sqlite3.Error | MemoryError) -> bool:
    """Whether what is in the database is the reason, and not a disk, a right or another process."""
    return is_beyond_us(error) or is_damage(error) or isinstance(error, sqlite3.IntegrityError)


def is_damage(error: sqlite3.Error | MemoryError) -> bool:
    return name_of(error).startswith("SQLITE_CORRUPT") and not is_beyond_us(error)


def name_of(error: sqlite3.Error | MemoryError) -> str:
    return getattr(error, "sqlite_errorname", "")


def one_line(said: object) -> str:
    """SQLite's words in one line that is not too long; for a lack of memory it has none."""
    if isinstance(said, MemoryError):
        return (
            f"SQLite needs more than its limit of {MEMORY_BYTES // 1_000_000} MB of memory, or than there is"
        )
    return " ".join(str(said).split())[:200]
