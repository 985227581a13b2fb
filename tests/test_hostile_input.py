"""What somebody else supplies: names in a folder of his, names in a database or a repository, snapshots, answers of a server."""

import ast
import http.server
import json
import os
import re
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import zstandard

import cheap_key
from dodeka_db import errors, settings
from dodeka_db.errors import BackupError, DatabaseError, SetupError
from dodeka_db.flows import leftovers, restore
from dodeka_db.host import http_probe, job_records, open_files, service, staging
from dodeka_db.restic.repository import Repository
from dodeka_db.sqlite import connection as connections
from dodeka_db.sqlite import header, integrity, sample_data
from dodeka_db.sqlite.checkpoint import checkpoint_and_close
from dodeka_db.sqlite.export import export_compacted
from dodeka_db.sqlite.failures import DatabaseInUseError
from dodeka_db.sqlite.row_counts import row_counts
from hostile_files import with_journal_of
from site_folder import ROOT, Site

# what it takes to write a second log line, to clear a screen, to go back over a line, and to turn text round
EVIL = "x\x1b[2J\n2026-01-01T00:00:00+00:00 production done: all is well\r\u202e\x9b1A\x7f"
SHOWN = r"x\u001b[2J\n2026-01-01T00:00:00+00:00 production done: all is well\r\u202e\u009b1A\u007f"


# --- the staging area


def test_a_folder_of_somebody_else_s_that_is_called_staging(site):
    theirs = site.folder / "srv" / "staging"
    theirs.mkdir(parents=True)
    (theirs / "thesis.txt").write_text("three years")
    (theirs / "tmpabcdefgh").mkdir()
    for script in ("backup", "cron", "verify"):
        done = site.run(script, "production", DODEKA_STATE=str(theirs.parent))
        assert (done.returncode, done.stderr.count("\n")) == (6, 1), done
        assert (
            f"{theirs} is not a folder of these backups: it contains thesis.txt; nothing was removed"
            in done.stderr
        )
    assert sorted(path.name for path in theirs.iterdir()) == ["thesis.txt", "tmpabcdefgh"]


def test_files_of_ours_by_their_names_alone_are_not_enough(site):
    theirs = site.folder / "srv" / "staging"
    (theirs / "tmpabcdefgh").mkdir(parents=True)
    with pytest.raises(SetupError, match="no backup run has used it"):
        staging.state_folder(settings_with(site, DODEKA_STATE=str(theirs.parent)).main)
    assert (theirs / "tmpabcdefgh").exists()


def test_a_link_in_the_place_of_the_staging_area_is_not_followed(site):
    site.state.mkdir(exist_ok=True)
    volume = site.folder / "volume"
    volume.mkdir(0o700)
    (volume / "tmpabcdefgh").write_text("x")
    staging_area = site.state / "staging"
    if staging_area.exists():
        (staging_area / staging.MARK).unlink(missing_ok=True)
        staging_area.rmdir()
    staging_area.symlink_to(volume)
    done = site.run("verify", "production")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done
    assert "is not a folder of these backups: it is a symbolic link" in done.stderr
    assert [path.name for path in volume.iterdir()] == ["tmpabcdefgh"]


def test_the_area_of_an_earlier_version_is_taken_over_and_what_it_left_goes(site):
    site.ok("backup", "demo")
    area = site.state / "staging"
    (area / staging.MARK).unlink(missing_ok=True)
    (area / "tmpab_cdefg").mkdir()
    (area / "tmpab_cdefg" / "export.sqlite").write_text("members")
    (area / "restic-temp-pack-123").touch()
    assert site.ok("backup", "demo")
    assert site.staged() == []
    assert (area / staging.MARK).exists()


