"""The header of an SQLite file, read and changed without SQLite (https://www.sqlite.org/fileformat2.html#the_database_header)."""

from dataclasses import dataclass
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.sqlite.failures import DISK, RESTORE, NotWholeError, next_step

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100


@dataclass(frozen=True)
class Header:
    """The content of the first 100 bytes (https://www.sqlite.org/fileformat2.html#the_database_header)."""

    page_bytes: int
    pages: int
    free_pages: int
    wal: bool


def read_header(path: Path, shown: str = "") -> Header:
    """The header of the file at `path`; NotWholeError if it is missing, empty or no database, DatabaseError if unreadable.

    `shown` is the name of the database in messages, if not its path.

    To be called before SQLite opens a path: SQLite creates what is missing and takes what is empty.
    """
    shown = shown or f"database {path}"
    try:
        with open(path, "rb", opener=safe_open.regular) as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise NotWholeError(
            f"{shown} is missing", "check DODEKA_BACKEND, or restore the database: BACKUP.md, 'Restore'"
        ) from error
    except OSError as error:
        raise DatabaseError(f"{shown} cannot be read: {error.strerror}", next_step(error)) from error
    if not head:
        raise NotWholeError(f"{shown} is empty (0 bytes)", RESTORE)
    return header_of(head, shown)


def header_of(head: bytes, shown: str) -> Header:
    """The header in `head`, the first HEADER_BYTES bytes of a file; NotWholeError, calling it `shown`, if it is no database."""
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        raise NotWholeError(f"{shown} is not an SQLite database", RESTORE)
    page_bytes = int.from_bytes(head[16:18], "big")
    return Header(
        page_bytes=65536 if page_bytes == 1 else page_bytes,
        pages=int.from_bytes(head[28:32], "big"),
        free_pages=int.from_bytes(head[36:40], "big"),
        wal=head[18] == 2,
    )


def match_journal_mode(staged: Path, live: Path) -> None:
    """Give `staged` the journal mode of `live`, or the backend's own (WAL) if `live` is no database. Raises BackupError."""
    try:
        wal = read_header(live).wal
    except NotWholeError:
        wal = True
    left = Path(f"{staged}-wal")  # a reader leaves an empty one
    if left.exists() and left.stat().st_size:
        raise BackupError(f"{left} could not be brought into its database", DISK)
    set_journal_mode(staged, wal)


def set_journal_mode(path: Path, wal: bool) -> None:
    """Set the journal mode in the header without opening the database. Nobody may have it open; its journals must be empty."""
    try:
        with open(path, "r+b", opener=safe_open.no_link) as file:
            file.seek(18)
            file.write(b"\2\2" if wal else b"\1\1")
    except OSError as error:
        raise BackupError(f"database {path} cannot be written: {error.strerror}", DISK) from error
