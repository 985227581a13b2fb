"""A restore and the rows of the moment: what the question says of mails and sessions, and WITHOUT, which leaves them out."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site
from sqlite_files import rows

MAILS, SESSIONS = 14, 31
LEFT_OUT = ("outbox", "session_cache")


def content(path: Path) -> dict[str, list]:
    return {table: rows(path, f"SELECT * FROM {table} ORDER BY key") for table in sample_data.TABLES}


def without(tables: dict[str, list], *names: str) -> dict[str, list]:
    return {**tables, **{name: [] for name in names}}


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def send_mails(path: Path, *rowids: int) -> None:
    """What the backend does with a mail: it has another status."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for rowid in rowids:
            (value,) = connection.execute("SELECT value FROM outbox WHERE rowid = ?", (rowid,)).fetchone()
            sent = json.dumps({**json.loads(value), "status": "sent"}).encode()
            connection.execute("UPDATE outbox SET value = ? WHERE rowid = ?", (sent, rowid))


def question(site: Site, *arguments: str) -> str:
    """What `restore` or `undo` asks, with the answer no."""
    done = site.run(*arguments, stdin="no\n")
    assert done.returncode == 7 and "not confirmed" in done.stderr
    return done.stdout[done.stdout.index("This goes ") :].removesuffix("\n")


def beside(site: Site) -> list[str]:
    """The files in the folder of production's database, but for those of a reader."""
    names = {path.name for path in site.database().parent.iterdir()}
    return sorted(names - {"db.sqlite-wal", "db.sqlite-shm"})


@pytest.fixture(scope="module")
def stored_site(empty_site, tmp_path_factory) -> Site:
    """With a snapshot in which 14 mails wait, one was sent, and 31 sessions have not expired; 103 have."""
    folder = tmp_path_factory.mktemp("of-the-moment") / "site"
    shutil.copytree(empty_site, folder)
    site = Site(folder)
    execute(
        site.database(),
        f"DELETE FROM outbox WHERE rowid > {MAILS + 1}",
        f"UPDATE session_cache SET expiration = {int(time.time()) + 8 * 3600} WHERE rowid <= {SESSIONS}",
    )
    send_mails(site.database(), MAILS + 1)
    site.ok("backup", "production")
    return site


@pytest.fixture
def site(stored_site, tmp_path) -> Site:
    """The day after: 9 of the mails have been sent, 2 are no longer there, and so are 5 sessions; a new mail waits."""
    shutil.copytree(stored_site.folder, tmp_path / "site")
    site = Site(tmp_path / "site")
    send_mails(site.database(), *range(1, 10))
    execute(
        site.database(),
        "DELETE FROM outbox WHERE rowid IN (10, 11)",
        "DELETE FROM session_cache WHERE rowid <= 5",
        "INSERT INTO outbox SELECT 'new', 0, 0, value FROM outbox WHERE rowid = 12",
        "DELETE FROM users_by_email WHERE rowid > 10",
    )
    return site


RESTORE = ("restore", "production", "--snapshot=latest")
ACTING = """\
outbox has 14 mails that the backend will send.
  Of these in the live database: 3 still with status pending, 9 no longer with status pending, 2 not there.
session_cache has 31 sessions that the backend will believe.
  Of these in the live database: 26 still there, 5 not there.
"""
HINT = "WITHOUT=outbox,session_cache leaves such rows out.\n"


def test_the_question_counts_what_the_backend_will_act_on_and_what_became_of_that(site):
    assert question(site, *RESTORE).endswith(f"\n{ACTING}{HINT}Type 'yes' to go on: ")


