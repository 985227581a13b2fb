"""One database file in the place of another, and the replaced one kept beside it.

At every instant `db.sqlite` is wholly the old database or wholly the new one, no journal of the old one can
be replayed into the new one, and after a power cut the same holds, for the folder is synced between the
steps that must not change places. The names of the replaced one, in the same folder:

    db.sqlite.pre-restore-<time>   to become a snapshot, then to go
    db.sqlite.damaged-<time>       cannot become one: stays, with its -wal and -journal, until somebody looks
"""

import errno
import filecmp
import os
import re
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dodeka_db import safe_open, schedule
from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.host import disks, file_rights, open_files, staging
from dodeka_db.host.file_rights import Rights
from dodeka_db.sqlite import database
from dodeka_db.sqlite.database import DatabaseInUse, NotWhole

KEPT = "pre-restore"
DAMAGED = "damaged"
LARGER_DISK = "move the databases to a larger disk; nothing was changed"
JOURNALS = ("-wal", "-journal", "-shm")
# how Linux says that a file system has no hard links (vfat, some of FUSE)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Kept:
    """Where the database that is about to be replaced is kept.

    `is_link`: at `path` is its second name already; else it is copied there when nobody uses it any more.
    """

    path: Path
    is_link: bool


def kept_files(live: Path) -> list[Path]:
    """The files that restores kept beside `live` and that are in no snapshot yet, the last one last; damaged ones apart."""
    return [path for path in _beside(live, KEPT) if not _is_same(path, live)]


def damaged_files(live: Path) -> list[Path]:
    """The files that restores kept beside `live` and that cannot become a snapshot, the last one last."""
    return _beside(live, DAMAGED)


def kept_since(kept: Path) -> datetime:
    """When `kept` was the live database last, by its name."""
    return datetime.strptime(f"{kept.name[-16:-1]}+0000", "%Y%m%dT%H%M%S%z")


def keep(live: Path) -> Kept:
    """Give what is at `live`, in use or not, a second name; none yet where the file system has no hard links.

    Raises BackupError, with nothing changed, where `live` cannot be replaced, for a right, a mount or too little room.
    """
    kept = _new_name(live)
    if not live.exists():
        return Kept(kept, is_link=False)
    database.check_access(live)
    if disks.is_mount_point(live):
        raise BackupError(
            f"{live} is a mount point itself, so no other file can take its place",
            "mount its folder in its place; nothing was changed",
        )
    try:
        os.link(live, kept)
        _sync(live.parent)
        return Kept(kept, is_link=True)
    except OSError as error:
        kept.unlink(missing_ok=True)
        if error.errno not in _NO_LINKS or not os.access(live.parent, os.W_OK):
            raise BackupError(
                f"{live} cannot be kept as {kept.name}: {error.strerror}", "nothing was changed"
            ) from error
    disks.for_database(live.parent, live.stat().st_size, LARGER_DISK).check()
    return Kept(kept, is_link=False)


def replace(
    live: Path, new: Path, kept: Kept, is_damaged: bool, its_rights: Rights, even_in_use: bool = False
) -> Path | None:
    """Put the database file `new`, which is on the disk to its last byte, in the place of `live`, with `its_rights`.

    keep() has been called. SQLite does not get to see a `live` that `is_damaged`: it would take its journals away.
    Returns the path of the replaced database, that of `kept` or its name as a damaged one; None if there was none. Raises
    DatabaseInUse if a process has `live` open, or another BackupError, with nothing changed.

    `even_in_use`, which takes a link: whoever has `live` open goes on with the replaced database.
    """
    even_in_use = even_in_use and kept.is_link
    try:
        if not is_damaged:
            _checkpoint(live, even_in_use)
    except NotWhole:
        is_damaged = True
    path, was_there = kept.path, live.exists()
    try:
        if not kept.is_link:
            _copy(live, path)
        if is_damaged:
            path = set_aside(path, journals_of=live)
        its_rights.open_up(new)
        _sync(live.parent)
        if not even_in_use:
            refuse_if_open(live)
            if Path(f"{live}-wal").exists() and not is_damaged:
                raise DatabaseInUse(
                    f"database {live} was opened by another process meanwhile", "run this again"
                )
        _refuse_if_not_kept(live, path)
        if kept.is_link:
            _link_journals(live, path)
        new.rename(live)
    except (BackupError, OSError) as error:
        _move_journals(path, live)
        if not kept.is_link:  # forget_unswapped() would not know the copy
            path.unlink(missing_ok=True)
        if isinstance(error, BackupError):
            raise
        raise BackupError(f"{live} cannot be replaced: {error.strerror}") from error
    try:
        part(live, path)
        _sync(live.parent)
    except OSError as error:
        message = f"{live} is replaced, but perhaps not on the disk: {error.strerror}"
        raise BackupError(message, f"check that disk; the replaced database is kept as {path}") from error
    return path if was_there else None


def _checkpoint(live: Path, even_in_use: bool) -> None:
    try:
        refuse_if_open(live)
        database.fold(live)
    except DatabaseInUse:
        if not even_in_use:
            raise


