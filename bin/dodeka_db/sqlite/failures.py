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
# the limit of SQLite's memory: an index on an expression may need any amount; a row may have about a third of this
MEMORY_BYTES = 256_000_000
RESTORE = "restore it: BACKUP.md, 'Restore'"
RETRY = "try again"
DISK = "check its disk: sudo dmesg"


class DatabaseInUseError(DatabaseError):
    """A process still has the database open."""


class NotWholeError(DatabaseError):
    """There is no database whose rows can all be read: it is missing, empty, damaged, or something else."""


class CannotCompactError(DatabaseError):
    """VACUUM INTO cannot copy this database; copying its pages may work."""


def failure_of_sqlite(path: Path, shown: str, error: sqlite3.Error, is_alone: bool) -> BackupError:
    # in these words of sqlite3's, the text follows: it may be somebody's name
    name, said = name_of(error), one_line(error).partition(" with text ")[0]
    rolls_nothing_back = is_alone and name == "SQLITE_BUSY" and Path(f"{path}-journal").exists()
    if name == "SQLITE_NOTADB" or said == "unsupported file format":
        return NotWholeError(
            f"{shown} is not a database that {THIS_SQLITE} can read: {said}",
            "a newer SQLite may be able to; if not, restore it: BACKUP.md, 'Restore'",
        )
    if is_damage(error) or said.startswith("Could not decode"):
        return NotWholeError(f"{shown} is damaged: {said}", RESTORE)
    if name in ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY") or rolls_nothing_back:
        return DatabaseError(
            f"{shown} has an unfinished transaction in its journal",
            "start its service once: that rolls the transaction back",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return DatabaseInUseError(f"{shown} is locked by another process", RETRY)
    if name == "SQLITE_FULL":
        return BackupError(f"no room left on the disk of {shown}", "free some space on it")
    if name == "SQLITE_IOERR_NOMEM":
        return BackupError(f"{shown}: {one_line(MemoryError())}", "see: top")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        if reason := _why_not_opened(path):
            place = f"{reason.filename}: {reason.strerror}"
            return DatabaseError(f"{shown} cannot be read: {place}", next_step(reason))
        return DatabaseError(f"{shown} cannot be read: {said} ({name})", DISK)
    return DatabaseError(f"{THIS_SQLITE} cannot read {shown}: {said}")


def _why_not_opened(path: Path) -> OSError | None:
    """Why SQLite, which does not say so, could not open the database at `path` or a file beside it; None if unknown."""
    try:
        with ExitStack() as stack:  # all of them at once: there is a limit
            for suffix in ("", "-wal", "-shm", "-journal"):
                if not suffix or os.path.lexists(f"{path}{suffix}"):
                    stack.enter_context(open(f"{path}{suffix}", "rb", opener=safe_open.regular))
            file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            file.write(bytes(32768))  # as a -shm needs
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
        return "its disk is mounted read-only; for the reason: sudo dmesg"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space on its disk"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files: ulimit -n"
    wrong_place = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
    if error.errno in wrong_place:
        return "check DODEKA_BACKEND"
    return DISK


def is_beyond_us(error: sqlite3.Error | MemoryError) -> bool:
    """Whether this SQLite lacks what the schema needs, or the data is beyond its limits or ours: no defect of the data."""
    if isinstance(error, MemoryError):
        return True
    name, said = name_of(error), str(error)
    if name.startswith("SQLITE_CORRUPT"):  # only a schema that names a page which does not exist is damaged
        return bool(
            re.match(r"malformed database schema \(.*\) - (?!invalid rootpage|orphan index)", said, re.DOTALL)
        )
    return name == "SQLITE_TOOBIG" or (name.startswith("SQLITE_ERROR") and said != "unsupported file format")


def is_of_the_database(error: sqlite3.Error | MemoryError) -> bool:
    """Whether the content of the database is the reason, and not a disk, a permission or another process."""
    return is_beyond_us(error) or is_damage(error) or isinstance(error, sqlite3.IntegrityError)


def is_damage(error: sqlite3.Error | MemoryError) -> bool:
    return name_of(error).startswith("SQLITE_CORRUPT") and not is_beyond_us(error)


def name_of(error: sqlite3.Error | MemoryError) -> str:
    return getattr(error, "sqlite_errorname", "")


def one_line(said: object) -> str:
    """SQLite's message in one line, 200 characters at most; our own for a lack of memory, for which SQLite has none."""
    if isinstance(said, MemoryError):
        return f"SQLite needs more than {MEMORY_BYTES // 1_000_000} MB of memory (our limit), or more than is free"
    return " ".join(str(said).split())[:200]
