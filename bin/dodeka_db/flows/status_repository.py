"""The lines of `make status` about restic, the repository and its snapshots."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dodeka_db import schedule
from dodeka_db.errors import BackupError, RepositoryMissingError, WrongPasswordError
from dodeka_db.flows import snapshot_growth
from dodeka_db.flows.status_lines import Look, age, bad, largest_bytes, now, unknown, well
from dodeka_db.formatting import counted, size
from dodeka_db.host import disks, password_files
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures, retention_policy, runner
from dodeka_db.restic.repository import NO_COMPRESSION, UPGRADE, Repository
from dodeka_db.restic.snapshots import Snapshot, of_the_past, ordinary
from dodeka_db.settings import Environment, Settings

FEW_DAYS = 30


def restic(main: RepositorySettings) -> Look:
    try:
        major, minor = runner.version(main)
    except BackupError as error:
        return bad(error.message, error.hint if shutil.which(main.restic) else "make setup")
    return well(f"{major}.{minor}, {main.restic}")


def password(settings: Settings) -> Look:
    main = settings.main
    file = main.password_file
    if file is None:
        return well("not in a file")
    try:
        password_files.check(main)
    except BackupError as error:
        if file.exists():
            return bad(error.message, error.hint)
        if not _is_mounted(settings):
            return bad(error.message, f"sudo mount {file.parent}")
        fix = f"put {file} back (BACKUP.md, 'Password'); to create the first repository: {main.make('init')}"
        return bad(error.message, fix)
    return well(f"{file}, for its owner alone")


def opened(
    settings: Settings, repository: Repository | None, listed: Sequence[Snapshot] | Exception | None
) -> Look:
    """Whether the repository opens, by its `listed` snapshots, or by why they cannot be listed."""
    main = settings.main
    if repository is None:
        return unknown("not opened: see the line of restic or password")
    if isinstance(listed, RepositoryMissingError):
        if main.folder and not _is_mounted(settings):
            return bad(listed.message, f"sudo mount {main.folder.parent}")
        return bad(listed.message, f"bring it back (to create the first repository: {main.make('init')})")
    if isinstance(listed, WrongPasswordError):
        return bad(listed.message, "put the right password back (BACKUP.md, 'Password')")
    if isinstance(listed, BackupError):
        if main.folder is None:
            return unknown(listed.message)  # perhaps the network
        return bad(listed.message, listed.hint or "see what restic says: docs/errors.md")
    if isinstance(listed, Exception):
        raise listed
    if repository.unreadable:
        ids = ", ".join(one[:8] for one in repository.unreadable)
        return bad(f"{main.shown} opens, but snapshot {ids} is damaged", f"see {failures.DAMAGED}")
    return well(f"{main.shown} opens")


def format(repository: Repository) -> Look:
    config = repository.config()
    if config and config.format == 1:
        return bad(NO_COMPRESSION, UPGRADE)
    return well("pages, and the repository compresses")


def snapshots(main: RepositorySettings, environment: Environment, listed: Sequence[Snapshot]) -> Look:
    kept = ordinary(listed)
    replaced = len(listed) - len(kept)
    figures: dict[str, float] = {"snapshots": len(kept), "pre_restore_snapshots": replaced}
    if not kept:
        return bad("no snapshot yet", main.make(f"backup ENV={environment.name}"), **figures)
    text = f"{counted(len(kept), 'snapshot')}, {replaced} pre-restore"
    past = of_the_past([snapshot for snapshot in kept if snapshot.path])  # as `latest` of a restore does
    if past:
        figures["newest_snapshot_timestamp_seconds"] = past[-1].time.timestamp()
    if future := [snapshot.short_id for snapshot in listed if snapshot.is_from_the_future]:
        forget = main.make(f"restic ARGS='forget {' '.join(future)}'")
        text = f"{', '.join(future)} from the future, so no snapshot is removed; {text}"
        return bad(text, f"if the clock is right now (timedatectl): {forget}", **figures)
    if not past:
        return bad("no snapshot holds a database", main.make(f"backup ENV={environment.name}"), **figures)
    newest = past[-1]
    text = f"the newest, {newest.short_id}, was taken {age(newest.time)} ago; {text}"
    command = main.make(f"cron ENV={environment.name}")
    if now() - newest.time > schedule.BACKUP_OVERDUE:
        return bad(text, command, **figures)
    # for the policy each set of tags is a separate group
    groups = Counter(snapshot.tags for snapshot in kept)
    if max(groups.values()) > retention_policy.MAX_KEPT:
        return bad(f"{text}: more than the retention policy keeps", command, **figures)
    return well(text, **figures)


def size_line(main: RepositorySettings, environment: Environment) -> Look:
    """What the snapshots take, by the sample that a cron run takes once a day: counting it takes a start of restic."""
    samples = snapshot_growth.samples(main.state, environment)
    if not samples:
        return well("not counted yet: a cron run does that once a day")
    time, stored_bytes = samples[-1]
    text = f"{size(stored_bytes)} stored, counted {age(time)} ago"
    rate = snapshot_growth.bytes_per_day(main.state, environment)
    if rate is None:
        return well(f"{text}; the growth will be known after a day", stored_bytes=stored_bytes)
    text = f"{text}, {'+' if rate >= 0 else '-'}{size(abs(int(rate)))} a day"
    return well(text, stored_bytes=stored_bytes, growth_bytes_per_day=rate)


def locks(repository: Repository) -> Look:
    found, unreadable = repository.locks()
    if unreadable:
        error = failures.lock_unreadable(repository.settings, unreadable[0])
        return bad(error.message, error.hint)
    shown = ", ".join(f"PID {one.process} on {one.host}" for one in found)
    if any(one.is_stale for one in found):
        return bad(f"left by a restic that was killed: {shown}", repository.settings.make("check"))
    return well(f"held by {shown}" if found else "none")


def volume(settings: Settings, folder: Path) -> Look:
    point = disks.mount_point(folder)
    rates = [snapshot_growth.bytes_per_day(settings.main.state, one) for one in settings.environments]
    rate = None if None in rates else sum(filter(None, rates))
    room = disks.for_snapshot(folder, largest_bytes(settings.environments))
    figures: dict[str, float] = {"volume_free_bytes": room.free_bytes}
    text = f"{point}, {size(room.free_bytes)} free"
    if rate is not None and rate > 0:
        days = figures["volume_days_left"] = room.free_bytes / rate
        text += f", enough for {days:.0f} days" if days < 1000 else ", enough for years"
    if not _is_mounted(settings):
        disk = f"the disk of the system or of the databases ({point})"
        text = f"{folder} is on {disk}: no volume is mounted there"
        return bad(text, f"sudo mount {folder.parent}", **figures)
    if disks.is_read_only(folder):
        fix = f"dmesg; if the disk is healthy: sudo mount -o remount,rw {point}"
        return bad(f"{point} is mounted read-only", fix, **figures)
    if not room.is_enough or figures.get("volume_days_left", FEW_DAYS) < FEW_DAYS:
        return bad(text, f"{room.hint} (df -h {point})", **figures)
    return well(text, **figures)


def _is_mounted(settings: Settings) -> bool:
    databases = [environment.live for environment in settings.environments]
    folder = settings.main.folder
    return folder is None or disks.is_on_own_volume(folder, databases)
