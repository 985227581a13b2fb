"""A connection to a database that may be in use, damaged, or in another user's folder."""

import fcntl
import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

from dodeka_db import safe_open
from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.host import open_files
from dodeka_db.sqlite import failures
from dodeka_db.sqlite.failures import (
    MEMORY_BYTES,
    RESTORE,
    RETRY,
    DatabaseInUseError,
    NotWholeError,
    next_step,
    one_line,
)

# by the schema alone: pragma_table_list prepares every view
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"


@contextmanager
def opened(path: Path, query: str, shown: str, alone: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection; what fails in the block becomes a BackupError about `shown`, the name of the database in messages.

    In another user's folder no journal is rolled back: a journal can name another file
    (https://www.sqlite.org/fileformat2.html#the_rollback_journal), which SQLite deletes after the rollback, with our rights
    and wherever it is. ("mode=ro" never rolls back.) The block must not change the journal mode there. With "mode=rw", nobody else
    may have the database open in such a folder; but with `alone` False, which is for a database in WAL mode.
    """
    _check_journals(Path(os.path.realpath(path)), shown)
    locked, before = None, 0
    try:
        with ExitStack() as stack:
            if query == "mode=rw" and not safe_open.is_ours(path.parent):
                locked = stack.enter_context(_locked(path, shown, alone))
                before = open_files.count_open(locked)
            # as_uri quotes a '?' in the path; isolation_level None: no transaction that we did not begin
            uri = f"{path.as_uri()}?{query}"
            connection = stack.enter_context(
                closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=2))
            )
            # a schema that a newer SQLite wrote does not keep this one from reading the rest; nothing is written to it
            # (https://www.sqlite.org/pragma.html#pragma_writable_schema). SQLITE_DBCONFIG_DEFENSIVE would forbid just
            # that, and prevent nothing: no statement here comes from the database
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute(f"PRAGMA hard_heap_limit={MEMORY_BYTES}")
            if locked:
                if open_files.count_open(locked) != before + 1:
                    raise DatabaseError(f"{shown} was replaced by another file", RETRY)
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                # in WAL mode this connection no longer looks at another journal
                if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                    _lock(locked, fcntl.F_UNLCK)
            yield connection
    except sqlite3.Error as error:
        raise failures.failure_of_sqlite(path, shown, error, is_alone=locked is not None) from error
    except UnicodeDecodeError as error:
        # of sqlite3, where SQLite's message has a damaged name in it
        raise NotWholeError(f"{shown} is damaged: a name in it is not text", RESTORE) from error
    except MemoryError as error:
        raise BackupError(f"{shown}: {one_line(error)}", "see: top") from error


def _locked(path: Path, shown: str, alone: bool) -> IO[bytes]:
    """The database file at `path`, with a reader's lock: while we hold it, no SQLite rolls a journal back.

    Raises DatabaseInUseError if another process has a lock, unless `alone` is False; or DatabaseError.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open(path, "r+b", opener=safe_open.no_link))
            if alone:
                _lock(file, fcntl.F_WRLCK)
            _lock(file, fcntl.F_RDLCK)
            stack.pop_all()  # closed after the connection, whose locks go with it
            return file
    except BlockingIOError as error:
        raise DatabaseInUseError(f"{shown} is locked by another process", RETRY) from error
    except OSError as error:
        raise DatabaseError(f"{shown} cannot be written: {error.strerror}", next_step(error)) from error


def _lock(file: IO[bytes], kind: int) -> None:
    """Lock the bytes that SQLite's readers lock (SHARED_FIRST and SHARED_SIZE in its os_unix.c), also against SQLite in this
    process (https://man7.org/linux/man-pages/man2/F_OFD_SETLK.2const.html).
    """
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0x40000000 + 2, 510, 0))


def _check_journals(path: Path, shown: str) -> None:
    """Raise DatabaseError if a journal is a pipe, for which SQLite would wait for ever, or no regular file."""
    try:
        for suffix in ("-wal", "-journal", "-shm"):
            safe_open.check(f"{path}{suffix}")
    except OSError as error:
        place = f"{error.filename}: {error.strerror}"
        raise DatabaseError(f"{shown} cannot be read: {place}", next_step(error)) from error


def quoted(name: str) -> str:
    """The name of a table or an index quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'
