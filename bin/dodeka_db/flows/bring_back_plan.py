"""Which rows of a snapshot come back into the live database, and which are left alone, and why."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dodeka_db.data_description import DataDescription
from dodeka_db.errors import SnapshotError, UsageError
from dodeka_db.sqlite import member_rows, missing_rows, pointers
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.missing_rows import THEN, Guard, MissingRows
from dodeka_db.sqlite.table_shape import tables, virtual_tables


@dataclass(frozen=True)
class Asked:
    """What the operator asked for: the addresses of members, and names of tables. Empty is everybody, and all tables.

    `name_all`: the preview names every row, member and conflict.
    """

    addresses: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    name_all: bool = False


@dataclass
class Plan:
    """The `missing` rows that come back, those of which `members`, by address, and in words what is left alone.

    `rows` names each row that comes back, if that was asked for: its table and its key.
    """

    missing: list[MissingRows] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of rows that come back."""
        return sum(one.count for one in self.missing)


def make(live: Path, then: Path, plan: Path, description: DataDescription, asked: Asked, shown: str) -> Plan:
    """Write the missing rows that come back to the empty file `plan`, and say what is left alone.

    `then` is the snapshot's database, `shown` its name in messages. Raises SnapshotError or UsageError if it does not have
    what was asked for, DatabaseError if the live database cannot be read.
    """
    with opened(then, "mode=ro", shown) as connection:
        there = [*tables(connection), *virtual_tables(connection)]
        names = _names(there, description, asked, shown)
        owners = _owners(connection, description, asked, shown)
    with missing_rows.planning(live, then, plan) as connection:
        found, left_out = missing_rows.find(connection, names)
        made = Plan(left_alone=[f"{one.table}: {one.reason}" for one in left_out])
        _Choice(connection, description, asked, owners, made).of(found)
        made.guards = pointers.guards(connection, description, made.missing)
    return made


def _names(there: Collection[str], description: DataDescription, asked: Asked, shown: str) -> list[str]:
    """The tables to look at: those that were asked for, or all whose single rows may come back."""
    never = {name for name, table in description.tables.items() if not table.can_come_back}
    for name in asked.tables:
        if name not in there:
            raise SnapshotError(f"{shown} has no table {name}", "see its tables with make open")
        if name in never:
            raise UsageError(f"rows of {name} are never brought back", f"the reason is in {description.file}")
    if asked.addresses:
        there = [name for name in there if name in description.tables]
    return [name for name in there if name not in never and name in (asked.tables or there)]


def _owners(
    connection: sqlite3.Connection, description: DataDescription, asked: Asked, shown: str
) -> dict[tuple[str, str], list[str]]:
    """The addresses of those whom a row belongs to, by table and key. Raises SnapshotError if an address is nobody's."""
    found = member_rows.member_rows(
        connection, description, asked.addresses or member_rows.addresses(connection, description)
    )
    if asked.addresses and found.nobody:
        raise SnapshotError(
            f"no row of {shown} belongs to {', '.join(found.nobody)}", "leave them out, or see BACKUP.md"
        )
    owners: dict[tuple[str, str], list[str]] = {}
    for address, rows in found.rows.items():
        for row in rows:
            owners.setdefault((row.table, row.key), []).append(address)
    return owners


class _Choice:
    """The choice among the missing rows."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        description: DataDescription,
        asked: Asked,
        owners: dict[tuple[str, str], list[str]],
        made: Plan,
    ) -> None:
        self._connection = connection
        self._description, self._asked, self._owners, self._made = description, asked, owners, made
        self._lost = pointers.lost(connection, description)
        # a row that must not come back; and a member of whom none must, because somebody else has the address by now
        self._rows = {(one.table, one.key): one.reason for one in self._lost.conflicts}
        self._members = {
            owner: one.reason
            for one in self._lost.conflicts
            if one.is_taken
            for owner in owners.get((one.table, one.key), [])
            if description.known_by.normal(owner) in self._lost.addresses
        }
        self._withheld: Counter[str] = Counter()

    def of(self, found: Sequence[MissingRows]) -> None:
        """Take what is left alone out of the plan, and write down both."""
        members: dict[str, None] = {}
        for missing in found:
            taken = set(missing_rows.taken_values(self._connection, missing))
            out = []
            for row, key in missing_rows.keys(self._connection, missing):
                owners = self._owners.get((missing.table, key), [])
                if self._asked.addresses and not owners:
                    out.append(row)
                elif missing.table not in self._description.tables and not self._asked.tables:
                    self._withheld[f"{missing.table}: not described in {self._description.file.name}"] += 1
                    out.append(row)
                elif reason := self._reason(missing.table, key, owners, row in taken):
                    self._withheld[reason] += 1
                    out.append(row)
                else:
                    members.update(dict.fromkeys(owners))
                    if self._asked.name_all:
                        self._made.rows.append(
                            (missing.table, self._description.shown_key(missing.table, key))
                        )
            left = missing_rows.take_out(self._connection, missing, out)
            if left.count:
                self._made.missing.append(left)
        self._made.members += members
        self._made.left_alone += [
            f"{reason} ({count} of the rows that are missing)" if count > 1 else reason
            for reason, count in self._withheld.items()
        ]
        self._made.left_alone += self._changed(members)

    def _reason(self, table: str, key: str, owners: Iterable[str], is_taken: bool) -> str:
        """Why the missing row is left alone; empty if it comes back."""
        for owner in owners:
            if owner in self._members:
                return f"{owner}: {self._members[owner]}"
        named = f"{table} {self._description.shown_key(table, key)}"
        if (table, key) in self._rows:
            return f"{named}: {self._rows[table, key]}"
        if is_taken:
            return f"{named}: another row has a value by now that must be unique"
        return ""

    def _changed(self, members: Collection[str]) -> list[str]:
        """The rows of those who come back that are there, with other content."""
        return [
            f"{table} {self._description.shown_key(table, key)}: it is there, with other content"
            for table in tables(self._connection, THEN)
            if table in self._description.tables
            and self._description.tables[table].can_come_back
            and (not self._asked.tables or table in self._asked.tables)
            and table in tables(self._connection)
            for key in missing_rows.changed_keys(self._connection, table, "key", "value")
            if any(owner in members for owner in self._owners.get((table, key), []))
        ]
