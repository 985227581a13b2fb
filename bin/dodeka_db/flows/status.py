"""Is all well? One line for each thing that has to be, with what is wrong and the command that fixes it.

Looks only: takes no lock, on this machine or in the repository, and changes nothing.
"""

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path

from dodeka_db import places, schedule
from dodeka_db.console import ago, size
from dodeka_db.errors import BackupError, RepositoryDamaged, RepositoryMissing, WrongPassword, as_line
from dodeka_db.flows import check, cron, growth, keys, offsite, verify
from dodeka_db.host import disks, installed, job_records, run_lock, service
from dodeka_db.restic import failures
from dodeka_db.restic.repository import (
    NO_COMPRESSION,
    RETENTION,
    UPGRADE,
    Repository,
    Snapshot,
    check_password_file,
    of_the_past,
)
from dodeka_db.restic.runner import version as restic_version
from dodeka_db.settings import ENVIRONMENTS, Environment, Settings
from dodeka_db.sqlite import swap

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
    """One thing: how it is, of which environment (empty: of all), in words; what fixes it; figures by name."""

    state: State
    environment: str
    subject: str
    text: str
    fix: str = ""
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
    "offsite_success_timestamp_seconds": "When the off-site copy last passed, in Unix time.",
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
    there = settings.offsite
    places_there = [there.password_file, there.local_repository] if there else []
    where, databases = settings.local_repository, [environment.database for environment in environments]
    hung = places.silent(filter(None, [*settings.places, *places_there]))

    def of_places(environment: str, subject: str, look_at: Callable[[], tuple], *needed: Path | None) -> Line:
        for place in needed:
            if place in hung:
                text = f"{place} does not answer within {places.ANSWER_S} s"
                return Line(State.BAD, environment, subject, text, places.HINT)
        return _guarded(environment, subject, look_at)

    restic = _guarded("", "restic", lambda: _restic(settings))
    yield restic
    password = of_places("", "password", lambda: _password(settings), settings.password_file)
    yield password
    repository = Repository(settings, locking=False) if restic.state is password.state is State.WELL else None
    listed: list[Snapshot] = []
    line = of_places("", "repository", lambda: _repository(settings, repository, listed), where)
    yield line
    can_be_read = line.state is State.WELL or bool(repository and repository.unreadable)
    if can_be_read and settings.format == "pages":
        yield _guarded("", "format", lambda: _format(repository))
    rates: list[float] = []
    for environment in environments:
        name = environment.name
        if can_be_read:
            ours = [snapshot for snapshot in listed if snapshot.environment == name]
            yield _guarded(name, "snapshots", lambda: _snapshots(settings, environment, ours))
            yield of_places(
                name, "size", lambda: _size(settings, repository, environment, ours, rates), settings.state
            )
        else:
            yield Line(State.UNKNOWN, name, "snapshots", "cannot be seen: the repository does not open")
        yield of_places(name, "cron", lambda: _cron(settings, environment), settings.state)
        yield of_places(name, "drill", lambda: _drill(settings, environment), settings.state)
        yield of_places(name, "service", lambda: _service(settings, environment), environment.database)
        yield of_places(name, "kept files", lambda: _kept(settings, environment), environment.database)
    yield of_places("", "key files", lambda: _key_files(settings), settings.state)
    yield of_places("", "check", lambda: _check(settings), settings.state)
    yield of_places("", "off-site copy", lambda: _offsite(settings), settings.state, where, *places_there)
    if where:
        rate = sum(rates) if len(rates) == len(environments) else None
        yield of_places("", "volume", lambda: _volume(settings, where, environments, rate), where, *databases)
    yield of_places(
        "", "state folder", lambda: _state_folder(settings, environments), settings.state, *databases
    )
    yield of_places("", "lock", lambda: _lock(settings), settings.state)
    if can_be_read:
        yield _guarded("", "restic's locks", lambda: _restic_locks(settings, repository))
    yield _guarded("", "crontab", _crontab)
    yield _guarded("", "logrotate", _logrotate)
    yield _guarded("", "user", lambda: _user(settings, environments))


def _guarded(environment: str, subject: str, look_at: Callable[[], tuple]) -> Line:
    try:
        state, *rest = look_at()
    except RepositoryDamaged as error:
        return Line(State.BAD, environment, subject, error.message, error.hint)
    except Exception as error:  # one odd thing must not take the whole screen away
        return Line(State.UNKNOWN, environment, subject, as_line(error))
    return Line(state, environment, subject, *rest)


def _restic(settings: Settings) -> tuple:
    try:
        major, minor = restic_version(settings)
    except BackupError as error:
        return State.BAD, error.message, error.hint if shutil.which(settings.restic) else "make setup"
    return State.WELL, f"{major}.{minor}, {settings.restic}"


