"""Compare two databases row by row: which rows are gone, new or changed, by primary key and content.

No index is read, so that a damaged one changes nothing. Each table is read once from either database, in the order in which
its rows are stored. Rows that are equal at the same place are counted and forgotten. All others go into a temporary file of
SQLite's, in which they are matched by their keys: the result does not depend on the order, only the time does.
"""

import hashlib
import json
import marshal
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from dodeka_db import progress
from dodeka_db.errors import BackupError, SnapshotError
from dodeka_db.sqlite import failures
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.failures import RESTORE, NotWholeError, is_beyond_us, one_line
from dodeka_db.sqlite.header import read_header
from dodeka_db.sqlite.table_shape import NotComparableError, Shape, shape, tables, virtual_tables

# a value as SQLite stores it. Bytes of a text that are not UTF-8 are lone surrogates (Python's "surrogateescape")
Value = None | int | float | str | bytes
Row = tuple[Value, ...]
# a longer value is not looked into for JSON
MAX_JSON_BYTES = 1_000_000
_SCRATCH = """
    CREATE TABLE rows (id INTEGER PRIMARY KEY, sort BLOB, key BLOB, is_new INTEGER, digest BLOB, packed BLOB)
"""
_LEFT = """
    SELECT key, sum(1 - is_new) - sum(is_new), min(id) FROM rows GROUP BY sort, key, digest
    HAVING sum(is_new) <> sum(1 - is_new) ORDER BY sort, key
"""


@dataclass(frozen=True)
class Source:
    """A database to compare. `shown` is its name in messages.

    `if_damaged` is what to do if it is the database of a snapshot, and damaged: then that is a SnapshotError.
    """

    path: Path
    shown: str
    if_damaged: str = ""


@dataclass(frozen=True)
class TableChanges:
    """How many rows of a table differ: `gone` are those of the old database alone, `new` those of the new one alone.

    Without a primary key, or where the key has a NULL, a changed row is one that is gone and one that is new. `notes` say what
    is special about the comparison. With a `problem` the table was not compared, and it says why.
    """

    table: str
    gone: int = 0
    new: int = 0
    changed: int = 0
    same: int = 0
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def differs(self) -> bool:
        return bool(self.gone or self.new or self.changed)


@dataclass(frozen=True)
class RowChange:
    """A row that differs: its values in both databases, None where it is missing.

    `columns` are the names of the values. `key` has the columns of the primary key; without a key it is empty.
    """

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    old: Row | None
    new: Row | None

    @property
    def kind(self) -> str:
        """`gone`, `new` or `changed`."""
        return "new" if self.old is None else "gone" if self.new is None else "changed"

    @property
    def key_values(self) -> Row:
        """The values of the key, as they are now if the row has not gone."""
        row = dict(zip(self.columns, self.new or self.old or (), strict=True))
        return tuple(row[column] for column in self.key)

    def fields(self) -> list[str]:
        """The names of what has changed: a column, or `column.field` where both values are JSON objects."""
        names: list[str] = []
        for column, old, new in zip(self.columns, self.old or (), self.new or (), strict=False):
            if (type(old), old) != (type(new), new):
                names += [f"{column}.{field}" for field in _json_fields(old, new)] or [column]
        return names


def compare(old: Source, new: Source, each: Callable[[RowChange], None] | None = None) -> list[TableChanges]:
    """The differences between two databases by table, each database as it is at one moment; sorted by the tables' names.

    Both are only read. In WAL mode no writer waits for that; a database in another journal mode that is in use should be copied
    first. `each` is called for every row that differs, table by table in the order of the keys. It must not wait for anybody,
    because the databases stay open meanwhile. Views, indexes and triggers are not compared. Temporary files go to where
    host.staging lets SQLite put them.

    Raises DatabaseError, SnapshotError, or BackupError if the disk of the temporary files is full. What this SQLite lacks, or a
    row beyond its memory, is a `problem` of the table.
    """
    with progress.step("comparing"), ExitStack() as stack:
        sides = _Side(old, stack), _Side(new, stack)
        return [_compare_table(table, sides, each) for table in sorted({*sides[0].tables, *sides[1].tables})]


