"""A time as an operator types it, in the time zone of this server: '2026-11-24 14:00', 'yesterday 14:00', '03:00'."""

import re
from datetime import datetime, timedelta

from dodeka_db.errors import SnapshotError

_TYPED = re.compile(
    r"(?:(?P<day>today|yesterday|\d{4}-\d\d-\d\d)[ T])?"
    r"(?P<time>(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)"
    r"(?P<offset>Z|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_HINT = "write '2026-11-24 14:00', 'yesterday 14:00' or '03:00'"


def parse(text: str, now: datetime) -> datetime:
    """The moment that `text` names: an aware datetime in the time zone of this server, not later than `now`, which is aware.

    `text` is a time with or without seconds; a day may be in front of it, and an offset from UTC behind it. With an offset,
    today and yesterday are those of that offset. A time without a day is the one of today, or if that is still to come, of
    yesterday.

    Raises SnapshotError if `text` is not a time, is in the future, or is a time that the clock showed twice or never because
    it was put back or forward.
    """
    match = _TYPED.fullmatch(text.strip())
    if not match:
        raise SnapshotError(f"{text!r} is not a time", _HINT)
    day, time, offset = match["day"], match["time"], match["offset"] or ""
    try:
        zone = datetime.fromisoformat(f"2000-01-01 00:00{offset}").tzinfo  # None is the one of this server
        today = now.astimezone(zone).date()
        yesterday = today - timedelta(days=1)
        days = {None: (today, yesterday), "today": (today,), "yesterday": (yesterday,)}.get(day, (day,))
        moments = (_moment(datetime.fromisoformat(f"{one} {time}{offset}"), now) for one in days)
        moment = next(filter(None, moments), None)
    except (ValueError, OverflowError) as error:  # there is no such day, year or offset
        raise SnapshotError(f"{text!r} is not a time", _HINT) from error
    if moment is None:
        raise SnapshotError(f"{text!r} is in the future: it is {shown(now)}", _HINT)
    return moment


def shown(moment: datetime) -> str:
    """'Tue 24 Nov 2026 14:00:00 CET', in the time zone of this server."""
    return moment.astimezone().strftime("%a %d %b %Y %H:%M:%S %Z")


def _moment(typed: datetime, now: datetime) -> datetime | None:
    """The moment at which the clock showed `typed`; None if that is later than `now`. Raises SnapshotError as parse() does."""
    if typed.tzinfo:
        return typed.astimezone() if typed <= now else None
    # by the offset before a change of the clock and by the one after it: the same moment, except where the clock was changed
    first, second = sorted(typed.replace(fold=fold).astimezone() for fold in (0, 1))
    if first.replace(tzinfo=None) != typed:
        if typed > now.astimezone().replace(tzinfo=None):
            return None
        raise SnapshotError(
            f"there was no {_written(typed)}: the clock was put forward", _either(first, second)
        )
    if first < second <= now:
        raise SnapshotError(
            f"there was {_written(typed)} twice: the clock was put back", _either(first, second)
        )
    return first if first <= now else None


def _either(earlier: datetime, later: datetime) -> str:
    return f"write '{_written(earlier)}' or '{_written(later)}'"


def _written(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds" if moment.second else "minutes")
