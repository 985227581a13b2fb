"""deploy/data.toml: each kind of mistake in it, and that it describes the backend's database and each member's rows."""

import json
import re
import sqlite3
from contextlib import closing

import pytest

from dodeka_db import data_description
from dodeka_db.data_description import FILE, PERSONAL, Kind
from dodeka_db.errors import SetupError, as_line
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.member_rows import Finding, RowName, findings, member_rows

MEMBERS = 45
GOOD = """
[kinds]
user = "user ID"
email = "address"
word = "no"

[members]
table = "by_email"
known_by = "email"

[tables.by_email]
found_by = ["email"]
tells = ["user"]
rows = { "<email>" = "<user>" }

[tables.people]
found_by = ["user"]
rows = { "<user>:a" = { mail = "<email>", more = { since = "<word>" } }, "<user>:b" = "", "<user>:role:<word>" = "" }

[tables.mails]
moment = true
backend = { will = "send", each = "mail", if = { "state.now" = "waits", tries = "0" } }
rows = { "<word>" = { state = { now = "<word>" }, tries = "<word>" } }

[clone]
words = ["chair"]

[clone.login]
table = "people"
role = "<user>:role:<word>"
password = "<user>:a"
value = '{"mail": "x", "more": {"since": 3}}'
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "db.sqlite"
    sample_data.create(path, MEMBERS)
    return path


@pytest.fixture
def db(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.rollback()


MISTAKES = [
    # what is changed, into what, and what the message then says behind the name of the file
    ("[kinds]", "[kind]", ", 'kind': it is none of the words that can stand here: kinds, members, tables"),
    ('"address"', '"adress"', ", 'kinds.email': it must be one of: no, next user, user ID, address, "),
    ('"address"', "3", ", 'kinds.email': it must be one of: "),
    ('"address"', '["address"]', ", 'kinds.email': it must be one of: "),
    ('table = "by_email"', "", ", 'members.table': it is missing"),
    ('table = "by_email"', 'table = "by_mail"', ", 'members.table': there is no [tables.by_mail]"),
    ('table = "by_email"', "table = 1", ", 'members.table': it must be a text in quotes"),
    ('known_by = "email"', 'known_by = "mail"', ", 'members.known_by': <mail> is not described in [kinds]"),
    ('known_by = "email"', "known_by = true", ", 'members.known_by': it must be a text in quotes"),
    ('known_by = "email"', 'know_by = "email"', ", 'members.know_by': it is none of the words"),
    ("[tables.people]", "[tables]\npeople = 1\n[x]", ", 'x': it is none of the words"),
    ('tells = ["user"]', 'tell = ["user"]', ", table by_email, 'tell': it is none of the words"),
    ('tells = ["user"]', 'tells = "user"', ", table by_email, 'tells': it must be a list of kinds"),
    ('tells = ["user"]', "tells = [1]", ", table by_email, 'tells': it must be a text in quotes"),
    ('tells = ["user"]', 'tells = ["word"]', ", table by_email, 'tells': no row of the table has a <word>"),
    ('tells = ["user"]', "", ", table people, 'found_by': no table tells a <user>"),
    ('found_by = ["email"]', "", ", table by_email, 'tells': without found_by no row belongs to a member"),
    ('found_by = ["email"]', 'found_by = ["mail"]', ", table by_email, 'found_by': <mail> is not described"),
    ('found_by = ["email"]', 'moment = "yes"', ", table by_email, 'moment': it must be true or false"),
    ('rows = { "<email>" = "<user>" }', "", ", table by_email, 'rows': it is missing"),
    ('rows = { "<email>" = "<user>" }', "rows = {}", ", table by_email, 'rows': it describes no row"),
    ('rows = { "<email>" = "<user>" }', "rows = 1", ", table by_email, 'rows': it must be a table of TOML"),
    ('{ "<email>" =', '{ "<mail>" =', ", table by_email, 'rows.<mail>': <mail> is not described in [kinds]"),
    ('{ "<email>" =', '{ "<email>>" =', ", table by_email, 'rows.<email>>': a kind is written <kind>"),
    ('{ "<email>" =', '{ "<email><user>" =', "': nothing stands between two kinds"),
    ('= "<user>" }', '= "user" }', ', table by_email, \'rows.<email>\': it must be "", "<kind>", a list'),
    ('= "<user>" }', "= [] }", ", table by_email, 'rows.<email>': it must be "),
    ('= "<user>" }', '= ["<user>", 1] }', ", table by_email, 'rows.<email>': it must be "),
    ('= "<user>" }', '= "<usr>" }', ", table by_email, 'rows.<email>': <usr> is not described in [kinds]"),
    ('since = "<word>"', "since = 1", ", table people, 'rows.<user>:a.more.since': it must be "),
    ("moment = true", "", ", table mails, 'backend': only a table with moment = true can have it"),
    ('{ will = "send",', "{", ", table mails, 'backend.will': it is missing"),
    ('will = "send"', "will = 1", ", table mails, 'backend.will': it must be a text in quotes"),
    (
        'each = "mail"',
        'all = "mails"',
        ", table mails, 'backend.all': it is none of the words that can stand",
    ),
    ('tries = "0"', "tries = 0", ", table mails, 'backend.if.tries': it must be a text in quotes"),
    ('tries = "0"', 'try = "0"', ", table mails, 'backend.if.try': no row of the table has this field"),
    (
        '{ will = "send", each = "mail", if',
        '"mails" # ',
        ", table mails, 'backend': it must be a table of TOML",
    ),
    (
        'found_by = ["user"]',
        'not_in_clones = "a"',
        ", table people, 'not_in_clones': it must be a list of keys",
    ),
    ('found_by = ["user"]', "not_in_clones = [1]", ", table people, 'not_in_clones': it must be a text in"),
    (
        'found_by = ["user"]',
        'not_in_clones = ["<user>:c"]',
        ", table people, 'not_in_clones': no line of rows has the key <user>:c",
    ),
    (
        "moment = true",
        'moment = true\nnot_in_clones = ["<word>"]',
        ", table mails, 'not_in_clones': clones have no row of a table with moment = true",
    ),
    (
        'words = ["chair"]',
        'word = ["chair"]',
        ", 'clone.word': it is none of the words that can stand here: words",
    ),
    ('words = ["chair"]', 'words = "chair"', ", 'clone.words': it must be a list of texts in quotes"),
    ('words = ["chair"]', "words = [1]", ", 'clone.words': it must be a text in quotes"),
    ('words = ["chair"]', "words = []\n[x]", ", 'x': it is none of the words"),
    ('table = "people"', 'table = "person"', ", 'clone.login.table': there is no [tables.person]"),
    ('table = "people"', "", ", 'clone.login.table': it is missing"),
    (
        'role = "<user>:role:<word>"',
        'role = "<user>:roles:<word>"',
        ", 'clone.login.role': [tables.people] has no such row",
    ),
    (
        'role = "<user>:role:<word>"',
        'role = "<user>:b"',
        ", 'clone.login.role': its key must have one user ID and one kind",
    ),
    (
        'password = "<user>:a"',
        'password = "<user>:role:<word>"',
        ", 'clone.login.password': its key must have one user ID",
    ),
    ('password = "<user>:a"', "password = 1", ", 'clone.login.password': it must be a text in quotes"),
    ("value = '{", "value = 'x{", ", 'clone.login.value': it must be JSON"),
    ('"since": 3', '"till": 3', ", 'clone.login.value': value.more.till: a field that is not described"),
    ("[tables.people]", "[tables.people", ": this is not TOML: "),
    ("[tables.people]", "[tables.by_email]", ": this is not TOML: "),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES)
def test_a_mistake_is_said_in_one_line_with_the_file_the_table_and_the_word(file, old, new, said):
    assert GOOD.count(old) == 1
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(SetupError) as raised:
        data_description.read(file)
    line = as_line(raised.value)
    assert line.startswith(f"data description {file}") and said.removeprefix("'") in line, line
    assert line.endswith("; correct it there") and "\n" not in line and raised.value.exit_code == 6


def test_a_table_that_is_no_table(file):
    file.write_text(GOOD.split("[tables.people]", maxsplit=1)[0] + "[tables]\npeople = 1\n")
    with pytest.raises(SetupError, match=r"data\.toml, table people: it must be a table of TOML"):
        data_description.read(file)


def test_a_file_that_cannot_be_read(file):
    file.unlink()
    with pytest.raises(SetupError, match=f"data description {file} cannot be read: No such file"):
        data_description.read(file)
    file.write_bytes(b"[kinds]\nx = '\xff'\n")
    with pytest.raises(SetupError, match=r"data\.toml: this is not TOML: 'utf-8' codec"):
        data_description.read(file)


def test_a_login_of_masked_clones(file):
    login = data_description.read(file).login
    assert login and (login.table.name, login.role.key, login.password.key) == (
        "people",
        "<user>:role:<word>",
        "<user>:a",
    )
    assert data_description.read(file).kept_words == ("chair",)
    file.write_text(re.sub(r"value = '.*'", 'value = ""', file.read_text()))
    assert data_description.read(file).login is None
    file.write_text(file.read_text().split("[clone]", maxsplit=1)[0])
    assert (data_description.read(file).login, data_description.read(file).kept_words) == (None, ())


def test_what_a_row_holds(file):
    people = data_description.read(file).tables["people"]
    user, email, word = Kind("user", "user ID"), Kind("email", "address"), Kind("word", "no")
    row = people.read("1_x:a", b'{"mail": "x@example.org", "more": {"since": 3}}')
    assert [(one.place, one.kinds, one.text) for one in row.contents] == [
        ("key", (user,), "1_x"),
        ("value.mail", (email,), "x@example.org"),
        ("value.more.since", (word,), "3"),
    ]
    assert (
        row.unknown
        == people.read("1_x:b", b"").unknown
        == people.read("1_x:a", b'{"mail": null}').unknown
        == ()
    )
    assert list(people.personal()) == [
        ("<user>:a", "key", user),
        ("<user>:a", "value.mail", email),
        ("<user>:b", "key", user),
        ("<user>:role:<word>", "key", user),
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("1_x", b"", "a key that fits no line of the description"),
        ("1_x:b", b"secret", "value: not empty"),
        ("1_x:a", b"secret", "a value that is not what the description says"),
        ("1_x:a", b"\xff", "a value that is not what the description says"),
        ("1_x:a", b'"secret"', "value: no JSON object"),
        ("1_x:a", b'{"secret": 1}', "value.secret: a field that is not described"),
        ("1_x:a", b'{"mail": ["secret"]}', "value.mail: more than one value"),
        ("1_x:a", b'{"more": "secret"}', "value.more: no JSON object"),
    ],
)
def test_what_a_row_holds_and_the_description_does_not_know(file, key, value, said):
    assert data_description.read(file).tables["people"].read(key, value).unknown == (said,)


@pytest.mark.parametrize(
    ("value", "acts"),
    [
        (b'{"state": {"now": "waits"}, "tries": 0}', True),
        (b'{"state": {"now": "waits"}, "tries": "0", "more": 1}', True),
        (b'{"state": {"now": "waits"}, "tries": 1}', False),
        (b'{"state": {"now": "sent"}, "tries": 0}', False),
        (b'{"tries": 0}', False),
        (b'{"state": "waits", "tries": 0}', False),
        (b"waits", False),
        (b"\xff", False),
    ],
)
def test_which_rows_the_backend_acts_on(file, value, acts):
    tables = data_description.read(file).tables
    assert tables["mails"].is_acted_on("1", value) is acts
    assert not tables["people"].is_acted_on("1_x:b", b"")
    file.write_text(file.read_text().replace(', if = { "state.now" = "waits", tries = "0" }', ""))
    assert data_description.read(file).tables["mails"].is_acted_on("1", value), (
        "without a condition, each row"
    )


@pytest.mark.parametrize(
    ("table", "key", "is_left_out"),
    [
        ("mails", "1", True),
        ("people", "1_anna:b", True),
        ("people", "1_anna:a", False),
        ("people", "1_anna:a:b", False),  # it fits <user>:a<word> before <user>:b
        ("people", "something else", False),
        ("by_email", "a@example.org", False),
    ],
)
def test_which_rows_a_clone_does_without(file, table, key, is_left_out):
    file.write_text(
        GOOD.replace('"<user>:b" = ""', '"<user>:a<word>" = "", "<user>:b" = ""').replace(
            "[tables.people]", '[tables.people]\nnot_in_clones = ["<user>:b"]'
        )
    )
    assert data_description.read(file).tables[table].is_left_out_of_clones(key) == is_left_out


def test_the_shipped_file_describes_the_database_of_the_backend_completely(db):
    description = data_description.read()
    assert findings(db, description) == []
    assert set(description.tables) == set(sample_data.TABLES)
    assert description.members.name == sample_data.MEMBERS
    assert {name for name, table in description.tables.items() if table.is_of_the_moment} == {
        *("outbox", "session_cache", "tokens"),
        *("sync", "sync_state", "sync_decisions"),
    }
    acted_on = {name: table for name, table in description.tables.items() if table.action}
    assert set(acted_on) == {"outbox", "session_cache"}
    for name, table in acted_on.items():
        assert all(table.is_acted_on(*row) for row in db.execute(f"SELECT key, value FROM {name}")), name
    # and nothing besides: each sort of rows and each field is in the sample
    for table in description.tables.values():
        rows = [table.read(*row) for row in db.execute(f"SELECT key, value FROM {table.name}")]
        held = {(one.place, kind) for row in rows for one in row.contents for kind in one.kinds}
        described = {place for pattern in table.patterns for place in pattern.places()}
        # a prefix of a name may be empty everywhere, a date of leaving is, and no mail has failed
        rare = {"value.opzegdatum", "value.last_attempt_at", "value.last_error"}
        assert {place for place in described - held if place[0] not in rare} == set(), table.name


def test_nothing_personal_is_in_a_place_that_is_described_as_not_personal(db):
    """Names, addresses and numbers of members, looked for in every place of every row."""
    description = data_description.read()
    personal, plain = set(), set()
    for table in description.tables.values():
        for row in db.execute(f"SELECT key, value FROM {table.name}"):
            for one in table.read(*row).contents:
                (personal if all(kind.is_personal for kind in one.kinds) else plain).add(one.text)
    assert len(personal) > 300
    # a salted hash's algorithm, times, states; the ID of a mail is nobody's
    assert not plain & personal
    assert not [text for text in plain if "@" in text or ("_" in text and text[0].isdigit())]


def test_each_member_s_rows_are_found_row_for_row(db):
    """Against a search that knows nothing of the description: a row is a member's if the ID, address or number is in it."""
    description = data_description.read()
    rows = {
        RowName(table, key): f"{key} {value.decode()}"
        for table in sample_data.TABLES
        for key, value in db.execute(f"SELECT key, value FROM {table}")
    }
    addresses = [key for (key,) in db.execute("SELECT key FROM users_by_email")]
    applicants = [key for (key,) in db.execute("SELECT key FROM registrations_by_email")]
    found = member_rows(db, description, [*addresses, *applicants])
    assert (len(addresses), len(applicants), found.nobody) == (MEMBERS, 3, ())
    of_nobody = {"metadata", "sync_state", "private"}
    for address in addresses:
        user = db.execute("SELECT value FROM users_by_email WHERE key = ?", (address,)).fetchone()[0].decode()
        number = str(9_000_000 + int(user.split("_")[0]))
        expected = {
            name
            for name, text in rows.items()
            if name.table not in of_nobody
            and re.search(rf"(?<![\w.])({re.escape(user)}|{re.escape(address)}|{number})(?![\w.])", text)
        }
        assert len(expected) >= 11 and set(found.rows[address]) == expected
    for address in applicants:
        assert {row.table for row in found.rows[address]} == {
            *("registrations", "registrations_by_email", "registrations_by_bondsnummer"),
            *("sync", "sync_decisions", "outbox"),
        }
    each = [row for rows in found.rows.values() for row in rows]
    assert len(each) == len(set(each)), "no row is of two members"
    assert {name for name in rows if name.table not in of_nobody} == set(each), "and each is of one"
    order = list(description.tables)
    for listed in found.rows.values():
        assert [row.table for row in listed] == sorted((row.table for row in listed), key=order.index)


