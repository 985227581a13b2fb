"""A restic repository: its contents, and the operations on them, as commands of restic."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from dodeka_db import places
from dodeka_db.errors import (
    BackupError,
    RepositoryDamagedError,
    RepositoryFullError,
    RepositoryMissingError,
    SetupError,
    SnapshotError,
)
from dodeka_db.host import disks, password_files
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import erasures, failures, json_values, listing_record, retention_policy
from dodeka_db.restic.runner import Restic
from dodeka_db.restic.snapshots import (
    DATABASE,
    PINNED,
    PRE_RESTORE,
    PROBE,
    Snapshot,
    from_json,
    tag_filter,
    tags_of,
)
from dodeka_db.restic.stale_locks import Lock
from dodeka_db.settings import FORMATS, Environment
from dodeka_db.stream_types import Readable

Parsed = TypeVar("Parsed")

# a time that makes the probe nobody's latest snapshot
_PROBE_TIME = "2000-01-01 00:00:00"
NO_COMPRESSION = (
    "the repository has restic's format 1, which cannot compress; DODEKA_FORMAT=pages needs format 2"
)
UPGRADE = "make restic ARGS='migrate upgrade_repo_v2' (docs/formats.md)"


@dataclass(frozen=True)
class Config:
    """A repository's configuration: its ID, its format, which compresses from 2 on, the polynomial that cuts files into chunks."""

    id: str
    format: int
    chunker_polynomial: str


@dataclass(frozen=True)
class Key:
    """One of the passwords that open a repository: whose it is, and where and when it was made."""

    id: str
    name: str
    host: str
    made: datetime
    is_in_use: bool

    @property
    def short_id(self) -> str:
        return self.id[:8]


@dataclass(frozen=True)
class Stored:
    """A stored snapshot: its ID (8 digits or more), the path of its file, the bytes that it added.

    Without `is_exact`, `added_bytes` is their size before restic compressed them.
    """

    snapshot_id: str
    path: str
    added_bytes: int
    is_exact: bool


