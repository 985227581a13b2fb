"""Clones: what of production reaches demo, and what does not, in any byte of the file; the three kinds, and who chooses."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from dodeka_db import data_description
from dodeka_db.errors import NotConfirmedError, SnapshotError
from dodeka_db.flows import clones, restore, restore_question
from dodeka_db.sqlite import masked_copy, sample_data
from site_folder import ROOT, Site, run_first
from sqlite_files import rows

CLONE = ("restore", "demo", "--from=production", "--snapshot=latest")
ENVIRONMENT_S = ("db", "db_sqlite", "db_dodeka", "env_demo")
WORDS = "with mails and sessions\n"
OF_THE_MOMENT = ("outbox", "session_cache", "sync", "sync_decisions", "sync_state", "tokens")
PASSWORD = "bootstrap_admin_credentials"


def content(path: Path) -> dict[str, list]:
    return {table: rows(path, f"SELECT * FROM {table} ORDER BY key") for table in sample_data.TABLES}


def quarantined(tables: dict[str, list]) -> dict[str, list]:
    metadata = [row for row in tables["metadata"] if row[0] != PASSWORD]
    return {**tables, **{name: [] for name in OF_THE_MOMENT}, "metadata": metadata}


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def secrets(path: Path) -> Iterator[bytes]:
    """What must not reach demo: tokens of sessions, tokens of mails, codes, the administrator's password."""
    for table in ("session_cache", "outbox"):
        yield from (key.encode() for key, *_ in rows(path, f"SELECT key FROM {table}"))
    for field, table in (("code", "tokens"), ("password", f"metadata WHERE key = '{PASSWORD}'")):
        for (value,) in rows(path, f"SELECT value FROM {table}"):
            yield json.loads(value)[field].encode()


def beside(site: Site, environment: str = "demo") -> list[str]:
    names = {path.name for path in site.database(environment).parent.iterdir()}
    return sorted(names - {"db.sqlite-wal", "db.sqlite-shm"})


def untouched(site: Site, demo: dict[str, list]) -> bool:
    return content(site.database("demo")) == demo and beside(site) == ["db.sqlite"] and not site.staged()


class Stored(Site):
    """A site with a snapshot of production in `format`; secrets of deleted rows are in its free pages, as in the snapshot if
    that is of pages.
    """

    @property
    def format(self) -> str:
        return (self.folder / "format").read_text()

    @property
    def variables(self) -> dict[str, str]:
        return {**super().variables, "DODEKA_FORMAT": self.format}

    @property
    def gone(self) -> list[bytes]:
        return (self.folder / "gone").read_bytes().split(b"\n")


@pytest.fixture(scope="module")
def stored_site(empty_site, tmp_path_factory):
    """A function that makes a site with a snapshot in a format, once each."""

    @cache
    def make(format: str) -> Stored:
        folder = tmp_path_factory.mktemp(format) / "site"
        shutil.copytree(empty_site, folder)
        (folder / "format").write_text(format)
        site = Stored(folder)
        gone = [
            key.encode()
            for (key,) in rows(site.database(), "SELECT key FROM session_cache WHERE rowid <= 60")
        ]
        execute(site.database(), "PRAGMA secure_delete=OFF", "DELETE FROM session_cache WHERE rowid <= 60")
        rows(site.database(), "PRAGMA wal_checkpoint(TRUNCATE)")
        gone = [token for token in gone if token in site.database().read_bytes()]
        (folder / "gone").write_bytes(b"\n".join(gone))
        site.ok("backup", "production")
        return site

    return make


@pytest.fixture
def format() -> str:
    return "zst"


@pytest.fixture
def site(stored_site, format, tmp_path) -> Stored:
    shutil.copytree(stored_site(format).folder, tmp_path / "site")
    return Stored(tmp_path / "site")


of_both_formats = pytest.mark.parametrize("format", ["zst", "pages"])


