"""The rows that lead from one thing to another, such as from an address to a user ID, in an older database and in the live one.

They tell whether somebody who was there can come back: not if somebody else has the address by now, or the same person another.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dodeka_db.data_description import DataDescription, Kind, Text
from dodeka_db.sqlite.connection import quoted
from dodeka_db.sqlite.missing_rows import LIVE, PLAN, THEN, Guard, MissingRows, guard
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
    """The conflicts, and the lost addresses: those of the pointers that the live database lacks, with a conflict or without."""

    conflicts: tuple[Conflict, ...]
    addresses: frozenset[str]


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
    addresses = {one.normal_key for one in gone if one.table.key == description.known_by}
    return Lost(tuple(found), frozenset(addresses))


def guards(
    connection: sqlite3.Connection, description: DataDescription, missing: Iterable[MissingRows]
) -> list[Guard]:
    """What to count again before the rows are put in, so that no conflict has come since."""
    known = {one.name: one for one in _there(connection, LIVE, description)}
    return [
        guard(
            connection,
            f"SELECT count(*) FROM {PLAN}.{planned.planned} AS p JOIN {LIVE}.{quoted(other.name)} AS n ON {on}",
        )
        for planned in missing
        if (one := known.get(planned.table))
        for other in known.values()
        for on in [
            f"CAST(n.value AS BLOB) = CAST(p.{planned.column('value')} AS BLOB)"
            if other == one
            else f"n.key = p.{planned.column('key')}"
        ]
        if other.key == one.key
    ]


def _read(connection: sqlite3.Connection, database: str, description: DataDescription) -> Iterator[Pointer]:
    for table in _there(connection, database, description):
        sql = f"SELECT key, CAST(value AS TEXT) FROM {database}.{quoted(table.name)}"
        yield from (Pointer(table, str(key), str(value)) for key, value in connection.execute(sql))


def _there(connection: sqlite3.Connection, database: str, description: DataDescription) -> list[PointerTable]:
    there = tables(connection, database)
    return [table for table in pointer_tables(description) if table.name in there]
