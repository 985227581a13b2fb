"""How long a restore takes from the `yes` to its end: the part of it that somebody waits for with the backend in mind."""

import os
import random
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import bench_backup
import cheap_key
from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site

ROUNDS = 3
QUESTION = b"Type 'yes' to go on: "


@dataclass
class Confirmed:
    """Restores of a database of that many bytes: the times from the `yes`, in s."""

    database_bytes: int
    wall_s: list[float] = field(default_factory=list)


def measure(folder: Path, count: int) -> Confirmed:
    """make restore for production with `count` members, after some minutes of use, without a service."""
    site = Site(folder)
    site.ok("init", "--yes")
    cheap_key.reseal(site.repository, site.password, cheap_key.USUAL)
    database, rng = site.database(), random.Random(1)
    sample_data.create(database, count)
    site.ok("backup", "production")
    stored = sample_data.digest(database)
    result = Confirmed(database.stat().st_size)
    for number in range(ROUNDS):
        with closing(sqlite3.connect(database, isolation_level=None)) as backend:
            bench_backup.use(backend, rng, number)
        os.sync()
        result.wall_s.append(_from_the_yes(site))
        assert sample_data.digest(database) == stored
    return result


def _from_the_yes(site: Site) -> float:
    with subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest"],
        env=site.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        shown = b""
        while not shown.endswith(QUESTION):
            more = os.read(process.stdout.fileno(), 10_000)
            assert more, shown
            shown += more
        began = time.monotonic()
        said, _ = process.communicate(b"yes\n")
        wall_s = time.monotonic() - began
    assert process.returncode == 0, said
    return wall_s
