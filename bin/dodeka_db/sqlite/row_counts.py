"""The number of rows in each table of a database."""

import sqlite3
from pathlib import Path

from dodeka_db.sqlite.connection import TABLES, opened, quoted
from dodeka_db.sqlite.failures import is_beyond_us, is_damage
from dodeka_db.sqlite.header import read_header


def row_counts(path: Path) -> dict[str, int | None]:
    """The number of rows by table of the database at `path`, which may be in use. Raises DatabaseError.

    None where this SQLite cannot count them.
    """
    read_header(path)
    counts: dict[str, int | None] = {}
    with opened(path, "mode=ro", f"database {path}") as connection:
        connection.execute("BEGIN")  # all of them at one moment
        for (name,) in connection.execute(f"{TABLES} AND name NOT GLOB 'sqlite_*'").fetchall():
            counts[name] = _count(connection, name)
    return counts


def _count(connection: sqlite3.Connection, table: str) -> int | None:
    for past in ("", " NOT INDEXED"):  # SQLite counts in an index, which may be damaged
        try:
            found = connection.execute(f"SELECT count(*) FROM main.{quoted(table)}{past}").fetchone()
            return int(found[0])
        except (sqlite3.DatabaseError, MemoryError) as error:
            if is_beyond_us(error):
                return None
            if past or not is_damage(error):
                raise
    return None
