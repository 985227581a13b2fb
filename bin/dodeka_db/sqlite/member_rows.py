"""A database beside the description of its data: what the two do not share, and which rows belong to a member.

The connection is one of connection.opened(), which turns what SQLite raises into errors of ours. If the database is in
use, it must be in a transaction, because tables are read more than once.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dodeka_db.data_description import DataDescription, Kind, Row, Table
from dodeka_db.sqlite.connection import quoted
from dodeka_db.sqlite.table_shape import shape, tables


@dataclass(frozen=True)
class Finding:
    """What the description and a database do not share: in which table, and what, in words without any content of a row.

    Names of fields in it come from the database: errors.plain() before it is printed.
    """

    table: str
    problem: str


@dataclass(frozen=True)
class RowName:
    """A row: its table and its key."""

    table: str
    key: str


@dataclass(frozen=True)
class MemberRows:
    """The rows of each member by the address that was asked for, and the addresses of nobody."""

    rows: Mapping[str, tuple[RowName, ...]]
    nobody: tuple[str, ...]


def findings(connection: sqlite3.Connection, description: DataDescription) -> list[Finding]:
    """Each table that only the description or only the database has, and each sort of key and field that only the database has."""
    there = tables(connection)
    found = [
        Finding(name, "described, but not in the database")
        for name in description.tables
        if name.lower() not in map(str.lower, there)
    ]
    for name in there:
        if not (table := description.named(name)):
            found.append(Finding(name, "in the database, but not described"))
        elif table.name != name:
            found.append(Finding(name, f"the description calls it {table.name}"))
        elif not has_keys_and_values(connection, name):
            found.append(Finding(name, "it does not have the columns key and value"))
    unknown = Counter(
        (table.name, what)
        for table in described_tables(connection, description)
        for _, row in _rows(connection, table)
        for what in row.unknown
    )
    return found + [
        Finding(table, f"{what} (rows: {count})") for (table, what), count in sorted(unknown.items())
    ]


def member_rows(
    connection: sqlite3.Connection, description: DataDescription, addresses: Iterable[str]
) -> MemberRows:
    """The rows that belong to the members with these addresses, in the order of the description and of the tables.

    An address is of nobody if no row belongs to it, or only rows of the moment do: anybody can ask for a new password.
    Each table is read once for each step that leads to it, such as address, user ID, number; nothing but the rows that are
    found is kept in memory.
    """
    known_by = description.known_by
    found: dict[str, dict[tuple[int, int], RowName]] = {address: {} for address in addresses}
    # what is known, and of whom; `fresh` is what the last step told
    fresh: dict[tuple[Kind, str], set[str]] = {}
    for address in found:
        fresh.setdefault((known_by, known_by.normal(address)), set()).add(address)
    known: dict[tuple[Kind, str], set[str]] = {}
    described = list(enumerate(described_tables(connection, description)))
    while fresh:
        for one, owners in fresh.items():
            known.setdefault(one, set()).update(owners)
        told: dict[tuple[Kind, str], set[str]] = {}
        kinds = {kind for kind, _ in fresh}
        for position, table in described:
            if kinds.isdisjoint(table.found_by):
                continue
            for number, (key, row) in enumerate(_rows(connection, table)):
                held = [(kind, kind.normal(one.text)) for one in row.contents for kind in one.kinds]
                owners = set().union(*(fresh.get(one, ()) for one in held if one[0] in table.found_by))
                for owner in owners:
                    found[owner][position, number] = RowName(table.name, key)
                for one in held:
                    if one[0] in table.tells and (new := owners - known.get(one, set())):
                        told.setdefault(one, set()).update(new)
        fresh = told
    rows = {
        address: tuple(row for _, row in sorted(by_place.items(), key=lambda item: item[0]))
        for address, by_place in found.items()
    }
    nobody = tuple(
        address
        for address, names in rows.items()
        if all(description.tables[row.table].is_of_the_moment for row in names)
    )
    return MemberRows({address: names for address, names in rows.items() if address not in nobody}, nobody)


def addresses(connection: sqlite3.Connection, description: DataDescription) -> list[str]:
    """What members are known by: all that stands in a key of a table whose rows last and are found by it."""
    found: dict[str, None] = {}
    for table in described_tables(connection, description):
        if description.known_by in table.found_by and not table.is_of_the_moment:
            for _, row in _rows(connection, table):
                found.update(
                    (description.known_by.normal(one.text), None)
                    for one in row.contents
                    if one.place == "key" and description.known_by in one.kinds
                )
    return list(found)


def has_keys_and_values(connection: sqlite3.Connection, table: str, schema: str = "main") -> bool:
    """Whether the table has the columns that every table of the backend has."""
    columns = {
        column[1].lower() for column in connection.execute(f"PRAGMA {schema}.table_info({quoted(table)})")
    }
    return {"key", "value"} <= columns


def described_tables(connection: sqlite3.Connection, description: DataDescription) -> list[Table]:
    """The described tables that are there, in whatever letter case, in the order of the description."""
    there = [*map(description.named, tables(connection))]
    return [
        table
        for table in description.tables.values()
        if table in there and has_keys_and_values(connection, table.name)
    ]


def row_name(connection: sqlite3.Connection, table: str) -> str:
    """The column that tells the rows of a described table apart, for SQL: a rowid, or the key in a table WITHOUT ROWID."""
    return shape(connection, table, ()).rowid or "key"


def _rows(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[str, Row]]:
    order = row_name(connection, table.name)
    for key, value in connection.execute(
        f"SELECT key, value FROM main.{quoted(table.name)} ORDER BY {order}"
    ):
        content = value if isinstance(value, bytes) else str("" if value is None else value).encode()
        yield str(key), table.read(str(key), content)
