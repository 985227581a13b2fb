"""masked_copy: the same database without the people. What must not be in it is found by a scanner of this file's own."""

import json
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dodeka_db import data_description
from dodeka_db.errors import BackupError, SnapshotError, as_line
from dodeka_db.sqlite import integrity, sample_data
from dodeka_db.sqlite import masked_copy as module
from dodeka_db.sqlite.export import copy_pages, export_compacted
from dodeka_db.sqlite.masked_copy import Masked, masked_copy
from sqlite_files import rows

MEMBERS = 60
CREDENTIALS = "bootstrap_admin_credentials"
MOMENT = ("outbox", "session_cache", "tokens", "sync", "sync_state", "sync_decisions")
# short ones, ones inside words of the schema, accents, the same twice, in capital letters, prefixes
HARD = (
    ("Bo", "", "Li"),
    ("Jo", "de", "Vries"),
    ("Ruben", "van der", "Ster"),
    ("Isa", "", "Pass"),
    ("René", "", "Brontë"),
    ("Zoë", "van den", "Øverland"),
    ("Anna", "", "Annema"),
    ("ANNA", "", "Annema"),
    ("Ilse", "", "Mail"),
    ("Jan-Willem", "in 't", "O'Brien"),
    ("Sören", "", "ÇELİK"),
    ("Exam", "", "Ample"),
    ("Kees", "", "Stra"),
    ("Chloe\u0301", "", "Zu\u0308rich"),
)


@pytest.fixture(scope="module")
def production(tmp_path_factory):
    """Production's database, with hard names; and with remains of members who left, in free pages."""
    path = tmp_path_factory.mktemp("production") / "db.sqlite"
    sample_data.create(path, MEMBERS)
    rng = sample_data.random.Random(5)
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
        pytest.MonkeyPatch.context() as patch,
    ):
        connection.execute("PRAGMA secure_delete=OFF")  # some builds overwrite what is deleted
        connection.execute("BEGIN")
        for number, name in enumerate(HARD * 2, MEMBERS):
            patch.setattr(sample_data, "_name", lambda rng, name=name: name)
            sample_data.add_member(connection, rng, number)
        for number in range(2000, 2300):
            patch.setattr(sample_data, "_name", lambda rng: ("Verdwenen", "", "Weggegaan"))
            sample_data.add_member(connection, rng, number)
        connection.execute("COMMIT")
        for table in sample_data.TABLES:
            connection.execute(f"DELETE FROM {table} WHERE instr(CAST(key || value AS TEXT), 'erdwenen')")
        connection.execute("DELETE FROM users_by_email WHERE key LIKE 'verdwenen%'")
        # as somebody typed it
        connection.execute(
            "UPDATE users SET value = CAST(upper(value) AS BLOB) WHERE key LIKE '3~_%:email' ESCAPE '~'"
        )
        connection.execute("UPDATE metadata SET value = CAST('2300' AS BLOB) WHERE key = 'user_id_counter'")
        connection.execute("PRAGMA user_version=7")
    return path


@pytest.fixture
def make(production, tmp_path):
    """A function that gives a private copy of production, changed by `statements`."""

    def make(*statements: str, copy=copy_pages) -> Path:
        (tmp_path / "staging").mkdir(exist_ok=True)
        source = tmp_path / "staging" / "source.sqlite"
        source.unlink(missing_ok=True)
        copy(production, source)
        if statements:
            with closing(sqlite3.connect(source, isolation_level=None)) as connection:
                for statement in statements:
                    connection.execute(statement)
        return source

    return make


def mask(source: Path, name: str = "masked.sqlite", description=None) -> tuple[Path, Masked]:
    target = source.parent.parent / name
    target.touch(mode=0o600)
    return target, masked_copy(
        source, target, "the database in snapshot 1", description or data_description.read()
    )


