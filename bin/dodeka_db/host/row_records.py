"""How many rows each table had in a snapshot, counted when it was taken: one small JSON file a snapshot in DODEKA_STATE."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.host import state_files
from dodeka_db.log import log

# rows by table; None where SQLite cannot count them
Rows = Mapping[str, int | None]
_DIGITS = 8


@dataclass(frozen=True)
class Record:
    """The rows in a snapshot, and the size of its file in bytes, by which a file of other content is recognized."""

    stored_bytes: int
    rows: Rows


def read(state: Path, snapshot_id: str) -> Record | None:
    """The record of that snapshot in the folder `state`; None if there is none, or it cannot be read as one.

    `snapshot_id` is the ID under which the snapshot was stored first, of 8 digits or more.
    """
    found = state_files.read_object(_file(state, snapshot_id))
    if not found or not isinstance(rows := found.get("rows"), dict):
        return None
    counts = [found.get("stored_bytes"), *(count for count in rows.values() if count is not None)]
    if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        return None
    return Record(found["stored_bytes"], rows)


def write(state: Path, snapshot_id: str, record: Record) -> None:
    """Write the record of that snapshot. A record that cannot be written is only a warning."""
    state_files.write(_file(state, snapshot_id), vars(record))


def carry_over(source: Path, target: Path, snapshot_ids: Iterable[str]) -> None:
    """Write into the folder `target` those records of these snapshots that only the folder `source` has."""
    for snapshot_id in snapshot_ids:
        if not _file(target, snapshot_id).exists() and (record := read(source, snapshot_id)):
            write(target, snapshot_id, record)


def keep_only(state: Path, snapshot_ids: Iterable[str]) -> None:
    """Remove the records of all other snapshots. If that fails, it is only a warning."""
    kept = {snapshot_id[:_DIGITS] for snapshot_id in snapshot_ids}
    folder = _file(state, "").parent
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with safe_open.closed_at_end(descriptor):
            for name in os.listdir(descriptor):
                # a killed run may have left one under another suffix
                if (match := re.fullmatch(r"([0-9a-f]{8})\.\w+", name)) and match[1] not in kept:
                    os.unlink(name, dir_fd=descriptor)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("old records in %s cannot be removed: %s", folder, error.strerror)


def _file(state: Path, snapshot_id: str) -> Path:
    return state / "rows" / f"{snapshot_id[:_DIGITS]}.json"
