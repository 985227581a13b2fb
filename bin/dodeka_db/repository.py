"""A restic repository: what is in it, and what is done with it. The one place that knows restic's commands and JSON."""

import json
import logging
import os
import pwd
import re
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from dodeka_db import command, restic, schedule, volume
from dodeka_db.errors import (
    BackupError,
    RepositoryDamaged,
    RepositoryFull,
    RepositoryMissing,
    SetupError,
    SnapshotError,
)
from dodeka_db.restic import Restic
from dodeka_db.settings import ENVIRONMENTS, FORMATS, Environment, Settings

log = logging.getLogger("dodeka_db")

PRE_RESTORE = "pre-restore"
NO_COMPRESSION = (
    "the repository is of restic's format 1, which cannot compress; DODEKA_FORMAT=pages needs format 2"
)
UPGRADE = "restic migrate upgrade_repo_v2 (BACKUP.md, 'Format')"
_ABOUT_THE_CLOCK = "check the clock (timedatectl), or name one by its ID"
RETENTION = {"last": 10, "hourly": 24, "daily": 7, "weekly": 4, "monthly": 6}
PRE_RESTORE_MONTHS = 6


@dataclass(frozen=True)
class Listed:
    """One snapshot of an environment, as restic lists it."""

    id: str
    time: datetime
    environment: str
    tags: tuple[str, ...]
    host: str

    @property
    def short_id(self) -> str:
        return self.id[:8]

    @property
    def is_pre_restore(self) -> bool:
        return PRE_RESTORE in self.tags


AnyListed = TypeVar("AnyListed", bound=Listed)


@dataclass(frozen=True)
class Snapshot(Listed):
    """One with a database in it: `path` is where its file stands inside, `stored_bytes` that file's size."""

    path: str
    stored_bytes: int

    @property
    def format(self) -> str:
        """What the file is, one of settings.FORMATS."""
        return "zst" if self.path.endswith(".zst") else "pages"


@dataclass(frozen=True)
class Config:
    """Of a repository: its ID, its format, which compresses from 2 on, and by what it cuts files into chunks."""

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
class Lock:
    """A lock of restic's own in the repository: whose, on which host, since when (renewed while it lives)."""

    process: int
    host: str
    renewed: datetime

    @property
    def is_stale(self) -> bool:
        """Whether `restic unlock` would remove it."""
        here = self.host == socket.gethostname()
        gone = here and not Path(f"/proc/{self.process}").exists()
        return gone or datetime.now().astimezone() - self.renewed > restic.STALE


@dataclass(frozen=True)
class Stored:
    """What `store` did: the new snapshot's ID (8 digits or more), its file's path, how much it added.

    Where `is_exact` is false, `added_bytes` is what there was to add before restic compressed it.
    """

    snapshot_id: str
    path: str
    added_bytes: int
    is_exact: bool