def test_only_what_carries_our_mark_is_removed(site, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").touch()
    staging.state_folder(site.settings.main)
    area = site.settings.main.staging
    (area / "dodeka-link").symlink_to(theirs)
    (area / "restic-temp-pack-1").symlink_to(theirs / "file")
    (area / "dodeka-folder").mkdir()
    (area / "dodeka-folder" / "link").symlink_to(theirs)
    (area / "note").touch()
    (area / "restic-migrate-upgrade-repo-v2-1").mkdir()  # restic's copy of the repository's configuration
    os.mkfifo(area / "dodeka-pipe")
    with staging.folder(site.settings.main) as folder:
        assert sorted(site.staged()) == sorted([folder.name, "note", "restic-migrate-upgrade-repo-v2-1"])
    assert [path.name for path in theirs.iterdir()] == ["file"]


# --- names in a folder of somebody else's


def settings_with(site: Site, **variables: str):
    return settings.load({**site.environ, **variables})


KINDS = {
    "link": lambda path, victim: path.symlink_to(victim),
    "folder": lambda path, victim: path.mkdir(),
    "pipe": lambda path, victim: os.mkfifo(path),
    "socket": lambda path, victim: bind(path),
}


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_text("theirs")
    return file


def in_time(site: Site, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run that must not hang."""
    return subprocess.run(
        ["timeout", "60", ROOT / "bin" / f"dodeka-db-{script}.py", *arguments],
        env={**site.environ, **variables},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow("each kind for each name", keep=["link-", "pipe-pre"])
@pytest.mark.parametrize(
    "name", ["restoring-abcdefgh", "pre-restore-20260101T000000Z", "damaged-20260101T000000Z"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_like_a_leftover_is_left_alone(site, victim, monkeypatch, kind, name):
    folder = site.database().parent
    monkeypatch.chdir(folder)
    path = folder / f"db.sqlite.{name}"
    KINDS[kind](path, victim)
    site.ok("backup", "production")
    done = in_time(site, "restore", "production", "--snapshot=latest", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert victim.read_text() == "theirs"
    assert os.path.lexists(path)


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_no_file_in_the_place_of_a_database_or_its_journal(site, kind, suffix, monkeypatch):
    path = Path(f"{site.database('demo')}{suffix}")
    path.unlink(missing_ok=True)
    monkeypatch.chdir(path.parent)
    KINDS[kind](path, None)
    for script in ("backup", "cron"):
        done = in_time(site, script, "demo")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1), done
        assert f"{path}: {'Is a directory' if kind == 'folder' else 'it is not a regular file'}" in (
            done.stderr.replace(f"{path} cannot be read", str(path))
        )


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_no_file(site, victim, kind):
    lock = site.state / "lock"
    lock.unlink(missing_ok=True)
    KINDS[kind](lock, victim)
    done = in_time(site, "backup", "production")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done
    assert "cannot be opened: it is " in done.stderr
    assert victim.read_text() == "theirs"
    assert "lock            " in in_time(site, "status").stdout


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_record_that_is_no_file(site, victim, kind):
    site.ok("cron", "production")
    record = site.state / "records" / "cron-production.json"
    assert record.exists()
    record.unlink()
    KINDS[kind](record, victim)
    assert in_time(site, "status").returncode in (1, 2)
    assert in_time(site, "cron", "production").returncode == 0
    assert victim.read_text() == "theirs"
    assert job_records.read(site.state, "cron-production").passed


@pytest.mark.parametrize("variable", ["DODEKA_BACKUP_ENV", "RESTIC_PASSWORD_FILE"])
def test_a_setting_or_a_password_in_a_pipe(site, tmp_path, variable):
    os.mkfifo(tmp_path / "pipe", 0o600)
    done = in_time(site, "backup", "production", **{variable: str(tmp_path / "pipe")})
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done
    assert "cannot be read: it is not a regular file" in done.stderr


def test_a_settings_file_without_end(site, tmp_path):
    (tmp_path / "long").touch(0o600)
    os.truncate(tmp_path / "long", 10**12)
    done = in_time(site, "backup", "production", DODEKA_BACKUP_ENV=str(tmp_path / "long"))
    assert (done.returncode, "the file is longer than 1000000 bytes" in done.stderr) == (6, True)


def test_the_staged_database_is_written_by_its_descriptor(site, victim):
    """A program of whoever owns the folder puts a link in the place of each staged file as soon as it is there."""
    site.ok("backup", "production")
    folder, is_over = site.database().parent, threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for name in os.listdir(folder):
                if ".restoring-" in name and not name.endswith(("-wal", "-shm", ".link")):
                    os.symlink(victim, folder / f"{name}.link")
                    os.replace(folder / f"{name}.link", folder / name)

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for _ in range(4):
            in_time(site, "restore", "production", "--snapshot=latest", "--yes")
    finally:
        is_over.set()
        attacker.join()
    assert victim.read_text() == "theirs"


def test_the_mark_of_a_stopped_service_follows_no_link(site, victim):
    unit = service.Service("unit", ("true",), site.database().with_name("db.sqlite.stopped"))
    unit._mark.symlink_to(victim)
    unit._write_mark(
        service.Condition(load="loaded", state="active", process=1, invocation="i", result="", since=0.0)
    )
    assert victim.read_text() == "theirs"
    assert not unit._mark.is_symlink() and unit._mark.read_text() == "i\n"


of_another_user = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A database in a folder of another user."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "db.sqlite")) as connection:
        connection.execute("CREATE TABLE t (a UNIQUE)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    os.chown(folder, 1, 1)
    return folder / "db.sqlite"


@pytest.mark.slow("each way to open it", keep=["checkpoint_and_close", "row_counts-DELETE"])
@of_another_user
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
@pytest.mark.parametrize(
    "opens",
    [
        checkpoint_and_close,
        leftovers.settle,
        row_counts,
        lambda db: integrity.verify(db, "it"),
        lambda db: integrity.reindex(db, "it"),
        lambda db: header.match_journal_mode(db, db.with_name("none")),
        lambda db: export_compacted(db, db.with_name("export")),
    ],
)
def test_a_journal_that_would_have_sqlite_remove_another_file(theirs, victim, monkeypatch, opens, mode, late):
    """It comes before we look, or between our look and SQLite's."""
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    checks = connections._check_journals

    def and_then(path: Path, shown: str) -> None:
        checks(path, shown)
        with_journal_of(theirs, victim)

    if late:
        monkeypatch.setattr(connections, "_check_journals", and_then)
    else:
        with_journal_of(theirs, victim)
    with suppress(DatabaseError):
        opens(theirs)
    assert victim.exists()
    monkeypatch.undo()
    with_journal_of(theirs, victim)
    with closing(sqlite3.connect(theirs)) as connection:  # it is that journal
        connection.execute("SELECT * FROM t").fetchall()
    assert not victim.exists()


@of_another_user
def test_a_database_in_a_folder_of_another_user_is_folded_and_rebuilt(theirs):
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA journal_mode=WAL'); c.execute('INSERT INTO t VALUES (2)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, theirs], check=True)
    assert Path(f"{theirs}-wal").stat().st_size
    reads = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM t').fetchall(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", reads, theirs], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        reader.stdout.readline()
        with pytest.raises(DatabaseInUseError, match="still open in another process"):
            checkpoint_and_close(theirs)
        reader.kill()
    subprocess.run([sys.executable, "-c", script.replace("2", "3"), theirs], check=True)
    checkpoint_and_close(theirs)
    integrity.reindex(theirs, "it")
    assert sorted(os.listdir(theirs.parent)) == ["db.sqlite"]
    assert integrity.verify(theirs, "it").lines() == []
    with closing(sqlite3.connect(theirs)) as connection:
        assert connection.execute("SELECT a FROM t ORDER BY a").fetchall() == [(1,), (2,), (3,)]


