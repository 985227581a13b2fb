"""Bring the journals of a database into its file, and prove that nobody else has it open."""

import os
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import DatabaseError
from dodeka_db.host import open_files
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.failures import RETRY, DatabaseInUseError, next_step
from dodeka_db.sqlite.header import read_header


def check_access(path: Path) -> None:
    """Raise DatabaseError unless we may read and write the file `path`, which is no link."""
    try:
        os.close(safe_open.no_link(path, os.O_RDWR))
    except OSError as error:
        raise DatabaseError(
            f"database {path} cannot be written: {error.strerror}", next_step(error)
        ) from error


def checkpoint_and_close(path: Path) -> None:
    """Bring what is in the journals of the database at `path` into the file itself, and make sure that nobody else has it open.

    This notices every process that has read from the database, also idle readers, which a checkpoint and BEGIN EXCLUSIVE
    miss in WAL mode. (Nothing shows a connection that has read nothing yet.) Raises DatabaseInUseError or NotWholeError, or
    another BackupError, with nothing lost and the journals in place.
    """
    read_header(path)
    shown = f"database {path}"
    is_ours = safe_open.is_ours(path.parent)
    try:
        with opened(path, "mode=rw", shown) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # rolls a hot journal back
            if is_ours:  # if not, opened() has done that
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute("ROLLBACK")
        # the last connection to close folds the WAL in and removes it (https://www.sqlite.org/wal.html, section 4.1)
        if Path(f"{path}-wal").exists():
            with opened(path, "mode=rw", shown) as connection:  # SQLite refuses it, and says why
                if is_ours:
                    connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            if Path(f"{path}-wal").exists():
                raise DatabaseInUseError(f"{shown} is locked by another process", RETRY)
    except DatabaseInUseError as error:
        hint = f"find it with: sudo fuser -v {path}"
        raise DatabaseInUseError(f"{shown} is still open in another process", hint) from error


def refuse_if_open(path: Path) -> None:
    """Raise DatabaseInUseError if a process has the database file `path` open: what it writes would be lost."""
    if holders := open_files.processes_with(path):
        hint = "end that process, then run this again"
        if open_files.UNSEEN in holders:
            hint = f"find it with: sudo fuser -v {path}"
        raise DatabaseInUseError(f"database {path} is still open in {', '.join(holders)}", hint)
