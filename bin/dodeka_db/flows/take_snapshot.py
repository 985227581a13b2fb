"""Take one snapshot of a database: export, check, count its rows, compress, store, read back."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from dodeka_db import progress
from dodeka_db.errors import BackupError, no_process
from dodeka_db.formatting import size
from dodeka_db.host import disks, programs, row_records, staging
from dodeka_db.host.beside import beside
from dodeka_db.host.row_records import Rows
from dodeka_db.log import log
from dodeka_db.restic.read_back import read_back
from dodeka_db.restic.repository import Repository, Stored
from dodeka_db.restic.snapshots import Snapshot
from dodeka_db.settings import Environment
from dodeka_db.sqlite import integrity
from dodeka_db.sqlite.export import copy_pages, export_compacted, size_bytes
from dodeka_db.sqlite.failures import CannotCompactError
from dodeka_db.sqlite.header import read_header
from dodeka_db.sqlite.integrity import Findings
from dodeka_db.sqlite.row_counts import row_counts

# up to this size a full integrity_check takes some 30 ms; for larger databases drills and restores do it
FULL_CHECK_BYTES = 20_000_000


@dataclass(frozen=True)
class Taken:
    """A snapshot that was taken: how it is stored, the size of the export, its defects, and its rows if they are counted.

    `known` gives what Repository.known() found after the snapshot was stored, or raises its failure; None if nobody asked.
    """

    stored: Stored
    exported_bytes: int
    findings: Findings
    rows: Rows | None
    known: Callable[[], list[Snapshot]] | None

    @property
    def snapshot_id(self) -> str:
        return self.stored.snapshot_id[:8]

    @property
    def summary(self) -> str:
        at_most = "" if self.stored.is_exact else "at most "
        return (
            f"snapshot {self.snapshot_id}, {size(self.exported_bytes)} exported,"
            f" repository grew by {at_most}{size(self.stored.added_bytes)}"
        )


def take_snapshot(
    repository: Repository,
    environment: Environment,
    source: Path,
    extra_tags: tuple[str, ...] = (),
    time: datetime | None = None,
    lists: bool = False,
) -> Taken:
    """Export the database at `source`, store it as a new snapshot of `environment`, and compare what was stored with the export.

    To be called under the lock. `time` is that of the snapshot, by default now. With `lists`, all snapshots are listed while
    this one is read back: on a server both take a start of restic. The number of rows of each table is put on record. Defects
    of a database that can be read through are warnings. Raises DatabaseError if there is no whole database to export,
    BackupError if there is no room or the export cannot be stored, RepositoryDamagedError if the snapshot does not read back.
    """
    settings = repository.settings
    programs.preload()
    repository.check_writable()
    disks.for_export(settings, size_bytes(source)).check()
    with staging.folder(settings) as folder:
        export = folder / "export.sqlite"
        log.info("exporting %s", source)
        warnings = _export(source, export, settings.format)
        if settings.format == "pages":
            finished, (findings, rows) = export, _verify(export, source)
        else:
            finished, (findings, rows) = _check_and_compress(export, source)
        for line in (*warnings, *(f"database {source}: {line}" for line in findings.lines())):
            log.warning("%s", line)
        exported_bytes, stored_bytes = export.stat().st_size, finished.stat().st_size
        if settings.folder:
            disks.for_snapshot(settings.folder, stored_bytes).check()

        log.info("storing it in %s", settings.shown)
        with open(finished, "rb") as file:
            with progress.step("storing", progress.position_in(file)):
                stored = repository.store(file, environment, extra_tags, time)
            log.info("reading it back")
            listing = beside(repository.known, "the listing") if lists else nullcontext()
            with listing as known, progress.step("reading back", progress.position_in(file)):
                read_back(repository, stored, file)
    if rows is not None:
        row_records.write(settings.state, stored.snapshot_id, row_records.Record(stored_bytes, rows))
    return Taken(stored, exported_bytes, findings, rows, known)


def _export(source: Path, export: Path, format: str) -> list[str]:
    """Export for that format, or page for page if SQLite cannot compact the database; returns the warnings about that."""
    warnings = []
    if format == "zst":
        try:
            export_compacted(source, export)
            return []
        except CannotCompactError as error:
            why = f"{error.message}; the snapshot is a page copy, which contains remains of deleted rows"
            warnings.append(why)
    copy_pages(source, export)
    return warnings


def _check_and_compress(export: Path, source: Path) -> tuple[Path, tuple[Findings, Rows | None]]:
    from dodeka_db.sqlite import zstd_frames  # it needs zstandard, which pages do not need

    log.info("compressing")
    compressed = export.with_suffix(".sqlite.zst")
    page_bytes = read_header(export).page_bytes
    with beside(partial(_verify, export, source), "the check of the export") as verified:
        try:
            with (
                open(export, "rb", programs.READ_BYTES) as whole,
                open(compressed, "xb") as target,
                progress.step("compressing", progress.position_in(whole)),
            ):
                zstd_frames.compress(whole, target, page_bytes)
        except RuntimeError as error:
            raise no_process("the compression of the export") from error
        except OSError as error:
            raise BackupError(
                f"{error.filename or compressed}: {error.strerror}", "free some space, or set DODEKA_STATE"
            ) from error
        return compressed, verified()


def _verify(export: Path, source: Path) -> tuple[Findings, Rows | None]:
    """The findings, and the rows of each table; None, with a warning, if they cannot be counted: no backup fails for that."""
    is_large = export.stat().st_size > FULL_CHECK_BYTES
    findings = integrity.verify(export, f"database {source}", quick=is_large)
    try:
        return findings, row_counts(export)
    except BackupError as error:
        log.warning("the rows of database %s are not counted: %s", source, error)
        return findings, None
