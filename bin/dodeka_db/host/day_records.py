"""What the cron runs of an environment did on each day, for longer than snapshots are kept: one small JSON file in DODEKA_STATE.

A day is one of this server's time zone, so it has 23 or 25 hours where the clock is changed. Moments are kept in Unix time.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from dodeka_db.host import state_files

KEPT_DAYS = 400
# more than any moment, length or size; as seconds, still within what a timedelta can hold
_LARGEST = 2**43


@dataclass(frozen=True)
class Day:
    """The runs of one day: how many stored a snapshot, and how many failed; a run can do both.

    `first` and `last` are the Unix times, in seconds, of the first and the last run that stored one, and `longest_gap_s` is the
    longest time between two of them. `members` and `stored_bytes` are the newest count of members, and the newest size of the
    environment's snapshots in the repository. None where that is not known.
    """

    stored: int = 0
    failed: int = 0
    first: int | None = None
    last: int | None = None
    longest_gap_s: int = 0
    members: int | None = None
    stored_bytes: int | None = None


@dataclass
class Run:
    """What a cron run has done so far: counted() puts it on record at the end."""

    has_stored: bool = False
    members: int | None = None
    stored_bytes: int | None = None


def read(state: Path, environment: str, today: date) -> dict[date, Day]:
    """The KEPT_DAYS days of `environment` up to `today` that are on record in the folder `state`, the oldest first.

    Without what cannot be read as a day, and without the days that a wrong clock has put far away.
    """
    days = {}
    oldest = today - timedelta(days=KEPT_DAYS - 1)
    for name, values in _found(state, environment).items():
        with suppress(ValueError):
            if (one := _day(values)) and oldest <= (day := date.fromisoformat(name)) <= today:
                days[day] = one
    return dict(sorted(days.items()))


@contextmanager
def counted(state: Path, environment: str) -> Iterator[Run]:
    """Count the block as a run of today, a failed one if it raises. A record that cannot be written is only a warning."""
    run = Run()
    try:
        yield run
    except BaseException:
        _add(state, environment, run, failed=1)
        raise
    _add(state, environment, run, failed=0)


def _add(state: Path, environment: str, run: Run, failed: int) -> None:
    days = _found(state, environment)
    now = datetime.now().astimezone()
    name = now.date().isoformat()
    today = _day(days.get(name)) or Day()
    today = replace(
        today,
        failed=today.failed + failed,
        members=today.members if run.members is None else run.members,
        stored_bytes=today.stored_bytes if run.stored_bytes is None else run.stored_bytes,
    )
    if run.has_stored:
        moment = int(now.timestamp())
        gap_s = 0 if today.last is None else max(0, moment - today.last)  # the clock may have been put back
        today = replace(
            today,
            stored=today.stored + 1,
            first=moment if today.first is None else today.first,
            last=moment,
            longest_gap_s=max(today.longest_gap_s, gap_s),
        )
    days[name] = astuple(today)
    # by their number, not by their age: no wrong clock makes it forget all days
    state_files.write(_file(state, environment), dict(sorted(days.items())[-KEPT_DAYS:]))


def _found(state: Path, environment: str) -> dict[str, object]:
    """A list of the values of a Day by date, as they are in the file; empty if it holds something else, or cannot be read."""
    return state_files.read_object(_file(state, environment)) or {}


def _day(values: object) -> Day | None:
    if not isinstance(values, list) or len(values) != len(fields(Day)):
        return None
    day = Day(*values)
    if None in (day.stored, day.failed, day.longest_gap_s) or (day.first is None) != (day.last is None):
        return None
    is_known = all(value is None or (type(value) is int and 0 <= value < _LARGEST) for value in values)
    return day if is_known else None


def _file(state: Path, environment: str) -> Path:
    return state / "days" / f"{environment}.json"
