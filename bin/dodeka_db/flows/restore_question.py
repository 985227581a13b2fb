"""The question of a restore: the change that it will make, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from dodeka_db.flows.restore_origin import Origin
from dodeka_db.formatting import ago, cell, counted
from dodeka_db.settings import Environment
from dodeka_db.sqlite.integrity import Findings


@dataclass(frozen=True)
class Change:
    """A change that waits for a yes: the rows of each table `now` and `then`, None where SQLite cannot count them.

    `findings`: defects of the new database. `fixed`: defects that rebuilding its indexes repaired. `now` is None, with a
    `problem`, if the rows of the live database cannot be counted; `damaged` if the reason is that it is no whole database.
    """

    target: Environment
    origin: Origin
    findings: Findings
    fixed: str
    then: Mapping[str, int | None]
    now: Mapping[str, int | None] | None
    problem: str = ""
    damaged: bool = False


def describe(change: Change) -> list[str]:
    """The question in lines: the change, and how many rows come and go."""
    target, origin = change.target, change.origin
    lines = []
    if origin.environment != target.name:
        lines.append(f"{origin.environment.upper()}'S DATA GOES TO {target.name.upper()}.")
    lines.append(f"This goes {_back(origin.time)} ({origin.time.astimezone():%A %d %B %Y %H:%M}).")
    link = f", to which {target.database} links" if target.live != target.database else ""
    lines.append(f"It puts {origin.shown} in the place of {target.live}{link}:")
    lines += [f"  {line}" for line in _differences(change)]
    if change.fixed:
        lines.append(f"Its indexes were damaged, and are rebuilt: {change.fixed}")
    return lines + [f"Warning about the new database: {line}" for line in change.findings.lines()]


def _back(time: datetime) -> str:
    return "to a time in the future" if ago(time) == "in the future" else f"back {ago(time)}"


def _differences(change: Change) -> list[str]:
    if change.now is None:
        kept = "; the file is kept unchanged" if change.damaged and change.target.database.exists() else ""
        return [f"{change.problem}{kept}"]
    lines = []
    for table, then in change.then.items():
        now, shown = change.now.get(table), cell(table)
        if then is None or (now is None and table in change.now):
            lines.append(f"{shown}: SQLite cannot count its rows here")
        elif now is None:
            lines.append(f"{shown}: {counted(then, 'row')}, a table that the live database does not have now")
        elif then != now:
            more = f"{then - now} more" if then > now else f"{now - then} fewer"
            lines.append(f"{shown}: {counted(then, 'row')}, {more} than now")
    for table, now in change.now.items():
        if table not in change.then:
            has = "rows that cannot be counted" if now is None else counted(now, "row")
            lines.append(f"{cell(table)}: this table disappears, with {has}")
    return sorted(lines) or ["every table has as many rows as now"]
