"""SQLite: export a live database, prove that a file is one, put one in the place of another."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dodeka_db.errors import BackupError, DatabaseError

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100


class DatabaseInUse(DatabaseError):
    """A process still has the database open."""


@dataclass(frozen=True)
class Header:
    """What the first 100 bytes say (https://www.sqlite.org/fileformat2.html#the_database_header)."""

    page_bytes: int
    pages: int
    wal: bool


def read_header(path: Path, shown: str = "") -> Header:
    """The header of the file at `path`; DatabaseError if it is missing, unreadable, empty or no database.

    `shown` is what a message calls it, if not by its path.

    To be called before SQLite opens a path: SQLite creates what is missing and takes what is empty.
    """
    shown = shown or f"database {path}"
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise DatabaseError(
            f"{shown} is missing", "check DODEKA_BACKEND, or restore it: BACKUP.md, 'Restore'"
        ) from error
    except OSError as error:
        raise DatabaseError(f"{shown} cannot be read: {error.strerror}", _WHO) from error
    if not header:
        raise DatabaseError(f"{shown} is empty (0 bytes)", _RESTORE)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise DatabaseError(f"{shown} is not an SQLite database", _RESTORE)
    page_bytes = int.from_bytes(header[16:18], "big")
    return Header(
        page_bytes=65536 if page_bytes == 1 else page_bytes,
        pages=int.from_bytes(header[28:32], "big"),
        wal=header[18] == 2,
    )


def export(source: Path, target: Path) -> None:
    """Write a compacted copy of the database `source`, which may be in use, to the new file `target`.

    `VACUUM INTO` reads in one transaction: the copy is of one moment, and in WAL mode no writer waits for
    it (https://www.sqlite.org/lang_vacuum.html#vacuuminto). Raises DatabaseError, or BackupError when there
    is no room for the copy.
    """
    read_header(source)
    try:
        with closing(_open(source, "mode=ro")) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            message = f"no room left in {target.parent} for the export of {source}"
            raise BackupError(message, "free some, or set DODEKA_STATE to a larger disk") from error
        raise _failure(f"database {source}", error) from error


def verify(path: Path, shown: str) -> None:
    """Prove that the file `path`, which nobody else uses, is a whole database; DatabaseError if not.

    `shown` is what a message calls it. The size is checked first: SQLite itself does not mind bytes
    behind the last page.
    """
    header = read_header(path, shown)
    size = path.stat().st_size
    if size != header.pages * header.page_bytes:
        expected = header.pages * header.page_bytes
        raise DatabaseError(f"{shown} has {size} bytes where its header says {expected}", _RESTORE)
    try:
        # immutable: no -wal and -shm beside it; right only because the file is ours alone
        with closing(_open(path, "mode=ro&immutable=1")) as connection:
            problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if problem != "ok":
                problem = " ".join(problem.removeprefix("*** in database main ***").split())
                raise DatabaseError(f"{shown} is damaged: {problem}", _RESTORE)
            orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
            if orphan:
                row = f"a row of {orphan[0]} refers to none in {orphan[2]}"
                raise DatabaseError(f"{shown} is damaged: {row}", _RESTORE)
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise DatabaseError(f"{shown} holds no tables", _RESTORE)
    except sqlite3.Error as error:
        raise _failure(shown, error) from error


def fit(staged: Path, live: Path) -> None:
    """Give `staged` the owner, mode and journal mode of `live`, or of its folder where it is missing.

    Raises DatabaseError if that needs rights that we do not have.
    """
    try:
        wal = read_header(live).wal
    except DatabaseError:
        wal = True  # the backend's own mode
    try:
        if wal:
            with closing(_open(staged, "mode=rw")) as connection:
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
        like = live.stat() if live.exists() else live.parent.stat()
        if (like.st_uid, like.st_gid) != (os.geteuid(), staged.stat().st_gid):
            os.chown(staged, like.st_uid, like.st_gid)
        staged.chmod(like.st_mode & 0o777 if live.exists() else 0o600)
    except sqlite3.Error as error:
        raise _failure(str(staged), error) from error
    except OSError as error:
        raise DatabaseError(f"{live} belongs to another user ({error.strerror})", _WHO) from error
    with open(staged, "rb") as file:
        os.fsync(file.fileno())


def replace(live: Path, staged: Path, kept: Path) -> None:
    """Put `staged` in the place of the whole database `live`; the old one stays under the name `kept`.

    All three are in one folder. At every instant `live` is wholly the old database or wholly the new one.
    Raises DatabaseInUse, with nothing changed, if a process has the old one open.
    """
    _leave_wal(live)
    os.link(live, kept)
    _move_in(live, staged)


def replace_damaged(live: Path, staged: Path, kept: Path) -> None:
    """Like replace, for a `live` that is missing or that SQLite cannot open: its journals are kept too."""
    if live.exists():
        os.link(live, kept)
    for suffix in ("-wal", "-journal"):
        journal = Path(f"{live}{suffix}")
        if journal.exists():
            journal.rename(f"{kept}{suffix}")
    Path(f"{live}-shm").unlink(missing_ok=True)
    _move_in(live, staged)


def _move_in(live: Path, new: Path) -> None:
    new.rename(live)
    folder = os.open(live.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def put_back(kept: Path, live: Path) -> None:
    """Undo replace: the database at `kept` takes its old place again."""
    for suffix in ("-wal", "-shm"):
        Path(f"{live}{suffix}").unlink(missing_ok=True)
    _move_in(live, kept)


def _leave_wal(path: Path) -> None:
    # Folds the WAL in and removes it, so that it can never be replayed into the new database; and, unlike
    # a checkpoint or BEGIN EXCLUSIVE, it is refused while anyone else is there, idle readers included.
    try:
        with closing(_open(path, "mode=rw")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise DatabaseInUse(
                f"database {path} is still open in another process", f"find it with: fuser -v {path}"
            ) from error
        raise _failure(f"database {path}", error) from error
    except sqlite3.Error as error:
        raise _failure(f"database {path}", error) from error


def _open(path: Path, query: str) -> sqlite3.Connection:
    # as_uri quotes a '?' in the path; isolation_level None: no transaction that we did not begin
    return sqlite3.connect(f"{path.as_uri()}?{query}", uri=True, isolation_level=None, timeout=2)


def _failure(shown: str, error: sqlite3.Error) -> BackupError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DatabaseError(f"{shown} is damaged: {error}", _RESTORE)
    if name.startswith("SQLITE_READONLY"):
        return DatabaseError(
            f"{shown} has an unfinished transaction in its journal",
            "start its service once, which rolls it back",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseInUse(f"{shown} is locked by another process", "try again")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return DatabaseError(f"{shown} cannot be read: {error}", _WHO)
    if name == "SQLITE_FULL":
        return BackupError(f"no room left on the disk of {shown}", "free some")
    return DatabaseError(f"{shown}: {error}")


_RESTORE = "restore it: BACKUP.md, 'Restore'"
_WHO = "run this as the user that runs the backend"
