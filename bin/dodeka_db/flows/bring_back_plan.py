"""Which rows of a snapshot come back into the live database, and which are left alone, and why."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dodeka_db.data_description import DataDescription
from dodeka_db.errors import DatabaseError, SnapshotError, UsageError
from dodeka_db.sqlite import member_rows, missing_rows, pointers
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.missing_rows import LIVE, THEN, Guard, LeftOut, MissingRows
from dodeka_db.sqlite.table_shape import tables, virtual_tables

# so many people, rows and conflicts are named, unless all are asked for
MAX_NAMED = 20


@dataclass(frozen=True)
class Asked:
    """What the operator asked for: the addresses of people, and names of tables. Empty is everybody, and all tables."""

    addresses: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        return not (self.addresses or self.tables)


@dataclass
class Plan:
    """The `missing` rows that come back, and in words what is left alone.

    `people` are those who come back, by address. `present` are rows of people who are still there, `rows` all rows that come
    back, each as its table and its key.
    """

    missing: list[MissingRows] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    present: list[tuple[str, str]] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of rows that come back."""
        return sum(one.count for one in self.missing)


def make(live: Path, then: Path, plan: Path, description: DataDescription, asked: Asked, shown: str) -> Plan:
    """Write the missing rows that come back to the empty file `plan`, and say what is left alone.

    `then` is the snapshot's database, `shown` its name in messages. Somebody comes back if no address leads to them any more.
    Rows of people who are still there come back only if the operator asked for people or tables. Raises SnapshotError or
    UsageError if there is not what was asked for, DatabaseError if the live database cannot be read, or people would come back
    incomplete.
    """
    with opened(then, "mode=ro", shown) as connection:
        connection.text_factory = missing_rows.text
        there = [*tables(connection), *virtual_tables(connection)]
        _refuse_other_names(description, there)
        names = _names(there, description, asked, shown)
        owners = _owners(connection, description, asked, shown)
    with missing_rows.planning(live, then, plan) as connection:
        _refuse_other_names(description, tables(connection, LIVE))
        found, left_out = missing_rows.find(connection, names)
        made = Plan(left_alone=[f"{one.table}: {one.reason}" for one in left_out])
        choice = _Choice(connection, description, asked, owners)
        for missing in found:
            choice.among(missing, made)
        if made.people and asked.is_everything:
            _refuse_incomplete(description, left_out)
        # last those by which people are found: until then nobody sees a part of them
        entries = {one.name for one in pointers.pointer_tables(description)}
        made.missing.sort(key=lambda one: one.table in entries)
        made.left_alone += choice.left_alone()
        made.guards = pointers.guards(connection, description, choice.rows_of(made))
    return made


def _refuse_other_names(description: DataDescription, there: Iterable[str]) -> None:
    for name in there:
        table = description.named(name)
        if table and table.name != name:  # to the backend they are one table; here its rows would be nobody's
            raise DatabaseError(
                f"table {name} is called {table.name} in {description.file}, so nobody would know whose its rows are",
                "write it there as the database does, or if only one of the two databases does: make restore",
            )


def _names(there: Collection[str], description: DataDescription, asked: Asked, shown: str) -> list[str]:
    """The tables to look at: those that were asked for, or all whose single rows may come back."""
    never = {name for name, table in description.tables.items() if not table.can_come_back}
    for name in asked.tables:
        if name not in there:
            raise SnapshotError(f"{shown} has no table {name}", "see its tables with make open")
        if name in never:
            raise UsageError(f"rows of {name} are never brought back", f"the reason is in {description.file}")
        if asked.addresses and name not in description.tables:
            raise UsageError(
                f"{name} is not described in {description.file}, so nobody knows whose its rows are",
                "leave out WHO, or describe it",
            )
    if asked.addresses:
        there = [name for name in there if name in description.tables]
    return [name for name in there if name not in never and name in (asked.tables or there)]