@of_another_user
def test_an_unfinished_transaction_in_a_folder_of_another_user_is_left_to_the_service(theirs, victim):
    with_journal_of(theirs, victim)
    with pytest.raises(DatabaseError, match="has an unfinished transaction in its journal") as failure:
        checkpoint_and_close(theirs)
    assert failure.value.hint == "start its service once: that rolls the transaction back"


@of_another_user
def test_another_file_under_the_name_when_sqlite_opens_it(theirs, victim, monkeypatch):
    with_journal_of(theirs, victim)
    locked = connections._locked

    def and_then(path: Path, *others):
        file = locked(path, *others)
        path.rename(path.with_name("other"))
        path.write_bytes(path.with_name("other").read_bytes())
        return file

    monkeypatch.setattr(connections, "_locked", and_then)
    with pytest.raises(DatabaseError, match="was replaced by another file"):
        checkpoint_and_close(theirs)
    assert victim.exists()


def marked(db: Path) -> service.Service:
    return service.Service("unit", ("true",), db.with_name("db.sqlite.stopped"))


@of_another_user
@pytest.mark.parametrize(
    "forge",
    [
        lambda mark: mark.write_text("i\n") and os.chown(mark, 1, 1),
        lambda mark: os.link(mark.with_name("db.sqlite"), mark),  # ours, and the group may write it
        lambda mark: mark.with_name("db.sqlite").rename(mark),
        lambda mark: mark.touch(0o600),  # a staged file of ours, renamed
        lambda mark: mark.symlink_to("/etc/passwd"),
        lambda mark: mark.symlink_to("/dev/zero"),
        os.mkfifo,
        lambda mark: mark.mkdir(),
    ],
)
def test_a_mark_that_another_user_has_left_starts_nothing(theirs, forge):
    theirs.chmod(0o660)
    forge(marked(theirs)._mark)
    assert not marked(theirs).is_marked
    marked(theirs)._remove_mark()


