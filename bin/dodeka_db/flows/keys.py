"""make keys, key-add, key-remove: who can open the repository; a new key is proven before it is handed over."""

import re
from pathlib import Path

from dodeka_db.errors import BackupError, SnapshotError, UsageError, as_line
from dodeka_db.flows import offsite, verify
from dodeka_db.formatting import columns, when
from dodeka_db.host import password_files, staging
from dodeka_db.interrupts import shielded
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Key, Repository
from dodeka_db.restic.snapshots import newest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def add(settings: RepositorySettings, name: str) -> tuple[Key, Path]:
    """Add a key for `name`, prove it by a drill with that key alone, and return it and the file with its password.

    Raises UsageError for a name that is not valid or is taken, SnapshotError if there is no snapshot for the drill. If the
    proof fails, the key is removed again.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name", "use 1 to 40 of A-Z, a-z, 0-9, dot, hyphen and underscore"
        )
    with staging.locked(settings, f"key for {name}"):
        repository = Repository(settings)
        before = repository.keys()
        if any(key.name == name for key in before):
            raise UsageError(f"there is a key of {name} already", f"see: {settings.make('keys')}")
        snapshot = newest(repository.snapshots())
        if not snapshot:
            first = "make offsite" if settings.is_offsite else settings.make("backup ENV=production")
            raise SnapshotError("there is no snapshot yet, which is needed to prove a key", f"first: {first}")
        file = _password_file(settings, name)
        file.unlink(missing_ok=True)  # of a key that does not exist
        password_files.make(file, "ls -ld its folder")
        try:
            log.info("adding a key for %s", name)
            repository.add_key(name, file)
            log.info("opening the repository with the new key alone")
            alone = settings.opened_with(file)
            verify.prove(Repository(alone), snapshot)
            (added,) = _of(repository, name)
        except BaseException:
            _take_back(repository, name, {key.id for key in before})
            raise
    return added, file


def _password_file(settings: RepositorySettings, name: str) -> Path:
    """The file with the password of a new key until it is handed over."""
    return settings.state / f"key-{name}"


def left_files(settings: RepositorySettings) -> list[Path]:
    """The password files of new keys that are still on this server."""
    return sorted(path for path in settings.state.glob("key-*") if path.is_file())


def _of(repository: Repository, name: str) -> list[Key]:
    keys = repository.keys()
    return [key for key in keys if key.name == name]


def _take_back(repository: Repository, name: str, known: set[str]) -> None:
    settings = repository.settings
    with shielded():
        try:
            for key in _of(repository, name):
                if key.id not in known:
                    repository.remove_key(key)
            _password_file(settings, name).unlink(missing_ok=True)
        except (BackupError, OSError) as error:
            command = settings.make(f"key-remove NAME={name}")
            log.warning("the new key could not be removed: %s; then: %s", as_line(error), command)


def remove(settings: RepositorySettings, wanted: str) -> Key:
    """Remove the key of the name or ID `wanted`. UsageError if there is no such key, or it is the last one or the one in use."""
    doing = "removal of a key"
    with offsite.copying_excluded(settings, doing), staging.locked(settings, doing):
        repository = Repository(settings)
        keys = repository.keys()
        found = [key for key in keys if key.name == wanted] or [
            key for key in keys if re.fullmatch("[0-9a-f]{4,64}", wanted) and key.id.startswith(wanted)
        ]
        if not found:
            raise UsageError(f"no key has the name or ID {wanted!r}", f"see: {settings.make('keys')}")
        if len(found) > 1:
            ids = ", ".join(key.short_id for key in found)
            raise UsageError(f"{wanted} matches several keys: {ids}", "use an ID")
        (key,) = found
        if len(keys) == 1:
            raise UsageError(
                f"key {key.short_id} is the only one: without it nobody could read the backups",
                f"first: {settings.make('key-add NAME=...')}",
            )
        if key.is_in_use:
            place = settings.password_file or "the settings"
            raise UsageError(
                f"key {key.short_id} is the one that this server uses, by the password in {place}",
                "first put the password of another key there",
            )
        repository.remove_key(key)
        if _NAME.fullmatch(key.name):
            _password_file(settings, key.name).unlink(missing_ok=True)
    return key


def table(settings: RepositorySettings) -> list[str]:
    """The repository's keys as a table: ID, name, host, when it was made, whether it is the one in use."""
    keys = Repository(settings).keys()
    rows = [("ID", "Name", "Host", "Made", "")]
    rows += [
        (key.short_id, key.name, key.host, when(key.made), "in use" if key.is_in_use else "") for key in keys
    ]
    return columns(rows, "<<<<<")
