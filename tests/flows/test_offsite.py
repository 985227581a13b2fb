"""The second copy: what goes there, what is proven of it, and all that can go wrong on the way."""

import json
import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import console_blocks
from dodeka_db.restic import retention_policy, server_watch
from dodeka_db.sqlite import sample_data
from remote_servers import AppendOnly, Rest, execute, fill, impatient
from site_folder import RESTIC, ROOT, Site, Twin, run_first
from waiting import wait_for


@pytest.fixture
def twin(empty_twin: Path, tmp_path: Path) -> Twin:
    shutil.copytree(empty_twin, tmp_path / "twin")
    return Twin(tmp_path / "twin")


@contextmanager
def served(twin: Twin, folder: Path, *options: str) -> Iterator[Rest]:
    """The off-site repository of `twin` on a REST server."""
    server = Rest(folder, *options)
    try:
        server.start()
        server.put(twin.there)
        yield server
    finally:
        server.stop()


def at(server: Rest) -> dict[str, str]:
    return {"OFFSITE_REPOSITORY": server.url}


def chunker(config: str) -> str:
    return json.loads(config)["chunker_polynomial"]


@pytest.mark.long
def test_what_is_missing_is_copied_and_no_more(twin):
    for environment in ("production", "demo"):
        twin.ok("backup", environment)
    said = twin.ok("offsite")
    assert re.search(
        r"done: 2 snapshots copied, \w{8} of production and \w{8} of demo read back, 0 old ones removed, ",
        said,
    )
    first = twin.listed_there()
    assert [one["time"] for one in first] == [one["time"] for one in twin.snapshots("production")]
    assert [one["tags"] for one in first] == [one["tags"] for one in twin.snapshots("production")]

    assert "done: 0 snapshots copied, " in twin.ok("offsite")
    execute(twin.database(), "DELETE FROM outbox")
    twin.ok("backup", "production")
    assert "done: 1 snapshot copied, " in twin.ok("offsite")
    assert [one["id"] for one in twin.listed_there()][:1] == [one["id"] for one in first]
    assert len(twin.listed_there()) == 2


def test_other_things_in_the_repository_are_not_copied(twin):
    twin.ok("backup", "demo")
    twin.restic("backup", "--stdin", "--tag", "photos", input="x")
    assert "done: 1 snapshot copied, " in twin.ok("offsite")
    assert len(json.loads(twin.restic_there("snapshots", "--json"))) == 1


def test_one_call_of_restic_copies(twin):
    for _ in range(3):
        twin.ok("backup", "demo")
    log = twin.folder / "starts"
    restic = twin.folder / "restic-that-notes"
    run_first(restic, f'echo "$1" >> {log}')
    twin.ok("offsite", RESTIC=str(restic))
    assert log.read_text().split().count("copy") == 1


@pytest.mark.slow("many snapshots")
def test_the_copy_deduplicates(twin):
    """Also with what came from another repository here: a new one, after the server was lost, cuts the same chunks."""
    assert chunker(twin.restic_there("cat", "config")) == chunker(twin.restic("cat", "config").stdout)
    fill(twin)
    twin.ok("backup", "production", DODEKA_FORMAT="pages")
    twin.ok("offsite")
    before = size(twin.there)
    shutil.rmtree(twin.repository)
    twin.ok("init", "--yes")
    twin.ok("backup", "production", DODEKA_FORMAT="pages")
    assert size(twin.repository) > 12_000_000
    assert "done: 1 snapshot copied, " in twin.ok("offsite")
    assert size(twin.there) - before < 100_000


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_another_chunking_is_warned_of(twin, tmp_path):
    other = {
        "OFFSITE_REPOSITORY": str(tmp_path / "other"),
        "OFFSITE_PASSWORD_FILE": str(tmp_path / "password"),
    }
    (tmp_path / "password").write_text("x\n")
    (tmp_path / "password").chmod(0o600)
    environ = {**twin.environ, "RESTIC_REPOSITORY": str(tmp_path / "other"), "RESTIC_PASSWORD": "x"}
    environ.pop("RESTIC_PASSWORD_FILE")
    subprocess.run([RESTIC, "init"], env=environ, check=True, capture_output=True)
    said = twin.ok("init", "--yes", "--offsite", **other)
    assert f"repository {tmp_path / 'other'}: exists already, nothing to do\n" in said
    assert "warning: it cuts files into other chunks than " in said


def test_a_new_repository_takes_the_chunking_of_the_offsite_one(twin):
    """After the server is lost: else nothing that is copied from then on would be there already."""
    shutil.rmtree(twin.repository)
    said = twin.ok("init", "--yes")
    assert f"repository {twin.repository}: made, with the chunking of {twin.there}\n" in said
    assert chunker(twin.restic_there("cat", "config")) == chunker(twin.restic("cat", "config").stdout)