@of_another_user
def test_a_mark_of_ours_counts_in_either_folder(theirs, tmp_path):
    stopped = service.Condition("loaded", "active", 1, "i", "", 0.0)
    marked(theirs)._write_mark(stopped)
    assert marked(theirs).is_marked
    (tmp_path / "db.sqlite.stopped").write_text("i\n")
    os.chown(tmp_path / "db.sqlite.stopped", 1, 1)  # in a folder of ours whoever has left it
    assert marked(tmp_path / "db.sqlite").is_marked


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_who_has_a_pipe_or_a_link_open_is_not_waited_for(tmp_path, victim, kind):
    KINDS[kind](tmp_path / "kept", victim)
    assert open_files.is_alone(tmp_path / "kept") is None


@pytest.fixture
def change_of_mind(site, victim, monkeypatch):
    """A restore, run in here, while somebody changes what the database's name leads to: `before` and `after`."""
    site.ok("backup", "production")
    loaded = settings.load(site.environ)
    target, db = loaded.environment("production"), site.database()
    repository = Repository(loaded.main)
    snapshot = next(one for one in repository.snapshots() if one.environment == "production")

    def run(lead: Callable[[Path, Path], None]) -> None:
        def confirm(_change: object) -> None:
            lead(db, victim)

        restore.restore(loaded, target, restore.Choice(repository, snapshot), confirm)

    return run


def test_a_name_that_becomes_a_link_while_it_is_asked(site, victim, change_of_mind):
    def lead(db: Path, victim: Path) -> None:
        db.rename(db.with_name("away"))
        db.symlink_to(victim)

    with pytest.raises(BackupError):
        change_of_mind(lead)
    assert victim.read_text() == "theirs"


def test_a_name_that_becomes_a_link_when_the_service_is_asked(site, victim, change_of_mind, monkeypatch):
    """The address at which it is asked is the web user's, who so knows when."""

    def answers(*_: object) -> bool:
        site.database().rename(site.database().with_name("away"))
        site.database().symlink_to(victim)
        return True

    monkeypatch.setattr(service.Service, "answers", answers)
    with suppress(BackupError):
        change_of_mind(lambda db, victim: None)
    assert victim.read_text() == "theirs"


def test_a_link_that_is_none_any_more_when_it_is_looked_at(site, victim, monkeypatch):
    site.ok("backup", "production")
    db = site.database()
    away = db.rename(db.with_name("away"))
    db.symlink_to(victim)
    target = settings.load(site.environ).environment("production")
    live = target.live
    db.unlink()
    away.rename(db)
    with pytest.raises(DatabaseError, match="which is not a database"):
        restore._check_link(target.database, live)
    assert target.live == live == victim


@of_another_user
def test_a_link_out_of_a_folder_of_another_user_leads_to_the_same_name_alone(theirs, tmp_path):
    """Or a folder on the way could lead to any file of ours by the time that it is replaced."""
    theirs.rename(tmp_path / "authorized_keys")
    theirs.symlink_to(tmp_path / "authorized_keys")
    with pytest.raises(DatabaseError, match="in a folder of another user"):
        restore._check_link(theirs, tmp_path / "authorized_keys")
    (tmp_path / "authorized_keys").rename(tmp_path / "db.sqlite")
    restore._check_link(theirs, tmp_path / "db.sqlite")


# --- names and words that are printed


