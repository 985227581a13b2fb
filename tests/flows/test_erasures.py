"""make erased: a member who was erased stays out of every older snapshot, whoever brings it back, and everybody else comes back."""

import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dodeka_db.flows import erasures as erasures_flow
from dodeka_db.host import staging
from dodeka_db.restic import erasures, snapshots
from dodeka_db.restic.repository import Repository
from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site, Twin, run_first
from sqlite_files import rows

NUMBER = 7
TABLES = sample_data.TABLES


@pytest.fixture
def twin(empty_twin, tmp_path) -> Twin:
    shutil.copytree(empty_twin, tmp_path / "twin")
    return Twin(tmp_path / "twin")


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


class Member:
    """A member of a database, by all that leads to the rows."""

    def __init__(self, path: Path, number: int = NUMBER) -> None:
        pairs = rows(path, "SELECT key, CAST(value AS TEXT) FROM users_by_email")
        ((self.email, self.user),) = [pair for pair in pairs if pair[1].startswith(f"{number}_")]
        self.number = str(sample_data._FIRST_NUMBER + number)
        self.texts = (self.email, self.user, self.number)


def holding(path: Path, *texts: str) -> dict[str, int]:
    """How many rows of each table have one of these texts in them: not by the rules of the description."""
    found = {}
    for table in TABLES:
        count = sum(
            any(text in f"{key} {value}" for text in texts)
            for key, value in rows(path, f"SELECT key, CAST(value AS TEXT) FROM {table}")
        )
        if count:
            found[table] = count
    return found


def content(path: Path, *, without: tuple[str, ...]) -> dict[str, set]:
    """All rows by table but those with these texts in them."""
    return {
        table: {
            (key, value)
            for key, value in rows(path, f"SELECT key, CAST(value AS TEXT) FROM {table}")
            if not any(text in f"{key} {value}" for text in without)
        }
        for table in TABLES
    }


def delete(path: Path, member: Member) -> None:
    """Delete all rows of a member, as the backend does."""
    with connected(path) as connection:
        for table in TABLES:
            for text in member.texts:
                connection.execute(
                    f"DELETE FROM {table} WHERE instr(key, ?) OR instr(CAST(value AS TEXT), ?)", (text, text)
                )


def stored(site: Site) -> list[dict]:
    """The erasures in the repository, in restic's words."""
    return json.loads(site.restic("snapshots", "--json", "--tag", "erasures").stdout)


def with_all_of_a_member(site: Site, number: int = NUMBER) -> Member:
    """A member with rows in every table that can have some."""
    member = Member(site.database(), number)
    with connected(site.database()) as connection:
        sample_data.add_session(connection, random.Random(5), member.user)
        token = {"action": "password_reset", "email": member.email, "code": "00000000"}
        sample_data.insert(connection, "tokens", f"password_reset:{member.email}", token)
        decision = {"kind": "user", "subject_id": member.user}
        sample_data.insert(connection, "sync_decisions", member.number, decision)
        mail = {"outbox_id": "m", "status": "pending", "subject_kind": "user", "subject_id": member.user}
        sample_data.insert(connection, "outbox", "m", mail)
        sample_data.insert(connection, "system_users", member.email, "1")
    return member


def erase(site: Site, email: str, *options: str, environment: str = "production", **variables: str) -> str:
    return site.ok("erased", environment, "--who", email, *options, "--yes", **variables)


def damage(site: Site, snapshot_id: str) -> None:
    """Make restic unable to read anything of that snapshot."""
    file = site.repository / "snapshots" / snapshot_id
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:40])
    shutil.rmtree(site.state / "restic-cache", ignore_errors=True)


@pytest.fixture
def erased(site) -> tuple[Site, Member]:
    """A site with a snapshot of 400 members, of whom one was erased since."""
    member = with_all_of_a_member(site)
    site.ok("backup", "production")
    delete(site.database(), member)
    erase(site, member.email.upper())
    return site, member


