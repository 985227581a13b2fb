"""Values of restic's JSON, checked: each function raises ValueError or TypeError for a value that restic would not write."""

import re
from datetime import datetime
from typing import Any


def entries(found: object) -> list[Any]:
    if not isinstance(found, list):
        raise TypeError(found)
    return found


def count(number: Any) -> int:
    """A number of bytes, or the ID of a process."""
    found = int(number)
    if not 0 <= found < 2**63:
        raise ValueError(number)
    return found


def object_id(text: str) -> str:
    """An ID, which becomes an argument or a file's name."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", text):
        raise ValueError(text)
    return text


def moment(text: str) -> datetime:
    """A time (RFC 3339, years 0000 to 9999; local without a zone), in the time zone of this machine.

    A time within two days of what datetime can hold becomes the nearest one that every time zone can show.
    """
    if text.startswith("0000"):  # a year that datetime does not have
        text = f"0001-01-01{text[10:]}"
    when = datetime.fromisoformat(text)
    earliest, latest = datetime(1, 1, 3, tzinfo=when.tzinfo), datetime(9999, 12, 29, tzinfo=when.tzinfo)
    return min(max(when, earliest), latest).astimezone()
