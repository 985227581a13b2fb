"""empty_tables: nothing stays of the rows, and everything else does."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db import interrupts
from dodeka_db.errors import DatabaseError, SnapshotError
from dodeka_db.sqlite import integrity, sample_data
from dodeka_db.sqlite.empty_tables import empty_tables
from dodeka_db.sqlite.export import copy_pages
from dodeka_db.sqlite.header import read_header
from sqlite_files import rows

EMPTIED = ("outbox", "session_cache")
REMEDY = "do something else"


@pytest.fixture
def make(tmp_path):
    """A function that makes a database, changed by `statements`, and returns a copy of it, page for page."""

    def make(*statements: str, page_bytes: int = 4096, vacuum: str = "NONE") -> Path:
        source, path = tmp_path / "db.sqlite", tmp_path / "staged.sqlite"
        sample_data.create(source, members=300)
        with closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute(f"PRAGMA page_size={page_bytes}")
            connection.execute(f"PRAGMA auto_vacuum={vacuum}")
            connection.execute("VACUUM")
            for statement in statements:
                connection.execute(statement)
        copy_pages(source, path)
        return path

    return make


def others(path: Path) -> dict[str, list]:
    return {
        name: rows(path, f"SELECT * FROM {name} ORDER BY 1")
        for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
        if name not in EMPTIED
    }


@pytest.mark.parametrize(
    ("page_bytes", "vacuum"), [(512, "NONE"), (4096, "NONE"), (65536, "FULL"), (1024, "INCREMENTAL")]
)
def test_nothing_of_the_rows_stays_in_the_file_nor_beside_it(make, page_bytes, vacuum):
    big = "INSERT INTO session_cache VALUES ('big', 0, 0, CAST(replace(hex(zeroblob(50000)), '0', 'SECRET') AS BLOB))"
    path = make(
        "CREATE INDEX of_value ON session_cache (value)",
        big,
        page_bytes=page_bytes,
        vacuum=vacuum,
    )
    tokens = [token.encode() for (token,) in rows(path, "SELECT key FROM session_cache WHERE key <> 'big'")]
    before, schema, content = others(path), rows(path), path.read_bytes()
    assert len(tokens) == 100 and all(token in content for token in [*tokens, b"SECRET"])
    empty_tables(path, "the staged file", EMPTIED, REMEDY)
    left = path.read_bytes()
    assert not [token for token in [*tokens, b"SECRET", b"send_registration_invite"] if token in left]
    assert [path.name] == [file.name for file in path.parent.glob("staged*")]
    assert all(sample_data.count(path, table) == 0 for table in EMPTIED)
    if vacuum == "NONE":
        assert rows(path) == schema, "root pages too"
    assert [row[:3] + row[4:] for row in rows(path)] == [row[:3] + row[4:] for row in schema]
    assert others(path) == before
    assert read_header(path).page_bytes == page_bytes
    findings = integrity.verify(path, "the staged file")
    assert not findings.lines()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_in_another_user_s_folder_where_no_journal_is_rolled_back(make):
    path = make()
    os.chown(path.parent, 12345, 12345)
    empty_tables(path, "the staged file", EMPTIED, REMEDY)
    assert [path.name] == [file.name for file in path.parent.glob("staged*")]
    assert all(sample_data.count(path, table) == 0 for table in EMPTIED)


def test_tables_of_other_shapes(make):
    """WITHOUT ROWID, and with an index that needs a function which is not there."""
    path = make(
        "ALTER TABLE outbox RENAME TO old",
        "CREATE TABLE outbox (key TEXT PRIMARY KEY, counter, expiration, value BLOB UNIQUE) WITHOUT ROWID",
        "INSERT INTO outbox SELECT key, counter, expiration, CAST(key AS BLOB) FROM old",
        "CREATE INDEX short ON session_cache (length(key))",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'length', 'lacking') WHERE name = 'short'",
    )
    assert sample_data.count(path, "outbox") == 15
    empty_tables(path, "the staged file", EMPTIED, REMEDY)
    assert [sample_data.count(path, table) for table in (*EMPTIED, "old")] == [0, 0, 15]
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("lacking", 1, len, deterministic=True)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_index_that_loses_its_rows_too_may_be_one_that_had_defects(make):
    """Entries that are missing: nothing looks into the index."""
    path = make("CREATE INDEX of_value ON outbox (value)")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX of_value ON outbox (value) WHERE counter > 0' WHERE name = 'of_value'"
        )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM outbox WHERE rowid = 1")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX of_value ON outbox (value)' WHERE name = 'of_value'"
        )
    assert integrity.verify(path, "the staged file").defects
    empty_tables(path, "the staged file", EMPTIED, REMEDY)
    assert not integrity.verify(path, "the staged file").defects


def test_a_trigger_is_not_run(make):
    path = make(
        "CREATE TRIGGER also AFTER DELETE ON Outbox BEGIN DELETE FROM users; END",
    )
    before = others(path)
    with pytest.raises(
        SnapshotError, match=r"outbox of snapshot 1 has the trigger also, .*; do something else$"
    ):
        empty_tables(path, "snapshot 1", ["session_cache", "outbox"], REMEDY)
    assert others(path) == before and sample_data.count(path, "session_cache") == 100, "all or nothing"
    empty_tables(path, "snapshot 1", ["session_cache"], REMEDY)
    assert others(path) == before and sample_data.count(path, "session_cache") == 0


def test_some_rows_of_a_table_by_their_keys(make):
    path = make("CREATE INDEX of_value ON metadata (value)", "CREATE INDEX of_mail ON users_by_email (value)")
    before = others(path)
    (password,) = [json.loads(value)["password"] for key, _, _, value in before["metadata"] if "admin" in key]
    assert password.encode() in path.read_bytes()
    meant = {"metadata": lambda key: key.startswith("bootstrap"), "users_by_email": lambda _: False}
    empty_tables(path, "snapshot 1", ["outbox"], REMEDY, meant)
    expected = [row for row in before["metadata"] if row[0] == "user_id_counter"]
    assert others(path) == {**before, "metadata": expected}
    assert password.encode() not in path.read_bytes()
    assert not integrity.verify(path, "snapshot 1").lines()


def test_keys_that_are_not_text(make):
    path = make(
        "CREATE TABLE loose (key, value)", "INSERT INTO loose VALUES (x'61', 1), (NULL, 2), (3, 3), ('b', 4)"
    )
    meant = []
    empty_tables(path, "snapshot 1", [], REMEDY, {"loose": lambda key: meant.append(key) or key == "a"})
    assert meant == ["a", "None", "3", "b"] and sample_data.count(path, "loose") == 3


def test_a_signal_while_keys_are_looked_at_is_no_failure_of_sqlite(make):
    path = make()

    def meant(_key: str) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    before = signal.signal(signal.SIGTERM, interrupts._on_signal)
    try:
        with pytest.raises(interrupts.Interrupted):
            empty_tables(path, "snapshot 1", [], REMEDY, {"metadata": meant})
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_table_without_keys_is_refused_whole(make):
    path = make("ALTER TABLE metadata RENAME COLUMN key TO name")
    before = others(path)
    with pytest.raises(DatabaseError, match="cannot read snapshot 1: no such column: key"):
        empty_tables(path, "snapshot 1", EMPTIED, REMEDY, {"metadata": lambda _: True})
    assert others(path) == before and sample_data.count(path, "outbox") == 15


def test_sqlite_s_own_samples_of_the_keys_go_too(make):
    """As ANALYZE makes them where SQLite is built for that."""
    path = make(
        "CREATE TABLE samples (tbl, idx, neq, nlt, ndlt, sample)",
        "INSERT INTO samples SELECT 'Session_cache', 'sqlite_autoindex_session_cache_1', 1, 1, 1, CAST(key AS BLOB)"
        " FROM session_cache",
        "INSERT INTO samples VALUES ('users', 'sqlite_autoindex_users_1', 1, 1, 1, x'00')",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET name = 'sqlite_stat4', tbl_name = 'sqlite_stat4',"
        " sql = 'CREATE TABLE sqlite_stat4(tbl, idx, neq, nlt, ndlt, sample)' WHERE name = 'samples'",
    )
    tokens = [token.encode() for (token,) in rows(path, "SELECT key FROM session_cache")]
    empty_tables(path, "snapshot 1", EMPTIED, REMEDY)
    assert rows(path, "SELECT tbl FROM sqlite_stat4") == [("users",)]
    assert not [token for token in tokens if token in path.read_bytes()]


def test_a_schema_of_a_newer_sqlite_is_not_half_understood(make):
    """An index that this SQLite cannot parse would keep the entries of rows that are gone."""
    path = make(
        "CREATE INDEX newer ON outbox (value)",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'ON outbox', 'NEWER outbox') WHERE name = 'newer'",
    )
    with pytest.raises(DatabaseError, match=r"cannot read snapshot 1: malformed database schema \(newer\)"):
        empty_tables(path, "snapshot 1", ["outbox"], REMEDY)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema=ON")
    assert connection.execute("SELECT count(*) FROM outbox NOT INDEXED").fetchone() == (15,)
    connection.close()
