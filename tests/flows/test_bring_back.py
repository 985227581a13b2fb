"""make bring-back: rows that were lost come back into the running database, and nothing else changes."""

import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dodeka_db import data_description
from dodeka_db.sqlite import header, sample_data
from site_folder import ROOT, Site, Twin
from sqlite_files import rows
from waiting import wait_for

SCRIPT = ROOT / "bin" / "dodeka-db-bring-back.py"
OF_A_MEMBER = {"users": 6, "users_by_email": 1, "users_by_bondsnummer": 1, "volta_data": 1, "birthdays": 1}


@contextmanager
def backend(site: Site) -> Iterator[sqlite3.Connection]:
    """A connection as the backend's: open all the time, with writes in the WAL."""
    with closing(sqlite3.connect(site.database(), isolation_level=None, timeout=0.5)) as connection:
        yield connection


def insert(site: Site, table: str, key: str, value: object) -> None:
    with backend(site) as connection:
        sample_data.insert(connection, table, key, value)


def address(site: Site, number: int) -> str:
    (key,) = [
        key for (key,) in rows(site.database(), "SELECT key FROM users_by_email") if f".{number}@" in key
    ]
    return key


def user(site: Site, number: int) -> str:
    value = "SELECT CAST(value AS TEXT) FROM users_by_email"
    (found,) = [user for (user,) in rows(site.database(), value) if user.startswith(f"{number}_")]
    return found


def delete(site: Site, *numbers: int) -> None:
    """Delete members as the backend does when a member list without them is imported."""
    with backend(site) as connection:
        for number in numbers:
            connection.execute("DELETE FROM users WHERE key GLOB ?", (f"{number}_*",))
            connection.execute("DELETE FROM birthdays WHERE key GLOB ?", (f"{number}_*",))
            connection.execute(
                "DELETE FROM users_by_email WHERE CAST(value AS TEXT) GLOB ?", (f"{number}_*",)
            )
            by_number = "CAST(value AS TEXT) GLOB ?"
            connection.execute(
                "DELETE FROM volta_data WHERE key IN"
                f" (SELECT key FROM users_by_bondsnummer WHERE {by_number})",
                (f"{number}_*",),
            )
            connection.execute(f"DELETE FROM users_by_bondsnummer WHERE {by_number}", (f"{number}_*",))


def content(site: Site) -> dict[str, set]:
    """All rows by table, without those of the moment."""
    described = data_description.read().tables
    return {
        table: set(rows(site.database(), f"SELECT * FROM {table}"))
        for table in sample_data.TABLES
        if described[table].can_come_back
    }


def bring_back(site: Site, *arguments: str, answer: str = "yes\n") -> str:
    """What it says, in lines with one space between two words."""
    output = site.ok("bring-back", "production", *arguments, stdin=answer)
    return "\n".join(" ".join(line.split()) for line in output.splitlines())


@pytest.fixture
def saved(site) -> Site:
    """A site with a snapshot of 400 members, and what was in it in `site.then`."""
    site.ok("backup", "production")
    return site


def test_members_come_back_with_all_their_rows_and_those_who_came_since_stay(saved):
    before = content(saved)
    delete(saved, *range(20, 400))
    with backend(saved) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        new, _ = sample_data.add_member(connection, random.Random(9), 900)
        connection.execute("UPDATE users SET value = x'39' WHERE key GLOB '3_*:sessions_counter'")
        since = content(saved)
        output = bring_back(saved)
    for table, count in OF_A_MEMBER.items():
        assert f"\n{table} {380 * count}\n" in output
    assert "People who come back: 380\n" in output and "and 360 more; ROWS=1 names all" in output
    assert "Left alone" not in output
    assert "done: 3800 rows of 380 people brought back to production; as it was before: snapshot" in output
    (waited_ms,) = re.findall(r"the backend waited for (\d+) ms at most", output)
    assert int(waited_ms) < 500
    after = content(saved)
    for table in after:
        assert after[table] == since[table] | before[table] - changed(before[table], since[table]), table
    assert new in {value.decode() for *_, value in after["users_by_email"]}
    assert rows(saved.database(), "PRAGMA integrity_check") == [("ok",)]
    assert saved.staged() == []


