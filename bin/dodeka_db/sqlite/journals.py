"""The journals beside a database file, which SQLite finds by their names alone."""

import os
from pathlib import Path

SUFFIXES = ("-wal", "-journal", "-shm")


def exist(path: Path) -> bool:
    return any(Path(f"{path}{suffix}").exists() for suffix in SUFFIXES)


def hold_rows(path: Path) -> bool:
    """Whether a journal of the database at `path` holds anything; a reader leaves an empty one."""
    return any(
        journal.exists() and journal.stat().st_size
        for journal in (Path(f"{path}-wal"), Path(f"{path}-journal"))
    )


def is_same(path: Path, other: Path) -> bool:
    """Whether both exist and are the same file."""
    return other.exists() and path.exists() and path.samefile(other)


def link(source: Path, target: Path) -> None:
    """Hard-link each journal of the database at `source` to its name at `target`, unless that exists."""
    for suffix in SUFFIXES:
        journal = Path(f"{source}{suffix}")
        if journal.exists() and not Path(f"{target}{suffix}").exists():
            os.link(journal, f"{target}{suffix}")


def unlink(names: Path, others: Path) -> None:
    """Remove those journals of `names` that are also hard links at `others`."""
    for suffix in SUFFIXES:
        if is_same(Path(f"{names}{suffix}"), Path(f"{others}{suffix}")):
            Path(f"{names}{suffix}").unlink()


def move(source: Path, target: Path) -> None:
    """Rename the journals of the database at `source` to those of `target`."""
    for suffix in SUFFIXES:
        journal = Path(f"{source}{suffix}")
        # an existing one belongs to a process that still uses that database
        if journal.exists() and not Path(f"{target}{suffix}").exists():
            journal.rename(f"{target}{suffix}")


def remove(live: Path) -> None:
    """Remove the journals of the database at `live`."""
    for suffix in SUFFIXES:
        Path(f"{live}{suffix}").unlink(missing_ok=True)
