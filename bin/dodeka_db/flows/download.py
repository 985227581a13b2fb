"""Get the database in a snapshot, of either format, out of the repository into a file."""

import shutil
from io import RawIOBase
from pathlib import Path

from dodeka_db import progress
from dodeka_db.errors import BackupError, SnapshotError
from dodeka_db.host import disks
from dodeka_db.log import log
from dodeka_db.progress import Far
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot
from dodeka_db.sqlite import header
from dodeka_db.sqlite.failures import NotWholeError
from dodeka_db.stream_types import Readable

_HINT = "choose another snapshot"


class Incoming:
    """A database that is being written to the new `file` at `path`. Its disk must not run full: a live database may be on it.

    The file has no buffer, so that a full disk shows at once. `shown` is the name of the database in messages, `remedy`
    their hint if there is too little room. Call start_over() first, then write() for each block.
    """

    def __init__(self, file: RawIOBase, path: Path, shown: str, remedy: str) -> None:
        self._file, self._path, self._shown, self._remedy = file, path, shown, remedy
        self._head, self._written_bytes = b"", 0
        self._database_bytes: int | None = None  # until the header has come

    def start_over(self) -> None:
        """Begin, or begin again, with an empty file."""
        self._head, self._written_bytes, self._database_bytes = b"", 0, None
        self._file.seek(0)
        self._file.truncate()

    def write(self, block: bytes, /) -> None:
        """Append `block`. The first bytes are the database's header, which has the size of the database.

        Raises BackupError if there is no room for that size, or no more room; SnapshotError if it is no database, or longer
        than its header says. A failure empties the file.
        """
        if len(self._head) < header.HEADER_BYTES:
            self._head += block[: header.HEADER_BYTES - len(self._head)]
            if len(self._head) == header.HEADER_BYTES:
                self._read_header()
        self._written_bytes += len(block)
        if self._database_bytes is not None and self._written_bytes > self._database_bytes:
            self._file.truncate(0)
            raise SnapshotError(f"{self._shown} is longer than its header says", _HINT)
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._file.truncate(0)
            raise BackupError(
                f"cannot write {self._path}: {error.strerror}", f"free some space, or {self._remedy}"
            ) from error

    def far(self) -> Far | None:
        """How far the writing is; None until the header has come."""
        return Far(self._written_bytes, self._database_bytes) if self._database_bytes else None

    def _read_header(self) -> None:
        try:
            found = header.header_of(self._head, self._shown)
        except NotWholeError as error:
            raise SnapshotError(error.message, _HINT) from error
        self._database_bytes = found.pages * found.page_bytes
        disks.for_database(self._path.parent, self._database_bytes, self._remedy).check()


def shown(snapshot: Snapshot) -> str:
    """The name of the database in `snapshot` in messages."""
    return f"the database in snapshot {snapshot.short_id}"


def to_new_file(repository: Repository, snapshot: Snapshot, path: Path, cached: bool = True) -> Path:
    """Download the database in `snapshot` to the new file `path` in the state folder; returns `path`. Raises as download()."""
    with open(path, "xb", buffering=0) as file:
        incoming = Incoming(file, path, shown(snapshot), "set DODEKA_STATE to another disk")
        download(repository, snapshot, incoming, cached)
    return path


def download(repository: Repository, snapshot: Snapshot, target: Incoming, cached: bool = True) -> None:
    """Write the database in `snapshot` to `target`, as a stream.

    `cached` False: without restic's cache on this machine.

    Raises SnapshotError if it cannot be read or a checksum is wrong, and what Incoming raises: then restic is ended.
    """

    def write(source: Readable) -> None:
        target.start_over()
        if snapshot.format == "zst":
            from dodeka_db.sqlite import zstd_frames  # it needs zstandard, which pages do not need

            zstd_frames.decompress(source, target)
        else:
            shutil.copyfileobj(source, target)

    log.info("downloading snapshot %s (%s)", snapshot.short_id, snapshot.format)
    options = () if cached else ("--no-cache",)
    with progress.step("downloading", target.far):
        repository.dump(snapshot.id, repository.path_in(snapshot), write, options)