class Repository:
    """A restic repository with its password. Making one checks that all places answer, and the password file.

    `locking` False: read only, ignoring locks, without a cache; the caller has checked that its places answer.
    """

    def __init__(self, settings: RepositorySettings, locking: bool = True) -> None:
        self.settings = settings
        self._restic, self._writes = Restic(settings, locking), locking
        self.unreadable: list[str] = []
        self.erasures: dict[str, erasures.Tags] = {}
        if locking:
            places.check_answers(settings.places)
        password_files.check(settings)

    def config(self) -> Config | None:
        """The repository's configuration; None if there is no repository. WrongPasswordError if it needs another password."""
        try:
            return self._restic.ask(
                lambda found: Config(found["id"], int(found["version"]), found["chunker_polynomial"]),
                "cat",
                "config",
            )
        except RepositoryMissingError:
            return None

    def init(self, like: RepositorySettings | None = None) -> None:
        """Create it; with the chunking of the repository that `like` names, so that copies between them deduplicate.

        The options are those of restic from 0.14 on (https://restic.readthedocs.io/en/stable/045_working_with_repos.html).
        """
        self._restic.run("init", *(["--copy-chunker-params"] if like else []), source=like)

    def copy_from(self, source: RepositorySettings, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Copy the snapshots that this repository lacks; `snapshots` are all that the repository of `source` has.

        Returns the damaged ones, which are not copied. One call of restic unless some are damaged.
        """

        def copy(some: Sequence[Snapshot]) -> None:
            are_all = len(some) == len(snapshots)
            self._copy(source, *(("--tag", DATABASE) if are_all else ("--", *(one.id for one in some))))

        return self._each_whole(snapshots, copy)

    def _copy(self, source: RepositorySettings, *which: str) -> None:
        folder = source.folder
        if not (folder and disks.is_read_only(folder)):
            try:
                self._restic.run("copy", *which, source=source)
                return
            except RepositoryFullError as full:
                if source.shown not in full.message:
                    raise
        # a full or read-only volume has no room for a lock, and its snapshots need the copy most
        self._restic.run("copy", "--no-lock", *which, source=source)

    def keys(self) -> list[Key]:
        """The keys that open it, the oldest first."""
        found = self._restic.ask(
            lambda entries: [
                Key(
                    id=json_values.object_id(entry["id"]),
                    name=str(entry["userName"]),
                    host=str(entry["hostName"]),
                    made=json_values.moment(entry["created"]),
                    is_in_use=bool(entry["current"]),
                )
                for entry in json_values.entries(entries)
            ],
            *("key", "list", "--json"),
        )
        return sorted(found, key=lambda key: key.made)

    def add_key(self, name: str, password_file: Path) -> None:
        self._restic.run("key", "add", "--new-password-file", str(password_file), "--user", name)

    def remove_key(self, key: Key) -> None:
        self._restic.run("key", "remove", key.id)

    def store(
        self,
        file: BinaryIO,
        environment: Environment,
        extra_tags: tuple[str, ...] = (),
        time: datetime | None = None,
    ) -> Stored:
        """Store a finished file, from its start, as a new snapshot in the format that is set, of `time` (now if left out).

        restic takes the end of its input for success, so `file` is a real file that is complete, never a
        producer that could die half way. From standard input its path is the same on every machine.
        """
        name = environment.file_name(self.settings.format)
        is_compressed = self.settings.format == "zst"
        tags = (*tags_of(environment.name), *extra_tags)
        output = self._restic.run(
            *("backup", "--json", "--stdin", "--stdin-filename", name),
            *(("--compression", "off") if is_compressed else ()),
            *("--tag", ",".join(tags)),
            *(("--time", f"{time.astimezone():%Y-%m-%d %H:%M:%S}") if time else ()),
            stdin=file,
        ).stdout
        stored = self._restic.parsed(
            lambda summary: _stored(summary, f"/{name}", is_compressed), _summary(output)
        )
        taken = (time or datetime.now()).astimezone().isoformat()
        entry = {"time": taken, "tags": tags, "hostname": os.uname().nodename, "paths": [stored.path]}
        listing_record.add(self.settings, stored.snapshot_id, entry)
        return stored

    def listed(self) -> list[Snapshot]:
        """All snapshots of all environments, the oldest first, also those without a database: one call.

        Afterwards `unreadable` has the IDs of those whose metadata restic cannot read, and `erasures` the tags of the
        snapshots that stand for an erasure, by their IDs.
        """
        present = listing_record.present(self.settings)
        done = self._restic.run("snapshots", "--json", "--tag", DATABASE, "--tag", erasures.TAG)
        self.unreadable = failures.unreadable_snapshots(done.stderr)
        found = self._parsed(done.stdout)
        if self._writes and not self.unreadable:
            self._restic.parsed(partial(listing_record.write, self.settings, present or ()), done.stdout)
        return found

    def known(self) -> list[Snapshot]:
        """As listed(); without starting restic if all that restic would say is on record. To be called under the lock."""
        if on_record := listing_record.read(self.settings):
            with suppress(BackupError):  # it is no such record
                found = self._parsed(on_record)
                self.unreadable = []
                return found
        return self.listed()

    def _parsed(self, output: bytes) -> list[Snapshot]:
        self.erasures = self._restic.parsed(_erasures, output)
        return sorted(self._restic.parsed(from_json, output), key=lambda snapshot: snapshot.time)

    def check_writable(self) -> None:
        """Raise BackupError unless a local repository exists and can be written; one on a server is not checked.

        By itself restic goes on trying on a read-only file system, for up to a quarter of an hour.
        """
        folder, shown = self.settings.folder, self.settings.shown
        if not folder:
            return
        if not (folder / "config").exists():
            raise failures.missing(self.settings)
        if disks.is_read_only(folder):
            raise BackupError(
                f"repository {shown} is on a file system that is mounted read-only",
                f"for the reason: sudo dmesg; if the disk is healthy: sudo mount -o remount,rw {disks.mount_point(folder)}",
            )
        if not os.access(folder, os.W_OK):
            raise SetupError(f"repository {shown} cannot be written", "run this as the user that owns it")

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that hold a database, the oldest first: one call, which does not read their content.

        Warns of unreadable ones.
        """
        found = [snapshot for snapshot in self.listed() if snapshot.path]
        for snapshot_id in self.unreadable:
            log.warning(
                "snapshot %s is damaged, so it is not listed; see %s", snapshot_id[:8], failures.DAMAGED
            )
        return found

    def all_sizes(self) -> dict[str, int]:
        """The bytes of the database's file in each snapshot, by the snapshot's ID: one call. Raises RepositoryDamagedError.

        `restic snapshots` knows no sizes before 0.17, `restic find` does. Without a lock at first: it is asked beside the
        listing, and a restic that looks at the locks of others waits where one of these goes. Only a prune elsewhere may make
        that fail.
        """
        try:
            return self._sizes("--no-lock", "--tag", DATABASE)
        except RepositoryDamagedError:
            return self._sizes("--tag", DATABASE)

    def sizes(self, snapshots: Sequence[Snapshot], all_sizes: Callable[[], dict[str, int]]) -> dict[str, int]:
        """What `all_sizes` returns, of `snapshots`; or those of the undamaged ones, with a warning of the others."""
        found: dict[str, int] = {}

        def look(some: Sequence[Snapshot]) -> None:
            named = [word for snapshot in some for word in ("--snapshot", snapshot.id)]
            found.update(all_sizes() if len(some) == len(snapshots) else self._sizes(*named))

        try:
            damaged = self._each_whole(snapshots, look)
        except failures.IndexDamagedError as error:
            log.warning("the sizes are not known: %s", error)
            return {}
        for snapshot in snapshots:
            if snapshot.id not in found and snapshot not in damaged:
                damaged.append(snapshot)  # restic has named it among what it found, and gone on
        for snapshot in damaged:
            log.warning(
                "snapshot %s of %s is damaged; see %s",
                *(snapshot.short_id, snapshot.environment, failures.DAMAGED),
            )
        return found

    def _sizes(self, *among: str) -> dict[str, int]:
        names = [f"dodeka-*{ending}" for ending in FORMATS.values()]
        output = self._restic.run("find", "--json", *among, *names).stdout
        return self._restic.parsed(
            lambda entries: {
                entry["snapshot"]: json_values.count(entry["matches"][0].get("size", 0))
                for entry in json_values.entries(entries)
                if entry["matches"]
            },
            failures.without_damage(output),
        )

    def _each_whole(
        self, snapshots: Sequence[Snapshot], work: Callable[[Sequence[Snapshot]], None]
    ) -> list[Snapshot]:
        """Do `work` for all undamaged `snapshots`, in as few calls as possible; returns the damaged ones.

        Raises the other failures of `work`, and IndexDamagedError, since no snapshot can be read then.
        """
        if not snapshots:
            return []
        try:
            work(snapshots)
            return []
        except failures.IndexDamagedError:
            raise
        except RepositoryDamagedError:
            if len(snapshots) == 1:
                return list(snapshots)
        half = len(snapshots) // 2
        return self._each_whole(snapshots[:half], work) + self._each_whole(snapshots[half:], work)

    def dump(
        self, snapshot_id: str, path: str, reader: Callable[[Readable], None], options: Sequence[str] = ()
    ) -> None:
        """Give `reader` the file at `path` in the snapshot as a stream; on a second try from the start again.

        `options` are restic's. Raises SnapshotError if the file cannot be read to its end, and what `reader` raises.
        """
        self._restic.run("dump", *options, "--", snapshot_id, path, reader=reader)

    def path_in(self, snapshot: Snapshot) -> str:
        """The path of the file inside the snapshot: restic stores a file that was given by a relative path at the top."""
        name = snapshot.path.rpartition("/")[2]
        if snapshot.path == f"/{name}":
            return snapshot.path
        lines = self._restic.run("ls", "--json", "--", snapshot.id).stdout.splitlines()
        paths: list[str] = self._restic.parsed(
            lambda entries: [
                entry["path"] for entry in entries if entry.get("type") == "file" and entry["name"] == name
            ],
            b"[" + b",".join(lines) + b"]",
        )
        if not paths:
            raise SnapshotError(f"snapshot {snapshot.short_id} does not hold {name}", "choose another one")
        return paths[0]

    def set_pin_tags(self, snapshot: Snapshot, wanted: Sequence[str]) -> None:
        """Give a snapshot the tags of a pin that are `wanted`, none with a comma in it, and take the others of a pin from it.

        The snapshot gets a new ID, and keeps `stored_as`. restic does not fail if it cannot change the snapshot.
        """
        options = [word for tag in wanted if tag not in snapshot.tags for word in ("--add", tag)]
        options += [word for tag in snapshot.pin_tags if tag not in wanted for word in ("--remove", tag)]
        if options:
            self._restic.run("tag", *options, "--", snapshot.id)

    def forget(self, environment: Environment) -> list[str]:
        """Apply the retention policy to this environment's ordinary snapshots and prune; the IDs of the removed ones.

        Snapshots of one set of tags are one group, whatever host they are from: a server that gets another name goes on
        with the same group. Pre-restore snapshots stay: forget_these() is for them. So do pinned ones.
        """
        return self._forget(environment, _removed, "--prune")

    def forget_these(self, snapshots: Sequence[Snapshot]) -> None:
        """Forget these snapshots and prune."""
        self._restic.run("forget", "--prune", "--", *(snapshot.id for snapshot in snapshots))

    def forget_without_room(self, environment: Environment, snapshots: Sequence[Snapshot]) -> None:
        """Apply both removals on a full disk: no pack is rewritten, so only packs that are wholly unused are freed.

        If there is no room for restic's lock either, the file of one of those snapshots is removed first, without restic,
        which would remove it as well.
        """
        ids = [*(one.id for one in snapshots), *self._forget(environment, _removed, "--dry-run", "--no-lock")]
        folder = self.settings.folder
        if ids:
            try:
                self._restic.run("forget", "--", *ids)
            except RepositoryFullError:
                if not folder:
                    raise
                (folder / "snapshots" / ids[0]).unlink(missing_ok=True)
                self._restic.run("forget", "--", *ids)
        self._restic.run("prune", "--max-repack-size", "0")

    def decided(self, environment: Environment) -> tuple[dict[str, list[str]], list[str]]:
        """What forget() would do now: the IDs that stay, each with restic's reasons, and the IDs that would go."""
        return self._forget(
            environment, lambda groups: (_reasons(groups), _removed(groups)), "--dry-run", "--no-lock"
        )

    def _forget(self, environment: Environment, convert: Callable[[Any], Parsed], *options: str) -> Parsed:
        """A forget with `options`; `convert` gets what restic says of each group of snapshots, None if there are none."""
        output = self._restic.run(
            *("forget", "--json", *options, "--group-by", "tags", "--tag", tag_filter(environment.name)),
            *("--keep-tag", PRE_RESTORE, "--keep-tag", PINNED),
            *retention_policy.options(),
        ).stdout
        # 0.14 and 0.18 print prune's progress after the JSON, and nothing at all if there is no snapshot
        return self._restic.parsed(convert, output.partition(b"\n")[0] or b"[]")

    def is_removable(self, folder: Path) -> bool:
        """Whether this machine can remove a snapshot: tried on a probe, made in `folder`, which holds no database.

        If it cannot, the same probe is tried again the next time. Its content never changes, so nothing piles up.
        """
        if not (probes := self._probes()):
            self._store_note(folder, PROBE, "to be removed", "--tag", PROBE, "--time", _PROBE_TIME)
            probes = self._probes()
        try:
            self._restic.run("forget", "--", *probes)
        except failures.RemovalRefusedError:
            return False
        return not self._probes()

    def store_erasure(self, tags: erasures.Tags, folder: Path) -> None:
        """Store a snapshot with these tags, of a small file that is made in `folder` and always the same."""
        self._store_note(folder, erasures.FILE, "all of it is in the tags", "--tag", ",".join(tags))

    def forget_erasures(self, snapshot_ids: Iterable[str]) -> None:
        """Forget these snapshots. They hold nothing that would be worth a prune."""
        self._restic.run("forget", "--", *snapshot_ids)

    def _store_note(self, folder: Path, name: str, text: str, *options: str) -> None:
        with open(folder / name, "w+b") as file:
            file.write(f"{text}\n".encode())
            file.seek(0)
            self._restic.run("backup", "--stdin", "--stdin-filename", name, *options, stdin=file)

    def _probes(self) -> list[str]:
        output = self._restic.run("snapshots", "--json", "--tag", PROBE).stdout
        return self._restic.parsed(
            lambda entries: [str(one["id"]) for one in entries or () if one["tags"] == [PROBE]], output
        )

    def check(self, part: int, parts: int, folder: Path) -> None:
        """Check the repository's structure, and read the data in one of `parts` parts of it, numbered from 1.

        restic's cache for that is in `folder`, since a killed restic leaves it behind. Raises RepositoryDamagedError,
        having logged what restic says.
        """
        self._restic.run("check", f"--read-data-subset={part}/{parts}", "--cache-dir", str(folder))

    def stored_bytes(self, environment: Environment) -> int:
        """The bytes of the repository that the snapshots of `environment` need, shared data counted once."""
        return self._restic.ask(
            lambda stats: json_values.count(stats["total_size"]),
            *("stats", "--json", "--mode", "raw-data", "--tag", tag_filter(environment.name)),
        )

    def locks(self) -> tuple[list[Lock], list[str]]:
        """restic's own locks in the repository now, and the IDs of those whose content cannot be read."""
        return self._restic.locks()


def _erasures(entries: Any) -> dict[str, erasures.Tags]:
    return {
        json_values.object_id(entry["id"]): tuple(sorted(map(str, entry["tags"])))
        for entry in json_values.entries(entries)
        if erasures.TAG in (entry.get("tags") or ())
    }


def _removed(groups: Any) -> list[str]:
    return [json_values.object_id(one["id"]) for group in groups or () for one in group["remove"] or ()]


def _reasons(groups: Any) -> dict[str, list[str]]:
    """Why each snapshot stays, by its ID. restic < 0.17 does not say of which one a reason is, but the order is the same."""
    return {
        json_values.object_id(one["id"]): [str(match) for match in reason["matches"] or ()]
        for group in groups or ()
        for one, reason in zip(group["keep"] or (), group["reasons"] or (), strict=True)
    }


def _summary(output: bytes) -> bytes:
    """The line of a backup's output that is the summary; all of the output if there is none."""
    return next((line for line in reversed(output.splitlines()) if b'"summary"' in line), output)


def _stored(summary: dict[str, Any], path: str, is_compressed: bool) -> Stored:
    packed = summary.get("data_added_packed")  # from restic 0.17 on
    added = summary["data_added"] if packed is None else packed
    snapshot_id = json_values.object_id(summary["snapshot_id"])
    return Stored(snapshot_id, path, json_values.count(added), is_compressed or packed is not None)
