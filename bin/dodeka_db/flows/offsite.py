"""make offsite: copy the missing snapshots to the off-site repository, read the newest back, apply the retention policy."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from dodeka_db.errors import BackupError, RepositoryDamagedError, SetupError, as_line
from dodeka_db.flows import erasures, oldest_copies, retention, verify
from dodeka_db.flows.in_the_end import in_the_end
from dodeka_db.formatting import counted
from dodeka_db.host import job_records, row_records, run_lock, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures
from dodeka_db.restic.repository import Config, Repository
from dodeka_db.restic.snapshots import LATEST, Snapshot, newest, of_environment, ordinary, resolve
from dodeka_db.settings import ENVIRONMENTS, Settings

JOB = oldest_copies.OFFSITE_JOB


@dataclass(frozen=True)
class Done:
    """A finished copy: the number of copied snapshots, those read back, the number of removed ones (None: left to the server).

    `is_removable` is whether this machine could remove an off-site snapshot. `oldest` is the time of the oldest snapshot there,
    before the retention.
    """

    copied: int
    read_back: tuple[Snapshot, ...]
    removed: int | None
    is_removable: bool
    oldest: datetime | None

    @property
    def summary(self) -> str:
        read_back = " and ".join(f"{one.short_id} of {one.environment}" for one in self.read_back) or "none"
        retention = "retention left to the server"
        if self.removed is not None:
            retention = f"{counted(self.removed, 'old one')} removed"
        can = "can" if self.is_removable else "cannot"
        return (
            f"{counted(self.copied, 'snapshot')} copied, {read_back} read back, {retention},"
            f" off-site snapshots {can} be removed from here"
        )


def check_apart(one: Config | None, other: Config | None) -> None:
    """Raise SetupError if the two are the same repository, however their addresses are written."""
    if one and other and one.id == other.id:
        raise SetupError(
            "OFFSITE_REPOSITORY is RESTIC_REPOSITORY itself, or a copy of its files",
            "a second copy needs a repository of its own, in another place: make init OFFSITE=1",
        )


def last(settings: Settings) -> job_records.Record:
    """The record of the last copy; a success with another off-site repository than today's does not count."""
    record, shown = job_records.read(settings.main.state, JOB), settings.repository(offsite=True).shown
    return record if record.details.get("to", shown) == shown else replace(record, passed=None)


def copying_excluded(repository: RepositorySettings, doing: str) -> AbstractContextManager[None]:
    """Wait for a running copy, and let none begin while the block runs. For steps that need restic's exclusive lock.

    To be entered before the lock that backups wait for. Raises BusyError.
    """
    return staging.locked(repository.copied_to, doing) if repository.copied_to else nullcontext()


def is_copying(settings: Settings) -> bool:
    """Whether an off-site copy is reading the main repository: restic locks it against removals, perhaps for hours."""
    holder = run_lock.holder(settings.offsite.state) if settings.offsite else None
    return holder is not None and holder.doing == run_lock.COPY


def run(settings: Settings) -> Done:
    """Copy the missing snapshots to the off-site repository, prove the newest of each environment there, apply the retention
    policy, try whether a snapshot there can be removed, record the result.

    While it copies it holds no lock that backups wait for: they go on, however slow the off-site server is. Steps that need
    restic's exclusive lock wait for it (copying_excluded); cron runs skip the retention meanwhile. Raises what a step raises.
    """
    main, offsite = settings.main, settings.repository(offsite=True)
    # a copy that finds another one running, as the hourly one does during a long first copy, leaves the record to that one
    with staging.locked(offsite, run_lock.COPY), job_records.failures(main.state, JOB):
        done = _copy(settings, Repository(main), Repository(offsite))
        details = {
            "to": offsite.shown,
            "snapshots": [one.short_id for one in done.read_back],
            "is_removable": done.is_removable,
            **({"oldest": done.oldest} if done.oldest else {}),
        }
        job_records.passed(main.state, JOB, details)
    return done


