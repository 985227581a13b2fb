"""Every step of a restore, as strace sees it, and a restore that is stopped at one of them.

A step is a system call of our own process that changes something which a crash could leave half done: a name, a
file's content, what is on the disk, a lock, a started program, a printed line. restic and systemctl are other
processes, with their own guarantees.
"""

import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dodeka_db.host import staging
from site_folder import Twin
from whole_server import HOME, PROJECT, Server

DEMO = PROJECT / "backend/envs/demo/db.sqlite"
UNIT = "dodeka-backend-demo"
STAGING = HOME / ".local/state/dodeka-backup/staging"
CALLS = (
    *("link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "fsetxattr", "fremovexattr"),
    *("fsync", "fdatasync", "ftruncate"),
    *("flock", "write", "pwrite64", "clone", "fork", "vfork"),
)
# of these calls only those on files in the database's folder, and on standard output
BY_FILE = ("write", "pwrite64", "ftruncate")
LINE = re.compile(r"(\w+)\((.*)\) += (\S+)")


SQLITE = """
import json, sqlite3, sys
for line in sys.stdin:
    file, sql = json.loads(line)
    connection = sqlite3.connect(file, isolation_level=None, timeout=10)
    print(json.dumps(connection.execute(sql).fetchall()), flush=True)
    connection.close()
"""


@dataclass(frozen=True)
class Step:
    """The `number`th time that the process makes the system call `name`."""

    name: str
    number: int
    text: str


class Machine:
    """A server with a snapshot of demo with 30 users, and a service that writes to demo all the time."""

    def __init__(self, folder: Path, twin: Twin) -> None:
        self.server = Server(folder)
        server = self.server
        server.put_repositories(twin)
        self.password = twin.password
        sudoers = server.path("/etc/sudoers.d/dodeka")
        sudoers.write_text("backend ALL=(ALL) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        # the tests start the unit hundreds of times in a few minutes
        limit = server.path(f"/etc/systemd/system/{UNIT}.service.d/limit.conf")
        limit.parent.mkdir()
        limit.write_text("[Unit]\nStartLimitIntervalSec=0\n")
        server.run("systemctl", "daemon-reload", user="root")
        server.run("make", "-C", str(PROJECT), "backup", "ENV=demo")
        snapshot = server.sh(
            f"{PROJECT}/bin/dodeka-db-snapshots.py demo | grep -E '^[0-9a-f]{{8}} ' | tail -1 | cut -c1-8"
        ).strip()
        self.script = [str(PROJECT / "bin/dodeka-db-restore.py"), "demo", f"--snapshot={snapshot}", "--yes"]
        self._mark = 0
        self._old = 0  # the inode of the database that prepare() made
        self._health = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._answering())
        threading.Thread(target=self._health.serve_forever, daemon=True).start()
        # the first run makes Python's compiled files
        server.run("systemctl", "start", UNIT, user="root")
        server.run(*self.script, DODEKA_START_WAIT_S="0", check=False, **self.goes_back)
        # one process on the server for all statements: SQLite would resolve a path that leads into the server from outside
        self._sqlite = subprocess.Popen(
            server.command("/usr/bin/python3", "-c", SQLITE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _answering(self) -> type:
        machine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_old = machine.server.path(DEMO).stat().st_ino == machine._old
                self.send_response(200 if is_old else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    @property
    def goes_back(self) -> dict[str, str]:
        """Variables with which every restore is put back: the service answers only with the old database."""
        return {"DODEKA_HEALTH_URL_DEMO": f"http://127.0.0.1:{self._health.server_port}/"}

    def stop(self) -> None:
        self._health.shutdown()
        self._sqlite.communicate()
        self.server.stop()

    def prepare(self) -> str:
        """Start demo's service, with a single user, whose row is in the WAL; returns the key of that user."""
        self._mark += 1
        key = f"mark-{self._mark}"
        self.server.run("systemctl", "start", UNIT, user="root")
        # or the next run would tell that rows were lost
        shutil.rmtree(self.server.path(STAGING.parent / "baselines"), ignore_errors=True)
        self.execute("DELETE FROM users_by_email")
        self.execute(f"INSERT INTO users_by_email VALUES ('{key}', 0, 0, x'00')")
        self._old = self.server.path(DEMO).stat().st_ino
        return key

    def keep(self) -> None:
        """Make a kept file with one user, called `kept`."""
        file = f"{DEMO}.pre-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self.server.sh(f'rm -f {file}* && sqlite3 {DEMO} ".timeout 5000" "VACUUM INTO \'{file}\'"')
        self.execute("DELETE FROM users_by_email", Path(file))
        self.execute("INSERT INTO users_by_email VALUES ('kept', 0, 0, x'00')", Path(file))

    def trace(self, script: list[str] | None = None, **variables: str) -> list[str]:
        """The system calls of an undisturbed restore, or of another script, as lines of strace."""
        command = (
            "strace",
            "-qq",
            "-y",
            "-s0",
            "-esignal=none",
            "-o",
            "/tmp/trace",
            f"-etrace={','.join(CALLS)}",
        )
        words = script or self.script
        self.server.run(*command, *words, DODEKA_START_WAIT_S="0", check=not variables, **variables)
        return self.server.path("/tmp/trace").read_text().splitlines()

    def run(
        self, step: Step, signal: str, script: list[str] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a restore, or another script, whose process gets `signal` just before it takes `step`."""
        inject = f"-einject={step.name}:signal={signal}:when={step.number}"
        command = ("strace", "-qq", "-o/dev/null", f"-etrace={step.name}", inject)
        words = script or self.script
        return self.server.run(*command, *words, check=False, DODEKA_START_WAIT_S="0", **variables)

    def execute(self, sql: str, file: Path = DEMO) -> list[list]:
        self._sqlite.stdin.write(json.dumps([str(file), sql]) + "\n")
        self._sqlite.stdin.flush()
        return json.loads(self._sqlite.stdout.readline())

    def users(self, file: Path = DEMO) -> list[str]:
        return sorted(key for (key,) in self.execute("SELECT key FROM users_by_email", file))

    def is_up(self) -> bool:
        """Whether the unit is active within three seconds: our own query of the database may make its service start once more."""
        return any(self.server.active(UNIT) or time.sleep(0.2) for _ in range(15))

    def is_whole(self) -> bool:
        return self.execute("PRAGMA integrity_check") == [["ok"]]

    def files(self) -> list[str]:
        names = {path.name for path in self.server.path(DEMO.parent).iterdir()}
        return sorted(names - {"db.sqlite-wal", "db.sqlite-shm"})

    def staging(self) -> list[str]:
        return [path.name for path in self.server.path(STAGING).iterdir() if path.name != staging.MARK]

    def newest_pre_restore(self) -> Path:
        """The newest pre-restore snapshot of demo as a database file on the server; fetched by restic alone."""
        dump = "restic dump --tag env_demo,pre-restore latest /dodeka-demo.sqlite.zst"
        self.server.run(
            *("sh", "-c", f"PATH=/home/backend/.local/bin:$PATH {dump} | zstd -q -d -f -o /tmp/got.sqlite"),
            RESTIC_REPOSITORY="/mnt/backup/restic",
            RESTIC_PASSWORD=self.password,
        )
        return Path("/tmp/got.sqlite")


def steps(trace: list[str]) -> list[Step]:
    """The steps in a trace, in order; failed calls changed nothing, and are not steps."""
    found, counts = [], {}
    for line in trace:
        match = LINE.match(line)
        if not match:
            continue
        name, arguments, result = match.groups()
        counts[name] = counts.get(name, 0) + 1
        ours = f"{DEMO.parent}/" in arguments and "-shm>" not in arguments
        if result != "-1" and (name not in BY_FILE or ours or arguments.startswith("1<")):
            found.append(Step(name, counts[name], line))
    return found


def is_new(users: list[str]) -> bool:
    """Whether they are the sample's 30, `name.number@example.org`."""
    numbers = [int(found[1]) for user in users if (found := re.search(r"\.(\d+)@", user))]
    return len(users) == 30 and sorted(numbers) == list(range(30))
