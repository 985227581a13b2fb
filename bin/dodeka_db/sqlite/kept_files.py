"""The kept files: replaced databases beside the live one that are in no snapshot yet. Their names, in the same folder:

db.sqlite.pre-restore-<time>   becomes a snapshot, and is then removed
db.sqlite.damaged-<time>       cannot become a snapshot: stays, with its -wal and -journal, until somebody removes it
"""

import re
import time
from datetime import UTC, datetime
from pathlib import Path

from dodeka_db import safe_open, schedule
from dodeka_db.sqlite import journals

KEPT = "pre-restore"
DAMAGED = "damaged"


def kept_beside(live: Path) -> list[Path]:
    """The files that restores kept beside `live` and that are in no snapshot yet, the last one last; damaged ones apart."""
    return [path for path in _beside(live, KEPT) if not journals.is_same(path, live)]


def damaged_beside(live: Path) -> list[Path]:
    """The files that restores kept beside `live` and that cannot become a snapshot, the last one last."""
    return _beside(live, DAMAGED)


def since(kept: Path) -> datetime:
    """The time until which `kept` was the live database, by its name."""
    return datetime.strptime(f"{kept.name[-16:-1]}+0000", "%Y%m%dT%H%M%S%z")


def set_aside(kept: Path, journals_of: Path) -> Path:
    """Rename `kept`, if it exists, to its name as a damaged database, with the journals of the database at `journals_of`."""
    aside = _as_damaged(kept)
    if kept.exists():
        kept.rename(aside)
    journals.move(journals_of, aside)
    Path(f"{aside}-shm").unlink(missing_ok=True)  # which SQLite makes again
    return aside


def has_damaged_name(path: Path) -> bool:
    """Whether `path` has the name of a damaged database."""
    return f".{DAMAGED}-" in path.name


def remove(kept: Path) -> None:
    """Remove a kept file and its journals; the file last, so that the next run can finish after a kill."""
    journals.remove(kept)
    kept.unlink(missing_ok=True)


def all_beside(live: Path) -> list[Path]:
    """The files of both kinds beside `live`, also a hard link of `live` itself."""
    return [*_beside(live, KEPT), *_beside(live, DAMAGED)]


def new_name(live: Path) -> Path:
    """A new name for the file that is about to be kept beside `live`."""
    while True:
        name = f"{live.name}.{KEPT}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        if not live.with_name(name).exists() and not _as_damaged(live.with_name(name)).exists():
            return live.with_name(name)
        time.sleep(0.1)


def _beside(live: Path, kind: str) -> list[Path]:
    pattern = re.compile(re.escape(f"{live.name}.{kind}-") + r"\d{8}T\d{6}Z")
    try:
        found = [path for path in live.parent.iterdir() if pattern.fullmatch(path.name) and _has_time(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = list(filter(safe_open.is_regular, found))  # a restore keeps only such files
    # a file from the future was kept under a wrong clock, some time ago
    limit = datetime.now(UTC) + schedule.CLOCK_TOLERANCE
    return sorted(found, key=lambda path: (since(path) <= limit, path))


def _has_time(path: Path) -> bool:
    try:
        return bool(since(path))
    except ValueError:
        return False


def _as_damaged(kept: Path) -> Path:
    return kept.with_name(kept.name.replace(f".{KEPT}-", f".{DAMAGED}-"))