class Repository:
    """A restic repository with its password. Making one checks the password file.

    With `locking` False it is only looked at, past all locks and without a cache.
    """

    def __init__(self, settings: Settings, locking: bool = True) -> None:
        self._settings = settings
        self._restic = Restic(settings, locking)
        check_password_file(settings)
        check_owner(settings)

    @property
    def is_offsite(self) -> bool:
        """Whether it is the second one."""
        return self._settings.is_offsite

    def config(self) -> Config | None:
        """How the repository was made; None if there is none. Raises WrongPassword if another one is needed."""
        try:
            found = self._restic.parsed(self._restic.run("cat", "config"))
        except RepositoryMissing:
            return None
        return Config(found["id"], found["version"], found["chunker_polynomial"])

    def init(self, like: Settings | None = None) -> None:
        """Create it; with the chunking of the repository that `like` names, so that copies between them deduplicate.

        The options are those of restic from 0.14 on (https://restic.readthedocs.io/en/stable/045_working_with_repos.html).
        """
        if like is None:
            self._restic.run("init")
        else:
            self._restic.run("init", "--copy-chunker-params", source=like)

    def copy_from(self, source: Settings) -> None:
        """Copy the snapshots of all environments that the repository of `source` has and this one lacks: one call."""
        words = ("copy", "--tag", "db_dodeka")
        folder = source.local_repository
        if not (folder and volume.is_read_only(folder)):
            try:
                self._restic.run(*words, source=source)
                return
            except RepositoryFull as full:
                if source.repository_shown not in full.message:
                    raise
        # a volume that fails or is full has no place for a lock, and is the one whose snapshots have to be elsewhere
        self._restic.run(*words, "--no-lock", source=source)

    def keys(self) -> list[Key]:
        """Who can open it, the oldest first."""
        found = [
            Key(
                id=entry["id"],
                name=entry["userName"],
                host=entry["hostName"],
                made=_moment(entry["created"]),
                is_in_use=entry["current"],
            )
            for entry in self._restic.parsed(self._restic.run("key", "list", "--json"))
        ]
        return sorted(found, key=lambda key: key.made)

    def add_key(self, name: str, password_file: Path) -> None:
        """Let the password in `password_file` open it too."""
        self._restic.run("key", "add", "--new-password-file", str(password_file), "--user", name)

    def remove_key(self, key: Key) -> None:
        """Let that key open it no more."""
        self._restic.run("key", "remove", key.id)

    def store(self, file: BinaryIO, environment: Environment, extra_tags: tuple[str, ...] = ()) -> Stored:
        """Store a finished file, from its start, as a new snapshot in the format that is set.

        restic takes the end of its input for success, so `file` is a real file that is complete, never a
        producer that could die half way. From standard input its path is the same on every machine.
        """
        name = environment.file_name(self._settings.format)
        is_compressed = self._settings.format == "zst"
        output = self._restic.run(
            *("backup", "--json", "--stdin", "--stdin-filename", name),
            *(("--compression", "off") if is_compressed else ()),
            *("--tag", ",".join((*environment.tags, *extra_tags))),
            stdin=file,
        )
        for line in reversed(output.splitlines()):
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if message.get("message_type") == "summary":
                packed = message.get("data_added_packed")  # from restic 0.17 on
                return Stored(
                    message["snapshot_id"],
                    f"/{name}",
                    message["data_added"] if packed is None else packed,
                    is_compressed or packed is not None,
                )
        restic.version(self._settings)  # perhaps it is no restic at all
        raise BackupError("restic backup ended without naming its snapshot", "see: make snapshots")

    def listed(self) -> list[Listed]:
        """Every environment's snapshots, the oldest first, without what is in them: one call."""
        found = [
            Listed(
                id=entry["id"],
                time=_moment(entry["time"]),
                environment=environment,
                tags=tuple(entry["tags"]),
                host=entry["hostname"],
            )
            for entry in self._restic_list("snapshots")
            for environment in ENVIRONMENTS
            if {"db_dodeka", f"env_{environment}"} <= set(entry.get("tags") or ())
        ]
        return sorted(found, key=lambda snapshot: snapshot.time)

    def check_writable(self) -> None:
        """Raise BackupError unless there is a repository that can be written, as far as a local one shows.

        restic itself goes on trying on a read-only file system, for up to a quarter of an hour.
        """
        folder, shown = self._settings.local_repository, self._settings.repository_shown
        if not folder:
            return
        if not (folder / "config").exists():
            raise restic.missing(self._settings)
        if volume.is_read_only(folder):
            raise BackupError(
                f"repository {shown} is on a file system that is mounted read-only",
                f"dmesg says why; if the disk is well: sudo mount -o remount,rw {volume.mount_point(folder)}",
            )
        if not os.access(folder, os.W_OK):
            raise SetupError(f"repository {shown} cannot be written", "run this as the user that owns it")

    def snapshots(self) -> list[Snapshot]:
        """Those that hold a database, the oldest first.

        Two calls whatever their number: `snapshots` knows no file sizes before restic 0.17, `find` does.
        """
        listed = self.listed()
        found = self._restic_list("find", *(f"dodeka-*{ending}" for ending in FORMATS.values()))
        files = {entry["snapshot"]: entry["matches"][0] for entry in found}
        return [
            Snapshot(**vars(entry), path=files[entry.id]["path"], stored_bytes=files[entry.id].get("size", 0))
            for entry in listed
            if entry.id in files
        ]

    def dump(self, snapshot: Snapshot, reader: Callable[[BinaryIO], None], cached: bool = True) -> None:
        """Let `reader` have the file in `snapshot` as it comes; on a second try from its start again.

        With `cached` False nothing comes from restic's cache, which has all but the file's own content. Raises
        SnapshotError if it cannot be read to its end, and else what `reader` raises.
        """
        options = () if cached else ("--no-cache",)
        self._restic.run("dump", *options, "--", snapshot.id, snapshot.path, reader=reader)

    def read_back(self, stored: Stored, file: BinaryIO) -> None:
        """Compare what is in the repository with the `file` that was `stored`. Raises RepositoryDamaged.

        restic backs up again what is in a damaged pack and says that all is well; only this finds it out, and
        only past the cache.
        """

        def compare(output: BinaryIO) -> None:
            file.seek(0)
            while block := file.read(command.READ_BYTES):
                if output.read(len(block)) != block:
                    raise SnapshotError("it is not what was stored")
            if output.read(1):
                raise SnapshotError("it is longer than what was stored")

        try:
            self._restic.run("dump", "--no-cache", "--", stored.snapshot_id, stored.path, reader=compare)
        except SnapshotError as error:
            raise RepositoryDamaged(
                f"snapshot {stored.snapshot_id[:8]} does not read back, and nothing was removed: {error.message}",
                f"restic check --read-data names the damaged packs, then {self._restic.repair(['PACK'])}",
            ) from error

    def forget(self, environment: Environment) -> int:
        """Apply the retention policy to this environment's ordinary snapshots and prune; how many were removed.

        Snapshots of one set of tags are one group, whatever host they are from: a server that gets another name goes on
        with the same group. Pre-restore snapshots stay: forget_these() is for them.
        """
        keep = [word for period, count in RETENTION.items() for word in (f"--keep-{period}", str(count))]
        output = self._restic.run(
            *("forget", "--json", "--prune", "--group-by", "tags"),
            *("--tag", f"db_dodeka,env_{environment.name}", "--keep-tag", PRE_RESTORE),
            *keep,
        )
        # 0.14 and 0.18 print prune's progress behind the JSON, and nothing at all where there is no snapshot
        groups, _ = json.JSONDecoder().raw_decode(output.decode() or "null")
        return sum(len(group["remove"] or ()) for group in groups or ())

    def forget_these(self, snapshots: Sequence[Listed]) -> None:
        """Forget these snapshots and prune."""
        self._restic.run("forget", "--prune", "--", *(snapshot.id for snapshot in snapshots))

    def check(self, part: int, parts: int, folder: Path) -> None:
        """Check the repository's structure, and read the data in one of `parts` parts of it, numbered from 1.

        restic's cache for that is in `folder`: one that was killed leaves it there. Raises RepositoryDamaged,
        having logged what restic says.
        """
        self._restic.run("check", f"--read-data-subset={part}/{parts}", "--cache-dir", str(folder))

    def stored_bytes(self, environment: Environment) -> int:
        """How many bytes of the repository the snapshots of `environment` need, what they share counted once."""
        tags = f"db_dodeka,env_{environment.name}"
        return self._restic.parsed(self._restic.run("stats", "--json", "--mode", "raw-data", "--tag", tags))[
            "total_size"
        ]

    def locks(self) -> list[Lock]:
        """restic's own locks that are there now."""
        found = []
        for lock_id in self._restic.run("list", "locks").decode().split():
            try:
                lock = self._restic.parsed(self._restic.run("cat", "lock", lock_id))
            except BackupError:
                continue  # gone meanwhile
            found.append(Lock(lock["pid"], lock["hostname"], _moment(lock["time"])))
        return found

    def _restic_list(self, verb: str, *pattern: str) -> list[dict]:
        # where there is none, some versions say null and some nothing
        return (
            self._restic.parsed(self._restic.run(verb, "--json", "--tag", "db_dodeka", *pattern) or b"null")
            or []
        )


