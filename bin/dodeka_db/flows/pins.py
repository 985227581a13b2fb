"""make pin, make unpin: snapshots that stay whatever the retention policy says, with a note on why."""

from dodeka_db.errors import BackupError, SnapshotError, UsageError
from dodeka_db.flows import offsite
from dodeka_db.host import staging
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import NOTE, PINNED, Snapshot, resolve

# so many characters of a note are readable in a list
MAX_CHARACTERS = 80


def tags(note: str) -> tuple[str, ...]:
    """The tags of a pinned snapshot with `note`, which may be empty. Raises UsageError if restic cannot keep it in a tag."""
    note = " ".join(note.split())
    if "," in note:
        raise UsageError("a note cannot have a comma: restic separates tags by commas", "write it without")
    if len(note) > MAX_CHARACTERS:
        raise UsageError(f"the note has {len(note)} characters", f"{MAX_CHARACTERS} are possible")
    if not note.isprintable():
        raise UsageError("the note has characters that cannot be printed", "write it without")
    return (PINNED, *([f"{NOTE}{note}"] if note else []))


def pin(settings: RepositorySettings, environment: str, wanted: str, note: str) -> str:
    """Pin the snapshot `wanted` (as snapshots.resolve() takes it); returns its new ID in words.

    It gets the `note`; without one, a snapshot that has one keeps it.
    """
    added = tags(note)
    return _changed(settings, environment, wanted, f"pin of {environment}", added)


def unpin(settings: RepositorySettings, environment: str, wanted: str) -> str:
    """Take the pin and the note from the snapshot `wanted`: from now on the retention policy decides. Returns words."""
    return _changed(settings, environment, wanted, f"unpin of {environment}", ())


def pin_stored_as(repository: Repository, stored_as: str, note: str) -> str | None:
    """Pin the snapshot that was stored first under the ID `stored_as`, of 8 digits or more; its ID now, None if it is gone.

    To be called under the lock. One that is pinned already stays as it is. Raises BackupError if it is not pinned afterwards.
    """
    found = _stored_as(repository, stored_as)
    if not found:
        return None
    pinned = next((one for one in found if one.is_pinned), None)
    return (pinned or _tagged(repository, found[0], tags(note))).short_id


def id_of(repository: Repository, stored_as: str) -> str:
    """The ID now of the snapshot that was stored first under the ID `stored_as`, of 8 digits or more; "" if it is gone."""
    found = _stored_as(repository, stored_as)
    return found[0].short_id if found else ""


def _stored_as(repository: Repository, stored_as: str) -> list[Snapshot]:
    """They are two if somebody killed restic between the new tags and the removal of the old ones."""
    return [one for one in repository.listed() if one.stored_as.startswith(stored_as)]


def _changed(
    settings: RepositorySettings, environment: str, wanted: str, doing: str, added: tuple[str, ...]
) -> str:
    # restic locks the repository exclusively for this
    with offsite.copying_excluded(settings, doing), staging.locked(settings, doing):
        repository = Repository(settings)
        snapshot = resolve(settings, repository.snapshots(), environment, wanted)
        if not added and not snapshot.is_pinned:
            raise SnapshotError(f"snapshot {snapshot.short_id} is not pinned", "see: make snapshots")
        if added == tags("") and snapshot.note:
            added = snapshot.pin_tags
        now = _tagged(repository, snapshot, added)
    said = f"snapshot {now.short_id}, which was {snapshot.short_id}, is"
    if not added:
        return f"{said} no longer pinned: the retention policy decides"
    return f"{said} pinned{f' ({now.note})' if now.note else ''}: no retention removes it"


def _tagged(repository: Repository, snapshot: Snapshot, wanted: tuple[str, ...]) -> Snapshot:
    """The snapshot with the tags of a pin that are `wanted`, and no others. Raises BackupError if it does not get them."""
    repository.set_pin_tags(snapshot, wanted)
    # restic tells of a snapshot that it cannot change, and ends with 0
    for one in _stored_as(repository, snapshot.stored_as):
        if {*one.pin_tags} == {*wanted}:
            return one
    raise BackupError(
        f"the tags of snapshot {snapshot.short_id} of {repository.settings.shown} could not be changed",
        "see whether the repository can be written and has room: make status",
    )
