"""From the shell scripts to these, by what docs/set-ups.md has people type, while the shell scripts' crontab is running."""

import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

import console_blocks
from waiting import wait_for
from whole_server import PROJECT, ROOT, Server

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)

LOG = Path("/home/backend/log")
# what the shell scripts' page documents
OLD = r"""#!/bin/bash
set -eu
d=$(mktemp -d); trap 'rm -r "$d"' EXIT
export PATH="/home/backend/.local/bin:$PATH"
export RESTIC_REPOSITORY=/mnt/backup/restic RESTIC_PASSWORD_FILE=/mnt/backup/.restic-password
sqlite3 "/home/backend/dodeka/backend/envs/$1/db.sqlite" "VACUUM INTO '$d/dodeka-$1.sqlite'"
zstd -q --rm --rsyncable "$d/dodeka-$1.sqlite" -o "$d/dodeka-$1.sqlite.zst"
restic backup --quiet --tag "db,db_sqlite,db_dodeka,env_$1" "$d/dodeka-$1.sqlite.zst"
restic forget --quiet --group-by host,tags --tag "db_dodeka,env_$1" --keep-last 10 --prune
echo "shell script: $1 done"
"""
# Theirs is every 12 minutes, demo in the middle; and it counts its starts.
CRONTAB = "".join(
    f"* * * * * sleep {after_s}; echo {name} >> {LOG}/starts; {PROJECT}/deploy/dodeka-db-cron.sh {name} >> {LOG}/backup.log 2>&1\n"
    for name, after_s in (("production", 0), ("demo", 20))
)
REPOSITORY = f"""
set -eu
git config --global user.name backend; git config --global user.email backend@localhost
mv {PROJECT} ~/shipped
git init -q -b main ~/origin; cd ~/origin
mkdir deploy; cat > deploy/dodeka-db-cron.sh; chmod +x deploy/dodeka-db-cron.sh
git add deploy; git commit -qm 'The shell scripts'
git clone -q ~/origin {PROJECT}
mv ~/shipped/backend {PROJECT}
rm -r deploy; cp -a ~/shipped/bin ~/shipped/deploy ~/shipped/Makefile ~/shipped/requirements.txt .
printf '/.venv\\n/backend/\\n__pycache__/\\n' > .gitignore
git add .; git commit -qm 'These'
mkdir {LOG}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "machine")
    try:
        server.run("make", "-C", str(PROJECT), "init", "YES=1")
        server.make_keys_cheap()
        server.run("chmod", "644", "/mnt/backup/.restic-password")
        server.sh(REPOSITORY, stdin=OLD)
        server.run("systemctl", "start", "dodeka-backend-production", "dodeka-backend-demo", user="root")
        server.run("crontab", "-", stdin=CRONTAB)
        server.sh("touch /etc/environment; setsid /usr/sbin/cron -f > /dev/null 2>&1 & echo", user="root")
        yield server
    finally:
        server.stop()


def runs(server: Server, pattern: str, file: str = "backup.log") -> int:
    path = server.path(LOG / file)
    return len(re.findall(pattern, path.read_text(), re.MULTILINE)) if path.exists() else 0


def type_in(server: Server, block: str) -> None:
    for line in block.splitlines():
        if " setup" in line:  # what pip would install, without a network
            server.sh("cp -a ~/shipped/.venv ~/dodeka-new/.venv; touch ~/dodeka-new/.venv/.runtime")
        done = server.run("sh", "-c", f"cd {PROJECT}; {line.strip()}", check=False)
        assert done.returncode == 0, (line, done)


@pytest.mark.slow("three turns of cron")
def test_no_run_is_missed(server):
    section = console_blocks.section(
        (ROOT / "docs" / "set-ups.md").read_text(), "Coming from the shell scripts"
    )
    prepare, switch = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert "git pull" in switch

    wait_for(lambda: runs(server, "^shell script: demo done") == 1)
    type_in(server, prepare)
    wait_for(lambda: runs(server, "^shell script: demo done") == 2)
    wait_for(lambda: 25 <= datetime.now().second <= 45)
    type_in(server, switch)
    wait_for(lambda: runs(server, " demo done: snapshot ") == 1)
    server.run("crontab", "-r")
    time.sleep(1)

    for name in ("production", "demo"):
        shell, ours = runs(server, f"^shell script: {name} done"), runs(server, f" {name} done: snapshot ")
        assert (shell, ours) == (runs(server, f"^{name}$", "starts") - 1, 1)
        listed = server.run(f"{PROJECT}/bin/dodeka-db-snapshots.py", name).stdout
        # and the one that was typed
        assert len(re.findall("^[0-9a-f]{8} ", listed, re.MULTILINE)) == shell + ours + 1
    assert runs(server, " error: |Traceback|Fatal") == 0
    # and back, if it must be
    server.run("git", "-C", str(PROJECT), "checkout", "-q", "ORIG_HEAD")
    server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "production")


@pytest.mark.slow("a turn of cron")
def test_a_pull_without_the_rest_is_said_where_it_is_looked_for(server):
    """By the one line in the log that BACKUP.md's search finds."""
    server.run("git", "-C", str(PROJECT), "pull", "-q")
    wait_for(
        lambda: (
            runs(server, f" (production|demo) dodeka-db-cron.sh: error: {PROJECT}/.venv is missing; ") >= 1
        )
    )
