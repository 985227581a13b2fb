"""What the repository takes after a day and after half a year: the documented pipeline, both formats, and a patch format.

The patch format is no part of the project. It was tried here: each snapshot holds a base, a whole page copy that is stored
once, and the patch from it to the page copy of now, made by `zstd --patch-from`.
"""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import bench_backup
import cheap_key
from dodeka_db.restic import retention_policy
from dodeka_db.sqlite import sample_data, zstd_frames
from dodeka_db.sqlite.export import copy_pages, export_compacted
from dodeka_db.sqlite.header import read_header
from site_folder import PLAIN, RESTIC

PATCH = "patch"
NAMES = ("documented", "zst", "pages", PATCH)
RUNS_OF_A_DAY = 120
DAYS = 182
BEGINNING = datetime(2026, 1, 1, 8)
EVERY = timedelta(minutes=12)


@dataclass(frozen=True)
class Growth:
    """The bytes by the name of the pipeline, after `runs` runs on a database of that many bytes at the end."""

    database_bytes: int
    runs: int
    taken: dict[str, int]


def measure_day(folder: Path, count: int, runs: int = RUNS_OF_A_DAY) -> Growth:
    """What `runs` runs add to a repository that has one snapshot already; nothing is forgotten."""
    return _measure(folder, count, [BEGINNING + EVERY * number for number in range(runs + 1)], of_a_day=True)


def measure_half_year(folder: Path, count: int, runs_a_day: int, days: int = DAYS) -> Growth:
    """What the repository takes after `days` with as many runs each, and one more day with a run in each hour.

    The retention is applied after each run.
    """
    times = [
        BEGINNING + timedelta(days=day, hours=12 * number / runs_a_day)
        for day in range(days)
        for number in range(runs_a_day)
    ]
    times += [BEGINNING + timedelta(days=days, hours=hour) for hour in range(24)]
    return _measure(folder, count, times, of_a_day=False)


def _measure(folder: Path, count: int, times: Sequence[datetime], of_a_day: bool) -> Growth:
    database = folder / "db.sqlite"
    sample_data.create(database, count)
    repositories = {name: _Repository(folder, name) for name in NAMES}
    rng, patches, first = random.Random("growth"), _Patches(folder), dict.fromkeys(NAMES, 0)
    with closing(sqlite3.connect(database, isolation_level=None)) as backend:
        for number, moment in enumerate(times):
            bench_backup.use(backend, rng, number)
            files = _exports(database, folder)
            files[PATCH] = patches.of(files["pages"][0])
            for name, repository in repositories.items():
                repository.store(files[name], moment)
                if not of_a_day:
                    repository.forget()
            if of_a_day and number == 0:
                first = {name: one.size() for name, one in repositories.items()}
    taken = {name: one.size() - first[name] for name, one in repositories.items()}
    return Growth(database.stat().st_size, len(times) - of_a_day, taken)


def _exports(database: Path, folder: Path) -> dict[str, list[Path]]:
    compacted, pages, documented, zst = (
        folder / name for name in ("compacted", "pages.sqlite", "a.zst", "b.zst")
    )
    for file in (compacted, pages, documented, zst):
        file.unlink(missing_ok=True)
    export_compacted(database, compacted)
    copy_pages(database, pages)
    subprocess.run(["zstd", "-q", "--rsyncable", compacted, "-o", documented], check=True)
    with open(compacted, "rb") as source, open(zst, "xb") as target:
        zstd_frames.compress(source, target, read_header(compacted).page_bytes)
    return {"documented": [documented], "zst": [zst], "pages": [pages]}


class _Patches:
    """A base and a patch for each page copy. A new base when the patches have grown by as much as the base takes."""

    def __init__(self, folder: Path) -> None:
        self._base, self._stored, self._patch = (folder / name for name in ("base", "base.zst", "patch"))
        self._first = self._grown_by = 0

    def of(self, pages: Path) -> list[Path]:
        if self._base.exists():
            self._make(pages)
            size = self._patch.stat().st_size
            self._first = self._first or size
            self._grown_by += size - self._first
        if not self._base.exists() or self._grown_by > self._stored.stat().st_size:
            shutil.copy(pages, self._base)
            subprocess.run(["zstd", "-q", "-f", self._base, "-o", self._stored], check=True)
            self._first = self._grown_by = 0
            self._make(pages)
        return [self._stored, self._patch]

    def _make(self, pages: Path) -> None:
        words = ["zstd", "-q", "-f", "--long=31", f"--patch-from={self._base}", pages, "-o", self._patch]
        subprocess.run(words, check=True)


class _Repository:
    """A repository with a cheap key, since only sizes count."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name, self._path, self._stage = name, folder / f"restic-{name}", folder / f"stage-{name}"
        self._variables = {
            **PLAIN,
            "RESTIC_REPOSITORY": str(self._path),
            "RESTIC_PASSWORD": bench_backup.PASSWORD,
            "RESTIC_CACHE_DIR": str(folder / f"cache-{name}"),
        }
        self._restic("init")
        cheap_key.reseal(self._path, bench_backup.PASSWORD)

    def store(self, files: Sequence[Path], moment: datetime) -> None:
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir()
        for file in files:
            os.link(file, self._stage / file.name)
        compression = () if self._name == "pages" else ("--compression", "off")
        self._restic("backup", "--tag", "bench", "--time", f"{moment:%F %T}", *compression, str(self._stage))

    def forget(self) -> None:
        self._restic("forget", "--group-by", "tags", *retention_policy.options(), "--prune")

    def size(self) -> int:
        return sum(path.stat().st_size for path in self._path.rglob("*") if path.is_file())

    def _restic(self, *words: str) -> None:
        subprocess.run(
            [RESTIC, "--quiet", *words], env=self._variables, check=True, stdout=subprocess.DEVNULL
        )
