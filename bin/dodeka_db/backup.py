"""Take one snapshot of an environment: export, check, compress, store."""

import filecmp
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from dodeka_db import database, frames, staging, volume
from dodeka_db.errors import BackupError
from dodeka_db.repository import Repository
from dodeka_db.settings import Environment, Settings

log = logging.getLogger("dodeka_db")


@dataclass(frozen=True)
class Taken:
    """A snapshot that was taken: its ID (8 digits), the size of the export, how much the repository grew."""

    snapshot_id: str
    exported_bytes: int
    added_bytes: int


def take_snapshot(
    settings: Settings,
    repository: Repository,
    environment: Environment,
    source: Path | None = None,
    extra_tags: tuple[str, ...] = (),
    read_back: bool = False,
) -> Taken:
    """Export the environment's database and store it as a new snapshot. To be called under the lock.

    `source` is another database file that is to be stored as this environment's; with `read_back` the
    snapshot is compared with what was exported. Raises DatabaseError if there is nothing whole to export,
    BackupError if there is no room or it cannot be stored, RepositoryDamaged if it does not read back.
    """
    source = source or environment.database
    repository.check_writable()
    volume.for_export(settings, database.size_bytes(source)).check()
    with staging.folder(settings) as folder:
        export = folder / "export.sqlite"
        log.info("exporting %s", source)
        database.export(source, export)
        database.verify(export, f"database {source}")
        exported_bytes = export.stat().st_size

        log.info("compressing")
        archive = folder / environment.archive
        _compress(export, archive)
        export.unlink()
        if settings.local_repository:
            volume.for_snapshot(settings.local_repository, archive.stat().st_size).check()

        log.info("storing it in %s", settings.repository_shown)
        with open(archive, "rb") as finished:
            stored = repository.store(finished, environment, extra_tags)
        if read_back:
            log.info("reading it back")
            copy = folder / "read-back.zst"
            with open(copy, "xb") as target:
                repository.read_back(stored, environment, target)
            if not filecmp.cmp(archive, copy, shallow=False):
                raise repository.damaged(stored, "it is not what was stored")
    return Taken(stored.snapshot_id[:8], exported_bytes, stored.added_bytes)


def _compress(export: Path, archive: Path) -> None:
    page_bytes = database.read_header(export).page_bytes
    try:
        with open(export, "rb") as source, open(archive, "xb") as target:
            frames.compress(source, target, page_bytes)
    except OSError as error:
        raise BackupError(
            f"cannot write {archive}: {os.strerror(error.errno or 0)}", "free some room, or set DODEKA_STATE"
        ) from error
