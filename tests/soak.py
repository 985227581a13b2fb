"""300 cron runs in a row, with a writer at work, restores and kills in between, and a second state folder (make soak).

A site with the real restic, SQLite and zstd, whose clock starts five days ago: a wrapper around restic gives each
snapshot a time 12 minutes after the one before, so that the retention has hours and days to choose from. Nothing
else is made up. The format changes from run to run, by chance. All the while somebody with a state folder of their own,
whose runs know nothing of these but the databases and the repository, backs up, drills and cleans up. After every run that
says it is good the snapshots are exactly those that the policy keeps of what was there; after every run that was killed the next one succeeds by
itself.
"""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import site_folder
from dodeka_db.host import staging
from dodeka_db.restic import retention_policy
from dodeka_db.settings import FORMATS
from site_folder import RESTIC, ROOT, Site

RUNS = 300
STEP = timedelta(minutes=12)
KILL_EVERY, RESTORE_EVERY = 7, 20
PRODUCTION = {"db", "db_sqlite", "db_dodeka", "env_production"}
PERIODS = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V", "monthly": "%Y%m"}

CLOCK = """#!/bin/sh
# restic, whose backups are of the time that the soak says
[ "$1" != backup ] || { shift; set -- backup --time "$(cat CLOCK)" "$@"; }
exec RESTIC "$@"
"""


class Writer(threading.Thread):
    """The backend's part: rows that come and go all the time, in whatever file is the database now."""

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True)
        self.database, self.stopping, self.pausing, self.paused = database, False, False, threading.Event()
        self.wrote = self.refused = 0

    def run(self) -> None:
        rng = random.Random(1)
        while not self.stopping:
            with closing(sqlite3.connect(self.database, isolation_level=None, timeout=0.5)) as connection:
                while not (self.stopping or self.pausing):
                    try:
                        key = rng.randbytes(8).hex()
                        connection.execute("INSERT INTO outbox VALUES (?, 0, 0, randomblob(200))", (key,))
                        connection.execute(
                            "DELETE FROM outbox WHERE rowid IN (SELECT rowid FROM outbox LIMIT 1)"
                        )
                        self.wrote += 1
                    except sqlite3.OperationalError:
                        self.refused += 1
                    time.sleep(0.01)
            while self.pausing and not self.stopping:
                self.paused.set()
                time.sleep(0.01)
            self.paused.clear()

    def pause(self) -> None:
        """A restore stops its service; this one is not systemd's."""
        self.pausing = True
        self.paused.wait()

    def go_on(self) -> None:
        self.pausing = False