def _owners(
    connection: sqlite3.Connection, description: DataDescription, asked: Asked, shown: str
) -> dict[tuple[str, str], list[str]]:
    """The addresses of those whom a row belongs to, by table and key. Raises SnapshotError if an address is nobody's."""
    wanted = dict.fromkeys(map(description.known_by.normal, asked.addresses))
    found = member_rows.member_rows(
        connection, description, wanted or member_rows.addresses(connection, description)
    )
    if wanted and found.nobody:
        more = len(found.nobody) - MAX_NAMED
        names = ", ".join(found.nobody[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        # without WHO everybody would come back, so never only "leave them out"
        others = "; for the others alone, leave these out of WHO" if len(wanted) > len(found.nobody) else ""
        raise SnapshotError(
            f"no row of {shown} belongs to {names}",
            f"check how the address is written, or take another snapshot{others}",
        )
    owners: dict[tuple[str, str], list[str]] = {}
    for address, rows in found.rows.items():
        for row in rows:
            owners.setdefault((row.table, row.key), []).append(address)
    return owners


def _refuse_incomplete(description: DataDescription, left_out: Iterable[LeftOut]) -> None:
    for one in left_out:
        if one.table in description.tables and description.tables[one.table].is_of_members:
            raise DatabaseError(
                f"table {one.table} cannot be brought back ({one.reason}), so people would be incomplete",
                "name the other tables: TABLES=...; or make restore",
            )


class _Choice:
    """The choice among the missing rows."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        description: DataDescription,
        asked: Asked,
        owners: Mapping[tuple[str, str], Sequence[str]],
    ) -> None:
        self._connection = connection
        self._description, self._asked, self._owners = description, asked, owners
        lost = pointers.lost(connection, description)
        self._kept_away = {(one.table, one.key): one.reason for one in lost.conflicts}
        moved = {one.key for one in lost.conflicts if not one.is_taken}
        # several addresses of one person, who is gone only if none of them leads there any more
        self._person = _persons(owners.values())
        addresses: dict[str, list[str]] = {}
        for address, person in self._person.items():
            addresses.setdefault(person, []).append(address)
        self._gone = {
            person
            for person, some in addresses.items()
            if all(description.known_by.normal(one) in lost.gone and one not in moved for one in some)
        }
        # somebody else has an address or a number by now: nothing of that person comes back
        self._blocked = {
            self._person[owner]: f"{owner}: {one.reason}"
            for one in lost.conflicts
            if one.is_taken
            for owner in owners.get((one.table, one.key), [])
            if self._person[owner] in self._gone
        }
        self._withheld: Counter[str] = Counter()
        self._people: dict[str, None] = {}

    def among(self, missing: MissingRows, made: Plan) -> None:
        """Take what is left alone out of the plan, and write down what comes back."""
        taken = set(missing_rows.taken_values(self._connection, missing))
        out = []
        for row, key in missing_rows.keys(self._connection, missing):
            owners = self._owners.get((missing.table, key), [])
            if self._asked.addresses and not owners:
                out.append(row)
            elif reason := self._reason(missing.table, key, owners, row in taken):
                self._withheld[reason] += 1
                out.append(row)
            else:
                made.rows.append((missing.table, key))
                gone = [owner for owner in owners if self._person[owner] in self._gone]
                self._people.update(dict.fromkeys(gone))
                if owners and not gone:
                    made.present.append((missing.table, key))
        left = missing_rows.take_out(self._connection, missing, out)
        if left.count:
            made.missing.append(left)
        made.people = list(self._people)

    def _reason(self, table: str, key: str, owners: Sequence[str], is_taken: bool) -> str:
        """Why the missing row is left alone; empty if it comes back."""
        if table not in self._description.tables and not self._asked.tables:
            return f"{table}: not described in {self._description.file.name}; with TABLES={table} its rows come back"
        for owner in owners:
            if self._person[owner] in self._blocked:
                return self._blocked[self._person[owner]]
        named = f"{table} {self._description.shown_key(table, key)}"
        if (table, key) in self._kept_away:
            return f"{named}: {self._kept_away[table, key]}"
        if is_taken:
            return f"{named}: another row has a value by now that must be unique"
        if (
            self._asked.is_everything
            and owners
            and not any(self._person[one] in self._gone for one in owners)
        ):
            return f"{table}: of people who are still there; with WHO or TABLES={table} they come back"
        return ""

    def left_alone(self) -> list[str]:
        """In words what is left alone: with the number of rows, and rows that are there with other content."""
        lines = [
            f"{reason} ({count} of the rows that are missing)" if count > 1 else reason
            for reason, count in self._withheld.items()
        ]
        for table in tables(self._connection, THEN):
            is_asked = table in self._asked.tables
            described = self._description.tables.get(table)
            if not (is_asked or (described and described.can_come_back and self._asked.tables == ())):
                continue
            if not all(member_rows.has_keys_and_values(self._connection, table, one) for one in (THEN, LIVE)):
                continue
            lines += [
                f"{table} {self._description.shown_key(table, key)}: it is there, with other content"
                for key in missing_rows.changed_keys(self._connection, table)
                if (is_asked and not self._asked.addresses)
                or any(owner in self._people for owner in self._owners.get((table, key), []))
            ]
        return lines

    def rows_of(self, made: Plan) -> list[tuple[str, str]]:
        """The rows that come back, and all others of the same people, by table and key."""
        persons = {self._person[owner] for row in made.rows for owner in self._owners.get(row, [])}
        of_them = (
            row
            for row, owners in self._owners.items()
            if any(self._person[owner] in persons for owner in owners)
        )
        return list(dict.fromkeys((*made.rows, *of_them)))


def _persons(owners: Iterable[Sequence[str]]) -> dict[str, str]:
    """For each address one that stands for the person: addresses that share a row are of one."""
    person: dict[str, str] = {}

    def of(address: str) -> str:
        while person.setdefault(address, address) != address:
            address = person[address]
        return address

    for some in owners:
        for address in some:
            person[of(address)] = of(some[0])
    return {address: of(address) for address in person}
