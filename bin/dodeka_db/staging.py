"""A private folder on a real disk for the files of one run, gone when the run is over."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dodeka_db.errors import SetupError
from dodeka_db.settings import Settings


def state_folder(settings: Settings) -> Path:
    """The folder DODEKA_STATE, made (0700) if there is none; SetupError if that is not possible."""
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.state / "staging").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"folder {settings.state} cannot be made: {error.strerror}", "set DODEKA_STATE to another one"
        ) from error
    return settings.state


@contextmanager
def folder(settings: Settings) -> Iterator[Path]:
    """A new folder (0700), removed at the end. Under the lock: what a killed run left is removed first."""
    staging = state_folder(settings) / "staging"
    for leftover in staging.iterdir():
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=staging, ignore_cleanup_errors=True) as made:
        yield Path(made)
