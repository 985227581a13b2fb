"""Is all well? One line for each thing that has to be, with what is wrong and the command that mends it.

Looks only: takes no lock, on this machine or in the repository, and changes nothing.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from dodeka_db import (
    cron,
    drill,
    growth,
    installed,
    integrity,
    lock,
    records,
    schedule,
    service,
    swap,
    volume,
)
from dodeka_db.console import ago, size
from dodeka_db.errors import BackupError, RepositoryMissing, WrongPassword, as_line
from dodeka_db.repository import (
    RETENTION,
    Listed,
    Repository,
    check_password_file,
    restic_version,
)
from dodeka_db.settings import ENVIRONMENTS, Environment, Settings

FEW_DAYS = 30
# what the policy keeps at most, and what backups by hand may add until the next cron run
MOST_KEPT = sum(RETENTION.values()) + 20


class State(IntEnum):
    """How a thing is; the number is the exit code."""

    WELL = 0
    BAD = 1
    UNKNOWN = 2


@dataclass(frozen=True)
class Line:
    """One thing: how it is, of which environment (empty: of all), in words; what mends it; figures by name."""

    state: State
    environment: str
    subject: str
    text: str
    mend: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


FIGURES = {
    "newest_snapshot_timestamp_seconds": "When the newest snapshot was taken, in Unix time.",
    "snapshots": "How many snapshots are kept.",
    "pre_restore_snapshots": "How many copies of what restores replaced are kept.",
    "stored_bytes": "What the snapshots take in the repository.",
    "growth_bytes_per_day": "How fast that has grown over the last week.",
    "cron_success_timestamp_seconds": "When a cron run last did all it should, in Unix time.",
    "drill_success_timestamp_seconds": "When a drill last passed, in Unix time.",
    "check_success_timestamp_seconds": "When the repository's check last passed, in Unix time.",
    "volume_free_bytes": "What is free on the repository's volume.",
    "volume_days_left": "For how many days that lasts at the present growth.",
    "state_free_bytes": "What is free where exports are written.",
}


def overall(lines: Sequence[Line]) -> State:
    """BAD if anything is, else UNKNOWN if anything is, else WELL."""
    states = {line.state for line in lines}
    return State.BAD if State.BAD in states else max(states)


def look(settings: Settings) -> list[Line]:
    """Everything, the worst first."""
    lines = list(_everything(settings))
    worst = (State.BAD, State.UNKNOWN, State.WELL)
    return sorted(lines, key=lambda line: worst.index(line.state))


def _everything(settings: Settings) -> Iterator[Line]:
    environments = [settings.environment(name) for name in ENVIRONMENTS]
    restic = _guarded("", "restic", lambda: _restic(settings))
    yield restic
    password = _guarded("", "password", lambda: _password(settings))
    yield password
    if restic.state is password.state is State.WELL:
        opened, line = _open(settings)
    else:
        opened, line = None, Line(State.UNKNOWN, "", "repository", "not opened, for what is wrong above")
    yield line
    rates = []
    for environment in environments:
        if opened:
            repository, listed = opened
            ours = [snapshot for snapshot in listed if snapshot.environment == environment.name]
            yield _guarded(environment.name, "snapshots", lambda: _snapshots(environment, ours))
            line, rate = _size(settings, repository, environment, bool(ours))
            yield line
            rates.append(rate)
        else:
            text = "cannot be seen: the repository does not open"
            yield Line(State.UNKNOWN, environment.name, "snapshots", text)
        yield _guarded(environment.name, "cron", lambda: _cron(settings, environment))
        yield _guarded(environment.name, "drill", lambda: _drill(settings, environment))
        yield _guarded(environment.name, "service", lambda: _service(settings, environment))
        yield _guarded(environment.name, "kept files", lambda: _kept(environment))
    yield _guarded("", "check", lambda: _check(settings))
    if settings.local_repository:
        yield _guarded("", "volume", lambda: _volume(settings, environments, rates))
    yield _guarded("", "state folder", lambda: _state_folder(settings, environments))
    yield _guarded("", "lock", lambda: _lock(settings))
    if opened:
        yield _guarded("", "restic's locks", lambda: _restic_locks(repository))
    yield _guarded("", "crontab", _crontab)
    yield _guarded("", "logrotate", _logrotate)


def _guarded(environment: str, subject: str, look_at: Callable[[], tuple]) -> Line:
    try:
        state, *rest = look_at()
    except (BackupError, OSError, ValueError, KeyError) as error:
        return Line(State.UNKNOWN, environment, subject, as_line(error))
    return Line(state, environment, subject, *rest)


def _restic(settings: Settings) -> tuple:
    try:
        major, minor = restic_version(settings)
    except BackupError as error:
        return State.BAD, error.message, error.hint if shutil.which(settings.restic) else "make setup"
    return State.WELL, f"{major}.{minor}, {settings.restic}"


def _password(settings: Settings) -> tuple:
    if settings.password_file is None:
        return State.WELL, "not in a file"
    try:
        check_password_file(settings)
    except BackupError as error:
        return State.BAD, error.message, error.hint
    return State.WELL, f"{settings.password_file}, for its owner alone"


def _open(settings: Settings) -> tuple[tuple[Repository, list[Listed]] | None, Line]:
    try:
        repository = Repository(settings, locking=False)
        opened = repository, repository.listed()
        return opened, Line(State.WELL, "", "repository", f"{settings.repository_shown} opens")
    except RepositoryMissing as error:
        where = settings.local_repository
        text = f"{error.message} (for a first one: make init)"
        mend = f"sudo mount {where.parent}" if where else "make init"
    except WrongPassword as error:
        text, mend = error.message, f"put the right one back into {settings.password_file}, then chmod 600 it"
    except BackupError as error:
        text, mend = error.message, error.hint or "make check"
    return None, Line(State.BAD, "", "repository", text, mend)


def _snapshots(environment: Environment, listed: Sequence[Listed]) -> tuple:
    ordinary = [snapshot for snapshot in listed if not snapshot.is_pre_restore]
    figures = {"snapshots": len(ordinary), "pre_restore_snapshots": len(listed) - len(ordinary)}
    if not ordinary:
        return State.BAD, "there is none yet", f"make backup ENV={environment.name}", figures
    newest = ordinary[-1]
    figures["newest_snapshot_timestamp_seconds"] = newest.time.timestamp()
    kept = f"{len(ordinary)} kept, and {len(listed) - len(ordinary)} of what restores replaced"
    age = _now() - newest.time
    if listed[-1].time > _now() + schedule.CLOCK_TOLERANCE:
        text = f"{listed[-1].short_id} is from the future (timedatectl), so nothing is removed; {kept}"
        return State.BAD, text, f"restic forget {listed[-1].short_id}", figures
    text = f"the newest, {newest.short_id}, was taken {_ago(newest.time)}; {kept}"
    if age > schedule.BACKUP_OVERDUE:
        return State.BAD, text, f"make cron ENV={environment.name}", figures
    # each host and set of tags is a group of its own for the policy
    groups = Counter((snapshot.host, snapshot.tags) for snapshot in listed)
    if max(groups.values()) > MOST_KEPT:
        return (
            State.BAD,
            f"{text}: more than the retention keeps",
            f"make cron ENV={environment.name}",
            figures,
        )
    return State.WELL, text, "", figures


def _size(
    settings: Settings, repository: Repository, environment: Environment, any_there: bool
) -> tuple[Line, float | None]:
    try:
        stored = repository.stored_bytes(environment) if any_there else 0
        rate = growth.bytes_per_day(settings, environment, stored)
    except (BackupError, ValueError, KeyError) as error:
        return Line(State.UNKNOWN, environment.name, "size", as_line(error)), None
    figures = {"stored_bytes": stored}
    if rate is None:
        text = f"{size(stored)} stored; the growth is known after a day"
    else:
        figures["growth_bytes_per_day"] = rate
        text = f"{size(stored)} stored, {'+' if rate >= 0 else '-'}{size(abs(int(rate)))} a day"
    return Line(State.WELL, environment.name, "size", text, "", figures), rate


def _cron(settings: Settings, environment: Environment) -> tuple:
    return _job(
        records.read(settings, cron.job(environment)),
        "run",
        schedule.BACKUP_OVERDUE.total_seconds(),
        f"make cron ENV={environment.name}",
        "cron_success_timestamp_seconds",
    )


def _drill(settings: Settings, environment: Environment) -> tuple:
    record = records.read(settings, drill.job(environment))
    scheduled = environment.name in schedule.DRILLED
    if not scheduled and not record.passed and not record.failed:
        return State.WELL, "none yet, and none is scheduled"
    state, text, *rest = _job(
        record,
        "drill",
        schedule.WEEKLY_OVERDUE.total_seconds() if scheduled else None,
        f"make verify ENV={environment.name}",
        "drill_success_timestamp_seconds",
    )
    if snapshot := record.details.get("snapshot"):
        text += f" (snapshot {snapshot})"
    return state, text, *rest


def _check(settings: Settings) -> tuple:
    state, text, *rest = _job(
        records.read(settings, integrity.JOB),
        "check",
        schedule.WEEKLY_OVERDUE.total_seconds(),
        "make check",
        "check_success_timestamp_seconds",
    )
    since = integrity.all_read_since(settings)
    text += f"; all data was read within {_ago(since, '')}" if since else "; not all data has been read yet"
    return state, text, *rest


def _job(record: records.Record, what: str, overdue_s: float | None, command: str, figure: str) -> tuple:
    figures = {figure: record.passed.timestamp()} if record.passed else {}
    good = (
        f"the last good {what} was {_ago(record.passed)}" if record.passed else f"no good {what} is on record"
    )
    if record.failed:
        return State.BAD, f"failed {_ago(record.failed)}: {record.error}; {good}", command, figures
    if not record.passed:
        return State.BAD, good, command, figures
    if overdue_s is not None and (_now() - record.passed).total_seconds() > overdue_s:
        return State.BAD, good, command, figures
    return State.WELL, good, "", figures


def _service(settings: Settings, environment: Environment) -> tuple:
    unit = service.of(settings, environment)
    if not unit.managed:
        return State.WELL, "none is managed here"
    state = unit.state()
    if state == "active":
        return State.WELL, f"{unit.unit} is active"
    left = ", a restore left it stopped" if unit.mark.exists() else ""
    return State.BAD, f"{unit.unit} is {state}{left}", f"sudo systemctl start {unit.unit}"


def _kept(environment: Environment) -> tuple:
    damaged = swap.damaged_files(environment.live)
    if damaged:
        text = f"a restore replaced a damaged database, kept as {damaged[-1]} until you need it no more"
        return State.BAD, text, f"rm {damaged[-1]}*"
    kept = swap.kept_files(environment.live)
    if kept:
        text = f"what a restore replaced is in no snapshot yet: {kept[-1]}"
        return State.BAD, text, f"make backup ENV={environment.name}"
    return State.WELL, "no file of a restore is left"


def _volume(settings: Settings, environments: Sequence[Environment], rates: Sequence[float | None]) -> tuple:
    repository = settings.local_repository
    point = volume.mount_point(repository)
    room = _rooms(settings, environments)[1]
    figures = {"volume_free_bytes": room.free_bytes}
    text = f"{point}, {size(room.free_bytes)} free"
    days = None
    if rates and None not in rates and (rate := sum(rates)) > 0:
        days = figures["volume_days_left"] = room.free_bytes / rate
        text += f", enough for {days:.0f} days" if days < 1000 else ", enough for years"
    if not volume.is_of_its_own(settings):
        text = f"the repository is on the disk of the databases ({point}): no volume is mounted there"
        return State.BAD, text, f"sudo mount {repository.parent}", figures
    if volume.is_read_only(settings):
        text = f"{point} is mounted read-only (dmesg says why)"
        return State.BAD, text, f"sudo mount -o remount,rw {point}", figures
    if not room.is_enough or (days is not None and days < FEW_DAYS):
        return State.BAD, text, f"{room.remedy} (df -h {point})", figures
    return State.WELL, text, "", figures


def _state_folder(settings: Settings, environments: Sequence[Environment]) -> tuple:
    room = _rooms(settings, environments)[0]
    figures = {"state_free_bytes": room.free_bytes}
    text = f"{room.folder}, {size(room.free_bytes)} free, a backup may need {size(room.needed_bytes)}"
    if not room.is_enough:
        return State.BAD, text, f"free some (df -h {room.folder}), or {room.remedy}", figures
    return State.WELL, text, "", figures


def _rooms(settings: Settings, environments: Sequence[Environment]) -> list[volume.Room]:
    databases = [environment.database for environment in environments]
    return volume.rooms(settings, max(path.stat().st_size if path.exists() else 0 for path in databases))


def _lock(settings: Settings) -> tuple:
    holder = lock.holder(settings.state)
    if holder is None:
        return State.WELL, "nothing runs"
    text = f"{holder.doing}, process {holder.process}, since {_ago(holder.since)}"
    if _now() - holder.since > schedule.BACKUP_OVERDUE:
        return State.BAD, f"{text}: it hangs", f"kill {holder.process}"
    return State.WELL, text


def _restic_locks(repository: Repository) -> tuple:
    locks = repository.locks()
    shown = ", ".join(f"PID {one.process} on {one.host}" for one in locks)
    if any(one.is_stale for one in locks):
        return (
            State.BAD,
            f"left by a restic that was killed: {shown}",
            "restic unlock",
        )
    return State.WELL, f"held by {shown}" if locks else "none"


def _crontab() -> tuple:
    try:
        missing = installed.missing_jobs()
    except BackupError as error:
        return State.BAD, error.message, "make install"
    if missing:
        text = f"{len(missing)} of the {len(installed.jobs())} shipped lines are not in it"
        return State.BAD, text, "make install"
    return State.WELL, "as shipped"


def _logrotate() -> tuple:
    if not installed.logrotate_is_installed():
        return State.BAD, f"{installed.LOGROTATE} is not as shipped", "make install"
    return State.WELL, "as shipped"


def _ago(moment: datetime, word: str = " ago") -> str:
    shown = ago(moment)
    return shown if shown == "in the future" else f"{shown}{word}"


def _now() -> datetime:
    return datetime.fromtimestamp(time.time()).astimezone()
