"""make history: who did what with the backups, and how it ended, in the state folder and in the journal."""

import json
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dodeka_db.host import history, journal, operator_name
from dodeka_db.host.history import Deed
from remote_servers import execute
from site_folder import ROOT, Site
from terminal import Terminal

ANNA = {"SUDO_USER": "anna"}
RESTORE = ROOT / "bin" / "dodeka-db-restore.py"
FIRST = re.compile(r"\w{3} \d\d \w{3} \d{4} \d\d:\d\d  (\S+) +(.*)")


@pytest.fixture
def site(site):
    """A site on which nobody has done anything yet: its `make init` is forgotten."""
    (site.state / "history.jsonl").unlink()
    return site


def told(site: Site, *arguments: str) -> list[str]:
    """The deeds of make history in one line each: who, and what."""
    found: list[str] = []
    for line in site.ok("history", *arguments).splitlines():
        assert len(line) <= 80
        match = FIRST.fullmatch(line)
        if match:
            found.append(f"{match[1]} {match[2]}")
        else:
            found[-1] += f" {line.strip()}"
    return found


def test_what_was_done_is_told_in_order_with_who_and_how_it_ended(site):
    assert site.ok("history") == "nothing is on record\n"
    site.ok("backup", "production")
    (snapshot,) = [one["short_id"] for one in site.snapshots()]
    assert site.ok("history") == "nothing is on record\n", "a backup is no news"
    site.ok("restore", "production", "--snapshot=latest", "--yes", **ANNA)
    site.ok("restore", "demo", "--from=production", "--snapshot=latest", "--yes", SUDO_USER="bea")
    assert site.run("undo", "production", stdin="no\n", **ANNA).returncode == 7
    site.ok("pin", "production", "--note=before migration 12", "--", snapshot, **ANNA)
    pinned = site.snapshots("production")[0]["short_id"]
    deeds = told(site)
    assert deeds[0] == f"anna restore production: done; snapshot {snapshot}"
    assert deeds[1] == f"bea clone demo: done; snapshot {snapshot} of production, quarantined"
    assert deeds[2].startswith(
        "anna undo production: a question was not answered with yes; nothing was changed; snapshot "
    )
    assert deeds[3] == (
        f"anna pin production: done; snapshot {pinned}, which was {snapshot}, is pinned (before migration 12):"
        " no retention removes it"
    )
    assert [told(site, "demo"), told(site, "production")] == [deeds[1:2], [deeds[0], *deeds[2:]]]
    assert stat.S_IMODE((site.state / "history.jsonl").stat().st_mode) == 0o600


@pytest.mark.slow("a key takes restic three seconds")
def test_every_command_that_changes_something_is_on_record(site):
    site.ok("backup", "production", "--note=before it all")
    site.ok("backup", "demo")
    site.ok("unpin", "production", "--", "latest")
    execute(site.database(), "DELETE FROM users_by_email WHERE key = (SELECT min(key) FROM users_by_email)")
    site.ok("bring-back", "production", "--yes")
    site.ok("restore", "demo", "--snapshot=latest", "--yes")
    site.ok("undo", "demo", "--yes")
    assert site.run("accept", "demo").returncode == 2
    site.ok("key-add", "anna")
    site.ok("key-remove", "anna")
    site.ok("init", "--yes")
    site.ok("restic", "unlock")
    site.ok("restic", "snapshots")
    assert site.run("prove", stdin="/nowhere\nx\n\nbea\n").returncode == 10
    deeds = [deed.line.partition(";")[0] for deed in history.read(site.state)]
    assert deeds == [
        *("backup production: done", "unpin production: done", "bring-back production: done"),
        *("restore demo: done", "undo demo: done", "accept demo: failed: the command line is not valid"),
        *("key-add: done", "key-remove: done", "init: done", "restic: started"),
        "prove: failed: there is no repository",
    ]


