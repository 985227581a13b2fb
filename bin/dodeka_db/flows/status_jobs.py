"""The lines of `make status` about jobs: cron runs, drills, checks, off-site copies; and the run that holds the lock."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from dodeka_db import data_description, schedule
from dodeka_db.errors import BackupError
from dodeka_db.flows import check, cron, offsite, prove, row_loss, verify
from dodeka_db.flows.status_lines import Look, State, age, bad, is_future, note, now, well
from dodeka_db.host import disks, job_records, monitor, password_files, row_baselines, run_lock
from dodeka_db.host.job_records import Record
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.snapshots import Snapshot
from dodeka_db.settings import Environment, Settings


def cron_run(main: RepositorySettings, environment: Environment) -> Look:
    record = job_records.read(main.state, cron.job(environment))
    return _job(record, "cron", "run", schedule.BACKUP_OVERDUE, main.make(f"cron ENV={environment.name}"))


def drill(main: RepositorySettings, environment: Environment) -> Look:
    record = job_records.read(main.state, verify.job(environment))
    scheduled = environment.name in schedule.DRILLED
    if not scheduled and not record.passed and not record.failed:
        return note("no drill yet, and none is scheduled", main.make(f"verify ENV={environment.name}"))
    overdue = schedule.WEEKLY_OVERDUE if scheduled else None
    look = _job(record, "drill", "drill", overdue, main.make(f"verify ENV={environment.name}"))
    if snapshot := record.details.get("snapshot"):
        look = look.with_text(f" (snapshot {snapshot})")
    if look.state is State.WELL and (defects := record.details.get("defects")):
        fix = "see BACKUP.md, 'The database has defects'"
        return bad(f"{look.text}; its database has defects: {defects}", fix, **look.figures)
    return look


def rows(main: RepositorySettings, environment: Environment, listed: Sequence[Snapshot] = ()) -> Look:
    """Whether the last run found a loss of rows that nobody has accepted; by the ID that the `listed` snapshot has now.

    Raises SetupError if a loss would not be noticed.
    """
    found, name = row_baselines.read(main.state, environment.name), environment.name
    if not found or not found.lost:
        data_description.read()  # without it no run looks for a loss
        return well("no loss is open" if found else "not counted yet")
    good = found.good.snapshot
    if good:  # the run has pinned it, and a pin gives another ID
        good = next((one.short_id for one in listed if one.stored_as.startswith(good)), good)
    text = f"LOST: {row_loss.shown(found.lost.tables)}; nothing old is removed"
    return bad(text, row_loss.next_steps(main, name, good))


def repository_check(main: RepositorySettings) -> Look:
    record = job_records.read(main.state, check.JOB)
    look = _job(record, "check", "check", schedule.WEEKLY_OVERDUE, main.make("check"))
    since = check.all_read_since(main.state)
    return look.with_text(
        f"; all data was read within {age(since)}" if since else "; not all data has been read yet"
    )


def offsite_copy(settings: Settings) -> Look:
    main, second = settings.main, settings.offsite
    if second is None:
        return note("none: OFFSITE_REPOSITORY is not set", "BACKUP.md, 'Off-site'")
    try:
        password_files.check(second)
    except BackupError as error:
        return bad(error.message, error.hint)
    record = offsite.last(settings)
    look = _job(record, "offsite", "copy", schedule.OFFSITE_OVERDUE, main.make("offsite"))
    if holder := run_lock.holder(second.state):
        look = look.with_text(
            f"; {holder.doing} has been running for {age(holder.since)} (process {holder.process})"
        )
        if now() - holder.since > schedule.OFFSITE_OVERDUE:
            return bad(look.text, f"see its output; if it hangs: kill {holder.process}")
    if record.passed and "is_removable" in record.details:
        can = "can be removed from here: BACKUP.md, 'Off-site'"
        look = look.with_text(
            f"; off-site snapshots {can if record.details['is_removable'] else 'cannot be removed from here'}"
        )
    look = look.with_text(f" ({second.shown})")
    if main.folder and second.folder and disks.are_on_one_disk(main.folder, second.folder):
        text = f"{look.text}; the off-site repository is on the disk of {main.folder}: one failure would destroy both"
        return bad(text, look.fix or "a place elsewhere: BACKUP.md, 'Off-site'", **look.figures)
    return look


def proof(main: RepositorySettings) -> Look:
    """Whether somebody has opened the off-site repository with nothing but what is on paper."""
    record, fix = job_records.read(main.state, prove.JOB), main.make("prove")
    if not record.passed:
        return note("nobody has proven yet that the paper opens the off-site repository", fix)
    who = record.details.get("who")
    since = "in the future" if is_future(record.passed) else f"{age(record.passed)} ago"
    text = f"the paper opened the off-site repository {since}{f', says {who}' if who else ''}"
    is_old = now() - record.passed > schedule.PROOF_OVERDUE or is_future(record.passed)
    return note(text, fix) if is_old else well(text)


def monitor_reached(settings: Settings) -> Look:
    """Whether somebody would hear of a failure."""
    if not settings.monitor and not settings.ping_urls:
        return note("nobody is told when a job fails: DODEKA_MONITOR is not set", "BACKUP.md, 'Monitor'")
    record, test = job_records.read(settings.main.state, monitor.RECORD), settings.main.make("monitor")
    if not record.passed:
        return note("the monitor has not been reached yet", test)
    if is_future(record.passed):
        return note("the monitor was last reached in the future: check the clock (timedatectl)", test)
    text = f"the monitor was last reached {age(record.passed)} ago"
    if now() - record.passed > schedule.MONITOR_OVERDUE:
        return note(text, test)
    if not settings.monitor:
        return note(
            f"{text}, but is told of cron runs only: DODEKA_MONITOR is not set", "BACKUP.md, 'Monitor'"
        )
    return well(text)


def at_work(main: RepositorySettings) -> Look:
    holder = run_lock.holder(main.state)
    if holder is None:
        return well("nothing runs")
    text = f"{holder.doing}, process {holder.process}, for {age(holder.since)}"
    if now() - holder.since > schedule.BACKUP_OVERDUE:
        return bad(text, f"see its output; if it hangs: kill {holder.process}")
    return well(text)


def _job(record: Record, name: str, what: str, overdue: timedelta | None, command: str) -> Look:
    """The look of a job by its `record`; figures call it `name`, messages `what`, and `command` runs it again."""
    if record.passed and is_future(record.passed):
        return bad(
            f"the last good {what} is in the future", f"check the clock (timedatectl), then: {command}"
        )
    if not record.passed:
        look = bad(f"no good {what} is on record", command)
    else:
        figure = {f"{name}_success_timestamp_seconds": record.passed.timestamp()}
        look = well(f"the last good {what} was {age(record.passed)} ago", **figure)
        if overdue is not None and now() - record.passed > overdue:
            look = replace(look, state=State.BAD, fix=command)
    if record.failed:
        text = f"failed {age(record.failed)} ago: {record.error}; {look.text}"
        return bad(text, f"see what failed; then: {command}", **look.figures)
    return look