def test_addresses_as_people_type_them_and_addresses_of_nobody(db):
    description = data_description.read()
    address = db.execute("SELECT key FROM users_by_email").fetchone()[0]
    # anybody may have asked for a code; the ID of a user is no address
    sample_data.insert(
        db, "tokens", "signup:asked@example.org", {"action": "signup", "email": "asked@example.org"}
    )
    user = db.execute("SELECT value FROM users_by_email").fetchone()[0].decode()
    asked = [
        f" {address.upper()}\n",
        "asked@example.org",
        "nobody@example.org",
        user,
        "",
        "%",
        address,
        address,
    ]
    found = member_rows(db, description, asked)
    assert found.nobody == ("asked@example.org", "nobody@example.org", user, "", "%")
    assert list(found.rows) == [f" {address.upper()}\n", address]
    assert found.rows[address] == found.rows[f" {address.upper()}\n"]


def test_a_shared_address_in_the_member_list_makes_two_members_no_one(db):
    """A parent's address, perhaps: rows are found by what their table is found by alone."""
    one, other = (key for (key,) in db.execute("SELECT key FROM users_by_email LIMIT 2"))
    before = member_rows(db, data_description.read(), [one, other])
    for table in ("volta_data", "sync"):
        for key, value in db.execute(f"SELECT key, value FROM {table}").fetchall():
            changed = {**json.loads(value), "email": one}
            db.execute(f"UPDATE {table} SET value = ? WHERE key = ?", (json.dumps(changed).encode(), key))
    assert member_rows(db, data_description.read(), [one, other]) == before