@pytest.fixture
def evil(site: Site) -> Site:
    """A site with such a name wherever a database or a repository can hold one."""
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute(f'CREATE TABLE "{EVIL}" (parent TEXT REFERENCES users(key))')
        connection.execute(f'INSERT INTO "{EVIL}" VALUES (1)')
    tags = f"db,db_sqlite,db_dodeka,env_production,{EVIL}"
    export = site.folder / "export.zst"
    export_compacted(site.database(), site.folder / "export")
    export.write_bytes(
        zstandard.ZstdCompressor(write_checksum=True).compress((site.folder / "export").read_bytes())
    )
    with open(export, "rb") as file:
        site.restic(
            *("backup", "--stdin", "--stdin-filename", "dodeka-production.sqlite.zst"),
            *("--tag", tags, "--host", EVIL),
            stdin=file,
        )
    cheap_key.add(site.repository, site.password, "another password", EVIL)
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute(f'INSERT INTO "{EVIL}" VALUES (2)')
    return site


@pytest.mark.slow("every command", keep=["snapshots-arguments0", "restore-arguments4", "status"])
@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("snapshots", ("--all",), False),
        ("snapshots", ("--json",), True),
        ("verify", ("production",), True),
        ("backup", ("production",), True),
        ("changes", ("production", "--rows"), True),
        ("open", ("production",), True),
        ("bring-back", ("production", "--rows", "--yes"), True),
        ("restore", ("production", "--snapshot=latest"), True),
        ("restore", ("demo", "--from=production", "--snapshot=latest", "--yes"), True),
        ("erased", ("production", "--who=nobody@example.org", "--yes"), False),
        ("retention", ("production",), False),
        ("pin", ("production", "latest"), False),
        ("keys", (), True),
        ("recovery-sheet", (), True),
        ("recovery-sheet", ("--html",), True),
        ("status", (), False),
        ("status", ("--json",), False),
        ("cron", ("production",), True),
    ],
)
def test_no_name_does_anything_to_a_terminal_or_a_log(evil, script, arguments, says):
    done = evil.run(script, *arguments)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert [line for line in printed.split("\n") if not line.isprintable()] == []
    assert not any(line.startswith("2026-01-01") for line in printed.split("\n"))
    assert (r"x\u001b[2J" in printed) is says, printed
    if "--json" in arguments:
        json.loads(done.stdout)


def test_a_table_in_the_list_of_snapshots(evil):
    """Its number of rows was counted once by fetching a snapshot, once by a backup, and is on record as it is."""
    evil.run("backup", "production")
    done = evil.run("snapshots", "production", "--all")
    assert done.returncode == 0
    assert [line for line in done.stdout.split("\n") if not line.isprintable() or len(line) > 80] == []
    assert f"{SHOWN} +1".replace(" ", "") in re.sub(r"\s", "", done.stdout)
    assert [one["rows"][EVIL] for one in evil.snapshots()] == [1, 2]


def test_a_failure_on_record_is_shown_in_one_line(site):
    with pytest.raises(BackupError), job_records.failures(site.state, "cron-production"):
        raise BackupError(f"table {EVIL}")
    shown = site.run("status").stdout
    assert f"table {SHOWN}" in shown
    assert [line for line in shown.split("\n") if not line.isprintable()] == []


