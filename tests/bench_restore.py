"""How long a restore has the service down, beside the documented sequence of shell commands (make bench-restore).

On a server of its own with a real systemd; databases and repository are on this machine's disk. What counts
is the time from the service having stopped to its start, as systemd notes them: its own stopping and
starting is not in it.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from server import HOME, PROJECT, UNIT, Server
from sites import ROOT

from dodeka_db import members

SIZES = {"1.3 MB": (720, 1), "70 MB": (38_000, 1), "1 GB": (38_000, 15)}  # members, and how often over
BOUND_MS = 50
MEMORY_BOUND_MB = 150
NAME = "dodeka-backend-production"
DATABASE = Path("/srv/backend/envs/production/db.sqlite")

# what BACKUP.md of the shell scripts did, each step of it with the service down
DOCUMENTED = f"""
set -eu
export RESTIC_REPOSITORY=/srv/restic RESTIC_PASSWORD_FILE=/srv/password
d=$(mktemp -d -p /srv)
sudo systemctl stop {NAME}
sqlite3 {DATABASE} "VACUUM INTO '$d/dodeka-production.sqlite'"
zstd -q --rm --rsyncable "$d/dodeka-production.sqlite" -o "$d/dodeka-production.sqlite.zst"
restic backup --quiet --tag db,db_sqlite,db_dodeka,env_production,pre-restore "$d/dodeka-production.sqlite.zst"
restic restore --quiet "$1" --target "$d/restored"
zstd -q -d "$(find "$d/restored" -name '*.zst')" -o "$d/restored.sqlite"
rm -f {DATABASE} {DATABASE}-wal {DATABASE}-shm
mv "$d/restored.sqlite" {DATABASE}
sudo systemctl start {NAME}
rm -r "$d"
"""

# runs a program and says how much memory it had itself
MEASURED = """
import json, re, subprocess, sys, time
process, peak = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL), 0
while process.poll() is None:
    try:
        status = open(f"/proc/{process.pid}/status").read()
    except OSError:
        continue
    peak = max([peak] + [int(kb) for kb in re.findall(r"VmHWM:\\s+(\\d+) kB", status)])
    time.sleep(0.02)
print(json.dumps([process.returncode, peak]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk that is to be measured")
    arguments = parser.parse_args()
    os.umask(0o022)
    print(
        f"{'database':>8}  {'documented':>10}  {'ours':>8}  {'memory':>8}   medians of {arguments.rounds}",
        flush=True,
    )
    bad = False
    for size, (count, times) in SIZES.items():
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            documented, ours, memory = measure(folder, count, times, arguments.rounds)
        finally:
            shutil.rmtree(folder)
        print(f"{size:>8}  {documented:>7.2f} s   {ours * 1000:>5.0f} ms  {memory:>5.0f} MB", flush=True)
        bad |= ours * 1000 > BOUND_MS or memory > MEMORY_BOUND_MB
    if bad:
        print(f"more than {BOUND_MS} ms or {MEMORY_BOUND_MB} MB", file=sys.stderr)
    return int(bad)


def measure(folder: Path, count: int, times: int, rounds: int) -> tuple[float, float, float]:
    """Seconds down by the documented way, by ours (medians), and the most memory that ours had, in MB."""
    disk = folder / "disk"
    disk.mkdir()
    server = Server(folder / "machine", disk)
    try:
        snapshot = set_up(server, count, times)
        documented, ours, memory = [], [], []
        for _ in range(rounds):
            server.run("sh", "-c", DOCUMENTED, "sh", snapshot)
            documented.append(down_s(server))
            time.sleep(0.5)
            script = str(PROJECT / "bin/dodeka-db-restore.py")
            output = server.run(
                *("/usr/bin/python3", "-c", MEASURED, script, "production", "--snapshot", snapshot, "--yes")
            ).stdout
            code, peak = json.loads(output)
            assert code == 0, output
            ours.append(down_s(server))
            memory.append(peak / 1000)
            time.sleep(0.5)
        return statistics.median(documented), statistics.median(ours), max(memory)
    finally:
        server.stop()


def set_up(server: Server, count: int, times: int) -> str:
    """Production on the disk, under its service, with one snapshot, whose ID is returned."""
    server.path("/etc/sudoers.d/dodeka").write_text("backend ALL=(ALL) NOPASSWD: ALL\n")
    server.path(PROJECT / "deploy/backup.env").write_text(
        "DODEKA_BACKEND=/srv/backend\nRESTIC_REPOSITORY=/srv/restic\nRESTIC_PASSWORD_FILE=/srv/password\n"
        "DODEKA_STATE=/srv/state\nDODEKA_START_WAIT_S=0\n"
    )
    unit = server.path(f"/etc/systemd/system/{NAME}.service")
    unit.write_text(UNIT.format(database=DATABASE))
    # something that refers to it keeps systemd from forgetting its times when it is stopped
    server.path("/etc/systemd/system/dodeka-test.target.d").mkdir()
    server.path("/etc/systemd/system/dodeka-test.target.d/bench.conf").write_text(
        f"[Unit]\nAfter={NAME}.service\n"
    )
    server.run("systemctl", "daemon-reload", user="root")
    server.run("chown", "-R", "backend:", "/srv", str(HOME), user="root")
    code = (
        f"import sys; sys.path.insert(0, '{PROJECT}/bin'); from pathlib import Path; from dodeka_db import members;"
        f"members.create(Path('{DATABASE}'), {count})"
    )
    server.run(str(PROJECT / ".venv/bin/python"), "-c", code)
    for number in range(1, times):
        copy = "".join(
            f"INSERT INTO {table} SELECT key || '-{number}', counter, expiration, value FROM {table}"
            f" WHERE key NOT LIKE '%-_' AND key NOT LIKE '%-__';"
            for table in members.TABLES
        )
        server.run("sqlite3", str(DATABASE), f"BEGIN;{copy}COMMIT")
    server.run("make", "-C", str(PROJECT), "init")
    server.run("make", "-C", str(PROJECT), "backup", "ENV=production")
    server.run("systemctl", "start", NAME, user="root")
    return server.sh(f"{PROJECT}/bin/dodeka-db-snapshots.py production | tail -1 | cut -d' ' -f1").strip()


def down_s(server: Server) -> float:
    """From the unit's last having stopped to its last being started, in seconds, by systemd's own clock."""
    shown = server.run(
        *(
            "systemctl",
            "show",
            "--property=InactiveEnterTimestampMonotonic,InactiveExitTimestampMonotonic",
            NAME,
        )
    ).stdout
    times = dict(line.split("=") for line in shown.split())
    stopped, started = (
        int(times["InactiveEnterTimestampMonotonic"]),
        int(times["InactiveExitTimestampMonotonic"]),
    )
    assert 0 < stopped < started, shown
    return (started - stopped) / 1e6


if __name__ == "__main__":
    assert ROOT  # puts the scripts' modules on the path
    sys.exit(main())