def _copy(settings: Settings, source: Repository, target: Repository) -> Done:
    main, offsite = source.settings, target.settings
    with staging.locked(main, run_lock.COPY):
        pass  # a run that began before us, and did not see us, has ended now
    check_apart(source.config(), target.config())
    listed = source.listed()
    there = target.listed()
    if offsite.retains and _follow_pins(listed, target, there):
        there = target.listed()
    before = {snapshot.id for snapshot in there}
    log.info("copying the missing snapshots to %s", offsite.shown)
    damaged = target.copy_from(main, listed)
    copied = 0

    def fail_if_damaged() -> None:
        if damaged:
            ids = ", ".join(snapshot.short_id for snapshot in damaged)
            raise RepositoryDamagedError(
                f"{counted(copied, 'snapshot')} copied, but {ids} of {main.shown} cannot be: damaged",
                f"see {failures.DAMAGED}",
            )

    with in_the_end(fail_if_damaged):
        wanted = [one for one in ordinary(listed) if one not in damaged]
        snapshots = target.snapshots()
        copied = sum(snapshot.id not in before for snapshot in snapshots)
        stored_as = [snapshot.stored_as for snapshot in snapshots]
        # the main repository may keep them for a shorter time
        row_records.carry_over(main.state, offsite.state, stored_as)
        row_records.keep_only(offsite.state, stored_as)
        erasures.copy_missing(source, target, snapshots)
        proven = _prove(target, wanted, snapshots)
        removed = _apply_retention(settings, target, copied)
    with staging.folder(offsite) as folder:
        is_removable = target.is_removable(folder)
    return Done(
        *(copied, tuple(proven), removed, is_removable),
        min((one.time for one in snapshots), default=None),
    )


def _follow_pins(listed: Sequence[Snapshot], target: Repository, there: Sequence[Snapshot]) -> bool:
    """Pin and unpin the copies `there` as their originals are, those `listed`; whether there was something to do.

    To restic a snapshot with other tags is another one, which it copies again.
    """
    originals = {snapshot.stored_as: snapshot for snapshot in listed}
    copies: dict[str, list[Snapshot]] = {}
    for snapshot in there:
        copies.setdefault(snapshot.stored_as, []).append(snapshot)
    differ = []
    for stored_as, held in copies.items():
        if not (original := originals.get(stored_as)):
            continue
        others = [one for one in held if {*one.pin_tags} != {*original.pin_tags}]
        if not original.is_pinned or len(others) == len(held):  # one pinned copy of several is enough
            differ += [(one, original.pin_tags) for one in others]
    for copy, tags in differ:
        target.set_pin_tags(copy, tags)
    return bool(differ)


def _prove(target: Repository, wanted: list[Snapshot], snapshots: list[Snapshot]) -> list[Snapshot]:
    proven = []
    for name in ENVIRONMENTS:
        last_here = newest(of_environment(wanted, name))
        if not last_here:
            continue
        copy = resolve(target.settings, snapshots, name, LATEST)
        if copy.time < last_here.time:
            raise BackupError(
                f"the newest snapshot of {name} is not in {target.settings.shown} after the copy"
            )
        verify.prove(target, copy)
        proven.append(copy)
    return proven


def _apply_retention(settings: Settings, target: Repository, copied: int) -> int | None:
    if not target.settings.retains:
        return None
    log.info("applying the retention policy to the off-site repository")
    removed = 0
    try:
        for environment in settings.environments:
            if retention.is_allowed(settings, environment):
                removed += retention.apply(target, environment)
        return removed
    except (BackupError, OSError) as error:
        what = as_line(error)
        if isinstance(error, failures.RemovalRefusedError):
            what = f"{error.message}; if the server must be append-only, set OFFSITE_RETENTION=none"
        kind = type(error) if isinstance(error, BackupError) else BackupError
        raise kind(
            f"{counted(copied, 'snapshot')} copied, and the newest read back, but nothing old was removed: {what}"
        ) from error
