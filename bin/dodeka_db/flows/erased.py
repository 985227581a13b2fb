"""make erased: write down that a member was erased, so that no restore of an older snapshot brings the member back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.data_description import DataDescription
from dodeka_db.errors import BackupError, SnapshotError
from dodeka_db.flows import changes, erasures
from dodeka_db.flows.download import to_new_file
from dodeka_db.formatting import cell, counted, when
from dodeka_db.host import run_lock, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.erasures import new_key, of_names
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, of_environment
from dodeka_db.settings import ENVIRONMENTS, Environment, Settings
from dodeka_db.sqlite import erased_rows
from dodeka_db.sqlite.connection import opened
from dodeka_db.sqlite.erased_rows import Found, Name


@dataclass
class Member:
    """A member: all names by which rows are found, in which database they were found, and how many rows are live still.

    `live_elsewhere` are the rows in the live databases of other environments that may be clones of this one, by name.
    """

    names: set[Name]
    where: str
    live_rows: int = 0
    live_elsewhere: dict[str, int] = field(default_factory=dict)


def run(
    settings: Settings,
    source: RepositorySettings,
    environment: Environment,
    addresses: Sequence[str],
    confirm: Callable[[Sequence[str]], None],
) -> str:
    """Store an erasure of each member with one of these addresses, in both repositories; returns what was done, in words.

    A member is looked for in the live database, then in the snapshots of `source`, the newest first. `confirm` gets what was
    found, and raises if the answer is not yes. No row of a member is changed, and no snapshot. Raises SnapshotError if an
    address is nobody's, SetupError or BackupError; then nothing is stored, or some of the erasures.
    """
    main, doing = settings.main, f"erasure in {environment.name}"
    description = data_description.read()
    with staging.locked(main, doing):
        repository = Repository(source)
        snapshots = of_environment(repository.snapshots(), environment.name)
        members = _Search(settings, environment, description).members(repository, snapshots, addresses)
    future = [one.short_id for one in snapshots if one.is_from_the_future]
    if future:
        log.warning("the erasure will not hold for what is from the future: %s", ", ".join(future))
    confirm(_question(environment, members))
    with staging.locked(main, doing):
        repository = Repository(main)
        repository.check_writable()
        repository.listed()
        before = erasures.known(repository)
        key = before[0].key if before else new_key()
        now = datetime.now(UTC)
        tags = [of_names(environment.name, now, key, one.names).tags for one in members.values()]
        log.info("storing %s in %s", counted(len(tags), "erasure"), main.shown)
        erasures.store(repository, tags)
    if settings.offsite:
        _store_offsite(settings.offsite, doing, tags)
    stays = "stay" if len(tags) > 1 else "stays"
    return f"{counted(len(tags), 'member')} {stays} out of every snapshot before {when(now)}"


def _store_offsite(offsite: RepositorySettings, doing: str, tags: Sequence[tuple[str, ...]]) -> None:
    try:
        with staging.locked(offsite, doing):
            log.info("storing %s in %s", counted(len(tags), "erasure"), offsite.shown)
            erasures.store(Repository(offsite), tags)
    except BackupError as error:
        log.warning("not off-site yet, make offsite copies it: %s", error)


def _question(environment: Environment, members: dict[str, Member]) -> list[str]:
    lines = []
    for address, one in members.items():
        lines.append(f"{cell(address)}: found in {one.where}")
        if one.live_rows:
            lines += [
                f"  {counted(one.live_rows, 'row')} STILL IN THE LIVE DATABASE: every snapshot has them until the",
                "  backend deletes them; then run this again",
            ]
        for name, count in one.live_elsewhere.items():
            lines += [
                f"  {counted(count, 'row')} STILL IN THE LIVE DATABASE OF {name.upper()}, a clone perhaps: delete them",
                f"  there too, or clone again, and then run this with ENV={name}",
            ]
    return [
        *lines,
        "What is stored says nothing about them to anybody who does not know them.",
        f"No restore, undo, clone, bring-back or open of a snapshot of {environment.name} that is",
        "older than now has their rows again. Nothing is deleted by this.",
    ]


class _Search:
    """The search for members, in one database after the other."""

    def __init__(self, settings: Settings, environment: Environment, description: DataDescription) -> None:
        self._main, self._environment, self._description = settings.main, environment, description
        # what is cloned is production
        self._clones = [
            one
            for one in settings.environments
            if environment.name == ENVIRONMENTS[0] != one.name and one.live.exists()
        ]

    def members(
        self, repository: Repository, snapshots: Sequence[Snapshot], addresses: Sequence[str]
    ) -> dict[str, Member]:
        """The member of each address. SnapshotError if one is nobody's."""
        known_by = self._description.known_by
        addresses = list(dict.fromkeys(addresses))
        wanted = {address: {(known_by.name, known_by.normal(address))} for address in addresses}
        members: dict[str, Member] = {}
        with staging.folder(self._main) as folder:
            live = self._live(self._environment, folder)
            self._look(live, "the live database", wanted, members)
            for snapshot in reversed(snapshots):
                if len(members) == len(addresses):
                    break
                self._look_in_snapshot(repository, snapshot, folder, wanted, members)
            if nobody := [address for address in addresses if address not in members]:
                raise SnapshotError(
                    f"no row of {self._environment.name} belongs to {', '.join(nobody)}, neither in the live database nor in"
                    f" {counted(len(snapshots), 'snapshot')} of {repository.settings.shown}",
                    "nothing was stored; check how the address is written, or see BACKUP.md, 'A member asks to be erased'",
                )
            for address, one in self._found(live, {key: one.names for key, one in members.items()}).items():
                members[address].live_rows = one.count
                members[address].names |= one.names
            # a database that is no clone may have made-up people with the same numbers
            kinds = self._description.kinds
            names = {
                address: {name for name in one.names if kinds[name[0]].personal != "number"}
                for address, one in members.items()
            }
            for clone in self._clones:
                for address, one in self._found(self._live(clone, folder), names).items():
                    members[address].live_elsewhere[clone.name] = one.count
        return members

    def _live(self, environment: Environment, folder: Path) -> Path | None:
        """The live database of `environment`, or a copy; None, with a warning, if it cannot be read."""
        try:
            with run_lock.beside(environment.live, self._main.lock_wait_s):
                return changes.source_of_live(environment.live, folder / f"{environment.name}.sqlite").path
        except BackupError as error:
            log.warning("not looking in the live database of %s: %s", environment.name, error)
            return None

    def _look_in_snapshot(
        self,
        repository: Repository,
        snapshot: Snapshot,
        folder: Path,
        wanted: dict[str, set[Name]],
        members: dict[str, Member],
    ) -> None:
        copy = folder / "snapshot.sqlite"
        try:
            copy.unlink(missing_ok=True)
            to_new_file(repository, snapshot, copy)
            where = f"snapshot {snapshot.short_id} of {when(snapshot.time)}"
            self._look(copy, where, wanted, members)
        except SnapshotError as error:
            log.warning("not looking in snapshot %s: %s", snapshot.short_id, error.message)

    def _look(
        self, path: Path | None, where: str, wanted: dict[str, set[Name]], members: dict[str, Member]
    ) -> None:
        missing = {address: names for address, names in wanted.items() if address not in members}
        for address, found in self._found(path, missing).items():
            # as in member_rows: anybody can ask for a new password
            if any(not self._description.tables[table].is_of_the_moment for table in found.rows):
                members[address] = Member(found.names | wanted[address], where)

    def _found(self, path: Path | None, wanted: dict[str, set[Name]]) -> dict[str, Found]:
        if path is None or not wanted:
            return {}
        by_name: dict[Name, list[str]] = {}
        for address, names in wanted.items():
            for name in names:
                by_name.setdefault(name, []).append(address)
        with opened(path, "mode=ro", f"database {path}") as connection:
            connection.execute("BEGIN")
            return erased_rows.find(
                connection, self._description, lambda kind, text: by_name.get((kind.name, text), ())
            ).found
