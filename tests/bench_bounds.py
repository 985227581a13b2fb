"""The most that each measurement may find: ratios to the documented pipeline, s, ms and MB of our own process."""

import statistics
from collections.abc import Iterator

from bench_backup import OURS, Costs, Runs
from bench_changes import Comparison
from bench_lists import Lists
from bench_restore import Downtime
from bench_results import Figures, median_ratio, ratio

# make backup: the ratios of wall time and growth
BACKUP = {
    "1.3 MB": {"zst": (1.25, 1.15), "pages": (1.25, 1.3), "memory": 80},
    "70 MB": {"zst": (0.95, 1.0), "pages": (0.75, 1 / 7), "memory": 100},
    "1 GB": {"zst": (0.80, 1.0), "pages": (0.45, 1 / 12), "memory": 100},
}
# make cron: ratios
CRON = {
    "1.3 MB": {("zst", "wall time"): 1.6, ("zst", "CPU time"): 1.6, ("pages", "wall time"): 1.6},
    "70 MB": {("zst", "wall time"): 1.25, ("zst", "CPU time"): 1.3, ("pages", "wall time"): 1.2},
    "1 GB": {("zst", "wall time"): 0.95, ("zst", "CPU time"): 1.0, ("pages", "wall time"): 0.8},
}
TIMES = {"wall time": lambda costs: costs.wall_s, "CPU time": lambda costs: costs.cpu_s}
DOWNTIME_MS = 50
RESTORE_MB = 150
CHANGES_S = 20
CHANGES_MB = 150
# make status and make snapshots, in starts of restic, and for how many snapshots that holds
LISTS = 1.5
LISTS_ON = "51 snapshots"


def too_much(name: str, figures: Figures) -> Iterator[str]:
    """Each bound that what the measurement `name` found does not keep, in a line."""
    part, on = name.split(", ")
    if part not in _BOUNDS:
        return
    for what, found, bound in _BOUNDS[part](on, figures):
        if found > bound:
            yield f"{name}: {what} {found:.4g}, more than {bound:.4g}"


# what is bounded, what was found, the bound
Bounds = Iterator[tuple[str, float, float]]


def _of_backup(on: str, runs: Runs) -> Bounds:
    for name in OURS:
        costs, bounds = runs.costs[name], BACKUP[on]
        yield f"{name}, wall time", ratio(runs, name, TIMES["wall time"]), bounds[name][0]
        yield f"{name}, growth", ratio(runs, name, _growth), bounds[name][1]
        yield f"{name}, memory in MB", costs.own_memory_kb * 1024 / 1e6, bounds["memory"]
        yield f"{name}, refused writes", costs.refused, 0


def _of_cron(on: str, runs: Runs) -> Bounds:
    for (name, what), bound in CRON[on].items():
        yield f"{name}, {what}", ratio(runs, name, TIMES[what]), bound


def _of_downtime(_: str, downtime: Downtime) -> Bounds:
    yield "downtime in ms", statistics.median(downtime.ours_s) * 1000, DOWNTIME_MS
    yield "memory in MB", downtime.own_memory_kb * 1024 / 1e6, RESTORE_MB


def _of_changes(_: str, comparison: Comparison) -> Bounds:
    yield "wall time in s", statistics.median(comparison.wall_s), CHANGES_S
    yield "memory in MB", comparison.own_memory_kb * 1024 / 1e6, CHANGES_MB


def _of_lists(on: str, lists: Lists) -> Bounds:
    if on == LISTS_ON:
        for what, times in (("make status", lists.status_s), ("make snapshots", lists.snapshots_s)):
            yield f"{what}, in starts of restic,", median_ratio(times, lists.restic_s), LISTS


def _growth(costs: Costs) -> list[int]:
    return costs.growth


_BOUNDS = {
    "backup": _of_backup,
    "cron run": _of_cron,
    "service down": _of_downtime,
    "changes": _of_changes,
    "lists": _of_lists,
}
