"""The status as a page for people who do not read terminals, and nothing on it that helps an intruder.

Of a line it takes the state and the figures, never the words: they name paths, addresses, users and errors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from dodeka_db import places
from dodeka_db.flows import html_page, prove, status_days, status_plot, status_words
from dodeka_db.flows.status_days import ShownDay
from dodeka_db.flows.status_lines import Line, State
from dodeka_db.flows.status_plot import Plot
from dodeka_db.formatting import counted, size
from dodeka_db.host import day_records, job_records, public_file
from dodeka_db.host.day_records import Day
from dodeka_db.settings import ENVIRONMENTS, Settings

# the environment of the members
MAIN = ENVIRONMENTS[0]
# so many days with a gap are written out, the newest first
WRITTEN_DAYS = 5
WELL, BAD, UNKNOWN, NOTE = (
    state.name.lower() for state in (State.WELL, State.BAD, State.UNKNOWN, State.NOTE)
)
_VERDICTS = {
    WELL: "All is well",
    NOTE: "All is well, with notes",
    BAD: "Somebody is needed",
    UNKNOWN: "Cannot tell whether all is well",
}


@dataclass(frozen=True)
class Step:
    """Something that somebody should do: what is the matter, of which kind it is, and the command."""

    kind: str
    text: str
    command: str


@dataclass(frozen=True)
class Strip:
    """The last days of an environment: each of them, and all of them in words."""

    name: str
    days: Sequence[ShownDay]
    sentence: str


@dataclass(frozen=True)
class Last:
    """When a job last passed, in words; what the job is; a remark if its line is not well, and the kind of that line."""

    what: str
    meaning: str
    when: str
    remark: str
    kind: str


def as_html(settings: Settings, lines: Sequence[Line], now: datetime | None = None) -> list[str]:
    """The page in lines of HTML, as of `now`, an aware datetime. SetupError without Jinja2."""
    now = now or datetime.now().astimezone()
    kinds = {_kind(line) for line in lines}
    verdict = next((kind for kind in (BAD, UNKNOWN) if kind in kinds), WELL)
    # the same words once
    steps = dict.fromkeys(step for kind in (BAD, UNKNOWN, NOTE) for step in _steps(lines, kind))
    state = settings.main.state
    # one that does not answer would hold the page up for ever
    has_answer = not places.silent([state])
    # days that cannot be read are none: other lines say so
    days = {name: day_records.read(state, name, now.date()) if has_answer else {} for name in ENVIRONMENTS}
    strips = [_strip(name, days[name], now) for name in ENVIRONMENTS]
    marred = _marred(strips)
    newest = _figure(lines, "newest_snapshot_timestamp_seconds", MAIN)
    more = len(marred[WRITTEN_DAYS:])
    return html_page.render(
        "status.html",
        verdict=_VERDICTS[NOTE if verdict == WELL and NOTE in kinds else verdict],
        kind=verdict,
        newest=_when(newest),
        newest_in_iso=_in_iso(newest),
        steps=[step for step in steps if step.kind != NOTE],
        notes=[step for step in steps if step.kind == NOTE],
        strips=strips,
        kinds=status_days.KINDS,
        occurring={one.kind for strip in strips for one in strip.days},
        marred=marred[:WRITTEN_DAYS],
        left_out=f"{counted(more, 'more such day')}" if more else "",
        lasts=[*_lasts(lines, now), *([_proof(state, now)] if settings.offsite and has_answer else [])],
        plots=_plots(days),
        plot=status_plot,
        made=f"{_when(now.timestamp())} {now.tzname()}",
        made_in_iso=_in_iso(now.timestamp()),
    )


def publish(settings: Settings, lines: Sequence[Line]) -> None:
    """Write the page to the file that DODEKA_STATUS_PAGE names, if it names one. SetupError if that fails."""
    if settings.status_page:
        public_file.write(settings.status_page, "\n".join(as_html(settings, lines)) + "\n")


def _kind(line: Line) -> str:
    return line.look.state.name.lower()


def _steps(lines: Sequence[Line], kind: str) -> Iterator[Step]:
    for line in lines:
        if _kind(line) == kind:
            words = status_words.of_line(line.subject, line.environment)
            text = f"The state of {words.about} cannot be seen." if kind == UNKNOWN else words.wrong
            yield Step(kind, text, status_words.LOOK if kind == UNKNOWN else words.step)


def _strip(name: str, days: Mapping[date, Day], now: datetime) -> Strip:
    shown = status_days.strip(days, now)
    return Strip(name, shown, status_days.in_words(shown))


def _marred(strips: Sequence[Strip]) -> list[tuple[str, str]]:
    """The days that were not well, the newest first, and what happened, of both environments together where it was the same."""
    found: dict[tuple[date, str], list[str]] = {}
    for strip in strips:
        for one in strip.days:
            if one.what:
                found.setdefault((one.day, one.what), []).append(strip.name)
    newest_first = sorted(found.items(), key=lambda item: item[0][0], reverse=True)
    return [(status_days.shown(day), f"{' and '.join(names)}: {what}") for (day, what), names in newest_first]


def _lasts(lines: Sequence[Line], now: datetime) -> Iterator[Last]:
    for what, meaning, environment, subject, figure in (
        ("Drill", "the newest snapshot proven whole, weekly", MAIN, "drill", "drill"),
        ("Check", "the repository itself, weekly", "", "check", "check"),
        ("Copy", "the snapshots in another place, hourly", "", "off-site copy", "offsite"),
    ):
        when = _briefly(_figure(lines, f"{figure}_success_timestamp_seconds", environment), now)
        kind = next(
            (_kind(one) for one in lines if (one.environment, one.subject) == (environment, subject)), UNKNOWN
        )
        missing = "none" if kind in (WELL, NOTE) else "not known"
        yield Last(what, meaning, when or missing, "needs somebody" if kind == BAD else "", kind)


def _proof(state: Path, now: datetime) -> Last:
    """The proof by paper, from its record: the line is a note until there is one. Not who did it."""
    try:
        passed = job_records.read(state, prove.JOB).passed
        when = _briefly(passed.timestamp(), now) if passed else "never"
    except OSError:
        when = "not known"
    return Last("Proof", "the paper alone opens that copy, yearly", when, "", NOTE)


def _plots(days: Mapping[str, Mapping[date, Day]]) -> list[Plot]:
    members = {day: one.members for day, one in days[MAIN].items() if one.members is not None}
    return [
        status_plot.plot("Members", members, str),
        status_plot.plot(
            "Size of the repository", _stored(days), lambda count: size(count).replace(".0 ", " ")
        ),
    ]


def _stored(days: Mapping[str, Mapping[date, Day]]) -> dict[date, int]:
    """The bytes of all environments on each day on which one of them has a record; the newest known ones where the other has none."""
    newest: dict[str, int] = {}
    total = {}
    for day in sorted({day for one in days.values() for day in one}):
        for name, of_days in days.items():
            found = of_days.get(day, Day()).stored_bytes
            if found is not None:
                newest[name] = found
        if newest:
            total[day] = sum(newest.values())
    return total


def _figure(lines: Sequence[Line], name: str, environment: str) -> float | None:
    found = (line.look.figures.get(name) for line in lines if line.environment == environment)
    return next((value for value in found if value is not None), None)


def _when(moment: float | None) -> str:
    """'Sat 28 Nov 2026, 14:12' in the time zone of this server; empty for None."""
    return datetime.fromtimestamp(moment).strftime("%a %-d %b %Y, %H:%M") if moment is not None else ""


def _briefly(moment: float | None, now: datetime) -> str:
    """As _when(), without the year where it is that of `now`."""
    return _when(moment).replace(f" {now.year},", ",")


def _in_iso(moment: float | None) -> str:
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="minutes")