@of_both_formats
def test_nothing_of_the_moment_and_no_password_is_in_any_byte(site):
    then, demo = content(site.database()), content(site.database("demo"))
    meant = [*secrets(site.database()), *site.gone]
    assert len(meant) > 74 + 20 + 8 + 1 + 20
    assert all(secret in site.database().read_bytes() for secret in secrets(site.database()))
    said = site.ok(*CLONE, "--yes")
    left = site.database("demo").read_bytes()
    assert not [secret for secret in meant if secret in left]
    assert content(site.database("demo")) == quarantined(then), (
        "every other row of every table is the snapshot's"
    )
    assert beside(site) == ["db.sqlite"] and not site.staged()
    assert re.search(r"\nPRODUCTION'S DATA GOES TO DEMO\.\n", said)
    assert re.search(r"\nIt puts snapshot \w{8} of production, quarantined, in the place of \S+:\n", said)
    assert (
        "\nLeft out: 20 mails, 74 sessions, 1 row of metadata, 420 rows of sync,\n"
        "20 rows of sync_decisions, 1 row of sync_state, 8 rows of tokens.\n"
        "CLONE=masked makes up the people too; CLONE=whole leaves nothing out.\n" in said
    )
    assert "the backend will" not in said and "WITHOUT" not in said and "warning" not in said
    assert re.search(r" done: demo has the data of snapshot \w{8} of production, quarantined\n", said)
    # and the undo is whole
    site.ok("undo", "demo", "--yes")
    assert content(site.database("demo")) == demo


@of_both_formats
def test_the_snapshot_itself_has_them_and_a_whole_clone_too(site):
    """Otherwise the test above could not fail."""
    then, meant = content(site.database()), [*secrets(site.database())]
    said = site.ok(*CLONE, "--clone=whole", stdin=WORDS)
    assert content(site.database("demo")) == then
    left = site.database("demo").read_bytes()
    assert all(secret in left for secret in meant)
    assert all((secret in left) == (site.format == "pages") for secret in site.gone)
    assert "\nPRODUCTION'S DATA GOES TO DEMO, WITH MAILS AND SESSIONS.\n" in said
    assert re.search(r"\nIt puts snapshot \w{8} of production, whole, in the place of \S+:\n", said)
    assert "\noutbox has 20 mails that the backend will send.\n" in said and "Left out" not in said
    assert "Type 'with mails and sessions' to go on:" in said


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["--clone=whole", "--yes"], "", "no answer; nothing was changed"),
        (["--clone=whole", "--yes"], "yes\n", "not confirmed; nothing was changed"),
        (["--clone=whole"], "with mails and Sessions\n", "not confirmed; nothing was changed"),
        ([], WORDS, "not confirmed; nothing was changed"),
    ],
)
def test_other_words_change_nothing(site, arguments, stdin, said):
    demo = content(site.database("demo"))
    done = site.run(*CLONE, *arguments, stdin=stdin)
    assert (done.returncode, done.stderr.count("\n")) == (7, 1)
    assert done.stderr.endswith(f"{said}\n")
    assert untouched(site, demo)


def test_what_clones_are_when_nothing_is_said(site):
    then = content(site.database())
    done = site.run(*CLONE, "--yes", DODEKA_CLONE="whole")
    assert done.returncode == 7 and "Type 'with mails and sessions' to go on:" in done.stdout
    site.ok(*CLONE, stdin=WORDS, DODEKA_CLONE="whole")
    assert content(site.database("demo")) == then
    # what is typed goes before what is set
    site.ok(*CLONE, "--clone=quarantined", "--yes", DODEKA_CLONE="whole")
    assert content(site.database("demo")) == quarantined(then)
    done = site.run(*CLONE, "--yes", DODEKA_CLONE="hole")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert done.stderr.endswith(
        "DODEKA_CLONE=hole is not one of the kinds of clones; choose quarantined, masked or whole\n"
    )


@pytest.mark.parametrize("source", [[], ["--from=production"]])
def test_a_kind_of_clone_for_what_is_none(site, source):
    """Nothing is fetched, nor asked, and it does not matter what clones are when nothing is said."""
    done = site.run("restore", "production", *source, "--clone=whole", "--yes", RESTIC_REPOSITORY="/nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert (
        "CLONE=whole is only for a clone, and this restores production's own data; name another"
        in done.stderr
    )
    then = content(site.database())
    site.ok("restore", "production", *source, "--snapshot=latest", "--yes", DODEKA_CLONE="masked")
    assert content(site.database()) == then


