"""Find the rows that an older database has and the live one lacks, by primary key, and put them into the live one.

Between the two stands the plan: an SQLite file that holds the missing rows, one table for each table of theirs. What is taken
out of the plan is not put in.
"""

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.failures import failure_of_sqlite, is_beyond_us, one_line
from dodeka_db.sqlite.header import read_header
from dodeka_db.sqlite.table_shape import NotComparableError, Shape, shape, tables, virtual_tables

# a transaction puts in so many rows at most, and so many bytes: the backend gives up after 500 ms of waiting for it
BATCH_ROWS = 5_000
BATCH_BYTES = 4_000_000
# between two of them: SQLite looks every 100 ms whether a lock is gone (sqliteDefaultBusyCallback), and would miss a shorter pause
PAUSE_S = 0.12
# how long we wait for the backend, whose turn comes again and again
WAIT_S = 10
# the columns of every table of the backend's
_OF_THE_BACKEND = ("key", "counter", "expiration", "value")
# the names of the databases on the connection: the live one, the older one, the plan
LIVE, THEN, PLAN = "main", "older", "planned"


@dataclass(frozen=True)
class MissingRows:
    """The `count` missing rows of `table`, which are in the table `planned` of the plan, with names of columns of its own."""

    table: str
    planned: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    count: int

    def column(self, name: str) -> str:
        """The name in the plan of a column: `rowid` must be no column there."""
        return f"c{self.columns.index(name)}"


@dataclass(frozen=True)
class LeftOut:
    """A table whose missing rows cannot be brought back, or some of them cannot, and why."""

    table: str
    reason: str


@dataclass(frozen=True)
class Guard:
    """A query that counts what must not come into a `table` before its own rows are put in; and the count at the plan."""

    table: str
    sql: str
    count: int


@contextmanager
def planning(live: Path, then: Path, plan: Path) -> Iterator[sqlite3.Connection]:
    """A connection to LIVE, which is only read, at one moment; to the older database THEN; and to the empty file `plan`.

    Raises DatabaseError, also if the live database is not in WAL mode: then its backend would have to wait.
    """
    with _with_plan(live, plan, "mode=ro") as connection:
        connection.execute(f"ATTACH ? AS {THEN}", (f"{then.as_uri()}?mode=ro",))
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def putting_in(live: Path, plan: Path) -> AbstractContextManager[sqlite3.Connection]:
    """A connection to LIVE, which can be written, and to the `plan` that planning() has filled. Raises DatabaseError."""
    return _with_plan(live, plan, "mode=rw")


@contextmanager
def _with_plan(live: Path, plan: Path, query: str) -> Iterator[sqlite3.Connection]:
    shown = f"database {live}"
    if not read_header(live).wal:
        raise DatabaseError(
            f"{shown} is not in WAL mode, the backend's own", "start its service once, which sets that mode"
        )
    with opened(live, query, shown, alone=False) as connection:
        connection.text_factory = text
        connection.execute(f"ATTACH ? AS {PLAN}", (f"{plan.as_uri()}?mode=rw",))
        connection.execute(f"PRAGMA {PLAN}.journal_mode=OFF")
        connection.execute(f"PRAGMA {PLAN}.synchronous=OFF")
        yield connection


def text(data: bytes) -> str:
    """A text for a message: in the database it need not be UTF-8."""
    return data.decode(errors="replace")


def find(connection: sqlite3.Connection, names: Iterable[str]) -> tuple[list[MissingRows], list[LeftOut]]:
    """Write the rows of THEN's tables of these names that LIVE lacks into the plan, by primary key.

    No index is read, so that a damaged one changes nothing. A row with a NULL in its key is never missing: it equals nothing.
    """
    found: list[MissingRows] = []
    left_out: list[LeftOut] = []
    virtual = {*virtual_tables(connection, LIVE), *virtual_tables(connection, THEN)}
    for number, name in enumerate(names):
        try:
            _refuse_if_changed(connection, name)
            its_shape = shape(connection, name, virtual)
            missing = _find(connection, name, its_shape, f"t{number}")
        except NotComparableError as error:
            left_out.append(LeftOut(name, str(error)))
            continue
        except sqlite3.Error as error:
            if not is_beyond_us(error):
                raise
            left_out.append(LeftOut(name, one_line(error)))
            continue
        if missing.count:
            found.append(missing)
        if nameless := _count_with_null(connection, name, its_shape):
            left_out.append(LeftOut(name, f"rows with a NULL in the primary key: {nameless}"))
    return found, left_out


