"""All rows that have to do with a member, in both directions of the description's pointers; and their removal without remains.

member_rows goes from an address to what it leads to. A member who is erased must be found in old databases too, where the
address was another one: so here a number also leads back to the user ID, and a user ID to the address.
"""

import sqlite3
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from dodeka_db.data_description import UNKNOWN, DataDescription, Kind, Table
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.empty_tables import forget_samples, refuse_trigger
from dodeka_db.sqlite.failures import is_of_the_database, one_line
from dodeka_db.sqlite.header import read_header, set_journal_mode
from dodeka_db.sqlite.member_rows import described_tables, row_name
from dodeka_db.sqlite.table_shape import tables, virtual_tables

# what a row can be found by: the name of a kind, and the text as two of them are compared
Name = tuple[str, str]
Owner = TypeVar("Owner", bound=Hashable)


@dataclass
class Found:
    """What has to do with one member: each row by table and row_name(), and the names that lead to them."""

    rows: dict[str, set[Any]] = field(default_factory=dict)
    names: set[Name] = field(default_factory=set)

    @property
    def count(self) -> int:
        return sum(map(len, self.rows.values()))


@dataclass(frozen=True)
class Search(Generic[Owner]):
    """Whom find() found, and the names of tables with rows of which the description does not tell whose they are."""

    found: dict[Owner, Found]
    undescribed: tuple[str, ...]


@dataclass(frozen=True)
class Removed:
    """How many members were found, how many rows of theirs are gone, and why remains may be left in the file, if so.

    `undescribed` are the tables with rows of which nobody knows whose they are. `found` is by what the search began with.
    """

    members: int = 0
    rows: int = 0
    remains: str = ""
    undescribed: tuple[str, ...] = ()
    found: Mapping[Any, Found] = field(default_factory=dict)


def find(
    connection: sqlite3.Connection,
    description: DataDescription,
    starts: Callable[[Kind, str], Collection[Owner]],
) -> Search[Owner]:
    """The rows of those whom `starts` knows by a kind and its normal text, and of whom these rows tell more, until nothing is new.

    A row of a table that tells something is found by all that it tells as well, and then tells what it is found by. Such tables
    are read once for each step, the large ones once. The connection is as for member_rows.
    """
    found: dict[Owner, Found] = {}
    described = list(_described(connection, description))
    looked_at = [table for table, _ in described]
    names = (*tables(connection), *virtual_tables(connection))
    undescribed = dict.fromkeys(name for name in names if description.named(name) not in looked_at)
    known: dict[Name, set[Owner]] = {}
    telling = [one for one in described if one[0].tells]
    is_new = True
    while is_new:
        is_new = False
        for table, kinds in telling:
            for row, held in _rows(connection, table, kinds, undescribed):
                for owner in _owners(held, known, starts):
                    one = found.setdefault(owner, Found())
                    one.rows.setdefault(table.name, set()).add(row)
                    for kind, text in held:
                        if (name := (kind.name, text)) not in one.names:
                            one.names.add(name)
                            known.setdefault(name, set()).add(owner)
                            is_new = True
    for table, kinds in described:
        if not table.tells:
            for row, held in _rows(connection, table, kinds, undescribed):
                for owner in _owners(held, known, starts):
                    found.setdefault(owner, Found()).rows.setdefault(table.name, set()).add(row)
    return Search(found, tuple(undescribed))


def _owners(
    held: Iterable[tuple[Kind, str]],
    known: Mapping[Name, set[Owner]],
    starts: Callable[[Kind, str], Collection[Owner]],
) -> set[Owner]:
    return {
        owner for kind, text in held for owner in (*known.get((kind.name, text), ()), *starts(kind, text))
    }


def remove(
    path: Path,
    shown: str,
    description: DataDescription,
    starts: Callable[[Kind, str], Collection[Owner]],
) -> Removed:
    """Remove what find() finds from the database in the file `path`, which is whole, and which nobody else uses.

    `shown` is its name in messages. The file is written anew afterwards, so that no page holds what is left of a deleted row,
    not even one that was deleted before the snapshot. It has the same journal mode as before, and no journal. Raises
    SnapshotError if a table has a trigger; BackupError if the rows cannot be removed.
    """
    with opened(path, "mode=ro", shown) as connection:
        search = find(connection, description, starts)
        row_names = {
            table: row_name(connection, table) for one in search.found.values() for table in one.rows
        }
    rows: dict[str, set[Any]] = {}
    members = 0
    for one in search.found.values():
        members += any(not numbers <= rows.get(table, set()) for table, numbers in one.rows.items())
        for table, numbers in one.rows.items():
            rows.setdefault(table, set()).update(numbers)
    if not rows:
        return Removed(undescribed=search.undescribed)
    was_wal = read_header(path).wal
    set_journal_mode(path, wal=True)  # which needs no rollback, see opened()
    with opened(path, "mode=rw", shown) as connection:
        # as empty_tables() does: an index that is not known would keep its entries
        connection.execute("PRAGMA writable_schema=RESET")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("BEGIN")
        for table, numbers in rows.items():
            refuse_trigger(connection, table, shown, "choose another snapshot")
            connection.executemany(
                f"DELETE FROM main.{quoted(table)} WHERE {row_names[table]} = ?",
                ((one,) for one in numbers),
            )
        forget_samples(connection, rows)
        connection.execute("COMMIT")
        remains = _rewrite(connection)
    set_journal_mode(path, was_wal)
    return Removed(members, sum(map(len, rows.values())), remains, search.undescribed, search.found)


def _rewrite(connection: sqlite3.Connection) -> str:
    """Write the file anew; why not, if SQLite does not know all that the schema names."""
    try:
        connection.execute("VACUUM")
    except sqlite3.Error as error:
        if not is_of_the_database(error):
            raise
        return one_line(error)
    return ""


def _described(
    connection: sqlite3.Connection, description: DataDescription
) -> Iterator[tuple[Table, frozenset[Kind]]]:
    """The described tables that are there, and the kinds by which a row is found."""
    for table in described_tables(connection, description):
        yield table, frozenset((*table.found_by, *table.tells))


def _rows(
    connection: sqlite3.Connection, table: Table, kinds: frozenset[Kind], undescribed: dict[str, None]
) -> Iterator[tuple[Any, list[tuple[Kind, str]]]]:
    """The row_name() of each row, and what it can be found by. Values are looked at only where they can hold such a thing.

    A table joins the `undescribed` if the description does not know all of a row that nothing can be found by.
    """
    places = (place for pattern in table.patterns for place in pattern.places())
    is_in_value = not kinds or any(place != "key" and kind in kinds for place, kind in places)
    column = "value" if is_in_value else "NULL"
    name = row_name(connection, table.name)
    for row, key, value in connection.execute(f"SELECT {name}, key, {column} FROM main.{quoted(table.name)}"):
        content = value if isinstance(value, bytes) else str("" if value is None else value).encode()
        read = table.read(str(key), content)
        contents = [one for one in read.contents if one.text]
        held = [(kind, kind.normal(one.text)) for one in contents for kind in one.kinds if kind in kinds]
        if not held and (read.unknown if is_in_value else read is UNKNOWN):
            undescribed[table.name] = None
        yield row, held
