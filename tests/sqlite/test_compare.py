"""compare: rows that are gone, new and changed, in every kind of table that SQLite has; and what cannot be compared."""

import json
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db.errors import DatabaseError, SnapshotError
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.compare import RowChange, Source, TableChanges, compare
from dodeka_db.sqlite.export import copy_pages, export_compacted
from dodeka_db.sqlite.failures import DatabaseInUseError, NotWholeError
from site_folder import ROOT
from sqlite_files import corrupt_page, leave_in_wal, rows


def make(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


class Pair:
    """Two databases, first of one content."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = folder / "old.sqlite", folder / "new.sqlite"

    def both(self, *statements: str) -> "Pair":
        make(self.old, *statements)
        make(self.new, *statements)
        return self

    def now(self, *statements: str) -> "Pair":
        make(self.new, *statements)
        return self

    def run(self, each=None) -> dict[str, TableChanges]:
        found = compare(Source(self.old, "the old one"), Source(self.new, "the new one"), each)
        assert [one.table for one in found] == sorted(one.table for one in found)
        return {one.table: one for one in found}

    def rows(self) -> list[RowChange]:
        rows: list[RowChange] = []
        counts = self.run(rows.append)
        for table, found in counts.items():
            kinds = [row.kind for row in rows if row.table == table]
            assert [kinds.count(kind) for kind in ("gone", "new", "changed")] == numbers(found)[:3]
        assert counts == self.run(), "the same counts, whether or not the rows are wanted"
        return rows


def numbers(found: TableChanges) -> list[int]:
    """gone, new, changed, same."""
    assert found.problem == ""
    return [found.gone, found.new, found.changed, found.same]


@pytest.fixture
def pair(tmp_path) -> Pair:
    return Pair(tmp_path)


def test_the_backend_s_tables(pair):
    sample_data.create(pair.old, members=300)
    export_compacted(pair.old, pair.new)
    assert all(numbers(found)[:3] == [0, 0, 0] for found in pair.run().values())
    with closing(sqlite3.connect(pair.new)) as connection, connection:
        first, second, third = (
            key for (key,) in connection.execute("SELECT key FROM birthdays ORDER BY key LIMIT 3")
        )
        (value,) = connection.execute("SELECT value FROM birthdays WHERE key = ?", (first,)).fetchone()
        value = json.dumps({**json.loads(value), "voornaam": "Else", "more": None}).encode()
        connection.execute("UPDATE birthdays SET counter = 1, value = ? WHERE key = ?", (value, first))
        connection.execute("DELETE FROM birthdays WHERE key = ?", (second,))
        # a row that is written anew has another place in the file
        connection.execute("REPLACE INTO birthdays SELECT * FROM birthdays WHERE key = ?", (third,))
        sample_data.insert(connection, "birthdays", "new", {"voornaam": "Newcomer"})
    changed, gone, new = pair.rows()
    assert (changed.kind, changed.key, changed.key_values) == ("changed", ("key",), (first,))
    assert changed.fields() == ["counter", "value.voornaam", "value.more"]
    assert (gone.kind, gone.key_values, gone.new, gone.fields()) == ("gone", (second,), None, [])
    assert (new.kind, new.key_values, new.old) == ("new", ("new",), None)
    assert new.columns == ("key", "counter", "expiration", "value")
    assert new.new == ("new", 0, 0, b'{"voornaam": "Newcomer"}')
    found = pair.run()
    assert numbers(found["birthdays"]) == [1, 1, 1, 298]
    assert {one.table for one in found.values() if one.differs} == {"birthdays"}
    assert set(found) == set(sample_data.TABLES)


KINDS = {
    "integer key": "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
    "descending integer key": "CREATE TABLE t (id INTEGER PRIMARY KEY DESC, v)",
    "text key": "CREATE TABLE t (id TEXT PRIMARY KEY, v)",
    "without rowid": "CREATE TABLE t (id TEXT PRIMARY KEY, v) WITHOUT ROWID",
    "descending without rowid": "CREATE TABLE t (v, id TEXT, PRIMARY KEY (id DESC)) WITHOUT ROWID",
    "column rowid": "CREATE TABLE t (id TEXT PRIMARY KEY, rowid TEXT, v)",
    "all names of the rowid": "CREATE TABLE t (id TEXT PRIMARY KEY, rowid TEXT, oid TEXT, _rowid_ TEXT, v)",
    "strict": "CREATE TABLE t (id TEXT PRIMARY KEY, v ANY) STRICT",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True])
def test_each_kind_of_table(pair, kind, moved):
    rows = ", ".join(f"({number}, 'value {number}')" for number in range(1000, 2000))
    pair.both(KINDS[kind], f"INSERT INTO t (id, v) VALUES {rows}")
    if moved:  # in another order
        pair.now(
            "CREATE TABLE o AS SELECT * FROM t",
            "DELETE FROM t",
            "INSERT INTO t SELECT * FROM o ORDER BY random()",
            "DROP TABLE o",
        )
    pair.now(
        "DELETE FROM t WHERE id IN (1000, 1500)",
        "INSERT INTO t (id, v) VALUES (2500, 'new')",
        "UPDATE t SET v = 'other' WHERE id IN (1001, 1700, 1999)",
    )
    shown = [(row.kind, str(*row.key_values), row.fields()) for row in pair.rows()]
    assert shown == [
        ("gone", "1000", []),
        ("changed", "1001", ["v"]),
        ("gone", "1500", []),
        ("changed", "1700", ["v"]),
        ("changed", "1999", ["v"]),
        ("new", "2500", []),
    ]
    assert numbers(pair.run()["t"]) == [2, 1, 3, 995]


POOL = ["NULL", "0", "1", "1.0", "1.5", "'1'", "x'31'", "'a'", "'A'", "''", "x''"]


def told_apart(rows: list[tuple]) -> list[tuple]:
    """1 and 1.0, which Python takes for equal, made different."""
    return [tuple((type(value), value) for value in row) for row in rows]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("table", "keyed"),
    [
        ("CREATE TABLE t (k PRIMARY KEY, v)", True),
        ("CREATE TABLE t (k NOT NULL PRIMARY KEY, v) WITHOUT ROWID", True),
        ("CREATE TABLE t (k, v)", False),
    ],
    ids=["key", "without rowid", "no key"],
)
def test_random_tables_as_a_simple_comparison_does_it(pair, table, keyed, seed):
    rng = random.Random(seed)
    for path in (pair.old, pair.new):
        pairs = [
            f"INSERT OR IGNORE INTO t VALUES ({rng.choice(POOL)}, {rng.choice(POOL)})" for _ in range(14)
        ]
        make(path, table, *pairs)
    old, new = (rows(path, "SELECT k, v FROM t") for path in (pair.old, pair.new))
    both = Counter(told_apart(old)) & Counter(told_apart(new))
    # as keys, numbers are equal by their value
    left, right = (
        [row[0][1] for row in (Counter(told_apart(found)) - both).elements()] for found in (old, new)
    )
    changed = (Counter(left) & Counter(right)) if keyed else Counter()
    del changed[None]
    number = changed.total()
    expected = [len(left) - number, len(right) - number, number, both.total()]
    assert numbers(pair.run()["t"]) == expected
    pair.rows()


@pytest.mark.parametrize("rowid", ["", "WITHOUT ROWID"])
def test_a_key_of_two_columns_in_another_order_than_the_table(pair, rowid):
    pair.both(
        f"CREATE TABLE t (v, b TEXT, a TEXT, PRIMARY KEY (a, b)) {rowid}",
        "INSERT INTO t VALUES (1, 'x', 'y'), (2, 'y', 'x'), (3, 'xy', ''), (4, '', 'xy')",
    )
    pair.now("UPDATE t SET v = 9 WHERE a = 'x'", "DELETE FROM t WHERE a = ''")
    gone, changed = pair.rows()
    assert (gone.key_values, gone.key) == (("", "xy"), ("a", "b"))
    assert (changed.key_values, changed.kind, changed.fields()) == (("x", "y"), "changed", ["v"])
    assert numbers(pair.run()["t"]) == [1, 0, 1, 2]


def test_without_a_key_rows_are_counted_each_as_often_as_it_occurs(pair):
    pair.both(
        "CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, NULL), (2, NULL)"
    )
    assert numbers(pair.run()["t"]) == [0, 0, 0, 5]
    pair.now("DELETE FROM t WHERE rowid IN (1, 2)", "INSERT INTO t VALUES (2, NULL), (3, 'new')")
    rows = pair.rows()
    assert [(row.kind, row.key_values, row.old or row.new) for row in rows] == [
        ("gone", (), (1, "x")),
        ("gone", (), (1, "x")),
        ("new", (), (2, None)),
        ("new", (), (3, "new")),
    ]
    assert numbers(pair.run()["t"]) == [2, 2, 0, 3]


def test_a_key_with_a_null_is_no_key(pair):
    pair.both(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v)",
        "INSERT INTO t VALUES (NULL, 1), (NULL, 1), (NULL, 2), ('k', 1)",
    )
    assert numbers(pair.run()["t"]) == [0, 0, 0, 4]
    pair.now("UPDATE t SET v = 3 WHERE v = 2", "DELETE FROM t WHERE rowid = 1")
    assert numbers(pair.run()["t"]) == [2, 1, 0, 2]
    assert {row.key_values for row in pair.rows()} == {(None,)}


@pytest.mark.parametrize("rowid", ["", "WITHOUT ROWID"])
@pytest.mark.parametrize(
    ("collation", "spelling", "is_same"),
    [
        ("NOCASE", "ANNA@example.org", True),
        ("NOCASE", "Ånna@example.org", False),
        ("RTRIM", "anna@example.org  ", True),
        ("RTRIM", "Anna@example.org", False),
        ("BINARY", "Anna@example.org", False),
    ],
)
def test_keys_are_equal_where_their_collation_says_so(pair, rowid, collation, spelling, is_same):
    pair.both(
        f"CREATE TABLE t (k TEXT, v, PRIMARY KEY (k COLLATE {collation})) {rowid}",
        "INSERT INTO t VALUES ('anna@example.org', 1), ('bram', 1), ('chris', 1)",
    )
    pair.now(f"UPDATE t SET k = '{spelling}' WHERE k = 'anna@example.org'")
    assert numbers(pair.run()["t"]) == ([0, 0, 1, 2] if is_same else [1, 1, 0, 2])
    if is_same:
        (changed,) = pair.rows()
        assert (changed.fields(), changed.key_values) == (["k"], (spelling,))


def test_a_collation_that_this_sqlite_does_not_have(pair):
    for path in (pair.old, pair.new):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.create_collation("dutch", lambda one, other: (one > other) - (one < other))
            connection.execute("CREATE TABLE t (k TEXT PRIMARY KEY COLLATE dutch, v)")
            connection.execute("INSERT INTO t VALUES ('a', 1), ('b', ?)", (path.name,))
    found = pair.run()["t"]
    assert numbers(found) == [0, 0, 1, 1]
    assert found.notes == ("its keys are compared without their collation DUTCH",)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1", "1.0"),
        ("1", "'1'"),
        ("'61'", "x'3631'"),
        ("''", "x''"),
        ("NULL", "''"),
        ("0", "NULL"),
        ("9007199254740993", "9007199254740992.0"),
        ("'a'", "'a' || char(0)"),
        ("CAST(x'ff' AS TEXT)", "CAST(x'fe' AS TEXT)"),
        ("CAST(x'ff' AS TEXT)", "x'ff'"),
        ("CAST(x'eda080' AS TEXT)", "CAST(x'efbfbd' AS TEXT)"),
        ("9e999", "-9e999"),
    ],
)
def test_values_that_look_alike(pair, old, new):
    pair.both("CREATE TABLE t (k PRIMARY KEY, v)", f"INSERT INTO t VALUES ('k', {old}), ('l', {new})")
    assert numbers(pair.run()["t"]) == [0, 0, 0, 2]
    pair.now(f"UPDATE t SET v = {new} WHERE k = 'k'")
    (changed,) = pair.rows()
    assert changed.fields() == ["v"]


def test_numbers_in_a_key_are_equal_by_their_value(pair):
    pair.both(
        "CREATE TABLE t (k PRIMARY KEY, v)",
        "INSERT INTO t VALUES (1, 'a'), ('1', 'b'), (x'31', 'c'), (1.5, 'd')",
    )
    pair.now("DELETE FROM t WHERE v = 'a'", "INSERT INTO t VALUES (1.0, 'a')")
    (changed,) = pair.rows()
    assert (changed.old, changed.new, changed.fields()) == ((1, "a"), (1.0, "a"), ["k"])


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"b": [1, 3], "a": 1}', ["value.b"]),
        ('{"a": 1}', '{"a": true, "b": null}', ["value.a", "value.b"]),
        ('{"a": {"x": 1, "y": 2}}', '{"a": {"y": 2, "x": 1}}', ["value"]),  # the same, written in another way
        ("[1, 2]", "[1, 3]", ["value"]),
        ('{"a": 1}', "[1]", ["value"]),
        ('{"a": 1}', "", ["value"]),
        ('{"a": 1}', "not JSON", ["value"]),
        ('{"a": 1}', '{"a": NaN}', ["value.a"]),
        ("[" * 100_000, '{"a": ' * 100_000, ["value"]),
        ('{"a": %s}' % ("[" * 900 + "]" * 900), '{"a": %s}' % ("[" * 901 + "]" * 901), ["value.a"]),
        ('{"a": ' + "9" * 5000 + "}", '{"a": 1}', ["value"]),
        ('{"a": "%s"}' % ("x" * 2_000_000), '{"a": 1}', ["value"]),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_fields_of_json(pair, old, new, fields, as_text):
    pair.both("CREATE TABLE t (key TEXT PRIMARY KEY, value ANY) STRICT")
    for path, value in ((pair.old, old), (pair.new, new)):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO t VALUES ('k', ?)", (value if as_text else value.encode(),))
    (changed,) = pair.rows()
    assert changed.fields() == fields


def test_generated_columns_are_not_computed(pair):
    """One has a function that this SQLite lacks."""
    for path in (pair.old, pair.new):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.create_function("ours", 1, lambda value: value, deterministic=True)
            connection.execute(
                "CREATE TABLE t (k TEXT PRIMARY KEY, v, w AS (ours(v)), s AS (v || '!') STORED, z)"
            )
            connection.execute("INSERT INTO t (k, v, z) VALUES ('k', 1, ?), ('l', 1, 1)", (path.name,))
    (changed,) = pair.rows()
    assert (changed.columns, changed.fields()) == (("k", "v", "z"), ["z"])


def test_virtual_tables_their_parts_and_views(pair):
    pair.both(
        "CREATE VIRTUAL TABLE notes USING fts5(body)",
        "CREATE VIRTUAL TABLE old_notes USING fts4(body)",
        "CREATE VIRTUAL TABLE places USING rtree(id, x0, x1)",
        "CREATE TABLE data (k PRIMARY KEY)",
        "CREATE TABLE notes_of_anna (k PRIMARY KEY)",
        "CREATE VIEW everything AS SELECT * FROM data",
        "INSERT INTO notes VALUES ('x')",
    )
    pair.now(
        "INSERT INTO notes VALUES ('y')",
        "INSERT INTO data VALUES (1)",
        "INSERT INTO notes_of_anna VALUES (1)",
    )
    found = pair.run()
    problems = {table: one.problem for table, one in found.items() if one.problem}
    assert problems.pop("notes") == problems.pop("old_notes") == problems.pop("places") == "a virtual table"
    assert {table for table, why in problems.items() if why == "part of the virtual table notes"} == {
        f"notes_{part}" for part in ("data", "idx", "content", "docsize", "config")
    }
    assert len(problems) == 5 + 5 + 3
    assert set(found) - set(problems) == {"notes", "old_notes", "places", "data", "notes_of_anna"}
    assert numbers(found["data"]) == numbers(found["notes_of_anna"]) == [0, 1, 0, 0]


def test_tables_of_one_side(pair):
    pair.both("CREATE TABLE t (k PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    make(pair.old, "CREATE TABLE before (k PRIMARY KEY)", "INSERT INTO before VALUES (1), (2)")
    pair.now("CREATE TABLE after (a, b)", "INSERT INTO after VALUES (1, 1)", "CREATE TABLE empty (a)")
    found = pair.run()
    assert numbers(found["before"]) == [2, 0, 0, 0]
    assert numbers(found["after"]) == [0, 1, 0, 0]
    assert found["before"].notes == ("only the old one has this table",)
    assert found["after"].notes == found["empty"].notes == ("only the new one has this table",)
    assert [(row.table, row.kind) for row in pair.rows()] == [
        ("after", "new"),
        ("before", "gone"),
        ("before", "gone"),
    ]


def test_columns_that_differ(pair):
    make(
        pair.old,
        "CREATE TABLE t (k PRIMARY KEY, dropped, kept, moved)",
        "INSERT INTO t VALUES (1, 2, 3, 4), (2, 2, 3, 4)",
    )
    pair.now(
        "CREATE TABLE t (moved, k PRIMARY KEY, kept, added)",
        "INSERT INTO t VALUES (4, 1, 3, 9), (4, 2, 33, 9)",
    )
    found = pair.run()["t"]
    assert numbers(found) == [0, 0, 1, 1]
    assert found.notes == (
        "only the old one has the column dropped, which is left out",
        "only the new one has the column added, which is left out",
    )
    (changed,) = pair.rows()
    assert (changed.columns, changed.fields()) == (("k", "kept", "moved"), ["kept"])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "(a PRIMARY KEY, b)",
            "(a, b PRIMARY KEY)",
            "its primary key is a in the old one, and b in the new one",
        ),
        (
            "(a, b, PRIMARY KEY (a, b))",
            "(a, b)",
            "its primary key is a, b in the old one, and missing in the new one",
        ),
        ("(a)", "(b)", "the two have no column in common"),
    ],
)
def test_tables_that_cannot_be_compared(pair, old, new, problem):
    make(pair.old, f"CREATE TABLE t {old}", "CREATE TABLE u (a)")
    pair.now(f"CREATE TABLE t {new}", "CREATE TABLE u (a)", "INSERT INTO u VALUES (1)")
    found = pair.run()
    assert (found["t"].problem, found["t"].differs) == (problem, False)
    assert numbers(found["u"]) == [0, 1, 0, 0]


def test_a_table_that_became_one_without_rowid(pair):
    make(
        pair.old,
        "CREATE TABLE t (k TEXT PRIMARY KEY, v)",
        "INSERT INTO t VALUES ('b', 1), ('a', 1), ('c', 1)",
    )
    pair.now(
        "CREATE TABLE t (k TEXT PRIMARY KEY, v) WITHOUT ROWID", "INSERT INTO t VALUES ('b', 1), ('a', 2)"
    )
    assert numbers(pair.run()["t"]) == [1, 0, 1, 1]


NAMES = ['a "b"', "a'b", "select", "a.b", "[x]", "sqlite-x", "a\n\x1b[2J", "été", "?", ":x", "%s", "-- "]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_need_quotes(pair, name):
    quoted = '"' + name.replace('"', '""') + '"'
    pair.both(
        f"CREATE TABLE {quoted} ({quoted} TEXT PRIMARY KEY, v)", f"INSERT INTO {quoted} VALUES ('k', 1)"
    )
    pair.now(f"UPDATE {quoted} SET v = 2")
    (changed,) = pair.rows()
    assert (changed.table, changed.key, changed.fields()) == (name, (name,), ["v"])


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_texts_of_another_encoding_are_the_same_texts(pair, encoding):
    rows = "INSERT INTO t VALUES ('😀', 1), ('ﬀ', 1), ('z', 1), ('ÿ', 'é')"
    make(pair.old, "CREATE TABLE t (k TEXT PRIMARY KEY, v) WITHOUT ROWID", rows)
    pair.now(f"PRAGMA encoding='{encoding}'", "CREATE TABLE t (k TEXT PRIMARY KEY, v) WITHOUT ROWID", rows)
    assert numbers(pair.run()["t"]) == [0, 0, 0, 4]


def test_huge_values(pair):
    pair.both(
        "CREATE TABLE t (k PRIMARY KEY, v)",
        "INSERT INTO t VALUES (1, randomblob(100)), (2, zeroblob(20000000))",
    )
    pair.now("UPDATE t SET v = zeroblob(20000001) WHERE k = 2")
    found = pair.rows()
    assert [row.fields() for row in found] == [["v"], ["v"]]


def test_a_value_that_is_larger_than_our_limit_of_memory(pair):
    pair.both(
        "CREATE TABLE t (k PRIMARY KEY, v)",
        "CREATE TABLE u (k)",
        "INSERT INTO t VALUES (2, zeroblob(400000000))",
    )
    pair.now("INSERT INTO u VALUES (1)")
    found = pair.run()
    assert "more than 256 MB of memory" in found["t"].problem
    assert numbers(found["u"]) == [0, 1, 0, 0]


def test_a_damaged_index_changes_nothing(pair):
    pair.both("CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 1)")
    pair.now(
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 't') WHERE type = 'index'",
    )
    assert numbers(pair.run()["t"]) == [0, 0, 0, 2]


def test_rows_of_one_key_that_a_damaged_index_let_in(pair):
    pair.both("CREATE TABLE t (k TEXT PRIMARY KEY, v)", "INSERT INTO t VALUES ('a', 1), ('b', 1)")
    make(
        pair.new,
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (k TEXT, v)' WHERE name = 't'",
        "DELETE FROM sqlite_master WHERE type = 'index'",
    )
    pair.now("INSERT INTO t VALUES ('a', 2), ('a', 1), ('b', 3)")
    make(
        pair.new,
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (k TEXT PRIMARY KEY, v)' WHERE name = 't'",
    )
    assert numbers(pair.run()["t"]) == [0, 3, 0, 2]
    make(pair.old, "UPDATE t SET v = 9 WHERE k = 'a'")
    assert numbers(pair.run()["t"]) == [0, 3, 1, 1]
    pair.rows()


class TestInUse:
    def test_no_writer_waits_and_rows_in_the_wal_count(self, pair):
        sample_data.create(pair.new, members=50)
        export_compacted(pair.new, pair.old)
        with closing(sqlite3.connect(pair.new, isolation_level=None, timeout=0)) as backend:
            backend.execute("PRAGMA wal_autocheckpoint=0")
            backend.execute("INSERT INTO outbox VALUES ('in the wal', 0, 0, x'00')")
            written = []

            def write(change):
                backend.execute("INSERT INTO outbox VALUES (?, 0, 0, x'00')", (f"meanwhile {len(written)}",))
                written.append(change)

            found = pair.run(write)
        assert len(written) == 1
        assert numbers(found["outbox"])[:3] == [0, 1, 0]

    def test_after_a_killed_writer(self, pair):
        sample_data.create(pair.new, members=5)
        export_compacted(pair.new, pair.old)
        leave_in_wal(pair.new)
        before = pair.new.read_bytes()
        assert numbers(pair.run()[sample_data.MEMBERS])[:3] == [0, 1, 0]
        assert pair.new.read_bytes() == before

    def test_a_locked_database(self, pair):
        pair.both("CREATE TABLE t (a)")
        with closing(sqlite3.connect(pair.new, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(DatabaseInUseError, match="database x is locked by another process"):
                compare(Source(pair.old, "snapshot"), Source(pair.new, "database x"))


class TestDamaged:
    def sources(self, pair: Pair) -> tuple[Source, Source]:
        return Source(pair.old, "snapshot 1", if_damaged="choose another"), Source(pair.new, "database 2")

    def test_the_failure_names_the_damaged_one(self, pair):
        sample_data.create(pair.old, members=300)
        export_compacted(pair.old, pair.new)
        good = pair.new.read_bytes()
        for number in range(20, 40):
            corrupt_page(pair.new, number)
        with pytest.raises(NotWholeError, match=r"^database 2 is damaged: .*restore it"):
            compare(*self.sources(pair))
        for journal in pair.old.parent.glob("*-wal"):
            journal.unlink()
        pair.old.write_bytes(pair.new.read_bytes())
        pair.new.write_bytes(good)
        with pytest.raises(SnapshotError, match=r"^snapshot 1 is damaged: .*; choose another$"):
            compare(*self.sources(pair))

    @pytest.mark.parametrize("content", [None, b"", b"x" * 5000, b"SQLite format 3\0" + bytes(84)])
    def test_no_database(self, pair, content):
        pair.both("CREATE TABLE t (a)")
        pair.new.unlink()
        if content is not None:
            pair.new.write_bytes(content)
        with pytest.raises(DatabaseError, match=r"^database 2 "):
            compare(*self.sources(pair))
        assert pair.new.exists() is (content is not None), "none is made"

    def test_pages_that_lead_to_each_other_for_ever(self, pair):
        """40 ways from each inner page to the next: a reader who believes that would not come to an end."""
        pair.both("CREATE TABLE t (a)")
        for levels in (3, 12):
            pair.old.write_bytes(looped(levels))
            with pytest.raises(SnapshotError, match="it has more rows than it has room for; choose another"):
                compare(*self.sources(pair))
        # SQLite itself notices nothing
        pair.old.write_bytes(looped(2))
        with closing(sqlite3.connect(pair.old)) as connection:
            assert connection.execute("SELECT count(*) FROM t NOT INDEXED").fetchone() == (20 * 41**2,)

    def test_a_schema_that_names_tables_which_are_not_there(self, pair):
        pair.both("CREATE TABLE t (a)", "CREATE TABLE u (a)")
        pair.now("PRAGMA writable_schema=ON", "UPDATE sqlite_master SET name = 'other' WHERE name = 'u'")
        found = pair.run()
        assert numbers(found["t"]) == [0, 0, 0, 0]
        assert found["other"].problem or found["other"].notes

    def test_nested_views_take_no_time(self, pair):
        views = [f"CREATE VIEW v{n} AS SELECT * FROM v{n - 1}, v{n - 1}" for n in range(1, 12)]
        pair.both("CREATE TABLE t (a)", "CREATE VIEW v0 AS SELECT 1", *views)
        assert set(pair.run()) == {"t"}


def looped(levels: int) -> bytes:
    """A database of one table, whose root leads over `levels` inner pages, each with 40 ways to the next, to a leaf of 20 rows."""
    page_bytes = 1024
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={page_bytes}")
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(20)])
        data = connection.serialize()
    first, leaf = data[:page_bytes], data[page_bytes : 2 * page_bytes]
    pages = [first]
    for level in range(levels):
        page = bytearray(page_bytes)
        child = (level + 3).to_bytes(4, "big")
        page[0] = 5
        page[3:5] = (40).to_bytes(2, "big")
        page[8:12] = child
        for cell in range(40):
            at = page_bytes - 5 * (cell + 1)
            page[12 + 2 * cell : 14 + 2 * cell] = at.to_bytes(2, "big")
            page[at : at + 5] = child + b"\x14"
        page[5:7] = (page_bytes - 200).to_bytes(2, "big")
        pages.append(bytes(page))
    pages.append(leaf)
    whole = bytearray(b"".join(pages))
    whole[28:32] = len(pages).to_bytes(4, "big")
    return bytes(whole)


def test_no_room_for_the_temporary_file(pair, small_disk):
    pair.both("CREATE TABLE t (k PRIMARY KEY, v)")
    pair.now(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) INSERT INTO t SELECT i, i FROM n"
    )
    script = (
        "import sys; from pathlib import Path; from dodeka_db.errors import BackupError\n"
        "from dodeka_db.sqlite.compare import Source, compare\n"
        "try: compare(*(Source(Path(one), 'it') for one in sys.argv[1:]))\n"
        "except BackupError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, pair.old, pair.new],
        env={"PYTHONPATH": str(ROOT / "bin"), "SQLITE_TMPDIR": str(small_disk)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(
        "the comparison cannot write its temporary files: database or disk is full; free"
    )
    assert list(small_disk.iterdir()) == []


def test_a_page_copy_is_the_same(pair):
    sample_data.create(pair.old, members=100)
    copy_pages(pair.old, pair.new)
    assert not any(found.differs for found in pair.run().values())
