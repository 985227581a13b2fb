"""The rows of a database on which the backend acts by itself when the database is put in place, beside those of another one."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from dodeka_db.data_description import Action, Table
from dodeka_db.sqlite.connection import TABLES, opened, quoted


@dataclass(frozen=True)
class ActingRows:
    """How many rows of a table the backend acts on, and what another database has in their place, by the key.

    `still`: a row on which the backend acts too; `otherwise`: a row on which it does not, such as a mail that was sent;
    `missing`: no row, or one that has expired. All three are None if there is no other database.
    """

    table: str
    action: Action
    count: int
    still: int | None = None
    otherwise: int | None = None
    missing: int | None = None


def acting_rows(path: Path, table: Table, action: Action, other: Path | None) -> ActingRows:
    """The rows of `table`, on which the backend takes `action`, in the database `path`, and the same keys in `other`.

    Both are only read, past their indexes; `other` may be in use. The keys go into a temporary file of SQLite's, so that memory
    does not grow with them. A database without the table has no such rows. Raises BackupError, also where the table does not have
    the columns key, value and expiration.
    """
    count = still = otherwise = 0
    with closing(sqlite3.connect("", isolation_level=None)) as scratch:
        scratch.execute("PRAGMA journal_mode=OFF")
        scratch.execute("BEGIN")
        scratch.execute("CREATE TABLE acting (key PRIMARY KEY) WITHOUT ROWID")
        for key, acts in _rows(path, table):
            if acts:
                count += 1
                scratch.execute("INSERT OR IGNORE INTO acting VALUES (?)", (key,))
        if not other:
            return ActingRows(table.name, action, count)
        for key, acts in _rows(other, table):
            found = scratch.execute("DELETE FROM acting WHERE key = ?", (key,)).rowcount
            still, otherwise = still + found * acts, otherwise + found * (not acts)
    return ActingRows(table.name, action, count, still, otherwise, count - still - otherwise)


def _rows(path: Path, table: Table) -> Iterator[tuple[str, bool]]:
    """The key of each row that has not expired, and whether the backend acts on the row."""
    with opened(path, "mode=ro", f"database {path}") as connection:
        # not a view of that name
        if not connection.execute(f"{TABLES} AND name = ? COLLATE NOCASE", (table.name,)).fetchone():
            return
        rows = connection.execute(
            f"SELECT key, value FROM main.{quoted(table.name)} NOT INDEXED WHERE expiration = 0 OR expiration > ?",
            (int(time.time()),),
        )
        for key, value in rows:
            content = value if isinstance(value, bytes) else str("" if value is None else value).encode()
            yield key, table.is_acted_on(str(key), content)