def personal(source: Path) -> tuple[set[str], set[str]]:
    """What is personal in the sample's own tables, by the names of their fields: names, and all else."""
    names, others = set(), set()
    for table in sample_data.TABLES:
        for key, value in rows(source, f"SELECT key, value FROM {table}"):
            text = value.decode()
            others.update(re.findall(r"[^\s:{}\"]+@[^\s\"]+", f"{key} {text}"))
            if found := re.match(r"(\d+_[^:]+)(:|$)", key):
                names.update(re.split(r"[\W_]+", found[1].split("_", 1)[1]))
            if text.startswith("{"):
                fields = json.loads(text)
                for name in ("firstname", "lastname", "voornaam", "tussenvoegsel", "achternaam"):
                    names.update(re.split(r"[\W_]+", fields.get(name) or ""))
                others.update(
                    str(fields[name]) for name in ("bondsnummer", "geboortedatum") if name in fields
                )
                others.update(fields[name] for name in ("password_hash", "password_salt") if name in fields)
    return names - {""}, others - {"None"}


def cells(path: Path) -> list[str]:
    return [
        cell if isinstance(cell, str) else cell.decode()
        for table in sample_data.TABLES
        for row in rows(path, f"SELECT key, value FROM {table}")
        for cell in row
    ]


def found_in(masked: Path, names: set[str], others: set[str]) -> list[str]:
    """Each original that is in the file: parts by plain `in`, short names as whole words in the rows, words of the backend aside."""
    content = masked.read_bytes().lower()
    words = {word for cell in cells(masked) for word in re.split(r"[\W_]+", cell.lower())}
    ours = (b"password", b"registration", b"bootstrap", b"email", b"example.org")
    without_ours = content
    for word in ours:
        without_ours = without_ours.replace(word, b"")
    hits = []
    for name in names | others:
        forms = {
            form
            for text in (name.lower(), name.upper(), name.title())
            for form in (text, json.dumps(text)[1:-1])
        }
        if len(name) < 4:
            hits += [name] if forms & words else []
        elif any(form.encode().lower() in (content if len(name) > 5 else without_ours) for form in forms):
            hits.append(name)
    return hits


def content_of(path: Path) -> dict[str, list]:
    return {table: rows(path, f"SELECT * FROM {table} ORDER BY key") for table in sample_data.TABLES}


