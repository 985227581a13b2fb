"""The rows that lead from one thing to another, such as from an address to a user ID, in an older database and in the live one.

They tell whether somebody who was there can come back: not if somebody else has the address by now, or the same person another.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dodeka_db.data_description import DataDescription, Kind, Text
from dodeka_db.errors import DatabaseError
from dodeka_db.sqlite.connection import quoted
from dodeka_db.sqlite.member_rows import has_keys_and_values
from dodeka_db.sqlite.missing_rows import LIVE, PLAN, THEN, Guard, guard
from dodeka_db.sqlite.table_shape import tables


@dataclass(frozen=True)
class PointerTable:
    """A table whose rows lead from their key, of one kind, to their value, which is a text of another."""

    name: str
    key: Kind
    value: Kind


@dataclass(frozen=True)
class Pointer:
    """A row of such a table."""

    table: PointerTable
    key: str
    value: str

    @property
    def normal_key(self) -> str:
        return self.table.key.normal(self.key)


@dataclass(frozen=True)
class Conflict:
    """A pointer of the older database that the live one lacks and must not get back, and why, in words for an operator.

    `is_taken`: the key leads to somebody else by now. If not, the key's owner has another key.
    """

    table: str
    key: str
    reason: str
    is_taken: bool


@dataclass(frozen=True)
class Lost:
    """The conflicts, and the `gone` addresses: those that led somewhere, and lead there by no row any more."""

    conflicts: tuple[Conflict, ...]
    gone: frozenset[str]


def pointer_tables(description: DataDescription) -> list[PointerTable]:
    """The tables of the description whose rows lead from one kind by which members are found to another one."""
    leading = {description.known_by}.union(*(table.found_by for table in description.tables.values()))
    return [
        PointerTable(table.name, key, value.kinds[0])
        for table in description.tables.values()
        if len(table.patterns) == 1 and not table.is_of_the_moment
        for (parts, value) in [(table.patterns[0].parts, table.patterns[0].value)]
        if len(parts) == 1 and isinstance(value, Text) and len(value.kinds) == 1
        for key in parts
        if isinstance(key, Kind) and {key, value.kinds[0]} <= leading
    ]


def lost(connection: sqlite3.Connection, description: DataDescription) -> Lost:
    """What the live database lacks of the older one's pointers. The connection is one of missing_rows.planning().

    A conflict is a pointer that the live database has since then, with the same key, or in the same table to the same value.
    """
    then, now = ({*_read(connection, database, description)} for database in (THEN, LIVE))
    came_by_key: dict[tuple[Kind, str], Pointer] = {}
    came_by_value: dict[tuple[PointerTable, str], Pointer] = {}
    for one in now - then:
        came_by_key[one.table.key, one.normal_key] = one
        came_by_value[one.table, one.value] = one
    gone = sorted(then - now, key=lambda one: (one.table.name, one.key))
    found = []
    for one in gone:
        if other := came_by_key.get((one.table.key, one.normal_key)):
            owner = "" if other.table.value.personal == "secret" else f", for {other.value}"
            reason = f"{one.key} is in {other.table.name} by now{owner}"
            found.append(Conflict(one.table.name, one.key, reason, is_taken=True))
        elif other := came_by_value.get((one.table, one.value)):
            what = "it" if one.table.value.personal == "secret" else one.value
            reason = f"{what} has {other.key} in {one.table.name} by now"
            found.append(Conflict(one.table.name, one.key, reason, is_taken=False))
    led, lead = (
        {one.normal_key for one in some if one.table.key == description.known_by}
        for some in (then, then & now)
    )
    return Lost(tuple(found), frozenset(led - lead))


def guards(
    connection: sqlite3.Connection, description: DataDescription, rows: Iterable[tuple[str, str]]
) -> list[Guard]:
    """What to count again before rows are put in, so that no conflict has come since: of the pointers among `rows`.

    `rows` are all rows of those whose rows come back, by table and key. Their pointers are written into the plan.
    """
    known = _there(connection, THEN, description)
    numbers = {one.name: number for number, one in enumerate(known)}
    connection.execute(f"CREATE TABLE {PLAN}.pointers (number, key, value)")
    for table, key in rows:
        if table in numbers:
            connection.execute(
                f"INSERT INTO {PLAN}.pointers SELECT ?, key, CAST(value AS BLOB)"
                f" FROM {THEN}.{quoted(table)} WHERE key = ?",
                (numbers[table], key),
            )
    connection.execute(f"CREATE INDEX {PLAN}.by_value ON pointers (value)")
    return [
        guard(
            connection,
            other.name,
            f"SELECT count(*) FROM {PLAN}.pointers AS p JOIN {LIVE}.{quoted(other.name)} AS n ON {on}"
            f" WHERE p.number = {number}",
        )
        for number, one in enumerate(known)
        for other in known
        for on in (
            ["n.key = p.key", "p.value = CAST(n.value AS BLOB)"] if other == one else ["n.key = p.key"]
        )
        if other.key == one.key
    ]


def _read(connection: sqlite3.Connection, database: str, description: DataDescription) -> Iterator[Pointer]:
    for table in _there(connection, database, description):
        sql = f"SELECT key, CAST(value AS TEXT) FROM {database}.{quoted(table.name)}"
        yield from (Pointer(table, str(key), str(value)) for key, value in connection.execute(sql))


def _there(connection: sqlite3.Connection, database: str, description: DataDescription) -> list[PointerTable]:
    """The pointer tables that the database has. Raises DatabaseError if one cannot be read as such: then nobody knows conflicts."""
    there = tables(connection, database)
    found = [table for table in pointer_tables(description) if table.name in there]
    for table in found:
        if not has_keys_and_values(connection, table.name, database):
            raise DatabaseError(
                f"table {table.name} does not have the columns key and value, so it is not known who has come back since",
                "make restore needs no such columns",
            )
    return found