def test_a_second_try_of_init_says_too_that_the_password_is_to_be_kept(twin):
    """The first one got as far as the password file; a fake restic stands for the server that fails then."""
    shutil.rmtree(twin.repository)
    twin.password_file.unlink()
    restic = twin.folder / "restic-that-cannot-init"
    run_first(restic, '[ "$1" = init ] && exit 1')
    done = twin.run("init", "--yes", RESTIC=str(restic))
    assert done.returncode == 1
    password = twin.password_file.read_text()  # it may be the repository's already
    assert "KEEP ITS CONTENT SOMEWHERE ELSE TOO" in twin.ok("init", "--yes")
    assert twin.password_file.read_text() == password


@pytest.mark.slow("two repositories")
def test_init_before_there_is_an_offsite_repository(twin):
    """The first time OFFSITE_REPOSITORY may be set already."""
    shutil.rmtree(twin.repository)
    shutil.rmtree(twin.there)
    assert f"repository {twin.repository}: made\n" in twin.ok("init", "--yes")
    shutil.rmtree(twin.repository)
    twin.there_password.unlink()
    said = twin.ok("init", "--yes")
    assert (
        f"repository {twin.there} is not read: its password file {twin.there_password} is missing\n" in said
    )
    shutil.rmtree(twin.repository)
    done = twin.run("init", "--yes", "--offsite")
    assert done.returncode == 10
    assert f"no restic repository at {twin.repository}" in done.stderr
    assert not twin.there_password.exists() and not twin.there.exists()


@pytest.mark.slow("two repositories")
def test_the_retention_applies_there(twin):
    for _ in range(13):
        twin.ok("backup", "demo")
    assert "done: 13 snapshots copied, " in twin.ok("offsite", OFFSITE_RETENTION="none")
    assert len(twin.listed_there("demo")) == 13
    said = twin.ok("offsite")
    (removed,) = re.findall(
        r"done: 0 snapshots copied, \w+ of demo read back, (\d+) old ones removed, ", said
    )
    # 13 within the hour, of which 10 stay; one more where an hour has just ended, and with newer restics another
    assert int(removed) in (1, 2, 3) and len(twin.listed_there("demo")) == 13 - int(removed)


@pytest.mark.slow("two repositories")
def test_nothing_is_removed_while_a_snapshot_is_from_the_future(twin):
    """It would count as the latest there too."""
    for _ in range(13):
        twin.ok("backup", "demo")
    newest = twin.snapshots("demo")[-1]
    file = twin.folder / "file"
    with open(file, "wb") as opened:
        subprocess.run(
            [RESTIC, "dump", newest["id"], newest["path"]], env=twin.environ, stdout=opened, check=True
        )
    with open(file, "rb") as opened:
        twin.restic(
            *("backup", "--stdin", "--stdin-filename", newest["path"], "--time", "2037-01-01 00:00:00"),
            *("--tag", ",".join(newest["tags"])),
            stdin=opened,
        )
    said = twin.ok("offsite")
    assert re.search(
        r"warning: snapshot \w{8} in the off-site repository is from the future \(2037-01-01", said
    )
    assert "14 snapshots copied, " in said and ", 0 old ones removed, " in said
    # the newest true one is proven, not the one from the future
    true = [one for one in twin.listed_there("demo") if not one["time"].startswith("2037")]
    assert f"{true[-1]['short_id']} of demo read back" in said


def test_another_retention_is_refused(twin):
    done = twin.run("offsite", OFFSITE_RETENTION="some")
    assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
    assert "OFFSITE_RETENTION=some is not valid; choose same or none" in done.stderr


@pytest.mark.slow("one more server that removes nothing")
def test_an_append_only_server(twin, tmp_path):
    """It refuses to let anything be removed: the run says so plainly, at once, and what there is is safe."""
    for _ in range(13):
        twin.ok("backup", "demo")
    with served(twin, tmp_path / "server", "--append-only") as server:
        started = time.monotonic()
        done = twin.run("offsite", **at(server))
        assert (done.returncode, len(done.stderr.splitlines())) == (77, 1), done
        assert "13 snapshots copied, and the newest read back, but nothing old was removed: " in done.stderr
        assert f"the server of repository {server.shown} does not allow removals: " in done.stderr
        assert "403 Forbidden" in done.stderr
        assert done.stderr.endswith("; if the server must be append-only, set OFFSITE_RETENTION=none\n")
        assert time.monotonic() - started < server_watch.GIVE_UP_S
        assert not list((server.served / "locks").iterdir())
        assert len(twin.listed_there("demo", **at(server))) == 13
        said = twin.ok("offsite", OFFSITE_RETENTION="none", **at(server))
        assert re.search(
            r"done: 0 snapshots copied, \w+ of demo read back, retention left to the server, ", said
        )


