"""Ours beside the documented pipeline (make bench; with BENCH_LARGE=1 also for 1 GB, which takes an hour).

Prints a table for each size of the database, writes docs/bench.md and docs/bench.svg, and fails where a bound
is not kept.
"""

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bench_backup
import bench_changes
import bench_restore
from bench_backup import PIPELINES, SNAPSHOTS, Costs
from bench_changes import Comparison
from bench_restore import Downtime
from dodeka_db.formatting import size
from site_folder import RESTIC, ROOT

DOCS = ROOT / "docs"
FORMATS = DOCS / "formats.md"
# what docs/formats.md shows of the table
SHOWN = ("wall time", "growth per snapshot")
OURS = [name for name in PIPELINES if name != "documented"]
MEMBERS = {"1.3 MB": 670, "70 MB": 39_500, "1 GB": 565_000}
# the most that may be: ratios to the documented pipeline, and MB of our own process
BOUNDS = {
    "1.3 MB": {"zst": (1.25, 1.15), "pages": (1.25, 1.3), "memory": 80},
    "70 MB": {"zst": (0.95, 1.0), "pages": (0.75, 1 / 7), "memory": 100},
    "1 GB": {"zst": (0.80, 1.0), "pages": (0.45, 1 / 12), "memory": 100},
}
DOWNTIME_BOUND_MS = 50
RESTORE_BOUND_MB = 150
CHANGES_BOUND_S = 20
CHANGES_BOUND_MB = 150


@dataclass(frozen=True)
class Result:
    """What was measured for a database of `label`; `downtime` is None where there is no root to measure it.

    `idle_ms` is a writer's longest wait without any backup.
    """

    label: str
    database_bytes: int
    costs: dict[str, Costs]
    idle_ms: float
    downtime: Downtime | None
    comparison: Comparison


def main() -> int:
    labels = [label for label in MEMBERS if label != "1 GB" or os.environ.get("BENCH_LARGE") == "1"]
    results = []
    for label in labels:
        results.append(measure(label))
        print(table(results[-1]), flush=True)
        print("\n".join(comparisons({label: results[-1].comparison})), flush=True)
    DOCS.mkdir(exist_ok=True)
    (DOCS / "bench.md").write_text(page(results))
    plot(results, DOCS / "bench.svg")
    FORMATS.write_text(with_figures(FORMATS.read_text(), results))
    broken = [line for result in results for line in too_much(result)]
    for line in broken:
        print(line, file=sys.stderr)
    return int(bool(broken))


def measure(label: str) -> Result:
    # TMPDIR names the disk that is to be measured
    folder = Path(tempfile.mkdtemp())
    try:
        database_bytes, costs, idle_ms = bench_backup.measure(folder, MEMBERS[label])
        shutil.rmtree(folder)
        folder.mkdir()
        downtime = bench_restore.measure(folder, MEMBERS[label]) if os.geteuid() == 0 else None
        shutil.rmtree(folder)
        folder.mkdir()
        comparison = bench_changes.measure(folder, MEMBERS[label])
    finally:
        shutil.rmtree(folder)
    return Result(label, database_bytes, costs, idle_ms, downtime, comparison)