class TestWhoIsErased:
    def test_stays_out_of_a_restore_and_all_others_come_back(self, site):
        member = with_all_of_a_member(site)
        before = content(site.database(), without=member.texts)
        assert len(holding(site.database(), *member.texts)) == 11
        site.ok("backup", "production")
        delete(site.database(), member)
        site.ok("backup", "production")
        said = erase(site, member.email)
        assert "found in snapshot " in said and "STILL IN THE LIVE" not in said
        with connected(site.database()) as connection:  # the accident
            for table in TABLES:
                connection.execute(f"DELETE FROM {table}")
        output = site.ok("restore", "production", "--snapshot", "latest~1", "--yes")
        assert "1 member erased since stays erased (16 rows)." in output
        assert holding(site.database(), *member.texts) == {}
        assert content(site.database(), without=()) == before
        assert rows(site.database(), "PRAGMA integrity_check") == [("ok",)]
        assert site.staged() == []

    def test_stays_out_of_an_undo(self, site):
        member = Member(site.database())
        site.ok("backup", "production")
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        delete(site.database(), member)
        erase(site, member.email)
        assert "1 member erased since stays erased" in site.ok("undo", "production", "--yes")
        assert holding(site.database(), *member.texts) == {}
        assert sample_data.count(site.database()) == 399

    def test_stays_out_of_an_undo_of_a_kept_file_without_a_repository(self, site):
        member = Member(site.database())
        site.ok("backup", "production")
        full = "case $1 in backup) echo 'Fatal: no space left on device' >&2; exit 1;; esac"
        run_first(site.folder / "full", full)
        done = site.run(
            "restore", "production", "--snapshot", "latest", "--yes", RESTIC=str(site.folder / "full")
        )
        (kept,) = site.database().parent.glob("db.sqlite.pre-restore-*Z")
        assert holding(kept, *member.texts), done
        delete(site.database(), member)
        erase(site, member.email)
        run_first(site.folder / "none", "exit 1")
        done = site.run("undo", "production", "--yes", RESTIC=str(site.folder / "none"))
        assert "1 member erased since stays erased" in done.stdout, done
        assert holding(site.database(), *member.texts) == {}

    @pytest.mark.parametrize("kind", ["quarantined", "masked", "whole"])
    def test_stays_out_of_a_clone(self, erased, kind):
        site, member = erased
        words = "with mails and sessions\n"
        options = ("--from", "production", "--snapshot", "latest", "--clone", kind, "--yes")
        said = site.ok("restore", "demo", *options, stdin=words)
        assert "1 member erased since stays erased" in said
        assert holding(site.database("demo"), *member.texts) == {}
        assert sample_data.count(site.database("demo")) == 399

    def test_comes_back_by_no_restore_that_was_asked_before(self, site):
        """The downloaded copy that waits for the yes has the member."""
        member = Member(site.database())
        site.ok("backup", "production")
        delete(site.database(), member)
        before = content(site.database(), without=())
        process = site.waiting_restore()
        erase(site, member.email)
        _, stderr = process.communicate("yes\n", timeout=60)
        assert (process.returncode, stderr.count("\n")) == (4, 1)
        assert "a member was erased meanwhile; nothing was changed; run this again" in stderr, stderr
        assert content(site.database(), without=()) == before

    def test_stays_out_although_another_snapshot_is_damaged(self, site):
        """Of an undo, which asks the record alone, and of a restore that waits for the yes meanwhile."""
        member = Member(site.database())
        site.ok("backup", "production")
        site.ok("backup", "demo")
        run_first(
            site.folder / "full", "case $1 in backup) echo 'no space left on device' >&2; exit 1;; esac"
        )
        site.run("restore", "production", "--snapshot", "latest", "--yes", RESTIC=str(site.folder / "full"))
        (kept,) = site.database().parent.glob("db.sqlite.pre-restore-*Z")
        assert holding(kept, *member.texts)
        damage(site, site.snapshots("demo")[0]["id"])
        delete(site.database(), member)
        process = site.waiting_restore()
        erase(site, member.email)
        _, stderr = process.communicate("yes\n", timeout=60)
        assert process.returncode == 4 and "a member was erased meanwhile" in stderr, stderr
        assert "1 member erased since stays erased" in site.ok("undo", "production", "--yes")
        assert holding(site.database(), *member.texts) == {}

    def test_stays_out_of_tables_and_columns_in_other_letter_case(self, site):
        member = with_all_of_a_member(site)
        with connected(site.database()) as connection:
            connection.execute("ALTER TABLE users RENAME TO renamed")
            connection.execute("ALTER TABLE renamed RENAME TO Users")
            connection.execute("ALTER TABLE users RENAME COLUMN value TO renamed")
            connection.execute("ALTER TABLE users RENAME COLUMN renamed TO Value")
        site.ok("backup", "production")
        delete(site.database(), member)
        erase(site, member.email)
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert holding(site.database(), *member.texts) == {}

    def test_is_found_by_the_user_id_alone(self, site):
        """In an old snapshot with another address, and without a number."""
        member = Member(site.database())
        with connected(site.database()) as connection:
            was = "UPDATE users_by_email SET key = 'old@example.org' WHERE key = ?"
            connection.execute(was, (member.email,))
            connection.execute(
                "UPDATE users SET value = CAST('old@example.org' AS BLOB) WHERE key = ?",
                (f"{member.user}:email",),
            )
            for table in ("users_by_bondsnummer", "volta_data", "sync"):
                connection.execute(f"DELETE FROM {table} WHERE key = ?", (member.number,))
        site.ok("backup", "production")
        with connected(site.database()) as connection:
            connection.execute("DELETE FROM users_by_email WHERE key = 'old@example.org'")
            sample_data.insert(connection, "users_by_email", "Now@Example.org".lower(), member.user)
        site.ok("backup", "production")
        delete(site.database(), member)
        with connected(site.database()) as connection:
            connection.execute("DELETE FROM users_by_email WHERE key = 'now@example.org'")
        erase(site, "Now@Example.ORG")
        site.ok("restore", "production", "--snapshot", "latest~1", "--yes")
        assert holding(site.database(), *member.texts, "old@example.org") == {}
        assert sample_data.count(site.database()) == 399

    def test_stays_out_of_a_snapshot_of_a_clone(self, site):
        member = Member(site.database())
        site.ok("backup", "production")
        site.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
        site.ok("backup", "demo")
        delete(site.database(), member)
        erase(site, member.email)
        site.ok("restore", "demo", "--snapshot", "latest", "--yes")
        assert holding(site.database("demo"), *member.texts) == {}

    def test_is_not_brought_back(self, erased):
        site, member = erased
        other = Member(site.database(), 8)
        delete(site.database(), other)
        output = site.ok("bring-back", "production", "--yes")
        assert "1 member erased since stays erased" in output and member.email not in output
        assert holding(site.database(), *member.texts) == {}
        assert rows(site.database(), f"SELECT 1 FROM users_by_email WHERE key = '{other.email}'") == [(1,)]
        done = site.run("bring-back", "production", "--who", member.email, "--yes")
        assert (done.returncode, f"belongs to {member.email}" in done.stderr) == (4, True)

    def test_is_not_in_what_open_shows(self, erased):
        site, member = erased
        copy = site.folder / "copy.sqlite"
        output = site.ok("open", "production", "--file", str(copy))
        assert "1 member erased since stays erased" in output
        assert holding(copy, *member.texts) == {} and sample_data.count(copy) == 399
        assert sorted(copy.parent.glob("copy.sqlite*")) == [copy]
        script = f"SELECT count(*) FROM users_by_email WHERE key = '{member.email}';"
        done = site.run("open", "production", stdin=script)
        assert done.stdout == "0\n"

    @pytest.mark.parametrize("format", ["zst", "pages"])
    def test_leaves_no_byte_in_the_file(self, site, format):
        """Not even of what was deleted before the snapshot, which a page copy has in its free pages."""
        member = with_all_of_a_member(site)
        address = f"second-{member.email}"
        with connected(site.database()) as connection:
            connection.execute("PRAGMA secure_delete=OFF")
            for number in range(2000):
                sample_data.insert(connection, "private", f"{number}", {"role": "x", "value": address * 5})
            connection.execute("DELETE FROM private WHERE key GLOB '[0-9]*'")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        site.ok("backup", "production", DODEKA_FORMAT=format)
        copy = site.folder / "copy.sqlite"
        site.ok("open", "production", "--file", str(copy))
        assert (address.encode() in copy.read_bytes()) == (format == "pages")
        copy.unlink()
        delete(site.database(), member)
        erase(site, member.email)
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        held = site.database().read_bytes()
        assert not any(text.encode() in held for text in member.texts)

    def test_is_found_by_number_where_the_address_was_another_one(self, site):
        member = Member(site.database())
        site.ok("backup", "production")
        with connected(site.database()) as connection:
            connection.execute(
                "UPDATE users_by_email SET key = 'new@example.org' WHERE key = ?", (member.email,)
            )
        site.ok("backup", "production")
        delete(site.database(), member)
        with connected(site.database()) as connection:
            connection.execute("DELETE FROM users_by_email WHERE key = 'new@example.org'")
        erase(site, "new@example.org")
        site.ok("restore", "production", "--snapshot", "latest~1", "--yes")
        assert holding(site.database(), *member.texts) == {}
        assert sample_data.count(site.database()) == 399

    def test_may_be_in_a_table_that_the_description_does_not_name(self, site):
        """As in a clone, that is a warning."""
        member = Member(site.database())
        with connected(site.database()) as connection:
            connection.execute("CREATE TABLE trophies (winner)")
            connection.execute("INSERT INTO trophies VALUES (?)", (member.user,))
        site.ok("backup", "production")
        said = "does not describe; if members who were erased have some, these come back: trophies\n"
        assert said not in site.ok("restore", "production", "--snapshot", "latest", "--yes")
        erase(site, member.email)
        for environment in ("production", "demo"):
            options = ("--from", "production", "--snapshot", "latest", "--yes")
            assert said in site.ok("restore", environment, *options)

    def test_may_be_in_a_row_that_cannot_be_read(self, site):
        """A row that is found all the same is gone: nobody is told of that."""
        member = Member(site.database())
        mail = json.dumps({"subject_id": member.user})
        with connected(site.database()) as connection:
            connection.execute("UPDATE users SET value = x'7b' WHERE key = ?", (f"{member.user}:profile",))
            connection.execute("INSERT INTO outbox VALUES ('cut', 1, 0, ?)", (mail[:-2].encode(),))
        site.ok("backup", "production")
        erase(site, member.email)
        said = site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert "does not describe; if members who were erased have some, these come back: outbox\n" in said
        assert member.user not in str(rows(site.database(), "SELECT key FROM users"))

    @pytest.mark.parametrize(
        ("change", "table"),
        [
            ("ALTER TABLE birthdays RENAME COLUMN key TO who", "birthdays"),
            ("INSERT INTO metadata VALUES ('chair', 1, 0, CAST('a member' AS BLOB))", "metadata"),
            ("INSERT INTO private VALUES ('chair', 1, 0, CAST('{\"is\": 1}' AS BLOB))", "private"),
        ],
    )
    def test_may_be_where_nobody_looks(self, site, change, table):
        member = Member(site.database())
        with connected(site.database()) as connection:
            connection.execute(change)
        site.ok("backup", "production")
        erase(site, member.email)
        said = site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert f"does not describe; if members who were erased have some, these come back: {table}\n" in said

    @pytest.mark.parametrize("is_in_snapshot", [True, False])
    def test_may_have_had_the_address_after_somebody_else(self, site, is_in_snapshot):
        """Who that is, a person with a new account or another one, nobody can know: both stay out, and that is said."""
        member, other = Member(site.database()), Member(site.database(), 8)
        with connected(site.database()) as connection:
            connection.execute(
                "UPDATE users_by_email SET value = ? WHERE key = ?", (other.user.encode(), member.email)
            )
            if not is_in_snapshot:
                connection.execute("DELETE FROM users_by_bondsnummer WHERE key = ?", (member.number,))
                connection.execute("DELETE FROM users WHERE key LIKE ?", (f"{member.user}:%",))
        site.ok("backup", "production")
        with connected(site.database()) as connection:
            for table, key, value in (
                ("users_by_email", member.email, member.user),
                ("users_by_bondsnummer", member.number, member.user),
            ):
                connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
                connection.execute(f"INSERT INTO {table} VALUES (?, 1, 0, ?)", (key, value.encode()))
        erase(site, member.email)
        said = site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert (
            "1 other account left out too, since an erased member's address or number was that account's"
            in said
        )
        assert holding(site.database(), member.user, other.user) == {}

    def test_may_be_in_tables_without_rowid(self, site):
        member = with_all_of_a_member(site)
        before = content(site.database(), without=member.texts)
        with connected(site.database()) as connection:
            for table in TABLES:
                connection.execute(f"ALTER TABLE {table} RENAME TO renamed")
                connection.execute(
                    f"CREATE TABLE {table} (key TEXT PRIMARY KEY, counter INTEGER NOT NULL,"
                    " expiration INTEGER NOT NULL, value BLOB NOT NULL) STRICT, WITHOUT ROWID"
                )
                connection.execute(f"INSERT INTO {table} SELECT * FROM renamed")
                connection.execute("DROP TABLE renamed")
        site.ok("backup", "production")
        delete(site.database(), member)
        erase(site, member.email)
        output = site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert "1 member erased since stays erased (16 rows)." in output
        assert content(site.database(), without=()) == before

    @pytest.mark.parametrize("has_record", [True, False])
    def test_stays_out_of_a_restore_that_waited_meanwhile(self, site, has_record):
        """It has chosen its snapshot before the erasure is there."""
        member = with_all_of_a_member(site)
        site.ok("backup", "production")
        if not has_record:
            (site.state / "erasures.json").unlink(missing_ok=True)
            (site.state / "erasures.json").mkdir()
        delete(site.database(), member)
        names = [("email", member.email), ("user", member.user), ("bondsnummer", member.number)]
        one = erasures.of_names("production", datetime.now(UTC), erasures.new_key(), names)
        main = site.settings.main
        with staging.locked(main, "the test"):
            process = subprocess.Popen(
                [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot=latest", "--yes"],
                env={**site.environ, "DODEKA_LOCK_WAIT_S": "60"},
                stdout=subprocess.PIPE,
                text=True,
            )
            while "for another run" not in process.stdout.readline():
                assert process.poll() is None
            erasures_flow.store(Repository(main), [one.tags])
        assert "1 member erased since stays erased" in process.communicate(timeout=60)[0]
        assert process.returncode == 0 and holding(site.database(), *member.texts) == {}

    def test_may_register_again(self, erased):
        site, member = erased
        with connected(site.database()) as connection:
            sample_data.insert(connection, "users_by_email", member.email, "900_anna_terug")
            sample_data.insert(connection, "users", "900_anna_terug:profile", {"firstname": "Anna"})
        site.ok("backup", "production")
        with connected(site.database()) as connection:
            connection.execute("DELETE FROM users_by_email WHERE key = ?", (member.email,))
        assert "erased" not in site.ok("bring-back", "production", "--yes")
        output = site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert "erased" not in output
        assert holding(site.database(), "900_anna_terug") == {"users": 1, "users_by_email": 1}
        output = site.ok("restore", "production", "--snapshot", "latest~1", "--yes")
        assert "1 member erased since stays erased" in output
        assert holding(site.database(), "900_anna_terug", *member.texts) == {}

    def test_an_applicant_who_never_became_a_member(self, site):
        site.ok("backup", "production")
        (token,) = rows(
            site.database(),
            "SELECT CAST(value AS TEXT) FROM registrations_by_email WHERE key = 'applicant.0@example.org'",
        )
        erase(site, "applicant.0@example.org")
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert holding(site.database(), "applicant.0@example.org", *token) == {}
        assert rows(site.database(), "SELECT count(*) FROM registrations") == [(19,)]

    def test_of_demo_says_nothing_about_production(self, site):
        email = Member(site.database("demo")).email
        with connected(site.database()) as connection:
            sample_data.insert(connection, "users_by_email", email, "901_test_test")
        for environment in ("production", "demo"):
            site.ok("backup", environment)
        erase(site, email, environment="demo")
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert holding(site.database(), "901_test_test") == {"users_by_email": 1}
        assert "1 member erased" in site.ok("restore", "demo", "--snapshot", "latest", "--yes")

    def test_twice_counts_once_and_two_are_two(self, site):
        one, other = Member(site.database(), 7), Member(site.database(), 8)
        site.ok("backup", "production")
        erase(site, f"{one.email},{other.email}")
        erase(site, one.email)
        output = site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert "2 members erased since stay erased" in output
        assert sample_data.count(site.database()) == 398


def test_what_it_asks_and_what_it_stores(site):
    member = with_all_of_a_member(site)
    site.ok("backup", "production")
    done = site.run("erased", "production", "--who", member.email, stdin="no\n")
    assert done.returncode == 7
    assert f"{member.email}: found in the live database\n" in done.stdout
    assert "  16 rows STILL IN THE LIVE DATABASE: every snapshot has them until the\n" in done.stdout
    assert stored(site) == []
    before = site.database().read_bytes()
    site.ok("erased", "production", "--who", member.email, stdin="yes\n")
    assert site.database().read_bytes() == before
    (one,) = stored(site)
    texts = json.dumps(one) + (site.state / "erasures.json").read_text()
    assert not any(text in texts for text in member.texts)
    assert oct((site.state / "erasures.json").stat().st_mode)[-3:] == "600"
    assert len(site.snapshots()) == 1, "no command takes it for a database"


def test_demo_may_have_the_rows_too(site):
    """Its later snapshots would have them, and no erasure of today keeps them out of those."""
    member = Member(site.database())
    site.ok("backup", "production")
    site.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
    delete(site.database(), member)
    said = erase(site, member.email)
    assert re.search(r"\n  \d+ rows STILL IN THE LIVE DATABASE OF DEMO, a clone perhaps", said)
    assert "or clone again, and then run this with ENV=demo\n" in said
    assert all(len(line) <= 80 for line in said.splitlines() if line.startswith("  "))
    site.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
    assert "DEMO" not in erase(site, member.email)


def test_a_snapshot_from_the_future_is_named(site):
    """Its time is later than every erasure, so it brings everybody back."""
    member = Member(site.database())
    with open(ROOT / "README.md", "rb") as file:
        tags = ",".join(snapshots.tags_of("production"))
        name = ("--stdin-filename", "dodeka-production.sqlite.zst")
        site.restic("backup", "--stdin", *name, "--tag", tags, "--time", "2037-01-01 12:00:00", stdin=file)
    (future,) = [one["short_id"] for one in site.snapshots()]
    assert f"the erasure will not hold for what is from the future: {future}" in erase(site, member.email)


def test_nobody_has_the_address(site):
    site.ok("backup", "production")
    done = site.run("erased", "production", "--who", "nobody@example.org", stdin="yes\n")
    assert done.returncode == 4
    assert "no row of production belongs to nobody@example.org, neither in the live database" in done.stderr
    assert "nor in 1 snapshot of " in done.stderr
    assert "nothing was stored; check how the address is written, or see BACKUP.md" in done.stderr


def test_one_whom_only_the_off_site_repository_has(twin):
    member = Member(twin.database())
    twin.ok("backup", "production")
    twin.ok("offsite")
    delete(twin.database(), member)
    twin.restic("forget", twin.snapshots()[0]["id"])
    assert twin.run("erased", "production", "--who", member.email, "--yes").returncode == 4
    assert "found in snapshot" in erase(twin, member.email, "--offsite")


class TestWhereTheListCannotBeRead:
    """A restore refuses, names what is wrong, and has one way out."""

    def broken(self, site: Site) -> str:
        """An erasure of which restic cannot read anything, and nobody here has heard."""
        (one,) = stored(site)
        damage(site, one["id"])
        (site.state / "erasures.json").unlink()
        return one["id"][:8]

    @pytest.mark.parametrize(
        ("script", "options"),
        [("restore", ["--snapshot=latest", "--yes"]), ("bring-back", ["--yes"]), ("open", [])],
    )
    def test_it_is_refused(self, erased, script, options):
        site, _ = erased
        broken, before = self.broken(site), site.database().read_bytes()
        done = site.run(script, "production", *options)
        assert done.returncode == 8
        (line,) = done.stderr.splitlines()[-1:]
        assert f"snapshot {broken} of {site.repository} is damaged, and may stand for members" in line
        assert line.endswith("see BACKUP.md, 'A member asks to be erased'")
        assert site.database().read_bytes() == before

    def test_backups_go_on(self, erased):
        site, _ = erased
        self.broken(site)
        assert site.run("cron", "production").returncode == 0

    def test_what_is_on_record_here_is_enough(self, erased):
        site, member = erased
        record = (site.state / "erasures.json").read_text()
        self.broken(site)
        (site.state / "erasures.json").write_text(record)
        assert site.run("restore", "production", "--snapshot=latest", "--yes").returncode == 0
        assert holding(site.database(), *member.texts) == {}

    @pytest.mark.parametrize("answer", ["yes\nyes\n", "with erased members\nno\n", ""])
    def test_the_way_out_has_words_of_its_own(self, erased, answer):
        site, _ = erased
        self.broken(site)
        done = site.run("restore", "production", "--snapshot=latest", "--erased", "ignore", stdin=answer)
        assert done.returncode == 7
        assert "MEMBERS WHO WERE ERASED COME BACK with this." in done.stdout

    def test_the_way_out(self, erased):
        site, member = erased
        self.broken(site)
        words = "with erased members\n"
        options = ("--snapshot=latest", "--erased", "ignore", "--yes")
        assert site.run("restore", "production", *options, stdin=words).returncode == 0
        assert holding(site.database(), *member.texts)
        done = site.run("undo", "production", "--erased", "ignore", "--yes", stdin=words)
        assert done.returncode == 0

    def test_one_of_another_version(self, erased):
        site, _ = erased
        (one,) = stored(site)
        site.restic("tag", "--remove", next(tag for tag in one["tags"] if tag.startswith("key_")), one["id"])
        done = site.run("restore", "production", "--snapshot=latest", "--yes")
        assert (
            done.returncode == 8 and "cannot be read: it is not one that this version writes" in done.stderr
        )

    def test_a_kind_that_the_description_no_longer_has(self, site):
        """Hashes of it would match nothing, and the member would come back."""
        site.ok("backup", "production")
        erasure = erasures.of_names("production", datetime.now(UTC), b"k" * 32, [("e-mail", "a@example.org")])
        with open(ROOT / "README.md", "rb") as file:
            site.restic("backup", "--stdin", "--tag", ",".join(erasure.tags), stdin=file)
        done = site.run("restore", "production", "--snapshot=latest", "--yes")
        assert done.returncode == 6 and "has no kind <e-mail>, which an erasure names" in done.stderr
        assert "members who were erased cannot be left out" in done.stderr

    def test_a_trigger_that_could_change_other_tables(self, site):
        member = Member(site.database())
        with connected(site.database()) as connection:
            connection.execute("CREATE TRIGGER t AFTER DELETE ON users BEGIN DELETE FROM private; END")
        site.ok("backup", "production")
        erase(site, member.email)
        done = site.run("restore", "production", "--snapshot=latest", "--yes")
        assert done.returncode == 4 and "has the trigger t, which could change other tables" in done.stderr


class TestTheListOutlives:
    def test_the_state_folder(self, erased):
        site, member = erased
        shutil.rmtree(site.state)
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert holding(site.database(), *member.texts) == {}

    @pytest.mark.slow("each way", keep=["at once"])
    @pytest.mark.parametrize("copied", ["at once", "by the next copy"])
    def test_the_server(self, twin, copied):
        """With an erasure in between; then a new server, which has nothing but the off-site repository."""
        member, elsewhere = Member(twin.database()), twin.folder / "elsewhere"
        twin.ok("backup", "production")
        twin.ok("backup", "demo")
        twin.ok("offsite")
        if copied == "by the next copy":
            twin.there.rename(elsewhere)
            done = twin.run("erased", "production", "--who", member.email, "--yes")
            assert done.returncode == 0 and "not off-site yet, make offsite copies it" in done.stdout
            elsewhere.rename(twin.there)
            assert "copying 1 erasure" in twin.ok("offsite")
        else:
            erase(twin, member.email)
        assert "erasure" not in twin.ok("offsite"), "there is nothing left to copy"
        shutil.rmtree(twin.state)
        shutil.rmtree(twin.repository)
        twin.password_file.unlink()
        twin.database().unlink()
        twin.ok("init", "--yes")
        twin.ok("restore", "production", "--offsite", "--snapshot", "latest", "--yes")
        assert holding(twin.database(), *member.texts) == {}
        assert sample_data.count(twin.database()) == 399

    @pytest.mark.slow("three repositories")
    def test_a_new_main_repository_and_its_old_snapshots_off_site(self, twin):
        """The next erasure must not hide the earlier one."""
        one, other = Member(twin.database(), 7), Member(twin.database(), 8)
        twin.ok("backup", "production")
        twin.ok("offsite")
        erase(twin, one.email)
        shutil.rmtree(twin.repository)
        shutil.rmtree(twin.state)
        twin.ok("init", "--yes")
        erase(twin, other.email)
        twin.ok("restore", "production", "--offsite", "--snapshot", "latest", "--yes")
        assert holding(twin.database(), *one.texts, *other.texts) == {}

    def test_a_kill_in_the_middle(self, site):
        """It is stored as a whole or not at all, and the next try stores it."""
        member = Member(site.database())
        site.ok("backup", "production")
        run_first(site.folder / "killing", "case $1 in backup) kill -9 $PPID; sleep 1;; esac")
        done = site.run(
            "erased", "production", "--who", member.email, "--yes", RESTIC=str(site.folder / "killing")
        )
        assert done.returncode == -signal.SIGKILL
        assert len(stored(site)) in (0, 1)
        site.run("erased", "production", "--who", member.email, "--yes")
        site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert holding(site.database(), *member.texts) == {}


class TestAnErasureThatHasDoneItsWork:
    def test_goes_when_no_snapshot_is_older(self, erased):
        site, _ = erased
        site.ok("cron", "production")
        assert len(stored(site)) == 1
        site.restic("forget", site.snapshots()[0]["id"])
        assert "forgetting 1 erasure, older than every snapshot" in site.ok("cron", "production")
        assert stored(site) == []
        assert json.loads((site.state / "erasures.json").read_text()) == []

    def test_stays_while_an_off_site_snapshot_is_older(self, twin):
        twin.ok("backup", "production")
        erase(twin, Member(twin.database()).email)
        twin.ok("backup", "production")
        first = twin.snapshots()[0]["id"]
        twin.restic("forget", first)
        twin.ok("cron", "production")
        assert len(stored(twin)) == 1
        twin.ok("offsite")  # which says how old the oldest one there is
        assert "forgetting 1 erasure" in twin.ok("cron", "production")

    def test_stays_with_a_pinned_snapshot(self, site):
        member = Member(site.database())
        site.ok("backup", "production")
        site.ok("pin", "production", "--", "latest")
        delete(site.database(), member)
        erase(site, member.email)
        for _ in range(11):
            site.ok("backup", "production")
        site.ok("cron", "production")
        assert len(stored(site)) == 1
        site.ok("restore", "production", "--snapshot", site.snapshots()[0]["short_id"], "--yes")
        assert holding(site.database(), *member.texts) == {}

    @pytest.mark.slow("two repositories with retentions of their own")
    def test_stays_where_the_off_site_repository_removes_nothing(self, twin):
        """With OFFSITE_RETENTION=none, which is for a server that lets nothing be removed."""
        member, none = Member(twin.database()), {"OFFSITE_RETENTION": "none"}
        twin.ok("backup", "production")
        twin.ok("offsite", **none)
        delete(twin.database(), member)
        erase(twin, member.email)
        twin.ok("backup", "production")
        twin.restic("forget", twin.snapshots()[0]["id"])
        for _ in range(2):
            assert "erasure" not in twin.ok("offsite", **none)
            twin.ok("cron", "production", **none)
        assert len(stored(twin)) == 1
        old = twin.listed_there()[0]["short_id"]
        twin.ok("restore", "production", "--offsite", "--snapshot", old, "--yes", **none)
        assert holding(twin.database(), *member.texts) == {}


def test_without_an_erasure_no_command_starts_restic_more_often(site):
    log = site.folder / "calls"
    run_first(site.folder / "counting", f"echo $1 >> {log}")

    def calls(*words: str) -> list[str]:
        log.write_text("")
        site.ok(*words, RESTIC=str(site.folder / "counting"))
        return log.read_text().split()

    site.ok("backup", "production")
    assert calls("backup", "production") == ["backup", "dump"]
    assert calls("cron", "production").count("snapshots") == 1
    assert calls("restore", "production", "--snapshot=latest", "--yes")[:2] == ["snapshots", "dump"]


def test_how_old_the_oldest_copy_of_anything_is(twin):
    """Of any environment, in both repositories; the off-site one as the last copy found it, without a look there."""

    def last_line(*options: str) -> str:
        return twin.ok("snapshots", "production", *options).splitlines()[-1]

    tags = ",".join(snapshots.tags_of("demo"))
    with open(ROOT / "README.md", "rb") as file:
        twin.restic(
            *("backup", "--stdin", "--stdin-filename", "dodeka-demo.sqlite.zst", "--tag", tags),
            *("--time", "2025-05-14 12:00:00"),
            stdin=file,
        )
    twin.ok("backup", "demo")
    twin.ok("backup", "production")
    then = r"\w+ 14 May 2025 \d\d:\d\d"
    assert re.fullmatch(f"oldest copy: main {then}, off-site not known until make offsite", last_line())
    twin.ok("offsite")
    twin.restic("forget", twin.snapshots("demo")[0]["id"])
    twin.there.rename(twin.folder / "elsewhere")
    assert re.fullmatch(f"oldest copy: main ((?!2025)[^,])*, off-site {then}", last_line())
    assert re.search(f"  oldest copy +main .*, off-site {then}\n", twin.run("recovery-sheet").stdout)
    (twin.folder / "elsewhere").rename(twin.there)
    assert re.fullmatch(f"oldest copy: off-site {then}", last_line("--offsite"))
