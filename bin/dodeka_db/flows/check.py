"""The repository's own check, with a part of the data read each time: all of it within four checks."""

import logging
from datetime import datetime

from dodeka_db.flows import offsite
from dodeka_db.host import job_records, run_lock, staging
from dodeka_db.restic.repository import Repository
from dodeka_db.settings import Settings

log = logging.getLogger("dodeka_db")
JOB = "check"
# one a week: all data is read every four weeks. restic divides by a pack's ID, so that a pack stays in its part
PARTS = 4
NEVER = datetime.fromtimestamp(0).astimezone()


def run(settings: Settings) -> None:
    """Check the structure, read the part of the data that was read longest ago, and write down how that ended.

    Raises RepositoryDamaged, and the next check reads the same part again.
    """
    with job_records.failures(settings, JOB):
        doing = "check of the repository"
        with (
            offsite.without_copy(settings, doing),
            run_lock.held(staging.state_folder(settings), doing, settings.lock_wait_s),
        ):
            repository = Repository(settings)
            read = _read(settings)
            part = min(range(1, PARTS + 1), key=lambda number: read.get(number, NEVER))
            log.info(
                "checking %s, and reading part %d of %d of its data", settings.repository_shown, part, PARTS
            )
            with staging.folder(settings) as folder:
                repository.check(part, PARTS, folder)
            read[part] = datetime.now().astimezone()
            details = {str(number): time.isoformat(timespec="seconds") for number, time in read.items()}
            job_records.passed(settings, JOB, {"read": details})


def all_read_since(settings: Settings) -> datetime | None:
    """Since when every part has been read; None if some has not yet."""
    read = _read(settings)
    return min(read.values()) if len(read) == PARTS else None


def _read(settings: Settings) -> dict[int, datetime]:
    """When each part was read; without those that a wrong clock has put into the future."""
    found = job_records.read(settings, JOB).details.get("read")
    try:
        times = {int(number): datetime.fromisoformat(time).astimezone() for number, time in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return {number: time for number, time in times.items() if time <= datetime.now().astimezone()}
