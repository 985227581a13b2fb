"""How long a restore has the service down, beside the documented sequence of shell commands.

On a server of its own with a real systemd; databases and repository are on this machine's disk. What counts
is the time from the service having stopped to its start, as systemd notes them: its own stopping and
starting is not in it.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from whole_server import HOME, PROJECT, UNIT, Server

ROUNDS = 5
NAME = "dodeka-backend-production"
DATABASE = Path("/srv/backend/envs/production/db.sqlite")

# what BACKUP.md of the shell scripts did, each step of it with the service down
DOCUMENTED = f"""
set -eu
PATH=/home/backend/.local/bin:$PATH
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


@dataclass
class Downtime:
    """How long the service was down, in s, by the documented way and by ours; the memory of our process in KiB."""

    documented_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)
    own_memory_kb: int = 0


def measure(folder: Path, count: int) -> Downtime:
    """Restores of production with `count` members, in turn; as root."""
    os.umask(0o022)
    disk = folder / "disk"
    disk.mkdir()
    server = Server(folder / "machine", disk)
    result = Downtime()
    try:
        snapshot = set_up(server, count)
        for _ in range(ROUNDS):
            server.run("sh", "-c", DOCUMENTED, "sh", snapshot)
            result.documented_s.append(down_s(server))
            time.sleep(0.5)
            script = str(PROJECT / "bin/dodeka-db-restore.py")
            output = server.run(
                *("/usr/bin/python3", "-c", MEASURED, script, "production", "--snapshot", snapshot, "--yes")
            ).stdout
            code, peak_kb = json.loads(output)
            assert code == 0, output
            result.ours_s.append(down_s(server))
            result.own_memory_kb = max(result.own_memory_kb, peak_kb)
            time.sleep(0.5)
        return result
    finally:
        server.stop()


def set_up(server: Server, count: int) -> str:
    """Production on the disk, under its service, with one snapshot, whose ID is returned."""
    server.path("/etc/sudoers.d/dodeka").write_text("backend ALL=(ALL) NOPASSWD: ALL\n")
    settings = (
        "DODEKA_BACKEND=/srv/backend\nRESTIC_REPOSITORY=/srv/restic\nRESTIC_PASSWORD_FILE=/srv/password\n"
        "DODEKA_STATE=/srv/state\nDODEKA_START_WAIT_S=0\n"
    )
    server.sh(f"umask 077; cat > {PROJECT}/deploy/backup.env", stdin=settings)
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
        f"import sys; sys.path.insert(0, '{PROJECT}/bin'); from pathlib import Path; from dodeka_db.sqlite import sample_data;"
        f"sample_data.create(Path('{DATABASE}'), {count})"
    )
    server.run(str(PROJECT / ".venv/bin/python"), "-c", code)
    server.run("make", "-C", str(PROJECT), "init", "YES=1")
    server.run("make", "-C", str(PROJECT), "backup", "ENV=production")
    server.run("systemctl", "start", NAME, user="root")
    return server.sh(
        f"{PROJECT}/bin/dodeka-db-snapshots.py production | grep -E '^[0-9a-f]{{8}} ' | tail -1 | cut -d' ' -f1"
    ).strip()


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