def changed(before: set, since: set) -> set:
    """The rows of `before` whose keys are in `since` too."""
    keys = {key for key, *_ in since}
    return {row for row in before if row[0] in keys}


def test_the_database_as_it_was_is_a_snapshot_and_undo_says_what_it_would_lose(saved):
    delete(saved, 7)
    lost = content(saved)
    output = bring_back(saved)
    (kept,) = re.findall(r"as it was before: snapshot ([0-9a-f]{8}), tagged pre-restore", output)
    newest = saved.snapshots("production")[-1]
    assert (newest["short_id"], "pre-restore" in newest["tags"]) == (kept, True)
    done = saved.run("undo", "production", stdin="no\n")
    assert re.search(r"users_by_email +0 +1 +0 +399\n", done.stdout), "one row goes"
    saved.ok("undo", "production", "--yes")
    assert content(saved) == lost


def test_nothing_is_touched_without_a_yes(saved):
    delete(saved, 7)
    before, snapshots = saved.database().read_bytes(), saved.snapshots()
    done = saved.run("bring-back", "production", stdin="y\n")
    assert done.returncode == 7 and "not confirmed; nothing was changed" in done.stderr
    assert saved.database().read_bytes() == before and saved.snapshots() == snapshots
    assert saved.staged() == []


def test_nothing_is_missing(saved):
    insert(saved, "private", "new", {"role": "member", "value": "since"})
    before = saved.database().read_bytes()
    output = bring_back(saved, answer="")
    assert "has no missing row that can come back" in output and re.search(
        "done: nothing to bring back .*; AT=03:00", output
    )
    assert saved.database().read_bytes() == before and len(saved.snapshots()) == 1


def test_one_member_two_members_a_file_of_members(saved, tmp_path):
    delete(saved, 7, 8, 9, 10, 11)
    names = {number: then(saved, number) for number in (7, 8, 9, 10)}
    assert "done: 10 rows of 1 person brought back" in bring_back(saved, "--who", names[7].upper())
    file = tmp_path / "who.txt"
    file.write_text(f'\ufeff"{names[9]}";"x <{names[10].upper()}>"\n'.replace("x ", ""))
    output = bring_back(saved, "--who", f"{names[8]}, {names[7]}", "--who", str(file))
    assert "done: 30 rows of 3 people brought back" in output
    here = {key for (key,) in rows(saved.database(), "SELECT key FROM users_by_email")}
    assert {*names.values()} <= here and len(here) == 399, "the fifth is still gone"


def then(site: Site, number: int) -> str:
    """The address of a member in the newest snapshot."""
    script = f"SELECT key FROM users_by_email WHERE key GLOB '*.{number}@*';"
    return site.run("open", "production", stdin=script).stdout.strip()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["--who", "nobody@example.org"],
            4,
            "belongs to nobody@example.org; check how the address is written, or take another snapshot\n",
        ),
        (["--who", "anna"], 2, "'anna' is neither an address nor a readable file of addresses"),
        (["--who", "anna@example.org,ben"], 2, "'anna@example.org,ben' is neither an address nor"),
        (["--who", "/dev/zero"], 2, "'/dev/zero' is neither an address nor a readable file"),
        (["--who", ""], 2, "'' is neither an address"),
        (["--tables", " ,"], 2, "TABLES names no table; leave it out for all tables"),
        (["--tables", "user"], 4, "has no table user; see its tables with make open"),
        (["--tables", "users,outbox"], 2, "rows of outbox are never brought back; the reason is in "),
        (["--tables", "metadata"], 2, "rows of metadata are never brought back"),
        (["--at", "25:00"], 4, "'25:00' is not a time"),
        (["--snapshot", "deadbeef"], 4, "there is no snapshot deadbeef of production"),
    ],
)
def test_what_cannot_be_asked_for(saved, options, code, said):
    delete(saved, 7)
    before = saved.database().read_bytes()
    done = saved.run("bring-back", "production", *options, stdin="yes\n")
    assert (done.returncode, said in done.stderr) == (code, True), done
    assert len(done.stderr.splitlines()) == 1
    assert saved.database().read_bytes() == before and len(saved.snapshots()) == 1


