"""Databases that run well, and of which SQLite, or this SQLite, says that something is wrong: whatever can be read through is
stored, drilled, restored and cloned, and what is wrong is named."""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db.sqlite import header, sample_data
from dodeka_db.sqlite.failures import THIS_SQLITE
from site_folder import Site
from sqlite_files import rows

FORMATS = ("zst", "pages")


def change(path: Path, *statements: str) -> None:
    """Run the statements on the database at `path`, with what they need that no other SQLite has."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("regexp", 2, lambda pattern, text: bool(re.search(pattern, text)))
        connection.create_function("fold", 1, str.casefold, deterministic=True)
        connection.create_collation("dutch", lambda one, other: (one > other) - (one < other))
        for statement in statements:
            connection.execute(statement)


def in_schema(name: str, sql: str) -> tuple[str, ...]:
    """Statements that let the schema say something else of the table or index `name`."""
    return (
        "PRAGMA writable_schema=ON",
        f"UPDATE sqlite_schema SET sql = '{sql}' WHERE name = '{name}'",
        "PRAGMA writable_schema=RESET",
    )


def make_orphan(path: Path) -> None:
    change(
        path,
        "CREATE TABLE child (parent TEXT REFERENCES users(key))",
        "INSERT INTO child VALUES ('x'), ('y')",
    )


def make_index_lack_an_entry(path: Path) -> None:
    change(
        path,
        "CREATE TABLE t (a, b)",
        "CREATE INDEX i ON t (a) WHERE b > 0",
        "INSERT INTO t VALUES (1, 1), (2, 1), (3, 0)",
        *in_schema("i", "CREATE INDEX i ON t (a)"),
    )


def make_index_not_unique(path: Path) -> None:
    change(
        path,
        "CREATE TABLE t (a)",
        "CREATE INDEX i ON t (a)",
        "INSERT INTO t VALUES (1), (1), (2)",
        *in_schema("i", "CREATE UNIQUE INDEX i ON t (a)"),
    )


def damage_index(path: Path) -> None:
    """Rubbish in the first page of an index, which REINDEX itself runs into."""
    change(
        path,
        "PRAGMA journal_mode=DELETE",
        "CREATE TABLE t (a)",
        "CREATE INDEX i ON t (a)",
        "INSERT INTO t VALUES (1), (2)",
        "ALTER TABLE t ADD COLUMN b DEFAULT 'long'",  # so that SQLite would count in the index
    )
    ((root,),) = rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'i'")
    with open(path, "r+b") as file:
        file.seek((root - 1) * header.read_header(path).page_bytes)
        file.write(b"\xff" * 1000)


# (what makes it, in which formats SQLite's check says so, what it says, whether a rebuilt index ends that)
DEFECTS = {
    "an index that lacks an entry": (make_index_lack_an_entry, FORMATS, "row 3 missing from index i", True),
    "an index that is not unique": (make_index_not_unique, FORMATS, "non-unique entry in index i", False),
    "an index that cannot be read": (damage_index, FORMATS, "malformed", False),
    "a violated CHECK": (
        lambda path: change(
            path,
            "PRAGMA ignore_check_constraints=ON",
            "CREATE TABLE t (a CHECK (a > 0))",
            "INSERT INTO t VALUES (-1)",
        ),
        *(FORMATS, "CHECK constraint failed in t", False),
    ),
    "a NULL where none may be": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "INSERT INTO t VALUES (NULL)",
            *in_schema("t", "CREATE TABLE t (a NOT NULL)"),
        ),
        *(FORMATS, "NULL value in t.a", False),
    ),
    "a freelist that is longer": (
        lambda path: (
            change(
                path,
                "PRAGMA journal_mode=DELETE",
                "CREATE TABLE t (a)",
                "INSERT INTO t VALUES (zeroblob(9999))",
                "DROP TABLE t",
            ),
            patch(path, 36, (999).to_bytes(4, "big")),  # more than REINDEX takes from it
        ),
        *(("pages",), "reelist: ", False),  # a compacted copy has none
    ),
}


def patch(path: Path, at: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def record(site: Site, job: str) -> dict:
    return json.loads((site.state / "records" / f"{job}.json").read_text())


def content(path: Path, sql: str = "SELECT * FROM t NOT INDEXED") -> tuple:
    return sample_data.digest(path), rows(path, sql)


@pytest.mark.slow("each format", keep=["zst"])
@pytest.mark.parametrize("format", FORMATS)
def test_orphan_rows_are_named_and_no_reason_to_fail(site, format):
    make_orphan(site.database())
    said = f"warning: database {site.database()}: rows of child that refer to a missing row of users: 2\n"
    assert said in site.ok("backup", "production", DODEKA_FORMAT=format)
    assert said in site.ok("cron", "production", DODEKA_FORMAT=format)
    newest = site.snapshots("production")[-1]["short_id"]
    assert (
        f"warning: the database in snapshot {newest}: rows of child that refer to a missing row of users: 2\n"
        in site.ok("verify", "production")
    )
    assert record(site, "drill-production")["details"] == {"snapshot": newest}
    before = content(site.database(), "SELECT * FROM child")
    change(site.database(), "DELETE FROM child")
    output = site.ok("restore", "production", "--snapshot", "latest", "--yes", DODEKA_FORMAT=format)
    assert (
        "\nWarning about the new database: rows of child that refer to a missing row of users: 2\n" in output
    )
    assert content(site.database(), "SELECT * FROM child") == before
    whole = "--clone=whole", "--from", "production", "--snapshot", "latest"
    site.ok("restore", "demo", *whole, stdin="with mails and sessions\n", DODEKA_FORMAT=format)
    assert content(site.database("demo"), "SELECT * FROM child") == before
    # what that replaces has orphans too, and becomes a snapshot
    output = site.ok("undo", "production", "--yes", DODEKA_FORMAT=format)
    assert site.snapshots("production")[-1]["tags"][-1] == "pre-restore"
    assert "rows of child that refer to a missing row of users: 2\n" in output
    assert rows(site.database(), "SELECT * FROM child") == []


def test_a_foreign_key_to_what_cannot_be_one_is_no_reason_to_fail(site):
    change(
        site.database(),
        "CREATE TABLE p (a)",
        "CREATE TABLE t (a REFERENCES p(a))",
        "INSERT INTO t VALUES (1)",
    )
    output = site.ok("cron", "production")
    assert re.search(
        r'warning: .* cannot check all of it: foreign key mismatch - "t" referencing "p"\n', output
    )
    site.ok("verify", "production")


@pytest.mark.slow("each defect in each format", keep=["lacks an entry-zst"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_stored_and_the_run_fails_behind_that(site, kind, format):
    make, formats, words, is_fixed = DEFECTS[kind]
    make(site.database())
    table = "SELECT count(*) FROM users_by_email" if "freelist" in kind else "SELECT * FROM t NOT INDEXED"
    before = content(site.database(), table)
    for script in ("backup", "cron"):
        done = site.run(script, "production", DODEKA_FORMAT=format)
        if format not in formats:
            assert (done.returncode, done.stderr) == (0, "")
            continue
        newest = site.snapshots("production")[-1]["short_id"]
        assert done.returncode == 3
        assert (
            f" error: snapshot {newest} is safe, but database {site.database()} has defects: " in done.stderr
        )
        assert words in done.stderr
        assert done.stderr.endswith(
            "; REINDEX repairs an index; no restore is needed: BACKUP.md, 'The database has defects'\n"
        )
        assert re.search(f"warning: database .*: SQLite's check says: .*{words}", done.stdout)
    assert len(site.snapshots("production")) == 2
    if format not in formats:
        return
    assert "applying the retention policy" in done.stdout
    assert words in record(site, "cron-production")["error"]
    assert re.search(f"warning: the database in snapshot .*{words}", site.ok("verify", "production"))
    assert words in record(site, "drill-production")["details"]["defects"]
    change(site.database(), "DELETE FROM users_by_email")
    output = site.ok("restore", "production", "--snapshot", "latest", "--yes", DODEKA_FORMAT=format)
    assert re.search(
        f"\n(Its indexes were damaged, and are rebuilt|Warning about the new database): .*{words}", output
    )
    assert ("\nIts indexes were damaged, and are rebuilt" in output) == is_fixed
    assert content(site.database(), table) == before
    assert (rows(site.database(), "PRAGMA integrity_check(1)") == [("ok",)]) == is_fixed
    # what was replaced has the same defect, and is a snapshot now
    assert site.snapshots("production")[-1]["tags"][-1] == "pre-restore"
    assert re.search(f"warning: database .*pre-restore-.*: SQLite's check says: .*{words}", output)
    site.ok("undo", "production", "--yes", DODEKA_FORMAT=format)
    assert sample_data.count(site.database()) == 0


def test_status_names_what_only_the_drill_has_found(site):
    site.ok("backup", "production")
    site.ok("verify", "production")
    file = site.state / "records" / "drill-production.json"
    found = json.loads(file.read_text())
    file.write_text(
        json.dumps({**found, "details": {**found["details"], "defects": "row 3 missing from index i"}})
    )
    done = site.run("status")
    assert re.search(
        r"BAD +production +drill .*; its database has defects: row 3 missing from index i\n", done.stdout
    )


def test_a_database_whose_rows_cannot_all_be_read_is_refused_in_either_format(site):
    change(site.database(), "PRAGMA journal_mode=DELETE")
    patch(site.database(), 4096 * 5, b"\xff" * 4096 * 40)
    for format in FORMATS:
        done = site.run("cron", "production", DODEKA_FORMAT=format)
        assert done.returncode == 3
        assert f"database {site.database()} is damaged: " in done.stderr
    assert site.snapshots("production") == []


# what makes it, and the words of a warning if there is one: a schema that another SQLite than this one runs
SCHEMAS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a function in a CHECK": (
        lambda path: change(path, "CREATE TABLE t (a CHECK (a REGEXP '^a'))", "INSERT INTO t VALUES ('a')"),
        "no such function: REGEXP",
    ),
    "a collation of an index": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "CREATE INDEX i ON t (a COLLATE dutch)",
            "INSERT INTO t VALUES ('a'), ('b')",
        ),
        "no such collation sequence: dutch",
    ),
    "a collation of a column": (
        lambda path: change(
            path, "CREATE TABLE t (a COLLATE dutch UNIQUE)", "INSERT INTO t VALUES ('a'), ('b')"
        ),
        "no such collation sequence: dutch",
    ),
    "a collation of a key without rowid": (
        lambda path: change(
            path,
            "CREATE TABLE t (a COLLATE dutch PRIMARY KEY) WITHOUT ROWID",
            "INSERT INTO t VALUES ('a'), ('b')",
        ),
        "no such collation sequence: dutch",
    ),
    "a function in an index": (
        lambda path: change(
            path, "CREATE TABLE t (a)", "CREATE INDEX i ON t (fold(a))", "INSERT INTO t VALUES ('a')"
        ),
        "no such function: fold",
    ),
    "a function in a generated column": (
        lambda path: change(
            path, "CREATE TABLE t (a, b GENERATED ALWAYS AS (fold(a)))", "INSERT INTO t VALUES ('a')"
        ),
        "no such function: fold",
    ),
    "a tokenizer": (
        lambda path: change(
            path,
            "CREATE VIRTUAL TABLE t USING fts5 (a)",
            "INSERT INTO t VALUES ('a')",
            *in_schema("t", "CREATE VIRTUAL TABLE t USING fts5 (a, tokenize=dutch)"),
        ),
        "",
    ),
    "a module": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "PRAGMA writable_schema=ON",
            "INSERT INTO sqlite_schema VALUES ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING vec0 (a)')",
        ),
        "",
    ),
    "a function in a view": (
        lambda path: change(path, "CREATE TABLE t (a)", "CREATE VIEW v AS SELECT none(a) FROM t"),
        "",
    ),
    "the syntax of a table": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "INSERT INTO t VALUES ('a')",
            *in_schema("t", "CREATE TABLE t (a TEXT) COMPRESSED WITH zstd"),
        ),
        r"malformed database schema \(t\) - ",
    ),
    "the type of a column": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "INSERT INTO t VALUES ('a')",
            *in_schema("t", "CREATE TABLE t (a MONEY) STRICT"),
        ),
        r"malformed database schema \(t\) - unknown datatype for t.a",
    ),
    "the syntax of an index": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "CREATE INDEX i ON t (a)",
            "INSERT INTO t VALUES ('a')",
            *in_schema("i", "CREATE INDEX i ON t (a) INCLUDING (b)"),
        ),
        r"malformed database schema \(i\) - ",
    ),
    "the syntax of a view": (
        lambda path: change(
            path,
            "CREATE TABLE t (a)",
            "PRAGMA writable_schema=ON",
            "INSERT INTO sqlite_schema VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v AS SELECT 1 QUALIFY 1')",
        ),
        r"malformed database schema \(v\) - ",
    ),
}


def schema_and_rows(path: Path) -> tuple:
    """Of one to which rows may have been added that stay in the WAL."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        schema = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
        return schema, connection.execute(
            "SELECT * FROM users_by_email NOT INDEXED ORDER BY rowid"
        ).fetchall()