def _password(settings: Settings) -> tuple:
    file = settings.password_file
    if file is None:
        return State.WELL, "not in a file"
    try:
        check_password_file(settings)
    except BackupError as error:
        if file.exists():
            return State.BAD, error.message, error.hint
        return State.BAD, error.message, _bring_back(settings, file)
    return State.WELL, f"{file}, for its owner alone"


def _bring_back(settings: Settings, missing: Path) -> str:
    if _is_mounted(settings):
        return (
            f"put {missing} back (BACKUP.md, 'Password'); where there was never one: {settings.make('init')}"
        )
    return f"sudo mount {missing.parent}"


def _is_mounted(settings: Settings) -> bool:
    databases = [settings.environment(name).live for name in ENVIRONMENTS]
    repository = settings.local_repository
    return repository is None or disks.is_of_its_own(repository, databases)


def _repository(settings: Settings, repository: Repository | None, listed: list[Snapshot]) -> tuple:
    if repository is None:
        return State.UNKNOWN, "not opened, for what is wrong with restic or the password"
    try:
        listed += repository.listed()
    except RepositoryMissing as error:
        where = settings.local_repository
        if where and not _is_mounted(settings):
            return State.BAD, error.message, f"sudo mount {where.parent}"
        return (
            State.BAD,
            error.message,
            f"bring it back, or where there was never one: {settings.make('init')}",
        )
    except WrongPassword as error:
        return State.BAD, error.message, "put the right password back (BACKUP.md, 'Password')"
    except BackupError as error:
        if settings.local_repository is None:
            return State.UNKNOWN, error.message  # the network, perhaps
        return State.BAD, error.message, error.hint or "see what restic says: BACKUP.md, 'Errors'"
    if repository.unreadable:
        ids = ", ".join(one[:8] for one in repository.unreadable)
        return (
            State.BAD,
            f"{settings.repository_shown} opens, but snapshot {ids} is damaged",
            f"see {failures.DAMAGED}",
        )
    return State.WELL, f"{settings.repository_shown} opens"


def _format(repository: Repository) -> tuple:
    config = repository.config()
    if config and config.format == 1:
        return State.BAD, NO_COMPRESSION, UPGRADE
    return State.WELL, "pages, and the repository compresses"


def _snapshots(settings: Settings, environment: Environment, listed: Sequence[Snapshot]) -> tuple:
    ordinary = [snapshot for snapshot in listed if not snapshot.is_pre_restore]
    figures = {"snapshots": len(ordinary), "pre_restore_snapshots": len(listed) - len(ordinary)}
    if not ordinary:
        return State.BAD, "there is none yet", settings.make(f"backup ENV={environment.name}"), figures
    kept = f"{len(ordinary)} kept, and {len(listed) - len(ordinary)} of what restores replaced"
    past = of_the_past(ordinary)
    newest = past[-1] if past else None
    if newest:
        figures["newest_snapshot_timestamp_seconds"] = newest.time.timestamp()
    future = [snapshot.short_id for snapshot in listed if snapshot not in of_the_past(listed)]
    if future:
        text = f"{', '.join(future)} from the future, so nothing is removed; {kept}"
        forget = settings.make(f"restic ARGS='forget {' '.join(future)}'")
        return State.BAD, text, f"timedatectl; if the clock is right: {forget}", figures
    text = f"the newest, {newest.short_id}, was taken {_age(newest.time)} ago; {kept}"
    if _now() - newest.time > schedule.BACKUP_OVERDUE:
        return State.BAD, text, settings.make(f"cron ENV={environment.name}"), figures
    # each set of tags is a group of its own for the policy
    groups = Counter(snapshot.tags for snapshot in ordinary)
    if max(groups.values()) > MOST_KEPT:
        text += ": more than the retention keeps"
        return State.BAD, text, settings.make(f"cron ENV={environment.name}"), figures
    return State.WELL, text, "", figures


def _size(
    settings: Settings,
    repository: Repository,
    environment: Environment,
    listed: Sequence[Snapshot],
    rates: list[float],
) -> tuple:
    stored = repository.stored_bytes(environment) if listed else 0
    rate = growth.bytes_per_day(settings, environment, stored)
    if rate is None:
        text = f"{size(stored)} stored; the growth is known after a day"
        return State.WELL, text, "", {"stored_bytes": stored}
    rates.append(rate)
    text = f"{size(stored)} stored, {'+' if rate >= 0 else '-'}{size(abs(int(rate)))} a day"
    return State.WELL, text, "", {"stored_bytes": stored, "growth_bytes_per_day": rate}


def _cron(settings: Settings, environment: Environment) -> tuple:
    return _job(
        job_records.read(settings, cron.job(environment)),
        "run",
        schedule.BACKUP_OVERDUE.total_seconds(),
        settings.make(f"cron ENV={environment.name}"),
        "cron_success_timestamp_seconds",
    )