def test_from_demo_to_production(site):
    """It is a clone as well: production must not believe demo's sessions."""
    site.ok("backup", "demo")
    demo = content(site.database("demo"))
    said = site.ok("restore", "production", "--from=demo", "--snapshot=latest", "--yes")
    assert "\nDEMO'S DATA GOES TO PRODUCTION.\n" in said and "\nLeft out: 2 mails, 10 sessions, " in said
    assert content(site.database()) == quarantined(demo)


def test_without_adds_nothing_to_a_clone(site):
    then = content(site.database())
    said = site.ok(*CLONE, "--yes", "--without=outbox")
    assert "\nLeft out: 20 mails, 74 sessions, " in said and "without the rows" not in said
    assert content(site.database("demo")) == quarantined(then)


def test_a_table_that_the_description_does_not_name_is_cloned_with_a_warning(site):
    execute(site.database(), 'CREATE TABLE "the ""new"" one" (a)', "CREATE TABLE trophies (a)")
    execute(site.database(), "INSERT INTO trophies VALUES ('cup')", "DROP TABLE tokens")
    site.ok("backup", "production")
    said = site.ok(*CLONE, "--yes")
    assert re.search(
        r"\nwarning: snapshot \w{8} of production has tables that deploy/data\.toml does not describe; they are cloned"
        r' as they are: the "new" one, trophies\n',
        re.sub(r"(?m)^\S+T\S+ demo ", "", said),
    )
    assert rows(site.database("demo"), "SELECT * FROM trophies") == [("cup",)]
    assert sample_data.count(site.database("demo"), "outbox") == 0


def test_names_of_tables_in_other_letter_case_are_the_same_tables(site):
    """To SQLite, and so to the backend, which would send these mails and believe these sessions."""
    secret = [*secrets(site.database())]
    for name in ("outbox", "session_cache", "metadata"):
        execute(
            site.database(),
            f"ALTER TABLE {name} RENAME TO renamed",
            f"ALTER TABLE renamed RENAME TO {name.title()}",
        )
    site.ok("backup", "production")
    said = site.ok(*CLONE, "--yes")
    assert " 20 rows of Outbox," in said and "does not describe" not in said
    left = site.database("demo").read_bytes()
    assert not [one for one in secret if one in left]
    done = site.run(*CLONE, "--clone=masked", "--yes")
    assert done.returncode == 4 and "but not described" in done.stderr
    restore = ("restore", "production", "--snapshot=latest", "--yes")
    assert "\noutbox has 20 mails that the backend will send.\n" in site.ok(*restore)
    assert "that the backend will send" not in site.ok(*restore, "--without=outbox")
    assert sample_data.count(site.database(), "outbox") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount another file there")
def test_a_mistake_in_the_description_refuses_all_but_a_whole_clone(site, tmp_path):
    demo, then = content(site.database("demo")), content(site.database())
    broken = tmp_path / "data.toml"
    broken.write_text("[kinds]\n")

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        script = (
            f"{ROOT}/bin/dodeka-db-restore.py demo --from=production --snapshot=latest {' '.join(arguments)}"
        )
        mounted = f"mount --bind {broken} {ROOT}/deploy/data.toml && exec {script}"
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", mounted],
            env=site.environ,
            capture_output=True,
            text=True,
            input=stdin,
        )

    for kind in ((), ("--clone=quarantined",), ("--clone=masked",)):
        done = run(*kind, "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (6, 1)
        assert "data.toml, 'members': it is missing" in done.stderr and "downloading" not in done.stdout
        assert untouched(site, demo)
    done = run("--clone=whole", stdin=WORDS)
    assert done.returncode == 0 and content(site.database("demo")) == then


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("outbox", "CREATE TRIGGER also AFTER DELETE ON outbox BEGIN DELETE FROM users; END"),
        ("metadata", "CREATE TRIGGER also AFTER DELETE ON metadata BEGIN DELETE FROM users; END"),
    ],
)
def test_a_trigger_on_what_stays_away_refuses_the_clone(site, table, statement):
    demo = content(site.database("demo"))
    execute(site.database(), statement)
    site.ok("backup", "production")
    done = site.run(*CLONE, "--yes")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert re.search(
        rf"table {table} of the database in snapshot \w+ of production has the trigger also, which could change other"
        r" tables; nothing was changed; CLONE=whole clones all of it\n$",
        done.stderr,
    )
    assert untouched(site, demo)


