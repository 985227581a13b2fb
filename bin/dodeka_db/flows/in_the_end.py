"""Raise the graver one of two failures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dodeka_db.errors import BackupError, as_line
from dodeka_db.log import log


@contextmanager
def in_the_end(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` after the block, also if that has failed. If both raise one, the failure of the block is only a warning."""
    try:
        yield
    except (BackupError, OSError) as error:
        try:
            check()
        except (BackupError, OSError):
            log.warning("%s", as_line(error))
            raise
        raise
    check()
