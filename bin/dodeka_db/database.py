"""SQLite: export a live database, prove that a file is one, count its rows, prepare it for being replaced."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dodeka_db.errors import BackupError, DatabaseError

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100


class DatabaseInUse(DatabaseError):
    """A process still has the database open."""


class NotWhole(DatabaseError):
    """There is no whole database: it is missing, empty, damaged, or something else."""


@dataclass(frozen=True)
class Header:
    """What the first 100 bytes say (https://www.sqlite.org/fileformat2.html#the_database_header)."""

    page_bytes: int
    pages: int
    wal: bool


def read_header(path: Path, shown: str = "") -> Header:
    """The header of the file at `path`; NotWhole if it is missing, empty or no database, DatabaseError if unreadable.

    `shown` is what a message calls it, if not by its path.

    To be called before SQLite opens a path: SQLite creates what is missing and takes what is empty.
    """
    shown = shown or f"database {path}"
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise NotWhole(
            f"{shown} is missing", "check DODEKA_BACKEND, or restore it: BACKUP.md, 'Restore'"
        ) from error
    except OSError as error:
        raise DatabaseError(f"{shown} cannot be read: {error.strerror}", _WHO) from error
    if not head:
        raise NotWhole(f"{shown} is empty (0 bytes)", _RESTORE)
    return header_of(head, shown)


def header_of(head: bytes, shown: str) -> Header:
    """The header in `head`, the first HEADER_BYTES bytes of a file; NotWhole, calling it `shown`, if it is no database."""
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        raise NotWhole(f"{shown} is not an SQLite database", _RESTORE)
    page_bytes = int.from_bytes(head[16:18], "big")
    return Header(
        page_bytes=65536 if page_bytes == 1 else page_bytes,
        pages=int.from_bytes(head[28:32], "big"),
        wal=head[18] == 2,
    )


def export(source: Path, target: Path) -> None:
    """Write a compacted copy of the database `source`, which may be in use, to the new file `target`.

    `VACUUM INTO` reads in one transaction: the copy is of one moment, and in WAL mode no writer waits for
    it (https://www.sqlite.org/lang_vacuum.html#vacuuminto). Raises DatabaseError, or BackupError when there
    is no room for the copy.
    """
    with _exporting(source, target) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # of the copy, which need not survive a power cut
        connection.execute("VACUUM INTO ?", (str(target),))


def copy(source: Path, target: Path) -> None:
    """Write a copy of the database `source`, page for page, which may be in use, to the new file `target`.

    SQLite's online backup in one step: one read transaction, and in WAL mode no writer waits for it
    (https://www.sqlite.org/backup.html). Free pages and what is left of deleted rows come along. Raises as
    export() does.
    """
    with _exporting(source, target) as connection, closing(sqlite3.connect(target)) as copied:
        # the transaction is begun here, where a lock is waited for as elsewhere: backup() would wait for ever
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copied.execute("PRAGMA journal_mode=OFF")
        copied.execute("PRAGMA synchronous=OFF")
        connection.backup(copied)


@contextmanager
def _exporting(source: Path, target: Path) -> Iterator[sqlite3.Connection]:
    read_header(source)
    with _opened(source, "mode=ro", f"database {source}") as connection:
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_FULL":
                message = f"no room left in {target.parent} for the export of {source}"
                raise BackupError(message, "free some, or set DODEKA_STATE to a larger disk") from error
            raise


def size_bytes(path: Path) -> int:
    """How large the database at `path`, which may be in use, is with what is in its journal. Raises DatabaseError."""
    header = read_header(path)
    with _opened(path, "mode=ro", f"database {path}") as connection:
        return connection.execute("PRAGMA page_count").fetchone()[0] * header.page_bytes


def verify(path: Path, shown: str, quick: bool = False) -> None:
    """Prove that the file `path`, which nobody else uses, is a whole database; NotWhole if not.

    `shown` is what a message calls it. With `quick` the indexes are not compared with their tables, which takes
    most of the time (https://www.sqlite.org/pragma.html#pragma_quick_check). The size is checked first: SQLite
    itself does not mind bytes behind the last page.
    """
    header = read_header(path, shown)
    size = path.stat().st_size
    if size != header.pages * header.page_bytes:
        expected = header.pages * header.page_bytes
        raise NotWhole(f"{shown} has {size} bytes where its header says {expected}", _RESTORE)
    # immutable: no -wal and -shm beside it; right only because the file is ours alone
    with _opened(path, "mode=ro&immutable=1", shown) as connection:
        check = "quick_check" if quick else "integrity_check"
        problem = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
        if problem != "ok":
            problem = " ".join(problem.removeprefix("*** in database main ***").split())
            raise NotWhole(f"{shown} is damaged: {problem}", _RESTORE)
        orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
        if orphan:
            row = f"a row of {orphan[0]} refers to none in {orphan[2]}"
            raise NotWhole(f"{shown} is damaged: {row}", _RESTORE)
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise NotWhole(f"{shown} holds no tables", _RESTORE)


def row_counts(path: Path) -> dict[str, int]:
    """How many rows each table of the database at `path`, which may be in use, has. Raises DatabaseError."""
    read_header(path)
    tables = (
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')"
        " AND name NOT GLOB 'sqlite_*'"
    )
    counts = {}
    with _opened(path, "mode=ro", f"database {path}") as connection:
        connection.execute("BEGIN")  # all of them at one moment
        for (name,) in connection.execute(tables).fetchall():
            quoted = name.replace('"', '""')
            counts[name] = connection.execute(f'SELECT count(*) FROM main."{quoted}"').fetchone()[0]
    return counts


def match_journal_mode(staged: Path, live: Path) -> None:
    """Give `staged` the journal mode of `live`, the backend's own (WAL) where that is no database. Raises BackupError."""
    try:
        wal = read_header(live).wal
    except NotWhole:
        wal = True
    with _opened(staged, "mode=rw", f"database {staged}") as connection:
        connection.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}").fetchone()


