"""The check of a masked copy: what counts as an original, in which forms, and where in a file it is found."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db import data_description
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.originals import Originals
from dodeka_db.sqlite.originals_left import Values, find_left, originals_of
from dodeka_db.sqlite.page_texts import row_and_text_spans
from sqlite_files import rows

MEMBERS = 30
FOUND = [
    # an original, and a text that has it
    ("name", "Anna", b"hannah"),
    ("name", "Anna", b"susANNA"),
    ("name", "Bo", b"x bo y"),
    ("name", "Bo", b"12_BO_li"),
    ("name", "Jan-Willem", b"willem"),
    ("name", "O'Brien", b"o-x"),
    ("name", "van der Ster", b"meester"),
    ("name", "van der Ster", b"Van"),
    ("name", "Ren\u00e9", "ren\u00e9".encode()),
    ("name", "Ren\u00e9", "REN\u00c9".encode()),
    ("name", "Ren\u00e9", "Rene\u0301".encode()),
    ("name", "Ren\u00e9", b'"Ren\\u00e9"'),
    ("name", "Ren\u00e9", b'"REN\\u00C9"'),
    ("name", "Ren\u00e9", b"rene"),
    ("name", "Zo\u00eb", "x zo\u00cb y".encode()),
    ("name", "Zo\u00eb", b'{"a": "Zo\\u00eb"}'),
    ("name", "\u00d8verland", b"overland"),
    ("name", "Anna", b'"\\u0041nna"'),
    ("name", "\u738b\u5c0f\u660e", "\u738b\u5c0f\u660e".encode()),
    ("user ID", "12_bo_van voorbeeld", b"BO"),
    ("user ID", "12_bo_van voorbeeld", b"voorbeelden"),
    ("address", " Anna.12@Example.com", b"<anna.12@example.com>"),
    ("address", "ren\u00e9@example.com", b'"ren\\u00e9@example.com"'),
    ("number", "9000012", b"NL9000012x"),
    ("number", "9000012", b"-9000012"),
    ("date", "2001-04-30", b"2001-04-30T00:00:00"),
    ("secret", "0a1b2c3d4e", b"x 0A1B2C3D4E"),
    ("secret", "a+b/c+d/e=", b"xa+b/c+d/e=x"),
]
NOT_FOUND = [
    ("name", "Bo", b"boat abbot bo2 \xc3\xa9bo"),
    ("name", "Anna", b"ann anne"),
    ("name", "-", b"- . ''"),
    ("name", "", b"x"),
    ("name", "3", b"3"),
    ("user ID", "12_bo_li", b"12 12_12"),
    ("number", "9000012", b"19000012 90000120"),
    ("number", "12", b"12"),
    ("secret", "1234", b"1234"),
    ("text", "x", b"y"),
    # in these letters they are the backend's own words
    ("name", "Mail", b'"email": "users_by_email"'),
    ("name", "By", b"users_by_email"),
    ("name", "Stra", b"registrations"),
]


@pytest.mark.parametrize(("personal", "original", "content"), FOUND, ids=str)
def test_what_is_found(personal, original, content):
    originals = Originals([(personal, original)], ["email", "users_by_email", "registrations"])
    assert originals.any_in(content) == personal
    assert originals.any_in(b"x" * 100 + b"\0" + content + b"\0" + b"x" * 100) == personal


@pytest.mark.parametrize(("personal", "original", "content"), NOT_FOUND, ids=str)
def test_what_is_not_found(personal, original, content):
    assert (
        Originals([(personal, original)], ["email", "users_by_email", "registrations"]).any_in(content) == ""
    )


@pytest.mark.parametrize("content", [b"Email", b"mail", b"e mail", b"By", b"registrationS", b"email mail"])
def test_a_word_of_the_backend_in_other_letters_is_an_original(content):
    values = [("name", "Mail"), ("name", "By"), ("name", "Stra")]
    assert Originals(values, ["email", "users_by_email", "registrations"]).any_in(content) == "name"


def test_a_database_without_anybody():
    assert Originals([], ["email"]).any_in(b"anna@example.org 9000012 2001-04-30") == ""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "db.sqlite"
    sample_data.create(path, MEMBERS)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return path


def originals(path: Path) -> Originals:
    description = data_description.read()
    with opened(path, "mode=ro", "the source") as connection:
        return originals_of(Values(connection, description), description)


def test_the_values_of_every_table_are_read_those_of_the_moment_too(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        sample_data.insert(
            connection,
            "tokens",
            "signup:asked@example.com",
            {"action": "signup", "email": "asked@example.com"},
        )
        connection.execute("UPDATE sync SET value = x'6e6f' WHERE key = '9000003'")
    with opened(path, "mode=ro", "the source") as connection:
        found = Values(connection, data_description.read()).by_personal
    # what may be a user ID or a token counts as both
    assert len([one for one in found["user ID"] if "_" in one]) == MEMBERS
    assert len(found["number"]) == MEMBERS + 2
    assert "asked@example.com" in found["address"]
    assert "text" not in found and "no" not in found
    listed = [json.loads(value) for (value,) in rows(path, "SELECT value FROM volta_data")]
    assert {one["geboortedatum"] for one in listed} <= found["date"]
    assert {one["achternaam"] for one in listed} <= found["name"]


@pytest.mark.parametrize("table", sample_data.TABLES)
def test_an_original_is_found_in_each_table_that_has_one(path, tmp_path, table):
    """A file with that table alone."""
    looked_for = originals(path)
    with closing(sqlite3.connect(tmp_path / "one.sqlite")) as connection, connection:
        connection.execute("ATTACH ? AS source", (str(path),))
        connection.execute(f"CREATE TABLE {table} AS SELECT * FROM source.{table}")
    left = find_left(tmp_path / "one.sqlite", looked_for, "the copy")
    assert (left and left.place) == (None if table in ("sync_state", "private") else f"table {table}")


def test_an_original_in_what_is_no_row(path, tmp_path):
    """A deleted row, in a page that is free; and bytes between the rows of a page."""
    looked_for = originals(path)
    copy = tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("CREATE TABLE t (key TEXT, value BLOB)")
        connection.execute("INSERT INTO t VALUES ('nobody', 'Voorbeeld')")
        left = find_left(copy, looked_for, "the copy")
        assert left and (left.place, left.personal in ("name", "user ID")) == ("table t", True)
        connection.execute("DELETE FROM t")
    assert b"Voorbeeld" in copy.read_bytes()
    left = find_left(copy, looked_for, "the copy")
    assert left and left.place == "the bytes between the rows"


def test_an_original_that_begins_in_a_text_and_ends_in_sqlite_s_own_bytes_is_chance(path, tmp_path):
    """The last bytes of a row of an index are the number of the row in its table: here 'Na'."""
    looked_for, copy = Originals([("name", "Anna")], []), tmp_path / "copy.sqlite"
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("CREATE TABLE t (key TEXT PRIMARY KEY, value BLOB)")
        connection.execute(
            "INSERT INTO t (rowid, key, value) VALUES (?, 'weeban', 'x')", (int.from_bytes(b"Na", "big"),)
        )
    assert b"anNa" in copy.read_bytes()
    assert find_left(copy, looked_for, "the copy") is None


@pytest.mark.parametrize("page_bytes", [512, 4096, 65536])
@pytest.mark.parametrize("without_rowid", ["", " WITHOUT ROWID"])
def test_where_texts_stand_on_a_page(tmp_path, page_bytes, without_rowid):
    """Of each row, also of those that go on on other pages."""
    path = tmp_path / "db.sqlite"
    texts = {f"<{number}>{'k' * (number % 40)}": f"[{number}]{'v' * (number * 3)}" for number in range(900)}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA page_size={page_bytes}")
        connection.execute(f"CREATE TABLE t (key TEXT PRIMARY KEY, n INTEGER, value BLOB){without_rowid}")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?)",
            [(key, len(key) * 1000, value.encode()) for key, value in texts.items()],
        )
    content, spans = path.read_bytes(), []
    for at in range(0, len(content), page_bytes):
        page = content[at : at + page_bytes]
        spans += [
            page[start:end].decode(errors="replace") for start, end in row_and_text_spans(page, at == 0)[1]
        ]
    for number, (key, value) in enumerate(texts.items()):
        here = [span for span in spans if span.startswith(f"[{number}]")]
        assert all(value.startswith(span) or span.startswith(value) for span in here)
        if len(key + value) <= page_bytes // 8:  # it is on one page
            assert here == [value]
            assert spans.count(key) == (1 if without_rowid else 2), (
                "in the table, and in the index of the key"
            )
