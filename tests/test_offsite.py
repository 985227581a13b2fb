"""The second copy: what goes there, what is proven of it, and all that can go wrong on the way."""

import json
import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cheap_key import reseal
from remotes import Rest, execute, fill, impatient
from sites import RESTIC, ROOT, Site

from dodeka_db import members, restic


class Twin(Site):
    """A site that has an off-site repository: a folder, if a test does not put a server in its place."""

    @property
    def there(self) -> Path:
        return self.folder / "there"

    @property
    def there_password(self) -> Path:
        return self.folder / "there-password"

    @property
    def variables(self) -> dict[str, str]:
        return {
            **super().variables,
            "OFFSITE_REPOSITORY": str(self.there),
            "OFFSITE_PASSWORD_FILE": str(self.there_password),
        }

    def restic_there(self, *arguments: str) -> str:
        """restic itself on the off-site folder."""
        environ = {"RESTIC_REPOSITORY": str(self.there), "RESTIC_PASSWORD_FILE": str(self.there_password)}
        environ = {**self.environ, **environ, "RESTIC_CACHE_DIR": str(self.folder / "cache")}
        return subprocess.run(
            [RESTIC, *arguments], env=environ, capture_output=True, text=True, check=True
        ).stdout

    def listed_there(self, environment: str = "production", **variables: str) -> list[dict]:
        return json.loads(self.ok("snapshots", environment, "--offsite", "--json", **variables))


