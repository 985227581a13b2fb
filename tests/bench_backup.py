"""What backups and cron runs cost: the documented pipeline with the real tools, and ours in both formats, in turn.

Each pipeline has a repository of its own, with the same key, whose cost no machine decides. Before each snapshot the database is used as in some
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
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

import cheap_key
import site_folder
from distant_server import DistantServer
from dodeka_db.restic import retention_policy
from dodeka_db.sqlite import sample_data
from site_folder import PLAIN, RESTIC, ROOT

PASSWORD = "bench"
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
# and what its cron ran after that
RETENTION = f"""
"$RESTIC" forget --quiet --tag db_dodeka,env_production --group-by tags {" ".join(retention_policy.options())} --prune
"""

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


@dataclass(frozen=True)
class Pipelines:
    """The command of each pipeline, and how often it is run; the first `uncounted` runs of `runs` are not measured.

    After these there are `watched` more, while a writer is at work and somebody watches the memory.
    """

    commands: Mapping[str, tuple[str, ...]]
    runs: int
    uncounted: int
    watched: int = 0


def _pipelines(documented: str, script: str, runs: int, uncounted: int, watched: int = 0) -> Pipelines:
    ours = (str(ROOT / "bin" / script), "production")
    commands = {"documented": ("sh", "-c", documented), "zst": ours, "pages": ours}
    return Pipelines(commands, runs, uncounted, watched)


BACKUP = _pipelines(DOCUMENTED, "dodeka-db-backup.py", runs=51, uncounted=1, watched=5)
OURS = [name for name in BACKUP.commands if name != "documented"]
# from the eleventh on the retention removes a snapshot for each new one
CRON = _pipelines(DOCUMENTED + RETENTION, "dodeka-db-cron.py", runs=31, uncounted=12)
# on a server, where each takes longer
DISTANT_LABEL = "1.3 MB"
DISTANT_CRON = replace(CRON, runs=CRON.uncounted + 11)


@dataclass
class Costs:
    """What one pipeline cost: a figure for each run that counts, in s and bytes; memory in KiB."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the repository, after each run, the uncounted too
    waits_ms: list[float] = field(default_factory=list)
    refused: int = 0
    written: int = 0
    own_memory_kb: int = 0
    largest_memory_kb: int = 0

    @property
    def growth(self) -> list[int]:
        return [after - before for before, after in zip(self.sizes, self.sizes[1:], strict=False)]


@dataclass(frozen=True)
class Runs:
    """What each pipeline cost on a database of that many bytes; `idle_ms` is a writer's longest wait without a backup.

    `idle_ms` is None where no run was watched.
    """

    database_bytes: int
    costs: dict[str, Costs]
    idle_ms: float | None


def measure(folder: Path, count: int, pipelines: Pipelines = BACKUP, delay_s: float | None = None) -> Runs:
    """What each pipeline costs for a database of `count` members.

    `delay_s`: the repositories are on a REST server, to which a byte takes so long; None if they are in a folder.
    """
    database = folder / "backend" / "envs" / "production" / "db.sqlite"
    sample_data.create(database, count)
    with ExitStack() as stack:
        repositories, server = folder, None
        if delay_s is not None:
            server = DistantServer(folder / "server")
            stack.callback(server.stop)
            repositories = server.served
        for name in pipelines.commands:
            _make_repository(folder, repositories / name, repositories / "documented")
        if server:
            server.start()
        addresses = {
            name: server.address(name) if server else str(folder / name) for name in pipelines.commands
        }
        variables = {name: _variables(folder, name, address) for name, address in addresses.items()}
        costs = {name: Costs() for name in pipelines.commands}
        rng = random.Random(1)
        with closing(sqlite3.connect(database, isolation_level=None)) as backend:
            for number in range(pipelines.runs + pipelines.watched):
                if server and number == pipelines.uncounted:
                    server.delay_s = delay_s
                use(backend, rng, number)
                for name in _in_turn(list(pipelines.commands), number):
                    command = pipelines.commands[name]
                    if number < pipelines.runs:
                        counted = number >= pipelines.uncounted
                        _timed(command, repositories / name, variables[name], costs[name], counted)
                    else:
                        _watched(database, command, variables[name], costs[name])
        idle = Costs()
        for _ in range(pipelines.watched):
            _watched(database, ("sleep", str(statistics.median(costs["documented"].wall_s))), PLAIN, idle)
        for name in pipelines.commands:
            _is_whole(database, name, variables[name])
    return Runs(database.stat().st_size, costs, max(idle.waits_ms, default=None))


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


def _in_turn(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


def _make_repository(folder: Path, repository: Path, model: Path) -> None:
    """A new repository, with the key of `model`, which is the first one."""
    if repository == model:
        variables = _variables(folder, model.name, str(repository))
        subprocess.run([RESTIC, "init", "--quiet"], env=variables, check=True)
        cheap_key.reseal(model, PASSWORD, cheap_key.USUAL)
    else:
        shutil.copytree(model, repository)


def _variables(folder: Path, name: str, repository: str) -> dict[str, str]:
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(f"{PASSWORD}\n")
    return {
        **PLAIN,
        "RESTIC": RESTIC,
        "RESTIC_REPOSITORY": repository,
        "RESTIC_PASSWORD_FILE": str(password),
        "RESTIC_CACHE_DIR": str(folder / f"cache-{name}"),
        "DODEKA_BACKEND": str(folder / "backend"),
        "DODEKA_STATE": str(folder / f"state-{name}"),
        "DODEKA_SYSTEMCTL": "none",
        "DODEKA_FORMAT": "pages" if name == "pages" else "zst",
        "DB": str(folder / "backend/envs/production/db.sqlite"),
        "FOLDER": str(folder),
    }


def _timed(
    command: tuple[str, ...], repository: Path, variables: dict[str, str], costs: Costs, counted: bool
) -> None:
    os.sync()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, repository.name
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if counted:
        costs.wall_s.append(wall_s)
        costs.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    costs.largest_memory_kb = max(costs.largest_memory_kb, used.ru_maxrss)
    files = (path for path in repository.rglob("*") if path.is_file())
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