def test_without_them_they_are_empty_and_all_else_is_the_snapshot_s(stored_site, site):
    then, now = content(stored_site.database()), content(site.database())
    tokens = [key.encode() for key, *_ in then["session_cache"]]
    said = site.ok(*RESTORE, "--yes", "--without", "outbox,session_cache")
    assert re.search(
        r"\nIt puts snapshot \w+, without the rows of outbox, session_cache, in the place of \S+:\n", said
    )
    assert re.search(r"\n  outbox +0 +14 +0 +0\n", said) and re.search(
        r"\n  users_by_email +390 +0 +0 +400\n", said
    )
    assert "the backend will" not in said and "WITHOUT=" not in said
    assert re.search(
        r"done: production has the data of snapshot \w+, without the rows of outbox, session_cache\n", said
    )
    assert content(site.database()) == without(then, *LEFT_OUT)
    assert beside(site) == ["db.sqlite"]
    left = site.database().read_bytes()
    assert len(tokens) == 134 and not [token for token in tokens if token in left]
    # and the undo has every row
    site.ok("undo", "production", "--yes")
    assert content(site.database()) == now


def test_an_undo_says_it_too_but_gives_every_row_back(site):
    now = content(site.database())
    site.ok(*RESTORE, "--yes", "--without", "outbox session_cache")
    said = question(site, "undo", "production")
    assert said.endswith(
        "\noutbox has 4 mails that the backend will send.\n"
        "  Of these in the live database: 4 not there.\n"
        "session_cache has 26 sessions that the backend will believe.\n"
        "  Of these in the live database: 26 not there.\n"
        "Type 'yes' to go on: "
    )
    site.ok("undo", "production", "--yes")
    assert content(site.database()) == now


def test_one_of_them_alone_and_a_table_named_twice(site):
    said = question(site, *RESTORE, "--without= outbox,tokens, outbox")
    assert ", without the rows of outbox, tokens, in the place of " in said
    assert "outbox has" not in said and "\nsession_cache has 31 sessions that the backend will " in said
    # what the hint says would leave the same tables out, and more
    assert "\nWITHOUT=outbox,tokens,session_cache leaves such rows out.\n" in said


def test_a_clone(stored_site, site):
    then = content(stored_site.database())
    arguments = ("demo", "--from=production", "--snapshot=latest", "--clone=whole")
    demo, words = content(site.database("demo")), "with mails and sessions\n"
    said = question(site, "restore", *arguments)
    assert (
        "\noutbox has 14 mails that the backend will send.\n"
        "session_cache has 31 sessions that the backend will believe.\n" + HINT in said
    ), "what demo's database has says nothing of these mails"
    left_out = "--without=outbox,session_cache,sync,sync_state,sync_decisions"
    site.ok("restore", *arguments, left_out, stdin=words)
    expected = without(then, *LEFT_OUT, "sync", "sync_state", "sync_decisions")
    assert content(site.database("demo")) == expected
    site.ok("undo", "demo", "--yes")
    assert content(site.database("demo")) == demo


def test_a_live_database_that_cannot_be_read_says_nothing_of_them(site):
    first_halves = (
        "\noutbox has 14 mails that the backend will send.\n"
        "session_cache has 31 sessions that the backend will believe.\n" + HINT
    )
    execute(site.database(), "ALTER TABLE outbox RENAME COLUMN value TO content")
    said = question(site, *RESTORE)
    assert "\noutbox has 14 mails that the backend will send.\nsession_cache has 31 " in said
    site.database().write_bytes(b"no database")
    assert first_halves in question(site, *RESTORE)
    Path(site.database()).unlink()
    assert first_halves in question(site, *RESTORE)


def test_rows_that_cannot_be_counted_are_only_a_warning(site):
    site.ok(*RESTORE, "--yes")
    execute(
        site.database(), "ALTER TABLE outbox RENAME COLUMN expiration TO until", "DROP TABLE session_cache"
    )
    site.ok("backup", "production")
    done = site.run(*RESTORE, stdin="no\n")
    assert done.returncode == 7
    assert re.search(
        r"warning: the rows of outbox that the backend will send are not counted: .*: no such column: expiration\n",
        done.stdout,
    )
    assert "that the backend will believe" not in done.stdout
    # what is not in the snapshot need not be left out
    said = site.ok(*RESTORE, "--yes", "--without=outbox,session_cache")
    assert re.search(r"warning: snapshot \w+ has no table session_cache\n", said)
    assert re.search(r"\nIt puts snapshot \w+, without the rows of outbox, in the place of ", said)
    assert sample_data.count(site.database(), "outbox") == 0


