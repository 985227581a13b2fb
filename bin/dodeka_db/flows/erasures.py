"""The list of erasures: what it holds, whom it keeps out of a database, and when an erasure has done its work.

The list is in the repositories, and is read with the list of snapshots. A copy of it is on record in DODEKA_STATE, for the
times when a repository cannot tell all of it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.data_description import Kind
from dodeka_db.errors import BackupError, RepositoryDamagedError, SetupError, SnapshotError
from dodeka_db.flows import oldest_copies
from dodeka_db.formatting import cell, counted
from dodeka_db.host import disks, row_records, staging, state_files
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import erasures
from dodeka_db.restic.erasures import Erasure, Tags
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot
from dodeka_db.settings import ENVIRONMENTS
from dodeka_db.sqlite import erased_rows
from dodeka_db.sqlite.erased_rows import Removed

_SEE = "see BACKUP.md, 'A member asks to be erased'"


def known(repository: Repository) -> list[Erasure]:
    """All erasures: those that the last listing of `repository` found, and those on record here.

    Raises RepositoryDamagedError if one may be there that cannot be read.
    """
    settings = repository.settings
    held = [on_record(state) for state in settings.states]
    for snapshot_id in repository.unreadable:
        is_database = any(row_records.read(state, snapshot_id) for state in settings.states)
        if not is_database and held[0] is None:
            raise RepositoryDamagedError(
                f"snapshot {snapshot_id[:8]} of {settings.shown} is damaged, and may stand for members who were erased",
                _SEE,
            )
    note(repository)
    tags = {*repository.erasures.values(), *(one for some in held for one in some or ())}
    return _parsed(tags, settings)


def since(repository: Repository, environment: str, time: datetime) -> list[Erasure]:
    """The erasures, after `time`, of members of whom the last listing's snapshots of `environment` may have rows.

    Demo may hold a clone of production: erasures of production hold there too. Raises as known() does.
    """
    return _since(known(repository), environment, time)


def since_on_record(settings: RepositorySettings, environment: str, time: datetime) -> list[Erasure]:
    """As since(), by the record in DODEKA_STATE; the repository is asked only if there is none."""
    tags = on_record(settings.state)
    if tags is None:
        repository = Repository(settings)
        repository.listed()
        return since(repository, environment, time)
    return _since(_parsed(tags, settings), environment, time)


def check_none_came(settings: RepositorySettings, before: list[Tags] | None) -> None:
    """Raise SnapshotError if an erasure came since on_record() returned `before`: the data that is ready may have the member."""
    if {*(on_record(settings.state) or ())} - {*(before or ())}:
        raise SnapshotError("a member was erased meanwhile", "nothing was changed; run this again")


def apply(left_out: Sequence[Erasure], path: Path, shown: str) -> Removed:
    """Remove the rows of those members from the database in the file `path`, which nobody else uses; `shown` is its name.

    Raises the failure, which says that the members could not be removed.
    """
    if not left_out:
        return Removed()
    try:
        description = data_description.read()
        by_key: dict[bytes, dict[tuple[str, str], list[int]]] = {}
        for number, one in enumerate(left_out):
            held = by_key.setdefault(one.key, {})
            for kind, hashes in one.hashes.items():
                if kind not in description.kinds:
                    raise SetupError(f"{description.file} has no kind <{kind}>, which an erasure names")
                for digits in hashes:
                    held.setdefault((kind, digits), []).append(number)

        def starts(kind: Kind, text: str) -> list[int]:
            return [
                number
                for key, held in by_key.items()
                for number in held.get((kind.name, erasures.hashed(key, kind.name, text)), ())
            ]

        # the file is written anew, beside the one that is there
        disks.check_room_beside(path, "use a larger disk")
        removed = erased_rows.remove(path, shown, description, starts)
    except BackupError as error:
        raise type(error)(f"members who were erased cannot be left out: {error.message}", _SEE) from error
    if removed.remains:
        log.warning("remains of deleted rows may be left in %s: %s", shown, removed.remains)
    if removed.undescribed:
        log.warning(
            "%s has tables or rows that deploy/data.toml does not describe; if members who were erased have some, these come back: %s",
            *(shown, ", ".join(map(cell, removed.undescribed))),
        )
    accounts = {
        (kind, text)
        for one in removed.found.values()
        for kind, text in one.names
        if description.kinds[kind].personal == "user ID" and not starts(description.kinds[kind], text)
    }
    if accounts:
        log.warning(
            "%s: %s left out too, since an erased member's address or number was that account's then:"
            " see docs/data.md, 'Who stays erased'",
            *(shown, counted(len(accounts), "other account")),
        )
    return removed


def lines(removed: Removed) -> list[str]:
    """What apply() did, in words."""
    if not removed.members:
        return []
    stay = "stays" if removed.members == 1 else "stay"
    return [
        f"{counted(removed.members, 'member')} erased since {stay} erased ({counted(removed.rows, 'row')})."
    ]


def store(repository: Repository, new: Iterable[Tags]) -> None:
    """Store erasures in `repository`, under its lock, and list them again. RepositoryDamagedError if one is not in the list."""
    new = list(new)
    with staging.folder(repository.settings) as folder:
        for tags in new:
            repository.store_erasure(tags, folder)
    repository.listed()
    if not {*repository.erasures.values()}.issuperset(new):
        raise RepositoryDamagedError(f"an erasure is not in {repository.settings.shown}, which took it", _SEE)
    note(repository)


def copy_missing(source: Repository, target: Repository, snapshots: Sequence[Snapshot]) -> None:
    """Store in `target` the erasures that it lacks and its `snapshots` need, after both were listed."""
    held = [on_record(state) or () for state in target.settings.states]
    tags = {*source.erasures.values(), *(one for some in held for one in some)} - {*target.erasures.values()}
    missing = [
        one for one in sorted(tags) if (time := _time(one)) and any(old.time < time for old in snapshots)
    ]
    if missing:
        log.info("copying %s", counted(len(missing), "erasure"))
        store(target, missing)


def expire(repository: Repository, left: Sequence[Snapshot]) -> None:
    """Forget the erasures that no snapshot anywhere is older than: none of `left`, the snapshots of `repository`, and none off-site.

    None is forgotten while that is not known.
    """
    settings = repository.settings
    note(repository)
    oldest = [min((one.time for one in left), default=None)]
    if settings.copied_to:
        oldest.append(oldest_copies.offsite(settings))
    if repository.unreadable or None in oldest:
        return
    first = min(filter(None, oldest))
    done = {
        snapshot_id: tags
        for snapshot_id, tags in repository.erasures.items()
        if (time := _time(tags)) and time < first
    }
    if done:
        log.info("forgetting %s, older than every snapshot", counted(len(done), "erasure"))
        repository.forget_erasures(done)
    _write(settings.state, [one for one in on_record(settings.state) or () if (_time(one) or first) >= first])


def note(repository: Repository) -> None:
    """Add what the last listing of `repository` found to the record. One that could not tell all of it begins no record."""
    state = repository.settings.state
    held = on_record(state)
    if held is not None or not repository.unreadable:  # whoever finds a record takes it for all that there is
        _write(state, sorted({*repository.erasures.values(), *(held or ())}))


def _since(found: Iterable[Erasure], environment: str, time: datetime) -> list[Erasure]:
    return [one for one in found if one.time > time and one.environment in (environment, ENVIRONMENTS[0])]


def _parsed(tags: Iterable[Tags], settings: RepositorySettings) -> list[Erasure]:
    try:
        return [erasures.from_tags(one) for one in tags]
    except ValueError as error:
        raise RepositoryDamagedError(
            f"an erasure of {settings.shown} cannot be read: it is not one that this version writes", _SEE
        ) from error


def _time(tags: Tags) -> datetime | None:
    try:
        return erasures.from_tags(tags).time
    except ValueError:
        return None


def on_record(state: Path) -> list[Tags] | None:
    """The erasures on record in the folder `state`; None if there is no record, or it cannot be read."""
    try:
        found = state_files.read(_file(state))
    except OSError:
        return None
    if not isinstance(found, list) or not all(isinstance(one, list) for one in found):
        return None
    return [tuple(map(str, one)) for one in found]


def _write(state: Path, tags: Sequence[Tags]) -> None:
    if tags != on_record(state):
        state_files.write(_file(state), tags)


def _file(state: Path) -> Path:
    return state / "erasures.json"
