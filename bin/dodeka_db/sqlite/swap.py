"""Replace one database file by another, and keep the replaced one beside it.

At every instant `db.sqlite` is wholly the old database or wholly the new one, no journal of the old one can
be replayed into the new one, and after a power cut the same holds, for the folder is synced between the
steps whose order matters.
"""

import errno
import filecmp
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.host import disks, file_rights, open_files, staging
from dodeka_db.host.file_rights import Rights
from dodeka_db.sqlite import journals, kept_files
from dodeka_db.sqlite.checkpoint import check_access, checkpoint_and_close, refuse_if_open
from dodeka_db.sqlite.failures import DatabaseInUseError, NotWholeError

LARGER_DISK = "move the databases to a larger disk; nothing was changed"
# how Linux says that a file system has no hard links (vfat, some of FUSE)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Kept:
    """The kept file of the database that is about to be replaced.

    `is_link`: `path` is a hard link already; if not, the file is copied there once nobody uses it any more.
    """

    path: Path
    is_link: bool


def keep(live: Path) -> Kept:
    """Hard-link `live`, in use or not, to a new name; not if it does not exist, or the file system has no hard links.

    Raises BackupError, with nothing changed, if `live` cannot be replaced: a permission, a mount, or too little room.
    """
    kept = kept_files.new_name(live)
    if not live.exists():
        return Kept(kept, is_link=False)
    check_access(live)
    if disks.is_mount_point(live):
        raise BackupError(
            f"{live} is a mount point, so it cannot be replaced",
            "mount its folder instead; nothing was changed",
        )
    try:
        os.link(live, kept)
        _sync(live.parent)
        return Kept(kept, is_link=True)
    except OSError as error:
        kept.unlink(missing_ok=True)
        if error.errno not in _NO_LINKS or not os.access(live.parent, os.W_OK):
            raise BackupError(
                f"{live} cannot be linked to {kept.name}: {error.strerror}", "nothing was changed"
            ) from error
    disks.for_database(live.parent, live.stat().st_size, LARGER_DISK).check()
    return Kept(kept, is_link=False)


def replace(
    live: Path, new: Path, kept: Kept, is_damaged: bool, its_rights: Rights, even_in_use: bool = False
) -> Path | None:
    """Put the database file `new`, which is on the disk to its last byte, in the place of `live`, with `its_rights`.

    To be called after keep(). If `is_damaged`, SQLite never opens `live`: it would delete its journals. Returns the path of
    the replaced database, that of `kept` or its name as a damaged one; None if there was none. Raises DatabaseInUseError if a
    process has `live` open, or another BackupError, with nothing changed.

    `even_in_use`, which needs a link: a process that has `live` open goes on with the replaced database.
    """
    even_in_use = even_in_use and kept.is_link
    try:
        if not is_damaged:
            _checkpoint(live, even_in_use)
    except NotWholeError:
        is_damaged = True
    path, was_there = kept.path, live.exists()
    try:
        if not kept.is_link:
            _copy(live, path)
        if is_damaged:
            path = kept_files.set_aside(path, journals_of=live)
        its_rights.open_up(new)
        _sync(live.parent)
        if not even_in_use:
            refuse_if_open(live)
            if Path(f"{live}-wal").exists() and not is_damaged:
                raise DatabaseInUseError(
                    f"database {live} was opened by another process meanwhile", "run this again"
                )
        _refuse_if_not_kept(live, path)
        if kept.is_link:
            journals.link(live, path)
        new.rename(live)
    except (BackupError, OSError) as error:
        journals.move(path, live)
        if not kept.is_link:  # remove_stale_link() would not know the copy
            path.unlink(missing_ok=True)
        if isinstance(error, BackupError):
            raise
        raise BackupError(f"{live} cannot be replaced: {error.strerror}") from error
    try:
        part(live, path)
        _sync(live.parent)
    except OSError as error:
        message = f"{live} was replaced, but may not be on its disk yet: {error.strerror}"
        raise BackupError(message, f"check the disk; the replaced database is kept as {path}") from error
    return path if was_there else None


def _checkpoint(live: Path, even_in_use: bool) -> None:
    try:
        refuse_if_open(live)
        checkpoint_and_close(live)
    except DatabaseInUseError:
        if not even_in_use:
            raise


def part(live: Path, replaced: Path) -> None:
    """Separate the journals of the replaced database from the new one at `live`.

    They belong to a process that opened the replaced database after its checkpoint, and may still write to them. If nobody
    has the new database open, any journal beside it belongs to the replaced one. Raises OSError.
    """
    journals.unlink(live, replaced)
    if journals.exist(live) and not open_files.processes_with(live):
        journals.move(live, replaced)


def remove_stale_link(live: Path) -> bool:
    """Remove the link left by a swap that was killed before its rename; return whether there was one.

    For a swap that was killed after its rename, separate the journals of the replaced database from the new one.
    """
    found = False
    for kept in kept_files.all_beside(live):
        if journals.is_same(kept, live):
            journals.move(kept, live)
            journals.unlink(kept, live)
            kept.unlink()
            found = True
        else:
            journals.unlink(live, kept)
    return found


def _refuse_if_not_kept(live: Path, kept: Path) -> None:
    # a copy is compared whole: somebody may have written while it was made
    if live.exists() and not (
        journals.is_same(kept, live) or (kept.exists() and filecmp.cmp(live, kept, shallow=False))
    ):
        raise DatabaseError(
            f"{kept} was removed or replaced, so {live} is not kept", "nothing was replaced; run this again"
        )


def _copy(live: Path, kept: Path) -> None:
    """Copy `live` on a file system without hard links; what has the name `kept` is a whole copy."""
    if not live.exists():
        return
    with staging.beside(live) as unfinished, open(live, "rb", opener=safe_open.no_link) as source:
        shutil.copyfileobj(source, unfinished)
        unfinished.flush()
        os.fsync(unfinished.fileno())
        its_rights = file_rights.read(live)
        its_rights.own(Path(unfinished.name))
        its_rights.open_up(Path(unfinished.name))
        Path(unfinished.name).rename(kept)


def identity(live: Path) -> tuple[int, int] | None:
    """What tells whether `live` is still the same file; None if there is none."""
    try:
        status = live.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _sync(folder: Path) -> None:
    with safe_open.closed_at_end(os.open(folder, os.O_RDONLY)) as descriptor:
        os.fsync(descriptor)
