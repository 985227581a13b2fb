"""Check that the service writes to the live database: rows that it writes to another file are in no snapshot."""

import time
from pathlib import Path

from dodeka_db.host import open_files
from dodeka_db.host.service import POLL_S, Service
from dodeka_db.sqlite import integrity

# how long a unit may take after its start to open its database; and how long to look at a unit that has not opened it
OPENS_S = 10
LOOK_S = 2


def found(unit: Service, live: Path) -> str:
    """What is wrong, if `unit` is active and does not have the database `live` open. Raises ServiceError.

    Empty if all is well, if we may not look, or if the unit has no database open because `live` is damaged.
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
        if not others:
            return f"{unit.unit} has no database open, not even {live}"
        return f"{unit.unit} does not have {live} open, but {', '.join(others)}"
    return ""


def _nobody_has(file: Path) -> bool:
    try:
        return bool(open_files.is_alone(file))
    except OSError:
        return False
