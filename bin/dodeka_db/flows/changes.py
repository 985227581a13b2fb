"""make changes: what differs between a snapshot and the live database, or another snapshot. Nothing is changed."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.data_description import DataDescription
from dodeka_db.flows.download import shown, to_new_file
from dodeka_db.formatting import cell, columns, counted, when
from dodeka_db.host import disks, run_lock, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import resolve
from dodeka_db.settings import Environment
from dodeka_db.sqlite.compare import RowChange, Source, TableChanges, Value, compare
from dodeka_db.sqlite.export import copy_pages, size_bytes
from dodeka_db.sqlite.header import read_header

# so many rows are named at most, and so many characters of a key and of a list of fields
MAX_ROWS = 10_000
MAX_CHARACTERS = 200
_LARGER_DISK = "set DODEKA_STATE to another disk"


@dataclass(frozen=True)
class Report:
    """What differs, as lines to show, and what was compared, in a few words."""

    lines: list[str]
    summary: str


def run(
    settings: RepositorySettings,
    environment: Environment,
    wanted: str | datetime,
    other: str | datetime,
    name_rows: bool,
) -> Report:
    """Compare the snapshot `wanted` of `environment` with the snapshot `other`, or if that is "" the live database.

    Both are as snapshots.resolve() takes them. `name_rows`: name the rows too, by their keys; of a key that opens something,
    by deploy/data.toml, only the beginning. The live database is only read, and no writer waits for that, except where it is
    not in WAL mode: then as long as for a backup.
    Raises SnapshotError, DatabaseError, SetupError or BackupError.
    """
    rows = _Rows(data_description.read()) if name_rows else None
    with staging.locked(settings, f"comparison of {environment.name}"):
        repository = Repository(settings)
        snapshots = repository.snapshots()
        chosen = [resolve(settings, snapshots, environment.name, name) for name in (wanted, other) if name]
        with staging.folder(settings) as folder:
            sources = []
            for number, snapshot in enumerate(chosen):
                copy = to_new_file(repository, snapshot, folder / f"{number}.sqlite")
                sources.append(Source(copy, shown(snapshot), if_damaged="choose another snapshot"))
            with ExitStack() as stack:
                if not other:
                    stack.enter_context(run_lock.beside(environment.live, settings.lock_wait_s))
                    sources.append(source_of_live(environment.live, folder / "live.sqlite"))
                log.info("comparing")
                tables = compare(sources[0], sources[1], rows.add if rows else None)
    names = [f"snapshot {snapshot.short_id} of {when(snapshot.time)}" for snapshot in chosen]
    names += [] if other else ["the live database"]
    return Report([*(rows.lines() if rows else []), *_counts(tables)], f"from {names[0]} to {names[1]}")


def source_of_live(live: Path, copy: Path) -> Source:
    """The live database, or its `copy`: a reader of a rollback journal keeps every writer out, so it must be a short one.

    Raises DatabaseError; BackupError if there is no room for the copy.
    """
    shown = f"database {live}"
    if read_header(live).wal:
        return Source(live, shown)
    disks.for_database(copy.parent, size_bytes(live), _LARGER_DISK).check()
    log.info("copying %s", live)
    copy_pages(live, copy)
    return Source(copy, shown)


class _Rows:
    """The rows that differ, in lines, as far as somebody would read them."""

    def __init__(self, description: DataDescription) -> None:
        self._description = description
        self._lines: list[str] = []
        self._left_out = 0

    def add(self, change: RowChange) -> None:
        if len(self._lines) >= MAX_ROWS:
            self._left_out += 1
            return
        key = ", ".join(map(_shown, change.key_values)) or "a row without a key"
        key = self._description.shown_key(change.table, key)
        self._lines.append(
            f"{change.kind:7}  {cell(change.table)}  {_cut(key)}  {_cut(', '.join(change.fields()))}".rstrip()
        )

    def lines(self) -> list[str]:
        left_out = f"and {counted(self._left_out, 'row')} more, which are not named"
        return self._lines + [left_out] * bool(self._left_out) + [""] * bool(self._lines)


def _counts(tables: list[TableChanges]) -> list[str]:
    differ = [table for table in tables if table.differs]
    same = sum(not (table.differs or table.problem) for table in tables)
    lines = []
    if differ:
        cells = [(found.table, *map(str, (found.gone, found.new, found.changed))) for found in differ]
        lines += columns([("table", "gone", "new", "changed"), *cells], "<>>>")
    return [*lines, f"no difference in {counted(same, 'table')}", *remarks(tables)]


def remarks(tables: Sequence[TableChanges]) -> list[str]:
    """What was not compared, and what is special about the comparison."""
    lines = []
    for found in tables:
        if found.problem:
            lines.append(f"{cell(found.table)} is not compared: {cell(found.problem)}")
        lines += [f"{cell(found.table)}: {cell(note)}" for note in found.notes]
    return lines


def _shown(value: Value) -> str:
    if isinstance(value, bytes):
        return f"x'{value[:MAX_CHARACTERS].hex()}'"
    return "NULL" if value is None else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."