@pytest.mark.parametrize("names", ["users", "outbox,users", "outbox;session_cache", "Outbox", "*", "-", "'"])
def test_only_tables_of_the_moment_and_nothing_is_fetched_for_another(site, names):
    before = content(site.database())
    done = site.run(*RESTORE, "--yes", f"--without={names}", RESTIC_REPOSITORY="/nowhere")
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert done.stderr.endswith(
        " is not a table that a restore can leave out;"
        " choose of: outbox, session_cache, sync, sync_decisions, sync_state, tokens\n"
    )
    assert content(site.database()) == before and beside(site) == ["db.sqlite"]


def test_a_trigger_on_the_table_ends_it_before_anything_is_changed(site):
    site.ok(*RESTORE, "--yes")
    execute(site.database(), "CREATE TRIGGER also AFTER DELETE ON outbox BEGIN DELETE FROM users; END")
    site.ok("backup", "production")
    before = content(site.database())
    done = site.run(*RESTORE, "--yes", "--without=outbox")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert (
        " has the trigger also, which could change other tables; nothing was changed; leave that table"
        in done.stderr
    )
    assert content(site.database()) == before and beside(site) == ["db.sqlite"]
    site.ok(*RESTORE, "--yes", "--without=session_cache")


def test_a_table_with_defects_is_whole_when_it_is_empty(site):
    """Its index has lost its entries: rebuilding it would work too, if the values were not those of two rows."""
    execute(
        site.database(),
        "PRAGMA writable_schema=ON",
        "CREATE UNIQUE INDEX one ON outbox (counter) WHERE counter > 0",
        "UPDATE sqlite_master SET sql = 'CREATE UNIQUE INDEX one ON outbox (counter)' WHERE name = 'one'",
    )
    site.run("backup", "production")
    assert "Warning about the new database: SQLite's check says: " in question(site, *RESTORE)
    said = site.ok(*RESTORE, "--yes", "--without=outbox")
    assert "Warning about the new database" not in said
    assert rows(site.database(), "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount another file there")
def test_a_description_with_a_mistake_names_no_table(site, tmp_path):
    broken = tmp_path / "data.toml"
    broken.write_text("[kinds]\n")
    shown = f"mount --bind {broken} {ROOT}/deploy/data.toml && exec {ROOT}/bin/dodeka-db-restore.py"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{shown} production --snapshot=latest --without=outbox --yes"],
        env=site.environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.count("\n") == 1 and "data.toml, 'members': it is missing" in done.stderr


def test_killed_while_they_are_removed(site):
    """When SQLite has written all of it into the journal, and begins to remove that; the next run clears up."""
    now = content(site.database())
    kill = ("strace", "-o/dev/null", "-etrace=unlink", "-einject=unlink:signal=KILL:when=1")
    staged = f"{site.database()}.restoring-"
    process = subprocess.Popen(
        [
            *kill,
            ROOT / "bin" / "dodeka-db-restore.py",
            *RESTORE[1:],
            "--yes",
            "--without=outbox,session_cache",
        ],
        env=site.environ,
        stdout=subprocess.DEVNULL,
    )
    assert process.wait() in (-signal.SIGKILL, 128 + signal.SIGKILL)
    left = [str(site.database().parent / name) for name in beside(site) if name != "db.sqlite"]
    assert left and all(name.startswith(staged) for name in left)
    assert any(name.endswith("-wal") for name in left)
    assert content(site.database()) == now
    site.loses("backup", "production")
    assert beside(site) == ["db.sqlite"] and content(site.database()) == now