def part(live: Path, replaced: Path) -> None:
    """Take the journals of the replaced database away from the new one at `live`.

    They are of a process that has opened the replaced one since it was checkpointed, and may go on with them: SQLite has
    them open. Where nobody has the new one open, any journal there is of the replaced one. Raises OSError.
    """
    _unlink_journals(live, replaced)
    if any(Path(f"{live}{suffix}").exists() for suffix in JOURNALS) and not open_files.that_have_open(live):
        _move_journals(live, replaced)


def set_aside(kept: Path, journals_of: Path) -> Path:
    """Rename `kept`, if it is there, to say that it is damaged; the journals of the path given go with it."""
    damaged = _as_damaged(kept)
    if kept.exists():
        kept.rename(damaged)
    _move_journals(journals_of, damaged)
    Path(f"{damaged}-shm").unlink(missing_ok=True)  # which SQLite makes anew
    return damaged


def is_damaged(path: Path) -> bool:
    """Whether that is the name of a damaged database."""
    return f".{DAMAGED}-" in path.name


def remove(kept: Path) -> None:
    """Remove what is kept at `kept`; itself last, for by its name a run that is killed here is recovered."""
    _remove_journals(kept)
    kept.unlink(missing_ok=True)


def forget_unswapped(live: Path) -> bool:
    """Remove the second name of what is still at `live`, of a swap that did not come to its rename; was there one?

    Of a swap that did come to it, the new database loses the journals of the replaced one.
    """
    found = False
    for kept in (*_beside(live, KEPT), *_beside(live, DAMAGED)):
        if _is_same(kept, live):
            _move_journals(kept, live)
            _unlink_journals(kept, live)
            kept.unlink()
            found = True
        else:
            _unlink_journals(live, kept)
    return found


def _new_name(live: Path) -> Path:
    while True:
        name = f"{live.name}.{KEPT}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        if not live.with_name(name).exists() and not _as_damaged(live.with_name(name)).exists():
            return live.with_name(name)
        time.sleep(0.1)


def refuse_if_open(path: Path) -> None:
    """Raise DatabaseInUse if a process has the database file `path` open: what that writes would be lost."""
    if holders := open_files.that_have_open(path):
        hint = (
            f"find it with: sudo fuser -v {path}"
            if open_files.UNSEEN in holders
            else "end that, then run this again"
        )
        raise DatabaseInUse(f"database {path} is still open in {', '.join(holders)}", hint)


def _refuse_if_not_kept(live: Path, kept: Path) -> None:
    # a copy is compared whole: somebody may have written while it was made
    if live.exists() and not (
        _is_same(kept, live) or (kept.exists() and filecmp.cmp(live, kept, shallow=False))
    ):
        raise DatabaseError(
            f"{kept} is gone or another file, so {live} is not kept", "nothing was replaced; run this again"
        )


def _copy(live: Path, kept: Path) -> None:
    """In place of a link, on a file system that has none; under that name it is whole."""
    if not live.exists():
        return
    with staging.beside(live) as unfinished, open(live, "rb", opener=safe_open.no_link) as source:
        shutil.copyfileobj(source, unfinished)
        unfinished.flush()
        os.fsync(unfinished.fileno())
        its_rights = file_rights.of(live)
        its_rights.own(Path(unfinished.name))
        its_rights.open_up(Path(unfinished.name))
        Path(unfinished.name).rename(kept)


def _beside(live: Path, kind: str) -> list[Path]:
    pattern = re.compile(re.escape(f"{live.name}.{kind}-") + r"\d{8}T\d{6}Z")
    try:
        found = [path for path in live.parent.iterdir() if pattern.fullmatch(path.name) and _has_time(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = list(filter(safe_open.is_regular, found))  # all that a restore keeps
    # one from the future was kept under a wrong clock, some time ago
    limit = datetime.now(UTC) + schedule.CLOCK_TOLERANCE
    return sorted(found, key=lambda path: (kept_since(path) <= limit, path))


def _has_time(path: Path) -> bool:
    try:
        return bool(kept_since(path))
    except ValueError:
        return False


def _as_damaged(kept: Path) -> Path:
    return kept.with_name(kept.name.replace(f".{KEPT}-", f".{DAMAGED}-"))


def _is_same(path: Path, live: Path) -> bool:
    return live.exists() and path.exists() and path.samefile(live)


def _link_journals(source: Path, target: Path) -> None:
    for suffix in JOURNALS:
        journal = Path(f"{source}{suffix}")
        if journal.exists() and not Path(f"{target}{suffix}").exists():
            os.link(journal, f"{target}{suffix}")


def _unlink_journals(names: Path, others: Path) -> None:
    """Remove those of `names` that have their second name at `others`."""
    for suffix in JOURNALS:
        if _is_same(Path(f"{names}{suffix}"), Path(f"{others}{suffix}")):
            Path(f"{names}{suffix}").unlink()


def _move_journals(source: Path, target: Path) -> None:
    for suffix in JOURNALS:
        journal = Path(f"{source}{suffix}")
        # one that is there already is of somebody who went on with that database
        if journal.exists() and not Path(f"{target}{suffix}").exists():
            journal.rename(f"{target}{suffix}")


def _remove_journals(live: Path) -> None:
    for suffix in JOURNALS:
        Path(f"{live}{suffix}").unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
