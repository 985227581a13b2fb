"""make open: a copy of a snapshot to look at. Nothing that is in use is touched, and nothing stays."""

import os
import pwd
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from test_verify import damage, fingerprint, store

from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site
from terminal import Terminal
from waiting import wait_for

SCRIPT = ROOT / "bin" / "dodeka-db-open.py"
COUNT = "SELECT count(*) FROM users_by_email;"


@pytest.fixture
def lost(site) -> Site:
    """A site with a snapshot of 400 members, who are then gone."""
    site.ok("backup", "production")
    with closing(sqlite3.connect(site.database(), isolation_level=None)) as backend:
        backend.execute("DELETE FROM users_by_email")
    return site


def copies(site: Site) -> list[Path]:
    return list(site.state.glob("staging/open-*"))


@pytest.mark.parametrize("format", ["zst", "pages"])
def test_a_script_reads_the_snapshot_and_the_output_is_its_own_alone(lost, format):
    lost.loses("backup", "production", DODEKA_FORMAT=format)
    before = fingerprint(lost.database().parent)
    for snapshot, users in (("latest~1", "400\n"), ("latest", "0\n")):
        done = lost.run("open", "production", "--snapshot", snapshot, stdin=COUNT)
        assert (done.returncode, done.stdout) == (0, users), done
        assert re.search(r"snapshot [0-9a-f]{8} of .*, read-only\n", done.stderr)
    assert fingerprint(lost.database().parent) == before
    assert copies(lost) == [] and lost.staged() == []


def test_a_reader_of_the_output_that_goes_away_is_no_failure(lost):
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT i FROM n;"
    command = f"set -o pipefail; echo '{many}' | {SCRIPT} production | head -n 1"
    done = subprocess.run(["bash", "-c", command], env=lost.environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, "error" in done.stderr) == (0, "1\n", False), done
    assert copies(lost) == []


def test_it_writes_nothing(lost):
    done = lost.run("open", "production", stdin="DELETE FROM users;")
    assert done.returncode == 1 and "attempt to write a readonly database" in done.stderr
    assert done.stderr.endswith("error: sqlite3 failed: exit code 1; its own message stands above\n")
    assert copies(lost) == []


def test_on_a_terminal_it_is_private_and_holds_up_no_backup(lost):
    terminal = Terminal([SCRIPT, "production"], lost.environ)
    assert ".quit ends, and removes the copy" in terminal.until("sqlite> ")
    (copy,) = copies(lost)
    assert copy.stat().st_mode & 0o777 == 0o600
    lost.loses("backup", "production")
    assert copies(lost) == [copy], "the lock on it tells the backup that somebody reads it"
    terminal.press(b"\x03")
    typed = f"-- {os.urandom(8).hex()}"
    terminal.type(f"{COUNT}\n{typed}\nselekt;\n.quit")
    assert "400" in terminal.until_end()
    history = Path(pwd.getpwuid(os.geteuid()).pw_dir, ".sqlite_history")  # sqlite3 does not go by $HOME
    assert not history.exists() or typed not in history.read_text()
    assert copies(lost) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_its_sqlite3_and_leaves_nothing(lost, signum):
    reading = subprocess.Popen([SCRIPT, "production"], env=lost.environ, stdin=subprocess.PIPE)
    child = sqlite3_of(lost, reading)
    reading.send_signal(signum)
    assert reading.wait(timeout=60) == 128 + signum
    assert not Path(f"/proc/{child}").exists() and copies(lost) == []


def sqlite3_of(site: Site, reading: subprocess.Popen) -> str:
    """The ID of the process, when it is there."""
    children = Path(f"/proc/{reading.pid}/task/{reading.pid}/children")
    (found,) = wait_for(lambda: copies(site) and list(filter(is_sqlite3, children.read_text().split())))
    return found


def is_sqlite3(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/comm").read_text() == "sqlite3\n"
    except FileNotFoundError:  # a program of an earlier step, which has ended
        return False


def test_the_copy_of_a_killed_one_goes_with_the_next_run(lost):
    reading = subprocess.Popen([SCRIPT, "production"], env=lost.environ, stdin=subprocess.PIPE)
    wait_for(lambda: copies(lost))
    reading.kill()
    reading.communicate()
    lost.loses("backup", "production")
    assert copies(lost) == []


def test_a_file_stays_for_its_owner_alone(lost, tmp_path):
    (site_own := lost.state / "open-notes.txt").write_text("of somebody else")
    copy = tmp_path / "a copy.sqlite"
    output = lost.ok("open", "production", "--file", str(copy))
    assert f"done: {copy} is a copy of snapshot " in output and "personal data" in output
    assert copy.stat().st_mode & 0o777 == 0o600 and sample_data.count(copy) == 400
    assert site_own.exists(), "not ours to remove"
    content = copy.read_bytes()
    done = lost.run("open", "production", "--file", str(copy))
    assert (done.returncode, copy.read_bytes()) == (2, content)
    assert f"error: {copy} exists; give FILE a new name" in done.stderr


def test_a_file_by_a_relative_name_in_a_folder_whose_acl_is_open(lost, tmp_path):
    subprocess.run(["setfacl", "-d", "-m", "o::r-x,m::rwx", tmp_path], check=True)
    command = [SCRIPT, "production", "--file", "copy.sqlite"]
    done = subprocess.run(command, env=lost.environ, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_file_beside_a_journal_of_another_database(lost, tmp_path, suffix):
    """SQLite would bring it into the copy."""
    (journal := tmp_path / f"copy.sqlite{suffix}").write_bytes(b"of another")
    done = lost.run("open", "production", "--file", str(tmp_path / "copy.sqlite"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert [journal] == list(tmp_path.glob("copy.sqlite*"))


def test_a_stopped_sqlite3_does_not_hold_it_up(lost):
    reading = subprocess.Popen([SCRIPT, "production"], env=lost.environ, stdin=subprocess.PIPE)
    child = sqlite3_of(lost, reading)
    os.kill(int(child), signal.SIGSTOP)
    reading.terminate()
    assert reading.wait(timeout=60) == 143 and copies(lost) == []


@pytest.mark.parametrize("file", ["missing/copy.sqlite", "a" * 300, "."])
def test_a_file_that_cannot_be(lost, tmp_path, file):
    done = lost.run("open", "production", "--file", str(tmp_path / file))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert not list(tmp_path.glob("*.sqlite"))


def test_a_damaged_snapshot_leaves_no_file(lost, tmp_path):
    damage(lost)
    done = lost.run("open", "production", "--file", str(tmp_path / "copy"))
    assert done.returncode == 4 and not (tmp_path / "copy").exists()
    other = store(lost, b"no database")
    done = lost.run("open", "production", "--snapshot", other, stdin=COUNT)
    assert (done.returncode, done.stdout, copies(lost)) == (4, "", [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a program")
def test_without_sqlite3(lost, tmp_path):
    hidden = f"mount --bind /dev/null $(command -v sqlite3) && exec {SCRIPT} production"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden], env=lost.environ, capture_output=True, text=True
    )
    assert done.returncode == 6
    assert (
        "error: sqlite3 is not installed; apt-get install sqlite3, or repeat the command with FILE=$HOME/copy.sqlite"
        in done.stderr
    )
