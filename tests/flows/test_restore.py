"""Restores by command line: questions, latest, clones, what is kept, and what a failure leaves behind."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from dodeka_db.flows import leftovers, restore_origin
from dodeka_db.flows.take_snapshot import take_snapshot
from dodeka_db.restic.repository import Repository
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.export import export_compacted
from dodeka_db.sqlite.failures import THIS_SQLITE, DatabaseInUseError
from remote_servers import execute
from site_folder import RESTIC, ROOT, Site, peak_memory_kb
from sqlite_files import corrupt_page


def lose_members(site, environment: str = "production") -> str:
    with closing(sqlite3.connect(site.database(environment))) as connection, connection:
        connection.execute("DELETE FROM users_by_email WHERE rowid > 10")
    return sample_data.digest(site.database(environment))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path): path.read_bytes() for path in files if path.suffix not in (".sqlite-wal", ".sqlite-shm")
    }


def beside(site, environment: str = "production") -> list[str]:
    """What is there, but for the two files that any reader of a database in WAL mode makes."""
    names = {path.name for path in site.database(environment).parent.iterdir()}
    return sorted(names - {"db.sqlite-wal", "db.sqlite-shm"})


@dataclass(frozen=True)
class Stored(Site):
    """`before` and `lost`: the checksums of production's rows in its snapshot, and now."""

    before: str
    lost: str


@pytest.fixture(scope="module")
def stored_site(empty_site, tmp_path_factory) -> Stored:
    folder = tmp_path_factory.mktemp("stored") / "site"
    shutil.copytree(empty_site, folder)
    site = Site(folder)
    before = sample_data.digest(site.database())
    site.ok("backup", "production")
    site.ok("backup", "demo")
    return Stored(site.folder, before, lose_members(site))


@pytest.fixture
def stored(stored_site, tmp_path) -> Stored:
    """A site with one snapshot of each environment; after that, production lost most of its members."""
    shutil.copytree(stored_site.folder, tmp_path / "site")
    return Stored(tmp_path / "site", stored_site.before, stored_site.lost)


def test_latest_is_not_the_copy_that_the_restore_itself_takes(stored):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert sample_data.digest(stored.database()) == stored.before
    # and once more: now a pre-restore snapshot is the newest of all
    assert stored.snapshots("production")[-1]["tags"][-1] == "pre-restore"
    lose_members(stored)
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert sample_data.digest(stored.database()) == stored.before


def test_what_was_there_is_a_snapshot_tagged_pre_restore_and_undoes_it(stored):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    undo = stored.snapshots("production")[-1]
    assert undo["tags"] == ["db", "db_sqlite", "db_dodeka", "env_production", "pre-restore"]
    stored.ok("restore", "production", "--snapshot", undo["short_id"], "--yes")
    assert sample_data.digest(stored.database()) == stored.lost


def test_a_clone_of_production_to_demo(stored):
    production = sample_data.digest(stored.database())
    demo = sample_data.digest(stored.database("demo"))
    arguments = ("demo", "--from", "production", "--snapshot", "latest", "--clone", "whole")
    output = stored.ok("restore", *arguments, stdin="with mails and sessions\n")
    assert sample_data.digest(stored.database("demo")) == stored.before
    assert sample_data.digest(stored.database()) == production
    assert "PRODUCTION'S DATA GOES TO DEMO, WITH MAILS AND SESSIONS.\n" in output
    assert f"in the place of {stored.database('demo')}:\n" in output
    undo = next(one for one in stored.snapshots("demo") if "pre-restore" in one["tags"])
    assert undo["tags"][-2:] == ["env_demo", "pre-restore"]
    stored.ok("restore", "demo", "--snapshot", undo["short_id"], "--yes")
    assert sample_data.digest(stored.database("demo")) == demo


def test_answers_from_a_pipe(stored):
    output = stored.ok("restore", "production", stdin="latest\nyes\n")
    assert sample_data.digest(stored.database()) == stored.before
    short_id = stored.snapshots("production")[0]["short_id"]
    assert f"{short_id}  " in output and f"It puts snapshot {short_id} in the place of" in output


@pytest.mark.slow("each answer", keep=["arguments0", "arguments4", "arguments6"])
@pytest.mark.parametrize(
    ("arguments", "answers"),
    [
        ((), ""),
        ((), "\n"),
        ((), "latest\n"),
        ((), "latest\nno\n"),
        ((), "latest\ny\n"),
        ((), "latest\nYES\n"),
        (("--snapshot", "latest"), ""),
        (("--yes",), ""),
    ],
)
def test_without_an_answer_nothing_changes(stored, arguments, answers):
    before = content(stored.folder / "backend"), content(stored.repository)
    done = stored.run("restore", "production", *arguments, stdin=answers)
    assert done.returncode == 7
    assert done.stderr.count("\n") == 1 and "nothing was changed" in done.stderr
    assert (content(stored.folder / "backend"), content(stored.repository)) == before
    assert stored.staged() == []


def test_nothing_is_left_behind(stored):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert beside(stored) == ["db.sqlite"]
    assert stored.staged() == []


def test_the_restored_database_is_in_wal_mode_with_the_old_one_s_permissions(stored):
    stored.database().chmod(0o640)
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert stored.database().read_bytes()[18] == 2
    assert stored.database().stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_stays_one(stored, tmp_path):
    real = tmp_path / "volume" / "real.sqlite"
    real.parent.mkdir()
    shutil.move(stored.database(), real)
    stored.database().symlink_to(real)
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert stored.database().is_symlink()
    assert sample_data.digest(real) == stored.before


def test_a_missing_database_is_restored(stored):
    stored.database().unlink()
    output = stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert sample_data.digest(stored.database()) == stored.before
    assert f"  database {stored.database()} is missing\n" in output
    assert beside(stored) == ["db.sqlite"]


def test_a_damaged_database_is_restored_and_kept(stored):
    stored.database().write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    Path(f"{stored.database()}-wal").write_bytes(b"its wal")
    output = stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert sample_data.digest(stored.database()) == stored.before
    assert (
        f"  database {stored.database()} is not a database that {THIS_SQLITE} can read" in output
        and "the file is kept unchanged" in output
    )
    name, wal = [name for name in beside(stored) if "damaged-" in name]
    assert (
        f"the replaced database is damaged, and kept as it was: {stored.database().parent}/{name}\n" in output
    )
    assert not any("pre-restore" in entry["tags"] for entry in stored.snapshots())
    assert wal == f"{name}-wal"
    assert (stored.database().parent / name).read_bytes().endswith(b"\xff" * 9000)