@pytest.mark.parametrize("copy", [export_compacted, copy_pages], ids=["from zst", "from pages"])
def test_nothing_of_anybody_is_in_the_file_nor_beside_it(make, copy):
    source = make(copy=copy)
    names, others = personal(source)
    assert {"Bo", "van", "René", "Øverland", "Brien"} <= names and len(others) > 400
    assert (b"_verdwenen_" in source.read_bytes()) == (copy is copy_pages), "remains, in free pages"
    assert set(found_in(source, names, others)) == names | others, (
        "the scanner finds each of them where it is"
    )
    before = source.read_bytes()
    target, masked = mask(source)
    assert found_in(target, names | {"Verdwenen", "Weggegaan"}, others) == []
    assert source.read_bytes() == before
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    assert sorted(path.name for path in target.parent.iterdir()) == ["masked.sqlite", "staging"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert masked.logins == ()
    assert masked.replaced["address"] == sum(
        1
        for table in sample_data.TABLES
        if table not in MOMENT
        for key, value in rows(source, f"SELECT key, value FROM {table} WHERE key <> '{CREDENTIALS}'")
        for _ in re.findall(r"@", f"{key} {value.decode()}")
    )


def test_the_database_is_whole_and_the_same_but_for_the_people(make):
    source = make("CREATE UNIQUE INDEX by_value ON users_by_email (value)")
    target, _ = mask(source)
    assert not integrity.verify(target, "the masked copy").lines()
    assert rows(target, "PRAGMA foreign_key_check") == rows(target, "PRAGMA freelist_count")[1:] == []
    assert rows(target, "PRAGMA freelist_count") == [(0,)]
    for setting in ("page_size", "auto_vacuum", "user_version", "application_id"):
        assert rows(target, f"PRAGMA {setting}") == rows(source, f"PRAGMA {setting}")
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
    assert rows(target, schema) == rows(source, schema)
    for table in sample_data.TABLES:
        numbers = f"SELECT counter, expiration FROM {table} WHERE key <> '{CREDENTIALS}' ORDER BY 1, 2"
        assert rows(target, numbers) == ([] if table in MOMENT else rows(source, numbers)), table
    assert rows(target, "SELECT key, value FROM metadata") == [("user_id_counter", b"2300")]


@pytest.mark.parametrize(("page_bytes", "vacuum"), [(512, "NONE"), (65536, "FULL"), (1024, "INCREMENTAL")])
def test_other_pages(make, page_bytes, vacuum):
    source = make(
        "PRAGMA journal_mode=DELETE",
        f"PRAGMA page_size={page_bytes}",
        f"PRAGMA auto_vacuum={vacuum}",
        "VACUUM",
    )
    target, _ = mask(source)
    assert not integrity.verify(target, "the masked copy").lines()
    assert rows(target, "PRAGMA page_size") == [(page_bytes,)]
    assert rows(target, "PRAGMA auto_vacuum") == rows(source, "PRAGMA auto_vacuum")
    assert found_in(target, *personal(source)) == []


@pytest.mark.slow("makes a database of 70 MB")
def test_seventy_megabytes(tmp_path):
    """Some 8 s on two cores, and 190 MB of memory; the bound is for a machine that does other things too."""
    (tmp_path / "staging").mkdir()
    source = tmp_path / "staging" / "source.sqlite"
    sample_data.create(source, 36_000)
    start = time.monotonic()
    target, masked = mask(source)
    assert time.monotonic() - start < 30
    assert sample_data.count(target) == 36_000 and masked.replaced["date"] == 72_000


def references(path: Path) -> dict[str, int]:
    """How many rows lead to a row that is there, by the backend's own rules."""
    tables = {
        table: {key: value.decode() for key, value in rows(path, f"SELECT key, value FROM {table}")}
        for table in sample_data.TABLES
    }
    users = {
        key.removesuffix(":profile"): json.loads(value)
        for key, value in tables["users"].items()
        if key.endswith(":profile")
    }
    counts = {
        "address to user": sum(user in users for user in tables["users_by_email"].values()),
        "number to user": sum(user in users for user in tables["users_by_bondsnummer"].values()),
        "user to address": sum(
            tables["users_by_email"].get(tables["users"][f"{user}:email"].lower()) == user for user in users
        ),
        "number to list": sum(number in tables["volta_data"] for number in tables["users_by_bondsnummer"]),
        "birthday": sum(
            json.loads(value)["user_id"] == user and user in users
            for user, value in tables["birthdays"].items()
        ),
        "address to token": sum(
            token in tables["registrations"] for token in tables["registrations_by_email"].values()
        ),
        "number to token": sum(
            token in tables["registrations"] for token in tables["registrations_by_bondsnummer"].values()
        ),
        "system user": sum(address in tables["users_by_email"] for address in tables["system_users"]),
        "rows of a user": sum(key.split(":")[0] in users for key in tables["users"]),
    }
    for number, value in tables["volta_data"].items():
        listed = json.loads(value)
        user = tables["users_by_bondsnummer"][number]
        last = f"{listed['tussenvoegsel']} {listed['achternaam']}".strip()
        born = json.loads(tables["birthdays"][user])
        counts["number in the list"] = counts.get("number in the list", 0) + (listed["bondsnummer"] == number)
        counts["one birthday"] = counts.get("one birthday", 0) + (
            born["geboortedatum"] == listed["geboortedatum"]
        )
        profile = users[user]
        counts["name"] = counts.get("name", 0) + (
            (profile["firstname"], profile["lastname"]) == (listed["voornaam"], last)
        )
        fits = user.split("_", 1)[1] == f"{profile['firstname']}_{profile['lastname']}".lower()
        counts["ID fits the name"] = counts.get("ID fits the name", 0) + fits
    return counts


def test_all_that_led_somewhere_still_does(make):
    source = make()
    before = references(source)
    target, _ = mask(source)
    assert references(target) == before
    assert before["address to user"] == MEMBERS + 2 * len(HARD) == before["name"]
    for key, value in rows(target, "SELECT key, value FROM users_by_email"):
        local = key.split("@")[0]
        assert set(re.split(r"[ '-]", value.decode().split("_", 2)[1])) <= set(local.split(".")), (
            "it fits the made-up name"
        )
        assert key.endswith("@example.org") and key == key.lower()
    original = {
        json.loads(value)["geboortedatum"] for (value,) in rows(source, "SELECT value FROM birthdays")
    }
    for (value,) in rows(target, "SELECT value FROM birthdays"):
        assert re.fullmatch(r"(19[89]|20[01])\d-\d\d-\d\d", json.loads(value)["geboortedatum"])
        assert json.loads(value)["geboortedatum"] not in original


def test_values_keep_their_form(make):
    source = make(
        """UPDATE volta_data SET value = CAST('{"bondsnummer": 9000001, "voornaam": null, "achternaam": "", "geslacht": {"a": ["Anna"]},'
        || '"geboortedatum": "30-04-2001", "opzegdatum": "2019-01-31T00:00:00"}' AS BLOB) WHERE key = '9000001'"""
    )
    target, _ = mask(source)
    found = [json.loads(value) for (value,) in rows(target, "SELECT value FROM volta_data")]
    (one,) = [value for value in found if value.get("voornaam", "") is None]
    assert isinstance(one["bondsnummer"], int) and str(one["bondsnummer"]) in {
        key for (key,) in rows(target, "SELECT key FROM volta_data")
    }
    assert (one["achternaam"], one["geslacht"]) == ("", "")
    assert re.fullmatch(r"\d\d-\d\d-200[01]", one["geboortedatum"])
    assert re.fullmatch(r"201[89]-\d\d-\d\dT00:00:00", one["opzegdatum"])
    for (value,) in rows(target, "SELECT value FROM users WHERE key LIKE '%:password'"):
        password = json.loads(value)
        assert len(password["password_hash"]) == 64 and bytes.fromhex(password["password_hash"])
        assert password["password_hash_algorithm_id"] == "argon2id.v1"


def test_one_clone_is_not_like_another(make):
    source = make()
    one, _ = mask(source, "one.sqlite")
    other, _ = mask(source, "other.sqlite")
    names = [{value for (value,) in rows(path, "SELECT value FROM birthdays")} for path in (one, other)]
    assert not names[0] & names[1]
    # who was first in the file, or had the lowest number, tells nothing
    assert len({rows(path, "SELECT value FROM users_by_email LIMIT 1")[0] for path in (one, other)}) == 2
    order = rows(one, "SELECT key FROM users")
    assert order == sorted(order)


def renumbered(user: int, to: int) -> list[str]:
    """Statements that give the user with that number another one."""
    rest = f"'{to}' || substr(CAST({{0}} AS TEXT), {len(str(user)) + 1})"
    there = f"CAST({{0}} AS TEXT) LIKE '{user}~_%' ESCAPE '~'"
    return [
        f"UPDATE {table} SET {column} = {made.format(column)} WHERE {there.format(column)}"
        for table, column, made in (
            ("users", "key", rest),
            ("birthdays", "key", rest),
            ("users_by_email", "value", f"CAST({rest} AS BLOB)"),
            ("users_by_bondsnummer", "value", f"CAST({rest} AS BLOB)"),
        )
    ] + [
        f"""UPDATE birthdays SET value = CAST(replace(value, '"{user}_', '"{to}_') AS BLOB) WHERE key LIKE '{to}~_%' ESCAPE '~'"""
    ]


def with_number(number: int, to: int) -> list[str]:
    """Statements that give a member another number."""
    return [
        f"UPDATE users_by_bondsnummer SET key = '{to}' WHERE key = '{number}'",
        f"UPDATE volta_data SET key = '{to}', value = CAST(replace(value, '{number}', '{to}') AS BLOB) WHERE key = '{number}'",
    ]


@pytest.mark.parametrize("copy", [export_compacted, copy_pages], ids=["from zst", "from pages"])
def test_numbers_of_members_that_are_numbers_of_users_too(make, copy):
    """Also the number that the next user gets, and a year."""
    source = make(
        *renumbered(7, 2012),
        *renumbered(8, 2299),
        *with_number(9000012, 2012),
        *with_number(9000013, 2300),
        *with_number(9000014, 2299),
        *with_number(9000015, 2001),
        copy=copy,
    )
    before, (names, others) = references(source), personal(source)
    target, _ = mask(source)
    assert references(target) == before
    assert not {"2012", "2300", "2299", "2001"} & set(re.findall(r"\d+", "\n".join(cells(target))))
    assert found_in(target, names, others - {"2012", "2300", "2299", "2001"}) == []
    ((_, counter),) = rows(target, "SELECT key, value FROM metadata")
    users = [int(user.split(b"_")[0]) for (user,) in rows(target, "SELECT value FROM users_by_email")]
    assert len(set(users)) == len(users) and max(users) < int(counter) == 2301


def test_a_member_whose_number_is_that_of_a_user_where_no_number_is_free(make):
    """Nobody ever left: the lowest number that is free is that of the next user, who gets a higher one."""
    dense = [
        statement for user in range(MEMBERS + 2 * len(HARD)) for statement in renumbered(user, 1000 + user)
    ]
    removed = "UPDATE metadata SET value = CAST('1088' AS BLOB) WHERE key = 'user_id_counter'"
    source = make(*dense, *with_number(9000012, 1003), removed)
    target, _ = mask(source)
    ((_, counter),) = rows(target, "SELECT key, value FROM metadata")
    users = {int(user.split(b"_")[0]) for (user,) in rows(target, "SELECT value FROM users_by_email")}
    assert 1003 not in users and len(users) == MEMBERS + 2 * len(HARD) and max(users) < int(counter)


def test_a_short_number_is_not_that_of_somebody_else(make):
    """Numbers of fewer than four digits are not looked for."""
    numbers = range(10, 95)
    statements = [one for at, to in enumerate(numbers) for one in with_number(9000000 + at, to)]
    source = make(*statements)
    target, _ = mask(source)
    made = {number for (number,) in rows(target, "SELECT key FROM users_by_bondsnummer")}
    assert not made & set(map(str, numbers)) and references(target) == references(source)


@pytest.mark.parametrize(
    "day", ["{2}-{1}-{0}", "{0}{1}{2}", "{2}/{1}/{0}", "{0}/{1}/{2}", "{2}.{1}.{0}", "{0}-{1}-{2}"]
)
@pytest.mark.parametrize("written", ["2019-01-31", "31-01-2019", "2019-01-31T00:00:00"])
def test_a_date_is_found_in_whatever_way_it_is_written(make, written, day):
    left = f"""UPDATE volta_data SET value = CAST(replace(value, '"opzegdatum": ""', '"opzegdatum": "{written}"') AS BLOB)"""
    found = f"UPDATE system_users SET value = CAST('{day.format('2019', '01', '31')}' AS BLOB)"
    with pytest.raises(SnapshotError, match=r"still has an original \(date\) in table system_users"):
        mask(make(f"{left} WHERE key = '9000001'", found))


@pytest.mark.parametrize("text", ["Ren%C3%A9", "bront%c3%ab", "x%41nna", "Zo%C3%AB", "anna.0%40example.org"])
def test_an_original_as_it_stands_in_a_link(make, text):
    with pytest.raises(SnapshotError, match=r"still has an original \(.*\) in table system_users"):
        mask(make(f"UPDATE system_users SET value = CAST('{text}' AS BLOB)"))


def test_times_whose_bytes_are_letters(make):
    """A role that expires on 6 April 2022 at the very second that SQLite writes as `bram`, and one that it writes as `Anna`."""
    times = [int.from_bytes(letters, "big") for letters in (b"bram", b"Anna")]
    source = make(
        f"UPDATE users SET expiration = {times[0]} WHERE key LIKE '%:perm:member'",
        f"UPDATE volta_data SET counter = {times[1]}",
    )
    target, _ = mask(source)
    assert b"bram" in target.read_bytes() and b"Anna" in target.read_bytes()
    assert rows(target, "SELECT DISTINCT counter FROM volta_data") == [(times[1],)]


def test_what_sqlite_counted_does_not_come_along(make):
    """Samples of keys, in sqlite_stat4; an index on an expression; and tables of other sorts are whole."""
    key = "key TEXT PRIMARY KEY, counter INTEGER, expiration INTEGER, value BLOB"
    source = make(
        "CREATE INDEX i ON users (key || length(value), value)",
        "CREATE TABLE other AS SELECT * FROM birthdays",
        "DROP TABLE birthdays",
        f"CREATE TABLE birthdays ({key}) WITHOUT ROWID",
        "INSERT INTO birthdays SELECT * FROM other",
        "DROP TABLE other",
        "CREATE TABLE other AS SELECT * FROM private",
        "DROP TABLE private",
        "CREATE TABLE private (counter INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, expiration INTEGER, value BLOB)",
        "INSERT INTO private SELECT counter, key, expiration, value FROM other",
        "DROP TABLE other",
        "ANALYZE",
    )
    before, (names, others) = references(source), personal(source)
    target, _ = mask(source)
    assert found_in(target, names, others) == [] and references(target) == before
    assert not integrity.verify(target, "the masked copy").lines()
    assert rows(target, "SELECT name FROM sqlite_master WHERE name LIKE 'sqlite_stat%'") == []
    assert len(rows(target, "SELECT key FROM birthdays WHERE key > ''")) == before["birthday"]


def test_a_key_that_is_not_text_is_not_said(make):
    source = make(
        "INSERT INTO users VALUES (CAST(x'3132ff5f416e6e6120566f6f726265656c64' AS TEXT), 0, 0, x'')"
    )
    with pytest.raises(BackupError) as raised:
        mask(source)
    line = as_line(raised.value)
    assert (
        line.startswith("the database in snapshot 1 is damaged: Could not decode") and "Voorbeeld" not in line
    )


REFUSED = [
    (
        """UPDATE birthdays SET value = CAST('{"voornaam": {"phone": "0612345678"}}' AS BLOB)""",
        "value.voornaam of <user>: it is more than one value",
    ),
    (
        """UPDATE users SET value = CAST('"Anna"' AS BLOB) WHERE key LIKE '%:profile'""",
        "value of <user>:profile: it is not a JSON object",
    ),
    (
        """UPDATE birthdays SET value = CAST('{"Voornaam": "Anna"}' AS BLOB)""",
        "value.Voornaam of <user>: it is not described",
    ),
    (
        """UPDATE registrations SET value = CAST('{"bondsnummer": 1.5}' AS BLOB)""",
        "value.bondsnummer of <registration>: it is neither a text nor a number",
    ),
    (
        "UPDATE metadata SET value = CAST('-1' AS BLOB) WHERE key = 'user_id_counter'",
        "table metadata: value of user_id_counter: it is not a number of digits alone",
    ),
    (
        "INSERT INTO metadata VALUES ('next_user_id_counter', 0, 0, x'31')",
        "table metadata: a key of the form a_a_a_a fits no line",
    ),
    (
        "CREATE TABLE sqlitestat (key, counter, expiration, value)",
        "table sqlitestat: in the database, but not",
    ),
    (
        "CREATE TABLE trophies (key TEXT PRIMARY KEY, counter INTEGER, expiration INTEGER, value BLOB) STRICT",
        "table trophies: in the database, but not described",
    ),
    ("ALTER TABLE users ADD COLUMN phone TEXT", "table users: its column phone is not described"),
    (
        "ALTER TABLE users ADD COLUMN twice TEXT AS (key || key)",
        "table users: its column twice is not described",
    ),
    (
        "ALTER TABLE private RENAME COLUMN counter TO count",
        "table private: its column count is not described",
    ),
    ("CREATE VIEW everybody AS SELECT * FROM users", "view everybody: only tables and their indexes"),
    ("CREATE TRIGGER t AFTER DELETE ON users BEGIN DELETE FROM sync; END", "trigger t: only tables"),
    ("CREATE VIRTUAL TABLE names USING fts5 (name)", "virtual table names: only tables"),
    (
        "INSERT INTO users VALUES ('12_anna_voorbeeld:phone', 0, 0, x'')",
        "table users: a key of the form 9_a_a:a fits no line of the description",
    ),
    (
        """UPDATE birthdays SET value = CAST('{"phone": "0612345678"}' AS BLOB) WHERE rowid = 3""",
        "table birthdays: value.phone of <user>: it is not described",
    ),
    ("""UPDATE birthdays SET value = CAST('["Anna"]' AS BLOB)""", "value of <user>: it is not a JSON object"),
    (
        """UPDATE birthdays SET value = CAST('Anna' AS BLOB)""",
        "value of <user>: it is not what the description says",
    ),
    ("UPDATE users_by_email SET value = x'ff'", "table users_by_email: value of <email>: it is not what"),
    (
        """UPDATE birthdays SET value = CAST('{"voornaam": ["Anna"]}' AS BLOB)""",
        "value.voornaam of <user>: it is more than one value",
    ),
    (
        """UPDATE birthdays SET value = CAST('{"voornaam": true}' AS BLOB)""",
        "value.voornaam of <user>: it is neither a text nor",
    ),
    (
        """UPDATE birthdays SET value = CAST('{"geboortedatum": "spring"}' AS BLOB)""",
        "value.geboortedatum of <user>: it is not a date",
    ),
    (
        """UPDATE volta_data SET value = CAST('{"bondsnummer": "NL9000012"}' AS BLOB) WHERE key = '9000012'""",
        "value.bondsnummer of <bondsnummer>: it is not a number of digits alone",
    ),
    (
        "UPDATE users SET value = CAST('Anna' AS BLOB) WHERE key LIKE '%:perm:member'",
        "value of <user>:perm:<word>: it is not empty",
    ),
    (
        "INSERT INTO users_by_email SELECT upper(key), 0, 0, value FROM users_by_email LIMIT 1",
        "table users_by_email: the schema does not allow a masked row: UNIQUE constraint failed",
    ),
]


@pytest.mark.parametrize(("statement", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_not_described_is_refused_and_named(make, statement, said):
    source = make(statement)
    with pytest.raises(SnapshotError) as raised:
        mask(source)
    line = as_line(raised.value)
    assert line.startswith("the database in snapshot 1 cannot be masked: ") and said in line
    assert "docs/data.md" in line and raised.value.exit_code == 4
    assert "anna" not in line.lower() and "0612345678" not in line
    assert (source.parent.parent / "masked.sqlite").read_bytes() == b"" and len(
        list(source.parent.iterdir())
    ) == 1


def personal_places() -> list[tuple[str, str, str, str]]:
    return [
        (table.name, key, place, kind.personal)
        for table in data_description.read().tables.values()
        if not table.is_of_the_moment
        for key, place, kind in table.personal()
        # texts may hold anything, and no date of leaving is in the sample
        if kind.personal != "text" and not place.endswith("opzegdatum") and key != CREDENTIALS
    ]


@pytest.mark.parametrize(("table", "sort", "at", "how"), personal_places(), ids=str)
def test_each_hole_in_the_rules_is_found_by_the_check(make, monkeypatch, table, sort, at, how):
    """A rule that leaves one place as it is."""
    source = make()
    of_mask = module.RowMask._made_up

    def leaky(self, place, personal, text):
        of_the_place = (self._pattern.key, place, personal) == (
            sort,
            at,
            how,
        ) and self._pattern in found.patterns
        return text if of_the_place else of_mask(self, place, personal, text)

    found = data_description.read().tables[table]
    monkeypatch.setattr(module.RowMask, "_made_up", leaky)
    with pytest.raises(
        SnapshotError, match=f"the masked copy still has an original .* in table {table}"
    ) as raised:
        mask(source)
    assert (source.parent.parent / "masked.sqlite").read_bytes() == b"" and len(
        list(source.parent.iterdir())
    ) == 1
    assert raised.value.exit_code == 4


def test_an_original_in_a_place_that_is_described_as_not_personal(make):
    """The rule is followed, and wrong: a word of the backend's own that is somebody's name."""
    source = make('UPDATE private SET value = CAST(\'{"role": "Board of Rene"}\' AS BLOB)')
    with pytest.raises(SnapshotError, match=r"still has an original \((name|user ID)\) in table private"):
        mask(source)
    kept = replace(data_description.read(), kept_words=("member", "admin", "argon2id.v1", "Board of Rene"))
    mask(source, description=kept)


def test_an_original_in_the_schema(make):
    source = make("CREATE INDEX i ON users (key) WHERE key = 'Brontë'")
    with pytest.raises(
        SnapshotError, match=r"still has an original \((name|user ID)\) in table sqlite_master"
    ):
        mask(source)


def test_a_chance_hit_is_made_again_with_another_key(make, monkeypatch):
    source, keys = make(), []
    made_up = module.RowMask._made_up

    def unlucky(self, place, personal, text):
        keys.append(self._values._key)
        is_first = keys[0] == self._values._key
        return "Voorbeeld" if is_first and place == "value.voornaam" else made_up(self, place, personal, text)

    monkeypatch.setattr(module.RowMask, "_made_up", unlucky)
    target, _ = mask(source)
    assert len(set(keys)) == 2
    assert found_in(target, *personal(source)) == []


def test_no_room_for_the_copy(make, small_disk):
    source = make()
    room_bytes = source.stat().st_size + 100_000
    subprocess.run(["mount", "-o", f"remount,size={room_bytes}", small_disk], check=True)
    shutil.copy(source, small_disk / "source.sqlite")
    with pytest.raises(BackupError, match=r"^no room left on the disk of the masked copy of the database in"):
        masked_copy(
            small_disk / "source.sqlite",
            small_disk / "made",
            "the database in snapshot 1",
            data_description.read(),
        )
    assert [path.name for path in small_disk.iterdir()] == ["source.sqlite"]


def test_one_login_per_role(make):
    source = make()
    description = data_description.read()
    password = '{"password_hash": "ab", "password_salt": "cd", "password_hash_algorithm_id": "argon2id.v1"}'
    users = description.tables["users"]
    sorts = {pattern.key: pattern for pattern in users.patterns}
    login = data_description.Login(users, sorts["<user>:perm:<word>"], sorts["<user>:password"], password)
    target, masked = mask(source, description=replace(description, login=login))
    (admin, of_admin), (member, of_member) = masked.logins
    assert (admin, member) == ("admin", "member") and of_admin != of_member
    given = rows(target, f"SELECT key FROM users WHERE value = CAST('{password}' AS BLOB)")
    owners = {
        user.decode(): address for address, user in rows(target, "SELECT key, value FROM users_by_email")
    }
    assert {owners[key.split(":")[0]] for (key,) in given} == {of_admin, of_member}
    for role, address in masked.logins:
        (user,) = [user for user, one in owners.items() if one == address]
        assert rows(target, f"SELECT count(*) FROM users WHERE key = '{user}:perm:{role}'") == [(1,)]
    assert rows(target, f"SELECT count(*) FROM users WHERE key LIKE '{user}:perm:%'") == [(1,)], (
        "a plain member"
    )