@pytest.fixture(scope="module")
def made(empty_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by `make init OFFSITE=1` and copied; the repositories' keys are cheap."""
    folder = tmp_path_factory.mktemp("twin") / "site"
    shutil.copytree(empty_site, folder)
    twin = Twin(folder)
    made = twin.ok("init", "--yes", "--offsite")
    assert f"repository {twin.there}: made, with the chunking of {twin.repository}\n" in made
    assert f"made password file {twin.there_password}\n" in made
    reseal(twin.there, twin.there_password.read_text().strip())
    return folder


@pytest.fixture
def twin(made: Path, tmp_path: Path) -> Twin:
    shutil.copytree(made, tmp_path / "twin")
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
    assert "done: 1 snapshots copied, " in twin.ok("offsite")
    assert [one["id"] for one in twin.listed_there()][:1] == [one["id"] for one in first]
    assert len(twin.listed_there()) == 2


def test_other_things_in_the_repository_are_not_copied(twin):
    twin.ok("backup", "demo")
    twin.restic("backup", "--stdin", "--tag", "photos", input="x")
    assert "done: 1 snapshots copied, " in twin.ok("offsite")
    assert len(json.loads(twin.restic_there("snapshots", "--json"))) == 1


def test_one_call_of_restic_copies(twin):
    for _ in range(3):
        twin.ok("backup", "demo")
    log = twin.folder / "starts"
    restic = twin.folder / "restic-that-notes"
    restic.write_text(f'#!/bin/sh\necho "$1" >> {log}\nexec {RESTIC} "$@"\n')
    restic.chmod(0o755)
    twin.ok("offsite", RESTIC=str(restic))
    assert log.read_text().split().count("copy") == 1


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
    assert "done: 1 snapshots copied, " in twin.ok("offsite")
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
    assert f"repository {tmp_path / 'other'}: was there already, nothing to do\n" in said
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
    restic.write_text(f'#!/bin/sh\n[ "$1" = init ] && exit 1\nexec {RESTIC} "$@"\n')
    restic.chmod(0o755)
    done = twin.run("init", "--yes", RESTIC=str(restic))
    assert done.returncode == 1
    password = twin.password_file.read_text()  # it may be the repository's already
    assert "KEEP ITS CONTENT SOMEWHERE ELSE TOO" in twin.ok("init", "--yes")
    assert twin.password_file.read_text() == password


def test_init_before_there_is_an_offsite_repository(twin):
    """The first time OFFSITE_REPOSITORY may be set already."""
    shutil.rmtree(twin.repository)
    shutil.rmtree(twin.there)
    assert f"repository {twin.repository}: made\n" in twin.ok("init", "--yes")
    shutil.rmtree(twin.repository)
    twin.there_password.unlink()
    said = twin.ok("init", "--yes")
    assert f"{twin.there} is not looked at: {twin.there_password} is missing\n" in said
    shutil.rmtree(twin.repository)
    done = twin.run("init", "--yes", "--offsite")
    assert done.returncode == 10
    assert f"no restic repository at {twin.repository}" in done.stderr
    assert not twin.there_password.exists() and not twin.there.exists()


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
    assert "OFFSITE_RETENTION=some is not a retention; choose same or none" in done.stderr


def test_an_append_only_server(twin, tmp_path):
    """It refuses to let anything be removed: the run says so plainly, at once, and what there is is safe."""
    for _ in range(13):
        twin.ok("backup", "demo")
    with served(twin, tmp_path / "server", "--append-only") as server:
        started = time.monotonic()
        done = twin.run("offsite", **at(server))
        assert (done.returncode, len(done.stderr.splitlines())) == (77, 1), done
        assert (
            "13 snapshots are copied, and the newest read back, but nothing old was removed: " in done.stderr
        )
        assert f"the server of repository {server.shown} refuses us: " in done.stderr
        assert "403 Forbidden" in done.stderr
        assert done.stderr.endswith("; if it is to be so (append-only): OFFSITE_RETENTION=none\n")
        assert time.monotonic() - started < restic.GIVE_UP_S
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


def test_a_copy_to_another_place_is_none(twin):
    twin.ok("backup", "demo")
    twin.ok("offsite")
    assert offsite_line(twin)["state"] == "well"
    shutil.move(twin.there, twin.folder / "elsewhere")
    there = {"OFFSITE_REPOSITORY": str(twin.folder / "elsewhere")}
    line = offsite_line(twin, **there)
    assert (line["state"], line["fix"]) == ("bad", "make offsite")
    assert "no good copy is on record" in line["text"]
    (twin.folder / "elsewhere/config").unlink()
    assert twin.run("offsite", **there).returncode == 10
    assert "no restic repository at" in offsite_line(twin, **there)["text"]


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
    assert "done: 1 snapshots copied" in said and "warning" not in said
    twin.ok("verify", "demo", "--offsite", **main)


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
    restic.write_text(f'#!/bin/sh\n[ "$1" = copy ] && exit 0\nexec {RESTIC} "$@"\n')
    restic.chmod(0o755)
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
            assert "the off-site copy is at work, so nothing is removed" in said
            assert len(twin.snapshots("demo")) == 13
            second = twin.run("offsite", **at(server))
            assert second.returncode == 75
            assert "off-site copy, process " in second.stderr
            line = offsite_line(twin, **at(server))
            assert f"off-site copy is at work (process {copy.pid})" in line["text"]
            # what restic has to be alone for waits, without keeping backups waiting
            check = twin.run("check", **at(server))
            assert check.returncode == 75 and "off-site copy, process " in check.stderr
        finally:
            server.thaw()
            assert copy.wait(300) == 0, copy.stdout.read()
        assert re.search(r"[234] old snapshots removed", twin.ok("cron", "demo", **at(server)))


def wait_for(what) -> None:
    for _ in range(3000):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come")


def offsite_line(twin: Site, **variables: str) -> dict:
    lines = json.loads(twin.run("status", "--json", **variables).stdout)["lines"]
    (line,) = (line for line in lines if line["subject"] == "off-site copy")
    return line


def test_the_status_shows_its_age(twin, site):
    assert offsite_line(site)["text"] == "none: OFFSITE_REPOSITORY is not set"
    assert offsite_line(site)["state"] == "well"
    line = offsite_line(twin)
    assert (line["state"], line["fix"]) == ("bad", "make offsite")
    assert line["text"].startswith("no good copy is on record")
    twin.ok("backup", "demo")
    twin.ok("offsite")
    line = offsite_line(twin)
    assert line["state"] == "well"
    assert re.fullmatch(rf"the last good copy was \d+ seconds? ago \({twin.there}\)", line["text"])
    assert time.time() - line["offsite_success_timestamp_seconds"] < 60

    record = twin.state / "records" / "offsite.json"
    text = json.loads(record.read_text())
    record.write_text(json.dumps({**text, "passed": "2026-01-01T00:00:00+00:00"}))
    line = offsite_line(twin)
    assert (line["state"], line["fix"]) == ("bad", "make offsite")
    twin.there_password.chmod(0o644)
    line = offsite_line(twin)
    assert (line["state"], line["fix"]) == ("bad", f"chmod 600 {twin.there_password}")
    assert "can be read by others" in line["text"]


def test_restore_and_verify_from_it_alone(twin):
    """Without the main repository, into the place of a database that has gone."""
    digest = members.digest(twin.database())
    twin.ok("backup", "production")
    twin.ok("offsite")
    shutil.rmtree(twin.repository)
    twin.database().unlink()
    assert "is a whole database" in twin.ok("verify", "production", "--offsite")
    said = twin.ok("restore", "production", "--offsite", "--snapshot=latest", "--yes")
    assert re.search(r"done: production has the data of snapshot \w{8} of the off-site repository\n", said)
    assert members.digest(twin.database()) == digest


def test_what_a_restore_from_it_replaces_goes_to_the_main_repository(twin):
    twin.ok("backup", "demo")
    twin.ok("offsite")
    execute(twin.database("demo"), "DELETE FROM outbox")
    twin.ok("restore", "demo", "--offsite", "--snapshot=latest", "--yes")
    assert "pre-restore" in twin.snapshots("demo")[-1]["tags"]
    assert len(twin.listed_there("demo")) == 1
    twin.ok("undo", "demo", "--yes")


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
        assert re.search(r"[1-9] old snapshots removed", twin.ok("cron", "demo"))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


HOLDER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "bin")!r})
from dodeka_db import lock
Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
with lock.held(Path(sys.argv[1]), "drill of demo", 1):
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
    assert f"no chunking to take over: the password in {twin.there_password} does not open" in done.stderr
    assert "take OFFSITE_REPOSITORY out of the settings for now" in done.stderr
    assert not twin.repository.exists() and not twin.password_file.exists()