def check_access(path: Path) -> None:
    """Raise DatabaseError unless we may read and write the file `path`."""
    if not os.access(path, os.R_OK | os.W_OK):
        raise DatabaseError(f"database {path} cannot be written", _WHO)


def fold(path: Path) -> None:
    """Bring what is in the journals of the database at `path` into the file itself, and be the only one there.

    Whoever has used it is noticed on the way, idle readers too, which a checkpoint and BEGIN EXCLUSIVE let
    pass in WAL mode (a connection that has read nothing yet is seen by nobody). Raises DatabaseInUse or
    NotWhole, or another BackupError, with nothing lost and the journals in place.
    """
    read_header(path)
    shown = f"database {path}"
    try:
        with _opened(path, "mode=rw", shown) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # rolls a hot journal back
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        # the last one that closes folds the WAL in and removes it (https://www.sqlite.org/wal.html, section 4.1)
        if Path(f"{path}-wal").exists():
            with _opened(path, "mode=rw", shown) as connection:  # is refused, and says why
                connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    except DatabaseInUse as error:
        hint = f"find it with: sudo fuser -v {path}"
        raise DatabaseInUse(f"{shown} is still open in another process", hint) from error


@contextmanager
def _opened(path: Path, query: str, shown: str) -> Iterator[sqlite3.Connection]:
    """A connection; what goes wrong in the block becomes a BackupError about `shown`."""
    try:
        # as_uri quotes a '?' in the path; isolation_level None: no transaction that we did not begin
        with closing(
            sqlite3.connect(f"{path.as_uri()}?{query}", uri=True, isolation_level=None, timeout=2)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        raise _failure(shown, error) from error
    except UnicodeDecodeError as error:
        # sqlite3's own, where a damaged name stands in a message of SQLite
        raise NotWhole(f"{shown} is damaged: a name in it is no text", _RESTORE) from error


def _failure(shown: str, error: sqlite3.Error) -> BackupError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or re.match(
        "unsupported file format|Could not decode", str(error)
    ):
        return NotWhole(f"{shown} is damaged: {error}", _RESTORE)
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