def test_remains_that_cannot_be_removed_refuse_the_clone(site):
    """An index needs a function that is not there: the snapshot is of pages, whatever its format."""
    demo = content(site.database("demo"))
    execute(
        site.database(),
        "CREATE INDEX short ON users (length(key))",
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'length', 'lacking') WHERE name = 'short'",
    )
    site.ok("backup", "production")
    done = site.run(*CLONE, "--yes")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert re.search(
        r"cannot compact the database in snapshot \w+ of production, so remains of removed rows would come along: "
        r"no such function: lacking; nothing was changed; CLONE=whole clones all of it\n$",
        done.stderr,
    )
    assert untouched(site, demo)
    site.ok(*CLONE, "--clone=whole", stdin=WORDS)


def test_defects_that_a_clone_does_not_take_over(site):
    """An index of the snapshot lacks its entries: the clone's is made anew."""
    then = content(site.database())
    execute(
        site.database(),
        "CREATE INDEX short ON users (counter) WHERE counter > 0",
        "PRAGMA writable_schema=ON",
    )
    execute(
        site.database(),
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX short ON users (counter)' WHERE name = 'short'",
    )
    site.run("backup", "production")
    said = site.ok(*CLONE, "--yes")
    assert "\nIts indexes were damaged, and are rebuilt: " in said and "Warning about" not in said
    assert content(site.database("demo")) == quarantined(then)
    assert rows(site.database("demo"), "PRAGMA integrity_check") == [("ok",)]


def test_what_is_special_about_a_database_is_that_of_the_snapshot(site):
    execute(site.database(), "PRAGMA user_version=7", "PRAGMA application_id=9")
    site.ok("backup", "production")
    site.ok(*CLONE, "--yes")
    for pragma in ("user_version", "application_id", "page_size", "auto_vacuum", "journal_mode"):
        assert rows(site.database("demo"), f"PRAGMA {pragma}") == rows(site.database(), f"PRAGMA {pragma}")
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    assert rows(site.database("demo"), schema) == rows(site.database(), schema)


