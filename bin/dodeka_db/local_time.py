"""A time as an operator types it, in the time zone of this server: '2026-11-24 14:00', 'yesterday 14:00', '03:00'."""

import re
from datetime import datetime, timedelta

from dodeka_db.errors import UsageError

_TYPED = re.compile(
    r"(?:(?P<day>today|yesterday|\d{4}-\d\d-\d\d)[ T])?(?P<time>\d\d:\d\d(?::\d\d)?)(?P<offset>Z|[+-]\d\d:\d\d)?"
)
_HINT = "write '2026-11-24 14:00', 'yesterday 14:00' or '03:00'"


def parse(text: str, now: datetime) -> datetime:
    """The moment that `text` names, with its offset from UTC; `now` has one too.

    A time without a day is the last one at which the clock showed it. Raises UsageError if `text` is no time, is in the
    future, or is a time that the clock showed twice or never because it was changed that night.
    """
    match = _TYPED.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a time", _HINT)
    day, time, offset = match["day"], match["time"], match["offset"] or ""
    today = now.astimezone().date()
    date = today - timedelta(days=1) if day == "yesterday" else today
    if day in (None, "today", "yesterday"):
        day = date.isoformat()
    try:
        moment = _moment(f"{day} {time}{offset}")
        if moment > now and not match["day"]:
            moment = _moment(f"{date - timedelta(days=1)} {time}{offset}")
    except ValueError as error:
        raise UsageError(f"{text!r} is not a time ({error})", _HINT) from error
    if moment > now:
        raise UsageError(f"{text!r} is in the future: it is {shown(now)}", _HINT)
    return moment


def shown(moment: datetime) -> str:
    """'Tue 24 Nov 2026 14:00 CET', in the time zone of this server."""
    return moment.astimezone().strftime("%a %d %b %Y %H:%M %Z")


def _moment(text: str) -> datetime:
    typed = datetime.fromisoformat(text)
    if typed.tzinfo:
        return typed
    first, second = (typed.replace(fold=fold).astimezone() for fold in (0, 1))
    if first.replace(tzinfo=None) != typed:
        raise UsageError(f"there was no {text}: the clock was put forward", _HINT)
    if first.utcoffset() != second.utcoffset():
        both = " or ".join(f"'{one.isoformat(sep=' ')}'" for one in (first, second))
        raise UsageError(f"there was {text} twice: the clock was put back", f"write {both}")
    return first
