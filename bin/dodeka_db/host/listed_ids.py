"""The IDs of the snapshots that were listed last, for the completion of a command line: one small file in DODEKA_STATE."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dodeka_db.host import state_files


def read(state: Path, environments: Iterable[str]) -> list[str]:
    """The IDs of the snapshots of these environments, the newest first; none if there is no such file. OSError if unreadable."""
    found = state_files.read(_file(state))
    wanted = set(environments)
    entries = reversed(found) if isinstance(found, list) else ()
    return [
        str(entry[1])
        for entry in entries
        if isinstance(entry, list) and len(entry) == 2 and entry[0] in wanted
    ]


def write(state: Path, listed: Sequence[tuple[str, str]]) -> None:
    """Write the environments and IDs of the snapshots that are `listed`, the oldest first, if there is a folder `state`."""
    if state.is_dir():
        state_files.write(_file(state), listed)


def _file(state: Path) -> Path:
    return state / "listed.json"
