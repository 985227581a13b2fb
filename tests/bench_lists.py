"""What make status and make snapshots take with many snapshots, beside one start of restic that lists them."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import cheap_key
from dodeka_db.host import row_records
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.row_counts import row_counts
from site_folder import RESTIC, ROOT, Site

ROUNDS = 7
MEMBERS = {"production": 670, "demo": 30}
STORED_BYTES = 1000
LAST_YEAR = timedelta(days=365)


@dataclass
class Lists:
    """The times of make status, make snapshots and `restic snapshots`, in s, in rounds."""

    status_s: list[float] = field(default_factory=list)
    snapshots_s: list[float] = field(default_factory=list)
    restic_s: list[float] = field(default_factory=list)


def measure(folder: Path, count: int) -> Lists:
    """With `count` snapshots, of both environments in turn, over the last year; the rows in each are on record."""
    site = Site(folder)
    site.ok("init", "--yes")
    for environment, members in MEMBERS.items():
        sample_data.create(site.database(environment), members)
    _fill(site, count - len(MEMBERS))
    for environment in MEMBERS:
        site.ok("backup", environment)
    assert len(site.snapshots()) == count
    result = Lists()
    commands = {
        "status_s": [ROOT / "bin" / "dodeka-db-status.py"],
        "snapshots_s": [ROOT / "bin" / "dodeka-db-snapshots.py"],
        "restic_s": [RESTIC, "snapshots"],
    }
    environ = {**site.environ, "RESTIC_CACHE_DIR": str(folder / "cache")}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            began = time.monotonic()
            done = subprocess.run(command, env=environ, capture_output=True, text=True)
            wall_s = time.monotonic() - began
            # the site has no crontab, so its status is not good
            assert done.returncode in ((0, 1) if name == "status_s" else (0,)), done
            assert name != "status_s" or f"{count // 2} snapshots" in done.stdout, done
            if number:  # the first fills the caches
                getattr(result, name).append(wall_s)
    return result


def _fill(site: Site, count: int) -> None:
    """`count` small snapshots, made with a cheap key; after that the key costs what it usually does."""
    rng = Random(1)
    cheap_key.reseal(site.repository, site.password)
    began = datetime.now() - LAST_YEAR
    for number in range(count):
        environment = list(MEMBERS)[number % len(MEMBERS)]
        _store(site, rng, environment, began + LAST_YEAR * number / count)
    # a prune that has something to remove leaves few index files, as cron runs do
    _store(site, rng, "unwanted", began)
    (unwanted,) = json.loads(site.restic("snapshots", "--json", "--tag", "env_unwanted").stdout)
    site.restic("forget", "--prune", unwanted["id"])
    rows = {environment: row_counts(site.database(environment)) for environment in MEMBERS}
    for snapshot in site.snapshots():
        record = row_records.Record(STORED_BYTES, rows[snapshot["environment"]])
        row_records.write(site.state, snapshot["id"], record)
    cheap_key.reseal(site.repository, site.password, cheap_key.USUAL)


def _store(site: Site, rng: Random, environment: str, moment: datetime) -> None:
    file = f"dodeka-{environment}.sqlite.zst"
    site.restic(
        *("backup", "--quiet", "--time", f"{moment:%Y-%m-%d %H:%M:%S}", "--stdin", "--stdin-filename", file),
        *("--tag", f"db,db_sqlite,db_dodeka,env_{environment}"),
        input=rng.randbytes(STORED_BYTES // 2).hex(),
    )
