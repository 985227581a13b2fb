"""How many rows each table has in each snapshot: on record since it was taken, or counted by fetching it."""

import time
from collections.abc import Mapping, Sequence

from dodeka_db.errors import DatabaseError, RepositoryDamagedError, SnapshotError
from dodeka_db.flows.download import to_new_file
from dodeka_db.host import row_records, run_lock, staging
from dodeka_db.host.row_records import Record, Rows
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot
from dodeka_db.sqlite.row_counts import row_counts


def on_record(
    settings: RepositorySettings, snapshots: Sequence[Snapshot], sizes: Mapping[str, int]
) -> dict[str, Rows]:
    """The rows of those `snapshots` that are on record, by the snapshot's ID. `sizes`: the bytes of each file, by ID.

    A record counts only if it is of a file of that size: `restic repair snapshots` keeps the first ID too, with other content.
    """
    found = {}
    for snapshot in snapshots:
        for state in settings.states:
            record = row_records.read(state, snapshot.stored_as)
            if record and record.stored_bytes == sizes.get(snapshot.id):
                found[snapshot.id] = record.rows
                break
    return found


def count(repository: Repository, snapshots: Sequence[Snapshot], sizes: Mapping[str, int]) -> dict[str, Rows]:
    """Fetch each of `snapshots`, count its rows, and put them on record; the rows by the snapshot's ID.

    The lock is taken anew for each, so that backups get in between. A damaged snapshot is left out, with a warning. Raises
    BusyError, the failures of restic, and BackupError if there is no room.
    """
    settings = repository.settings
    found: dict[str, Rows] = {}
    for number, snapshot in enumerate(snapshots, start=1):
        if number > 1:
            time.sleep(2 * run_lock.POLL_S)  # whoever waits for the lock finds it free
        try:
            with (
                staging.locked(settings, "count of the rows in snapshots"),
                staging.folder(settings) as folder,
            ):
                rows = row_counts(to_new_file(repository, snapshot, folder / "counted.sqlite"))
                record = Record(sizes[snapshot.id], rows)
                row_records.write(settings.state, snapshot.stored_as, record)
        except (SnapshotError, DatabaseError, RepositoryDamagedError) as error:
            log.warning("snapshot %s is not counted: %s", snapshot.short_id, error.message)
            continue
        found[snapshot.id] = rows
        log.info("counted %s of %s", number, len(snapshots))
    return found