class _Side:
    """One of the two databases, in one read transaction until `stack` ends it."""

    def __init__(self, source: Source, stack: ExitStack) -> None:
        self._source = source
        with self._failures(of_a_table=False):
            header = read_header(source.path, source.shown)
            self._connection = stack.enter_context(opened(source.path, "mode=ro", source.shown))
            self._connection.execute("BEGIN")
            # each row takes a byte at least: in a damaged file, pages can lead to each other for ever
            self._most_rows = (
                int(self._connection.execute("PRAGMA page_count").fetchone()[0]) * header.page_bytes
            )
            self._virtual = virtual_tables(self._connection)
            self.tables = {*tables(self._connection), *self._virtual}

    @property
    def shown(self) -> str:
        return self._source.shown

    def shape(self, table: str) -> Shape:
        """Raises NotComparableError, or what compare() raises."""
        with self._failures():
            self._connection.text_factory = str
            return shape(self._connection, table, self._virtual)

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The values of `columns`, which are SQL, of each row in the order in which they are stored; texts are bytearrays."""
        with self._failures():
            # not str: text need not be UTF-8; not bytes: those are BLOBs
            self._connection.text_factory = bytearray
            cursor = self._connection.execute(
                f"SELECT {', '.join(columns)} FROM main.{quoted(table)} NOT INDEXED"
            )
            yield from islice(cursor, self._most_rows)
            if next(cursor, None):
                raise NotWholeError(
                    f"{self.shown} is damaged: it has more rows than it has room for", RESTORE
                )

    @contextmanager
    def _failures(self, of_a_table: bool = True) -> Iterator[None]:
        """Failures that name this database: opened() does not know which of the two has failed.

        What this SQLite lacks is a NotComparableError if it is `of_a_table`.
        """
        try:
            try:
                yield
            except sqlite3.Error as error:
                if of_a_table and is_beyond_us(error):
                    raise NotComparableError(one_line(error)) from error
                raise failures.failure_of_sqlite(
                    self._source.path, self.shown, error, is_alone=False
                ) from error
            except UnicodeDecodeError as error:
                raise NotWholeError(f"{self.shown} is damaged: a name in it is not text", RESTORE) from error
        except NotWholeError as error:
            if not self._source.if_damaged:
                raise
            raise SnapshotError(error.message, self._source.if_damaged) from error


def _compare_table(
    table: str,
    sides: tuple[_Side, _Side],
    each: Callable[[RowChange], None] | None,
) -> TableChanges:
    try:
        shapes = [side.shape(table) if table in side.tables else None for side in sides]
        with closing(sqlite3.connect("", isolation_level=None)) as scratch:
            return _Comparison(table, sides, *shapes).run(scratch, each)
    except NotComparableError as reason:
        return TableChanges(table, problem=str(reason))
    except MemoryError as error:
        return TableChanges(table, problem=one_line(error))
    except sqlite3.Error as error:  # of the temporary file: others are failures already
        raise BackupError(
            f"the comparison cannot write its temporary files: {one_line(error)}",
            "free some space, or set DODEKA_STATE to a larger disk",
        ) from error


class _Comparison:
    """The comparison of one table."""

    def __init__(self, table: str, sides: tuple[_Side, _Side], old: Shape | None, new: Shape | None) -> None:
        self._table = table
        one = old or new or Shape()
        other = new or one
        self._columns = tuple(name for name in one.columns if name in other.columns)
        if not self._columns:
            raise NotComparableError("the two have no column in common")
        if [name for name, _ in one.key] != [name for name, _ in other.key]:
            raise NotComparableError(
                f"its primary key is {_key_shown(one)} in {sides[0].shown}, and {_key_shown(other)} in {sides[1].shown}"
            )
        self._notes = [
            f"only {side.shown} has this table"
            for side, other_shape in zip(sides, (new, old), strict=True)
            if not other_shape
        ]
        self._notes += [
            f"only {side.shown} has the column {name}, which is left out"
            for side, mine, others in ((sides[0], one, other), (sides[1], other, one))
            for name in mine.columns
            if name not in others.columns
        ]
        # a key that is spelled in another way then counts as another key
        self._notes += [
            f"its keys are compared without their collation {name}"
            for name in sorted({name for _, name in other.key} - {"BINARY", "NOCASE", "RTRIM"})
        ]
        self._key = [(self._columns.index(name), collation) for name, collation in other.key]
        # the rowid in front, by which rows find each other fast
        self._has_rowid = bool(one.rowid and other.rowid)
        self._rows = [
            side.rows(table, [*([shape.rowid] if self._has_rowid else []), *map(quoted, self._columns)])
            if shape
            else iter(())
            for side, shape in zip(sides, (old, new), strict=True)
        ]
        self._secret = os.urandom(16)  # so that nobody can make two rows of one digest
        self._same = 0
        self._counts = [0, 0]  # of the rows in the temporary file

    def run(self, scratch: sqlite3.Connection, each: Callable[[RowChange], None] | None) -> TableChanges:
        scratch.execute("PRAGMA journal_mode=OFF")
        scratch.execute("PRAGMA cache_size=-16000")  # kB
        scratch.execute("BEGIN")
        scratch.execute(_SCRATCH)
        scratch.executemany(
            "INSERT INTO rows (sort, key, is_new, digest, packed) VALUES (?, ?, ?, ?, ?)",
            (self._packed(is_new, row, each is not None) for is_new, row in self._unpaired()),
        )
        gone = new = changed = 0
        for _, several in groupby(scratch.execute(_LEFT), itemgetter(0)):
            # the rows of one key that are left: how many more the old database has of each, below 0 the new one; and its id
            left = [(count, row) for _, count, row in several]
            more, fewer = (sum(max(0, sign * count) for count, _ in left) for sign in (1, -1))
            both = min(more, fewer)
            gone, new, changed = gone + more - both, new + fewer - both, changed + both
            if each:
                for change in self._changes(scratch, left):
                    each(change)
        same = self._same + self._counts[0] - gone - changed
        return TableChanges(self._table, gone, new, changed, same, tuple(self._notes))

    def _unpaired(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The rows that are not equal to the one at their place in the other database, with 1 for those of the new one."""
        olds, news = self._rows
        old, new = next(olds, None), next(news, None)
        while old is not None and new is not None:
            # 1, 1.0 and True are equal in Python
            if old == new and [*map(type, old)] == [*map(type, new)]:
                self._same += 1
                old, new = next(olds, None), next(news, None)
                continue
            place, other = self._place(old), self._place(new)
            if place <= other:
                yield 0, old
                old = next(olds, None)
            if other <= place:
                yield 1, new
                new = next(news, None)
        for is_new, row, rest in ((0, old, olds), (1, new, news)):
            if row is not None:
                yield is_new, row
                yield from ((is_new, row) for row in rest)

    def _place(self, row: tuple[Any, ...]) -> Any:
        if self._has_rowid:
            return row[0]
        # the order of a table WITHOUT ROWID, or something near it
        return [(type(value).__name__, value) for value in self._key_of(_clean(row)) or ()]

    def _key_of(self, row: Row) -> Row | None:
        """The key in the form that all keys have which are equal to it; None if it has a NULL, which equals nothing."""
        key = tuple(_normal(row[column], collation) for column, collation in self._key)
        return None if None in key or not key else key

    def _packed(self, is_new: int, row: tuple[Any, ...], for_each: bool) -> tuple[Any, ...]:
        self._counts[is_new] += 1
        clean = _clean(row[1:] if self._has_rowid else row)
        packed = marshal.dumps(clean, 2)  # of version 2: later ones depend on who else has the value
        digest, key = self._digest(b"row", packed), self._key_of(clean)
        of_key = digest if key is None else self._digest(b"key", marshal.dumps(key, 2))
        return _sort(key or clean) if for_each else b"", of_key, is_new, digest, packed if for_each else None

    def _digest(self, of: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16, key=self._secret, person=of).digest()

    def _changes(self, scratch: sqlite3.Connection, left: Sequence[tuple[int, int]]) -> Iterator[RowChange]:
        def unpacked(sign: int) -> Iterator[Row]:
            for count, row in left:
                for _ in range(sign * count):
                    (packed,) = scratch.execute("SELECT packed FROM rows WHERE id = ?", (row,)).fetchone()
                    yield tuple(marshal.loads(packed))  # noqa: S302  packed by this process

        key = tuple(self._columns[column] for column, _ in self._key)
        for old, new in zip_longest(unpacked(1), unpacked(-1)):
            yield RowChange(self._table, self._columns, key, old, new)