def test_it_is_idle_until_it_is_set(site):
    done = site.run("offsite")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(site.state.glob("offsite"))
    # somebody who types it is told
    master, slave = pty.openpty()
    subprocess.run(
        [ROOT / "bin" / "dodeka-db-offsite.py"], env=site.environ, stdout=slave, stderr=slave, check=True
    )
    assert b"OFFSITE_REPOSITORY is not set: nothing to copy to" in os.read(master, 1000)
    for ends in (master, slave):
        os.close(ends)
    for script in (["restore", "demo"], ["verify", "demo"], ["snapshots"], ["keys"], ["init"]):
        done = site.run(*script, "--offsite")
        assert done.returncode == 6
        assert "OFFSITE_REPOSITORY is not set; see BACKUP.md, 'Off-site'" in done.stderr


def test_the_same_address_is_refused(twin):
    done = twin.run("offsite", OFFSITE_REPOSITORY=str(twin.repository))
    assert done.returncode == 6
    assert "OFFSITE_REPOSITORY is the same as RESTIC_REPOSITORY" in done.stderr


def test_the_same_repository_by_another_address_is_refused(twin):
    main = {"OFFSITE_PASSWORD_FILE": str(twin.password_file)}
    for address in (f"{twin.repository}/", f"local:{twin.repository}"):
        for script in (["offsite"], ["init", "--offsite", "--yes"]):
            done = twin.run(*script, OFFSITE_REPOSITORY=address, **main)
            assert done.returncode == 6
            assert "OFFSITE_REPOSITORY is RESTIC_REPOSITORY itself, or a copy of its files" in done.stderr


def test_a_copy_to_another_place_is_none(twin, tmp_path):
    twin.ok("backup", "demo")
    with served(twin, tmp_path / "server") as server:
        twin.ok("offsite", **at(server))
        assert offsite_line(twin, **at(server))["state"] == "well"
        shutil.copytree(twin.there, server.served / "elsewhere")
        there = {"OFFSITE_REPOSITORY": f"{server.url}elsewhere/"}
        line = offsite_line(twin, **there)
        assert (line["state"], line["fix"]) == ("bad", "make offsite")
        assert "no good copy is on record" in line["text"]
        (server.served / "elsewhere/config").unlink()
        assert twin.run("offsite", **there).returncode == 10
        assert "no restic repository at" in offsite_line(twin, **there)["text"]


@pytest.mark.slow("each trouble", keep=["full"])
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_main_volume_in_trouble_does_not_keep_its_snapshots_here(twin, small_disk, trouble):
    """The one time when the copy counts most; restic has no place for its lock there."""
    twin.ok("backup", "demo")
    main = {"RESTIC_REPOSITORY": str(small_disk / "restic")}
    shutil.copytree(twin.repository, small_disk / "restic")
    if trouble == "full":
        subprocess.run(["dd", "if=/dev/zero", f"of={small_disk}/filler"], capture_output=True)
    else:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = twin.ok("offsite", **main)
    assert "done: 1 snapshot copied" in said and "warning" not in said
    twin.ok("verify", "demo", "--offsite", **main)


@pytest.mark.slow("two repositories")
def test_trouble_with_what_is_copied_is_not_blamed_on_the_copy(twin, tmp_path):
    """The off-site folder is well, and the main repository's server is not there any more."""
    server = Rest(tmp_path / "server")
    server.start()
    server.put(twin.repository)
    fill(twin)
    main = {"RESTIC_REPOSITORY": server.url}
    twin.ok("backup", "production", **main)
    try:
        server.relay.after(6_000_000, server.kill)
        done = impatient(twin, "offsite", **main)
        assert (done.returncode, server.is_up) == (69, False), done
        assert f"the server of repository {server.shown} cannot be reached: " in done.stderr
    finally:
        server.stop()