def ratio(result: Result, name: str, figures: Callable[[Costs], Sequence[float]]) -> float:
    """The median of what `name` cost beside what the documented pipeline cost for the same snapshot."""
    documented = figures(result.costs["documented"])
    pairs = zip(figures(result.costs[name]), documented, strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def table(result: Result) -> str:
    """The table for one database, in Markdown."""
    rows = [("", *PIPELINES)]

    def row(title: str, figures: Callable[[Costs], Sequence[float]], shown: Callable[[float], str]) -> None:
        cells = [shown(statistics.median(figures(costs))) for costs in result.costs.values()]
        for number, name in enumerate(PIPELINES):
            if name in OURS:
                cells[number] += f" ({shown_ratio(ratio(result, name, figures))})"
        rows.append((title, *cells))

    def plain_row(title: str, shown: Callable[[Costs], str]) -> None:
        rows.append((title, *(shown(costs) for costs in result.costs.values())))

    row("wall time", lambda costs: costs.wall_s, seconds)
    row("CPU time", lambda costs: costs.cpu_s, seconds)
    row("growth per snapshot", lambda costs: costs.growth, lambda count: f"{count / 1000:,.0f} kB")
    row(
        f"repository after {SNAPSHOTS} snapshots",
        lambda costs: costs.sizes[-1:],
        lambda count: size(int(count)),
    )
    plain_row(
        "peak memory, our own process",
        lambda c: "" if c is result.costs["documented"] else mb(c.own_memory_kb),
    )
    plain_row("peak memory, the largest program", lambda costs: mb(costs.largest_memory_kb))
    plain_row(
        f"a writer's longest wait (without a backup: {result.idle_ms:.1f} ms)",
        lambda costs: (
            f"{max(costs.waits_ms):.1f} ms, {costs.refused} of {costs.written + costs.refused} refused"
        ),
    )
    if result.downtime:
        documented, ours = (
            statistics.median(times) for times in (result.downtime.documented_s, result.downtime.ours_s)
        )
        pairs = zip(result.downtime.ours_s, result.downtime.documented_s, strict=True)
        beside = statistics.median(ours / theirs for ours, theirs in pairs)
        cell = f"{ours * 1000:.0f} ms ({shown_ratio(beside)})"
        rows.append(("service down in a restore", seconds(documented), cell, ""))
        memory = mb(result.downtime.own_memory_kb)
        rows.append(("peak memory of a restore, our own process", "", memory, ""))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return f"## {result.label}\n\nThe database has {size(result.database_bytes)}.\n\n" + "\n".join(lines)


def comparisons(measured: Mapping[str, Comparison]) -> list[str]:
    """The table of what `make changes` costs, by the label of the database, in Markdown."""
    lines = ["| `make changes` | database | wall time | peak memory, our own process |", f"|{'---|' * 4}"]
    return lines + [
        f"| {label} | {size(one.database_bytes)} | {seconds(statistics.median(one.wall_s))} | {mb(one.own_memory_kb)} |"
        for label, one in measured.items()
    ]


def page(results: Sequence[Result]) -> str:
    """docs/bench.md."""
    version = subprocess.check_output([RESTIC, "version"], text=True).split()[1]
    about = [
        (
            f"`make bench` wrote this, on {len(os.sched_getaffinity(0))} cores with restic {version} and Python"
            f" {platform.python_version()}. *documented* is the pipeline of the shell scripts (`sqlite3` with `VACUUM INTO`,"
            " `zstd --rsyncable`, `restic backup`), which checks nothing; *zst* and *pages* are `make backup` with either"
            " `DODEKA_FORMAT`, which reads its snapshot back. A cron run also applies the retention: that is not in these"
            " figures."
        ),
        (
            f"Each pipeline took {SNAPSHOTS} snapshots of the same database, in turn. Between two snapshots there are some"
            " minutes of use: 3 profiles change, 3 sessions begin, the 3 oldest expire, 3 mails are queued, and every other"
            " time there is a new member. Figures are medians over all snapshots but the first. Ratios, in brackets, are"
            " medians of the ratios to what the documented pipeline took for the same snapshot. During"
            f" {bench_backup.WITH_WRITER} more snapshots of each, a writer committed every 10 ms and gave up after waiting"
            f" for {bench_backup.BUSY_MS} ms."
        ),
    ]
    if any(result.downtime for result in results):
        about.append(
            f"The downtime of the service is the median of {bench_restore.ROUNDS} restores of *zst* snapshots, without the"
            " time that the service itself takes to stop and start."
        )
    of_changes = (
        f"`make changes` compares a *zst* snapshot with the live database, in which one member in"
        f" {bench_changes.ONE_IN} is gone, as many have other permissions, and half as many are new. The time is the median of"
        f" {bench_changes.ROUNDS} runs, and includes getting the snapshot out of the repository. The bounds are"
        f" {CHANGES_BOUND_S} s and {CHANGES_BOUND_MB} MB."
    )
    parts = [
        "# Beside the documented pipeline",
        *(textwrap.fill(text, 120) for text in about),
        "![Repository size over snapshots](bench.svg)",
        textwrap.fill(of_changes, 120),
        "\n".join(comparisons({result.label: result.comparison for result in results})),
        *(table(result) for result in results),
    ]
    return "\n\n".join(parts) + "\n"


def with_figures(text: str, results: Sequence[Result]) -> str:
    """docs/formats.md with the figures of the formats as they are now."""
    lines = ["| database | | documented | `zst` | `pages` |", f"|{'---|' * 5}"]
    for result in results:
        rows = [
            line
            for line in table(result).splitlines()
            if line.startswith(tuple(f"| {what} |" for what in SHOWN))
        ]
        lines += [f"| {result.label} {row}" for row in rows]
    return re.sub(r"^\| database \|.*\n(\|.*\n)*", "\n".join(lines) + "\n", text, flags=re.MULTILINE)


def plot(results: Sequence[Result], file: Path) -> None:
    """Repository size over snapshots, one line a pipeline, one picture a database."""
    import matplotlib  # only make bench has it

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(4 * len(results), 3), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        for name, costs in result.costs.items():
            axis.plot(range(1, SNAPSHOTS + 1), [count / 1e6 for count in costs.sizes], label=name)
        axis.set(title=f"database of {result.label}", xlabel="snapshots", ylabel="repository, MB")
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.tight_layout()
    # white behind it: pages may be dark
    figure.savefig(file, facecolor="white", metadata={"Date": None})


def too_much(result: Result) -> Iterator[str]:
    """Each bound that was not kept, in a line."""
    bounds = BOUNDS[result.label]
    for name in OURS:
        figures = {
            "wall time": (ratio(result, name, lambda costs: costs.wall_s), bounds[name][0]),
            "growth": (ratio(result, name, lambda costs: costs.growth), bounds[name][1]),
            "memory in MB": (result.costs[name].own_memory_kb * 1024 / 1e6, bounds["memory"]),
            "refused writes": (result.costs[name].refused, 0),
        }
        for what, (found, bound) in figures.items():
            if found > bound:
                yield f"{result.label}, {name}: {what} {found:.3f}, more than {bound:.3f}"
    if result.downtime:
        down_ms = statistics.median(result.downtime.ours_s) * 1000
        if down_ms > DOWNTIME_BOUND_MS:
            yield f"{result.label}: {down_ms:.0f} ms down, more than {DOWNTIME_BOUND_MS}"
        memory_mb = result.downtime.own_memory_kb * 1024 / 1e6
        if memory_mb > RESTORE_BOUND_MB:
            yield f"{result.label}: {memory_mb:.0f} MB for a restore, more than {RESTORE_BOUND_MB}"
    changes_s = statistics.median(result.comparison.wall_s)
    if changes_s > CHANGES_BOUND_S:
        yield f"{result.label}: {changes_s:.1f} s for make changes, more than {CHANGES_BOUND_S}"
    memory_mb = result.comparison.own_memory_kb * 1024 / 1e6
    if memory_mb > CHANGES_BOUND_MB:
        yield f"{result.label}: {memory_mb:.0f} MB for make changes, more than {CHANGES_BOUND_MB}"


def shown_ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.2 else f"1/{1 / value:.1f}"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def mb(kb: int) -> str:
    return f"{kb * 1024 / 1e6:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
