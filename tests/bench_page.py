"""docs/bench.md, docs/bench.svg and the table in docs/formats.md, made of what make bench has measured."""

import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import bench_backup
import bench_bounds
import bench_changes
import bench_confirmed
import bench_growth
import bench_lists
import bench_restore
import cheap_key
from bench_backup import BACKUP, CRON, DISTANT_CRON, OURS, Costs, Runs
from bench_changes import Comparison
from bench_confirmed import Confirmed
from bench_lists import Lists
from bench_restore import Downtime
from bench_results import MEMBERS, PARTS, Results, figures, median_ratio, ratio
from dodeka_db.formatting import size
from dodeka_db.restic.retention_policy import KEEP

Row = tuple[str, ...]
PIPELINES = list(BACKUP.commands)
# what docs/formats.md shows of the table
SHOWN = ("wall time", "growth per snapshot")


def page(results: Results) -> str:
    """docs/bench.md."""
    parts = ["# Beside the documented pipeline", *_about(), "![Repository size over snapshots](bench.svg)"]
    growing = [row for row in _slopes(results) if any(row[1:])]
    if growing:
        heads = ("", "100 MB of database", "1,000 snapshots", "20 ms to the server")
        parts += ["## How each grows", _filled(GROWING), _markdown([heads, *growing])]
    if lists := _by_number(results, "lists"):
        rows = _list_rows(lists)
        parts += [
            "## Status and snapshots",
            _filled(LISTS),
            _circumstances(results, "lists"),
            _markdown(rows),
        ]
    if rows := _growth_rows(results):
        when = _circumstances(results, *GROWTH_PARTS)
        parts += ["## A day and half a year", _filled(GROWTH), when, _markdown(rows)]
    if distant := _by_number(results, "distant cron run"):
        rows = [row for ms, runs in distant.items() for row in _time_rows(runs, f"{ms} ms away, ")]
        when = _circumstances(results, "distant cron run")
        parts += ["## Cron runs on a server", _filled(DISTANT), when, _markdown([("", *PIPELINES), *rows])]
    for label in MEMBERS:
        if rows := table(results, label):
            parts += [f"## {label}", _has(results, label), _circumstances(results, label), _markdown(rows)]
    return "\n\n".join(parts) + "\n"


GROWING = (
    "What is added, in seconds, by 100 MB more of the database, by 1,000 more snapshots in the repository, and by 20 ms"
    " more to the server each way: the slopes of the lines that fit the medians below best."
)
LISTS = (
    "`make status` and `make snapshots` for both environments, with snapshots of the last year whose rows are on record,"
    f" beside `restic snapshots`, which is one start of restic: medians of {bench_lists.ROUNDS} runs, in turn, and of their"
    f" ratios to one start. With {bench_bounds.LISTS_ON} the bound is {bench_bounds.LISTS}."
)
GROWTH_PARTS = ("a day of runs", "half a year")
GROWTH = (
    f"What a day of {bench_growth.RUNS_OF_A_DAY} runs adds, with the use above before each, which is what a line to another"
    f" place has to carry; and what the repository takes after half a year under the retention: {bench_growth.DAYS} days with"
    " fewer runs, the use above before each, and one day more with a run in each hour. Ratios are to the documented pipeline."
    " *patch* is no format of this project (docs/formats.md says why): in each snapshot a base, a page copy stored once, and"
    " a patch from it to the page copy of now, made by `zstd --patch-from`; a new base when the patches have grown by what"
    " the base takes."
)
DISTANT = (
    f"Cron runs with the database of {bench_backup.DISTANT_LABEL} and the repository on a REST server (`rclone serve"
    " restic`), to which each byte takes so long, either way; the bandwidth has no limit. Medians of"
    f" {DISTANT_CRON.runs - DISTANT_CRON.uncounted} runs in the steady state."
)


