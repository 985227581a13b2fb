"""Notice that a table has lost many of its rows since the last good run, keep the snapshot from before, and tell somebody.

The counts of the last good run, the baseline, are on record in the state folder. A run that finds a loss leaves the good
counts as they are: each run fails until the rows are back, or somebody says that it was meant (make accept). What a
restore puts in place is good, since somebody has said yes to it; but a loss that was told stays one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dodeka_db import data_description
from dodeka_db.data_description import Table
from dodeka_db.errors import BackupError, RowsLostError, SetupError, UsageError, as_line
from dodeka_db.flows import offsite, pins
from dodeka_db.flows.take_snapshot import Taken
from dodeka_db.formatting import cell, counted
from dodeka_db.host import row_baselines, staging
from dodeka_db.host.row_baselines import Baseline, Counts, Lost
from dodeka_db.host.row_records import Rows
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.settings import Environment, Settings

# a table of fewer rows has lost them only when it is empty
LEAST_ROWS = 20
_NOTE = "the last one before a loss of rows"


@dataclass(frozen=True)
class Loss:
    """A loss of rows that the run of `environment` has found: snapshot `taken` has fewer than `good`, by `tables`.

    `good` is the ID of the last good snapshot; "" if no snapshot has those rows.
    """

    settings: Settings
    environment: Environment
    taken: str
    good: str
    tables: Mapping[str, tuple[int, int]]


def look(
    settings: Settings, repository: Repository, environment: Environment, taken: Taken, removed: int = 0
) -> Loss | None:
    """The loss of rows since the last good run; None if there is none, and `taken` is the last good one then.

    To be called under the lock. After a loss the last good snapshot is pinned. What cannot be counted is a warning, and is
    taken neither for a loss nor for the end of one. SetupError if the baseline cannot be read.
    `removed` is the number of old snapshots that had to go before `taken`, because the repository was full.
    """
    state, name = settings.main.state, environment.name
    try:
        before = row_baselines.read(state, name)
    except SetupError as error:
        raise SetupError(
            f"snapshot {taken.snapshot_id} is safe, but looking for a loss of rows failed: {error.message};"
            f" {_of_old(removed)}",
            error.hint,
        ) from error
    now = _described_counts(taken, name)
    if now is None:
        lost = before.lost if before else None
    elif not before:
        row_baselines.write(state, name, Baseline(now[0]))
        return None
    else:
        tables = _lost(before.good.rows, now[0].rows, now[1])
        if before.lost:  # a table that cannot be counted any more has not got its rows back
            uncounted = {table for table, rows in now[0].rows.items() if rows is None}
            tables |= {
                table: both for table, both in before.lost.tables.items() if table.lower() in uncounted
            }
        lost = Lost(now[0], tables) if tables else None
        if not lost:
            row_baselines.write(state, name, Baseline(_with_known(now[0], before.good)))
            if before.lost:
                pinned = _pinned(settings, repository, before.good.snapshot)
                log.info("the loss of rows of %s is over; %s", name, _still_pinned(settings, name, pinned))
            return None
        row_baselines.write(state, name, replace(before, lost=lost))
    if not before or not lost:
        return None
    good = _pinned(settings, repository, before.good.snapshot)
    return Loss(settings, environment, taken.snapshot_id, good or _there(repository, before), lost.tables)


def fail_if_lost(loss: Loss | None, removed: int = 0) -> None:
    """Raise RowsLostError if there is a loss. The snapshot is safe. `removed` is as for look()."""
    if not loss:
        return
    name = loss.environment.name
    since = f"snapshot {loss.good}" if loss.good else "the last good run or restore"
    raise RowsLostError(
        f"snapshot {loss.taken} is safe, but {name} HAS LOST ROWS since {since}: {shown(loss.tables)}; {_of_old(removed)}",
        f"look: {next_steps(loss.settings.main, name, loss.good)}",
    )


def _of_old(removed: int) -> str:
    if removed:
        return f"{counted(removed, 'old snapshot')} removed before, because the repository was full"
    return "no old snapshot is removed"


def next_steps(main: RepositorySettings, name: str, good: str) -> str:
    """The commands after a loss of rows of the environment `name`; `good` is the ID of the snapshot from before, or ""."""
    look = main.make(f"snapshots ENV={name}")
    if good:
        bring_back = main.make(f"bring-back ENV={name} SNAPSHOT={good}")
        look = f"{main.make(f'changes ENV={name} SNAPSHOT={good}')}; bring them back: {bring_back}"
    return f"{look}; if it was meant: {main.make(f'accept ENV={name}')}"


def accept(settings: Settings, environment: Environment) -> str:
    """Take the counts of the run that found a loss for good from now on; returns in words what was accepted.

    Raises UsageError if no run has found a loss.
    """
    state, name = settings.main.state, environment.name
    with staging.locked(settings.main, f"accept of {name}"):
        found = row_baselines.read(state, name)
        if not found or not found.lost:
            raise UsageError(f"no run of {name} has found a loss of rows", "there is nothing to accept")
        # the run may have been killed before it could pin
        pinned = _pinned(settings, None, found.good.snapshot)
        row_baselines.write(state, name, Baseline(_with_known(found.lost.counts, found.good)))
    return f"accepted: {shown(found.lost.tables)}; {_still_pinned(settings, name, pinned)}"


def after_restore(settings: Settings, environment: Environment, snapshot: str, rows: Rows) -> None:
    """Take the `rows` of a database that a restore has put in place for good: somebody has said yes to them.

    `snapshot` is the one that has them, as in Counts. A loss that a run has told stays one, unless its rows are back.
    """
    state, name = settings.main.state, environment.name
    now = _counts(snapshot, rows)
    try:
        before = row_baselines.read(state, name)
    except SetupError as error:  # the restore goes on; the next run fails
        log.warning("%s", error)
        return
    if before and before.lost:
        try:
            tables = _lost(before.good.rows, now.rows, data_description.read().tables)
        except SetupError:
            return  # the next run says that it cannot tell
        if tables:
            row_baselines.write(state, name, replace(before, lost=Lost(now, tables)))
            log.warning(
                "%s still lacks the rows that were lost: %s; if it is meant: %s",
                *(name, shown(tables), settings.main.make(f"accept ENV={name}")),
            )
            return
    row_baselines.write(state, name, Baseline(now))


def _described_counts(taken: Taken, name: str) -> tuple[Counts, Mapping[str, Table]] | None:
    """The counts of the snapshot, and the described tables; None, with a warning, if one of them cannot be had."""
    if taken.rows is None:
        log.warning("the rows of %s are not counted, so a loss would not be noticed", name)
        return None
    description = data_description.read_or_warn("a loss of rows would not be noticed: %s")
    return (_counts(taken.snapshot_id, taken.rows), description.tables) if description else None


def _counts(snapshot: str, rows: Rows) -> Counts:
    """The counts by the table's name in small letters: SQLite, and so the backend, finds a table in whatever letter case."""
    return Counts(snapshot, {name.lower(): count for name, count in rows.items()})


