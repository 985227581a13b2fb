"""Take one snapshot of an environment: export, check, compress, store, read back."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.host import disks, programs, service, staging
from dodeka_db.restic.repository import Repository, Stored
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import database
from dodeka_db.sqlite.database import CannotExport, Findings

log = logging.getLogger("dodeka_db")

# up to here a full integrity_check takes some 30 ms; above, the drills and restores do it
FULL_CHECK_BYTES = 20_000_000


@dataclass(frozen=True)
class Taken:
    """A snapshot that was taken: what the repository says of it, the size of the export, and what is wrong with it."""

    stored: Stored
    exported_bytes: int
    findings: Findings

    @property
    def snapshot_id(self) -> str:
        return self.stored.snapshot_id[:8]


def take_snapshot(
    settings: Settings,
    repository: Repository,
    environment: Environment,
    source: Path | None = None,
    extra_tags: tuple[str, ...] = (),
) -> Taken:
    """Export the environment's database, store it as a new snapshot, and compare that with what was exported.

    To be called under the lock. `source` is another database file that is to be stored as this environment's. What is wrong
    with a database that can be read through is warned of.
    Raises DatabaseError if there is nothing whole to export, BackupError if there is no room or it cannot be
    stored, RepositoryDamaged if it does not read back.
    """
    programs.preload()
    source = source or environment.database
    repository.check_writable()
    disks.for_export(settings, database.size_bytes(source)).check()
    with staging.folder(settings) as folder:
        export = folder / "export.sqlite"
        log.info("exporting %s", source)
        warnings = _export(settings, source, export)
        if settings.format == "pages":
            finished, findings = export, _verify(export, source)
        else:
            finished, findings = _check_and_compress(export, source)
        for line in (*warnings, *(f"database {source}: {line}" for line in findings.lines())):
            log.warning("%s", line)
        exported_bytes = export.stat().st_size
        if settings.local_repository:
            disks.for_snapshot(settings.local_repository, finished.stat().st_size).check()

        log.info("storing it in %s", settings.repository_shown)
        with open(finished, "rb") as file:
            stored = repository.store(file, environment, extra_tags)
            log.info("reading it back")
            repository.read_back(stored, file)
    if source == environment.database:
        _warn_of_strays(settings, environment)
    return Taken(stored, exported_bytes, findings)


def _warn_of_strays(settings: Settings, environment: Environment) -> None:
    with suppress(BackupError):  # that systemd does not answer, make status says
        if stray := service.of(settings, environment).strays_from(environment.live):
            log.warning("%s: what it writes is in no snapshot; see BACKUP.md, 'Written elsewhere'", stray)


def fail_if_defective(taken: Taken, environment: Environment) -> None:
    """Raise DatabaseError, with the snapshot safe, if SQLite's check found defects in the environment's database."""
    if taken.findings.defects:
        raise DatabaseError(
            f"snapshot {taken.snapshot_id} is safe, but database {environment.database} has defects:"
            f" {taken.findings.defects_shown}",
            "REINDEX fixes an index, and no restore is needed: BACKUP.md, 'The database has defects'",
        )


def _export(settings: Settings, source: Path, export: Path) -> list[str]:
    """Export in the format that is set, or page for page where SQLite cannot compact the database; the warnings about that."""
    if settings.format == "zst":
        try:
            database.export(source, export)
            return []
        except CannotExport as error:
            reason = f"{error.message}; the snapshot holds its pages, with what is left of deleted rows"
    database.copy(source, export)
    return [] if settings.format == "pages" else [reason]


def _check_and_compress(export: Path, source: Path) -> tuple[Path, Findings]:
    from dodeka_db.sqlite import zstd_frames  # zstandard, which pages do not need

    log.info("compressing")
    compressed = export.with_suffix(".sqlite.zst")
    page_bytes = database.read_header(export).page_bytes
    with ThreadPoolExecutor(1) as beside:
        try:
            checking = beside.submit(_verify, export, source)
        except RuntimeError as error:  # no thread to be had
            raise programs.no_process("the check of the export") from error
        try:
            with open(export, "rb", programs.READ_BYTES) as whole, open(compressed, "xb") as target:
                zstd_frames.compress(whole, target, page_bytes)
        except OSError as error:
            raise BackupError(
                f"cannot write {compressed}: {os.strerror(error.errno or 0)}",
                "free some room, or set DODEKA_STATE",
            ) from error
        return compressed, checking.result()


def _verify(export: Path, source: Path) -> Findings:
    is_large = export.stat().st_size > FULL_CHECK_BYTES
    return database.verify(export, f"database {source}", quick=is_large)