def test_a_file_with_something_else_in_it(saved, tmp_path):
    file = tmp_path / "who"
    file.write_text("anna@example.org\nname,address\n")
    done = saved.run("bring-back", "production", "--who", str(file))
    assert done.returncode == 2 and done.stderr.endswith(f"file {file} has 'name', which is not an address\n")


def test_tables_alone(saved):
    delete(saved, 7)
    output = bring_back(saved, "--tables", "birthdays,volta_data")
    assert "done: 2 rows of 1 person brought back" in output and "Never brought back" not in output
    assert rows(saved.database(), "SELECT count(*) FROM users_by_email") == [(399,)]


def test_a_table_that_nobody_has_described(site):
    with backend(site) as connection:
        connection.execute(
            "CREATE TABLE trophies (year INTEGER, place INTEGER, who TEXT, PRIMARY KEY (year, place))"
        )
        connection.execute("INSERT INTO trophies VALUES (2025, 1, 'Anna'), (2025, 2, 'Ben')")
    site.ok("backup", "production")
    with backend(site) as connection:
        connection.execute("DELETE FROM trophies")
    output = bring_back(site)
    assert (
        "trophies: not described in data.toml; with TABLES=trophies its rows come back (2 of the rows"
        in output
    )
    assert rows(site.database(), "SELECT count(*) FROM trophies") == [(0,)]
    output = bring_back(site, "--tables", "trophies", "--rows")
    assert "\ntrophies 2025, 1\ntrophies 2025, 2\n" in output and "done: 2 rows brought back" in output
    assert rows(site.database(), "SELECT count(*) FROM trophies") == [(2,)]


def test_what_is_of_the_moment_stays_away_and_the_counter_does_not_go_back(saved):
    with backend(saved) as connection:
        for table in (
            "outbox",
            "session_cache",
            "tokens",
            "sync",
            "sync_state",
            "sync_decisions",
            "metadata",
        ):
            connection.execute(f"DELETE FROM {table}")
    delete(saved, 7)
    output = bring_back(saved)
    never = "sync, sync_state, sync_decisions, outbox, session_cache, tokens, metadata."
    assert f"Never brought back: the rows of {never}" in " ".join(output.split())
    for table in ("outbox", "session_cache", "tokens", "sync", "sync_state", "sync_decisions", "metadata"):
        assert rows(saved.database(), f"SELECT count(*) FROM {table}") == [(0,)]
    assert rows(saved.database(), "SELECT count(*) FROM users_by_email") == [(400,)]


