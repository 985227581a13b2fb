"""The repository's own check, with a part of the data read each time: all of it within four checks."""

import logging
from datetime import datetime

from dodeka_db import records, staging
from dodeka_db.repository import Repository
from dodeka_db.settings import Settings

log = logging.getLogger("dodeka_db")
JOB = "check"
# one a week: all data is read every four weeks. restic divides by a pack's ID, so that a pack stays in its part
PARTS = 4


def check(settings: Settings, repository: Repository) -> None:
    """Check the structure, read the part of the data that was read longest ago, and write that down.

    To be called under the lock. Raises RepositoryDamaged, and the next check reads the same part again.
    """
    read = _read(settings)
    part = min(range(1, PARTS + 1), key=lambda number: read.get(str(number), ""))
    log.info("checking %s, and reading part %d of %d of its data", settings.repository_shown, part, PARTS)
    with records.failures(settings, JOB), staging.folder(settings) as folder:
        repository.check(part, PARTS, folder)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    records.passed(settings, JOB, {"read": {**read, str(part): now}})


def all_read_since(settings: Settings) -> datetime | None:
    """Since when every part has been read; None if some has not yet."""
    read = _read(settings)
    return datetime.fromisoformat(min(read.values())) if len(read) == PARTS else None


def _read(settings: Settings) -> dict[str, str]:
    return dict(records.read(settings, JOB).details.get("read", {}))