def _clean(row: tuple[Any, ...]) -> Row:
    return tuple(
        str(value, "utf-8", "surrogateescape") if isinstance(value, bytearray) else value for value in row
    )


def _normal(value: Value, collation: str) -> Value:
    if isinstance(value, str):
        if collation == "NOCASE":  # which knows ASCII alone (https://www.sqlite.org/datatype3.html#collation)
            return "".join(letter.lower() if letter.isascii() else letter for letter in value)
        return value.rstrip(" ") if collation == "RTRIM" else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sort(row: Row) -> bytes:
    """By what rows are put into order: numbers by their values as far as they are not negative, texts by their bytes."""

    def of(value: Value) -> bytes:
        if isinstance(value, bytes):
            return value[:200]
        text = f"{value:020d}" if isinstance(value, int) else str(value)[:200]
        return text.encode("utf-8", "surrogateescape")

    return b"\0".join(map(of, row[:5]))


def _key_shown(shape: Shape) -> str:
    return ", ".join(name for name, _ in shape.key) or "missing"


def _json_fields(old: Value, new: Value) -> list[str]:
    """The names of the fields that differ, if both are a JSON object; true is not 1."""
    try:
        fields = [
            {name: json.dumps(field, sort_keys=True) for name, field in json.loads(value).items()}
            for value in (old, new)
            if isinstance(value, str | bytes) and len(value) <= MAX_JSON_BYTES
        ]
        one, other = fields
    # not JSON, no object, or deeper than anybody writes it
    except (ValueError, AttributeError, RecursionError):
        return []
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]