def test_a_database_in_use_is_not_replaced(stored):
    with closing(sqlite3.connect(stored.database())) as connection:
        connection.execute("SELECT * FROM users_by_email").fetchone()
        done = stored.run("restore", "production", "--snapshot", "latest", "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert f"{stored.database()} is still open in python" in done.stderr
        assert f"(process {os.getpid()})" in done.stderr
    assert sample_data.digest(stored.database()) == stored.lost
    assert beside(stored) == ["db.sqlite"]


def store_file(site, data: bytes) -> str:
    """A snapshot of anything, tagged and named as one of production's exports."""
    folder = site.folder / "odd"
    folder.mkdir(exist_ok=True)
    file = folder / "dodeka-production.sqlite.zst"
    file.write_bytes(data)
    site.restic("backup", "--quiet", "--tag", "db,db_sqlite,db_dodeka,env_production", str(file))
    return site.snapshots("production")[-1]["short_id"]


def archive_of(site) -> bytes:
    return subprocess.run(
        [RESTIC, "dump", "--tag", "env_production", "latest", "/dodeka-production.sqlite.zst"],
        env=site.environ,
        capture_output=True,
        check=True,
    ).stdout


@pytest.mark.slow("eight damages")
def test_damaged_snapshots_are_refused_before_the_service_is_touched(stored, systemctl):
    stored.database().unlink()
    sample_data.create(stored.database(), members=2000)
    stored.ok("backup", "production")
    archive = archive_of(stored)
    export = stored.folder / "export.sqlite"

    def refused(data: bytes, said: str) -> None:
        before = content(stored.folder / "backend")
        done = with_service(stored, systemctl(), "--snapshot", store_file(stored, data), "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
        assert said in done.stderr
        assert content(stored.folder / "backend") == before
        assert not any("pre-restore" in entry["tags"] for entry in stored.snapshots("production"))
        assert set(calls(stored)) == {LOOK}, "it was asked about, and left alone"

    flipped = bytearray(archive)
    flipped[len(archive) // 2] ^= 1
    refused(bytes(flipped), "is damaged")
    refused(archive[:-10], "cut off in the middle")

    first = zstandard.ZstdDecompressor().decompressobj()
    first.decompress(archive)
    assert first.unused_data, "of more than one frame"
    refused(archive[: -len(first.unused_data)], "where its header says")

    export_compacted(stored.database(), export)
    corrupt_page(export, 50)
    refused(zstandard.compress(export.read_bytes()), "is damaged: ")

    export.unlink()
    with closing(sqlite3.connect(export)) as connection:
        connection.execute("PRAGMA user_version=1")
    refused(zstandard.compress(export.read_bytes()), "contains no tables")

    refused(zstandard.compress(b"not a database" * 99), "is not an SQLite database")
    refused(zstandard.compress(b""), "is empty")
    refused(b"PK\3\4 not zstd", "is damaged")


def test_a_repository_that_lost_a_pack(stored):
    biggest = max(
        (stored.repository / "data").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    os.chmod(biggest, 0o600)
    with open(biggest, "r+b") as file:
        file.seek(biggest.stat().st_size // 3)
        file.write(os.urandom(64))
    done = stored.run("restore", "production", "--snapshot", "latest", "--yes")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert "cannot be read from repository" in done.stderr and "see BACKUP.md, 'Damaged'" in done.stderr
    assert sample_data.digest(stored.database()) == stored.lost


FAKE_SYSTEMCTL = """#!/bin/sh
# Stands for systemctl where the order of calls and a failing one are the point; tests/test_server.py has the real one.
echo "$*" >> "{log}"
[ "$1" != start ] || echo $$ > "{log}.invocation"
case "$1 $2" in
    "{failing} "*) echo "cannot $1 for a test" >&2; echo failed > "{log}.state"; exit 1 ;;
    stop*) echo inactive > "{log}.state" ;;
    start*) echo active > "{log}.state" ;;
    show*)
        printf 'LoadState=loaded\nMainPID=0\nResult=success\n'
        echo "ActiveState=$(cat "{log}.state")"
        echo "InvocationID=$(cat "{log}.invocation")" ;;
esac
{extra}
"""


@pytest.fixture
def systemctl(stored):
    def make(failing: str = "nothing", extra: str = "") -> str:
        program = stored.folder / "systemctl"
        log = stored.folder / "systemctl.log"
        if not log.exists():
            (stored.folder / "systemctl.log.state").write_text("active\n")
            (stored.folder / "systemctl.log.invocation").write_text("the first\n")
        program.write_text(FAKE_SYSTEMCTL.format(log=log, failing=failing, extra=extra))
        program.chmod(0o755)
        return str(program)

    return make


def calls(site) -> list[str]:
    return (site.folder / "systemctl.log").read_text().splitlines()


LOOK = "show --property=LoadState,ActiveState,MainPID,InvocationID,Result,ActiveEnterTimestampMonotonic dodeka-backend-production"
MARK = "db.sqlite.stopped"
STOP = "stop dodeka-backend-production"
START = "start dodeka-backend-production"


def actions(site) -> list[str]:
    """What systemctl was asked to do."""
    return [call for call in calls(site) if not call.startswith("show ")]


def with_service(site, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    arguments = arguments or ("--snapshot", "latest", "--yes")
    variables = {"DODEKA_SYSTEMCTL": program, "DODEKA_START_WAIT_S": "0", **variables}
    return site.run("restore", "production", *arguments, **variables)


def test_the_service_is_stopped_started_and_watched(stored, systemctl):
    done = with_service(stored, systemctl())
    assert (done.returncode, done.stderr) == (0, "")
    assert actions(stored) == [STOP, START]
    assert calls(stored)[-2:] == [LOOK, LOOK]
    assert re.search(r"started dodeka-backend-production, after \d+\.\d s", done.stdout)


def test_when_it_does_not_stop_nothing_has_changed(stored, systemctl):
    done = with_service(stored, systemctl(failing="stop"))
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "could not stop dodeka-backend-production: cannot stop for a test" in done.stderr
    assert actions(stored) == [STOP, START]
    assert sample_data.digest(stored.database()) == stored.lost
    assert beside(stored) == ["db.sqlite"]


def test_what_is_put_back_after_a_loss_of_rows_is_still_a_loss(stored, systemctl):
    """Nobody has said yes to the database that is in place again."""
    stored.loses("cron", "production")
    done = with_service(stored, systemctl(failing="start"), "--snapshot", "latest~1", "--yes")
    assert "the old database is back" in done.stderr and sample_data.digest(stored.database()) == stored.lost
    stored.loses("cron", "production")


def test_when_it_cannot_be_started_with_either_database_it_is_said_that_it_is_down(stored, systemctl):
    done = with_service(stored, systemctl(failing="start"))
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "IT IS DOWN" in done.stderr, done.stderr
    assert actions(stored) == [STOP, START, STOP, START]
    assert "the old database is back, but with that too" in done.stderr
    assert ": the data is not the cause: IT IS DOWN; to start it: sudo systemctl start dodeka-" in done.stderr
    assert "the new database, with what was written to it, is snapshot " in done.stderr
    assert sample_data.digest(stored.database()) == stored.lost
    assert beside(stored) == ["db.sqlite", MARK]
    # and each run from then on tries again, and fails behind its backup while the unit is down
    for script in ("backup", "cron"):
        done = stored.run(script, "demo", DODEKA_SYSTEMCTL=systemctl(failing="start"))
        assert (done.returncode, done.stderr.count("\n")) == (5, 1)
        left = " is safe, but a restore left dodeka-backend-production stopped, and it does not come up: could not start"
        assert left in done.stderr and "IT IS DOWN" in done.stderr
    assert len(stored.snapshots("demo")) == 3
    # also whoever does something else by hand, whatever comes of that
    left = left.removeprefix(" is safe, but ")
    with closing(sqlite3.connect(stored.database("demo"), isolation_level=None)) as demo:
        demo.execute("DELETE FROM birthdays WHERE rowid = 1")
    for words in (["restore", "demo"], ["bring-back", "demo", "--tables=birthdays"]):
        done = stored.run(
            *words, "--snapshot=latest", stdin="no\n", DODEKA_SYSTEMCTL=systemctl(failing="start")
        )
        assert (done.returncode, done.stderr.count("\n")) == (5, 1) and left in done.stderr
        assert "warning: not confirmed" in done.stdout, done.stdout
    done = with_service(stored, systemctl(failing="start"))
    assert ": the data is not the cause: IT IS DOWN; to start it" in done.stderr, "its own restore says more"
    done = stored.run("backup", "demo", DODEKA_SYSTEMCTL=systemctl(), DODEKA_START_WAIT_S="0")
    assert "a restore left dodeka-backend-production stopped: starting it" in done.stdout
    assert [call for call in calls(stored) if "demo" not in call][-3:] == [START, LOOK, LOOK]
    assert beside(stored) == ["db.sqlite"]
    assert "a restore left" not in stored.ok("backup", "demo", DODEKA_SYSTEMCTL=systemctl())


@pytest.mark.parametrize("question", ["Snapshot of production to restore", "Type 'yes' to go on:"])
def test_ctrl_c_at_a_question_says_that_nothing_was_changed(stored, question):
    before = stored.database().read_bytes()
    run = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-restore.py", "production"],
        env=stored.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    while question not in said:
        said += run.stdout.read(1)
        if said.endswith("or 'latest'):") and question not in said:
            run.stdin.write("latest\n")
            run.stdin.flush()
    time.sleep(0.2)  # for it to begin to wait
    run.send_signal(signal.SIGINT)
    problem = run.communicate()[1]
    assert run.returncode == 130
    assert problem.endswith("error: interrupted (SIGINT); nothing was changed\n")
    assert stored.database().read_bytes() == before


def test_a_damaged_database_is_not_put_back(stored, systemctl):
    """The service does not start with the new one either: that is no reason to go back to garbage."""
    stored.database().write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    done = with_service(stored, systemctl(failing="start"))
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert (
        "; the old database was damaged, so the new one stays: IT IS DOWN; to start it: sudo systemctl"
        in done.stderr
    )
    assert actions(stored) == [STOP, START]
    assert sample_data.digest(stored.database()) == stored.before
    (damaged,) = stored.database().parent.glob("*.damaged-*Z")
    assert damaged.read_bytes().endswith(b"\xff" * 9000)
    assert f"; the replaced database is damaged, and kept as it was: {damaged}" in done.stderr


def test_a_service_that_ends_well_soon_after_its_start_is_not_forgotten(stored, systemctl):
    """It is inactive then, and of a start of its own, as one that somebody has stopped on purpose."""
    ends = f'[ "$1" != start ] || echo inactive > "{stored.folder}/systemctl.log.state"'
    done = with_service(stored, systemctl(extra=ends))
    assert (
        done.returncode == 5
        and "does not stay up (ActiveState: inactive)" in done.stderr
        and "IT IS DOWN" in done.stderr
    )
    for _ in range(2):
        done = stored.run("backup", "demo", DODEKA_SYSTEMCTL=systemctl(extra=ends), DODEKA_START_WAIT_S="0")
        assert done.returncode == 5 and "does not come up" in done.stderr and "IT IS DOWN" in done.stderr
    assert stored.run("backup", "demo", DODEKA_SYSTEMCTL=systemctl(), DODEKA_START_WAIT_S="0").returncode == 0
    assert beside(stored) == ["db.sqlite"]


@pytest.mark.parametrize("call", ["link", "show"])
def test_a_unit_that_was_stopped_stays_so_whatever_fails_first(stored, systemctl, call):
    """A signal before anything is stopped, or a systemctl that cannot be asked."""
    program = systemctl(extra=f'[ "$1" != show ] || [ ! -e "{stored.folder}/fail" ] || exit 1')
    (stored.folder / "systemctl.log.state").write_text("inactive\n")
    script = [str(ROOT / "bin/dodeka-db-restore.py"), "production", "--snapshot", "latest", "--yes"]
    if call == "link":
        script = ["strace", "-o/dev/null", "-einject=link:signal=INT", *script]
    environ = {**stored.environ, "DODEKA_SYSTEMCTL": program, "DODEKA_START_WAIT_S": "0"}
    if call == "show":
        (stored.folder / "fail").touch()
    done = subprocess.run(script, env=environ, capture_output=True, text=True)
    assert done.returncode == (130 if call == "link" else 5), done
    assert actions(stored) == [] if (stored.folder / "systemctl.log").exists() else True
    assert sample_data.digest(stored.database()) == stored.lost and beside(stored) == ["db.sqlite"]


def test_a_service_is_started_also_where_cleaning_up_fails(stored, systemctl):
    """A kept file that cannot be settled, and a mark."""
    program = systemctl()
    (stored.folder / "systemctl.log.state").write_text("failed\n")
    stored.database().with_name(MARK).write_text("the first\n")
    kept = stored.database().with_name("db.sqlite.pre-restore-20260101T000000Z")
    shutil.copy(stored.database(), kept)
    Path(f"{kept}-wal").mkdir()
    done = stored.run("backup", "demo", DODEKA_SYSTEMCTL=program, DODEKA_START_WAIT_S="0")
    assert done.returncode == 0 and actions(stored) == [START]
    assert "could not be removed: " in done.stdout and "starting it" in done.stdout


@pytest.mark.parametrize(
    "script", [("backup", "production"), ("restore", "production", "--snapshot", "latest", "--yes")]
)
def test_no_thread_to_be_had_is_no_traceback(stored, script):
    command = [str(ROOT / f"bin/dodeka-db-{script[0]}.py"), *script[1:]]
    inject = ("strace", "-o/dev/null", "-einject=clone3:error=EAGAIN")
    done = subprocess.run([*inject, *command], env=stored.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    assert "this machine is out of processes, threads or memory; see: top" in done.stderr
    assert sample_data.digest(stored.database()) == stored.lost and beside(stored) == ["db.sqlite"]


def until(file: Path) -> str:
    """What waits for a file in a shell script."""
    return f'until [ -e "{file}" ]; do sleep 0.05; done'


@pytest.mark.slow("each signal", keep=["stop-2", "start-15", "start-1]"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("during", ["stop", "start"])
def test_a_signal_while_the_service_is_down_starts_it_again(stored, systemctl, signum, during):
    mark = stored.folder / "here"
    go = stored.folder / "go on"
    program = systemctl(extra=f'[ $1 != {during} ] || {{ touch "{mark}"; {until(go)}; }}; exit 0')
    process = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest", "--yes"],
        env={**stored.environ, "DODEKA_SYSTEMCTL": program, "DODEKA_START_WAIT_S": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not mark.exists():
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signum)  # as a terminal does: to the script and to what it runs
    go.touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert f"interrupted ({signum.name})" in stderr and stderr.count("\n") == 1
    assert actions(stored)[-1] == START
    if during == "stop":
        assert sample_data.digest(stored.database()) == stored.lost
        assert beside(stored) == ["db.sqlite"]
    else:
        assert sample_data.digest(stored.database()) == stored.before
        _, kept = beside(stored)
        assert (
            f"the replaced database is kept as {stored.database().parent}/{kept}; to put it back: " in stderr
        )
        assert sample_data.digest(stored.database().parent / kept) == stored.lost


class TestTheQuestion:
    def question(self, site, *arguments: str) -> str:
        done = site.run("restore", *arguments, "--snapshot", "latest", stdin="no\n")
        assert done.returncode == 7 and "not confirmed" in done.stderr
        return done.stdout[done.stdout.index("This goes ") :]

    def test_what_would_change(self, stored):
        with closing(sqlite3.connect(stored.database())) as connection, connection:
            connection.execute("CREATE TABLE later (a)")
            connection.execute("CREATE TABLE later_and_empty (a)")
            connection.execute("INSERT INTO later VALUES (1)")
            connection.execute("DROP TABLE birthdays")
            connection.execute("INSERT INTO outbox VALUES ('1', 0, 0, x''), ('2', 0, 0, x'')")
        lines = self.question(stored, "production").splitlines()
        latest = stored.snapshots("production")[-1]
        taken = datetime.fromisoformat(latest["time"]).astimezone()
        assert re.fullmatch(
            rf"This goes back \d+ (seconds?|minutes) \({taken:%A %d %B %Y %H:%M}\)\.", lines[0]
        )
        assert lines[1] == f"It puts snapshot {latest['short_id']} in the place of {stored.database()}:"
        assert lines[2:] == [
            "  table                         come back  go  change  rows then",
            "  birthdays                           400   0       0        400",
            "  later                                 0   1       0          0",
            "  outbox                                0   2       0         20",
            "  registrations                         0   0       0         20",
            "  registrations_by_bondsnummer          0   0       0         20",
            "  registrations_by_email                0   0       0         20",
            "  system_users                          0   0       0          1",
            "  users                                 0   0       0       2401",
            "  users_by_bondsnummer                  0   0       0        400",
            "  users_by_email                      390   0       0        400",
            "  volta_data                            0   0       0        400",
            "  no difference in 7 other tables",
            f"  birthdays: only snapshot {latest['short_id']} has this table",
            f"  later: only database {stored.database()} has this table",
            f"  later_and_empty: only database {stored.database()} has this table",
            "outbox has 20 mails that the backend will send.",
            "  Of these in the live database: 20 still with status pending.",
            "WITHOUT=outbox leaves such rows out.",
            "Type 'yes' to go on: ",
        ]

    def test_a_table_of_members_that_would_be_empty_is_not_overlooked(self, stored):
        """The accident that a question of counts hid: nobody is left now, and nobody in the snapshot."""
        with closing(sqlite3.connect(stored.database())) as connection, connection:
            connection.execute("DELETE FROM users_by_email")
            connection.execute("DELETE FROM outbox")
            connection.execute("DELETE FROM registrations")
        stored.loses("backup", "production")
        latest = stored.snapshots("production")[-1]["short_id"]
        said = self.question(stored, "production")
        assert "  no row differs from now\n" in said
        assert f"\nusers_by_email HAS NO ROWS in snapshot {latest}; it has none now.\n" in said
        assert said.count("HAS NO ROWS") == 1, "the others are empty every now and then"
        stored.ok("restore", "production", "--snapshot", "latest~1", "--yes")
        said = self.question(stored, "production")
        assert f"\nusers_by_email HAS NO ROWS in snapshot {latest}; it has 400 now.\n" in said
        assert f"\nregistrations HAS NO ROWS in snapshot {latest}; it has 20 now.\n" in said
        assert "outbox HAS" not in said, "what is of the moment comes and goes"

    def test_a_live_database_that_is_gone_or_damaged_hides_nothing(self, stored):
        with closing(sqlite3.connect(stored.database())) as connection, connection:
            connection.execute("DELETE FROM users_by_email")
        stored.loses("backup", "production")
        stored.database().write_bytes(b"no database")
        said = self.question(stored, "production")
        assert "; the file is kept unchanged\n" in said and "\n  users: 2401 rows then\n" in said
        assert re.search("\nusers_by_email HAS NO ROWS in .*; how many it has now is not known\\.\n", said)

    def test_what_cannot_be_compared_is_not_taken_for_none(self, stored):
        """In the live database, the table has no primary key."""
        with closing(sqlite3.connect(stored.database())) as connection, connection:
            connection.execute("DELETE FROM users_by_email")
        stored.loses("backup", "production")
        with closing(sqlite3.connect(stored.database())) as connection, connection:
            connection.execute("DROP TABLE users_by_email")
            connection.execute("CREATE TABLE users_by_email (key, counter, expiration, value)")
            connection.execute("INSERT INTO users_by_email VALUES ('a', 0, 0, x'')")
        said = self.question(stored, "production")
        assert "  users_by_email is not compared: its primary key is " in said
        assert re.search("\nusers_by_email HAS NO ROWS in .*; how many it has now is not known\\.\n", said)

    def test_no_room_to_compare_is_no_reason_to_refuse(self, stored, small_disk):
        """Not in WAL mode, the live database is copied first, and the disk of the state folder is too small for that."""
        subprocess.run(["mount", "-o", "remount,size=200k", small_disk], check=True)
        (small_disk / "state").mkdir(mode=0o700)
        with closing(sqlite3.connect(stored.database())) as connection, connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        small = {"DODEKA_STATE": str(small_disk / "state"), "RESTIC_CACHE_DIR": str(stored.folder / "cache")}
        done = stored.run("restore", "production", "--snapshot", "latest", stdin="no\n", **small)
        assert done.returncode == 7
        assert f"  no room left for the database in {small_disk}/state/" in done.stdout
        assert sample_data.digest(stored.database()) == stored.lost and not list(
            small_disk.glob("state/staging/d*")
        )

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount another file there")
    def test_a_description_of_the_data_with_a_mistake_is_no_reason_to_refuse(self, stored, tmp_path):
        broken = tmp_path / "data.toml"
        broken.write_text("[kinds]\n")
        shown = f"mount --bind {broken} {ROOT}/deploy/data.toml && exec {ROOT}/bin/dodeka-db-restore.py"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{shown} production --snapshot latest"],
            env=stored.environ,
            input="no\n",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 7
        assert (
            "warning: the tables of members, and of the moment, are not known: data description "
            in done.stdout
        )
        assert re.search(r"\n  users_by_email +390 ", done.stdout)

    def test_when_no_table_differs(self, stored):
        assert "  no row differs from now\n" in self.question(stored, "demo")

    @pytest.fixture
    def asked(self, stored) -> subprocess.Popen:
        return stored.waiting_restore()

    def test_backups_go_on_while_somebody_thinks(self, stored, asked):
        assert len(beside(stored)) == 2, "the staged file waits too"
        stored.loses("cron", "production", DODEKA_LOCK_WAIT_S="0")
        _, stderr = asked.communicate("yes\n", timeout=60)
        assert (asked.returncode, stderr) == (0, "")
        assert sample_data.digest(stored.database()) == stored.before
        assert beside(stored) == ["db.sqlite"]

    def test_another_restore_meanwhile(self, stored, asked):
        stored.ok("restore", "production", "--snapshot", "latest", "--yes")
        lose_members(stored)
        _, stderr = asked.communicate("yes\n", timeout=60)
        assert asked.returncode == 3
        assert "was replaced by something else meanwhile" in stderr and stderr.count("\n") == 1
        assert sample_data.digest(stored.database()) == stored.lost
        assert beside(stored) == ["db.sqlite"]


class TestUndo:
    def test_and_undo_of_the_undo(self, stored):
        stored.ok("restore", "production", "--snapshot", "latest", "--yes")
        output = stored.ok("undo", "production", "--yes")
        assert sample_data.digest(stored.database()) == stored.lost
        assert re.search(r"\n  users_by_email +0 +390 +0 +10\n", output)
        stored.ok("undo", "production", stdin="yes\n")
        assert sample_data.digest(stored.database()) == stored.before
        assert beside(stored) == ["db.sqlite"]

    def test_of_a_clone_it_is_demo_s_own_again(self, stored):
        demo = sample_data.digest(stored.database("demo"))
        stored.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
        output = stored.ok("undo", "demo", "--yes")
        assert sample_data.digest(stored.database("demo")) == demo
        assert "DATA GOES" not in output

    def test_without_a_yes_nothing_changes(self, stored):
        stored.ok("restore", "production", "--snapshot", "latest", "--yes")
        done = stored.run("undo", "production", stdin="no\n")
        assert done.returncode == 7 and "nothing was changed" in done.stderr
        assert sample_data.digest(stored.database()) == stored.before

    def test_of_nothing(self, stored):
        done = stored.run("undo", "production", "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (4, 1)
        assert "there is nothing to undo: no pre-restore snapshot of production" in done.stderr

    def test_from_the_kept_file_without_a_repository(self, kept_site):
        site = kept_site
        (site.folder / "unmounted").mkdir()
        site.password_file.rename(site.folder / "unmounted" / "password")
        (kept,) = [name for name in beside(site) if "pre-restore" in name]
        done = site.run("undo", "production", "--yes")
        assert sample_data.digest(site.database()) == site.lost
        assert done.returncode == 6
        assert "production has the data of db.sqlite.pre-restore-" in done.stderr
        assert "but the replaced database is not saved: password file" in done.stderr
        # both stay until a repository has them: what is put back may still be needed as it was
        assert kept in beside(site)
        assert len([name for name in beside(site) if "pre-restore" in name]) == 2
        # the volume is back: the undo can be undone, and nothing stays behind
        (site.folder / "unmounted" / "password").rename(site.password_file)
        site.ok("undo", "production", "--yes")
        assert sample_data.digest(site.database()) == site.before
        assert beside(site) == ["db.sqlite"]

    def test_a_kept_file_that_is_still_written_to_is_neither_put_back_nor_removed(self, kept_site):
        (kept,) = site_kept(kept_site)
        with closing(sqlite3.connect(kept, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("INSERT INTO users_by_email VALUES ('late', 0, 0, x'00')")
            done = kept_site.run("undo", "production", "--yes")
            assert (done.returncode, done.stderr.count("\n")) == (3, 1)
            assert f"{kept} is still open in python" in done.stderr
            assert "could not be saved yet" in kept_site.ok("backup", "production")
            assert kept.exists()
        kept_site.ok("backup", "production")
        kept_site.ok("undo", "production", "--yes")
        assert sample_data.count(kept_site.database()) == 11, "the late one too"

    def test_rows_in_a_journal_of_the_kept_file_are_not_left_behind(self, kept_site, monkeypatch):
        """As after a run that could not fold them in, because another one had the lock of the folder."""
        (kept,) = site_kept(kept_site)
        Path(f"{kept}-wal").write_bytes(b"rows")
        monkeypatch.setattr(leftovers, "settle", lambda path: None)
        target = kept_site.settings.environment("production")
        with pytest.raises(DatabaseInUseError, match="has rows in a journal that could not be folded in"):
            restore_origin.of_last_restore(kept_site.settings, target)
        assert kept.exists()

    def test_a_kept_file_that_is_written_to_while_it_is_saved_stays(self, kept_site, monkeypatch):
        (kept,) = site_kept(kept_site)
        take = leftovers.take_snapshot

        def take_and_write(*arguments):
            taken = take(*arguments)
            with closing(sqlite3.connect(kept, isolation_level=None)) as connection:
                connection.execute("INSERT INTO users_by_email VALUES ('late', 0, 0, x'00')")
            return taken

        monkeypatch.setattr(leftovers, "take_snapshot", take_and_write)
        settings = kept_site.settings
        with pytest.raises(DatabaseInUseError, match="was written to while it was saved as snapshot"):
            leftovers.store_kept(settings, settings.environment("production"))
        assert sample_data.count(kept) == 11

    def test_a_kept_file_that_is_saved_late_has_the_time_at_which_it_was_replaced(self, kept_site):
        """Or an undo would take it for the last one replaced, though a damaged database was replaced after it."""
        (kept,) = site_kept(kept_site)
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        kept.rename(kept.with_name(f"db.sqlite.pre-restore-{an_hour_ago:%Y%m%dT%H%M%SZ}"))
        database = kept_site.database()
        database.write_bytes(b"SQLite format 3\0" + bytes(4096))
        kept_site.ok("restore", "production", "--snapshot", "latest", "--yes")
        (saved,) = [one for one in kept_site.snapshots("production") if "pre-restore" in one["tags"]]
        assert abs(datetime.fromisoformat(saved["time"]) - an_hour_ago) < timedelta(seconds=2)
        done = kept_site.run("undo", "production", "--yes")
        assert done.returncode == 4
        assert "the database that the last restore replaced is damaged" in done.stderr

    @pytest.mark.slow("each time", keep=["-400"])
    @pytest.mark.parametrize("days", [-400, 400])
    def test_a_kept_file_of_long_ago_or_of_a_wrong_clock_is_not_the_last_one(self, kept_site, days):
        (kept,) = site_kept(kept_site)
        time = datetime.now(UTC) + timedelta(days=days)
        kept.rename(kept.with_name(f"db.sqlite.pre-restore-{time:%Y%m%dT%H%M%SZ}"))
        execute(kept_site.database(), "DELETE FROM outbox")
        replaced = sample_data.digest(kept_site.database())
        kept_site.ok("restore", "production", "--snapshot", "latest", "--yes")
        assert len([one for one in kept_site.snapshots("production") if "pre-restore" in one["tags"]]) == 2
        kept_site.ok("undo", "production", "--yes")
        assert sample_data.digest(kept_site.database()) == replaced
        kept_site.ok("cron", "production")
        assert len([one for one in kept_site.snapshots("production") if "pre-restore" in one["tags"]]) == 3

    def test_a_kept_file_that_was_damaged_since(self, kept_site):
        (kept,) = site_kept(kept_site)
        kept.write_bytes(kept.read_bytes()[:-4096])
        done = kept_site.run("undo", "production", "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (4, 1)
        assert "where its header says" in done.stderr and "nothing was changed" in done.stderr
        assert sample_data.digest(kept_site.database()) == kept_site.before


def test_by_time(stored):
    """The newest ordinary snapshot of that time or before; the live database has lost its members since."""
    now = datetime.now(UTC)
    settings = stored.settings
    first, second, _, _ = [
        take_snapshot(
            *(Repository(settings.main), settings.environment("production"), stored.database(), tags),
            time=now - timedelta(hours=hours),
        ).snapshot_id
        for hours, tags in ((50, ()), (28, ()), (26, ("pre-restore",)), (-1, ()))
    ]
    asked = (now - timedelta(hours=25)).astimezone()
    asked_for = asked.isoformat(" ", "minutes")
    output = stored.ok("verify", "production", "--at", asked_for)
    assert f"choosing the newest snapshot of {asked:%a %d %b %Y %H:%M}:00 " in output
    assert re.search(rf"snapshot {second} is of .*, (2 hours|3 hours|179 minutes) before\n", output)
    stored.ok("restore", "production", "--at", asked_for, "--yes")
    assert sample_data.digest(stored.database()) == stored.lost
    stored.ok("restore", "production", "--snapshot", "latest~0", "--yes")
    assert sample_data.digest(stored.database()) == stored.before
    assert f"done: snapshot {first} " in stored.ok("verify", "production", "--snapshot", "latest~2")
    before = [one["id"] for one in stored.snapshots("production")]
    for at, message in (
        ((asked - timedelta(days=9)).isoformat("T", "minutes"), f"the oldest is {first}, of "),
        ("2025-10-26", "'2025-10-26' is not a time; write '2026-11-24 14:00'"),
        ("", "'' is not a time"),
    ):
        done = stored.run("restore", "production", "--at", at, "--yes")
        assert (done.returncode, done.stdout.count("choosing"), done.stderr.count("\n")) == (4, 0, 1)
        assert message in done.stderr
    assert [one["id"] for one in stored.snapshots("production")] == before


def test_a_time_that_the_clock_showed_twice(stored):
    """Exit code 4, in the time zone of the server; with the offset it is taken."""
    at = "2025-10-26 02:30"
    done = stored.run("verify", "production", "--at", at, TZ="Europe/Amsterdam")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "write '2025-10-26 02:30+02:00' or '2025-10-26 02:30+01:00'" in done.stderr
    done = stored.run("verify", "production", "--at", f"{at}+01:00", TZ="Europe/Amsterdam")
    assert "no snapshot of production is of Sun 26 Oct 2025 02:30:00 CET or before; the oldest" in done.stderr


@pytest.mark.parametrize("command", ["restore", "verify"])
def test_a_snapshot_and_a_time_at_once(stored, command):
    done = stored.run(command, "production", "--snapshot", "latest", "--at", "03:00")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--at: not allowed with argument --snapshot" in done.stderr
    done = stored.run(command, "production", "--snapshot", "")
    assert (done.returncode, "'' is neither a snapshot ID" in done.stderr) == (4, True)


def test_a_clone_where_the_source_is_on_another_machine(stored):
    """Only its snapshots are here."""
    shutil.rmtree(stored.database().parent)
    stored.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
    assert sample_data.count(stored.database("demo")) == 400


def site_kept(site) -> list[Path]:
    return sorted(site.database().parent.glob("*.pre-restore-????????T??????Z"))


@pytest.fixture
def kept_site(stored, systemctl) -> Stored:
    """Restored, but the repository was gone when what had been there was to be stored."""
    gone = f'[ "$1" = stop ] && mv "{stored.repository}" "{stored.folder}/gone"; exit 0'
    done = with_service(stored, systemctl(extra=gone))
    (stored.folder / "gone").rename(stored.repository)
    assert (done.returncode, done.stderr.count("\n")) == (10, 1), done
    (kept,) = site_kept(stored)
    assert "production has the data of snapshot " in done.stderr
    assert "but the replaced database is not saved: no restic repository at" in done.stderr
    assert done.stderr.endswith(
        f"the replaced database is kept as {kept}; to put it back: make undo ENV=production\n"
    )
    assert [call for call in calls(stored) if "demo" not in call][-3:] == [START, LOOK, LOOK]
    assert sample_data.digest(stored.database()) == stored.before
    assert sample_data.digest(kept) == stored.lost
    return stored


def test_a_missing_database_whose_new_one_does_not_start(stored, systemctl):
    stored.database().unlink()
    done = with_service(stored, systemctl(failing="start"))
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "there was no database before, so the new one stays: IT IS DOWN" in done.stderr
    assert sample_data.digest(stored.database()) == stored.before


def failed(site) -> str:
    """The end of a systemctl whose unit has failed."""
    return f'echo failed > "{site.folder}/systemctl.log.state"; exit 1'


def test_when_the_old_database_cannot_be_put_back_it_is_said_where_it_is(stored, systemctl):
    """Somebody opens the new one as soon as it is there; it does not start."""
    holder = stored.folder / "holder"
    hold = f'exec 9< "{stored.database()}"; sleep 1000 > /dev/null 2>&1 & echo $! >> "{holder}"; exec 9<&-'
    asleep = 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    done = with_service(
        stored, systemctl(extra=f"if [ $1 = start ]; then {hold}; {asleep}; {failed(stored)}; fi")
    )
    for process in holder.read_text().split():
        os.kill(int(process), signal.SIGKILL)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "the old database could not be put back: database" in done.stderr
    assert "is still open in sleep (process " in done.stderr and "IT IS DOWN" in done.stderr
    newest = stored.snapshots("production")[-1]
    assert f"; the replaced database is snapshot {newest['short_id']}, tagged pre-restore" in done.stderr
    stored.ok("undo", "production", "--yes")
    assert sample_data.digest(stored.database()) == stored.lost


def test_a_signal_does_not_hide_that_it_is_down(stored, systemctl):
    here, go = stored.folder / "here", stored.folder / "go on"
    wait = f'touch "{here}"; {until(go)}'
    program = systemctl(extra=f"if [ $1 = start ]; then {wait}; {failed(stored)}; fi")
    process = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest", "--yes"],
        env={**stored.environ, "DODEKA_SYSTEMCTL": program, "DODEKA_START_WAIT_S": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not here.exists():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    go.touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted (SIGINT); could not start dodeka-backend-production" in stderr
    assert "the old database is back" in stderr and "IT IS DOWN" in stderr
    assert stderr.count("\n") == 1


def test_what_was_there_is_not_removed_before_its_snapshot_has_been_read_back(stored):
    """The pack that holds the same content already is damaged: restic stores it again and says that all is well."""
    stored.loses("backup", "production")
    stored.ok("backup", "demo")
    for pack in (stored.repository / "data").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 20_000:
            os.chmod(pack, 0o600)
            with open(pack, "r+b") as file:
                file.seek(pack.stat().st_size // 3)
                file.write(os.urandom(64))
    done = stored.run("restore", "production", "--from", "demo", "--snapshot", "latest", "--yes")
    (kept,) = site_kept(stored)
    assert (done.returncode, done.stderr.count("\n")) == (8, 1), done
    said = r"but the replaced database is not saved: snapshot [0-9a-f]{8} does not read back, and nothing was removed: "
    assert re.search(said + "the snapshot cannot be read from repository", done.stderr)
    assert f"the replaced database is kept as {kept}" in done.stderr
    assert sample_data.digest(kept) == stored.lost


def test_nobody_reads_the_question(stored):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest", "--yes"],
        env=stored.environ,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.returncode == 1
    assert "standard output was closed" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert sample_data.digest(stored.database()) == stored.lost
    assert beside(stored) == ["db.sqlite"]


@pytest.mark.slow("each damage", keep=["[0]", "[3]"])
@pytest.mark.parametrize("seed", range(6))
def test_a_live_database_with_a_damaged_first_page_is_replaced(stored, seed):
    """Some of them make sqlite3 fail to decode SQLite's own words."""
    with closing(sqlite3.connect(stored.database())) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(stored.database().read_bytes())
    for at in random.Random(seed).sample(range(100, 4096), 60):
        damaged[at] = 0x80 | at & 0xFF
    stored.database().write_bytes(damaged)
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert sample_data.digest(stored.database()) == stored.before
    (name,) = [name for name in beside(stored) if re.search(r"damaged-\w+Z$", name)]
    assert (stored.database().parent / name).read_bytes() == damaged
    # an undo has nothing whole to put back, and does not go back to something older instead
    done = stored.run("undo", "production", "--yes")
    assert done.returncode == 4 and done.stderr.count("\n") == 1


def test_undo_of_a_restore_over_a_damaged_database_does_not_go_further_back(stored):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    time.sleep(1)  # the names tell seconds
    stored.database().write_bytes(b"rubbish" * 99)
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    done = stored.run("undo", "production", "--yes")
    (damaged,) = stored.database().parent.glob("*.damaged-*")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert f"the database that the last restore replaced is damaged, and is kept as {damaged}" in done.stderr
    assert sample_data.digest(stored.database()) == stored.before


def test_a_folder_of_the_other_environment_that_is_none_fails_no_backup(stored):
    shutil.rmtree(stored.database("demo").parent)
    stored.database("demo").parent.write_bytes(b"")
    stored.loses("backup", "production")


@pytest.mark.slow("each run", keep=["demo-cron", "production-backup"])
@pytest.mark.parametrize("script", ["backup", "cron"])
@pytest.mark.parametrize("environment", ["production", "demo"])
def test_the_next_run_stores_what_was_kept(kept_site, script, environment):
    output = kept_site.ok(script, environment)
    assert "tagged pre-restore" in output
    assert beside(kept_site) == ["db.sqlite"]
    kept_site.ok("undo", "production", "--yes")
    assert sample_data.digest(kept_site.database()) == kept_site.lost


def test_a_kept_file_that_cannot_be_stored_fails_no_backup(kept_site):
    (kept,) = site_kept(kept_site)
    kept.write_bytes(b"not any more")
    output = kept_site.ok("cron", "production")
    (damaged,) = [name for name in beside(kept_site) if name != "db.sqlite"]
    assert damaged == kept.name.replace("pre-restore", "damaged")
    assert f"warning: the damaged database is kept as it was: {kept.with_name(damaged)}\n" in output
    assert " done: snapshot " in output
    assert "warning" not in kept_site.ok("cron", "production"), "it is not tried again and again"


class Writing(threading.Thread):
    """The backend's part, while the block runs: commits, one after another."""

    def __init__(self, database: Path) -> None:
        super().__init__()
        self.database, self.stopping, self.commits, self.refused = database, False, 0, 0

    def run(self) -> None:
        with closing(sqlite3.connect(self.database, isolation_level=None, timeout=0.5)) as connection:
            while not self.stopping:
                try:
                    connection.execute("INSERT INTO outbox VALUES (hex(randomblob(8)), 0, 0, zeroblob(500))")
                    self.commits += 1
                except sqlite3.OperationalError:
                    self.refused += 1
                time.sleep(0.01)

    def __enter__(self) -> "Writing":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self.join()


class TestNoRoom:
    """A small disk that is full at the worst moment."""

    @pytest.fixture
    def disk(self, stored, small_disk):
        """`stored` with production's database on a disk of its own."""
        subprocess.run(["mount", "-o", "remount,size=6m", small_disk], check=True)
        folder = stored.database().parent
        shutil.copytree(folder, small_disk / "production")
        shutil.rmtree(folder)
        folder.symlink_to(small_disk / "production")
        return small_disk

    def test_for_the_copy_of_what_was_there(self, stored, small_disk):
        """The download needs no room in the state folder; the pre-restore snapshot does, and is made up for later."""
        small = {"DODEKA_STATE": str(small_disk / "state"), "RESTIC_CACHE_DIR": str(stored.folder / "cache")}
        done = stored.run("restore", "production", "--snapshot", "latest", "--yes", **small)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert "but the replaced database is not saved: no room left for the export" in done.stderr
        assert sample_data.digest(stored.database()) == stored.before
        assert [name for name in beside(stored) if ".pre-restore-" in name]
        stored.ok("backup", "production")
        assert beside(stored) == ["db.sqlite"]
        stored.ok("undo", "production", "--yes")
        assert sample_data.digest(stored.database()) == stored.lost

    def refused(self, stored, systemctl, *arguments: str, **variables: str) -> str:
        done = with_service(stored, systemctl(), *arguments, **variables)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert set(calls(stored)) == {LOOK}, "the service was not touched"
        assert sample_data.digest(stored.database()) == stored.lost
        assert beside(stored) == ["db.sqlite"]
        return done.stderr

    @pytest.mark.parametrize("format", ["zst", "pages"])
    def test_for_the_new_database_by_its_header_or_its_listed_size(self, stored, disk, systemctl, format):
        stored.loses("backup", "production", DODEKA_FORMAT=format)
        subprocess.run(["mount", "-o", "remount,size=1300k", disk], check=True)
        said = self.refused(stored, systemctl)
        assert f"no room left for the database in {disk}/production: " in said

    def test_when_a_write_fails_restic_is_ended_and_the_room_given_back(self, stored, disk, systemctl):
        """The disk fills up while the snapshot comes, which the restic of this test does slowly, and for ever."""
        slow = stored.folder / "slow-restic"
        slow.write_text(
            f"""#!{sys.executable}
import os, pathlib, subprocess, sys, time
if "dump" not in sys.argv:
    os.execv({RESTIC!r}, [{RESTIC!r}, *sys.argv[1:]])
sys.stdout.buffer.write(subprocess.run([{RESTIC!r}, *sys.argv[1:]], capture_output=True, check=True).stdout[:300_000])
sys.stdout.flush()
folder = pathlib.Path({str(disk / "production")!r})
while not any(file.stat().st_size for file in folder.iterdir() if not file.name.endswith(("sqlite", "-wal", "-shm"))):
    time.sleep(0.01)  # the room is looked at before anything is written
with open({str(disk / "filler")!r}, "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError:
        pass
while True:
    sys.stdout.buffer.write(os.urandom(1000))
    sys.stdout.flush()
    time.sleep(0.05)
"""
        )
        slow.chmod(0o755)
        stored.loses("backup", "production", DODEKA_FORMAT="pages")
        began = time.monotonic()
        said = self.refused(stored, systemctl, RESTIC=str(slow))
        assert time.monotonic() - began < 30
        assert (
            "cannot write " in said
            and "No space left on device; free some space, or " in said
            and "nothing was changed" in said
        )

    def test_a_large_snapshot_stops_no_writer(self, stored, disk, systemctl):
        """60 MB onto 16 MB, while the backend commits all the time."""
        large = stored.folder / "large.sqlite"
        with closing(sqlite3.connect(large)) as connection, connection:
            connection.execute("CREATE TABLE large (a)")
            connection.execute("INSERT INTO large VALUES (randomblob(60000000))")
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        snapshot = store_file(stored, zstandard.compress(large.read_bytes()))
        with Writing(stored.database()) as writing:
            done = stored.run("restore", "production", "--snapshot", snapshot, "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no room left for the database in " in done.stderr
        assert writing.commits > 20 and writing.refused == 0
        assert beside(stored) == ["db.sqlite"]

    def test_no_more_than_the_header_says_is_ever_written(self, stored, disk):
        """A small database with 100 MB behind it, which take 10 kB in the repository, onto 6 MB, which do not fill up."""
        snapshot = store_file(stored, zstandard.compress(stored.database().read_bytes() + bytes(100_000_000)))
        done = stored.run("restore", "production", "--snapshot", snapshot, "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
        assert "is longer than its header says" in done.stderr
        assert sample_data.digest(stored.database()) == stored.lost and beside(stored) == ["db.sqlite"]

    def test_at_the_swap(self, stored, disk, systemctl):
        """The WAL holds rows that make the database longer, and the disk is full when the service has stopped."""
        grow = f"""
import os, sqlite3
db = sqlite3.connect({str(stored.database())!r}, isolation_level=None)
db.execute("PRAGMA wal_autocheckpoint=0")
db.executemany("INSERT INTO outbox VALUES (?, 0, 0, zeroblob(3000))", [(f"late-{{n}}",) for n in range(100)])
os.kill(os.getpid(), 9)
"""
        subprocess.run([sys.executable, "-c", grow], check=False)
        late = subprocess.check_output(["sqlite3", stored.database(), "SELECT count(*) FROM outbox"])
        subprocess.run([sys.executable, "-c", grow.replace("late-", "later-")], check=False)
        fill = f'[ "$1" = stop ] && cat /dev/zero > "{disk}/filler" 2>/dev/null; exit 0'
        done = with_service(stored, systemctl(extra=fill))
        assert (disk / "filler").stat().st_size > 0
        (disk / "filler").unlink()
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert f"no room left on the disk of database {stored.database().resolve()}" in done.stderr
        assert actions(stored)[-1] == START
        assert beside(stored) == ["db.sqlite"]
        now = subprocess.check_output(["sqlite3", stored.database(), "SELECT count(*) FROM outbox"])
        assert int(now) == int(late) + 100, "no commit is lost"

    def test_at_the_pre_restore_snapshot(self, stored, small_disk, systemctl):
        subprocess.run(["mount", "-o", "remount,size=6m", small_disk], check=True)
        fill = f'[ "$1" = start ] && cat /dev/zero > "{small_disk}/filler" 2>/dev/null; exit 0'
        done = stored.run(
            *("restore", "production", "--snapshot", "latest", "--yes"),
            DODEKA_STATE=str(small_disk),
            DODEKA_SYSTEMCTL=systemctl(extra=fill),
            DODEKA_START_WAIT_S="0",
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        (kept,) = site_kept(stored)
        assert "but the replaced database is not saved: no room left for the export in" in done.stderr
        assert done.stderr.endswith(f"kept as {kept}; to put it back: make undo ENV=production\n")
        assert sample_data.digest(stored.database()) == stored.before
        assert sample_data.digest(kept) == stored.lost
        stored.ok("backup", "production")
        assert beside(stored) == ["db.sqlite"]


@pytest.mark.slow("300 MB")
def test_memory_does_not_grow_with_the_database(site):
    """300 MB that do not compress: more than the bound, so that no file can have been held as a whole."""
    with closing(sqlite3.connect(site.database())) as connection, connection:
        blobs = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i, 0, 0, randomblob(100000) FROM n"
        connection.execute(f"INSERT INTO outbox {blobs}")
    assert sample_data.count(site.database(), "outbox") > 3000
    site.ok("backup", "production")
    process = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest", "--yes"],
        env=site.environ,
        stdout=subprocess.DEVNULL,
    )
    assert peak_memory_kb(process) < 150_000
    assert process.returncode == 0