def test_restic_s_command_is_named_also_behind_options(site):
    site.ok("restic", "-q --json unlock")
    site.ok("restic", "-q snapshots")
    assert [deed.about for deed in history.read(site.state)][-2:] == [
        f"unlock on {site.repository}",
        f"-q on {site.repository}",
    ]


def test_a_restore_with_members_who_were_erased_says_so(site):
    site.ok("backup", "production")
    words = "with erased members\n"
    options = ("--snapshot=latest", "--erased=ignore", "--yes")
    site.ok("restore", "production", *options, stdin=words)
    site.ok("undo", "production", "--erased=ignore", "--yes", stdin=words)
    site.ok("undo", "production", "--yes")
    one, other, without = [deed.about for deed in history.read(site.state)][-3:]
    assert one.startswith("snapshot ") and one.endswith(", with erased members")
    assert other.endswith(", with erased members") and "erased" not in without


def test_no_member_is_named(site):
    site.ok("backup", "production")
    with closing(sqlite3.connect(site.database())) as connection:
        address, user = connection.execute("SELECT key, value FROM users_by_email LIMIT 1").fetchone()
    user = user.decode()
    site.ok("erased", "production", f"--who={address}", "--yes")
    assert site.run("erased", "production", "--who=nobody@example.org", "--yes").returncode == 4
    site.run("bring-back", "production", f"--who={address}", "--yes")
    assert site.run("bring-back", "production", "--who=nobody@example.org", "--yes").returncode == 4
    text = (site.state / "history.jsonl").read_text()
    assert "1 member stays out of every snapshot before" in text and "bring-back" in text
    for name in (address, user, "nobody@", *user.split("_")[1:]):
        assert name not in text


def test_a_terminal_that_is_closed_at_the_question_is_told_as_that(site):
    site.ok("backup", "production")
    command = ["setsid", "--ctty", RESTORE, "production", "--snapshot=latest"]
    terminal = Terminal(command, {**site.environ, **ANNA})
    terminal.until("Type 'yes'")
    assert terminal.close() == 129
    (deed,) = told(site)
    assert re.fullmatch(
        r"anna restore production: interrupted: the terminal was closed; snapshot \w{8}", deed
    )


def test_interrupted_and_killed_ones_are_told_apart(site):
    site.ok("backup", "production")
    for end in ("interrupted", "killed"):
        terminal = Terminal(
            ["setsid", "--ctty", RESTORE, "production", "--snapshot=latest"], {**site.environ, **ANNA}
        )
        terminal.until("Type 'yes' to go on:")
        (running,) = [deed for deed in history.read(site.state) if not deed.outcome]
        if end == "interrupted":
            terminal.press(b"\x03")
            terminal.until_end(130)
        else:
            os.kill(running.process, 9)
            terminal.until_end(-9)
    interrupted, killed = told(site)
    assert re.fullmatch(r"anna restore production: interrupted: Ctrl-C; snapshot \w{8}", interrupted)
    assert re.fullmatch(
        r"anna restore production: has not ended: it goes on, or was killed; snapshot \w{8}", killed
    )


def record(site: Site, deeds: Sequence[str]) -> None:
    for about in deeds:
        with history.recorded(site.settings.main, "pin", "demo", about):
            pass


def test_a_torn_line_and_foreign_ones_spoil_nothing(site):
    record(site, ["one", "two"])
    file = site.state / "history.jsonl"
    whole = file.read_text()
    junk = ["", "[]", "1", '{"who": 1}', '{"began": "x", "who": "y", "command": "z"}', "\0\udcff"]
    file.write_bytes(("\n".join(junk) + "\n" + whole[:-30]).encode(errors="surrogateescape"))
    record(site, ["three \x1b[2J\u202e"])
    assert [line.split("; ")[-1].split()[0] for line in told(site)] == ["one", "two", "three"]
    assert "\x1b" not in site.ok("history") and "\u202e" not in site.ok("history")


