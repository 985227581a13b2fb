"""What make bench has measured, in docs/bench.json: of each measurement the newest result, with its day and its machine.

What a run leaves out stays. A measurement is called after its part and what it was measured on: "cron run, 70 MB".
"""

import dataclasses
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bench_backup import Costs, Runs
from bench_changes import Comparison
from bench_confirmed import Confirmed
from bench_growth import Growth
from bench_lists import Lists
from bench_restore import Downtime
from site_folder import RESTIC

Figures = Runs | Downtime | Confirmed | Comparison | Growth | Lists
# the parts, and what each finds
PARTS = {
    "backup": Runs,
    "cron run": Runs,
    "distant cron run": Runs,
    "service down": Downtime,
    "restore": Confirmed,
    "changes": Comparison,
    "a day of runs": Growth,
    "half a year": Growth,
    "lists": Lists,
}
# the members in the databases, by the label of their size
MEMBERS = {"1.3 MB": 670, "70 MB": 39_500, "1 GB": 565_000}
DIGITS = 4  # of a second: 0.1 ms


@dataclass(frozen=True)
class Result:
    """What one measurement found, on which day, with which restic and Python, on how many cores."""

    date: str
    restic: str
    python: str
    cores: int
    figures: Figures

    @property
    def circumstances(self) -> str:
        return f"measured on {self.date}, on {self.cores} cores with restic {self.restic} and Python {self.python}"


Results = Mapping[str, Result]


def of_today(figures: Figures) -> Result:
    version = subprocess.check_output([RESTIC, "version"], text=True).split()[1]
    cores = len(os.sched_getaffinity(0))
    return Result(date.today().isoformat(), version, platform.python_version(), cores, figures)


def load(file: Path) -> dict[str, Result]:
    """The results by the name of the measurement; none if there is no `file` yet."""
    if not file.exists():
        return {}
    return {name: _result(name, stored) for name, stored in json.loads(file.read_text()).items()}


def store(results: Results, file: Path) -> None:
    lines = [
        f"{json.dumps(name)}: {json.dumps(_rounded(dataclasses.asdict(one)))}"
        for name, one in results.items()
    ]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def figures(results: Results, part: str) -> dict[str, Any]:
    """What was measured of `part`, by what it was measured on."""
    split = {name: name.split(", ") for name in results}
    return {on: results[name].figures for name, (of, on) in split.items() if of == part}


def ratio(runs: Runs, name: str, chosen: Callable[[Costs], Sequence[float]]) -> float:
    """The median of what `name` cost beside what the documented pipeline cost in the same round."""
    return median_ratio(chosen(runs.costs[name]), chosen(runs.costs["documented"]))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _result(name: str, stored: dict[str, Any]) -> Result:
    kind, found = PARTS[name.split(", ", maxsplit=1)[0]], stored["figures"]
    if kind is Runs:
        found["costs"] = {pipeline: Costs(**costs) for pipeline, costs in found["costs"].items()}
    return Result(**{**stored, "figures": kind(**found)})


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, DIGITS) if isinstance(value, float) else value
