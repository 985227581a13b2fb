"""One database file in the place of another, and the old one kept beside it.

At every instant `db.sqlite` is wholly the old database or wholly the new one, no journal of the old one can
be replayed into the new one, and after a power cut the same holds, for the folder is synced between the
steps that must not change places. The old one's names, in the same folder:

    db.sqlite.pre-restore-<time>   to become a snapshot, then to go
    db.sqlite.damaged-<time>       cannot become one: stays, with its -wal and -journal, until somebody looks
"""

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

from dodeka_db import database
from dodeka_db.database import NotWhole
from dodeka_db.errors import BackupError

KEPT = "pre-restore"
DAMAGED = "damaged"
JOURNALS = ("-wal", "-journal")


def new_name(live: Path) -> Path:
    """A name for keeping what is at `live` now, which nothing has yet."""
    while True:
        name = f"{live.name}.{KEPT}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        if not live.with_name(name).exists() and not _as_damaged(live.with_name(name)).exists():
            return live.with_name(name)
        time.sleep(0.1)


def kept_files(live: Path) -> list[Path]:
    """What restores kept beside `live` and is in no snapshot yet, the oldest first; damaged ones apart."""
    return [path for path in _beside(live, KEPT) if not _is_same(path, live)]


def kept_since(kept: Path) -> datetime:
    """When `kept` was the live database last, by its name."""
    return datetime.strptime(f"{kept.name[-16:-1]}+0000", "%Y%m%dT%H%M%S%z")


def keep(live: Path, kept: Path) -> None:
    """Give what is at `live`, in use or not, the second name `kept`; nothing if there is no `live`.

    Raises BackupError where the file system or the rights do not allow that.
    """
    if not live.exists():
        return
    database.check_access(live)
    try:
        os.link(live, kept)
        _sync(live.parent)
    except OSError as error:
        kept.unlink(missing_ok=True)
        raise BackupError(
            f"{live} cannot be kept as {kept.name}: {error.strerror}", "nothing was changed"
        ) from error


def replace(live: Path, staged: Path, kept: Path, damaged: bool) -> Path:
    """Put `staged`, which is on the disk to its last byte, in the place of `live`, which nobody uses any more.

    keep() has been called. SQLite does not get to see a `damaged` one: it would take its journals away.
    Returns the path of what was there: `kept`, or its name as a damaged one; nothing is at that path if
    nothing was there. Raises DatabaseInUse, with nothing changed, if a process has it open, or BackupError.
    """
    try:
        if not damaged:
            database.fold(live)
    except NotWhole:
        damaged = True
    try:
        if damaged:
            kept = set_aside(kept, journals_of=live)
        _remove_journals(live)
        _sync(live.parent)
        staged.rename(live)
    except OSError as error:
        raise BackupError(f"{live} cannot be replaced: {error.strerror}") from error
    try:
        _sync(live.parent)
    except OSError as error:
        message = f"{live} is replaced, but perhaps not on the disk: {error.strerror}"
        raise BackupError(message, f"check that disk; what was there is kept as {kept}") from error
    return kept


def set_aside(kept: Path, journals_of: Path) -> Path:
    """Rename `kept`, if it is there, to say that it is damaged; the journals of the path given go with it."""
    damaged = _as_damaged(kept)
    if kept.exists():
        kept.rename(damaged)
    _move_journals(journals_of, damaged)
    Path(f"{journals_of}-shm").unlink(missing_ok=True)
    return damaged


def remove(kept: Path) -> None:
    """Remove what is kept at `kept`; itself last, for by its name a run that is killed here is recovered."""
    _remove_journals(kept)
    kept.unlink(missing_ok=True)


def put_back(live: Path, kept: Path) -> None:
    """Undo replace(): what is at `kept` takes its place again, and what took it goes.

    Raises DatabaseInUse, with nothing changed, if a process has the new one open.
    """
    try:
        database.fold(live)
    except NotWhole:
        pass  # it goes all the same
    _remove_journals(live)
    _sync(live.parent)
    kept.rename(live)
    _move_journals(kept, live)
    _sync(live.parent)


def damaged_files(live: Path) -> list[Path]:
    """What restores kept beside `live` that cannot become a snapshot, the oldest first."""
    return _beside(live, DAMAGED)


def forget_unswapped(live: Path) -> bool:
    """Remove the second name of what is still at `live`, of a swap that did not come to its rename; was there one?"""
    found = False
    for kept in (*_beside(live, KEPT), *_beside(live, DAMAGED)):
        if _is_same(kept, live):
            _move_journals(kept, live)
            kept.unlink()
            found = True
    return found


def _beside(live: Path, kind: str) -> list[Path]:
    pattern = re.compile(re.escape(f"{live.name}.{kind}-") + r"\d{8}T\d{6}Z")
    try:
        return sorted(path for path in live.parent.iterdir() if pattern.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _as_damaged(kept: Path) -> Path:
    return kept.with_name(kept.name.replace(f".{KEPT}-", f".{DAMAGED}-"))


def _is_same(path: Path, live: Path) -> bool:
    return live.exists() and path.samefile(live)


def _move_journals(source: Path, target: Path) -> None:
    for suffix in JOURNALS:
        journal = Path(f"{source}{suffix}")
        # one that is there already is of somebody who went on with that database
        if journal.exists() and not Path(f"{target}{suffix}").exists():
            journal.rename(f"{target}{suffix}")


def _remove_journals(live: Path) -> None:
    for suffix in (*JOURNALS, "-shm"):
        Path(f"{live}{suffix}").unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