class TestMasked:
    """The way of a masked clone to its place, with an engine that just renames everybody."""

    @pytest.fixture
    def engine(self, monkeypatch, site):
        def masked_copy_of(source, target, shown, description):
            assert source.parent == target.parent and source.parent.parent == site.state / "staging"
            assert source.stat().st_mode & 0o077 == 0
            assert not target.exists() and content(source) == content(site.database())
            assert description == data_description.read()
            (staged,) = (name for name in beside(site) if name != "db.sqlite")
            assert (site.database("demo").parent / staged).read_bytes() == b"", "not before all is made up"
            if not rows(source, "SELECT * FROM users_by_email"):
                raise SnapshotError(f"{shown} has nobody", "see docs/data.md")
            with closing(sqlite3.connect(source)) as connection:
                connection.execute("VACUUM INTO ?", (str(target),))
            execute(
                target,
                *(f"DELETE FROM {table}" for table in OF_THE_MOMENT),
                "UPDATE users_by_email SET key = 'somebody.' || rowid || '@example.org'",
            )
            return masked_copy.Masked({"address": 400}, (("admin", "somebody.1@example.org"),))

        monkeypatch.setattr(masked_copy, "masked_copy", masked_copy_of)
        before = os.umask(0o077)
        yield
        os.umask(before)

    def clone(self, site: Site, answer: str) -> list[str]:
        found, asked = site.settings, []

        def confirm(change: restore_question.Change) -> None:
            asked.extend(restore_question.describe(change))
            if answer != change.words:
                raise NotConfirmedError("no")

        kind = clones.kind(found, "demo", "production", "masked")
        choice = restore.choose(found.main, "production", "latest", lambda _: "")
        restore.restore(found, found.environment("demo"), choice, confirm, (), kind)
        return asked

    @of_both_formats
    def test_nobody_of_production_is_in_the_file_of_demo(self, site):
        """With the engine itself."""
        self.clone(site, "yes")
        made = site.database("demo").read_bytes().lower()
        names = {
            name.encode()
            for (key,) in rows(site.database(), "SELECT value FROM users_by_email")
            for name in re.findall("[a-z]{4,}", key.decode())
        }
        addresses = [
            address.encode() for (address,) in rows(site.database(), "SELECT key FROM users_by_email")
        ]
        assert len(names) > 10 and len(addresses) == sample_data.count(site.database("demo"))
        assert not [original for original in [*names, *addresses] if original in made]
        assert beside(site) == ["db.sqlite"] and not site.staged()

    @of_both_formats
    def test_only_made_up_people_reach_the_folder_of_demo(self, site, engine, caplog):
        caplog.set_level("INFO", logger="dodeka_db")
        demo = content(site.database("demo"))
        with pytest.raises(NotConfirmedError):
            self.clone(site, "no")
        assert untouched(site, demo)
        asked = "\n".join(self.clone(site, "yes"))
        assert "PRODUCTION'S DATA GOES TO DEMO, WITH MADE-UP PEOPLE.\n" in asked
        assert re.search(
            r"\nIt puts snapshot \w+ of production, with made-up people, in the place of \S+:\n", asked
        )
        assert "\nLeft out: 20 mails, 74 sessions, " in asked and "CLONE=" not in asked
        assert {key for key, *_ in content(site.database("demo"))["users_by_email"]} == {
            f"somebody.{number}@example.org" for number in range(1, 401)
        }
        assert beside(site) == ["db.sqlite"] and not site.staged()
        *_, done, last = (record.getMessage() for record in caplog.records)
        assert re.fullmatch(
            r"done: demo has the data of snapshot \w+ of production, with made-up people", done
        )
        assert last == "who can log in as admin: somebody.1@example.org"

    def test_a_refusal_changes_nothing(self, site, engine):
        execute(site.database(), "DELETE FROM users_by_email")
        site.loses("backup", "production")
        demo = content(site.database("demo"))
        with pytest.raises(
            SnapshotError, match=r"the database in snapshot \w+ of production has nobody; see docs"
        ):
            self.clone(site, "yes")
        assert untouched(site, demo)


