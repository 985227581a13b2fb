"""make init, where a repository was in use: what the messages say, followed to the letter, makes no second one."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from site_folder import ROOT, Site
from whole_server import HOME, PROJECT, Server

CRON = str(PROJECT / "bin/dodeka-db-cron.py")
INIT = str(PROJECT / "bin/dodeka-db-init.py")


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    """A volume at /mnt/backup, which keeps what it holds while it is not mounted there."""
    if os.geteuid() != 0:
        pytest.skip("this test needs root, to start a systemd of its own")
    server = Server(tmp_path / "machine")
    try:
        as_root(server, "mkdir /run/volume; mount -t tmpfs -o size=64m,mode=755 tmpfs /run/volume")
        as_root(server, "chown root: /mnt/backup; mount --bind /run/volume /mnt/backup")
        as_root(server, "chown backend: /mnt/backup")
        yield server
    finally:
        server.stop()


def as_root(server: Server, script: str) -> str:
    return server.sh(f"set -e; {script}", user="root")


@pytest.mark.slow("a server for each case", keep=["cron ran-/mnt/backup"])
@pytest.mark.parametrize("password", ["/mnt/backup/.restic-password", f"{HOME}/password"])
@pytest.mark.parametrize("ran", [True, False], ids=["cron ran", "nothing ran"])
def test_the_volume_is_not_mounted(server, password, ran):
    server.sh(f"umask 077; echo RESTIC_PASSWORD_FILE={password} > {PROJECT}/deploy/backup.env")
    assert "made password file" in server.run(INIT).stdout  # for the first time, without a question
    if ran:
        server.run(CRON, "demo")
    as_root(server, "umount /mnt/backup")

    failed = server.run(CRON, "demo", check=False)
    assert "is the backup volume mounted? (to create the first repository: make init)" in failed.stderr
    for preparation in ("true", "chown backend: /mnt/backup"):
        as_root(server, preparation)
        for answer, words in (
            ("", "no answer; nothing was changed"),
            ("y\n", "not confirmed; nothing was changed"),
        ):
            done = server.run(INIT, stdin=answer, check=False)
            assert done.returncode == 7
            assert words in done.stderr
            assert "THERE IS NO REPOSITORY AT /mnt/backup/restic." in done.stdout
            assert "No volume is mounted for " in done.stdout
            assert ("This server used a repository until " in done.stdout) == ran
        done = server.run("make", "-C", str(PROJECT), "init", check=False)
        assert "nothing was changed" in done.stderr
    assert server.sh("ls -A /mnt/backup") == ""
    assert server.run(CRON, "demo", check=False).returncode != 0

    as_root(server, "mount --bind /run/volume /mnt/backup")
    assert "exists already, nothing to do" in server.run(INIT).stdout
    server.run(CRON, "demo")


@pytest.mark.slow("a server of its own")
def test_another_volume_is_mounted_there(server):
    server.run(INIT)
    server.run(CRON, "demo")
    as_root(server, "umount /mnt/backup; mount -t tmpfs tmpfs /mnt/backup; chown backend: /mnt/backup")
    done = server.run(INIT, check=False)
    assert (done.returncode, server.sh("ls -A /mnt/backup")) == (7, "")
    assert "No volume is mounted for" not in done.stdout
    assert "This server used a repository until " in done.stdout
    assert "repository /mnt/backup/restic: made" in server.run(INIT, stdin="yes\n").stdout
    server.run(CRON, "demo")


@pytest.mark.slow("a server of its own")
def test_good_copies_are_on_record(site: Site, small_disk):
    """An off-site volume that is not mounted, on a server that has made copies."""
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    there = {
        "OFFSITE_REPOSITORY": str(small_disk / "there"),
        "OFFSITE_PASSWORD_FILE": str(site.folder / "pw"),
    }
    site.ok("init", "--offsite", **there)  # without a question
    site.ok("backup", "demo")
    site.ok("offsite", **there)
    subprocess.run(["umount", small_disk], check=True)
    try:
        done = site.run("init", "--offsite", **there)
        assert (done.returncode, list(small_disk.iterdir())) == (7, [])
        assert "No volume is mounted for" in done.stdout
        assert "This server used a repository until " in done.stdout
    finally:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", small_disk], check=True)
    done = site.run("init", "--offsite", **there)
    assert (done.returncode, list(small_disk.iterdir())) == (7, [])
    assert "No volume is mounted for" not in done.stdout


@contextmanager
def asked_by_init(site: Site, **variables: str) -> Iterator[subprocess.Popen]:
    """make init, at its question."""
    with subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-init.py"],
        env={**site.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as init:
        while "answer no" not in init.stdout.readline():
            pass
        yield init


def test_a_server_s_repository_is_asked_for_before_the_question(site: Site, tmp_path):
    """Over a network it shows only then whether there is one; a password file made for that goes again."""
    remote = {"RESTIC_REPOSITORY": "rclone:store:there", "RESTIC_PASSWORD_FILE": str(tmp_path / "password")}
    remote |= {"RCLONE_CONFIG_STORE_TYPE": "alias", "RCLONE_CONFIG_STORE_REMOTE": str(tmp_path)}
    site.ok("cron", "demo")
    done = site.run("init", **remote)
    assert done.returncode == 7, done
    assert "THERE IS NO REPOSITORY AT rclone:store:there." in done.stdout
    assert not (tmp_path / "password").exists()
    with asked_by_init(site, **remote) as init:
        site.ok("backup", "demo")  # backups go on while somebody thinks
        with open(site.state / "lock", "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            init.communicate("yes\n", timeout=60)
    assert init.returncode == 75
    assert not (tmp_path / "password").exists()
    with asked_by_init(site, **remote) as init:
        init.communicate("yes\n", timeout=60)
    assert init.returncode == 0
    assert (tmp_path / "there" / "config").exists()
    assert "exists already" in site.ok("init", **remote)
