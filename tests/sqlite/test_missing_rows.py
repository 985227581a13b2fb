"""The rows that an older database has and the live one lacks: which they are, for every sort of table, and putting them in."""

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db.errors import DatabaseError
from dodeka_db.sqlite import header, missing_rows
from dodeka_db.sqlite.connection import quoted
from dodeka_db.sqlite.missing_rows import PLAN
from sqlite_files import leave_hot_journal, rows

WAL = "PRAGMA journal_mode=WAL"


@pytest.fixture
def live(tmp_path) -> Path:
    return tmp_path / "db.sqlite"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def older(live: Path, *statements: str) -> Path:
    """Make `live` by the statements; a copy of it as it is now is the older database."""
    execute(live, WAL, *statements)
    return Path(shutil.copy(live, live.with_name("older.sqlite")))


def bring_back(
    live: Path, then: Path, *names: str, meanwhile: Callable[[], object] = lambda: None
) -> tuple[dict[str, int], dict[str, str]]:
    """Bring all missing rows of these tables back; how many there were of each table, and the reasons for those left out."""
    plan = live.with_name("plan")
    plan.unlink(missing_ok=True)
    plan.touch()
    with missing_rows.planning(live, then, plan) as connection:
        found, left_out = missing_rows.find(connection, names)
        found = [
            missing_rows.take_out(connection, one, missing_rows.taken_values(connection, one))
            for one in found
        ]
        guards = [missing_rows.guard(connection, "", f"SELECT count(*) FROM {PLAN}.sqlite_master")]
    meanwhile()
    if not found:
        return {}, {one.table: one.reason for one in left_out}
    with missing_rows.putting_in(live, plan) as connection:
        missing_rows.put_in(connection, found, guards)
    assert rows(live, "PRAGMA integrity_check") == [("ok",)]
    return {one.table: one.count for one in found}, {one.table: one.reason for one in left_out}


@pytest.mark.parametrize(
    "columns",
    [
        "(k INTEGER PRIMARY KEY, v)",
        "(k INTEGER PRIMARY KEY AUTOINCREMENT, v)",
        "(k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "(k, v, PRIMARY KEY (v, k))",
        "(k TEXT, v BLOB, PRIMARY KEY (k, v)) WITHOUT ROWID",
        "(k TEXT PRIMARY KEY, v BLOB, twice AS (v || v) STORED, length AS (length(v)))",
        "(rowid TEXT, _rowid_ TEXT, k TEXT PRIMARY KEY, v, oid TEXT)",
        "(k ANY PRIMARY KEY, v ANY) STRICT",
        "(k REAL PRIMARY KEY, v)",
    ],
)
def test_each_sort_of_table(live, columns):
    name = 'a "table" of a\'s'
    then = older(
        live,
        f"CREATE TABLE {quoted(name)} {columns}",
        f"INSERT INTO {quoted(name)} (k, v) VALUES (1, x'00ff'), (2, 'two'), (3, CAST(x'ff' AS TEXT)), (4, 4.5)",
    )
    look = f"SELECT k, CAST(v AS BLOB), typeof(v) FROM {quoted(name)} WHERE k <> 9 ORDER BY k"
    before = rows(live, look)
    execute(
        live,
        f"DELETE FROM {quoted(name)} WHERE k <> 2",
        f"INSERT INTO {quoted(name)} (k, v) VALUES (9, 'since')",
    )
    assert bring_back(live, then, name) == ({name: 3}, {})
    assert rows(live, look) == before
    assert bring_back(live, then, name) == ({}, {}), "nothing is missing now"


def test_a_row_that_is_there_is_never_changed(live):
    then = older(live, "CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 2)")
    execute(live, "DELETE FROM t WHERE k = 'a'", "UPDATE t SET v = 'new' WHERE k = 'b'")
    assert bring_back(live, then, "t") == ({"t": 1}, {})
    assert rows(live, "SELECT * FROM t ORDER BY k") == [("a", 1), ("b", "new")]


def test_keys_are_equal_as_the_table_says(live):
    then = older(
        live,
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v)",
        "INSERT INTO t VALUES ('Anna', 1), ('Ben', 2)",
    )
    execute(live, "DELETE FROM t", "INSERT INTO t VALUES ('ANNA', 3)")
    assert bring_back(live, then, "t") == ({"t": 1}, {})
    assert rows(live, "SELECT * FROM t ORDER BY k") == [("ANNA", 3), ("Ben", 2)]


def test_a_value_that_must_be_unique_and_is_taken(live):
    then = older(
        live,
        "CREATE TABLE t (k INTEGER PRIMARY KEY, address TEXT UNIQUE, number)",
        "CREATE UNIQUE INDEX i ON t (number, address)",
        "INSERT INTO t VALUES (1, 'a@example.org', 1), (2, 'b@example.org', 2), (3, NULL, 3)",
    )
    execute(live, "DELETE FROM t", "INSERT INTO t VALUES (9, 'a@example.org', 9)")
    assert bring_back(live, then, "t") == ({"t": 2}, {})
    assert rows(live, "SELECT k FROM t ORDER BY k") == [(2,), (3,), (9,)]


