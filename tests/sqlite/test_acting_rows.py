"""acting_rows: on which rows the backend acts, and what a second database says of them."""

import json
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db import data_description
from dodeka_db.errors import DatabaseError
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.acting_rows import ActingRows, acting_rows
from dodeka_db.sqlite.export import export_compacted

TABLES = data_description.read().tables
MAILS = 20


def counted(path: Path, name: str, other: Path | None) -> ActingRows:
    return acting_rows(path, TABLES[name], TABLES[name].action, other)


def counts(path: Path, name: str, other: Path | None) -> tuple:
    found = counted(path, name, other)
    return found.count, found.still, found.otherwise, found.missing


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def set_status(path: Path, rowid: int, status: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        (value,) = connection.execute("SELECT value FROM outbox WHERE rowid = ?", (rowid,)).fetchone()
        changed = json.dumps({**json.loads(value), "status": status}).encode()
        connection.execute("UPDATE outbox SET value = ? WHERE rowid = ?", (changed, rowid))


@pytest.fixture
def then(tmp_path) -> Path:
    """With 20 mails that wait; the sessions of the made-up database have expired."""
    sample_data.create(tmp_path / "live.sqlite", members=MAILS * 20)
    export_compacted(tmp_path / "live.sqlite", tmp_path / "then.sqlite")
    return tmp_path / "then.sqlite"


@pytest.fixture
def live(then) -> Path:
    return then.with_name("live.sqlite")


def test_mails_that_were_sent_since_and_mails_of_which_nothing_is_known(then, live):
    assert counts(then, "outbox", None) == (20, None, None, None)
    assert counts(then, "outbox", live) == (20, 20, 0, 0)
    for rowid in range(1, 10):
        set_status(live, rowid, "sent" if rowid % 2 else "failed")
    execute(live, "DELETE FROM outbox WHERE rowid IN (10, 11)")
    with closing(sqlite3.connect(live)) as connection, connection:
        sample_data.add_mail(connection, random.Random(9), "of later", "later@example.org")
    assert counts(then, "outbox", live) == (20, 9, 9, 2)
    # what was sent by then does not count
    set_status(then, 20, "sent")
    execute(then, "UPDATE outbox SET value = x'00ff' WHERE rowid = 19")
    assert counts(then, "outbox", live) == (18, 7, 9, 2)


def test_sessions_count_until_they_expire(then, live):
    assert counts(then, "session_cache", None)[0] == 0
    later = int(time.time()) + 60
    for path in (then, live):
        execute(
            path,
            f"UPDATE session_cache SET expiration = {later} WHERE rowid <= 31",
            "UPDATE session_cache SET expiration = 0 WHERE rowid = 32",
        )
    assert counts(then, "session_cache", live) == (32, 32, 0, 0)
    execute(live, "DELETE FROM session_cache WHERE rowid = 1")
    execute(live, f"UPDATE session_cache SET expiration = {later - 61} WHERE rowid = 2")
    assert counts(then, "session_cache", live) == (32, 30, 0, 2)


def test_a_live_table_without_a_key_takes_no_longer(then, live):
    """Neither a damaged index nor a missing one changes the answer: none is read."""
    execute(live, "CREATE TABLE copy AS SELECT * FROM outbox", "DROP TABLE outbox")
    execute(live, "ALTER TABLE copy RENAME TO outbox", "INSERT INTO outbox SELECT * FROM outbox")
    many = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
    values = "SELECT key || i, 0, 0, value FROM n, (SELECT * FROM outbox LIMIT 1)"
    execute(then, f"INSERT INTO outbox {many} {values}")
    execute(live, f"INSERT INTO outbox {many} {values}")
    began = time.monotonic()
    assert counts(then, "outbox", live) == (30_020, 30_020, 0, 0)
    assert time.monotonic() - began < 20


def test_a_table_of_another_shape_is_an_error(then, live):
    execute(live, "ALTER TABLE outbox DROP COLUMN expiration")
    with pytest.raises(DatabaseError, match=rf"cannot read database {live}: no such column: expiration"):
        counts(then, "outbox", live)


def test_no_such_table_or_a_view_of_that_name_has_no_such_rows(then, live):
    execute(live, "ALTER TABLE outbox RENAME TO mails")
    assert counts(then, "outbox", live) == (20, 0, 0, 20)
    execute(live, "CREATE VIEW outbox AS SELECT * FROM mails")
    assert counts(then, "outbox", live) == (20, 0, 0, 20)
