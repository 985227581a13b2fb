"""make snapshots: the snapshots of one environment or of all, and how many rows are in them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dodeka_db.flows import snapshot_rows
from dodeka_db.host.beside import beside
from dodeka_db.host.row_records import Rows
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import listing_record
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, from_json, of_environment


@dataclass(frozen=True)
class Listing:
    """Snapshots of a repository, the oldest first.

    By the snapshot's ID: `sizes`, the bytes of each file; a damaged one has none. `rows`, the rows of each table; a snapshot
    that is not counted has none. `uncounted` are those that can be counted. `oldest` is the time of the oldest snapshot of any
    environment, if all were listed.
    """

    settings: RepositorySettings
    snapshots: Sequence[Snapshot]
    sizes: Mapping[str, int]
    rows: Mapping[str, Rows]
    uncounted: Sequence[Snapshot]
    oldest: datetime | None = None


def listed(settings: RepositorySettings, environment: str | None, count_all: bool) -> Listing:
    """The snapshots of `environment`, of all if that is None. `count_all`: those that are not on record are counted."""
    repository = Repository(settings)
    found, listing = described(repository, environment)
    listing = replace(listing, oldest=min((one.time for one in found), default=None))
    if not count_all:
        return listing
    counted = snapshot_rows.count(repository, listing.uncounted, listing.sizes)
    return replace(listing, rows={**listing.rows, **counted}, uncounted=())


def described(repository: Repository, environment: str | None) -> tuple[list[Snapshot], Listing]:
    """All snapshots; and those of `environment`, of all if that is None, with their sizes and rows, without fetching anything."""
    with beside(repository.all_sizes, "the question for the sizes") as all_sizes:
        found = repository.snapshots()
        ours = of_environment(found, environment) if environment else found
        sizes = repository.sizes(ours, all_sizes)
    rows = snapshot_rows.on_record(repository.settings, ours, sizes)
    uncounted = [one for one in ours if one.id in sizes and one.id not in rows]
    return found, Listing(repository.settings, ours, sizes, rows, uncounted)


def last_ids(settings: RepositorySettings, environments: Collection[str]) -> list[str]:
    """The IDs of the last listing, the newest first, without starting restic; none if there is no record of it."""
    try:
        found = from_json(listing_record.last(settings))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return []
    newest_first = sorted(found, key=lambda snapshot: snapshot.time, reverse=True)
    return [snapshot.short_id for snapshot in newest_first if snapshot.environment in environments]


def as_json(listing: Listing) -> list[str]:
    """A JSON array with an object for each snapshot; its rows are null where they are not known."""
    described = [
        {
            **vars(snapshot),
            "stored_bytes": listing.sizes.get(snapshot.id),
            "short_id": snapshot.short_id,
            "format": snapshot.format,
            "time": snapshot.time.isoformat(),
            "rows": listing.rows.get(snapshot.id),
        }
        for snapshot in listing.snapshots
    ]
    return json.dumps(described, indent=2).splitlines()