def test_what_only_the_database_or_only_the_description_has(path, db):
    description = data_description.read()
    db.execute("DROP TABLE birthdays")
    db.execute('CREATE TABLE "new "" one" (a)')
    db.execute("CREATE VIEW v AS SELECT * FROM users")
    db.execute("ALTER TABLE private RENAME COLUMN value TO content")
    sample_data.insert(db, "users", "somebody", "")
    for number in range(2):
        sample_data.insert(db, "volta_data", str(number), {"phone\x1b": "1"})
    sample_data.insert(db, "tokens", "a:b@example.org", "no JSON")
    assert findings(db, description) == [
        Finding("birthdays", "described, but not in the database"),
        Finding("private", "it does not have the columns key and value"),
        Finding('new " one', "in the database, but not described"),
        Finding("tokens", "a value that is not what the description says (rows: 1)"),
        Finding("users", "a key that fits no line of the description (rows: 1)"),
        Finding("volta_data", "value.phone\x1b: a field that is not described (rows: 2)"),
    ]
    db.execute("ALTER TABLE sync RENAME TO renamed")
    db.execute("ALTER TABLE renamed RENAME TO Sync")
    assert [one for one in findings(db, description) if one.table.lower() == "sync"] == [
        Finding("Sync", "the description calls it sync")
    ]
    address = db.execute("SELECT key FROM users_by_email").fetchone()[0]
    assert len(member_rows(db, description, [address]).rows[address]) == 11, "as before, but for birthdays"
    db.rollback()
    with opened(path, "mode=ro", "the sample") as connection:
        assert findings(connection, description) == []


def test_the_head_of_the_file_explains_each_word_of_it():
    head = FILE.read_text().split("\n[kinds]\n")[0]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    for word in ("kinds", "members", "clone", "clone.login", "tables.NAME", "tables.NAME.rows"):
        assert f"#   [{word}]" in head
    for word in (
        "table",
        "known_by",
        "moment",
        "backend",
        "bring_back",
        "not_in_clones",
        "found_by",
        "tells",
        "words",
        "role",
        "password",
        "value",
        *(f'"{word}"' for word in PERSONAL),
    ):
        assert f" {word}" in head