def _about() -> list[str]:
    kept = {("latest" if period == "last" else period): count for period, count in KEEP.items()}
    of_retention = ", ".join(f"{count} {period}" for period, count in kept.items())
    paragraphs = (
        (
            "`make bench` wrote this, from docs/bench.json. What a run of it does not measure stays, with the day on which it"
            " was measured. *documented* is the pipeline of the shell scripts (`sqlite3` with `VACUUM INTO`, `zstd"
            " --rsyncable`, `restic backup`; in a cron run `restic forget --prune` too), which checks nothing; *zst* and"
            " *pages* are `make backup` and `make cron` with either `DODEKA_FORMAT`, which read their snapshot back. Ratios, in"
            " brackets, are medians of the ratios to what the documented pipeline took in the same round. Each repository's key"
            f" costs the same (scrypt with {', '.join(f'{name}={value}' for name, value in cheap_key.USUAL.items())}):"
            " `restic init` would choose by how busy the machine is."
        ),
        (
            f"Backups: each pipeline took {BACKUP.runs} snapshots of the same database, in turn. Between two snapshots there"
            " are some minutes of use: 3 profiles change, 3 sessions begin, the 3 oldest expire, 3 mails are queued, and every"
            f" other time there is a new member. Figures are medians over all snapshots but the first. During {BACKUP.watched}"
            " more snapshots of each, a writer committed every 10 ms and gave up after waiting for"
            f" {bench_backup.BUSY_MS} ms."
        ),
        (
            f"Cron runs: {CRON.runs} of each in turn, with the same use between them and the same retention ({of_retention})."
            f" Figures are medians over all but the first {CRON.uncounted}: in the steady state each run removes as many"
            " snapshots as it stores. Once a day a cron run of ours also has restic count the stored bytes. The first one does,"
            " so none of those that count."
        ),
        (
            f"The downtime of the service is the median of {bench_restore.ROUNDS} restores of *zst* snapshots, without the"
            " time that the service itself takes to stop and start. From the `yes` to its end a restore without a service"
            f" took the median of {bench_confirmed.ROUNDS}."
        ),
        (
            f"`make changes` compares a *zst* snapshot with the live database, in which one member in {bench_changes.ONE_IN} is"
            f" gone, as many have other permissions, and half as many are new. The time is the median of {bench_changes.ROUNDS}"
            " runs, and includes getting the snapshot out of the repository. The bounds are"
            f" {bench_bounds.CHANGES_S} s and {bench_bounds.CHANGES_MB} MB."
        ),
    )
    return [_filled(text) for text in paragraphs]


def table(results: Results, label: str) -> list[Row]:
    """The table for the database of that size; empty if nothing was measured on it."""
    of_part = {
        "backup": _backup_rows,
        "cron run": lambda runs: _time_rows(runs, "cron run, "),
        "service down": _downtime_rows,
        "restore": _confirmed_rows,
        "changes": _changes_rows,
    }
    found = {part: on[label] for part in of_part if label in (on := figures(results, part))}
    rows = [row for part, one in found.items() for row in of_part[part](one)]
    return [("", *PIPELINES), *rows] if rows else []


def with_figures(text: str, results: Results) -> str:
    """docs/formats.md with the figures of the formats as they are now."""
    heads = ("database", "", "documented", "`zst`", "`pages`")
    rows = [(label, *row) for label in MEMBERS for row in table(results, label) if row[0] in SHOWN]
    lines = _markdown([heads, *rows])
    return re.sub(r"^\| database \|.*\n(\|.*\n)*", f"{lines}\n", text, flags=re.MULTILINE)


def plot(results: Results, file: Path) -> None:
    """Repository size over snapshots, one line a pipeline, one picture a database."""
    import matplotlib  # only make bench has it

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    measured = figures(results, "backup")
    figure, axes = pyplot.subplots(1, len(measured), figsize=(4 * len(measured), 3), squeeze=False)
    for axis, (label, runs) in zip(axes[0], measured.items(), strict=True):
        for name, costs in runs.costs.items():
            axis.plot(range(1, len(costs.sizes) + 1), [count / 1e6 for count in costs.sizes], label=name)
        axis.set(title=f"database of {label}", xlabel="snapshots", ylabel="repository, MB")
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.tight_layout()
    # white behind it: pages may be dark
    figure.savefig(file, facecolor="white", metadata={"Date": None})


def _backup_rows(runs: Runs) -> list[Row]:
    costs = runs.costs.values()
    waits = f"a writer's longest wait (without a backup: {runs.idle_ms:.1f} ms)"
    return [
        *_time_rows(runs),
        _beside(runs, "growth per snapshot", lambda one: one.growth, lambda count: f"{count / 1000:,.0f} kB"),
        _beside(
            runs,
            f"repository after {BACKUP.runs} snapshots",
            lambda one: one.sizes[-1:],
            lambda count: size(int(count)),
        ),
        (
            "peak memory, our own process",
            "",
            *(_mb(runs.costs[name].own_memory_kb) for name in OURS),
        ),
        ("peak memory, the largest program", *(_mb(one.largest_memory_kb) for one in costs)),
        (
            waits,
            *(
                f"{max(one.waits_ms):.1f} ms, {one.refused} of {one.written + one.refused} refused"
                for one in costs
            ),
        ),
    ]


def _time_rows(runs: Runs, prefix: str = "") -> list[Row]:
    return [_beside(runs, prefix + what, chosen, _seconds) for what, chosen in bench_bounds.TIMES.items()]


def _beside(
    runs: Runs, title: str, chosen: Callable[[Costs], Sequence[float]], shown: Callable[[float], str]
) -> Row:
    """The median of what each pipeline cost; behind ours the ratio to the documented one."""
    medians = {name: shown(statistics.median(chosen(costs))) for name, costs in runs.costs.items()}
    ratios = {name: f" ({_ratio(ratio(runs, name, chosen))})" for name in OURS}
    return (title, *(medians[name] + ratios.get(name, "") for name in PIPELINES))