def _refuse_if_changed(connection: sqlite3.Connection, table: str) -> None:
    """Raise NotComparableError if the table is not the same in both, or a trigger would change more than the table."""
    if _schema(connection, LIVE, table) != _schema(connection, THEN, table):
        is_gone = table not in tables(connection)
        raise NotComparableError(
            "the table is gone now" if is_gone else "the table was defined in another way then"
        )
    # what this SQLite cannot parse it leaves out: rows that are put in would be missing in such an index
    indexes = "SELECT name FROM main.sqlite_master WHERE type = 'index' AND lower(tbl_name) = lower(?)"
    known = {row[1] for row in connection.execute(f"PRAGMA main.index_list({quoted(table)})").fetchall()}
    if not {name for (name,) in connection.execute(indexes, (table,))} <= known:
        raise NotComparableError("it has an index that this SQLite cannot read")
    triggers = "SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = lower(?)"
    if connection.execute(triggers, (table,)).fetchone():
        raise NotComparableError("it has a trigger, which would change other rows too")


def _schema(connection: sqlite3.Connection, database: str, table: str) -> str:
    found = connection.execute(
        f"SELECT sql FROM {database}.sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    return str(found[0]) if found else ""


def _find(connection: sqlite3.Connection, table: str, its_shape: Shape, planned: str) -> MissingRows:
    if not its_shape.columns:
        raise NotComparableError("this SQLite cannot read its definition")
    if not its_shape.key:
        raise NotComparableError("it has no primary key, by which its rows could be told apart")
    keys = [quoted(name) for name, _ in its_shape.key]
    names = [f"k{number}" for number in range(len(keys))]
    collated = ", ".join(
        f"{name} COLLATE {quoted(collation)}"
        for name, (_, collation) in zip(names, its_shape.key, strict=True)
    )
    connection.execute(
        f"CREATE TEMP TABLE live_{planned} ({collated}, PRIMARY KEY ({', '.join(names)})) WITHOUT ROWID"
    )
    connection.execute(  # IGNORE: rows with a NULL in the key
        f"INSERT OR IGNORE INTO live_{planned} SELECT {', '.join(keys)} FROM {LIVE}.{quoted(table)} NOT INDEXED"
    )
    # in the backend's own tables, a row that has expired counts as none
    can_expire = {*_OF_THE_BACKEND} <= {*its_shape.columns}
    lasts = "(t.expiration = 0 OR t.expiration > unixepoch())" if can_expire else "TRUE"
    columns = ", ".join(f"t.{quoted(name)} AS c{number}" for number, name in enumerate(its_shape.columns))
    has_key = " AND ".join(f"t.{key} IS NOT NULL" for key in keys)
    is_same = " AND ".join(f"n.{name} = t.{key}" for name, key in zip(names, keys, strict=True))
    connection.execute(
        f"CREATE TABLE {PLAN}.{planned} AS SELECT {columns} FROM {THEN}.{quoted(table)} AS t NOT INDEXED"
        f" WHERE {has_key} AND {lasts} AND NOT EXISTS (SELECT 1 FROM live_{planned} AS n WHERE {is_same})"
    )
    connection.execute(f"DROP TABLE live_{planned}")
    key = tuple(name for name, _ in its_shape.key)
    return MissingRows(table, planned, its_shape.columns, key, _count(connection, planned))


def _count_with_null(connection: sqlite3.Connection, table: str, its_shape: Shape) -> int:
    is_null = " OR ".join(f"{quoted(name)} IS NULL" for name, _ in its_shape.key)
    sql = f"SELECT count(*) FROM {THEN}.{quoted(table)} NOT INDEXED WHERE {is_null}"
    return int(connection.execute(sql).fetchone()[0])


def _count(connection: sqlite3.Connection, planned: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {PLAN}.{planned}").fetchone()[0])


def keys(connection: sqlite3.Connection, missing: MissingRows) -> Iterator[tuple[int, str]]:
    """The rowid in the plan of each missing row, and its key as a text; several columns with commas between them."""
    yield from connection.execute(
        f"SELECT rowid, {_key_shown(missing)} FROM {PLAN}.{missing.planned} ORDER BY rowid"
    )


def _key_shown(missing: MissingRows) -> str:
    """SQL for the key of a row of the plan as a text."""
    return " || ', ' || ".join(f"CAST({missing.column(name)} AS TEXT)" for name in missing.key)


def take_out(connection: sqlite3.Connection, missing: MissingRows, rows: Collection[int]) -> MissingRows:
    """Take the rows with these rowids in the plan out of it; returns what is left."""
    connection.executemany(f"DELETE FROM {PLAN}.{missing.planned} WHERE rowid = ?", ((row,) for row in rows))
    return replace(missing, count=missing.count - len(rows))


def taken_values(connection: sqlite3.Connection, missing: MissingRows) -> list[int]:
    """The rowids in the plan of the rows with a value that must be unique, and that another row of LIVE has by now.

    An index on what is computed, or on a part of the table, is not looked at: put_in() fails at such a row.
    """
    found: set[int] = set()
    for _, index, is_unique, origin, is_partial in connection.execute(
        f"PRAGMA {LIVE}.index_list({quoted(missing.table)})"
    ).fetchall():
        columns = [
            row[2] for row in connection.execute(f"PRAGMA {LIVE}.index_info({quoted(index)})").fetchall()
        ]
        if not is_unique or is_partial or origin == "pk" or not {*columns} <= {*missing.columns}:
            continue
        is_same = " AND ".join(f"m.{quoted(column)} = p.{missing.column(column)}" for column in columns)
        sql = (
            f"SELECT p.rowid FROM {PLAN}.{missing.planned} AS p"
            f" WHERE EXISTS (SELECT 1 FROM {LIVE}.{quoted(missing.table)} AS m WHERE {is_same})"
        )
        found.update(row for (row,) in connection.execute(sql))
    return sorted(found)


def changed_keys(connection: sqlite3.Connection, table: str) -> list[str]:
    """The keys of the rows that THEN and LIVE both have, with another value in each; of a table with a key and a value."""
    sql = (
        f"SELECT t.key FROM {THEN}.{quoted(table)} AS t JOIN {LIVE}.{quoted(table)} AS m"
        " ON m.key = t.key WHERE m.value IS NOT t.value"
    )
    return [str(key) for (key,) in connection.execute(sql)]


def guard(connection: sqlite3.Connection, table: str, sql: str) -> Guard:
    """A Guard with what `sql` counts now."""
    return Guard(table, sql, int(connection.execute(sql).fetchone()[0]))


def put_in(connection: sqlite3.Connection, missing: Sequence[MissingRows], guards: Sequence[Guard]) -> float:
    """Put the rows of the plan into LIVE; returns for how many seconds at most the backend had to wait.

    One transaction if it is a short one. More than BATCH_ROWS or BATCH_BYTES are several, of which each is there whole or not
    at all. A row that is there is never changed. Raises DatabaseError, with the transaction rolled back, if a guard counts
    something else than at the plan, or a row has come meanwhile or breaks a rule of the schema.
    """
    live = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    connection.execute(f"PRAGMA busy_timeout={WAIT_S * 1000}")
    connection.execute("PRAGMA wal_autocheckpoint=0")  # the backend does that, and must not wait for ours
    # no wait for the disk while we hold the lock, but after that
    connection.execute("PRAGMA synchronous=NORMAL")
    rows = sum(one.count for one in missing)
    longest_s, done = 0.0, 0
    begun: set[str] = set()
    checked = None  # the content of the database; ours do not count, and the backend has a turn after each transaction
    for batch in list(_batches(connection, missing)):  # no reading goes on while a transaction begins
        try:
            connection.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            found = connection.execute(f"PRAGMA {LIVE}.data_version").fetchone()
            if found != checked:
                _check(connection, (one for one in guards if one.table not in begun), live)
                checked = found
            for part in batch:
                _insert(connection, part, live)
                begun.add(part.missing.table)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if done and isinstance(error, sqlite3.Error):
                error = failure_of_sqlite(live, f"database {live}", error, is_alone=False)
            if done and isinstance(error, BackupError):
                raise DatabaseError(
                    f"{error.message}; {done} of {rows} rows are back", "run this again for the others"
                ) from error
            raise
        longest_s = max(longest_s, time.monotonic() - began)
        done += sum(part.count for part in batch)
        _sync(Path(f"{live}-wal"))
        if done < rows:
            time.sleep(PAUSE_S)
    return longest_s


@dataclass(frozen=True)
class _Part:
    """The rows of the plan that one statement puts in: those from one rowid to another."""

    missing: MissingRows
    first: int
    last: int
    count: int


def _batches(connection: sqlite3.Connection, missing: Iterable[MissingRows]) -> Iterator[list[_Part]]:
    """The rows in parts, as many parts together as one transaction takes."""
    batch: list[_Part] = []
    rows = size = 0
    for one in missing:
        lengths = " + ".join(
            f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in map(one.column, one.columns)
        )
        first = last = count = 0
        for row, length in connection.execute(
            f"SELECT rowid, {lengths} FROM {PLAN}.{one.planned} ORDER BY rowid"
        ):
            if rows and (rows == BATCH_ROWS or size + length > BATCH_BYTES):
                if count:
                    batch.append(_Part(one, first, last, count))
                yield batch
                batch, rows, size, count = [], 0, 0, 0
            first, last, count = first if count else row, row, count + 1
            rows, size = rows + 1, size + length
        if count:
            batch.append(_Part(one, first, last, count))
    if batch:
        yield batch


def _check(connection: sqlite3.Connection, guards: Iterable[Guard], live: Path) -> None:
    for one in guards:
        if connection.execute(one.sql).fetchone()[0] != one.count:
            raise DatabaseError(f"database {live} has changed since the question", _AGAIN)


def _insert(connection: sqlite3.Connection, part: _Part, live: Path) -> None:
    missing = part.missing
    columns = ", ".join(map(quoted, missing.columns))
    planned = ", ".join(map(missing.column, missing.columns))
    done = connection.execute(
        f"INSERT OR IGNORE INTO {LIVE}.{quoted(missing.table)} ({columns})"
        f" SELECT {planned} FROM {PLAN}.{missing.planned} WHERE rowid BETWEEN ? AND ?",
        (part.first, part.last),
    )
    if done.rowcount == part.count:
        return
    is_same = " AND ".join(f"m.{quoted(name)} = p.{missing.column(name)}" for name in missing.key)
    refused = connection.execute(
        f"SELECT {_key_shown(missing)} FROM {PLAN}.{missing.planned} AS p WHERE rowid BETWEEN ? AND ?"
        f" AND NOT EXISTS (SELECT 1 FROM {LIVE}.{quoted(missing.table)} AS m WHERE {is_same}) LIMIT 1",
        (part.first, part.last),
    ).fetchone()
    if refused:
        raise DatabaseError(
            f"row {refused[0]} breaks a rule of table {missing.table} of database {live} by now",
            "nothing was changed; leave it out, by WHO or TABLES",
        )
    raise DatabaseError(
        f"rows of table {missing.table} of database {live} have come back since the question", _AGAIN
    )


def _sync(wal: Path) -> None:
    with safe_open.closed_at_end(safe_open.no_link(wal, os.O_RDONLY)) as descriptor:
        os.fsync(descriptor)


_AGAIN = "nothing was changed; run this again"
