"""make check: the repository's own check, with a part of the data read each time: all of it within four checks."""

from datetime import datetime
from pathlib import Path
from typing import Any

from dodeka_db.flows import offsite
from dodeka_db.host import job_records, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository

JOB = "check"
# one a week: all data is read every four weeks. restic divides by a pack's ID, so that a pack stays in its part
PARTS = 4
NEVER = datetime.fromtimestamp(0).astimezone()


def run(main: RepositorySettings) -> None:
    """Check the structure, read the part of the data that was read longest ago, and record the result.

    Raises RepositoryDamagedError, and the next check reads the same part again.
    """
    with job_records.failures(main.state, JOB):
        doing = "check of the repository"
        with offsite.copying_excluded(main, doing), staging.locked(main, doing):
            repository = Repository(main)
            read = _read(main.state)
            part = min(range(1, PARTS + 1), key=lambda number: read.get(number, NEVER))
            log.info("checking %s, and reading part %d of %d of its data", main.shown, part, PARTS)
            with staging.folder(main) as folder:
                repository.check(part, PARTS, folder)
            read[part] = datetime.now().astimezone()
            details = {str(number): time.isoformat(timespec="seconds") for number, time in read.items()}
            job_records.passed(main.state, JOB, {"read": details})


def all_read_since(state: Path) -> datetime | None:
    """The time since which every part has been read, by the records in `state`; None if one was never read."""
    read = _read(state)
    return min(read.values()) if len(read) == PARTS else None


def _read(state: Path) -> dict[int, datetime]:
    """The time at which each part was read; without those that a wrong clock has put into the future."""
    found: Any = job_records.read(state, JOB).details.get("read")
    try:
        times = {int(number): datetime.fromisoformat(time).astimezone() for number, time in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return {number: time for number, time in times.items() if time <= datetime.now().astimezone()}
