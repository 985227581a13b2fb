"""What backups cost: the documented pipeline with the real tools, and ours in both formats, in turn.

Each pipeline has a repository of its own, with the same key. Before each snapshot the database is used as in some
minutes of an ordinary day, the same for all; before each run the disk is at rest.
"""

import json
import os
import random
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import site_folder
from dodeka_db.sqlite import sample_data
from site_folder import PLAIN, RESTIC, ROOT

SNAPSHOTS = 51
WITH_WRITER = 5  # more snapshots, while a writer is at work
BUSY_MS = 500  # the backend's busy_timeout

# BACKUP.md of the shell scripts
DOCUMENTED = """
set -eu
d=$(mktemp -d -p "$FOLDER")
sqlite3 "$DB" "VACUUM INTO '$d/dodeka-production.sqlite'"
zstd -q --rm --rsyncable "$d/dodeka-production.sqlite" -o "$d/dodeka-production.sqlite.zst"
"$RESTIC" backup --quiet --tag db,db_sqlite,db_dodeka,env_production "$d/dodeka-production.sqlite.zst"
rm -r "$d"
"""
SCRIPT = str(ROOT / "bin" / "dodeka-db-backup.py")
PIPELINES = {
    "documented": ("sh", "-c", DOCUMENTED),
    "zst": (SCRIPT, "production"),
    "pages": (SCRIPT, "production"),
}

# the backend's part: one small commit after the other
WRITER = f"""
import json, select, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout={BUSY_MS / 1000})
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=NORMAL")
longest = refused = count = 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    began = time.monotonic()
    try:
        connection.execute("INSERT OR REPLACE INTO metadata VALUES ('bench', ?, 0, x'00')", (count,))
        count += 1
    except sqlite3.OperationalError:
        refused += 1
    longest = max(longest, time.monotonic() - began)
print(json.dumps([longest * 1000, refused, count]))
"""