def test_it_does_not_grow_for_ever(site, monkeypatch):
    monkeypatch.setattr(history, "MAX_BYTES", 20_000)
    record(site, [f"deed {number}" for number in range(150)])
    assert sum(path.stat().st_size for path in site.state.glob("history*")) < 25_000
    numbers = [int(deed.about.split()[1]) for deed in history.read(site.state)]
    assert numbers == list(range(numbers[0], 150)) and len(numbers) > 20


def test_what_cannot_be_recorded_is_a_warning(site):
    site.ok("backup", "production")
    (site.state / "history.jsonl").unlink(missing_ok=True)
    (site.state / "history.jsonl").mkdir()
    said = site.ok("pin", "production", "--", "latest")
    assert said.count("history.jsonl cannot be written: Is a directory") == 2 and " is pinned" in said
    done = site.run("history")
    assert done.returncode == 6 and "the history in " in done.stderr


@pytest.fixture
def receiver(tmp_path):
    """A socket in the place of the journal's, which keeps what it gets: a fake, for the journal itself may be missing."""
    (tmp_path / "journal").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "journal" / "socket"))
        made.settimeout(20)
        yield made


def test_the_journal_gets_fields_and_lines_of_lines(receiver):
    journal.write("all", {"DODEKA_WHO": "anna", "DODEKA_ABOUT": "a\nb"}, Path(receiver.getsockname()))
    entry = receiver.recv(10_000)
    assert b"MESSAGE=all\nPRIORITY=5\nSYSLOG_IDENTIFIER=dodeka-backup\nDODEKA_WHO=anna\n" in entry
    assert entry.endswith(b"DODEKA_ABOUT\n\x03\0\0\0\0\0\0\0a\nb\n")


def test_a_command_writes_one_entry_to_the_journal(site, receiver):
    if os.geteuid() != 0:
        pytest.skip("only root can put a journal of its own in the place of the machine's")
    site.ok("backup", "production")
    folder = Path(receiver.getsockname()).parent
    mounts = f"mount -t tmpfs tmpfs /run && mkdir -p {journal.SOCKET.parent} && mount --bind {folder} {journal.SOCKET.parent}"
    pin = f"{ROOT}/bin/dodeka-db-pin.py production -- latest"
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mounts} && exec {pin}"],
        env={**site.environ, **ANNA},
        check=True,
        capture_output=True,
    )
    entry = receiver.recv(10_000).decode()
    assert re.search(r"^MESSAGE=anna: pin production: done; snapshot \w{8}, which was", entry)
    for line in (
        "DODEKA_COMMAND=pin",
        "DODEKA_ENVIRONMENT=production",
        "DODEKA_WHO=anna",
        "DODEKA_OUTCOME=done",
    ):
        assert f"\n{line}\n" in entry
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(10_000)


def test_who_it_was(tmp_path):
    assert operator_name.of({"SUDO_USER": "anna"}) == "anna"
    # under a program of cron's name, and behind a shell
    cron = tmp_path / "cron"
    shutil.copy("/bin/sh", cron)
    (tmp_path / "who.py").write_text(
        "from dodeka_db.host import operator_name\nprint(operator_name.of({'SUDO_USER': 'root'}))\n"
    )
    done = subprocess.run(
        [cron, "-c", f"sh -c '{ROOT}/.venv/bin/python {tmp_path}/who.py; true'; true"],
        env={"PYTHONPATH": str(ROOT / "bin")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "cron\n"


def test_a_deed_of_the_past_is_shown_with_its_year(site):
    site.state.mkdir(exist_ok=True)
    past = datetime.now().astimezone() - timedelta(days=800)
    deed = Deed(past, "anna", "init", outcome="done")
    (site.state / "history.jsonl").write_text(json.dumps(vars(deed), default=datetime.isoformat) + "\n")
    assert site.ok("history") == f"{past:%a %d %b %Y %H:%M}  anna  init: done\n"
