"""Thirty days of an environment as a strip, and the days on which it lacked a snapshot in words, by the records of its runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from dodeka_db import schedule
from dodeka_db.formatting import counted, duration
from dodeka_db.host.day_records import Day

SHOWN_DAYS = 30
_OVERDUE_S = int(schedule.BACKUP_OVERDUE.total_seconds())
WELL, PARTLY, GAP, UNKNOWN = "well", "partly", "gap", "unknown"
# what a day was, and what the legend says about it
KINDS = {
    WELL: "snapshots all day",
    PARTLY: f"a gap over {_OVERDUE_S // 60} minutes, or a failed run",
    GAP: "no snapshot",
    UNKNOWN: "not on record",
}


@dataclass(frozen=True)
class ShownDay:
    """A day of the strip: what it was, one of KINDS, and what happened in words; empty where nothing did."""

    day: date
    kind: str
    what: str = ""

    @property
    def shown(self) -> str:
        """'Sat 28 Nov'."""
        return shown(self.day)


def shown(day: date) -> str:
    """'Sat 28 Nov'."""
    return f"{day:%a} {day.day} {day:%b}"


def strip(days: Mapping[date, Day], now: datetime) -> list[ShownDay]:
    """The last SHOWN_DAYS days by the `days` on record, of which today is judged up to `now`, an aware datetime; the oldest first."""
    begins = min(days, default=None)
    last_days = (now.date() - timedelta(days=back) for back in range(SHOWN_DAYS - 1, -1, -1))
    return [
        ShownDay(day, UNKNOWN) if begins is None or day < begins else _judged(day, days, now)
        for day in last_days
    ]


def in_words(days: Sequence[ShownDay]) -> str:
    """The strip for somebody who does not see it."""
    known = [one for one in days if one.kind != UNKNOWN]
    if not known:
        return "nothing is on record yet"
    counts = Counter(one.kind for one in known)
    if counts[WELL] == len(known):
        return f"{counted(len(known), 'day')} without a gap"
    words = {WELL: "without a gap", PARTLY: "with a gap or a failed run", GAP: "without a snapshot"}
    return ", ".join(f"{counts[kind]} {text}" for kind, text in words.items() if counts[kind])


def _judged(day: date, known: Mapping[date, Day], now: datetime) -> ShownDay:
    one = known.get(day, Day())
    if one.first is None or one.last is None:
        yesterday = known.get(day - timedelta(days=1), Day())
        if (
            day == now.date()
            and yesterday.last is not None
            and now.timestamp() - yesterday.last <= _OVERDUE_S
        ):
            return ShownDay(day, WELL)  # the first run of the day is still to come
        failed = f"; {counted(one.failed, 'run')} failed" if one.failed else ""
        return ShownDay(day, GAP, f"no snapshot{failed}")
    what = []
    gap_s = _gap_s(day, one.first, one.last, known, now)
    if gap_s > _OVERDUE_S:
        what.append(f"no snapshot for {duration(timedelta(seconds=gap_s))}")
    if one.failed:
        what.append(f"{counted(one.failed, 'run')} failed")
    return ShownDay(day, PARTLY if what else WELL, "; ".join(what))


def _gap_s(day: date, first: int, last: int, known: Mapping[date, Day], now: datetime) -> int:
    """The longest time in seconds without a snapshot in that day, whose first and last runs are given in Unix time.

    One over midnight counts in both days, as a whole; beside a day without any it ends at midnight.
    """
    before, after = (known.get(day + timedelta(days=side), Day()) for side in (-1, 1))
    begins = before.last if before.last is not None else _midnight(day)
    ends = after.first
    if ends is None:
        ends = min(_midnight(day + timedelta(days=1)), int(now.timestamp()))
    # nobody knows what was before the first record
    at_first = 0 if day == min(known) else first - begins
    return max(0, at_first, known[day].longest_gap_s, ends - last)


def _midnight(day: date) -> int:
    """When `day` begins here, in Unix time."""
    return int(datetime.combine(day, time()).timestamp())