@dataclass
class Costs:
    """What one pipeline cost: a figure for each snapshot but the first, in s and bytes; memory in KiB."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the repository, after each snapshot, the first too
    waits_ms: list[float] = field(default_factory=list)
    refused: int = 0
    written: int = 0
    own_memory_kb: int = 0
    largest_memory_kb: int = 0

    @property
    def growth(self) -> list[int]:
        return [after - before for before, after in zip(self.sizes, self.sizes[1:], strict=False)]


def measure(folder: Path, count: int) -> tuple[int, dict[str, Costs], float]:
    """The database's size, what each pipeline costs for one of `count` members, and a writer's wait without a backup."""
    database = folder / "backend" / "envs" / "production" / "db.sqlite"
    sample_data.create(database, count)
    variables = {name: _variables(folder, name) for name in PIPELINES}
    subprocess.run([RESTIC, "init", "--quiet"], env=variables["documented"], check=True)
    for name in PIPELINES:
        if name != "documented":
            shutil.copytree(folder / "documented", folder / name)
    costs = {name: Costs() for name in PIPELINES}
    rng = random.Random(1)
    with closing(sqlite3.connect(database, isolation_level=None)) as backend:
        for number in range(SNAPSHOTS + WITH_WRITER):
            use(backend, rng, number)
            for name in _in_turn(number):
                if number < SNAPSHOTS:
                    _timed(folder, name, variables[name], costs[name], first=number == 0)
                else:
                    _watched(database, PIPELINES[name], variables[name], costs[name])
    idle = Costs()
    for _ in range(WITH_WRITER):
        _watched(database, ("sleep", str(statistics.median(costs["documented"].wall_s))), PLAIN, idle)
    for name in PIPELINES:
        _is_whole(database, name, variables[name])
    return database.stat().st_size, costs, max(idle.waits_ms)


def use(backend: sqlite3.Connection, rng: random.Random, number: int) -> None:
    """Some minutes of ordinary use: 3 profiles change, 3 sessions begin and the 3 oldest expire, 3 mails are queued,
    every other time there is a new member."""
    backend.execute("BEGIN IMMEDIATE")
    count = backend.execute("SELECT max(rowid) FROM birthdays").fetchone()[0]
    for _ in range(3):
        user = _change_profile(backend, rng.randint(1, count), rng)
        backend.execute("DELETE FROM session_cache WHERE rowid = (SELECT min(rowid) FROM session_cache)")
        sample_data.add_session(backend, rng, user)
        sample_data.add_mail(backend, rng, rng.randbytes(32).hex(), f"{number}@example.org")
    if number % 2:
        sample_data.add_member(backend, rng, count)
        backend.execute("UPDATE metadata SET value = ? WHERE key = 'user_id_counter'", (b"%d" % (count + 1),))
    backend.execute("COMMIT")


def _change_profile(backend: sqlite3.Connection, row: int, rng: random.Random) -> str:
    """The ID of the user with the profile that got another name."""
    user = backend.execute("SELECT key FROM birthdays WHERE rowid = ?", (row,)).fetchone()[0]
    profile = {"firstname": "Changed", "lastname": rng.randbytes(8).hex()}
    backend.execute(
        "UPDATE users SET value = ?, counter = counter + 1 WHERE key = ?",
        (json.dumps(profile).encode(), f"{user}:profile"),
    )
    return str(user)


def _in_turn(number: int) -> list[str]:
    names = list(PIPELINES)
    first = number % len(names)
    return names[first:] + names[:first]


def _variables(folder: Path, name: str) -> dict[str, str]:
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("bench\n")
    return {
        **PLAIN,
        "RESTIC": RESTIC,
        "RESTIC_REPOSITORY": str(folder / name),
        "RESTIC_PASSWORD_FILE": str(password),
        "RESTIC_CACHE_DIR": str(folder / f"cache-{name}"),
        "DODEKA_BACKEND": str(folder / "backend"),
        "DODEKA_STATE": str(folder / f"state-{name}"),
        "DODEKA_SYSTEMCTL": "none",
        "DODEKA_FORMAT": "pages" if name == "pages" else "zst",
        "DB": str(folder / "backend/envs/production/db.sqlite"),
        "FOLDER": str(folder),
    }


def _timed(folder: Path, name: str, variables: dict[str, str], costs: Costs, first: bool) -> None:
    os.sync()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(PIPELINES[name], env=variables, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, name
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not first:
        costs.wall_s.append(wall_s)
        costs.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    costs.largest_memory_kb = max(costs.largest_memory_kb, used.ru_maxrss)
    files = (path for path in (folder / name).rglob("*") if path.is_file())
    costs.sizes.append(sum(path.stat().st_size for path in files))


def _watched(database: Path, words: tuple[str, ...], variables: dict[str, str], costs: Costs) -> None:
    """A run beside a writer, whose longest wait counts, and under the eyes of whoever measures the memory."""
    os.sync()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "ready\n"
        process = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL)
        costs.own_memory_kb = max(costs.own_memory_kb, site_folder.peak_memory_kb(process))
        longest_ms, refused, written = json.loads(writer.communicate("stop\n")[0])
    assert process.returncode == 0, words
    costs.waits_ms.append(longest_ms)
    costs.refused += refused
    costs.written += written


def _is_whole(database: Path, name: str, variables: dict[str, str]) -> None:
    """A pipeline whose last snapshot is not the database has measured nothing."""
    folder = Path(mkdtemp(dir=variables["FOLDER"]))
    listed = subprocess.run(
        [RESTIC, "snapshots", "--json"], env=variables, check=True, capture_output=True, text=True
    )
    newest = max(json.loads(listed.stdout), key=lambda snapshot: snapshot["time"])
    with open(folder / "file", "wb") as file:
        subprocess.run(
            [RESTIC, "dump", newest["id"], newest["paths"][0]], env=variables, check=True, stdout=file
        )
    if newest["paths"][0].endswith(".zst"):
        subprocess.run(["zstd", "-q", "-d", folder / "file", "-o", folder / "db"], check=True)
    else:
        (folder / "file").rename(folder / "db")
    # the writers' counter goes on between the last snapshots
    for path in (folder / "db", database):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM metadata WHERE key = 'bench'")
    assert sample_data.digest(folder / "db") == sample_data.digest(database), name
    shutil.rmtree(folder)