def test_an_index_that_is_not_looked_at_beforehand_makes_it_all_or_nothing(live):
    then = older(
        live,
        "CREATE TABLE t (k INTEGER PRIMARY KEY, v)",
        "CREATE UNIQUE INDEX i ON t (v) WHERE v > 5",
        "INSERT INTO t VALUES (1, 1), (2, 6)",
    )
    execute(live, "DELETE FROM t", "INSERT INTO t VALUES (9, 6)")
    with pytest.raises(
        DatabaseError,
        match=r"row 2 breaks a rule of table t of database .* by now; nothing was changed; leave it out",
    ):
        bring_back(live, then, "t")
    assert rows(live, "SELECT k FROM t") == [(9,)]


@pytest.mark.parametrize(
    ("made", "then_changed", "reason"),
    [
        ("CREATE TABLE t (k, v)", "", "it has no primary key, by which its rows could be told apart"),
        (
            "CREATE TABLE t (k PRIMARY KEY, v)",
            "ALTER TABLE t ADD COLUMN w",
            "the table was defined in another way then",
        ),
        ("CREATE TABLE t (k PRIMARY KEY, v)", "DROP TABLE t", "the table is gone now"),
        ("CREATE VIRTUAL TABLE t USING fts5 (k, v)", "", "a virtual table"),
        (
            "CREATE TABLE t (k PRIMARY KEY, v)",
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM other; END",
            "it has a trigger, which would change other rows too",
        ),
    ],
)
def test_a_table_whose_rows_stay_away(live, made, then_changed, reason):
    then = older(live, made, "INSERT INTO t (k, v) VALUES ('a', 1)", "CREATE TABLE other (k PRIMARY KEY)")
    execute(live, "DELETE FROM t", *filter(None, [then_changed]), "INSERT INTO other VALUES (1)")
    assert bring_back(live, then, "t", "other") == ({}, {"t": reason})
    assert rows(live, "SELECT * FROM other") == [(1,)]


def test_part_of_a_virtual_table(live):
    then = older(live, "CREATE VIRTUAL TABLE f USING fts5 (k)", "INSERT INTO f VALUES ('a')")
    execute(live, "DELETE FROM f")
    assert bring_back(live, then, "f_content") == ({}, {"f_content": "part of the virtual table f"})


def test_a_row_with_a_null_in_its_key(live):
    then = older(live, "CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES (NULL, 1), ('a', 1)")
    execute(live, "DELETE FROM t")
    assert bring_back(live, then, "t") == ({"t": 1}, {"t": "rows with a NULL in the primary key: 1"})


def test_a_damaged_index_makes_no_row_come_twice(live):
    then = older(live, "CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 2)")
    execute(live, "DELETE FROM t WHERE k = 'b'")
    execute(
        live,  # the index of the key loses its entry of 'a'
        "CREATE TABLE empty (k TEXT PRIMARY KEY)",
        "PRAGMA writable_schema=ON",
        """UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_empty_1')
           WHERE name = 'sqlite_autoindex_t_1'""",
    )
    with missing_rows.planning(live, then, _empty(live)) as connection:
        (found,), _ = missing_rows.find(connection, ["t"])
        assert [key for _, key in missing_rows.keys(connection, found)] == ["b"]


def _empty(live: Path) -> Path:
    plan = live.with_name("plan")
    plan.touch()
    return plan


def test_what_has_come_since_the_plan_changes_nothing(live):
    then = older(live, "CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 2)")
    execute(live, "DELETE FROM t")
    with pytest.raises(
        DatabaseError, match=r"rows of table t of database .* have come back since the question"
    ):
        bring_back(live, then, "t", meanwhile=lambda: execute(live, "INSERT INTO t VALUES ('a', 'since')"))
    assert rows(live, "SELECT * FROM t") == [("a", "since")]


def test_a_guard_that_counts_something_else(live):
    then = older(
        live, "CREATE TABLE t (k TEXT PRIMARY KEY)", "INSERT INTO t VALUES ('a')", "CREATE TABLE u (k)"
    )
    execute(live, "DELETE FROM t")
    plan = _empty(live)
    with missing_rows.planning(live, then, plan) as connection:
        found, _ = missing_rows.find(connection, ["t"])
        guards = [missing_rows.guard(connection, "u", "SELECT count(*) FROM u")]
    execute(live, "INSERT INTO u VALUES (1)")
    with (
        pytest.raises(DatabaseError, match="has changed since the question; nothing was changed"),
        missing_rows.putting_in(live, plan) as connection,
    ):
        missing_rows.put_in(connection, found, guards)
    assert rows(live, "SELECT * FROM t") == []