class TestANameForWholeClones:
    """What demo held while it was a whole clone stays in its snapshots: the list and the messages say so."""

    NAME = ["pre-restore", "whole-clone-of-production"]

    def tags(self, site: Site) -> list[list[str]]:
        """Of each snapshot of demo, what it is tagged with besides."""
        return [[tag for tag in one["tags"] if tag not in ENVIRONMENT_S] for one in site.snapshots("demo")]

    def test_of_the_database_that_a_restore_replaced(self, site):
        site.ok("backup", "demo")
        assert "pre-restore\n" in site.ok(*CLONE, "--clone=whole", stdin=WORDS), "that one is demo's own"
        site.ok("backup", "demo")
        said = site.ok("restore", "demo", "--snapshot=latest~1", "--yes")
        assert re.search(r" is now snapshot \w{8}, tagged pre-restore: a whole clone of production\n", said)
        # an ordinary one has no tag of its own: the retention would keep a group of such for ever
        assert self.tags(site) == [[], ["pre-restore"], [], self.NAME]
        listed = " ".join(site.ok("snapshots", "demo").split())
        assert listed.count("pre-restore, whole clone of production: same") == 1
        # demo is its own again, and so is what the next restore replaces
        said = site.ok(*CLONE, "--yes")
        assert self.tags(site)[-1] == ["pre-restore"] and "whole clone" not in said

    def test_that_an_undo_puts_back(self, site):
        site.ok(*CLONE, "--clone=whole", stdin=WORDS)
        site.ok("undo", "demo", "--yes")
        said = site.ok("undo", "demo", "--yes")
        assert re.search(r"\nIt puts snapshot \w{8}, a whole clone of production, in the place of ", said)
        assert re.search(r" done: demo has the data of snapshot \w{8}, a whole clone of production\n", said)
        site.ok(*CLONE, "--yes")
        assert self.tags(site) == [["pre-restore"], self.NAME, ["pre-restore"], self.NAME]
        # and a quarantined clone of that has nothing of the moment
        assert sample_data.count(site.database("demo"), "session_cache") == 0

    @pytest.mark.slow("seven runs")
    def test_while_it_could_not_be_saved(self, site):
        """The file beside the database is a whole clone, whatever becomes of demo meanwhile."""
        site.ok(*CLONE, "--clone=whole", stdin=WORDS)
        time.sleep(1)  # the name of a kept file tells seconds
        # no more room for a snapshot than the repository has now: the replaced database stays
        done = site.run(
            "restore", "demo", "--from=production", "--snapshot=latest", "--yes", RESTIC=full(site)
        )
        assert done.returncode == 1 and "but the replaced database is not saved: " in done.stderr
        (kept,) = [name for name in beside(site) if re.search(r"pre-restore-\w+Z$", name)]
        said = site.run("undo", "demo", stdin="no\n").stdout
        assert f"It puts {kept}, a whole clone of production, in the place of " in said
        time.sleep(1)
        site.ok(*CLONE, "--clone=whole", stdin=WORDS)
        assert self.tags(site) == [["pre-restore"], self.NAME, ["pre-restore"]]
        site.ok("undo", "demo", "--yes")
        assert self.tags(site)[-1] == self.NAME

    def test_before_rows_are_brought_back(self, site):
        site.ok(*CLONE, "--clone=whole", stdin=WORDS)
        site.ok("backup", "demo")
        execute(site.database("demo"), "DELETE FROM users_by_email WHERE rowid = 1")
        site.ok("bring-back", "demo", "--snapshot=latest", "--yes")
        assert self.tags(site)[-1] == self.NAME

    @pytest.mark.slow("six runs")
    def test_without_what_is_on_record_a_restore_goes_on(self, site):
        site.ok(*CLONE, "--clone=whole", stdin=WORDS)
        record = site.state / "whole-clones" / "demo.json"
        assert record.stat().st_mode & 0o777 == 0o600
        for text in ("no JSON", "[]", '{"1": 2}', '{"1": ["production"]}'):
            record.write_text(text)
            site.ok("undo", "demo", "--yes")
        assert self.tags(site) == [["pre-restore"]] * 5


def full(site: Site) -> str:
    """A restic that stores nothing: a fake, for a disk that is full from one moment on."""
    program = site.folder / "restic-of-a-full-disk"
    run_first(program, 'case " $* " in *" backup "*) exit 1 ;; esac')
    return str(program)


# what changes a file, a name, its rights, or what is on the disk
STEPS = "openat,unlink,unlinkat,rmdir,rename,link,mkdir,chmod,fchmod,fchown,ftruncate,fsync,fdatasync,write,pwrite64"


