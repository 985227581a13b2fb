"""Values as an operator reads them: sizes, times, and rows in columns."""

import textwrap
from collections.abc import Sequence
from datetime import datetime, timedelta

from dodeka_db.errors import plain

# the longest name or path in a table, in characters
MAX_CHARACTERS = 1000
# of a terminal, in characters
COLUMNS = 80


def size(count: int) -> str:
    """Bytes in decimal units: '1.3 MB'."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def counted(count: int, what: str) -> str:
    """'1 row', '2 rows'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def when(time: datetime) -> str:
    """'Tue 24 Nov 2026 12:00', in the time zone of this machine."""
    return time.astimezone().strftime("%a %d %b %Y %H:%M")


def when_briefly(time: datetime) -> str:
    """As when(), without the year if it is this one: 'Tue 24 Nov 12:00'."""
    is_of_this_year = time.astimezone().year == datetime.now().astimezone().year
    return time.astimezone().strftime("%a %d %b %H:%M") if is_of_this_year else when(time)


def ago(time: datetime) -> str:
    """The time since `time` in the largest unit that gives at least two of it: '26 hours'."""
    age = datetime.now().astimezone() - time
    return "in the future" if age < timedelta(0) else duration(age)


def duration(length: timedelta) -> str:
    """A `length` of 0 or more, rounded down, in the largest unit that gives at least two of it: '26 hours'."""
    for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if length.total_seconds() >= 2 * seconds:
            return f"{int(length.total_seconds() // seconds)} {unit}"
    return counted(int(length.total_seconds()), "second")


def columns(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Rows as aligned lines; `alignment` has one character per column, `<` (left) or `>` (right)."""
    shown = [[cell(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = (
        "  ".join(f"{text:{side}{width}}" for text, side, width in zip(row, alignment, widths, strict=True))
        for row in shown
    )
    return [line.rstrip() for line in lines]


def wrapped(pieces: Sequence[str], width: int) -> list[str]:
    """`pieces` in lines of up to `width` characters, with a space between two; only a longer piece is broken."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += f" {piece}"
        else:
            lines += textwrap.wrap(piece, width, break_on_hyphens=False)
    return lines


def cell(text: str) -> str:
    """`text`, perhaps a name from a database, as a cell of a table: printable, and not too long."""
    return plain(text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}...")