def test_a_bad_argument_is_shown_in_one_line(site):
    done = site.run("backup", EVIL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.strip().isprintable()


def test_what_is_escaped_is_what_python_does_not_call_printable():
    for number in (*range(0x3000), *range(0xD7F0, 0x10000), 0x1F600, 0xE0001, 0x10FFFF):
        shown = errors.plain(chr(number))
        assert shown.isprintable()
        assert (shown == chr(number)) is chr(number).isprintable()
        assert chr(number) in '"\\' or json.loads(f'"{shown}"') == chr(number)
    assert errors.plain(SHOWN) == SHOWN  # once is enough


def test_a_locale_without_such_letters(site):
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute('CREATE TABLE "café" (a)')
    site.ok("backup", "production", PYTHONIOENCODING="ascii")
    assert r"caf\xe9" in site.ok("verify", "production", PYTHONIOENCODING="ascii")


def test_nothing_is_printed_past_the_one_place():
    """console.py; and venv.py, which runs before that can be imported."""
    found = []
    for path in sorted((ROOT / "bin").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.search(r"^(print|os\.write|.*std(out|err)\.\w*write\w*|.*_print_message)$", name):
                found.append(path.name)
    assert set(found) == {"console.py", "venv.py"}


# --- snapshots


def stored(site: Site, content: bytes, name: str = "dodeka-production.sqlite.zst") -> None:
    file = site.folder / "content"
    file.write_bytes(content)
    with open(file, "rb") as opened:
        site.restic(
            *("backup", "--stdin", "--stdin-filename", name),
            *("--tag", "db,db_sqlite,db_dodeka,env_production"),
            stdin=opened,
        )


def an_export(site: Site) -> bytes:
    target = site.folder / "an-export"
    target.unlink(missing_ok=True)
    export_compacted(site.database(), target)
    return target.read_bytes()


def refused(site: Site, words: str, *scripts: str) -> None:
    for script in scripts or ("verify", "restore"):
        options = ("--snapshot=latest", "--yes") if script == "restore" else ()
        done = in_time(site, script, "production", *options)
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
        assert words in done.stderr
    assert sample_data.count(site.database()) == 400


def test_a_snapshot_that_expands_without_end(site):
    """65 kB of frames that hold 2 GB behind the header of a small database: no more than its pages is written."""
    export = an_export(site)
    compressor = zstandard.ZstdCompressor()
    bomb = compressor.compress(export) + compressor.compress(bytes(1_000_000_000)) * 2
    stored(site, bomb)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
    refused(site, "is longer than its header says", "restore")
    written = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before) * 512
    assert written < 50_000_000


def test_memory_stays_small_while_it_expands():
    from dodeka_db.sqlite import zstd_frames

    class Counter:
        largest = 0

        def write(self, data: bytes) -> None:
            self.largest = max(self.largest, len(data))

    import io

    target = Counter()
    zstd_frames.decompress(io.BytesIO(zstandard.ZstdCompressor().compress(bytes(500_000_000))), target)
    assert target.largest < 40_000_000


def test_a_frame_that_wants_a_huge_window(site):
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stored(site, frame.compress(an_export(site)) + frame.flush())
    refused(site, "takes more than 8 MiB of memory", "verify")


@pytest.mark.slow("each number", keep=["at0", "at4"])
@pytest.mark.parametrize(
    ("at", "number"),
    [
        *((slice(16, 18), size) for size in (0, 2, 511, 513, 4097, 65535)),
        (slice(28, 32), 0),
        (slice(28, 32), 1),
    ],
)
def test_a_header_that_lies(site, at, number):
    """About the size of a page, or how many there are."""
    export = bytearray(an_export(site))
    export[at] = number.to_bytes(at.stop - at.start, "big")
    stored(site, zstandard.ZstdCompressor().compress(bytes(export)))
    refused(site, "its header says", "verify")


def test_a_header_with_more_pages_than_there_is_room(site):
    export = bytearray(an_export(site))
    export[28:32] = (2**32 - 2).to_bytes(4, "big")
    stored(site, zstandard.ZstdCompressor().compress(bytes(export)))
    done = in_time(site, "verify", "production")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no room left for the database" in done.stderr


@pytest.mark.slow("each kind in each format", keep=["zst-pipe", "sqlite-folder"])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
@pytest.mark.parametrize("name", ["dodeka-production.sqlite.zst", "dodeka-production.sqlite"])
def test_a_snapshot_whose_file_is_none(site, kind, name):
    place = site.folder / name
    KINDS[kind](place, "/etc/passwd")
    if kind == "folder":
        (place / "db.sqlite").write_bytes(an_export(site))
    site.restic("backup", str(place), "--tag", "db,db_sqlite,db_dodeka,env_production")
    for script in ("verify", "restore"):
        options = ("--snapshot=latest", "--yes") if script == "restore" else ()
        done = in_time(site, script, "production", *options)
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert in_time(site, "snapshots").returncode == 0
    assert sample_data.count(site.database()) == 400


def test_a_snapshot_of_several_files(site):
    """The one that the snapshot names first is taken, and no other is looked at."""
    for name in ("dodeka-production.sqlite", "dodeka-x.sqlite", "other"):
        (site.folder / name).write_bytes(an_export(site))
    site.restic(
        "backup",
        *(str(site.folder / name) for name in ("dodeka-production.sqlite", "dodeka-x.sqlite", "other")),
        *("--tag", "db,db_sqlite,db_dodeka,env_production"),
    )
    site.ok("verify", "production")


def an_index_over_much(db: Path) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE much (a)")
        connection.execute("CREATE INDEX over_much ON much (length(zeroblob(a * 1) || zeroblob(a)))")
        connection.execute("INSERT INTO much VALUES (1)")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '* 1', '* 450000000') WHERE name = 'over_much'"
        )


