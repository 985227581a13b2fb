"""The disks that a backup needs: is the volume there, can it be written, is there room."""

import os
from dataclasses import dataclass
from pathlib import Path

from dodeka_db.errors import BackupError, SetupError
from dodeka_db.settings import Settings


@dataclass(frozen=True)
class Room:
    """What is free in a folder, and what a backup may need there, in bytes; `what` is for messages."""

    what: str
    folder: Path
    free_bytes: int
    needed_bytes: int
    remedy: str

    @property
    def is_enough(self) -> bool:
        return self.free_bytes >= self.needed_bytes


def rooms(settings: Settings, database_bytes: int) -> list[Room]:
    """Where a backup of a database needs room: the state folder, and the repository if it is on a disk of ours.

    In the state folder the export and its compressed form lie side by side. Neither can be larger than
    the database; what compresses well needs less, but a disk is not to be filled to its last byte.
    """
    found = [
        Room(
            "for the export",
            settings.state,
            _free(settings.state),
            2 * database_bytes,
            "set DODEKA_STATE to another disk",
        )
    ]
    if settings.local_repository:
        repository = settings.local_repository
        found.append(
            Room("for a snapshot", repository, _free(repository), database_bytes, "enlarge the backup volume")
        )
    return found


def check(settings: Settings, database_bytes: int) -> None:
    """Raise BackupError unless a backup of a database of that size can be written."""
    if is_read_only(settings):
        raise BackupError(
            f"repository {settings.repository_shown} is on a file system that is mounted read-only",
            f"dmesg says why; then: sudo mount -o remount,rw {mount_point(settings.local_repository)}",
        )
    folder = settings.local_repository
    if folder and folder.exists() and not os.access(folder, os.W_OK):
        raise SetupError(
            f"repository {settings.repository_shown} cannot be written", "run this as the user that owns it"
        )
    for room in rooms(settings, database_bytes):
        if not room.is_enough:
            raise BackupError(
                f"no room left {room.what} in {room.folder}: {room.free_bytes // 1000} kB are free,"
                f" {room.needed_bytes // 1000} kB may be needed",
                f"free some, or {room.remedy}",
            )


def is_read_only(settings: Settings) -> bool:
    """Whether the repository is a folder on a file system that is mounted read-only."""
    folder = settings.local_repository
    return bool(folder and folder.exists() and os.statvfs(folder).f_flag & os.ST_RDONLY)


def is_of_its_own(settings: Settings) -> bool:
    """Whether the repository's folder is on another file system than the databases."""
    return _device(settings.local_repository) != _device(settings.backend)


def mount_point(folder: Path) -> Path:
    """Where the file system that `folder` is, or would be, on is mounted."""
    folder = _existing(folder).resolve()
    while not os.path.ismount(folder):
        folder = folder.parent
    return folder


def _free(folder: Path) -> int:
    status = os.statvfs(_existing(folder))
    return status.f_bavail * status.f_frsize


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
