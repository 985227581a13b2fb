"""The drill: a snapshot is proven to be a whole database, without touching anything that is in use."""

import logging
from collections.abc import Mapping

from dodeka_db import database, records, staging
from dodeka_db.database import NotWhole
from dodeka_db.errors import DatabaseError, SnapshotError
from dodeka_db.fetch import fetch
from dodeka_db.repository import Repository, Snapshot
from dodeka_db.settings import Environment, Settings

log = logging.getLogger("dodeka_db")


def drill(settings: Settings, repository: Repository, snapshot: Snapshot, environment: Environment) -> None:
    """Fetch `snapshot` into a folder of its own and check it as a restore would. To be called under the lock.

    Logs the rows of each table beside those of the environment's live database, which is only read, and
    writes down how it ended. Raises SnapshotError if the snapshot is not a whole database.
    """
    with records.failures(settings, job(environment)):
        rows = _prove(settings, repository, snapshot, environment)
    records.passed(settings, job(environment), {"snapshot": snapshot.short_id})
    try:
        live = database.row_counts(environment.database)
    except DatabaseError as error:
        log.warning("nothing to compare it with: %s", error.message)
        live = {}
    for line in _beside(rows, live):
        log.info("%s", line)


def job(environment: Environment) -> str:
    """What the records call the drill of `environment`."""
    return f"drill-{environment.name}"


def _prove(
    settings: Settings, repository: Repository, snapshot: Snapshot, environment: Environment
) -> dict[str, int]:
    with staging.folder(settings) as folder:
        copy = folder / "drill.sqlite"
        with open(copy, "xb") as file:
            fetch(repository, snapshot, folder, file)
        log.info("checking")
        try:
            database.verify(copy, f"the database in snapshot {snapshot.short_id}")
        except NotWhole as error:
            raise SnapshotError(
                error.message, f"verify an older one: make verify ENV={environment.name} SNAPSHOT=..."
            ) from error
        return database.row_counts(copy)


def _beside(rows: Mapping[str, int], live: Mapping[str, int]) -> list[str]:
    names = sorted({*rows, *live})
    lines = [("table", "rows", "live")]
    lines += [(name, str(rows.get(name, "-")), str(live.get(name, "-"))) for name in names]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return [f"{name:<{widths[0]}}  {then:>{widths[1]}}  {now:>{widths[2]}}" for name, then, now in lines]