def test_an_index_that_expands_to_any_amount_is_no_damage(site):
    """The limit is ours, is said so, and keeps nobody from a backup or a restore."""
    an_index_over_much(site.database())
    export = an_export(site)
    file = site.folder / "exported"
    file.write_bytes(export)
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from dodeka_db.sqlite import integrity\n"
        "print(integrity.verify(Path(sys.argv[2]), 'it'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    said = subprocess.check_output([sys.executable, "-c", code, ROOT / "bin", file], text=True, timeout=120)
    findings, peak_kb = said.splitlines()
    assert "SQLite needs more than 256 MB of memory" in findings
    assert "defects=()" in findings
    assert int(peak_kb) < 600_000
    site.ok("backup", "production")
    assert "SQLite needs more than 256 MB" in site.ok("restore", "production", "--snapshot=latest", "--yes")


def test_nested_views_are_not_looked_into(site):
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute("CREATE VIEW v0 AS SELECT 1 AS a")
        for number in range(1, 60):
            connection.execute(f"CREATE VIEW v{number} AS SELECT x.a FROM v{number - 1} x, v{number - 1} y")
    began = time.monotonic()
    file = site.folder / "exported"
    file.write_bytes(an_export(site))
    integrity.verify(file, "it")
    row_counts(file)
    assert time.monotonic() - began < 5


# --- servers


@contextmanager
def server(answer) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield listener.server_port
    listener.shutdown()


def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100:
        time.sleep(0.3)
        try:
            handler.wfile.write(bytes([letter]))
        except OSError:
            return


@pytest.mark.parametrize("direct", [True, False])
def test_an_answer_that_drips_is_none(direct):
    with server(dripping) as port:
        began = time.monotonic()
        assert http_probe.problem(f"http://127.0.0.1:{port}/", 1, direct=direct) == "no answer within 1 s"
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:9/x", "file:///etc/passwd"])
def test_only_http_is_followed(target):
    def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    with server(redirect) as port:
        said = http_probe.problem(f"http://127.0.0.1:{port}/", 5, direct=True)
    assert said in ("unknown url type: ftp", "HTTP 302")


def test_credentials_in_an_address_are_sent_to_its_server_alone_and_not_shown(site):
    seen = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        handler.send_response(302 if handler.path == "/" else 204)
        handler.send_header("Location", f"http://127.1:{handler.server.server_port}/there")
        handler.end_headers()

    with server(answer) as port:
        assert http_probe.problem(f"http://anna:s3cr%40t@127.0.0.1:{port}/", 5, direct=True) == ""
    assert seen == ["Basic YW5uYTpzM2NyQHQ=", None]
    assert "s3cr" not in http_probe.problem("http://anna:s3cr%40t@127.0.0.1:1/", 5, direct=True)
    addresses = {
        "DODEKA_HEALTH_URL_DEMO": "https://anna:s3cr%40t@h/x",
        "DODEKA_PING_URL_DEMO": "https://anna:s3cr%40t@h?s3cret",
    }
    assert "s3cr" not in site.ok("settings", **addresses)


def test_a_monitor_is_told_in_one_line(site):
    told = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        told.append(handler.rfile.read(int(handler.headers.get("Content-Length", 0))).decode())
        handler.send_response(200)
        handler.end_headers()

    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute(f'CREATE TABLE "{EVIL}" (a UNIQUE)')
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = 'broken' WHERE type = 'table' AND name LIKE 'x%'")
    with server(answer) as port:
        site.run("cron", "production", DODEKA_PING_URL_PRODUCTION=f"http://127.0.0.1:{port}/ping")
    assert len(told) == 1
    assert told[0]
    assert told[0].isprintable()
