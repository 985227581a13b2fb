"""The columns and the primary key of a table, and whether its rows can be told apart at all."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from dodeka_db.sqlite.connection import TABLES, quoted

# what the modules of SQLite add to the name of a virtual table, for tables of their own
# (https://www.sqlite.org/vtab.html#the_xshadowname_method)
_SHADOWS = (
    *("config", "content", "data", "docsize", "idx", "node", "parent", "rowid"),
    *("segdir", "segments", "stat"),
)


class NotComparableError(Exception):
    """Why the rows of a table cannot be compared."""


@dataclass(frozen=True)
class Shape:
    """The columns of a table that are stored and not computed, its key with the collations, and a name of its rowid.

    `key` is empty without a primary key; `rowid` if the table has none, or if columns have all of its names.
    """

    columns: tuple[str, ...] = ()
    key: tuple[tuple[str, str], ...] = ()
    rowid: str = ""


def tables(connection: sqlite3.Connection, schema: str = "main") -> list[str]:
    """The names of the tables that hold rows of their own, without SQLite's; in the order in which they were made."""
    of_schema = TABLES.replace("sqlite_master", f"{schema}.sqlite_master")
    return [
        name for (name,) in connection.execute(f"{of_schema} AND name NOT GLOB 'sqlite_*' ORDER BY rowid")
    ]


def virtual_tables(connection: sqlite3.Connection, schema: str = "main") -> list[str]:
    """The names of the virtual tables, whose rows are elsewhere."""
    found = connection.execute(
        f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND coalesce(rootpage, 0) = 0"
    )
    return [name for (name,) in found]


def shape(connection: sqlite3.Connection, table: str, virtual: Collection[str]) -> Shape:
    """The shape of `table`; `virtual` are the virtual_tables(). Raises NotComparableError, or sqlite3.Error."""
    if table in virtual:
        raise NotComparableError("a virtual table")
    for name in virtual:
        if table.startswith(f"{name}_") and table.removeprefix(f"{name}_") in _SHADOWS:
            raise NotComparableError(f"part of the virtual table {name}")
    # not pragma_table_list, which prepares every view
    columns = connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    keys = connection.execute(f"PRAGMA main.index_list({quoted(table)})").fetchall()
    # only a table WITHOUT ROWID is an index too (https://www.sqlite.org/pragma.html#pragma_index_info)
    has_rowid = not connection.execute(f"PRAGMA main.index_info({quoted(table)})").fetchall()
    collations = {
        column: str(collation).upper()
        for _, index, _, origin, _ in keys
        if origin == "pk"
        for _, _, column, _, collation, is_key in connection.execute(
            f"PRAGMA main.index_xinfo({quoted(index)})"
        ).fetchall()
        if is_key
    }
    taken = {name.lower() for _, name, *_ in columns}
    names = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
    key = sorted((place, name) for _, name, _, _, _, place, _ in columns if place)
    return Shape(
        columns=tuple(name for *_, name, _, _, _, _, hidden in columns if not hidden),
        key=tuple((name, collations.get(name, "BINARY")) for _, name in key),
        rowid=names[0] if has_rowid and names else "",
    )