def _lost(before: Rows, now: Rows, described: Mapping[str, Table]) -> dict[str, tuple[int, int]]:
    """The rows then and now of each table that has lost more than it may. What is of the moment comes and goes."""
    found = {}
    for table in described.values():
        then, left = before.get(table.name.lower()), now.get(table.name.lower(), 0)
        if table.is_of_the_moment or not then:
            continue
        if left is None:
            log.warning("the rows of %s cannot be counted, so a loss there would not be noticed", table.name)
        elif table.may_lose < 1 and (
            left == 0 or (then >= LEAST_ROWS and then - left > table.may_lose * then)
        ):
            found[table.name] = (then, left)
    return found


def _with_known(now: Counts, before: Counts) -> Counts:
    """`now`, with the counts from `before` of those tables that could not be counted."""
    rows = {name: before.rows.get(name) if rows is None else rows for name, rows in now.rows.items()}
    return replace(now, rows=rows)


def _pinned(settings: Settings, repository: Repository | None, stored_as: str) -> str:
    """Pin that snapshot of the main repository; its ID now. "" if it is not pinned afterwards, with a warning on why."""
    if not stored_as:
        return ""
    try:
        if offsite.is_copying(settings):  # restic would wait for its lock, perhaps for hours
            raise BackupError("an off-site copy is running")
        found = pins.pin_stored_as(repository or Repository(settings.main), stored_as, _NOTE)
        if not found:
            raise BackupError(f"it is no longer in {settings.main.shown}")
        return found
    except (BackupError, OSError) as error:
        log.warning("snapshot %s, from before a loss of rows, is not pinned: %s", stored_as, as_line(error))
        return ""


def _there(repository: Repository, before: Baseline) -> str:
    """The ID of the last good snapshot, which is not pinned; "" if it is not there, or that cannot be told."""
    try:
        return pins.id_of(repository, before.good.snapshot) if before.good.snapshot else ""
    except BackupError:
        return ""


def shown(tables: Mapping[str, tuple[int, int]]) -> str:
    """Tables with their rows before and after, in words."""
    return ", ".join(f"{cell(name)} {before} -> {now}" for name, (before, now) in tables.items())


def _still_pinned(settings: Settings, name: str, pinned: str) -> str:
    if not pinned:
        return "no snapshot from before is pinned"
    unpin = settings.main.make(f"unpin ENV={name} SNAPSHOT={pinned}")
    return f"the snapshot from before stays pinned until you unpin it: {unpin}"