def lose_members(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("DELETE FROM users_by_email WHERE rowid > 10")


@pytest.mark.slow("each schema in each format", keep=["CHECK-pages", "tokenizer-zst"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_that_this_sqlite_cannot_run_goes_the_whole_way(site, kind, format):
    make, words = SCHEMAS[kind]
    make(site.database())
    before = schema_and_rows(site.database())
    is_copied = format == "zst" and words
    output = site.ok("cron", "production", DODEKA_FORMAT=format)
    compacting = re.findall(
        rf"warning: {THIS_SQLITE} cannot compact database {site.database()}: {words}.*;"
        " the snapshot is a page copy, which contains remains of deleted rows\n",
        output,
    )
    assert len(compacting) == bool(is_copied)
    assert "damaged" not in output
    assert "damaged" not in site.ok("verify", "production")
    lose_members(site.database())
    lost = schema_and_rows(site.database())
    assert lost != before
    output = site.ok("restore", "production", "--snapshot", "latest", "--yes", DODEKA_FORMAT=format)
    assert "damaged" not in output
    assert re.search(r"\n  users_by_email +\d+ +0 +0 +400\n", output)
    assert schema_and_rows(site.database()) == before
    site.ok("undo", "production", "--yes", DODEKA_FORMAT=format)
    assert schema_and_rows(site.database()) == lost
    whole = "--clone=whole", "--from", "production", "--snapshot", "latest"
    site.ok("restore", "demo", *whole, stdin="with mails and sessions\n", DODEKA_FORMAT=format)
    assert schema_and_rows(site.database("demo")) == before


def test_what_cannot_be_counted_is_said(site):
    SCHEMAS["a collation of a key without rowid"][0](site.database())
    site.ok("backup", "production")
    assert re.search(
        r"\nt +\? +\?\n", re.sub("(?m)^[^ ]+T[^ ]+ production ", "", site.ok("verify", "production"))
    )
    output = site.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert "\n  t is not compared: " in output


def test_the_rest_of_a_schema_that_cannot_be_checked_is_checked(site):
    make_index_lack_an_entry(site.database())
    change(site.database(), "CREATE TABLE u (a COLLATE dutch UNIQUE)", "INSERT INTO u VALUES ('a')")
    done = site.run("backup", "production")
    assert (done.returncode, "row 3 missing from index i" in done.stderr) == (3, True)
    assert "cannot check all of it: no such collation sequence: dutch\n" in done.stdout
    output = site.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert "\nIts indexes were damaged, and are rebuilt: " in output


@pytest.mark.parametrize("at", [19, 47], ids=["of the file", "of the schema"])
def test_a_format_of_a_newer_sqlite_is_named_with_this_one_and_not_called_damaged(site, at):
    site.ok("backup", "production")
    change(site.database(), "PRAGMA journal_mode=DELETE")
    patch(site.database(), at, b"\x05")
    for format in FORMATS:
        done = site.run("backup", "production", DODEKA_FORMAT=format)
        assert done.returncode == 3
        said = f"database {site.database()} is not a database that {THIS_SQLITE} can read: "
        assert said in done.stderr and "damaged" not in done.stderr
    site.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert sample_data.count(site.database()) == 400


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_whose_schema_is_damaged_is_not_left_out(site, format):
    """With the rest of the schema alone VACUUM INTO would succeed, without that table."""
    change(
        site.database(),
        "CREATE TABLE t (a)",
        "INSERT INTO t VALUES (1)",
        *in_schema("t", "XREATE TABLE t (a)"),
    )
    before = schema_and_rows(site.database())
    done = site.run("backup", "production", DODEKA_FORMAT=format)
    assert (done.returncode, "has defects: malformed database schema (t)" in done.stderr) == (3, True)
    lose_members(site.database())
    site.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert schema_and_rows(site.database()) == before
    change(site.database(), *in_schema("t", "CREATE TABLE t (a)"))
    assert rows(site.database(), "SELECT a FROM t") == [(1,)]


def test_names_of_a_database_do_nothing_to_a_terminal(site):
    change(
        site.database(),
        'CREATE TABLE "c\x1b[2J\n" (parent TEXT REFERENCES users(key))',
        'INSERT INTO "c\x1b[2J\n" VALUES (1)',
    )
    assert r": rows of c\u001b[2J that refer to a missing row of users: 1" + "\n" in site.ok(
        "backup", "production"
    )
