"""Read a new snapshot back from the repository, and compare it with the file that was stored.

restic takes content that is in a damaged pack for stored, and reports success. Only reading it shows the damage, and only
without the cache, which has everything but the content itself. It is read without a lock first: after making a lock restic
waits for 0.2 s. A prune on another machine may move content or index meanwhile, so that only a failure under a lock counts.
"""

from typing import BinaryIO

from dodeka_db.errors import RepositoryDamagedError, SnapshotError
from dodeka_db.host import programs
from dodeka_db.restic import failures
from dodeka_db.restic.repository import Repository, Stored
from dodeka_db.stream_types import Readable


def read_back(repository: Repository, stored: Stored, file: BinaryIO) -> None:
    """Raise RepositoryDamagedError unless the snapshot `stored` holds the bytes of `file`."""

    def compare(output: Readable) -> None:
        file.seek(0)
        while block := file.read(programs.READ_BYTES):
            if output.read(len(block)) != block:
                raise SnapshotError("the content differs from the stored file")
        if output.read(1):
            raise SnapshotError("the content is longer than the stored file")

    try:
        try:
            repository.dump(stored.snapshot_id, stored.path, compare, ("--no-cache", "--no-lock"))
        except (SnapshotError, RepositoryDamagedError):
            repository.dump(stored.snapshot_id, stored.path, compare, ("--no-cache",))
    except SnapshotError as error:
        raise RepositoryDamagedError(
            f"snapshot {stored.snapshot_id[:8]} does not read back, and nothing was removed: {error.message}",
            f"see {failures.DAMAGED}",
        ) from error
