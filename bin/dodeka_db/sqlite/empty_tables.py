"""Remove all rows of some tables of a database, and some rows of others, and what is left of them in its pages."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from dodeka_db.errors import SnapshotError
from dodeka_db.interrupts import shielded
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.failures import one_line
from dodeka_db.sqlite.header import set_journal_mode

# SQLite's own samples of an index, which are whole keys (https://www.sqlite.org/fileformat2.html#the_sqlite_stat4_table)
_SAMPLES = ("sqlite_stat3", "sqlite_stat4")
IsMeant = Callable[[str], bool]


def empty_tables(
    path: Path,
    shown: str,
    tables: Sequence[str],
    remedy: str,
    rows: Mapping[str, IsMeant] = MappingProxyType({}),
) -> None:
    """Remove all rows of `tables` of the database in the file `path`, which is whole, and which nobody else uses.

    Of each table in `rows`, whose function gets a key, the rows that are meant are removed too. `shown` is the name of the
    database in messages, `remedy` the hint if a table has a trigger: that could change other tables, and is a SnapshotError.

    The pages of the rows are overwritten with zeros, and SQLite's samples of the tables go. The schema, the page size and
    every other row stay as they are. The database is in WAL mode afterwards, which needs no rollback (see opened()), and has
    no journal. Raises BackupError if the rows cannot be removed, also where a table in `rows` has no column key.
    """
    set_journal_mode(path, wal=True)
    with opened(path, "mode=rw", shown) as connection:
        # all of the schema must be understood: an index that is not known would keep its entries
        # (https://www.sqlite.org/pragma.html#pragma_writable_schema)
        connection.execute("PRAGMA writable_schema=RESET")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("BEGIN")
        for table in (*tables, *rows):
            refuse_trigger(connection, table, shown, remedy)
        for table in tables:
            # without WHERE and triggers, SQLite clears the table's pages, and does not look into any index
            connection.execute(f"DELETE FROM main.{quoted(table)}")
        for table, is_meant in rows.items():
            connection.create_function("is_meant", 1, lambda key, of=is_meant: of(_text(key)))
            with shielded():  # SQLite would take what a signal raises in the function for an error of its own
                # an index may lack entries
                connection.execute(f"DELETE FROM main.{quoted(table)} NOT INDEXED WHERE is_meant(key)")
        forget_samples(connection, (*tables, *rows))
        connection.execute("COMMIT")


def forget_samples(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    """Remove SQLite's own samples of the keys of these tables."""
    for (samples,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE name IN (?, ?)", _SAMPLES
    ).fetchall():
        for table in tables:
            connection.execute(f"DELETE FROM main.{samples} WHERE tbl = ? COLLATE NOCASE", (table,))


def refuse_trigger(connection: sqlite3.Connection, table: str, shown: str, remedy: str) -> None:
    """Raise SnapshotError, with `remedy`, if the table of the database called `shown` has a trigger."""
    trigger = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE", (table,)
    ).fetchone()
    if trigger:
        raise SnapshotError(
            f"table {table} of {shown} has the trigger {one_line(trigger[0])}, which could change other tables",
            f"nothing was changed; {remedy}",
        )


def _text(key: object) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
