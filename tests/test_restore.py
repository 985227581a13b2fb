"""Restores by command line: questions, latest, clones, what is kept, and what a failure leaves behind."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from dodeka_db import members

from sites import RESTIC, ROOT, Site


def lose_members(site, environment: str = "production") -> str:
    with closing(sqlite3.connect(site.database(environment))) as connection, connection:
        connection.execute("DELETE FROM users WHERE key > '000010'")
    return members.digest(site.database(environment))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def beside(site, environment: str = "production") -> list[str]:
    return sorted(path.name for path in site.database(environment).parent.iterdir())


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
    before = members.digest(site.database())
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
    assert members.digest(stored.database()) == stored.before
    # and once more: now a pre-restore snapshot is the newest of all
    assert stored.snapshots("production")[-1]["tags"][-1] == "pre-restore"
    lose_members(stored)
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert members.digest(stored.database()) == stored.before


def test_what_was_there_is_a_snapshot_tagged_pre_restore_and_undoes_it(stored):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    undo = stored.snapshots("production")[-1]
    assert undo["tags"] == ["db", "db_sqlite", "db_dodeka", "env_production", "pre-restore"]
    stored.ok("restore", "production", "--snapshot", undo["short_id"], "--yes")
    assert members.digest(stored.database()) == stored.lost


def test_a_clone_of_production_to_demo(stored):
    production = members.digest(stored.database())
    demo = members.digest(stored.database("demo"))
    output = stored.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
    assert members.digest(stored.database("demo")) == stored.before
    assert members.digest(stored.database()) == production
    assert "replaces the demo database" in output and "of production" in output
    undo = stored.snapshots("demo")[-1]
    assert undo["tags"][-2:] == ["env_demo", "pre-restore"]
    stored.ok("restore", "demo", "--snapshot", undo["short_id"], "--yes")
    assert members.digest(stored.database("demo")) == demo


def test_answers_from_a_pipe(stored):
    output = stored.ok("restore", "production", stdin="latest\nyes\n")
    assert members.digest(stored.database()) == stored.before
    short_id = stored.snapshots("production")[0]["short_id"]
    assert f"{short_id}  " in output and f"snapshot {short_id} of production, taken" in output


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


def test_nothing_is_left_behind(stored):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert beside(stored) == ["db.sqlite"]
    assert list((stored.state / "staging").iterdir()) == []


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
    assert members.digest(real) == stored.before


def test_a_missing_database_is_restored(stored):
    stored.database().unlink()
    output = stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert members.digest(stored.database()) == stored.before
    assert "no pre-restore snapshot" in output and "is missing" in output
    assert beside(stored) == ["db.sqlite"]


def test_a_damaged_database_is_restored_and_kept(stored):
    stored.database().write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    Path(f"{stored.database()}-wal").write_bytes(b"its wal")
    output = stored.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert members.digest(stored.database()) == stored.before
    name, wal = [name for name in beside(stored) if "pre-restore" in name]
    assert f"kept as it was: {stored.database().parent}/{name}" in output
    assert wal == f"{name}-wal"
    assert (stored.database().parent / name).read_bytes().endswith(b"\xff" * 9000)


def test_a_database_in_use_is_not_replaced(stored):
    with closing(sqlite3.connect(stored.database())) as connection:
        connection.execute("SELECT * FROM users").fetchone()
        done = stored.run("restore", "production", "--snapshot", "latest", "--yes")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert "is still open in another process" in done.stderr
    assert members.digest(stored.database()) == stored.lost
    assert [name for name in beside(stored) if name != "db.sqlite"] == []


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


def refused(site, snapshot: str, said: str) -> None:
    before = content(site.folder / "backend")
    done = site.run("restore", "production", "--snapshot", snapshot, "--yes")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert said in done.stderr
    assert content(site.folder / "backend") == before
    assert not any("pre-restore" in entry["tags"] for entry in site.snapshots("production"))


def test_damaged_snapshots_are_refused_before_anything_happens(stored):
    stored.database().unlink()
    members.create(stored.database(), members=2000)
    stored.ok("backup", "production")
    archive = archive_of(stored)
    flipped = bytearray(archive)
    flipped[len(archive) // 2] ^= 1
    refused(stored, store_file(stored, bytes(flipped)), "is damaged")
    refused(stored, store_file(stored, archive[:-10]), "cut off in the middle")
    first = zstandard.ZstdDecompressor().decompressobj()
    first.decompress(archive)
    assert first.unused_data, "of more than one frame"
    refused(stored, store_file(stored, archive[: -len(first.unused_data)]), "where its header says")
    refused(
        stored, store_file(stored, zstandard.compress(b"not a database" * 99)), "is not an SQLite database"
    )
    refused(stored, store_file(stored, zstandard.compress(b"")), "is empty")
    refused(stored, store_file(stored, b"PK\3\4 not zstd"), "is damaged")


def test_a_repository_that_lost_a_pack(stored):
    biggest = max(
        (stored.repository / "data").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    with open(biggest, "r+b") as file:
        os.chmod(biggest, 0o600)
        file.seek(biggest.stat().st_size // 3)
        file.write(os.urandom(64))
    done = stored.run("restore", "production", "--snapshot", "latest", "--yes")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
    assert "cannot be read from repository" in done.stderr and "restic check --read-data" in done.stderr
    assert members.digest(stored.database()) == stored.lost


def test_no_room_to_decompress(stored, small_disk):
    (small_disk / "backend" / "envs" / "production").mkdir(parents=True)
    done = stored.run(
        "restore", "production", "--snapshot", "latest", "--yes", DODEKA_BACKEND=str(small_disk / "backend")
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    assert "No space left on device" in done.stderr and "nothing was changed" in done.stderr
    assert list((small_disk / "backend" / "envs" / "production").iterdir()) == []


FAKE_SYSTEMCTL = """#!/bin/sh
# Stands for systemctl where the order of calls and a failing one are the point; tests/test_server.py has the real one.
echo "$*" >> "{log}"
case "$1" in
    show) echo loaded ;;
    {failing}) echo "cannot $1 for a test" >&2; exit 1 ;;
