"""Ours beside the documented pipeline (make bench; with BENCH_LARGE=1 also for 1 GB, which takes 2 hours).

Measures, stores what it found in docs/bench.json, makes docs/bench.md, docs/bench.svg and the table in docs/formats.md
of all that is there, and fails where a bound is not kept. BENCH_ONLY is a part of the names of the measurements to make;
what is not measured stays as it is.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bench_backup
import bench_bounds
import bench_changes
import bench_confirmed
import bench_growth
import bench_lists
import bench_page
import bench_restore
import bench_results
from bench_results import MEMBERS, Figures
from site_folder import ROOT

DOCS = ROOT / "docs"
DISTANCES_MS = (0, 20)
LISTED = (51, 1000)
# in half a year, thinned, since each takes seconds
RUNS_A_DAY = {"1.3 MB": 4, "70 MB": 1}


def main() -> int:
    found = bench_results.load(DOCS / "bench.json")
    known = measurements()
    only, large = os.environ.get("BENCH_ONLY", ""), os.environ.get("BENCH_LARGE") == "1"
    names = chosen(list(known), only, large, os.geteuid() == 0)
    if not names:
        print(f"BENCH_ONLY is in none of these names: {'; '.join(known)}", file=sys.stderr)
        return 2
    broken = []
    for name in names:
        print(f"measuring {name}", flush=True)
        found[name] = bench_results.of_today(_measure(known[name]))
        broken += bench_bounds.too_much(name, found[name].figures)
        found = {name: found[name] for name in known if name in found}
        bench_results.store(found, DOCS / "bench.json")
    write_pages()
    print((DOCS / "bench.md").read_text())
    for line in broken:
        print(line, file=sys.stderr)
    return int(bool(broken))


def measurements() -> dict[str, Callable[[Path], Figures]]:
    """By its name, what makes each measurement in a folder."""
    made: dict[str, Callable[[Path], Figures]] = {}
    for label, count in MEMBERS.items():
        made[f"backup, {label}"] = partial(bench_backup.measure, count=count)
        made[f"cron run, {label}"] = partial(bench_backup.measure, count=count, pipelines=bench_backup.CRON)
        made[f"service down, {label}"] = partial(bench_restore.measure, count=count)
        made[f"restore, {label}"] = partial(bench_confirmed.measure, count=count)
        made[f"changes, {label}"] = partial(bench_changes.measure, count=count)
    for ms in DISTANCES_MS:
        made[f"distant cron run, {ms} ms"] = partial(
            bench_backup.measure,
            count=MEMBERS[bench_backup.DISTANT_LABEL],
            pipelines=bench_backup.DISTANT_CRON,
            delay_s=ms / 1000,
        )
    for label, runs_a_day in RUNS_A_DAY.items():
        count = MEMBERS[label]
        made[f"a day of runs, {label}"] = partial(bench_growth.measure_day, count=count)
        made[f"half a year, {label}"] = partial(
            bench_growth.measure_half_year, count=count, runs_a_day=runs_a_day
        )
    for count in LISTED:
        made[f"lists, {count} snapshots"] = partial(bench_lists.measure, count=count)
    return made


def chosen(names: list[str], only: str, large: bool, root: bool) -> list[str]:
    """Those of the `names` that have `only` in them; 1 GB only if it is wanted, the downtime only if `root` measures."""
    left_out = () if large else (", 1 GB",)
    return [
        name
        for name in names
        if only in name and not name.endswith(left_out) and (root or not name.startswith("service down"))
    ]


def write_pages() -> None:
    """The pages, made of docs/bench.json alone."""
    found = bench_results.load(DOCS / "bench.json")
    (DOCS / "bench.md").write_text(bench_page.page(found))
    if bench_results.figures(found, "backup"):
        bench_page.plot(found, DOCS / "bench.svg")
        formats = DOCS / "formats.md"
        formats.write_text(bench_page.with_figures(formats.read_text(), found))


def _measure(make: Callable[[Path], Figures]) -> Figures:
    # TMPDIR names the disk that is to be measured
    folder = Path(tempfile.mkdtemp())
    try:
        return make(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
