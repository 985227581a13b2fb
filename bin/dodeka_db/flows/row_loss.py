"""Notice that a table has lost many of its rows since the last good run, keep the snapshot from before, and tell somebody.

The counts of the last good run, the baseline, are on record in the state folder. A run that finds a loss leaves the baseline
as it is: each run fails until the rows are back, or somebody says that it was meant (make accept).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.data_description import Table
from dodeka_db.errors import BackupError, RowsLostError, SetupError, UsageError, as_line
from dodeka_db.flows import pins
from dodeka_db.flows.take_snapshot import Taken
from dodeka_db.formatting import cell
from dodeka_db.host import staging, state_files
from dodeka_db.host.row_records import Rows
from dodeka_db.restic.repository import Repository
from dodeka_db.settings import Environment, Settings

log = logging.getLogger("dodeka_db")
# a table of fewer rows has lost them only when it is empty
LEAST_ROWS = 20
_NOTE = "the last one before a loss of rows"


@dataclass(frozen=True)
class _Counts:
    """The rows of each table in a snapshot, which is named by the ID under which it was stored."""

    snapshot: str
    rows: Rows


@dataclass(frozen=True)
class _Baseline:
    """The counts of the last good run, and those of the run that found a loss, if any."""

    good: _Counts
    lost: _Counts | None = None


@dataclass(frozen=True)
class Loss:
    """A loss of rows that the run of `environment` has found: snapshot `taken` has fewer than `good`, by `tables`."""

    settings: Settings
    environment: Environment
    taken: str
    good: str
    tables: Mapping[str, tuple[int, int]]

    @property
    def shown(self) -> str:
        return ", ".join(f"{cell(name)} {before} -> {now}" for name, (before, now) in self.tables.items())


def look(settings: Settings, repository: Repository, environment: Environment, taken: Taken) -> Loss | None:
    """The loss of rows since the last good run; None if there is none, and `taken` is the last good one then.

    To be called under the lock. After a loss the last good snapshot is pinned. What cannot be counted is a warning, and is never
    taken for a loss.
    """
    state = settings.main.state
    before = _read(state, environment)
    if taken.rows is None:
        log.warning("the rows of %s are not counted, so a loss would not be noticed", environment.name)
        return None
    try:
        described = data_description.read().tables
    except SetupError as error:
        log.warning("a loss of rows would not be noticed: %s", error)
        return None
    now = _Counts(taken.snapshot_id, taken.rows)
    if not before:
        _write(state, environment, _Baseline(now))
        return None
    lost = _lost(before.good.rows, now.rows, described)
    if not lost:
        if before.lost:
            _say_that_it_is_over(settings, environment, before.good.snapshot)
        known = {
            name: before.good.rows.get(name) if rows is None else rows for name, rows in now.rows.items()
        }
        _write(state, environment, _Baseline(replace(now, rows=known)))
        return None
    _write(state, environment, replace(before, lost=now))
    good = before.good.snapshot
    try:
        good = pins.pin_stored_as(repository, good, _NOTE) or good
    except (BackupError, OSError) as error:
        log.warning(
            "snapshot %s could not be pinned, and stays as long as runs fail: %s", good, as_line(error)
        )
    return Loss(settings, environment, taken.snapshot_id, good, lost)


def fail_if_lost(loss: Loss | None) -> None:
    """Raise RowsLostError, with the snapshot safe, if there is a loss."""
    if loss:
        make, name = loss.settings.main.make, loss.environment.name
        raise RowsLostError(
            f"snapshot {loss.taken} is safe, but {name} HAS LOST ROWS since snapshot {loss.good}: {loss.shown};"
            " no old snapshot is removed",
            f"look: {make(f'changes ENV={name} SNAPSHOT={loss.good}')}; bring them back:"
            f" {make(f'bring-back ENV={name} SNAPSHOT={loss.good}')}; if it was meant: {make(f'accept ENV={name}')}",
        )


def accept(settings: Settings, environment: Environment) -> str:
    """Take the counts of the run that found a loss for good from now on; returns in words what was accepted.

    Raises UsageError if no run has found a loss.
    """
    state = settings.main.state
    with staging.locked(settings.main, f"accept of {environment.name}"):
        found = _read(state, environment)
        if not found or not found.lost:
            raise UsageError(
                f"no run of {environment.name} has found a loss of rows", "there is nothing to accept"
            )
        tables = _lost(found.good.rows, found.lost.rows, data_description.read().tables)
        _write(state, environment, _Baseline(found.lost))
    loss = Loss(settings, environment, found.lost.snapshot, found.good.snapshot, tables)
    return f"accepted: {loss.shown}; {_still_pinned(settings, environment, found.good.snapshot)}"


def start_over(settings: Settings, environment: Environment) -> None:
    """Forget the baseline: the rows of the next run are good, because somebody has said yes to a restore."""
    _file(settings.main.state, environment).unlink(missing_ok=True)


def _lost(before: Rows, now: Rows, described: Mapping[str, Table]) -> dict[str, tuple[int, int]]:
    """The rows then and now of each table that has lost more than it may. What is of the moment comes and goes."""
    found = {}
    for table in described.values():
        then, left = before.get(table.name), now.get(table.name, 0)
        if table.is_of_the_moment or not then:
            continue
        if left is None:
            log.warning("the rows of %s cannot be counted, so a loss there would not be noticed", table.name)
        elif table.may_lose < 1 and (
            left == 0 or (then >= LEAST_ROWS and then - left > table.may_lose * then)
        ):
            found[table.name] = (then, left)
    return found


def _say_that_it_is_over(settings: Settings, environment: Environment, good: str) -> None:
    log.info(
        "%s has the rows of snapshot %s again; %s",
        environment.name,
        good,
        _still_pinned(settings, environment, good),
    )


def _still_pinned(settings: Settings, environment: Environment, good: str) -> str:
    unpin = settings.main.make(f"unpin ENV={environment.name} SNAPSHOT={good}")
    return f"the snapshot from before stays pinned until you unpin it: {unpin}"


def _read(state: Path, environment: Environment) -> _Baseline | None:
    """The baseline; None if there is none, or the file is not one."""
    try:
        found = state_files.read(_file(state, environment))
    except OSError as error:
        log.warning("%s cannot be read: %s", _file(state, environment), error.strerror)
        return None
    if not isinstance(found, dict) or not (good := _counts(found.get("good"))):
        return None
    return _Baseline(good, _counts(found.get("lost")))


def _counts(found: object) -> _Counts | None:
    if not isinstance(found, dict) or not isinstance(rows := found.get("rows"), dict):
        return None
    if not all(count is None or type(count) is int for count in rows.values()):
        return None
    return _Counts(str(found.get("snapshot")), rows)


def _write(state: Path, environment: Environment, baseline: _Baseline) -> None:
    content = {"good": vars(baseline.good), "lost": vars(baseline.lost) if baseline.lost else None}
    state_files.write(_file(state, environment), content)


def _file(state: Path, environment: Environment) -> Path:
    return state / "baselines" / f"{environment.name}.json"