def _drill(settings: Settings, environment: Environment) -> tuple:
    record = job_records.read(settings, verify.job(environment))
    scheduled = environment.name in schedule.DRILLED
    if not scheduled and not record.passed and not record.failed:
        return State.WELL, "none yet, and none is scheduled"
    state, text, *rest = _job(
        record,
        "drill",
        schedule.WEEKLY_OVERDUE.total_seconds() if scheduled else None,
        settings.make(f"verify ENV={environment.name}"),
        "drill_success_timestamp_seconds",
    )
    if snapshot := record.details.get("snapshot"):
        text += f" (snapshot {snapshot})"
    if state is State.WELL and (defects := record.details.get("defects")):
        text, rest[0] = (
            f"{text}; its database has defects: {defects}",
            "see BACKUP.md, 'The database has defects'",
        )
        state = State.BAD
    return state, text, *rest


def _key_files(settings: Settings) -> tuple:
    if left := [str(file) for one in (settings, settings.offsite) if one for file in keys.left_files(one)]:
        text = f"the password of a key was never handed over, or left behind: {', '.join(left)}"
        return State.BAD, text, f"hand it over, then: rm {shlex.join(left)}"
    return State.WELL, "no password of a key is left"


def _check(settings: Settings) -> tuple:
    state, text, *rest = _job(
        job_records.read(settings, check.JOB),
        "check",
        schedule.WEEKLY_OVERDUE.total_seconds(),
        settings.make("check"),
        "check_success_timestamp_seconds",
    )
    since = check.all_read_since(settings)
    text += f"; all data was read within {_age(since)}" if since else "; not all data has been read yet"
    return state, text, *rest


def _offsite(settings: Settings) -> tuple:
    there = settings.offsite
    if there is None:
        return State.WELL, "none: OFFSITE_REPOSITORY is not set"
    try:
        check_password_file(there)
    except BackupError as error:
        return State.BAD, error.message, error.hint
    record = offsite.last(settings)
    state, text, *rest = _job(
        record,
        "copy",
        schedule.OFFSITE_OVERDUE.total_seconds(),
        settings.make("offsite"),
        "offsite_success_timestamp_seconds",
    )
    if holder := run_lock.holder(there.state):
        text += f"; {holder.doing} is at work (process {holder.process}), for {_age(holder.since)}"
        if _now() - holder.since > schedule.OFFSITE_OVERDUE:
            return State.BAD, text, f"see its output; if it stands still: kill {holder.process}"
    if record.passed and "is_removable" in record.details:
        can = "can be removed from here: BACKUP.md, 'Off-site'"
        text += f"; what is there {can if record.details['is_removable'] else 'cannot be removed from here'}"
    text += f" ({there.repository_shown})"
    main, second = settings.local_repository, there.local_repository
    if main and second and disks.are_on_one_disk(main, second):
        fix, *figures = rest
        text += f"; that is on the disk of {main}: what takes the one takes the other"
        return State.BAD, text, fix or "a place elsewhere: BACKUP.md, 'Off-site'", *figures
    return state, text, *rest


def _job(record: job_records.Record, what: str, overdue_s: float | None, command: str, figure: str) -> tuple:
    if record.passed and _is_future(record.passed):
        return State.BAD, f"the last good {what} is in the future", f"timedatectl; then: {command}"
    figures = {figure: record.passed.timestamp()} if record.passed else {}
    good = (
        f"the last good {what} was {_age(record.passed)} ago"
        if record.passed
        else f"no good {what} is on record"
    )
    if record.failed:
        text = f"failed {_age(record.failed)} ago: {record.error}; {good}"
        return State.BAD, text, f"see what failed; then: {command}", figures
    if not record.passed:
        return State.BAD, good, command, figures
    if overdue_s is not None and (_now() - record.passed).total_seconds() > overdue_s:
        return State.BAD, good, command, figures
    return State.WELL, good, "", figures


def _service(settings: Settings, environment: Environment) -> tuple:
    unit = service.of(settings, environment)
    if not unit.managed:
        return State.WELL, "none is managed here"
    now = unit.look()
    state = now.state if now.load == "loaded" else now.load
    if state == "active":
        stray = unit.strays_from(environment.live)
        if stray:
            return State.BAD, stray, "BACKUP.md, 'Written elsewhere'"
        return State.WELL, f"{unit.unit} is active"
    if state in ("not-found", "masked"):
        return (
            State.BAD,
            f"{unit.unit} is {state}",
            "install its unit (or DODEKA_SYSTEMCTL=none, where there is none)",
        )
    left = ", a restore left it stopped" if unit.is_marked else ""
    return State.BAD, f"{unit.unit} is {state}{left}", f"sudo systemctl start {unit.unit}"


