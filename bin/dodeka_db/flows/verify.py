"""make verify, the drill: prove that a snapshot is a whole database, without touching anything that is in use."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.errors import BackupError, BusyError, DatabaseError, SnapshotError
from dodeka_db.flows.download import shown, to_new_file
from dodeka_db.formatting import cell, columns, when
from dodeka_db.host import job_records, run_lock, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import LATEST, Snapshot, newest, of_environment, resolve
from dodeka_db.settings import Environment
from dodeka_db.sqlite import integrity, member_rows
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.failures import NotWholeError
from dodeka_db.sqlite.integrity import Findings
from dodeka_db.sqlite.row_counts import row_counts

# so many lines at most are about what deploy/data.toml and the database do not share
MAX_UNDESCRIBED = 10


def run(settings: RepositorySettings, environment: Environment, wanted: str | datetime) -> str:
    """Fetch a snapshot into a new folder, check it as a restore would, and return in words what is proven.

    What deploy/data.toml and the database do not share is a warning.

    `wanted` is what snapshots.resolve() takes. Logs the rows of each table beside those of the environment's live database,
    which is only read. Only the result for the newest snapshot is recorded: an older one says nothing about today's backups.
    (Nothing reads the record of the off-site repository.) Raises SnapshotError if there is no such snapshot, or it is not a
    whole database.
    """
    with job_records.failures(settings.state, job(environment)) if wanted == LATEST else nullcontext():
        with staging.locked(settings, f"drill of {environment.name}"):
            repository = Repository(settings)
            snapshots = repository.snapshots()
            snapshot = resolve(settings, snapshots, environment.name, wanted)
            with _fetched(repository, snapshot) as (copy, findings):
                rows = row_counts(copy)
                _warn_of_undescribed(snapshot, copy)
        if snapshot == newest(of_environment(snapshots, environment.name)):
            defects = {"defects": findings.defects_shown} if findings.defects else {}
            job_records.passed(settings.state, job(environment), {"snapshot": snapshot.short_id, **defects})
    try:
        with run_lock.beside(environment.live, settings.lock_wait_s):
            live = row_counts(environment.database)
    except (DatabaseError, BusyError) as error:
        log.warning("the rows are not compared with the live database: %s", error.message)
        live = {}
    for line in _beside(rows, live):
        log.info("%s", line)
    return f"snapshot {snapshot.short_id} ({snapshot.format}) of {when(snapshot.time)} is a whole database"


def job(environment: Environment) -> str:
    """The name of the drill of `environment` in the records."""
    return f"drill-{environment.name}"


def prove(repository: Repository, snapshot: Snapshot) -> dict[str, int | None]:
    """Fetch `snapshot`, without restic's cache, and check it as a restore would; returns the rows of each table.

    Defects are warnings. To be called under the lock. Raises SnapshotError if it is not a database that can be read through.
    """
    with _fetched(repository, snapshot) as (copy, _):
        return row_counts(copy)


@contextmanager
def _fetched(repository: Repository, snapshot: Snapshot) -> Iterator[tuple[Path, Findings]]:
    with staging.folder(repository.settings) as folder:
        copy = to_new_file(repository, snapshot, folder / "drill.sqlite", cached=False)
        yield copy, check(repository, snapshot, copy)


def _warn_of_undescribed(snapshot: Snapshot, copy: Path) -> None:
    """Warn of what deploy/data.toml and the database in `copy` do not share. No drill fails because they cannot be compared."""
    try:
        description = data_description.read()
        with opened(copy, "mode=ro", shown(snapshot)) as connection:
            found = member_rows.findings(connection, description)
    except BackupError as error:
        log.warning("%s is not compared with deploy/data.toml: %s", shown(snapshot), error)
        return
    for finding in found[:MAX_UNDESCRIBED]:
        log.warning("deploy/data.toml, table %s: %s", cell(finding.table), cell(finding.problem))
    if len(found) > MAX_UNDESCRIBED:
        log.warning("deploy/data.toml: and %s more", len(found) - MAX_UNDESCRIBED)


def check(repository: Repository, snapshot: Snapshot, copy: Path) -> Findings:
    """Check the `copy` of `snapshot` as a restore would; the defects are warnings too.

    Raises SnapshotError if it is not a database that can be read through.
    """
    log.info("checking")
    try:
        findings = integrity.verify(copy, shown(snapshot))
    except NotWholeError as error:
        older = repository.settings.make(f"verify ENV={snapshot.environment} SNAPSHOT=...")
        raise SnapshotError(error.message, f"try an older snapshot: {older}") from error
    for line in findings.lines():
        log.warning("%s: %s", shown(snapshot), line)
    return findings


def _beside(rows: Mapping[str, int | None], live: Mapping[str, int | None]) -> list[str]:
    names = sorted({*rows, *live})
    lines = [(name, _shown(rows.get(name, "-")), _shown(live.get(name, "-"))) for name in names]
    return columns([("table", "rows", "live"), *lines], "<>>")


def _shown(count: int | str | None) -> str:
    return "?" if count is None else str(count)
