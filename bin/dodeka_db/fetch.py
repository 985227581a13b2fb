"""Get the database that is in a snapshot out of the repository: download, decompress."""

import logging
from pathlib import Path
from typing import BinaryIO

from dodeka_db import frames
from dodeka_db.repository import Repository, Snapshot

log = logging.getLogger("dodeka_db")


def fetch(
    repository: Repository, snapshot: Snapshot, folder: Path, target: BinaryIO, cached: bool = True
) -> None:
    """Write the database in `snapshot` to `target`, by way of a file in `folder`.

    `cached` False: all of it comes from the repository itself, nothing from restic's cache on this machine.

    Raises SnapshotError if it cannot be read or a checksum is wrong, OSError if it cannot be written.
    """
    with open(folder / "download.zst", "x+b") as archive:
        log.info("downloading snapshot %s", snapshot.short_id)
        repository.dump(snapshot, archive, cached)
        archive.seek(0)
        log.info("decompressing")
        frames.decompress(archive, target)
