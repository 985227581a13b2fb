"""Get the database that is in a snapshot, of either format, out of the repository."""

import logging
import shutil
from typing import BinaryIO

from dodeka_db.flows.incoming import Incoming
from dodeka_db.restic.repository import Repository, Snapshot

log = logging.getLogger("dodeka_db")


def fetch(repository: Repository, snapshot: Snapshot, target: Incoming, cached: bool = True) -> None:
    """Write the database in `snapshot` to `target` as it comes.

    `cached` False: all of it comes from the repository itself, nothing from restic's cache on this machine.

    Raises SnapshotError if it cannot be read or a checksum is wrong, and what Incoming raises: then restic is ended.
    """

    def write(source: BinaryIO) -> None:
        target.start_over()
        if snapshot.format == "zst":
            from dodeka_db.sqlite import zstd_frames  # zstandard, which pages do not need

            zstd_frames.decompress(source, target)
        else:
            shutil.copyfileobj(source, target)

    log.info("downloading snapshot %s (%s)", snapshot.short_id, snapshot.format)
    repository.dump(snapshot, write, cached)
