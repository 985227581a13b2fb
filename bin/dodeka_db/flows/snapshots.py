"""make snapshots: list the snapshots of one environment or of all."""

import json
from collections.abc import Mapping, Sequence

from dodeka_db.formatting import ago, columns, size, when
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, of_environment


def listed(settings: RepositorySettings, environment: str | None) -> tuple[list[Snapshot], dict[str, int]]:
    """The snapshots of `environment`, of all if that is None, the oldest first; and the bytes of each file by ID."""
    repository = Repository(settings)
    found = repository.snapshots()
    if environment:
        found = of_environment(found, environment)
    return found, repository.sizes(found)


def as_table(snapshots: Sequence[Snapshot], sizes: Mapping[str, int]) -> list[str]:
    """A table: ID, when, how long ago, size by ID (a damaged one has none), format, tags."""
    rows = [("ID", "When", "Ago", "Size", "Format", "Tags")]
    rows += [
        (
            snapshot.short_id,
            when(snapshot.time),
            ago(snapshot.time),
            size(sizes[snapshot.id]) if snapshot.id in sizes else "?",
            snapshot.format,
            ",".join(snapshot.tags),
        )
        for snapshot in snapshots
    ]
    return columns(rows, "<<>><<")


def as_json(snapshots: Sequence[Snapshot], sizes: Mapping[str, int]) -> list[str]:
    """A JSON array with an object for each snapshot."""
    described = [
        {
            **vars(snapshot),
            "stored_bytes": sizes.get(snapshot.id),
            "short_id": snapshot.short_id,
            "format": snapshot.format,
            "time": snapshot.time.isoformat(),
        }
        for snapshot in snapshots
    ]
    return json.dumps(described, indent=2).splitlines()
