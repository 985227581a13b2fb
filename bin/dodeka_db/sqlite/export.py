"""Copy a database that is in use: compacted, or page for page."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dodeka_db import progress
from dodeka_db.errors import BackupError
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.failures import (
    DISK,
    THIS_SQLITE,
    CannotCompactError,
    is_of_the_database,
    name_of,
    one_line,
)
from dodeka_db.sqlite.header import read_header


def export_compacted(source: Path, target: Path) -> None:
    """Write a compacted copy of the database `source`, which may be in use, to the new file `target`.

    `VACUUM INTO` reads in one transaction: the copy is of one moment, and in WAL mode no writer waits for
    it (https://www.sqlite.org/lang_vacuum.html#vacuuminto). It needs every function, collation and bit of
    syntax that the schema names, and indexes that can be read. If not: CannotCompactError, with no `target`; copy_pages() may still
    work. Raises DatabaseError, or BackupError when there is no room for the copy.
    """
    with _exporting(source, target, is_compacted=True) as connection:
        # otherwise the copy would lack what SQLite cannot parse
        connection.execute("PRAGMA writable_schema=OFF")
        try:
            connection.execute("PRAGMA synchronous=OFF")  # of the copy, which need not survive a power cut
            connection.execute("VACUUM INTO ?", (str(target),))
        except (sqlite3.Error, MemoryError) as error:
            if not is_of_the_database(error):
                raise
            target.unlink(missing_ok=True)
            raise CannotCompactError(
                f"{THIS_SQLITE} cannot compact database {source}: {one_line(error)}"
            ) from error


def copy_pages(source: Path, target: Path) -> None:
    """Write a copy of the database `source`, page for page, which may be in use, to the new file `target`.

    SQLite's online backup in one step: one read transaction, and in WAL mode no writer waits for it
    (https://www.sqlite.org/backup.html). Free pages and remains of deleted rows are copied too. Raises as
    export_compacted() does.
    """
    with _exporting(source, target) as connection, closing(sqlite3.connect(target)) as copied:
        # begun here, where waiting for a lock has a limit: backup() would wait for ever
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copied.execute("PRAGMA journal_mode=OFF")
        copied.execute("PRAGMA synchronous=OFF")
        connection.backup(copied)


@contextmanager
def _exporting(source: Path, target: Path, is_compacted: bool = False) -> Iterator[sqlite3.Connection]:
    header = read_header(source)
    pages = header.pages - header.free_pages if is_compacted else header.pages
    # around the connection: a paused terminal (Ctrl-S) must not pause us while writers wait for it
    with (
        progress.step("exporting", progress.growth_of(target, pages * header.page_bytes)),
        opened(source, "mode=ro", f"database {source}") as connection,
    ):
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if name_of(error) == "SQLITE_FULL":
                message = f"no room left in {target.parent} for the export of {source}"
                raise BackupError(message, "free some space, or set DODEKA_STATE to a larger disk") from error
            if name_of(error).startswith(
                ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_FSYNC")
            ):
                message = f"the export {target} cannot be written: {error} ({name_of(error)})"
                raise BackupError(message, DISK) from error
            raise


def size_bytes(path: Path) -> int:
    """The bytes of the database at `path`, which may be in use, with its journal. Raises DatabaseError."""
    header = read_header(path)
    with opened(path, "mode=ro", f"database {path}") as connection:
        pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    return pages * header.page_bytes