def resolve(settings: Settings, snapshots: list[Snapshot], environment: str, wanted: str) -> Snapshot:
    """The snapshot of `environment` that `wanted` names: an ID, its beginning, or `latest`.

    `latest` is the newest that is neither a pre-restore one nor from the future. Raises SnapshotError if `wanted` is malformed,
    unknown, ambiguous, or of another environment.
    """
    hint = f"see: {settings.make(f'snapshots ENV={environment}')}"
    ours = [snapshot for snapshot in snapshots if snapshot.environment == environment]
    if wanted == "latest":
        ordinary = [snapshot for snapshot in of_the_past(ours) if not snapshot.is_pre_restore]
        if not ordinary and any(not snapshot.is_pre_restore for snapshot in ours):
            raise SnapshotError(f"all snapshots of {environment} are from the future", _ABOUT_THE_CLOCK)
        if not ordinary:
            first = "make offsite" if settings.is_offsite else f"make backup ENV={environment}"
            raise SnapshotError(f"there is no snapshot of {environment} yet", first)
        return ordinary[-1]
    if not re.fullmatch(r"[0-9a-f]{4,64}", wanted):
        raise SnapshotError(f"{wanted!r} is not a snapshot ID (4 to 64 of 0-9 and a-f) nor 'latest'", hint)
    matches = [snapshot for snapshot in ours if snapshot.id.startswith(wanted)]
    if len(matches) > 1:
        ids = ", ".join(snapshot.short_id for snapshot in matches)
        raise SnapshotError(f"{wanted} is the beginning of several snapshots: {ids}", "give more of the ID")
    if matches:
        return matches[0]
    for snapshot in snapshots:
        if snapshot.id.startswith(wanted):
            raise SnapshotError(
                f"snapshot {snapshot.short_id} is of {snapshot.environment}, not of {environment}",
                f"to use it: FROM={snapshot.environment} (--from {snapshot.environment})",
            )
    raise SnapshotError(f"there is no snapshot {wanted} of {environment}", hint)


