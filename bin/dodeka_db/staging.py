"""Private places on a real disk for the files of one run, gone when the run is over."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dodeka_db import database
from dodeka_db.errors import BackupError, SetupError
from dodeka_db.interrupts import shielded
from dodeka_db.settings import Settings


def state_folder(settings: Settings) -> Path:
    """The folder DODEKA_STATE, made (0700) if there is none; SetupError if that is not possible.

    SQLite's temporary files go into its staging area from here on.
    """
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.staging.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"folder {settings.state} cannot be made: {error.strerror}", "set DODEKA_STATE to another one"
        ) from error
    database.use_for_temporary_files(settings.staging)
    return settings.state


@contextmanager
def folder(settings: Settings) -> Iterator[Path]:
    """A new folder (0700), removed at the end; SetupError if it cannot be made. Under the lock: what a killed run left is
    removed first.
    """
    state_folder(settings)
    for leftover in settings.staging.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:  # of restic, which opens its temporary files and then takes their names away
            leftover.unlink(missing_ok=True)
    made = None
    try:
        try:
            with shielded():  # a signal waits until we know what to remove
                made = tempfile.mkdtemp(dir=settings.staging)
        except OSError as error:
            raise SetupError(
                f"no folder can be made in {settings.staging}: {error.strerror}",
                "free some room, or set DODEKA_STATE",
            ) from error
        yield Path(made)
    finally:
        if made:
            with shielded():
                shutil.rmtree(made, ignore_errors=True)


@contextmanager
def beside(live: Path) -> Iterator[IO[bytes]]:
    """A new file (0600) in the folder of `live`, on its file system: one rename can put it in its place.

    It is open, and locked by that until the end or until it is closed: so it is told from what a killed run left.
    BackupError if it cannot be made.
    """
    made = None
    try:
        with shielded():
            made = tempfile.NamedTemporaryFile(prefix=_prefix(live), dir=live.parent, delete=False)
        fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield made
    except OSError as error:
        if made:
            raise
        raise BackupError(
            f"no file can be made in {live.parent}: {error.strerror}", "nothing was changed"
        ) from error
    finally:
        if made:
            with shielded():
                _remove(Path(made.name))
                made.close()


def remove_left_beside(live: Path) -> None:
    """Remove what killed runs left of beside(live). To be called under the lock."""
    for path in live.parent.glob(f"{_prefix(live)}*"):
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
        except OSError:
            continue  # of a restore that waits for its answer, or has just had it; or of another user


def _prefix(live: Path) -> str:
    return f"{live.name}.restoring-"


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
