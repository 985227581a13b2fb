"""What make changes costs: a snapshot beside a live database in which rows are gone, new and changed."""

import random
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import cheap_key
from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site, peak_memory_kb

ROUNDS = 3
# one member in so many is gone, another one has other permissions; half as many are new
ONE_IN = 100


@dataclass
class Comparison:
    """A comparison of a snapshot with a database of that many bytes: the times in s, our process's memory in KiB."""

    database_bytes: int
    wall_s: list[float] = field(default_factory=list)
    own_memory_kb: int = 0


def measure(folder: Path, count: int) -> Comparison:
    """make changes for production with `count` members, after an import of a wrong member list."""
    site = Site(folder)
    site.ok("init", "--yes")
    cheap_key.reseal(site.repository, site.password, cheap_key.USUAL)
    sample_data.create(site.database(), count)
    site.ok("backup", "production")
    gone = change(site.database(), count)
    result = Comparison(site.database().stat().st_size)
    for _ in range(ROUNDS):
        began = time.monotonic()
        process = subprocess.Popen(
            [ROOT / "bin" / "dodeka-db-changes.py", "production"],
            env=site.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        result.own_memory_kb = max(result.own_memory_kb, peak_memory_kb(process))
        result.wall_s.append(time.monotonic() - began)
        said, _ = process.communicate()
        assert process.returncode == 0
        # one that has found something else has measured nothing
        assert re.search(rf"^users_by_email +{gone} +{count // ONE_IN // 2} +0$", said, re.MULTILINE), said
    return result


def change(database: Path, count: int) -> int:
    """Rows of members are gone, changed and new; returns how many members are gone."""
    rng = random.Random(1)
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in ("users", "birthdays"):
            connection.execute(f"DELETE FROM {table} WHERE CAST(key AS INTEGER) % {ONE_IN} = 0")
        for table in ("users_by_email", "users_by_bondsnummer"):
            gone = connection.execute(
                f"DELETE FROM {table} WHERE CAST(value AS INTEGER) % {ONE_IN} = 0"
            ).rowcount
        connection.execute(
            "UPDATE users SET counter = counter + 1, expiration = expiration + 1"
            f" WHERE key LIKE '%:perm:%' AND CAST(key AS INTEGER) % {ONE_IN} = 1"
        )
        for number in range(count // ONE_IN // 2):
            sample_data.add_member(connection, rng, count + number)
    return gone
