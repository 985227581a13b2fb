"""The growth of an environment's snapshots, from a daily sample of their stored size."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dodeka_db.errors import BackupError, RepositoryDamagedError, as_line
from dodeka_db.host import job_records
from dodeka_db.log import log
from dodeka_db.restic.repository import Repository
from dodeka_db.settings import Environment

# a little less than a day, so that the first run of a day takes it
SAMPLE_EVERY = timedelta(hours=23)
LOOK_BACK = timedelta(days=7, hours=12)
SHORTEST = timedelta(hours=12)
KEPT_SAMPLES = 31


def sample(repository: Repository, environment: Environment) -> int | None:
    """Record the stored size, if that was not done within a day; returns the newest one, None if that is not known.

    To be called under the lock.

    Only for make status, so a failure is a warning. Exception: counting reads all snapshots, so RepositoryDamagedError is
    raised; no other daily step would notice the damage.
    """
    now = datetime.now().astimezone()
    try:
        found = samples(repository.settings.state, environment)
        if found and timedelta(0) <= now - found[-1][0] < SAMPLE_EVERY:
            return found[-1][1]
        found.append((now, repository.stored_bytes(environment)))
    except RepositoryDamagedError:
        raise
    except (BackupError, OSError) as error:
        log.warning("the stored size is not known: %s", as_line(error))
        return None
    kept = [[time.isoformat(), size] for time, size in found[-KEPT_SAMPLES:]]
    job_records.passed(repository.settings.state, _job(environment), {"samples": kept})
    return found[-1][1]


def bytes_per_day(state: Path, environment: Environment) -> float | None:
    """The growth over the week before the last sample; None if no other sample is old enough yet."""
    *before, (last, stored_bytes) = samples(state, environment) or [(datetime.max, 0)]
    recent = [(time, size) for time, size in before if SHORTEST <= last - time <= LOOK_BACK]
    if not recent:
        return None
    time, size = recent[0]
    return (stored_bytes - size) / ((last - time) / timedelta(days=1))


def samples(state: Path, environment: Environment) -> list[tuple[datetime, int]]:
    """The samples, the oldest first: their times, and the bytes that the snapshots of `environment` took then."""
    found: Any = job_records.read(state, _job(environment)).details.get("samples", [])
    try:
        return [(datetime.fromisoformat(time).astimezone(), int(size)) for time, size in found]
    except (TypeError, ValueError):
        return []


def _job(environment: Environment) -> str:
    return f"size-{environment.name}"
