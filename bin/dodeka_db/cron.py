"""What cron runs: a snapshot that is read back, then the retention policy."""

import logging
from dataclasses import dataclass
from datetime import datetime

from dodeka_db import growth, lock, records, schedule, staging
from dodeka_db.backup import Taken, take_snapshot
from dodeka_db.errors import BackupError, as_line
from dodeka_db.interrupts import Interrupted
from dodeka_db.recovery import recover
from dodeka_db.repository import Listed, Repository
from dodeka_db.settings import Environment, Settings

log = logging.getLogger("dodeka_db")


@dataclass(frozen=True)
class Done:
    """The snapshot that was taken, and how many old ones were removed."""

    taken: Taken
    removed: int


def run(settings: Settings, environment: Environment) -> Done:
    """Take a snapshot and apply the retention policy, and write down how that ended.

    Raises Busy when another run holds the lock until the next one is due, and whatever a step raises; a
    failure after the snapshot was stored says so.
    """
    due = schedule.seconds_until_next(environment.name, datetime.now())
    with records.failures(settings, job(environment)):
        repository = Repository(settings)
        doing, wait_s = f"cron run of {environment.name}", min(settings.lock_wait_s, due)
        with lock.held(staging.state_folder(settings), doing, wait_s):
            recover(settings)
            taken = take_snapshot(settings, repository, environment, read_back=True)
            log.info("snapshot %s is stored; applying the retention policy", taken.snapshot_id)
            removed = _retain(repository, environment, taken)
            growth.sample(settings, repository, environment)
        records.passed(settings, job(environment))
    return Done(taken, removed)


def job(environment: Environment) -> str:
    """What the records call the cron run of `environment`."""
    return f"cron-{environment.name}"


def _retain(repository: Repository, environment: Environment, taken: Taken) -> int:
    try:
        future = _newest_from_the_future(repository, environment)
        if not future:
            return repository.forget(environment)
    except (BackupError, OSError) as error:
        message = f"snapshot {taken.snapshot_id} is safe, but the retention failed: {as_line(error)}"
        kind = type(error) if isinstance(error, BackupError) else BackupError
        raise kind(message) from error
    except Interrupted as interruption:
        interruption.note = f"snapshot {taken.snapshot_id} is safe, but the retention was not applied"
        raise
    log.warning(
        "snapshot %s is from the future (%s): nothing is removed until that is mended;"
        " check the clock (timedatectl), then: restic forget %s",
        future.short_id,
        future.time.isoformat(timespec="seconds"),
        future.short_id,
    )
    return 0


def _newest_from_the_future(repository: Repository, environment: Environment) -> Listed | None:
    # it counts as the latest: the policy would have the true latest removed
    limit = datetime.now().astimezone() + schedule.CLOCK_TOLERANCE
    found = [one for one in repository.listed() if one.environment == environment.name and one.time > limit]
    return found[-1] if found else None
