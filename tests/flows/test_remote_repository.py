"""A repository on a server: every command, and every way in which the server can fail it."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dodeka_db import schedule
from dodeka_db.restic import server_watch
from remote_servers import IMPATIENT_S, KINDS, S3, Remote, Rest, execute, fill, impatient, rows
from site_folder import RESTIC, Site, run_first


@pytest.fixture(params=KINDS)
def remote(request, site: Site, tmp_path: Path) -> Iterator[Remote]:
    """A server of each kind, with the site's repository on it."""
    yield from served(KINDS[request.param](tmp_path / "remote"), site)


@pytest.fixture
def rest(site: Site, tmp_path: Path) -> Iterator[Rest]:
    yield from served(Rest(tmp_path / "remote"), site)


def served(server: Remote, site: Site) -> Iterator[Remote]:
    try:
        server.start()
        server.put(site.repository)
        yield server
    finally:
        server.stop()


@pytest.mark.slow("each kind of server", keep=["[rest]"])
@pytest.mark.long
def test_every_command(site, remote):
    """From init to undo, as on a local repository; what only that has is left out of the status."""

    def run(*arguments: str) -> str:
        return site.ok(*arguments, **remote.variables)

    shown = remote.shown
    assert f"repository {shown}: exists already, nothing to do" in run("init")
    before = rows(site.database())
    assert f"storing it in {shown}" in run("backup", "production")
    run("backup", "demo")
    run("cron", "production")
    run("cron", "demo")
    listed = json.loads(run("snapshots", "--json"))
    assert [one["environment"] for one in listed] == ["production", "demo", "production", "demo"]
    assert "is a whole database" in run("verify", "production")
    run("check")
    execute(site.database(), "DELETE FROM users_by_email")
    run("restore", "production", "--snapshot", "latest", "--yes")
    assert rows(site.database()) == before
    run("undo", "production", "--yes")
    assert not [row for row in rows(site.database()) if row.startswith('INSERT INTO "users_by_email" ')]
    assert "in use" in run("keys")

    status = site.run("status", "--json", **remote.variables)
    lines = {(line["subject"], line["environment"]): line for line in json.loads(status.stdout)["lines"]}
    assert ("volume", None) not in lines
    assert lines["repository", None]["text"] == f"{shown} opens"
    assert {lines[what, "production"]["state"] for what in ("snapshots", "size", "cron", "drill")} == {"well"}
    assert lines["check", None]["state"] == "well"
    assert remote.secret not in status.stdout


@pytest.mark.slow("each kind of server")
def test_a_first_repository_is_made(site, tmp_path):
    for kind in KINDS:
        server = KINDS[kind](tmp_path / kind)
        server.start()
        try:
            none = site.run("backup", "demo", **server.variables)
            assert none.returncode == 10
            assert "is its address right? (to create the first repository: make init)" in none.stderr
            assert ": made" in site.ok("init", **server.variables)
            site.ok("backup", "demo", **server.variables)
        finally:
            server.stop()


@pytest.mark.slow("each kind of server", keep=["rest"])
def test_a_wrong_credential(site, remote):
    """It is said within seconds, although restic would go on trying, and nowhere is a secret in it."""
    for script in (["backup", "production"], ["cron", "production"], ["snapshots"], ["init"], ["check"]):
        started = time.monotonic()
        done = site.run(*script, **remote.wrong)
        assert len(done.stderr.splitlines()) == 1
        if done.returncode == 69:  # restic may end before it has read what ssh says
            assert "unable to start the sftp session" in done.stderr
            assert "check that ssh to it works by hand" in done.stderr
        else:
            assert done.returncode == 77
            assert "refuses access: " in done.stderr
            assert "; check the credentials, and what they allow (docs/repositories.md" in done.stderr
        assert time.monotonic() - started < server_watch.LOOK_S
        assert remote.secret not in done.stdout + done.stderr
    record = (site.state / "records" / "cron-production.json").read_text()
    assert "refuses access" in record or "check that ssh to it works" in record
    assert remote.secret not in record