esac
{extra}
"""


@pytest.fixture
def systemctl(stored):
    def make(failing: str = "nothing", extra: str = "") -> str:
        program = stored.folder / "systemctl"
        log = stored.folder / "systemctl.log"
        program.write_text(FAKE_SYSTEMCTL.format(log=log, failing=failing, extra=extra))
        program.chmod(0o755)
        return str(program)

    return make


def calls(site) -> list[str]:
    return (site.folder / "systemctl.log").read_text().splitlines()


SHOW = "show --property=LoadState --value dodeka-backend-production"
STOP = "stop dodeka-backend-production"
START = "start dodeka-backend-production"


def test_the_service_is_stopped_and_started(stored, systemctl):
    stored.ok("restore", "production", "--snapshot", "latest", "--yes", DODEKA_SYSTEMCTL=systemctl())
    assert calls(stored) == [SHOW, STOP, START]


def test_when_stopping_fails_the_service_is_started_and_nothing_has_changed(stored, systemctl):
    done = stored.run(
        "restore", "production", "--snapshot", "latest", "--yes", DODEKA_SYSTEMCTL=systemctl(failing="stop")
    )
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "could not stop dodeka-backend-production: cannot stop for a test" in done.stderr
    assert calls(stored) == [SHOW, STOP, START]
    assert members.digest(stored.database()) == stored.lost


def test_when_starting_fails_the_old_database_is_put_back_and_it_is_said_that_the_service_is_down(
    stored, systemctl
):
    done = stored.run(
        "restore", "production", "--snapshot", "latest", "--yes", DODEKA_SYSTEMCTL=systemctl(failing="start")
    )
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "IT IS DOWN" in done.stderr
    assert calls(stored) == [SHOW, STOP, START, STOP, START]
    assert members.digest(stored.database()) == stored.lost
    assert beside(stored) == ["db.sqlite"]


def test_when_the_pre_restore_snapshot_fails_the_service_is_started_with_the_old_database(stored, systemctl):
    gone = f'[ "$1" = stop ] && mv "{stored.repository}" "{stored.folder}/unmounted"; exit 0'
    done = stored.run(
        "restore", "production", "--snapshot", "latest", "--yes", DODEKA_SYSTEMCTL=systemctl(extra=gone)
    )
    assert (done.returncode, done.stderr.count("\n")) == (10, 1)
    assert calls(stored) == [SHOW, STOP, START]
    assert members.digest(stored.database()) == stored.lost


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("during", ["stop", "start"])
def test_a_signal_while_the_service_is_down_starts_it_again(stored, systemctl, signum, during):
    mark = stored.folder / "here"
    program = systemctl(extra=f'[ "$1" = {during} ] && touch "{mark}" && sleep 2; exit 0')
    process = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest", "--yes"],
        env={**stored.environ, "DODEKA_SYSTEMCTL": program},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not mark.exists():
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signum)  # as a terminal does: to the script and to what it runs
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert f"interrupted ({signum.name})" in stderr and stderr.count("\n") == 1
    assert calls(stored)[-1] == START
    expected = stored.lost if during == "stop" else stored.before
    assert members.digest(stored.database()) == expected
    assert beside(stored) == ["db.sqlite"]
