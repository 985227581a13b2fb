"""A database on its way into a file: where there is room for it, and never more of it than its header says."""

from io import FileIO
from pathlib import Path

from dodeka_db.errors import BackupError, SnapshotError
from dodeka_db.host import disks
from dodeka_db.sqlite import database
from dodeka_db.sqlite.database import NotWhole


class Incoming:
    """What is written into the new `file`, which may stand beside a database that is in use: its disk must not run full.

    The file is one without a buffer, so that what is written is written. `shown` is what a message calls the database,
    `remedy` what it says to do where there is no room. start_over() comes first, then write() for each block.
    """

    def __init__(self, file: FileIO, shown: str, remedy: str) -> None:
        self._file, self._shown, self._remedy = file, shown, remedy
        self._head, self._written_bytes = b"", 0
        self._database_bytes: int | None = None  # until the header has come

    def start_over(self) -> None:
        """Begin, or begin again, with an empty file."""
        self._head, self._written_bytes, self._database_bytes = b"", 0, None
        self._file.seek(0)
        self._file.truncate()

    def write(self, block: bytes) -> None:
        """Append `block`. The first bytes of all are the database's header, which says how many will come.

        Raises BackupError if there is no room for so many, or no more room; SnapshotError if it is no database, or
        longer than its header says. What fails gives the room back.
        """
        if len(self._head) < database.HEADER_BYTES:
            self._head += block[: database.HEADER_BYTES - len(self._head)]
            if len(self._head) == database.HEADER_BYTES:
                self._read_header()
        self._written_bytes += len(block)
        if self._database_bytes is not None and self._written_bytes > self._database_bytes:
            self._file.truncate(0)
            raise SnapshotError(f"{self._shown} is longer than its header says", _HINT)
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(0)
            raise BackupError(
                f"cannot write {self._file.name}: {error.strerror}", f"free some room, or {self._remedy}"
            ) from error

    def _read_header(self) -> None:
        try:
            header = database.header_of(self._head, self._shown)
        except NotWhole as error:
            raise SnapshotError(error.message, _HINT) from error
        self._database_bytes = header.pages * header.page_bytes
        disks.for_database(Path(self._file.name).parent, self._database_bytes, self._remedy).check()


_HINT = "choose another snapshot"
