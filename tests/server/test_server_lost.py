"""The server is lost: everything back from the off-site repository alone, by the steps in BACKUP.md."""

import json
import os
import re
import sqlite3
import time
from contextlib import closing
from datetime import datetime

import pytest

import console_blocks
from whole_server import CLONE, OWN_HOME, PROJECT, ROOT, Server

BACKUP = (ROOT / "BACKUP.md").read_text()


@pytest.fixture
def server(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("this test needs root, to start a systemd of its own")
    server = Server(tmp_path / "machine")
    try:
        server.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/mnt/backup", user="root")
        server.move_to_root()
        server.run("make", "-C", str(CLONE), "install", user="root")
        server.start_offsite("dbackup")
        yield server
    finally:
        server.stop()


def rows(server: Server, environment: str) -> set[tuple]:
    """Every row of every table, with the table's name in front."""
    # a copy, for SQLite would resolve a path that leads in from out here
    copy = server.path("/tmp/look.sqlite")
    database = PROJECT / f"backend/envs/{environment}/db.sqlite"
    server.run(
        "sqlite3", "-cmd", ".timeout 5000", str(database), "VACUUM INTO '/tmp/look.sqlite'", user="root"
    )
    content = copy.read_bytes()
    copy.unlink()
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(content)
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        return {(table, *row) for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')}


def make(server: Server, *words: str) -> str:
    return server.run("make", "-C", str(CLONE), *words, user="dbackup").stdout


def copied(server: Server) -> str:
    """Have a snapshot of each environment off-site, by the page's settings; the off-site password."""
    make(server, "init")
    server.sh(
        f"cd {CLONE}/deploy; echo OFFSITE_REPOSITORY=rclone:offsite:restic >> backup.env;"
        " echo \"OFFSITE_OPTIONS='rclone.program=ssh offsite'\" >> backup.env; echo OFFSITE_RETENTION=none >> backup.env",
        user="dbackup",
    )
    make(server, "init", "OFFSITE=1")
    server.make_keys_cheap()
    for environment in ("production", "demo"):
        make(server, "cron", f"ENV={environment}")
    make(server, "offsite")
    return server.path(OWN_HOME / ".restic-offsite-password").read_text()


def lose(server: Server) -> None:
    """Nothing is left but the way in."""
    server.sh(
        f"systemctl stop dodeka-backend-production dodeka-backend-demo; umount -l /mnt/backup;"
        f" mount -t tmpfs -o size=64m tmpfs /mnt/backup;"
        f" rm -rf {PROJECT}/backend {CLONE}/deploy/backup.env {OWN_HOME}/.local {OWN_HOME}/.restic-offsite-password;"
        " make -C /opt/dodeka-backup uninstall",
        user="root",
        check=False,
    )
    assert not server.path(PROJECT / "backend").exists()
    assert not list(server.path("/mnt/backup").iterdir())


TYPED = "(umask 077; cat > ~/.restic-offsite-password)"


@pytest.mark.long
def test_everything_comes_back_row_for_row(server):
    password = copied(server)
    before = {environment: rows(server, environment) for environment in ("production", "demo")}
    assert all(len(found) > 100 for found in before.values())

    lose(server)
    steps = console_blocks.section(BACKUP, "The server is lost")
    assert console_blocks.run(server, steps, typed={TYPED: password}) > 15

    for environment in ("production", "demo"):
        server.run("systemctl", "stop", f"dodeka-backend-{environment}", user="root")
        after = rows(server, environment)
        assert before[environment] <= after
        # besides, what the backend has written since it runs again
        assert {row[0] for row in after - before[environment]} <= {"outbox"}
    assert ": unchanged" in server.run("make", "-C", str(CLONE), "install", user="root").stdout


HOSTILE = """
cd; export RESTIC_REPOSITORY=rclone:offsite:restic RESTIC_PASSWORD_FILE=.restic-offsite-password
PATH=$HOME/.local/bin:$PATH
echo 'what the intruder wants to be restored' |
    restic -o 'rclone.program=ssh offsite' backup -q --stdin --stdin-filename dodeka-production.sqlite.zst \\
        --tag db,db_sqlite,db_dodeka,env_production
timeout 10 restic -o 'rclone.program=ssh offsite' forget --prune --tag db_dodeka --keep-last 1
ssh offsite rm -rf restic < /dev/null > /dev/null
"""


@pytest.mark.slow("a second server lost")
def test_after_a_break_in_the_snapshots_of_before_are_told_from_the_others_and_come_back(server):
    password = copied(server)
    # the backend is stopped, or it would write behind the snapshot
    server.run("systemctl", "stop", "dodeka-backend-production", user="root")
    make(server, "cron", "ENV=production")
    make(server, "offsite")
    before = rows(server, "production")
    folder = server.path("/home/dodeka/restic")
    honest = {path.name for path in (folder / "snapshots").iterdir()}
    time.sleep(1.1)
    broken_into = datetime.now().isoformat(sep=" ", timespec="seconds")
    server.sh(HOSTILE, check=False, user="dbackup")
    (added,) = {path.name for path in (folder / "snapshots").iterdir()} - honest
    assert len(list((folder / "snapshots").iterdir())) == len(honest) + 1, "nothing can be removed"

    steps = console_blocks.section(BACKUP, "Broken into")
    (find,) = re.findall(r"^ +```sh\n(.*?)```", steps, re.MULTILINE | re.DOTALL)
    assert find.count("2026-11-20 14:00") == 3
    listed = server.run(
        f"{CLONE}/bin/dodeka-db-snapshots.py", "production", "--offsite", "--json", user="dbackup"
    ).stdout
    assert json.loads(listed)[-1]["id"] == added, "latest is not the answer"
    said = server.sh(find.replace("2026-11-20 14:00", broken_into), user="dodeka", HOME="/home/dodeka")
    ids = [line.split()[-1] for line in said.splitlines()]
    assert sorted(ids[:-1]) == sorted(name[:8] for name in honest)
    assert ids[-1] == added[:8]
    assert not list((folder / "locks").iterdir())

    lose(server)
    steps_of_lost = console_blocks.section(BACKUP, "The server is lost").partition("\n4. ")[0]
    console_blocks.run(server, steps_of_lost, typed={TYPED: password})
    listed = server.run(
        f"{CLONE}/bin/dodeka-db-snapshots.py", "production", "--offsite", "--json", user="dbackup"
    ).stdout
    assert {one["id"] for one in json.loads(listed)} < honest
    believed = json.loads(listed)[-1]["short_id"]
    # the page's two IDs; there are more here
    console = re.sub(
        r"\$ make snapshots(.*?\n)(.|\n)*?(?= +\$ make verify)", r"$ make snapshots\1   ...\n", steps
    )
    assert console_blocks.run(server, console.replace("3f9c2a71", believed), ids={believed: believed}) == 3
    assert rows(server, "production") == before
