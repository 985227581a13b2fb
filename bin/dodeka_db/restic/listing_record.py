"""What restic said of the snapshots of a repository, on record in DODEKA_STATE: it saves a start of restic.

A snapshot's file is named by its ID, the hash of its content. So what is on record of an ID holds as long as there is a
file of that name, and in a repository on this machine the names tell whether all snapshots are on record. The completion
of a command line is content with the record.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dodeka_db.host import state_files
from dodeka_db.repository_settings import RepositorySettings

# what is put on record of each snapshot, by restic's names
_NAMES = ("id", "time", "tags", "hostname", "paths", "original")
Entry = Mapping[str, object]


def present(repository: RepositorySettings) -> frozenset[str] | None:
    """The IDs of all snapshots, other programs' too; None if the repository is not on this machine, or cannot be read."""
    try:
        return frozenset(os.listdir(repository.folder / "snapshots")) if repository.folder else None
    except OSError:
        return None


def read(repository: RepositorySettings) -> bytes | None:
    """What `restic snapshots --json` would print of our snapshots; None unless all that are present are on record."""
    ids, on_record = present(repository), state_files.read_object(_file(repository))
    if ids is None or on_record is None or not ids <= on_record.keys():
        return None
    return json.dumps([entry for name, entry in on_record.items() if entry and name in ids]).encode()


def last(repository: RepositorySettings) -> list[Entry]:
    """What is on record, of JSON's types, however old it is."""
    return list(filter(None, (state_files.read_object(_file(repository)) or {}).values()))


def write(repository: RepositorySettings, ids: Iterable[str], entries: Any) -> None:
    """Put `entries` on record, what restic printed of our snapshots, if there is a state folder; `ids` were present() before that.

    Raises LookupError or TypeError if they are not such entries.
    """
    if not repository.state.is_dir():
        return
    on_record: dict[str, Entry | None] = dict.fromkeys(ids)
    for entry in entries or ():
        on_record[entry["id"]] = {name: entry[name] for name in _NAMES if name in entry}
    state_files.write(_file(repository), on_record)


def add(repository: RepositorySettings, snapshot_id: str, entry: Entry) -> None:
    """Add a new snapshot of ours to a record that there is; `snapshot_id` may be the beginning of its ID.

    What is no longer present goes.
    """
    ids, on_record = present(repository) or (), state_files.read_object(_file(repository))
    whole = [name for name in ids if name.startswith(snapshot_id)]
    if on_record is not None and len(whole) == 1:
        left = {name: found for name, found in on_record.items() if name in ids}
        state_files.write(_file(repository), {**left, whole[0]: {**entry, "id": whole[0]}})


def _file(repository: RepositorySettings) -> Path:
    return repository.state / "listing.json"