class Neighbour(threading.Thread):
    """Runs for demo, one after another, with another state folder; each recovers what it finds beside both databases."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site, self.stopping, self.runs, self.busy = site, False, 0, 0
        self.failed: list[subprocess.CompletedProcess[str]] = []

    def run(self) -> None:
        rng = random.Random(11)
        state = str(self.site.folder / "another-state")
        while not self.stopping:
            script = rng.choice(["backup", "verify"])
            done = self.site.run(script, "demo", DODEKA_STATE=state, DODEKA_LOCK_WAIT_S="60")
            self.runs += 1
            self.busy += "not cleaning up after killed restores of production now" in done.stdout
            if done.returncode:
                self.failed.append(done)
            time.sleep(rng.uniform(0, 2))


def expected(times: list[datetime]) -> set[datetime]:
    """What the policy keeps of these, by the words of `restic forget`: the newest of each of the newest periods."""
    newest_first = sorted(times, reverse=True)
    kept = set(newest_first[: retention_policy.KEEP["last"]])
    for period, form in PERIODS.items():
        newest = {}
        for moment in newest_first:
            newest.setdefault(f"{moment:{form}}", moment)
        kept |= set(list(newest.values())[: retention_policy.KEEP[period]])
    return kept


class Soak:
    def __init__(self, folder: Path) -> None:
        self.site: Site = site_folder.make(folder)
        self.clock = datetime.now().replace(microsecond=0) - 2 * RUNS * STEP
        self.file = folder / "clock"
        self.restic = folder / "restic-with-a-clock"
        self.restic.write_text(CLOCK.replace("CLOCK", str(self.file)).replace("RESTIC", RESTIC))
        self.restic.chmod(0o755)
        self.rng = random.Random(7)
        self.good = self.killed = self.restores = self.locked = 0

    def tick(self) -> None:
        self.clock += STEP
        self.file.write_text(f"{self.clock:%F %T}")
        site_folder.PLAIN["DODEKA_FORMAT"] = self.rng.choice(list(FORMATS))

    def times(self) -> list[datetime]:
        """Of production's ordinary snapshots, by restic alone, without a lock."""
        listed = json.loads(self.site.restic("snapshots", "--json", "--no-lock").stdout)
        return [
            datetime.fromisoformat(entry["time"]).astimezone().replace(tzinfo=None)
            for entry in listed
            if set(entry["tags"]) == PRODUCTION
        ]

    def cron(self) -> None:
        before = self.times()
        self.tick()
        done = self.site.run("cron", "production", RESTIC=str(self.restic), DODEKA_LOCK_WAIT_S="60")
        assert (done.returncode, done.stderr) == (0, ""), done
        self.locked += "removing the lock if it is stale" in done.stdout
        after = set(self.times())
        # an orphan of a run that was killed may have stored its snapshot meanwhile
        there = {*before, *after, self.clock}
        # while there are too few for a period, newer restics keep the oldest besides
        wrong = (after ^ expected(list(there))) - {min(there)}
        assert not wrong, (wrong, sorted(there), done.stdout)
        self.good += 1

    def cron_killed(self) -> None:
        """SIGKILL at a moment of chance: to our process and restic, or to one of them."""
        self.tick()
        run = subprocess.Popen(
            [ROOT / "bin" / "dodeka-db-cron.py", "production"],
            env={**self.site.environ, "RESTIC": str(self.restic)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(self.rng.uniform(0.1, 1.6))
        whom = self.rng.choice(["all", "ours", "restic"])
        try:
            if whom == "all":
                os.killpg(run.pid, signal.SIGKILL)
            elif whom == "ours":
                run.kill()
            else:
                subprocess.run(["pkill", "-KILL", "-s", str(run.pid), "-x", "restic"])
        except ProcessLookupError:
            pass
        run.wait()
        self.killed += 1

    def restore(self, writer: Writer) -> None:
        """To a snapshot of chance and, half of the time, back again."""
        # a killed run may have left a restic that still works: the list then says that it waits for its lock
        listed = self.site.run("snapshots", "production", "--json")
        assert listed.returncode == 0, listed
        chosen = self.rng.choice(json.loads(listed.stdout))["id"]
        writer.pause()
        self.tick()
        self.site.ok(
            *("restore", "production", "--snapshot", chosen, "--yes"),
            RESTIC=str(self.restic),
            DODEKA_LOCK_WAIT_S="60",
        )
        if self.rng.random() < 0.5:
            self.tick()
            self.site.ok("undo", "production", "--yes", RESTIC=str(self.restic), DODEKA_LOCK_WAIT_S="60")
        writer.go_on()
        self.restores += 1

    def everything_can_be_restored(self) -> int:
        snapshots = self.site.snapshots()
        for snapshot in snapshots:
            self.site.ok("verify", snapshot["environment"], "--snapshot", snapshot["id"])
        self.site.restic("check", "--read-data")
        return len(snapshots)


def main() -> int:
    runs = int(os.environ.get("SOAK_RUNS", RUNS))
    folder = Path(tempfile.mkdtemp(prefix="dodeka-soak-", dir="/var/tmp"))
    temporary = folder / "tmp"
    temporary.mkdir()
    site_folder.PLAIN["TMPDIR"] = str(temporary)
    soak = Soak(folder / "site")
    writer = Writer(soak.site.database())
    writer.start()
    soak.site.ok("backup", "demo")
    neighbour = Neighbour(soak.site)
    neighbour.start()
    began = time.monotonic()
    for number in range(1, runs + 1):
        if number % KILL_EVERY == 0:
            soak.cron_killed()
        if number % RESTORE_EVERY == 0:
            soak.restore(writer)
        soak.cron()
        if number % 10 == 0:
            print(
                f"{number} runs, {len(soak.times())} snapshots, {time.monotonic() - began:.0f} s", flush=True
            )
    writer.stopping = neighbour.stopping = True
    writer.join()
    neighbour.join()
    assert not neighbour.failed, neighbour.failed
    verified = soak.everything_can_be_restored()
    left = list(temporary.iterdir())
    for state in (soak.site.state, soak.site.folder / "another-state"):
        left += [path for path in (state / "staging").iterdir() if path.name != staging.MARK]
    left += soak.site.database().parent.glob("db.sqlite.*")
    left += list((soak.site.state / "restic-cache").glob("restic-check-*"))
    assert not left, left
    assert re.fullmatch("ok", _integrity(soak.site.database()))
    print(
        f"{soak.good} good cron runs, {soak.killed} killed, {soak.locked} next runs met a lock of a dead or orphaned"
        f" restic, {soak.restores} restores, {writer.wrote} writes, {writer.refused} refused; the retention was exact after each good run;"
        f" {neighbour.runs} runs with another state folder, {neighbour.busy} of them beside a restore;"
        f" {verified} snapshots verified; nothing left behind; {time.monotonic() - began:.0f} s"
    )
    shutil.rmtree(folder)
    return 0


def _integrity(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


if __name__ == "__main__":
    sys.exit(main())