def newest_pre_restore(snapshots: list[Snapshot], environment: str) -> Snapshot:
    """What the last restore of `environment` replaced; SnapshotError if there is no such snapshot of the past."""
    kept = [s for s in of_the_past(snapshots) if s.environment == environment and s.is_pre_restore]
    if not kept and any(s.environment == environment and s.is_pre_restore for s in snapshots):
        raise SnapshotError(
            f"all {PRE_RESTORE} snapshots of {environment} are from the future", _ABOUT_THE_CLOCK
        )
    if not kept:
        raise SnapshotError(
            f"there is nothing to undo: no {PRE_RESTORE} snapshot of {environment}",
            f"see: make snapshots ENV={environment}",
        )
    return kept[-1]


def of_the_past(snapshots: Sequence[AnyListed]) -> list[AnyListed]:
    """Those that a clock may have made that is right, give or take a little.

    The others were made under a wrong clock, or by somebody who chose their time: none of them is the newest of anything.
    """
    limit = datetime.now().astimezone() + schedule.CLOCK_TOLERANCE
    return [snapshot for snapshot in snapshots if snapshot.time <= limit]


def _moment(text: str) -> datetime:
    """A time as restic writes it (RFC 3339, years 0000 to 9999; local without a zone), in the time zone of this machine.

    A time within two days of what datetime can hold becomes the nearest one that every time zone can show.
    """
    if text.startswith("0000"):  # a year that datetime does not have
        text = f"0001-01-01{text[10:]}"
    moment = datetime.fromisoformat(text)
    earliest, latest = datetime(1, 1, 3, tzinfo=moment.tzinfo), datetime(9999, 12, 29, tzinfo=moment.tzinfo)
    return min(max(moment, earliest), latest).astimezone()


def check_password_file(settings: Settings) -> None:
    """Raise SetupError unless the password file is there, with something in it, for its owner alone."""
    file = settings.password_file
    if file is None:
        return
    try:
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            empty = not opened.read(1)
    except FileNotFoundError as error:
        is_there = settings.local_repository and not settings.is_offsite
        mounted = "is the backup volume mounted?" if is_there else "put it back"
        raise SetupError(
            f"password file {file} is missing", f"{mounted} (a first one: {settings.make('init')})"
        ) from error
    except OSError as error:
        raise SetupError(
            f"password file {file} cannot be read: {error.strerror}", "run this as the user that owns it"
        ) from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise SetupError(f"password file {file} can be read by others", f"chmod 600 {file}")
    if empty:
        raise SetupError(f"password file {file} is empty", "put the repository's password back into it")


def check_owner(settings: Settings) -> None:
    """Raise SetupError for root in another user's repository: what root writes, that user could not read."""
    folder = settings.local_repository
    if folder is None or os.geteuid() != 0:
        return
    if not folder.exists():
        folder = folder.parent
    if not folder.exists() or folder.stat().st_uid == 0:
        return
    try:
        owner = pwd.getpwuid(folder.stat().st_uid).pw_name
    except KeyError:
        owner = f"#{folder.stat().st_uid}"
    raise SetupError(f"{folder} belongs to {owner}, not to root", f"run this as {owner}")
