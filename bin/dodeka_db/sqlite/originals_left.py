"""Look for the originals of a database in a masked one, by a reading of the database of its own, not by the rules of the masking."""

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dodeka_db import progress
from dodeka_db.data_description import DataDescription, Fields, Table, Text
from dodeka_db.errors import BackupError
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.failures import DISK
from dodeka_db.sqlite.header import read_header
from dodeka_db.sqlite.originals import WORDS_OF_THE_FORMAT, Originals
from dodeka_db.sqlite.page_texts import row_and_text_spans
from dodeka_db.sqlite.table_shape import tables

_ROWS = 500
_PAGES = 500


# the sets of a value, or those of each field
_Sets = list[set[str]] | dict[str, "_Sets"]


@dataclass(frozen=True)
class Left:
    """An original that was found: how personal it is, a word of data_description.PERSONAL, and where it stands, in words."""

    personal: str
    place: str


class Values:
    """The personal values of a database, each once, by how personal they are: `by_personal["address"]`."""

    def __init__(self, connection: sqlite3.Connection, description: DataDescription) -> None:
        """Reads every row of every table that is described, those of the moment too. sqlite3.Error if that fails."""
        self.by_personal: dict[str, set[str]] = {
            kind.personal: set() for kind in description.kinds.values() if kind.is_looked_for
        }
        for name in tables(connection):
            if name in description.tables:
                self._read(connection, description.tables[name])

    def all(self) -> Iterator[tuple[str, str]]:
        """Each value with how personal it is."""
        for personal, texts in self.by_personal.items():
            yield from ((personal, text) for text in texts)

    def _read(self, connection: sqlite3.Connection, table: Table) -> None:
        # one expression for all sorts of keys; the group that closes last tells which sort a key is
        expression = re.compile("|".join(f"({one.expression.pattern})" for one in table.patterns), re.DOTALL)
        sorts, group = {}, 1
        for pattern in table.patterns:
            in_key = [
                (group + 1 + at, self.by_personal[kind.personal])
                for at, kind in enumerate(pattern.key_kinds)
                if kind.personal in self.by_personal
            ]
            sorts[group] = in_key, self._sets(pattern.value), isinstance(pattern.value, Fields)
            group += 1 + len(pattern.key_kinds)
        for key, value in connection.execute(f"SELECT key, value FROM main.{quoted(table.name)} NOT INDEXED"):
            match = expression.fullmatch(str(key))
            if not match or not match.lastindex:
                continue
            in_key, in_value, is_json = sorts[match.lastindex]
            for at, found in in_key:
                found.add(match[at])
            if in_value:
                text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                _take(in_value, _json(text) if is_json else text)

    def _sets(self, shape: Text | Fields) -> "_Sets":
        """Into which sets a value goes, or those of its fields that are looked for."""
        if isinstance(shape, Text):
            return [
                self.by_personal[kind.personal] for kind in shape.kinds if kind.personal in self.by_personal
            ]
        return {name: sets for name, field in shape.by_name.items() if (sets := self._sets(field))}


def originals_of(values: Values, description: DataDescription) -> Originals:
    """What is looked for: all of `values`. The description's own words are not taken for one. Raises SetupError."""
    return Originals(values.all(), [*WORDS_OF_THE_FORMAT, *_words(description)])


def find_left(path: Path, originals: Originals, shown: str) -> Left | None:
    """The first original that is in the database file at `path`, which nobody uses; None if there is none. Raises BackupError.

    The content of each row is looked through by itself, because only there a word has a beginning and an end. Then the file
    is, byte for byte: between the rows there may be more.
    """
    with (
        progress.step("looking for originals"),
        opened(path, "mode=ro&immutable=1", shown) as connection,
    ):
        connection.text_factory = bytes
        for name, content in _contents(connection):
            if personal := originals.any_in(content):
                return Left(personal, f"table {name}")
    page_bytes = read_header(path, shown).page_bytes
    try:
        with open(path, "rb") as file, progress.step("looking for originals", progress.position_in(file)):
            first = 0
            while content := file.read(_PAGES * page_bytes):
                for start, end, personal in originals.parts_in(content):
                    page, at = divmod(start, page_bytes)
                    of_page = content[page * page_bytes : (page + 1) * page_bytes]
                    if not _is_by_chance(of_page, first + page == 0, at, at + end - start):
                        return Left(personal, "the bytes between the rows")
                first += _PAGES
    except OSError as error:
        raise BackupError(f"{shown} cannot be read: {error.strerror}", DISK) from error
    return None


def _is_by_chance(page: bytes, is_first: bool, start: int, end: int) -> bool:
    """Whether what stands in a row, but not in one of its texts alone, only looks like an original.

    Each text was looked through by itself. Beside it SQLite writes lengths and numbers, whose bytes can be letters: the time
    1784770932, at which a row expires, is written "jalt".
    """
    if end > len(page):
        return True
    rows, texts = row_and_text_spans(page, is_first)
    is_of_a_row = any(start < row_end and end > row_start for row_start, row_end in rows)
    return is_of_a_row and not any(text_start <= start and end <= text_end for text_start, text_end in texts)


def _contents(connection: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    """The texts of the schema and of every table, some rows at a time, with a zero byte between two of them."""
    names = [
        name.decode()
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith(b"sqlite_")  # a count of SQLite's own, without a key
    ]
    selects = [("sqlite_master", "SELECT name, coalesce(sql, '') FROM sqlite_master")]
    selects += [(name, f"SELECT key, value FROM main.{quoted(name)} NOT INDEXED") for name in names]
    for name, select in selects:
        cursor = connection.execute(select)
        while rows := cursor.fetchmany(_ROWS):
            yield name, b"\0".join(chain.from_iterable(rows))


def _take(sets: _Sets, found: object) -> None:
    if isinstance(sets, dict):
        if isinstance(found, dict):
            for name, of_field in sets.items():
                if name in found:
                    _take(of_field, found[name])
    elif isinstance(found, str) or type(found) is int:
        for one in sets:
            one.add(str(found))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # nothing of such a value is in the masked database: it is refused, or its table is emptied
        return None


def _words(description: DataDescription) -> Iterator[str]:
    """The names of tables and fields, what stands in keys besides kinds, and the words that are kept."""
    yield from description.kept_words
    for table in description.tables.values():
        yield table.name
        for pattern in table.patterns:
            for part in pattern.parts:
                if isinstance(part, str):
                    yield part
            yield from _fields(pattern.value)


def _fields(shape: Text | Fields) -> Iterator[str]:
    if isinstance(shape, Fields):
        for name, field in shape.by_name.items():
            yield name
            yield from _fields(field)
