"""Private places on a real disk for the files of one run, gone when the run is over."""

import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import BackupError, SetupError
from dodeka_db.host import run_lock
from dodeka_db.interrupts import shielded
from dodeka_db.repository_settings import RepositorySettings

MARK = ".of-dodeka-backup"
_PREFIX = "dodeka-"
_FOR_A_READER = "open-"
# files that a killed run leaves: ours, restic's, SQLite's
_LEFT = re.compile(rf"{_PREFIX}.*|restic-(temp|check-cache)-.*|etilqs_.*", re.DOTALL)
# names of ours before the folder had a mark
_OF_EARLIER = re.compile(r"tmp\w+|restic-.*", re.DOTALL)


def state_folder(repository: RepositorySettings) -> Path:
    """The folder DODEKA_STATE, made (0700) if it is missing; SetupError if that fails, or if its staging area is not ours.

    SQLite's temporary files go into its staging area from now on.
    """
    try:
        repository.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            repository.staging.mkdir(mode=0o700)
    except OSError as error:
        raise SetupError(
            f"folder {repository.state} cannot be made: {error.strerror}", "set DODEKA_STATE to another one"
        ) from error
    with _opened(repository) as staging:
        if not os.listdir(staging):
            _mark(staging)
    _use_for_sqlite(repository.staging)
    return repository.state


def locked(
    repository: RepositorySettings, doing: str, wait_s: int | None = None
) -> AbstractContextManager[None]:
    """run_lock.held() in the state folder, which is made if there is none; for `lock_wait_s` where no `wait_s` is given."""
    return run_lock.held(
        state_folder(repository), doing, repository.lock_wait_s if wait_s is None else wait_s
    )


def _use_for_sqlite(folder: Path) -> None:
    """Let SQLite put its temporary files into `folder` from now on.

    SQLITE_TMPDIR is read when the module is imported, and the pragma is deprecated, but has no successor.
    """
    # without write access, the next step that needs the folder fails
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(":memory:")) as connection:
        quoted = str(folder).replace("'", "''")
        connection.execute(f"PRAGMA temp_store_directory='{quoted}'")


@contextmanager
def folder(repository: RepositorySettings) -> Iterator[Path]:
    """A new folder (0700), removed at the end; SetupError if it cannot be made. Under the lock: files of killed runs are
    removed first.
    """
    state_folder(repository)
    with _opened(repository) as staging:
        _remove_left(repository.staging, _FOR_A_READER)
        names = os.listdir(staging)
        for name in names:
            if _LEFT.fullmatch(name) or (MARK not in names and _OF_EARLIER.fullmatch(name)):
                _remove_in(staging, name)
        _mark(staging)
        made = None
        try:
            try:
                with shielded():  # a signal waits until we know what to remove
                    made = tempfile.mkdtemp(prefix=_PREFIX, dir=repository.staging)
            except OSError as error:
                raise SetupError(
                    f"no folder can be made in {repository.staging}: {error.strerror}",
                    "free some space, or set DODEKA_STATE",
                ) from error
            yield Path(made)
        finally:
            if made:
                with shielded():
                    _remove_in(staging, os.path.basename(made))


@contextmanager
def _opened(repository: RepositorySettings) -> Iterator[int]:
    """A descriptor of the staging area, which stays the folder that was checked, even if another one gets its name."""
    place = repository.staging
    try:
        staging = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        why = "it is a symbolic link" if place.is_symlink() else error.strerror
        raise SetupError(f"{place} is not a folder of these backups: {why}", _ELSEWHERE) from error
    with safe_open.closed_at_end(staging):
        if problem := _not_ours(repository, staging):
            raise SetupError(f"{place} is not a folder of these backups: {problem}", _ELSEWHERE)
        yield staging


def _not_ours(repository: RepositorySettings, staging: int) -> str:
    """The reason why that folder is not ours; empty if it is marked, new, or was made by an earlier version, beside our lock."""
    names, status = os.listdir(staging), os.fstat(staging)
    if status.st_uid != os.geteuid():
        return "it belongs to another user"
    if MARK in names:
        return ""
    for name in sorted(names):
        if not (_LEFT.fullmatch(name) or _OF_EARLIER.fullmatch(name)):
            return f"it contains {name}"
    is_new = not names and not status.st_mode & 0o077
    return "" if is_new or safe_open.is_regular(repository.state / "lock") else "no backup run has used it"


def _mark(staging: int) -> None:
    # a full disk, or a file system with one mode for all files: the next run tries again
    with suppress(OSError):
        os.close(os.open(MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=staging))
        if os.fstat(staging).st_mode & 0o077:
            os.fchmod(staging, 0o700)


def _remove_in(staging: int, name: str) -> None:
    """Remove the file or folder of that name in that folder; of a link the link alone."""
    try:
        os.unlink(name, dir_fd=staging)
    except OSError:
        shutil.rmtree(name, ignore_errors=True, dir_fd=staging)


def beside(live: Path) -> AbstractContextManager[BufferedRandom]:
    """A new file (0600) in the folder of `live`, on its file system: one rename can put it in its place.

    It is open and locked until the end, or until it is closed: files of killed runs are not. BackupError if it cannot be
    made.
    """
    return _locked_file(live.parent, _prefix(live))


def for_a_reader(repository: RepositorySettings) -> AbstractContextManager[BufferedRandom]:
    """As beside(), in the staging area: a copy to look at while no lock is held. The next run removes that of a killed one."""
    state_folder(repository)
    _remove_left(repository.staging, _FOR_A_READER)
    return _locked_file(repository.staging, _FOR_A_READER)


@contextmanager
def _locked_file(folder: Path, prefix: str) -> Iterator[BufferedRandom]:
    made = None
    try:
        with shielded():
            descriptor, name = tempfile.mkstemp(prefix=prefix, dir=folder)
            made = open(name, "r+b", opener=lambda *_: descriptor)  # noqa: SIM115  closed below
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield made
    except OSError as error:
        if made:
            raise
        raise BackupError(
            f"no file can be made in {folder}: {error.strerror}", "nothing was changed"
        ) from error
    finally:
        if made:
            with shielded():
                _remove(Path(made.name))
                made.close()


def remove_left_beside(live: Path) -> None:
    """Remove the files of killed runs that beside(live) made. To be called under the lock."""
    _remove_left(live.parent, _prefix(live))


def _remove_left(folder: Path, prefix: str) -> None:
    for path in folder.glob(f"{prefix}*"):
        try:
            with open(path, "rb", opener=safe_open.no_link) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
        except OSError:
            continue  # a run that waits for somebody still uses it; or it is another user's, or not a regular file


def _prefix(live: Path) -> str:
    return f"{live.name}.restoring-"


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


_ELSEWHERE = "nothing was removed; set DODEKA_STATE to a folder that only these backups use"