def _kept(settings: Settings, environment: Environment) -> tuple:
    damaged = swap.damaged_files(environment.live)
    if damaged:
        text = f"restores replaced damaged databases, kept as {', '.join(map(str, damaged))}"
        # with their journals
        remove = " ".join(f"{shlex.quote(str(path))}*" for path in damaged)
        return State.BAD, text, f"when you need them no more: rm {remove}"
    kept = swap.kept_files(environment.live)
    if kept:
        text = f"what a restore replaced is in no snapshot yet: {', '.join(map(str, kept))}"
        return State.BAD, text, settings.make(f"backup ENV={environment.name}")
    return State.WELL, "no file of a restore is left"


def _volume(
    settings: Settings, repository: Path, environments: Sequence[Environment], rate: float | None
) -> tuple:
    point = disks.mount_point(repository)
    room = disks.for_snapshot(repository, _largest(environments))
    figures = {"volume_free_bytes": room.free_bytes}
    text = f"{point}, {size(room.free_bytes)} free"
    days = None
    if rate is not None and rate > 0:
        days = figures["volume_days_left"] = room.free_bytes / rate
        text += f", enough for {days:.0f} days" if days < 1000 else ", enough for years"
    if not _is_mounted(settings):
        text = f"{repository} is on the disk of the system or of the databases ({point}): no volume is mounted there"
        return State.BAD, text, f"sudo mount {repository.parent}", figures
    if disks.is_read_only(repository):
        text = f"{point} is mounted read-only"
        return State.BAD, text, f"dmesg; if the disk is well: sudo mount -o remount,rw {point}", figures
    if not room.is_enough or (days is not None and days < FEW_DAYS):
        return State.BAD, text, f"{room.remedy} (df -h {point})", figures
    return State.WELL, text, "", figures


def _state_folder(settings: Settings, environments: Sequence[Environment]) -> tuple:
    room = disks.for_export(settings, _largest(environments))
    figures = {"state_free_bytes": room.free_bytes}
    text = f"{room.folder}, {size(room.free_bytes)} free, a backup may need {size(room.needed_bytes)}"
    if not room.is_enough:
        return State.BAD, text, f"free some (df -h {room.folder}), or {room.remedy}", figures
    return State.WELL, text, "", figures


def _largest(environments: Sequence[Environment]) -> int:
    files = [environment.live for environment in environments]
    return max(file.stat().st_size if file.exists() else 0 for file in files)


def _lock(settings: Settings) -> tuple:
    holder = run_lock.holder(settings.state)
    if holder is None:
        return State.WELL, "nothing runs"
    text = f"{holder.doing}, process {holder.process}, for {_age(holder.since)}"
    if _now() - holder.since > schedule.BACKUP_OVERDUE:
        return State.BAD, text, f"look at its output; if it stands still: kill {holder.process}"
    return State.WELL, text


def _restic_locks(settings: Settings, repository: Repository) -> tuple:
    locks, unreadable = repository.locks()
    if unreadable:
        error = failures.lock_unreadable(settings, unreadable[0])
        return State.BAD, error.message, error.hint
    shown = ", ".join(f"PID {one.process} on {one.host}" for one in locks)
    if any(one.is_stale for one in locks):
        return State.BAD, f"left by a restic that was killed: {shown}", settings.make("check")
    return State.WELL, f"held by {shown}" if locks else "none"


def _crontab() -> tuple:
    try:
        missing = installed.missing_jobs()
    except BackupError as error:
        return State.BAD, error.message, installed.here().fix
    if missing:
        jobs = installed.here().jobs
        return (
            State.BAD,
            f"{len(missing)} of the {len(jobs)} shipped lines are not in it",
            installed.here().fix,
        )
    return State.WELL, "as shipped"


def _logrotate() -> tuple:
    if not installed.logrotate_is_installed():
        here = installed.here()
        fix = here.fix if here.is_own else f"{here.fix} prints what an administrator puts there"
        return State.BAD, f"{installed.LOGROTATE} is not as shipped", fix
    return State.WELL, "as shipped"


def _user(settings: Settings, environments: Sequence[Environment]) -> tuple:
    name = places.user_name(os.geteuid())
    folders = [environment.live.parent for environment in environments]
    if settings.systemctl and any(
        folder.is_dir() and folder.stat().st_uid == os.geteuid() for folder in folders
    ):
        text = f"{name} runs the web service too: who breaks into that can read and remove all backups"
        return State.WELL, f"{text} (BACKUP.md, 'Who can do what')"
    return State.WELL, f"{name}"


def _age(moment: datetime) -> str:
    return ago(min(moment, _now()))  # two clocks may differ a little


def _is_future(moment: datetime) -> bool:
    return moment > _now() + schedule.CLOCK_TOLERANCE


def _now() -> datetime:
    return datetime.now().astimezone()
