"""The server is lost: everything back from the off-site repository alone, by the steps in BACKUP.md."""

import os
import sqlite3
from contextlib import closing

import pages
import pytest
from server import HOME, PROJECT, ROOT, Server

BACKUP = (ROOT / "BACKUP.md").read_text()


@pytest.fixture
def server(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("this test needs root, to start a systemd of its own")
    server = Server(tmp_path / "machine")
    try:
        server.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/mnt/backup", user="root")
        server.path("/etc/sudoers.d/dodeka").write_text("backend ALL=(ALL) NOPASSWD: ALL\n")
        server.run("chown", "backend:", "/mnt/backup", user="root")
        server.start_offsite()
        yield server
    finally:
        server.stop()


def rows(server: Server, environment: str) -> set[tuple]:
    """Every row of every table, with the table's name in front."""
    # a copy, for SQLite would resolve a path that leads in from out here
    copy = server.path("/tmp/look.sqlite")
    database = PROJECT / f"backend/envs/{environment}/db.sqlite"
    server.run("sqlite3", str(database), "VACUUM INTO '/tmp/look.sqlite'", user="root")
    content = copy.read_bytes()
    copy.unlink()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(content)
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        return {(table, *row) for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')}


def test_everything_comes_back_row_for_row(server):
    def make(*words: str) -> str:
        return server.run("make", "-C", str(PROJECT), *words).stdout

    make("init")
    server.sh(f"umask 077; echo OFFSITE_REPOSITORY=sftp:offsite:restic > {PROJECT}/deploy/backup.env")
    make("init", "OFFSITE=1")
    server.make_keys_cheap()
    for environment in ("production", "demo"):
        make("cron", f"ENV={environment}")
    make("offsite")
    password = server.path(HOME / ".restic-offsite-password").read_text()
    before = {environment: rows(server, environment) for environment in ("production", "demo")}
    assert all(len(found) > 100 for found in before.values())

    # nothing is left but the way in
    server.sh(
        f"systemctl stop dodeka-backend-production dodeka-backend-demo; umount -l /mnt/backup;"
        f" mount -t tmpfs -o size=64m tmpfs /mnt/backup;"
        f" rm -rf {PROJECT}/backend {PROJECT}/deploy/backup.env {HOME}/.local/state {HOME}/.restic-offsite-password"
        f" {HOME}/log; crontab -u backend -r",
        user="root",
        check=False,
    )
    assert not server.path(PROJECT / "backend").exists()
    assert not list(server.path("/mnt/backup").iterdir())

    steps = pages.section(BACKUP, "The server is lost")
    assert pages.run(server, steps, typed={"(umask 077; cat > ~/.restic-offsite-password)": password}) > 15

    for environment in ("production", "demo"):
        server.run("systemctl", "stop", f"dodeka-backend-{environment}", user="root")
        after = rows(server, environment)
        assert before[environment] <= after
        # besides, what the backend has written since it runs again
        assert {row[0] for row in after - before[environment]} <= {"outbox"}
    assert "there already" in server.run("make", "-C", str(PROJECT), "install").stdout
