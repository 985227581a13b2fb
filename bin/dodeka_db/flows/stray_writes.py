"""Is the live database the one that the service writes to? What it writes elsewhere is in no snapshot."""

import time
from pathlib import Path

from dodeka_db.host import open_files
from dodeka_db.host.service import POLL_S, Service
from dodeka_db.sqlite import integrity

# how long after its start a unit has its database open; and for how long one is looked at that has not
OPENS_S = 10
LOOK_S = 2


def found(unit: Service, live: Path) -> str:
    """The fault, in words, if `unit` is active without having the database `live` open; empty if none, or if we may not see.

    A unit that has no database open, because `live` is none that it could open, writes nowhere. Raises ServiceError.
    """
    now = unit.look() if unit.managed else None
    if not now or not now.is_active or not now.process:
        return ""
    deadline = max(time.monotonic() + LOOK_S, now.since + OPENS_S)
    while not open_files.has_open(now.process, live):
        group = open_files.group(now.process)
        opened = [open_files.databases(process) for process in group]
        if any(open_files.has_open(process, live) for process in group):
            return ""
        if None in opened and not _nobody_has(live):  # another user's processes
            return ""
        if not any(opened) and integrity.is_damaged(live):
            return ""
        if time.monotonic() < deadline:
            time.sleep(POLL_S)
            continue
        if unit.look().process != now.process:
            return ""
        if None in opened:
            return f"{unit.unit} does not have {live} open"
        others = sorted({name for names in opened for name in names or ()})
        return f"{unit.unit} does not have {live} open, but {', '.join(others) or 'no database at all'}"
    return ""


def _nobody_has(file: Path) -> bool:
    try:
        return bool(open_files.is_alone(file))
    except OSError:
        return False