class TestConflicts:
    """Somebody came back in another way, or changed, since the snapshot."""

    def test_the_address_is_of_somebody_else_by_now(self, saved):
        lost, other = address(saved, 7), address(saved, 8)
        delete(saved, 7, 8)
        insert(saved, "users_by_email", lost, "500_else_voorbeeld")
        output = bring_back(saved)
        assert (
            f"\n{lost}: {lost} is in users_by_email by now, for 500_else_voorbeeld (9 of the rows" in output
        )
        assert "done: 10 rows of 1 person brought back" in output
        assert rows(saved.database(), "SELECT 1 FROM users WHERE key GLOB '7_*'") == []
        assert rows(saved.database(), f"SELECT 1 FROM users_by_email WHERE key = '{other}'") == [(1,)]

    def test_somebody_with_the_address_asks_to_become_a_member(self, saved):
        lost = address(saved, 7)
        delete(saved, 7)
        insert(saved, "registrations_by_email", lost, "a-token-that-opens-something")
        output = bring_back(saved, answer="")
        assert (
            f"{lost}: {lost} is in registrations_by_email by now (10 of the rows that are missing)" in output
        )
        assert "a-token" not in output
        # an earlier snapshot would not help
        assert re.search(
            r"done: nothing to bring back from snapshot \w{8}: what is missing is left alone, ", output
        )

    def test_the_number_is_of_somebody_else_by_now(self, saved):
        lost, number = address(saved, 7), sample_data._FIRST_NUMBER + 7
        delete(saved, 7)
        insert(saved, "users_by_bondsnummer", str(number), "500_else_voorbeeld")
        output = bring_back(saved, answer="")
        assert f"{lost}: {number} is in users_by_bondsnummer by now, for 500_else_voorbeeld" in output

    def test_somebody_who_is_there_has_another_address_by_now(self, saved):
        """The old address must not open the account again."""
        name, old = user(saved, 7), address(saved, 7)
        with backend(saved) as connection:
            connection.execute("UPDATE users_by_email SET key = 'new@example.org' WHERE key = ?", (old,))
            connection.execute("DELETE FROM birthdays WHERE key = ?", (name,))
        output = bring_back(saved, answer="")
        assert f"users_by_email {old}: {name} has new@example.org in users_by_email by now" in output
        assert (
            "birthdays: of people who are still there; with WHO or TABLES=birthdays they come back" in output
        )
        output = bring_back(saved, "--who", old)
        assert f"Rows of people who are still there come back:\nbirthdays {name}\n" in output
        assert rows(saved.database(), f"SELECT 1 FROM birthdays WHERE key = '{name}'") == [(1,)]
        assert rows(saved.database(), f"SELECT 1 FROM users_by_email WHERE key = '{old}'") == []

    def test_a_permission_that_was_taken_away_stays_away(self, saved):
        administrator = user(saved, 0)
        with backend(saved) as connection:
            connection.execute("DELETE FROM users WHERE key = ?", (f"{administrator}:perm:admin",))
            connection.execute("DELETE FROM system_users")
        delete(saved, 7)
        output = bring_back(saved)
        assert "users: of people who are still there; with WHO or TABLES=users they come back" in output
        assert "system_users: of people who are still there" in output
        assert "done: 10 rows of 1 person brought back" in output
        assert rows(saved.database(), "SELECT 1 FROM users WHERE key GLOB '*:perm:admin'") == []

    def test_the_user_id_is_of_somebody_else_by_now(self, saved):
        """Whoever got it must not get the old password."""
        name, old = user(saved, 7), address(saved, 7)
        delete(saved, 7)
        insert(saved, "users_by_email", "else@example.org", name)
        output = bring_back(saved, answer="")
        assert f"users_by_email {old}: {name} has else@example.org in users_by_email by now" in output
        assert rows(saved.database(), "SELECT 1 FROM users WHERE key GLOB '7_*'") == []

    def test_somebody_with_two_addresses_of_which_one_is_taken(self, site):
        name, old = user(site, 7), address(site, 7)
        insert(site, "users_by_email", "second@example.org", name)
        site.ok("backup", "production")
        delete(site, 7)
        insert(site, "users_by_email", old, "500_else")
        output = bring_back(site, answer="")
        assert f"{old}: {old} is in users_by_email by now, for 500_else (10 of the rows" in output
        assert rows(site.database(), "SELECT 1 FROM users_by_email WHERE key = 'second@example.org'") == []

    def test_what_has_expired_is_not_missing(self, site):
        name = user(site, 7)
        with backend(site) as connection:
            connection.execute("UPDATE users SET expiration = 1000 WHERE key = ?", (f"{name}:perm:member",))
        site.ok("backup", "production")
        delete(site, 7)
        assert "done: 9 rows of 1 person brought back" in bring_back(site)

    def test_half_a_member_does_not_come_back(self, saved):
        delete(saved, 7)
        with backend(saved) as connection:
            connection.execute("CREATE TRIGGER t AFTER INSERT ON users BEGIN DELETE FROM outbox; END")
        before = content(saved)
        done = saved.run("bring-back", "production", "--yes")
        assert done.returncode == 3
        assert "table users cannot be brought back (it has a trigger, which would change other" in done.stderr
        assert (
            "so people would be incomplete; name the other tables: TABLES=...; or make restore" in done.stderr
        )
        assert content(saved) == before and len(saved.snapshots()) == 1
        assert "done: 1 row of 1 person brought back" in bring_back(saved, "--tables", "birthdays")

    @pytest.mark.parametrize("table", ["private", "birthdays"])
    def test_a_table_that_was_defined_in_another_way(self, saved, table):
        delete(saved, 7)
        with backend(saved) as connection:
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN value TO content")
        done = saved.run("bring-back", "production", stdin="yes\n")
        if table == "private":
            assert (
                done.returncode == 0 and "private: the table was defined in another way then" in done.stdout
            )
        else:
            assert done.returncode == 3 and "birthdays cannot be brought back" in done.stderr

    def test_a_table_of_pointers_that_was_defined_in_another_way(self, saved):
        delete(saved, 7)
        with backend(saved) as connection:
            connection.execute("ALTER TABLE users_by_bondsnummer RENAME COLUMN value TO content")
        done = saved.run("bring-back", "production", "--tables", "birthdays", "--yes")
        assert done.returncode == 3
        assert (
            "users_by_bondsnummer does not have the columns key and value, so it is not known" in done.stderr
        )

    def test_an_applicant_who_is_a_member_by_now(self, saved):
        with backend(saved) as connection:
            connection.execute("DELETE FROM registrations")
            connection.execute("DELETE FROM registrations_by_email")
            connection.execute("DELETE FROM registrations_by_bondsnummer")
            sample_data.insert(connection, "users_by_email", "applicant.0@example.org", "500_is_lid")
        output = bring_back(saved)
        assert "applicant.0@example.org is in users_by_email by now, for 500_is_lid (3 of the rows" in output
        assert "done: 57 rows of 19 people brought back" in output
        keys = rows(saved.database(), "SELECT key FROM registrations_by_email")
        assert len(keys) == 19 and ("applicant.0@example.org",) not in keys

    def test_a_row_that_is_there_again_with_other_content(self, saved):
        name = user(saved, 7)
        delete(saved, 7)
        insert(saved, "birthdays", name, {"user_id": name, "geboortedatum": "1999-09-09"})
        output = bring_back(saved)
        assert f"Left alone:\nbirthdays {name}: it is there, with other content" in output
        (value,) = rows(saved.database(), f"SELECT CAST(value AS TEXT) FROM birthdays WHERE key = '{name}'")
        assert json.loads(value[0])["geboortedatum"] == "1999-09-09"
        assert "done: 9 rows of 1 person brought back" in output

    @pytest.mark.parametrize("options", [[], ["--tables", "users"]])
    def test_somebody_came_while_the_operator_thought(self, saved, options):
        lost = address(saved, 7)
        delete(saved, 7)
        before = content(saved)
        asking = subprocess.Popen(
            [SCRIPT, "production", *options],
            env=saved.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until_the_question(asking)
        insert(saved, "registrations_by_email", lost, "token")
        _, said = asking.communicate("yes\n", timeout=60)
        assert asking.returncode == 3
        assert said.endswith("has changed since the question; nothing was changed; run this again\n")
        before["registrations_by_email"] = content(saved)["registrations_by_email"]
        assert content(saved) == before


def until_the_question(asking: subprocess.Popen) -> None:
    shown = ""
    while "Type 'yes'" not in shown:
        shown += asking.stdout.read(1)


def test_the_database_was_replaced_while_the_operator_thought(saved):
    delete(saved, 7)
    asking = subprocess.Popen(
        [SCRIPT, "production"],
        env=saved.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until_the_question(asking)
    saved.ok("restore", "production", "--snapshot=latest", "--yes")
    before = content(saved)
    _, said = asking.communicate("yes\n", timeout=60)
    assert asking.returncode == 3 and "was replaced by something else meanwhile; nothing was changed" in said
    assert content(saved) == before


@pytest.mark.long
@pytest.mark.parametrize("are_back", [True, False])
def test_a_signal_while_the_rows_go_in_says_whether_they_are_back(saved, are_back):
    delete(saved, 7)
    with backend(saved) as connection:
        running = subprocess.Popen(
            [SCRIPT, "production", "--yes"],
            env=saved.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = iter(running.stdout.readline, "")
        assert any("saving the database" in line for line in lines)
        connection.execute("BEGIN IMMEDIATE")  # the rows have to wait
        assert any("reading it back" in line for line in lines)
        wait_for(lambda: len(saved.snapshots()) == 2)
        time.sleep(1)
        running.send_signal(signal.SIGTERM)
        if are_back:
            time.sleep(0.5)
            connection.execute("COMMIT")
        _, said = running.communicate(timeout=60)
    assert running.returncode == 143
    done = "10 rows of 1 person brought back to production; as it was before: snapshot"
    if not are_back:
        done = f"database {saved.database()} is locked by another process"
    assert f"interrupted (SIGTERM); {done}" in said


def test_few_rows_of_many_are_one_transaction(site):
    """What was taken out of the plan does not count."""
    with backend(site) as connection:
        connection.execute("CREATE TABLE many (key TEXT PRIMARY KEY, value BLOB)")
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
            " INSERT INTO many SELECT i, randomblob(1000) FROM n"
        )
    site.ok("backup", "production")
    delete(site, *range(100))
    with backend(site) as connection:
        connection.execute("DELETE FROM many")
    here = Path(f"{site.database()}-wal")
    with backend(site) as connection:  # keeps the WAL
        connection.execute("SELECT count(*) FROM users").fetchone()
        bring_back(site, "--who", then(site, 7))
        commits = header.read_header(site.database()) and committed(here)
    assert commits == 1


def committed(wal: Path) -> int:
    """The number of transactions in a WAL (https://www.sqlite.org/fileformat2.html#the_write_ahead_log): frames that commit one."""
    data = wal.read_bytes()
    size = int.from_bytes(data[8:12], "big")
    frames = range(32, len(data) - 23, 24 + size)
    return sum(
        int.from_bytes(data[at + 4 : at + 8], "big") > 0 and data[at + 8 : at + 16] == data[16:24]
        for at in frames
    )


def test_backups_go_on_while_the_operator_thinks(saved):
    delete(saved, 7)
    asking = subprocess.Popen(
        [SCRIPT, "production"], env=saved.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until_the_question(asking)
    (plan,) = saved.state.glob("staging/open-*")
    assert plan.stat().st_mode & 0o777 == 0o600
    saved.ok("backup", "production")
    assert asking.communicate("yes\n", timeout=60)[0].count("10 rows of 1 person brought back") == 1
    assert saved.staged() == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_ended_at_the_question(saved, signum):
    delete(saved, 7)
    before = content(saved)
    asking = subprocess.Popen(
        [SCRIPT, "production"], env=saved.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until_the_question(asking)
    asking.send_signal(signum)
    asking.communicate(timeout=60)
    assert asking.returncode in (128 + signum, -signum)
    saved.ok("backup", "production")
    assert content(saved) == before and saved.staged() == []


def test_a_damaged_live_database_is_left_as_it_is(saved):
    delete(saved, 7)
    with backend(saved) as connection:  # an index that lacks a row
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master"
            " WHERE name = 'sqlite_autoindex_tokens_1') WHERE name = 'sqlite_autoindex_private_1'"
        )
    before = content(saved)
    done = saved.run("bring-back", "production", "--yes")
    assert done.returncode == 3 and "has defects: " in done.stderr and "nothing was changed" in done.stderr
    assert content(saved) == before


def test_a_database_that_is_not_in_wal_mode(saved):
    delete(saved, 7)
    with backend(saved) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    assert not header.read_header(saved.database()).wal
    done = saved.run("bring-back", "production", "--yes")
    assert (
        done.returncode == 3
        and "is not in WAL mode, the backend's own; start its service once" in done.stderr
    )


def test_the_snapshots_of_the_other_repository(empty_twin, tmp_path):
    twin = Twin(Path(shutil.copytree(empty_twin, tmp_path / "twin")))
    twin.ok("backup", "production")
    twin.ok("offsite")
    delete(twin, 7)
    shutil.rmtree(twin.repository / "snapshots")
    (twin.repository / "snapshots").mkdir()
    assert "done: 10 rows of 1 person brought back" in bring_back(twin, "--offsite")


@pytest.mark.parametrize("database", ["the snapshot", "the live database"])
def test_a_table_in_other_letter_case_would_leave_people_incomplete(site, database):
    """To the backend it is the same table; by the description its rows would belong to nobody."""
    names = ("users", "Users")
    if database == "the snapshot":
        rename(site, *names)
        names = ("Users", "users")
    site.ok("backup", "production")
    delete(site, 3)
    rename(site, *names)
    before = rows(site.database(), "SELECT key FROM users_by_email")
    done = site.run("bring-back", "production", "--snapshot=latest", "--yes")
    assert done.returncode == 3, done
    assert re.search(
        r"table Users is called users in \S+/data.toml, so nobody would know whose its rows are; write it there as the",
        done.stderr,
    )
    assert rows(site.database(), "SELECT key FROM users_by_email") == before


def rename(site: Site, table: str, name: str) -> None:
    with backend(site) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO renamed")
        connection.execute(f"ALTER TABLE renamed RENAME TO {name}")