@pytest.mark.parametrize("also_puts_in_u", [False, True])
def test_a_guard_is_looked_at_in_each_transaction_until_its_own_rows_are_put_in(
    live, monkeypatch, also_puts_in_u
):
    """The backend writes between two of them, and what we put in counts ourselves."""
    rows_of_t = [f"INSERT INTO t VALUES ({number})" for number in range(4)]
    then = older(live, "CREATE TABLE t (k PRIMARY KEY)", "CREATE TABLE u (k PRIMARY KEY)", *rows_of_t)
    if also_puts_in_u:
        execute(then, "INSERT INTO u VALUES (1)", "INSERT INTO u VALUES (2)")
    execute(live, "DELETE FROM t")
    plan = _empty(live)
    with missing_rows.planning(live, then, plan) as connection:
        found, _ = missing_rows.find(connection, ["u", "t"] if also_puts_in_u else ["t"])
        guards = [missing_rows.guard(connection, "u", "SELECT count(*) FROM u")]
    monkeypatch.setattr(missing_rows, "BATCH_ROWS", 2)
    table = "other" if also_puts_in_u else "u"
    execute(live, "CREATE TABLE other (k)")
    monkeypatch.setattr(time, "sleep", lambda _: execute(live, f"INSERT INTO {table} VALUES (3)"))
    with missing_rows.putting_in(live, plan) as connection:
        if also_puts_in_u:
            missing_rows.put_in(connection, found, guards)
        else:
            said = "has changed since the question; 2 of 4 rows are back"
            with pytest.raises(DatabaseError, match=said):
                missing_rows.put_in(connection, found, guards)
    assert rows(live, "SELECT count(*) FROM t") == [(4 if also_puts_in_u else 2,)]


def test_what_fails_in_a_later_transaction_says_that_rows_are_back(live, monkeypatch):
    then = older(
        live, "CREATE TABLE t (k PRIMARY KEY)", *(f"INSERT INTO t VALUES ({one})" for one in range(4))
    )
    execute(live, "DELETE FROM t")
    plan = _empty(live)
    with missing_rows.planning(live, then, plan) as connection:
        found, _ = missing_rows.find(connection, ["t"])
    monkeypatch.setattr(missing_rows, "BATCH_ROWS", 2)
    monkeypatch.setattr(missing_rows, "WAIT_S", 0)
    with closing(sqlite3.connect(live, isolation_level=None)) as backend:
        monkeypatch.setattr(time, "sleep", lambda _: backend.execute("BEGIN IMMEDIATE"))
        said = "is locked by another process; 2 of 4 rows are back"
        with pytest.raises(DatabaseError, match=said), missing_rows.putting_in(live, plan) as connection:
            missing_rows.put_in(connection, found, [])


def test_a_database_whose_backend_would_have_to_wait_is_refused(live):
    then = older(live, "CREATE TABLE t (k PRIMARY KEY)")
    execute(live, "PRAGMA journal_mode=DELETE")
    with pytest.raises(DatabaseError, match="is not in WAL mode, the backend's own; start its service once"):
        bring_back(live, then, "t")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_in_the_folder_of_another_user_beside_its_backend(live):
    then = older(live, "CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 2)")
    os.chown(live.parent, 12345, 12345)
    with closing(sqlite3.connect(live, isolation_level=None)) as backend:
        backend.execute("DELETE FROM t")
        assert bring_back(live, then, "t") == ({"t": 2}, {})
        assert backend.execute("SELECT count(*) FROM t").fetchone() == (2,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_journal_in_the_folder_of_another_user_is_not_rolled_back(live):
    """It could name a file of ours, which SQLite would delete."""
    then = older(live, "CREATE TABLE other (k PRIMARY KEY)")
    execute(live, "PRAGMA journal_mode=DELETE")
    leave_hot_journal(live)
    header.set_journal_mode(live, wal=True)
    os.chown(live.parent, 12345, 12345)
    journal = Path(f"{live}-journal").read_bytes()
    with (
        pytest.raises(DatabaseError, match=r"unfinished transaction|locked by another"),
        missing_rows.putting_in(live, then) as connection,
    ):
        connection.execute("INSERT INTO other VALUES (1)")
    assert Path(f"{live}-journal").read_bytes() == journal


@pytest.mark.long
def test_a_hundred_thousand_rows_while_others_write(live):
    """Writers as the backend's, which give up after 500 ms, are never refused; nor do they wait for long."""
    then = older(
        live,
        "CREATE TABLE t (k TEXT PRIMARY KEY, v BLOB)",
        "CREATE TABLE mine (k INTEGER PRIMARY KEY)",
        """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
           INSERT INTO t SELECT i, randomblob(500) FROM n""",
    )
    execute(live, "DELETE FROM t WHERE k > 3")
    waits, failures, written = [], [], 0
    stop = threading.Event()

    def write() -> None:
        nonlocal written
        with closing(sqlite3.connect(live, isolation_level=None, timeout=0.5)) as backend:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    backend.execute("INSERT INTO mine DEFAULT VALUES")
                    written += 1
                except sqlite3.OperationalError as error:
                    failures.append(error)
                waits.append(time.monotonic() - began)
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        gone = 100_000 - rows(live, "SELECT count(*) FROM t")[0][0]
        assert bring_back(live, then, "t") == ({"t": gone}, {})
    finally:
        stop.set()
        writer.join()
    assert failures == [] and max(waits) < 0.5
    assert rows(live, "SELECT count(*) FROM t") == [(100_000,)]
    assert rows(live, "SELECT count(*) FROM mine") == [(written,)] and written > 10
