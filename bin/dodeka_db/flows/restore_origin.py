"""The origin of a restore's data: a snapshot, or the database that the last restore replaced."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dodeka_db import progress, safe_open
from dodeka_db.errors import SnapshotError
from dodeka_db.flows import erasures, leftovers
from dodeka_db.flows.download import Incoming, download
from dodeka_db.host import whole_clones
from dodeka_db.log import log
from dodeka_db.restic.erasures import Erasure
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, newest_pre_restore
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import kept_files
from dodeka_db.sqlite.checkpoint import refuse_if_open


@dataclass(frozen=True)
class Origin:
    """A source of data: its environment, its time, and a function that writes it to a file as a database.

    `whole_clone_of` is the environment whose whole clone it is itself; "" if it is none.
    `erasures` are those of members who are left out of it. `stored_as` is the ID under which the target's own snapshot that it
    is was stored first; "" if it is none.
    """

    shown: str
    environment: str
    time: datetime
    write: Callable[[Incoming], None]
    whole_clone_of: str
    erasures: Sequence[Erasure] = ()
    stored_as: str = ""


def of_snapshot(
    repository: Repository, target: Environment, snapshot: Snapshot, all_members: bool = False
) -> Origin:
    """The snapshot, which a listing of `repository` has. `all_members`: with those who were erased since.

    To be called under the lock: members may be erased until then.
    """
    if not all_members and erasures.on_record(repository.settings.state) is None:
        repository.listed()  # an erasure that has come since the snapshot was chosen is not on record
    left_out = [] if all_members else erasures.since(repository, snapshot.environment, snapshot.time)
    shown = f"snapshot {snapshot.short_id}"
    if snapshot.environment != target.name:
        shown += f" of {snapshot.environment}"
    if repository.settings.is_offsite:
        shown += " of the off-site repository"
    return Origin(
        *(shown, snapshot.environment, snapshot.time),
        lambda file: download(repository, snapshot, file),
        snapshot.whole_clone_of,
        left_out,
        snapshot.stored_as if snapshot.environment == target.name else "",
    )


def of_last_restore(settings: Settings, target: Environment, all_members: bool = False) -> Origin:
    """The database that the last restore replaced. `all_members`: with those who were erased since."""
    if kept := kept_files.kept_beside(target.live):
        since = kept_files.since(kept[-1])
        left_out = [] if all_members else erasures.since_on_record(settings.main, target.name, since)
        origin = _of_kept_file(settings, target, kept[-1], left_out)
    else:
        repository = Repository(settings.main)
        found = newest_pre_restore(settings.main, repository.snapshots(), target.name)
        origin = of_snapshot(repository, target, found, all_members)
    damaged = kept_files.damaged_beside(target.live)
    if damaged and kept_files.since(damaged[-1]) > origin.time:
        raise SnapshotError(
            f"the database that the last restore replaced is damaged, and is kept as {damaged[-1]}",
            f"choose an older state: {settings.main.make(f'restore ENV={target.name}')}",
        )
    return origin


def _of_kept_file(settings: Settings, target: Environment, kept: Path, left_out: Sequence[Erasure]) -> Origin:
    refuse_if_open(kept)
    leftovers.settle_for_use(kept)

    def write(file: Incoming) -> None:
        file.start_over()
        log.info("copying %s", kept)
        with open(kept, "rb", opener=safe_open.no_link) as source, progress.step("copying", file.far):
            shutil.copyfileobj(source, file)

    of = whole_clones.source(settings.main.state, target.name, kept)
    return Origin(kept.name, target.name, kept_files.since(kept), write, of, left_out)
