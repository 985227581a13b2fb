"""The disks that a backup needs: whether the volume is mounted, writable, and large enough."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dodeka_db.errors import BackupError, RepositoryFullError
from dodeka_db.repository_settings import RepositorySettings

# a lock, a tree, an index, a snapshot, and their blocks
SMALL_FILES_BYTES = 100_000
# restic's temporary files: packs of 16 MiB each, as many as it fills and stores at a time (measured: 71 MB at most)
PACKS_BYTES = 80_000_000
# what a backend may write while a restore runs
RESERVE_BYTES = 1_000_000


@dataclass(frozen=True)
class Room:
    """The free bytes in a folder, the bytes that a run may need, and the message and the hint if they are too few."""

    message: str
    folder: Path
    free_bytes: int
    needed_bytes: int
    hint: str
    failure: type[BackupError] = BackupError

    @property
    def is_enough(self) -> bool:
        return self.free_bytes >= self.needed_bytes

    def check(self) -> None:
        """Raise `failure` unless it is enough."""
        if not self.is_enough:
            raise self.failure(
                f"{self.message} in {self.folder}: {self.free_bytes // 1000} kB are free,"
                f" {self.needed_bytes // 1000} kB may be needed",
                f"free some space, or {self.hint}",
            )


def for_export(repository: RepositorySettings, database_bytes: int) -> Room:
    """The room for a backup in the state folder: for the export, and for what restic has not stored yet.

    With zst that is the compressed export, part of it twice, in restic's temporary files. With pages it is those files
    alone, which restic compresses. A database that compresses to less than half needs less. The estimate is generous,
    because the disk may be the backend's own.
    """
    packs = min(database_bytes // 2, PACKS_BYTES)
    needed = database_bytes + (database_bytes if repository.format == "zst" else packs)
    free = _free(repository.state)
    return Room(
        "no room left for the export", repository.state, free, needed, "set DODEKA_STATE to another disk"
    )


def for_snapshot(repository: Path, file_bytes: int) -> Room:
    """The room for a snapshot in a local `repository`: its file's size at most, and restic's own small files."""
    needed = file_bytes + SMALL_FILES_BYTES
    message, hint = "no room left for a snapshot", "enlarge the backup volume"
    return Room(message, repository, _free(repository), needed, hint, RepositoryFullError)


def for_database(folder: Path, database_bytes: int, hint: str) -> Room:
    """The room for a database of that size in `folder`, where the databases in use go on growing meanwhile."""
    needed = database_bytes + database_bytes // 10 + RESERVE_BYTES
    return Room("no room left for the database", folder, _free(folder), needed, hint)


def check_room_beside(database: Path, hint: str, times: float = 1) -> None:
    """Raise BackupError, with `hint`, unless there is room beside the file `database` for that many of its size."""
    for_database(database.parent, int(times * database.stat().st_size), hint).check()


def is_read_only(folder: Path) -> bool:
    """Whether `folder` exists, on a file system that is mounted read-only."""
    return folder.exists() and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def is_on_own_volume(repository: Path, databases: list[Path]) -> bool:
    """Whether the file system of `repository` is neither the root file system nor that of a database."""
    device = _existing(repository).stat().st_dev
    others = [Path("/"), *databases]
    return all(_existing(other).stat().st_dev != device for other in others)


def are_on_one_disk(one: Path, other: Path) -> bool:
    """Whether both are, or would be, on the same file system, wherever its parts are mounted."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def is_mount_point(file: Path) -> bool:
    """Whether something is mounted at `file` itself (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)."""
    mounts = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    mounted = (line.split()[4] for line in mounts.splitlines())
    return str(file) in (
        re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path) for path in mounted
    )


def mount_point(folder: Path) -> Path:
    """The mount point of the file system that `folder` is, or would be, on."""
    folder = _existing(folder).resolve()
    while not os.path.ismount(folder):
        folder = folder.parent
    return folder


def _free(folder: Path) -> int:
    status = os.statvfs(_existing(folder))
    return status.f_bavail * status.f_frsize


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