def _downtime_rows(downtime: Downtime) -> list[Row]:
    beside = _ratio(median_ratio(downtime.ours_s, downtime.documented_s))
    ours = f"{statistics.median(downtime.ours_s) * 1000:.0f} ms ({beside})"
    return [
        ("service down in a restore", _seconds(statistics.median(downtime.documented_s)), ours, ""),
        ("peak memory of a restore, our own process", "", _mb(downtime.own_memory_kb), ""),
    ]


def _confirmed_rows(confirmed: Confirmed) -> list[Row]:
    return [("restore, from the `yes` to its end", "", _seconds(statistics.median(confirmed.wall_s)), "")]


def _changes_rows(comparison: Comparison) -> list[Row]:
    return [
        ("`make changes`", "", _seconds(statistics.median(comparison.wall_s)), ""),
        ("peak memory of `make changes`, our own process", "", _mb(comparison.own_memory_kb), ""),
    ]


def _growth_rows(results: Results) -> list[Row]:
    rows = []
    for part in GROWTH_PARTS:
        for label, growth in figures(results, part).items():
            documented = growth.taken["documented"]
            ratios = {
                name: f" ({_ratio(count / documented)})"
                for name, count in growth.taken.items()
                if count != documented
            }
            cells = (size(count) + ratios.get(name, "") for name, count in growth.taken.items())
            rows.append((f"{part}, {label}", f"{growth.runs:,}", *cells))
    return [("", "runs", *bench_growth.NAMES), *rows] if rows else []


def _list_rows(lists: Mapping[int, Lists]) -> list[Row]:
    def beside(times: Sequence[float], one: Lists) -> str:
        return f"{_seconds(statistics.median(times))} ({_ratio(median_ratio(times, one.restic_s))})"

    return [
        ("snapshots", "`make status`", "`make snapshots`", "`restic snapshots`"),
        *(
            (
                f"{count:,}",
                beside(one.status_s, one),
                beside(one.snapshots_s, one),
                _seconds(statistics.median(one.restic_s)),
            )
            for count, one in lists.items()
        ),
    ]


# the steps of what the times grow with: bytes of the database, snapshots, ms to the server
STEPS = (100e6, 1000, 20)
Points = Mapping[float, float]


def _series(results: Results) -> Iterator[tuple[str, Points, Points, Points]]:
    """What was measured, and its time in s by the bytes of the database, by the number of snapshots, by the distance in ms."""

    def by_bytes(part: str, chosen: Callable[..., Sequence[float]]) -> Points:
        return {one.database_bytes: statistics.median(chosen(one)) for one in figures(results, part).values()}

    def by_number(part: str, chosen: Callable[..., Sequence[float]]) -> Points:
        return {number: statistics.median(chosen(one)) for number, one in _by_number(results, part).items()}

    for part in ("backup", "cron run"):
        for name in PIPELINES:

            def wall_s(runs: Runs, name: str = name) -> Sequence[float]:
                return runs.costs[name].wall_s

            yield f"{part}, {name}", by_bytes(part, wall_s), {}, by_number(f"distant {part}", wall_s)
    yield "restore, from the `yes` to its end", by_bytes("restore", lambda one: one.wall_s), {}, {}
    yield "`make changes`", by_bytes("changes", lambda one: one.wall_s), {}, {}
    yield "`make status`", {}, by_number("lists", lambda one: one.status_s), {}
    yield "`make snapshots`", {}, by_number("lists", lambda one: one.snapshots_s), {}
    yield "`restic snapshots`", {}, by_number("lists", lambda one: one.restic_s), {}


def _slopes(results: Results) -> Iterator[Row]:
    for title, *points in _series(results):
        yield (title, *map(_slope, points, STEPS))


def _slope(points: Points, step: float) -> str:
    """What the line that fits `points` best adds with each `step`; nothing if there is no line."""
    if len(points) < 2:
        return ""
    return _seconds(statistics.linear_regression(list(points), list(points.values())).slope * step)


def _by_number(results: Results, part: str) -> dict[int, object]:
    """What was measured of `part`, by the number in what it was measured on."""
    return {int(re.findall(r"\d+", on)[0]): one for on, one in figures(results, part).items()}


def _has(results: Results, label: str) -> str:
    """How large the database of that label is."""
    found = (one for part in PARTS for on, one in figures(results, part).items() if on == label)
    bytes_ = next((one.database_bytes for one in found if not isinstance(one, Downtime)), None)
    return f"The database has {size(bytes_)}."


def _circumstances(results: Results, *words: str) -> str:
    """When and on what the measurements were made whose part or label is one of the `words`."""
    parts: dict[str, list[str]] = {}
    for name, result in results.items():
        if named := set(words) & set(split := name.split(", ")):
            rest = [one for one in split if len(words) > 1 or one not in named]
            parts.setdefault(result.circumstances, []).append(" of ".join(rest))
    each = (f"{', '.join(names)}: {when}" for when, names in parts.items())
    said = "; ".join(each if len(parts) > 1 else parts)
    return _filled(f"{said[0].upper()}{said[1:]}.")


def _markdown(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return "\n".join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.2 else f"1/{1 / value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _mb(kb: int) -> str:
    return f"{kb * 1024 / 1e6:.0f} MB"