@pytest.mark.long
def test_what_does_not_read_back_fails_the_run(twin):
    twin.ok("backup", "production")
    twin.ok("offsite")
    for pack in (twin.there / "data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            content = bytearray(pack.read_bytes())
            content[len(content) // 3] ^= 1
            pack.write_bytes(content)
    done = twin.run("offsite")
    assert done.returncode in (1, 4), done
    assert str(twin.there) in done.stderr
    line = offsite_line(twin)
    assert line["state"] == "bad" and "failed " in line["text"]


def test_a_copy_without_the_newest_is_none(twin):
    """A restic that copies nothing, and says that all is well; a fake, for no real one does."""
    twin.ok("backup", "production")
    twin.ok("offsite")
    execute(twin.database(), "DELETE FROM outbox")
    twin.ok("backup", "production")
    restic = twin.folder / "restic-that-copies-nothing"
    run_first(restic, '[ "$1" = copy ] && exit 0')
    done = twin.run("offsite", RESTIC=str(restic))
    assert done.returncode == 1
    assert f"the newest snapshot of production is not in {twin.there} after the copy" in done.stderr


def test_a_wrong_password_and_a_wrong_credential(twin, tmp_path):
    twin.ok("backup", "demo")
    with served(twin, tmp_path / "server") as server:
        done = twin.run("offsite", OFFSITE_REPOSITORY=server.wrong["RESTIC_REPOSITORY"])
        assert (done.returncode, len(done.stderr.splitlines())) == (77, 1), done
        assert server.secret not in done.stderr + done.stdout
        twin.there_password.write_text("another\n")
        done = twin.run("offsite", **at(server))
        assert done.returncode == 12
        assert f"the password in {twin.there_password} does not open repository {server.shown}" in done.stderr


@pytest.mark.slow("a server of its own")
def test_the_server_is_killed_in_the_middle_of_a_copy(twin, tmp_path):
    fill(twin)
    twin.ok("backup", "production")
    with served(twin, tmp_path / "server") as server:
        server.kill_after(3_000_000)
        done = impatient(twin, "offsite", **at(server))
        assert (done.returncode, len(done.stderr.splitlines())) == (69, 1), done
        assert f"the server of repository {server.shown} cannot be reached: " in done.stderr
        # neither repository is worse for it: the next runs deal with the locks that are left
        assert "0 old snapshots removed" in twin.ok("cron", "production")
        server.start()
        assert "done: 2 snapshots copied, " in twin.ok("offsite", **at(server))
        twin.ok("verify", "production", "--offsite", **at(server))


@pytest.mark.slow("waits")
def test_backups_go_on_while_the_other_server_hangs(twin, tmp_path):
    for _ in range(12):
        twin.ok("backup", "demo")
    with served(twin, tmp_path / "server") as server:
        fill(twin)
        twin.ok("backup", "production")
        server.relay.after(3_000_000, server.freeze)
        script = ROOT / "bin" / "dodeka-db-offsite.py"
        copy = subprocess.Popen(
            [script],
            env={**twin.environ, **at(server)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for(lambda: server.is_frozen or copy.poll() is not None)
            said = twin.ok("cron", "demo", **at(server))
            assert "an off-site copy is running, so no snapshot is removed" in said
            assert len(twin.snapshots("demo")) == 13
            second = twin.run("offsite", **at(server))
            assert second.returncode == 75
            assert "off-site copy, process " in second.stderr
            line = offsite_line(twin, **at(server))
            assert "off-site copy has been running for " in line["text"]
            assert f"(process {copy.pid})" in line["text"]
            # what restic has to be alone for waits, without keeping backups waiting
            check = twin.run("check", **at(server))
            assert check.returncode == 75 and "off-site copy, process " in check.stderr
        finally:
            server.thaw()
            assert copy.wait(300) == 0, copy.stdout.read()
        assert re.search(r"[234] old snapshots? removed", twin.ok("cron", "demo", **at(server)))


def offsite_line(twin: Site, **variables: str) -> dict:
    lines = json.loads(twin.run("status", "--json", **variables).stdout)["lines"]
    (line,) = (line for line in lines if line["subject"] == "off-site copy")
    return line


def test_the_status_shows_its_age(twin, site, tmp_path):
    assert offsite_line(site)["text"] == "none: OFFSITE_REPOSITORY is not set"
    assert offsite_line(site)["state"] == "note"
    with served(twin, tmp_path / "server") as server:
        line = offsite_line(twin, **at(server))
        assert (line["state"], line["fix"]) == ("bad", "make offsite")
        assert line["text"].startswith("no good copy is on record")
        twin.ok("backup", "demo")
        twin.ok("offsite", **at(server))
        line = offsite_line(twin, **at(server))
        assert line["state"] == "well"
        words = r"the last good copy was \d+ seconds? ago; off-site snapshots can be removed from here: BACKUP.md, 'Off-site' "
        assert re.fullmatch(rf"{words}\({re.escape(server.shown)}\)", line["text"])
        assert time.time() - line["offsite_success_timestamp_seconds"] < 120

        record = twin.state / "records" / "offsite.json"
        text = json.loads(record.read_text())
        for minutes, state in ((179, "well"), (181, "bad")):
            passed = (datetime.now().astimezone() - timedelta(minutes=minutes)).isoformat()
            record.write_text(json.dumps({**text, "passed": passed}))
            line = offsite_line(twin, **at(server))
            assert (line["state"], line["fix"]) == (state, "make offsite" if state == "bad" else None)
        twin.there_password.chmod(0o644)
        line = offsite_line(twin, **at(server))
        assert (line["state"], line["fix"]) == ("bad", f"chmod 600 {twin.there_password}")
        assert "can be read by others" in line["text"]


def test_a_folder_on_the_disk_of_the_main_repository_is_no_second_place(twin, small_disk):
    """Nor is it one where that disk is mounted a second time; another disk is."""
    record = {"passed": datetime.now().astimezone().isoformat(), "failed": None, "error": "", "details": {}}
    (twin.state / "records").mkdir()
    (twin.state / "records/offsite.json").write_text(json.dumps(record))
    mounted = twin.folder / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "--bind", twin.folder, mounted], check=True)
    try:
        for place in (twin.there, mounted / "there", mounted / "not made yet"):
            line = offsite_line(twin, OFFSITE_REPOSITORY=str(place))
            assert (line["state"], line["fix"]) == ("bad", "a place elsewhere: BACKUP.md, 'Off-site'")
            assert f"is on the disk of {twin.repository}: one failure would destroy both" in line["text"]
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert offsite_line(twin, OFFSITE_REPOSITORY=str(small_disk / "there"))["state"] == "well"


def test_restore_and_verify_from_it_alone(twin):
    """Without the main repository, into the place of a database that has gone."""
    digest = sample_data.digest(twin.database())
    twin.ok("backup", "production")
    twin.ok("offsite")
    shutil.rmtree(twin.repository)
    twin.database().unlink()
    assert "is a whole database" in twin.ok("verify", "production", "--offsite")
    said = twin.ok("restore", "production", "--offsite", "--snapshot=latest", "--yes")
    assert re.search(r"done: production has the data of snapshot \w{8} of the off-site repository\n", said)
    assert sample_data.digest(twin.database()) == digest


@pytest.mark.slow("two repositories")
def test_what_a_restore_from_it_replaces_goes_to_the_main_repository(twin):
    twin.ok("backup", "demo")
    twin.ok("offsite")
    execute(twin.database("demo"), "DELETE FROM outbox")
    twin.ok("restore", "demo", "--offsite", "--snapshot=latest", "--yes")
    assert "pre-restore" in twin.snapshots("demo")[-1]["tags"]
    assert len(twin.listed_there("demo")) == 1
    twin.ok("undo", "demo", "--yes")


@pytest.mark.slow("two repositories")
def test_a_drill_there_does_not_keep_the_retention_from_its_work(twin):
    """Only a copy does."""
    for _ in range(12):
        twin.ok("backup", "demo")
    holder = subprocess.Popen(
        [ROOT / ".venv/bin/python", "-c", HOLDER, str(twin.state / "offsite")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert re.search(r"[1-9] old snapshots? removed", twin.ok("cron", "demo"))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


HOLDER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "bin")!r})
from dodeka_db.host import run_lock
Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
with run_lock.held(Path(sys.argv[1]), "drill of demo", 1):
    print("held", flush=True)
    time.sleep(100)
"""


def test_init_with_an_offsite_repository_that_does_not_open(twin):
    """It says so of that one, and makes nothing."""
    shutil.rmtree(twin.repository)
    twin.password_file.unlink()
    twin.there_password.write_text("wrong\n")
    done = twin.run("init", "--yes")
    assert done.returncode == 12
    assert (
        f"the chunking of the off-site repository is not known: the password in {twin.there_password} does not open"
        in done.stderr
    )
    assert "take OFFSITE_REPOSITORY out of the settings for now" in done.stderr
    assert not twin.repository.exists() and not twin.password_file.exists()


@pytest.fixture
def append_only(twin, tmp_path) -> Iterator[AppendOnly]:
    """The off-site repository of `twin` behind the key that BACKUP.md gives to this machine."""
    server = AppendOnly(tmp_path / "append-only")
    server.start()
    server.put(twin.there)
    yield server
    server.stop()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_copy_that_nobody_here_can_destroy(twin, append_only):
    there = append_only.variables
    twin.ok("backup", "production", **there)
    twin.ok("backup", "demo", **there)
    said = twin.ok("offsite", **there)
    assert re.search(
        r"done: 2 snapshots copied, .*, retention left to the server, off-site snapshots cannot be removed from here, ",
        said,
    )
    line = offsite_line(twin, **there)
    assert line["state"] == "well"
    assert line["text"].endswith("; off-site snapshots cannot be removed from here (rclone:offsite:restic)")
    before = names(append_only.served)
    # the probe is there, and is nobody's snapshot
    assert len([name for name in before if name.startswith("snapshots/")]) == 3
    assert len(twin.listed_there(**there)) == len(twin.listed_there("demo", **there)) == 1
    assert twin.run("verify", "production", "--offsite", **there).returncode == 0

    twin.ok("offsite", **there)
    assert names(append_only.served) == before, "nothing piles up"

    # with all that is on this machine
    password = twin.there_password.read_text().strip()
    newest = twin.listed_there(**there)[0]["id"]
    for words in (["forget", "--prune", newest], ["key", "remove", "x"], ["prune", "--max-unused", "0"]):
        with suppress(subprocess.TimeoutExpired):
            append_only.restic(password, *words)
    append_only.restic(password, "unlock", "--remove-all")
    config = append_only.folder / "bin/config"
    for words in ("rm -rf restic", f"rm -rf {append_only.served}", "rclone purge restic"):
        account = append_only.program.split()[1:]
        ssh = ["ssh", "-F", str(config), *account, words]
        subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    assert before <= names(append_only.served)
    twin.ok("restore", "demo", "--offsite", "--snapshot=latest", "--yes", **there)


@pytest.mark.slow("every command")
def test_every_command_takes_the_options(twin, append_only, tmp_path):
    """init, copy, snapshots, restore, verify, keys, restic, and the sheet."""
    there = append_only.variables
    shutil.rmtree(append_only.served)
    twin.there_password.unlink()
    said = twin.ok("init", "--offsite", "--yes", **there)
    assert f"repository rclone:offsite:restic: made, with the chunking of {twin.repository}\n" in said
    twin.ok("backup", "production", **there)
    twin.ok("offsite", **there)
    twin.ok("snapshots", "--offsite", **there)
    twin.ok("verify", "production", "--offsite", **there)
    twin.ok("restore", "production", "--offsite", "--snapshot=latest", "--yes", **there)
    twin.ok("key-add", "anna", "--offsite", **there)
    assert "anna" in twin.ok("keys", "--offsite", **there)
    assert '"hostname"' in twin.run("restic", "--offsite", "--", "snapshots --json", **there).stdout
    sheet = twin.ok("recovery-sheet", **there)
    assert f"options of restic        rclone.program={append_only.program}\n" in sheet
    assert f"restic -o 'rclone.program={append_only.program}' snapshots" in sheet
    # a main repository that is made from it: there it is the source
    shutil.rmtree(twin.repository)
    said = twin.ok("init", "--yes", **there)
    assert f"repository {twin.repository}: made, with the chunking of rclone:offsite:restic\n" in said


@pytest.mark.slow("every command")
def test_what_an_append_only_server_refuses_is_said_at_once(twin, append_only):
    there = append_only.variables
    for _ in range(13):
        twin.ok("backup", "demo")
    twin.ok("offsite", **there)
    twin.ok("key-add", "anna", "--offsite", **there)
    started = time.monotonic()
    for script, said in (
        (["key-remove", "anna", "--offsite"], ""),
        (["offsite"], "0 snapshots copied, and the newest read back, but nothing old was removed: "),
    ):
        done = twin.run(*script, **{**there, "OFFSITE_RETENTION": "same"})
        assert (done.returncode, len(done.stderr.splitlines())) == (77, 1), done
        assert (
            f"{said}the server of repository rclone:offsite:restic does not allow removals: " in done.stderr
        )
        assert "403 Forbidden" in done.stderr
    assert done.stderr.endswith("; if the server must be append-only, set OFFSITE_RETENTION=none\n")
    assert time.monotonic() - started < 60, "restic itself would go on trying for a quarter of an hour"
    assert not list((append_only.served / "locks").iterdir())
    assert [words.split()[1] for words in twin.ok("keys", "--offsite", **there).splitlines()[1:]][1:] == [
        "anna"
    ]


@pytest.mark.slow("a server of its own")
def test_a_lock_that_was_left_on_an_append_only_server_goes(twin, append_only):
    """Its removal is the one that rclone allows."""
    there = append_only.variables
    twin.ok("backup", "demo")
    restic = subprocess.Popen(
        [RESTIC, "-q", "backup", "--stdin"],
        env={
            **twin.environ,
            "RESTIC_REPOSITORY": str(append_only.served),
            "RESTIC_PASSWORD_FILE": str(twin.there_password),
        },
        stdin=subprocess.PIPE,
    )
    wait_for(lambda: list((append_only.served / "locks").glob("?" * 64)))
    restic.kill()
    restic.wait()
    twin.ok("offsite", **there)  # the attempt to remove needs the repository for itself
    assert not list((append_only.served / "locks").iterdir())


@pytest.mark.slow("a server of its own")
def test_what_can_be_removed_is_said_and_leaves_no_probe(twin):
    twin.ok("backup", "demo")
    for _ in range(2):
        said = twin.ok("offsite")
        assert re.search(r"done: .*, off-site snapshots can be removed from here, \d", said)
    assert len(json.loads(twin.restic_there("snapshots", "--json"))) == 1
    files = names(twin.there)
    twin.ok("offsite")
    assert names(twin.there) == files, "nothing piles up"


def test_a_removal_that_is_not_one_is_not_believed(twin):
    """A restic that removes nothing, and says that all is well: the attempt looks at what is there afterwards; a fake."""
    twin.ok("backup", "demo")
    restic = twin.folder / "restic-that-forgets-nothing"
    run_first(restic, '[ "$1" = forget ] && exit 0')
    assert "cannot be removed from here" in twin.ok("offsite", RESTIC=str(restic), OFFSITE_RETENTION="none")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"OFFSITE_REPOSITORY": "rclone:x"},
            "OFFSITE_REPOSITORY=rclone:x does not name an rclone remote; write rclone:NAME:FOLDER",
        ),
        ({"OFFSITE_REPOSITORY": "rclone:/srv/x:y"}, "does not name an rclone remote"),
        ({"RESTIC_REPOSITORY": "rclone:x"}, "RESTIC_REPOSITORY=rclone:x does not name an rclone remote"),
        (
            {"OFFSITE_OPTIONS": "ssh offsite"},
            "OFFSITE_OPTIONS contains 'ssh offsite', which is not a restic option; write it as 'rclone.program=ssh offsite', and",
        ),
        (
            {
                "OFFSITE_REPOSITORY": "rest:http://anna:very-secret@127.0.0.1/",
                "OFFSITE_OPTIONS": "rclone.program=http://anna:very-secret@127.0.0.1/",
            },
            "OFFSITE_OPTIONS contains a password, which every user could see in the process list",
        ),
        (
            {"OFFSITE_OPTIONS": "rclone.program=ssh offsite; rclone.timeout"},
            "OFFSITE_OPTIONS contains 'rclone.timeout', ",
        ),
        (
            {"RESTIC_REPOSITORY": "rclone:main:x", "OFFSITE_OPTIONS": "rclone.program=ssh offsite"},
            "OFFSITE_OPTIONS sets an option of rclone, which RESTIC_REPOSITORY uses too; ",
        ),
    ],
)
def test_an_address_and_options_that_make_no_sense(twin, variables, said):
    done = twin.run("offsite", **variables)
    assert (done.returncode, len(done.stderr.splitlines())) == (6, 1), done
    assert said in done.stderr


def test_several_options_reach_restic_as_they_are(twin):
    log = twin.folder / "starts"
    restic = twin.folder / "restic-that-notes"
    run_first(restic, f'printf "%s\\n" "$@" "" >> {log}')
    twin.ok("backup", "demo", OFFSITE_OPTIONS="sftp.connections=2", RESTIC=str(restic))
    assert "sftp" not in log.read_text(), "the main repository has none of them"
    twin.ok("offsite", OFFSITE_OPTIONS="sftp.command=ssh -p 22 x; sftp.connections=2 ;", RESTIC=str(restic))
    (copy,) = (words for words in log.read_text().split("\n\n") if words.startswith("copy\n"))
    assert copy.splitlines()[1:3] == ["--option=sftp.command=ssh -p 22 x", "--option=sftp.connections=2"]


@pytest.mark.slow("waits")
def test_one_that_finds_a_copy_at_work_leaves_the_record_to_it(twin):
    """The hourly run behind a first copy that takes a day."""
    twin.ok("backup", "demo")
    twin.ok("offsite")
    holder = subprocess.Popen(
        [ROOT / ".venv/bin/python", "-c", HOLDER, str(twin.state / "offsite")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert twin.run("offsite").returncode == 75
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert json.loads((twin.state / "records/offsite.json").read_text())["failed"] is None


@pytest.mark.long
def test_the_page_s_prune_keeps_what_is_honest(twin):
    """By the page's own commands, in a repository to which an intruder has added snapshots with chosen times.

    They fill every place that a rule by numbers has: under the policy of the main repository the honest ones would go.
    """
    twin.there.chmod(0o700)
    now = datetime.now().replace(microsecond=0)

    def store(time: datetime, content: str, tags: str = "db,db_sqlite,db_dodeka,env_production") -> str:
        environ = {"RESTIC_REPOSITORY": str(twin.there), "RESTIC_PASSWORD_FILE": str(twin.there_password)}
        environ = {**twin.environ, **environ, "RESTIC_CACHE_DIR": str(twin.folder / "cache")}
        words = ["backup", "--json", "--stdin", "--stdin-filename", "dodeka-production.sqlite.zst"]
        words += ["--tag", tags, "--time", f"{time:%Y-%m-%d %H:%M:%S}"]
        done = subprocess.run(
            [RESTIC, *words], env=environ, input=content, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])["snapshot_id"][:8]

    hours = [now.replace(minute=59, second=59) - timedelta(hours=count) for count in range(1, 24)]
    days = [now.replace(hour=23, minute=59, second=59) - timedelta(days=count) for count in range(1, 9)]
    months = [now.replace(day=1, hour=0, minute=0, second=0) - timedelta(seconds=1)]
    while len(months) < 7:  # the last second of each of them
        months.append(months[-1].replace(day=1, hour=0, minute=0, second=0) - timedelta(seconds=1))
    last = [now - timedelta(seconds=count) for count in range(10)]
    weeks = [days[now.weekday()] - timedelta(weeks=count) for count in range(5)]
    honest = {
        store(now - timedelta(days=days, minutes=7), f"honest {days}")
        for days in (0, 1, 2, 3, 5, 9, 20, 40, 80, 120, 170)
    }
    old = store(now - timedelta(days=190), "old")
    for time_ in {*hours, *days, *months, *last, *weeks, now + timedelta(days=3650)}:
        store(time_, "hostile")

    def left(tag: str = "db_dodeka") -> set[str]:
        return {one["short_id"] for one in json.loads(twin.restic_there("snapshots", "--json", "--tag", tag))}

    assert honest < left()
    keep = [
        word for period, count in retention_policy.KEEP.items() for word in (f"--keep-{period}", str(count))
    ]
    output = twin.restic_there(
        "forget", "--dry-run", "--json", "--group-by", "tags", "--tag", "db_dodeka", *keep
    )
    removed = {one["short_id"] for group in json.loads(output.splitlines()[0]) for one in group["remove"]}
    assert honest <= removed, "what the page warns of"

    section = console_blocks.section((ROOT / "BACKUP.md").read_text(), "Prune from elsewhere")
    (commands,) = re.findall(r"^```sh\n(.*?)```", section, re.MULTILINE | re.DOTALL)
    address, *others = commands.splitlines()
    assert address == "export RESTIC_REPOSITORY=sftp:dodeka@backup.example.org:restic"
    environ = {
        **twin.environ,
        "RESTIC_REPOSITORY": str(twin.there),
        "RESTIC_PASSWORD_FILE": str(twin.there_password),
    }
    environ |= {
        "PATH": f"{Path(RESTIC).parent}:{os.environ['PATH']}",
        "RESTIC_CACHE_DIR": str(twin.folder / "cache"),
    }
    subprocess.run(["sh", "-ec", "\n".join(others)], env=environ, check=True, capture_output=True)
    assert honest <= left()
    assert old not in left(), "it does prune"
    twin.restic_there("check", "--read-data")


def rows_on_record(twin: Twin, state: Path) -> set[str]:
    return {file.stem for file in (state / "rows").glob("*")}


def test_a_copy_finds_the_rows_of_its_original_and_keeps_them_when_that_is_gone(twin):
    twin.ok("backup", "production")
    execute(twin.database(), "DELETE FROM tokens")
    twin.ok("backup", "production")
    here = twin.snapshots()
    twin.ok("offsite")
    there = twin.listed_there()
    assert [one["stored_as"] for one in there] == [one["id"] for one in here]
    assert [one["rows"] for one in there] == [one["rows"] for one in here]
    assert "400 members" in twin.ok("snapshots", "production", "--offsite")
    assert "tokens -8" in twin.ok("snapshots", "production", "--offsite")

    twin.restic("forget", here[0]["id"])
    twin.ok("cron", "demo")  # whose retention removes the records of what is gone
    gone = here[0]["short_id"]
    assert gone not in rows_on_record(twin, twin.state)
    assert gone in rows_on_record(twin, twin.state / "offsite")
    assert [one["rows"] for one in twin.listed_there()] == [one["rows"] for one in here]
    twin.restic_there("forget", there[0]["id"])
    twin.ok("offsite")
    assert gone not in rows_on_record(twin, twin.state / "offsite")


def test_records_are_trimmed_there_without_a_retention_too(twin):
    twin.ok("backup", "production")
    twin.ok("offsite", OFFSITE_RETENTION="none")
    assert rows_on_record(twin, twin.state / "offsite") == {twin.snapshots()[0]["short_id"]}
    twin.restic_there("forget", twin.listed_there()[0]["id"])
    twin.ok("backup", "production")
    second = twin.snapshots()[1]
    twin.restic("forget", twin.snapshots()[0]["id"])
    twin.ok("offsite", OFFSITE_RETENTION="none")
    assert rows_on_record(twin, twin.state / "offsite") == {second["short_id"]}


def test_after_the_loss_of_this_server_the_copies_are_counted(twin):
    twin.ok("backup", "production")
    twin.ok("offsite")
    (before,) = twin.listed_there()
    shutil.rmtree(twin.state)
    listed = twin.ok("snapshots", "production", "--offsite")
    assert listed.splitlines()[-2] == "  make snapshots ENV=production ALL=1 OFFSITE=1"
    assert [one["rows"] for one in twin.listed_there()] == [None]
    assert twin.run("snapshots", "--offsite", "--all").returncode == 0
    assert twin.listed_there() == [before]
    assert rows_on_record(twin, twin.state / "offsite") == {before["stored_as"][:8]}
    assert not (twin.state / "rows").exists()