@pytest.mark.slow("every step")
@pytest.mark.long
@pytest.mark.slow("each step", keep=["quarantined-zst", "masked-zst"])
@of_both_formats
@pytest.mark.parametrize("kind", ["quarantined", "masked"])
def test_a_clone_that_is_killed_at_any_step(site, kind, sampled, tmp_path):
    """Demo has what it had, or the clone. No secret, nor anybody if they are made up, is in its folder, nor readable for others;
    the next run clears up.
    """
    demo, then, meant = content(site.database("demo")), content(site.database()), [*secrets(site.database())]
    if kind == "masked":
        demo_s = site.database("demo").read_bytes()
        meant += [one for one in people(site.database()) if one not in demo_s]
        assert len(meant) > 1200
    clone = [ROOT / "bin" / "dodeka-db-restore.py", *CLONE[1:], f"--clone={kind}", "--yes"]

    def run(where: Path, *options: str) -> Stored:
        shutil.copytree(site.folder, where)
        one = Stored(where)
        subprocess.run(["strace", *options, *clone], env=one.environ, capture_output=True)
        return one

    run(tmp_path / "traced", f"-o{tmp_path / 'trace'}", f"-etrace={STEPS}", "-y")
    counts: Counter[str] = Counter()
    steps = []
    for line in (tmp_path / "trace").read_text().splitlines():
        name = line.partition("(")[0]
        counts[name] += 1
        # not what is printed, nor sent to restic, nor read
        if str(tmp_path / "traced") in line and (name != "openat" or "O_CREAT" in line):
            steps.append((name, counts[name]))
    assert {
        "unlink",
        "unlinkat",
        "rename",
        "link",
        "mkdir",
        "ftruncate",
        "fsync",
        "pwrite64",
    } <= counts.keys()
    assert len(steps) > 100
    ended = set()
    for name, number in sampled(steps):
        one = run(tmp_path / f"{name}-{number}", "-o/dev/null", f"-einject={name}:signal=KILL:when={number}")
        folder = one.database("demo").parent
        for file in folder.iterdir():
            found = file.read_bytes()
            assert not [secret for secret in meant if stands_in(secret, found)], (name, number, file.name)
        for path in (one.state / "staging", *(one.state / "staging").rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, (name, number, path)
        is_now = content(one.database("demo"))
        if kind == "quarantined":
            assert is_now in (demo, quarantined(then)), (name, number)
        elif is_now != demo:
            assert len(is_now["users"]) == len(then["users"]), (name, number)
        ended.add(is_now == demo)
        one.ok("backup", "demo")
        assert beside(one) == ["db.sqlite"] and not one.staged(), (name, number)
        if kind == "masked":
            for file in (file for file in one.state.rglob("*") if file.is_file()):
                found = file.read_bytes()
                assert not [secret for secret in meant if stands_in(secret, found)], (name, number, file)
        assert content(one.database("demo")) == is_now
        shutil.rmtree(one.folder)
    assert True in ended


def people(path: Path) -> Iterator[bytes]:
    """The addresses, the numbers, and the user IDs, of members."""
    for table, column in (("users_by_email", "key"), ("users_by_email", "value"), ("volta_data", "key")):
        yield from (
            one.encode()
            for (one,) in rows(path, f"SELECT CAST({column} AS TEXT) FROM {table}")
            if len(one) > 6
        )


def stands_in(secret: bytes, found: bytes) -> bool:
    """A number, only as all of its digits: in a file, two of them can stand side by side."""
    if not secret.isdigit():
        return secret in found
    return secret in found and re.search(rb"(?<!\d)%s(?!\d)" % secret, found) is not None


def test_a_state_folder_with_room_for_a_quarantined_clone_alone(site, small_disk):
    """A masked one needs more: the made-up rows, and their new order."""
    demo, size_bytes = content(site.database("demo")), site.database().stat().st_size
    subprocess.run(
        ["mount", "-o", f"remount,size={int(2.2 * size_bytes) + 1_100_000}", small_disk], check=True
    )
    elsewhere = {"DODEKA_STATE": str(small_disk / "state"), "RESTIC_CACHE_DIR": str(site.folder / "cache")}
    done = site.run(*CLONE, "--clone=masked", "--yes", **elsewhere)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"no room left for the database in {small_disk}/state/staging/" in done.stderr
    assert done.stderr.endswith("free some space, or set DODEKA_STATE to another disk\n")
    assert "making up the people" not in done.stdout and untouched(site, demo)
    site.ok(*CLONE, "--yes", **elsewhere)


def test_a_state_folder_without_room_for_it(site, small_disk):
    demo = content(site.database("demo"))
    elsewhere = {"DODEKA_STATE": str(small_disk / "state"), "RESTIC_CACHE_DIR": str(site.folder / "cache")}
    done = site.run(*CLONE, "--yes", **elsewhere)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"no room left for the database in {small_disk}/state/staging/" in done.stderr
    assert done.stderr.endswith("free some space, or set DODEKA_STATE to another disk\n")
    assert untouched(site, demo)