@pytest.mark.slow("a repository of its own")
def test_a_certificate_that_nobody_vouches_for(site, tmp_path):
    """It is neither the network nor a password, and no waiting makes it better."""
    words = [
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    files = ("-keyout", tmp_path / "key", "-out", tmp_path / "certificate")
    subprocess.run([*words, *files], check=True, capture_output=True)
    (tmp_path / "remote").mkdir()
    server = Rest(tmp_path / "remote", f"--cert={tmp_path}/certificate", f"--key={tmp_path}/key")
    variables = {"RESTIC_REPOSITORY": server.url.replace("http://", "https://")}
    try:
        server.start()
        for words in (["backup", "demo"], ["snapshots"]):
            started = time.monotonic()
            done = site.run(*words, **variables)
            assert (done.returncode, len(done.stderr.splitlines())) == (69, 1)
            assert "x509" in done.stderr and "check its certificate and the clock" in done.stderr
            assert "network up" not in done.stderr
            assert time.monotonic() - started < 20
        trusted = {**variables, "SSL_CERT_FILE": str(tmp_path / "certificate")}  # as the message says
        site.ok("init", **trusted)
        site.ok("backup", "demo", **trusted)
    finally:
        server.stop()


@pytest.mark.slow("each kind of server", keep=["rest-script0", "list[rest]"])
def test_no_secret_is_in_a_process_list(site, remote):
    seen, ended = [], threading.Event()

    def look() -> None:
        while not ended.is_set():
            for process in filter(str.isdigit, os.listdir("/proc")):
                try:
                    words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if int(process) != remote.process:
                    seen.append(words)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        site.ok("cron", "production", **remote.variables)
        site.ok("verify", "production", **remote.variables)
    finally:
        ended.set()
        looker.join()
    assert any("dump" in words for words in seen)
    assert not [words for words in seen if remote.secret in words]


@pytest.mark.slow("each kind of server", keep=["[rest]"])
@pytest.mark.long
def test_the_server_is_killed_in_the_middle_of_a_backup(site, remote):
    fill(site)
    remote.kill_after(3_000_000)
    done = impatient(site, "backup", "production", **remote.variables)
    assert (done.returncode, remote.is_up) == (69, False), done
    (line,) = done.stderr.splitlines()
    assert f"the server of repository {remote.shown} cannot be reached: " in line
    assert line.endswith(", then run this again")
    assert site.staged() == []
    if isinstance(remote, S3):
        return  # what it kept is gone with it
    remote.start()
    site.ok("cron", "production", **remote.variables)
    assert site.ok("check", **remote.variables).endswith(" s\n")
    assert len(json.loads(site.ok("snapshots", "--json", **remote.variables))) == 1


@pytest.mark.slow("each kind of server, once more in a restore")
def test_the_server_is_killed_in_the_middle_of_a_restore(site, remote):
    fill(site)
    site.ok("backup", "production", **remote.variables)
    before = rows(site.database())
    remote.kill_after(3_000_000)
    done = impatient(site, "restore", "production", "--snapshot=latest", "--yes", **remote.variables)
    assert (done.returncode, remote.is_up) == (69, False), done
    assert "cannot be reached: " in done.stderr
    assert rows(site.database()) == before
    assert [path.name for path in site.database().parent.iterdir()] == ["db.sqlite"]
    if isinstance(remote, S3):
        return  # what it kept is gone with it
    remote.start()
    site.ok("restore", "production", "--snapshot=latest", "--yes", **remote.variables)


@pytest.mark.slow("each kind of server", keep=["rest-script0", "list[rest]"])
@pytest.mark.parametrize(
    "script", [["cron", "production"], ["restore", "production", "--snapshot=latest", "--yes"]]
)
@pytest.mark.long
def test_the_server_hangs_in_the_middle(site, remote, script):
    """Nothing comes any more, and nothing ends it: for ever, if restic were asked."""
    fill(site)
    site.ok("backup", "production", **remote.variables)
    execute(site.database(), "UPDATE photos SET photo = randomblob(1000000)")
    before = rows(site.database())
    remote.relay.after(3_000_000, remote.freeze)
    done = impatient(site, *script, **remote.variables)
    remote.thaw()
    assert remote.is_frozen
    assert (done.returncode, len(done.stderr.splitlines())) == (69, 1), done
    assert f"cannot be reached: no data for {IMPATIENT_S} s; " in done.stderr
    assert rows(site.database()) == before
    site.ok("cron", "production", **remote.variables)


@pytest.mark.long
def test_a_server_that_hangs_from_the_start_is_not_waited_for_as_long(site, rest):
    fill(site)
    rest.freeze()
    # as restic 0.18 reads files of the machine, on one with many mounts
    restic, file = site.folder / "reading-restic", site.folder / "file"
    file.write_text("of the machine\n" * 2000)
    run_first(restic, f"while read -r line; do :; done < {file}")
    variables = {**rest.variables, "RESTIC": str(restic)}
    began = time.monotonic()
    done = impatient(site, "backup", "production", look_s=8, patience_s=100, **variables)
    rest.thaw()
    assert done.returncode == 69 and "cannot be reached: no data for 8 s; " in done.stderr, done
    assert time.monotonic() - began < 50


def test_a_cron_run_starts_restic_no_more_often_than_needed(site, rest):
    """No start only makes contact; the snapshots, of which nothing on this machine tells, are listed while one is read back."""
    log, restic = site.folder / "starts", site.folder / "counting-restic"
    run_first(restic, f'echo "$1" >> {log}')
    site.ok("cron", "production", **rest.variables)
    said = site.ok("cron", "production", **rest.variables, RESTIC=str(restic))
    assert log.read_text().split()[0] == "backup" and log.read_text().split()[-1] == "forget"
    assert sorted(log.read_text().split()) == ["backup", "dump", "forget", "snapshots"]
    assert "old snapshots removed" in said


def test_a_server_that_comes_back_is_waited_for(site, rest):
    fill(site)

    def restart() -> None:
        rest.kill()
        time.sleep(1)
        rest.start()

    rest.relay.after(3_000_000, restart)
    done = site.run("cron", "production", **rest.variables)
    assert done.returncode == 0, done
    assert re.search(r"warning: lost contact with \S+: .*; retrying for up to 300 s\n", done.stdout)
    site.ok("verify", "production", **rest.variables)


def test_a_lock_left_on_the_server_is_dealt_with(site, rest):
    """A restic that has the repository to itself is killed, and its lock stays; the next run removes that."""
    fill(site)
    site.ok("backup", "production", **rest.variables)
    reading = subprocess.Popen(
        [RESTIC, "check", "--read-data", "--limit-download=500"],
        env={**site.environ, **rest.variables, "RESTIC_CACHE_DIR": str(site.folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "load indexes\n" in reading.stdout  # said once the lock is there, with half a minute to read
    reading.kill()
    reading.wait()
    locks = rest.served / "locks"
    assert list(locks.iterdir())
    assert "removing the lock if it is stale" in site.ok("cron", "production", **rest.variables)
    assert not list(locks.iterdir())


@pytest.mark.slow("one more kind of server")
def test_a_server_that_lets_nothing_be_removed(site, tmp_path):
    """The snapshot is there, and the run says what failed, at once."""
    for _ in range(13):
        site.ok("backup", "demo")
    for rest in served(Rest(tmp_path / "remote", "--append-only"), site):
        done = site.run("cron", "demo", **rest.variables)
        assert (done.returncode, len(done.stderr.splitlines())) == (77, 1), done
        assert " is safe, but the retention failed: the server of repository " in done.stderr
        assert "403 Forbidden" in done.stderr
        assert len(json.loads(site.ok("snapshots", "--json", **rest.variables))) == 14


@pytest.mark.slow("each outage", keep=["it is down"])
@pytest.mark.parametrize("trouble", ["it is down", "it hangs"])
def test_an_outage_of_hours_does_not_pile_up_runs(site, rest, trouble):
    """Every run ends long before the next one is due, with one line and a heartbeat's worth of a record."""
    rest.kill() if trouble == "it is down" else rest.freeze()
    try:
        for _ in range(3):
            started = time.monotonic()
            done = impatient(site, "cron", "production", **rest.variables)
            assert (done.returncode, len(done.stderr.splitlines())) == (69, 1), done
            assert "cannot be reached: " in done.stderr
            assert time.monotonic() - started < 60
        status = impatient(site, "status", "--json", **rest.variables)
        lines = {line["subject"]: line for line in json.loads(status.stdout)["lines"]}
        assert lines["repository"]["state"] == "unknown"
    finally:
        rest.thaw()


@pytest.mark.slow("two repositories")
def test_rclone_s_own_remotes(site, tmp_path):
    """rclone: is for every store that rclone knows; here a folder. Its settings stay out of the process list."""
    served = tmp_path / "served"
    served.mkdir()
    variables = {"RCLONE_CONFIG_STORE_TYPE": "local", "RESTIC_REPOSITORY": f"rclone:store:{served}"}
    assert site.run("backup", "demo", **variables).returncode == 10
    site.ok("init", **variables)
    site.ok("cron", "demo", **variables)
    site.ok("verify", "demo", **variables)
    for address in ("rclone:store,pass=a-secret:x", "rclone::sftp,pass=a-secret:x"):
        done = site.run("backup", "demo", RESTIC_REPOSITORY=address)
        assert done.returncode == 6
        assert "contains rclone settings, which every user could see in the process list" in done.stderr
        assert "a-secret" not in done.stderr


def test_the_scripts_patience_is_less_than_a_turn_of_cron():
    assert schedule.BACKUP_EVERY.total_seconds() > server_watch.LOOK_S + server_watch.GIVE_UP_S


@pytest.mark.parametrize("password", ["hush/x", "hush@x", "hush x", "hush?x", "hush#x"])
def test_a_password_that_no_address_can_hold(site, password):
    """Unescaped, restic and its libraries would say it in their errors."""
    done = site.run("cron", "demo", RESTIC_REPOSITORY=f"rest:http://dodeka:{password}@127.0.0.1:9/")
    assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
    assert "RESTIC_REPOSITORY has a special character before its last @ that must be escaped" in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize(
    "user_info", ["dodeka:pass%2Fword", "dodeka:pa:ss:word", "a-token-alone", "dodeka:p%zzword"]
)
def test_whatever_stands_in_front_of_the_host_is_not_shown(site, user_info):
    variables = {"RESTIC_REPOSITORY": f"rest:http://{user_info}@127.0.0.1:9/"}
    done = impatient(site, "backup", "demo", **variables)
    assert done.returncode != 0 and "127.0.0.1:9/" in done.stderr, done
    sheet = impatient(site, "recovery-sheet", **variables).stdout
    for secret in (user_info.removeprefix("dodeka:"), "pass/word"):
        assert secret not in done.stderr + done.stdout + sheet


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be kept out of a folder and have it all the same"
)
class TestOurOwnCache:
    """Whatever fails in it, no server is to blame."""

    @pytest.fixture
    def caught(self, site, rest) -> Iterator[dict[str, str]]:
        """A restic that root's rights do not help, and a cache that a run of another user has written into."""
        limited = site.folder / "limited-restic"
        kept_out = "--bounding-set=-dac_override,-dac_read_search"
        limited.write_text(f'#!/bin/sh\nexec setpriv {kept_out} {RESTIC} "$@"\n')
        limited.chmod(0o755)
        variables = {**rest.variables, "RESTIC": str(limited)}
        site.ok("backup", "demo", **variables)
        cache = site.state / "restic-cache"
        ours = set(cache.rglob("*"))
        execute(site.database("demo"), "DELETE FROM users_by_email WHERE rowid <= 10")
        site.ok("backup", "demo", **variables)
        site.ok("snapshots", **variables)
        theirs = set(cache.rglob("*")) - ours
        assert theirs
        for path in theirs:
            if path.is_file():
                path.unlink()  # so that restic wants to write it again
            else:
                os.chown(path, 12345, 12345)
                path.chmod(0o700)
        return variables

    def test_files_of_another_user(self, site, caught):
        began = time.monotonic()
        done = site.run("cron", "demo", **caught)
        assert time.monotonic() - began < IMPATIENT_S
        assert done.returncode == 6
        cache = site.state / "restic-cache"
        assert (
            f"restic's cache {cache} cannot be used: permission denied; sudo chown -R root: {cache}"
            in done.stderr
        )
        subprocess.run(["chown", "-R", "root:", cache], check=True)
        site.ok("cron", "demo", **caught)

    def test_a_full_disk(self, site, rest, small_disk):
        cache = small_disk / "cache"
        subprocess.run(["dd", "if=/dev/zero", f"of={small_disk}/filler"], stderr=subprocess.DEVNULL)
        done = site.run("cron", "production", RESTIC_CACHE_DIR=str(cache), **rest.variables)
        version = tuple(map(int, re.findall(r"\d+", subprocess.getoutput(f"{RESTIC} version"))[:2]))
        if version < (0, 19):  # which go on without one
            assert done.returncode == 0, done
            return
        assert done.returncode == 6
        assert (
            f"restic's cache {cache} cannot be used: no space left on device; check its disk" in done.stderr
        )
