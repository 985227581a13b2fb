"""Check that a database is whole: its size, SQLite's own check, every row read. Rebuild its indexes."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dodeka_db import progress
from dodeka_db.errors import BackupError
from dodeka_db.sqlite.connection import TABLES, opened, quoted
from dodeka_db.sqlite.failures import (
    RESTORE,
    THIS_SQLITE,
    NotWholeError,
    is_beyond_us,
    is_damage,
    is_of_the_database,
    one_line,
)
from dodeka_db.sqlite.header import read_header, set_journal_mode

# SQLite's check stops after so many
MAX_DEFECTS = 100
SHOWN_DEFECTS = 3


@dataclass(frozen=True)
class Findings:
    """The defects of a database that can be read through.

    `orphans`: how many rows of one table refer to missing rows of another, by the two names; SQLite allows them by default.
    `defects`: what SQLite's check says, each line once. `unchecked`: why this SQLite cannot check everything, or "".
    """

    orphans: Mapping[tuple[str, str], int]
    defects: tuple[str, ...]
    unchecked: str

    @property
    def defects_shown(self) -> str:
        """The first defects, and how many more there are."""
        more = len(self.defects) - SHOWN_DEFECTS
        return ", ".join(self.defects[:SHOWN_DEFECTS]) + (f", and {more} more" if more > 0 else "")

    def lines(self) -> list[str]:
        """All findings, as lines for a log or a question."""
        lines = [
            f"rows of {child} that refer to a missing row of {parent}: {count}"
            for (child, parent), count in self.orphans.items()
        ]
        if self.defects:
            lines.append(f"SQLite's check says: {self.defects_shown}")
        if self.unchecked:
            lines.append(f"{THIS_SQLITE} cannot check all of it: {self.unchecked}")
        return lines


def verify(path: Path, shown: str, quick: bool = False) -> Findings:
    """The defects of the database in the file `path`, which nobody else uses; NotWholeError if it cannot be read through.

    `shown` is its name in messages. With `quick` the indexes are not compared with their tables, which takes
    most of the time (https://www.sqlite.org/pragma.html#pragma_quick_check). The size is checked first: SQLite
    itself ignores bytes after the last page.
    """
    header = read_header(path, shown)
    size = path.stat().st_size
    if size != header.pages * header.page_bytes:
        expected = header.pages * header.page_bytes
        raise NotWholeError(f"{shown} has {size} bytes where its header says {expected}", RESTORE)
    # not read-only, because SQLite would leave CHECKs out then
    # SQLite does not say how far it is, and how often it reads a page depends on the indexes
    with progress.step("checking the database"), opened(path, "mode=rw", shown) as connection:
        findings = _check(connection, "quick_check" if quick else "integrity_check")
        if findings.defects or findings.unchecked:  # without any, that check has read everything
            try:
                _read_through(connection)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                problem = findings.defects_shown or one_line(error)
                raise NotWholeError(f"{shown} is damaged: {problem}", RESTORE) from error
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise NotWholeError(f"{shown} contains no tables", RESTORE)
    return findings


def _check(connection: sqlite3.Connection, check: str) -> Findings:
    defects: list[str] = []
    unchecked: list[str] = []
    orphans: Counter[tuple[str, str]] = Counter()

    def rows(sql: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from connection.execute(sql)
        except (sqlite3.DatabaseError, MemoryError) as error:
            if is_beyond_us(error):
                unchecked.append(one_line(error))
            elif is_damage(error):
                defects.append(one_line(error))
            else:
                raise

    # a schema that cannot be parsed must be an error: with half a schema the check reports defects that do not exist
    connection.execute("PRAGMA writable_schema=OFF")
    lines = [line for (line,) in rows(f"PRAGMA {check}({MAX_DEFECTS})")]
    if unchecked:  # perhaps because of one table, or of its CHECKs
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for (name,) in list(rows(TABLES)):
            lines += [line for (line,) in rows(f"PRAGMA {check}({quoted(name)})")]
    for child, _row, parent, _key in rows("PRAGMA foreign_key_check"):
        orphans[one_line(child), one_line(parent)] += 1
    found = (one_line(line) for several in lines for line in several.splitlines())
    defects += [line for line in found if line != "ok" and not line.startswith("*** in database")]
    return Findings(orphans, tuple(dict.fromkeys(defects)), ", ".join(dict.fromkeys(unchecked)))


def _read_through(connection: sqlite3.Connection) -> None:
    """Read every row of every table that this SQLite can read, past the indexes. Raises sqlite3.DatabaseError."""
    connection.execute("PRAGMA writable_schema=ON")
    for (name,) in connection.execute(TABLES).fetchall():
        # without generated columns, whose functions may be missing
        columns = connection.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
        selected = ", ".join(quoted(column[1]) for column in columns)
        connection.text_factory = bytes  # text need not be UTF-8
        try:
            for _row in connection.execute(f"SELECT {selected or 1} FROM main.{quoted(name)} NOT INDEXED"):
                pass
        except (sqlite3.DatabaseError, MemoryError) as error:
            if not is_beyond_us(error):
                raise
        connection.text_factory = str


def reindex(path: Path, shown: str) -> None:
    """Rebuild the indexes of the database `path`, which nobody else uses. Raises BackupError.

    An index with duplicate keys, or with a function that this SQLite lacks, stays as it is. The database is in WAL mode
    afterwards, which needs no rollback: see opened().
    """
    set_journal_mode(path, wal=True)
    with progress.step("rebuilding the indexes"), opened(path, "mode=rw", shown) as connection:
        indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
        for (name,) in indexes:
            try:
                connection.execute(f"REINDEX main.{quoted(name)}")
            except (sqlite3.DatabaseError, MemoryError) as error:
                if not is_of_the_database(error):
                    raise


def is_damaged(path: Path) -> bool:
    """Whether the file at `path` is missing, or too damaged to be opened as a database; its rows are not read."""
    try:
        read_header(path)
        with opened(path, "mode=ro", f"database {path}") as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except NotWholeError:
        return True
    except BackupError:
        pass  # in use, or not readable for us: somebody can open it
    return False
