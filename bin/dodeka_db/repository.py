"""restic: the one place that knows its commands, its JSON and its exit codes.

restic is read through --json and its exit codes (https://restic.readthedocs.io/en/stable/075_scripting.html);
0.14 has no codes of its own for a missing or locked repository or a wrong password, and says it in words.
"""

import json
import logging
import os
import pwd
import re
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from dodeka_db import command, volume
from dodeka_db.errors import (
    BackupError,
    RepositoryDamaged,
    RepositoryLocked,
    RepositoryMissing,
    SetupError,
    SnapshotError,
    WrongPassword,
)
from dodeka_db.settings import ENVIRONMENTS, FORMATS, Environment, Settings

log = logging.getLogger("dodeka_db")

OLDEST_RESTIC = (0, 14)
# from when on restic calls a lock stale whose process it cannot see; a live one is renewed every 5 minutes
STALE = timedelta(minutes=30)
LOCK_POLL_S = 5
# restic goes on trying to reach a repository for up to a quarter of an hour; who only looks does not
LOOK_S = 60
PRE_RESTORE = "pre-restore"
# what only reads can do without a lock
_READING = ("snapshots", "find", "dump", "cat", "stats", "list")
# what is said of a repository that cannot be reached: neither that it is missing nor that it is damaged
_NO_ANSWER = re.compile(
    r"dial tcp|connection re|i/o timeout|no such host|network is|ssh command|permission denied", re.I
)
NO_COMPRESSION = (
    "the repository is of restic's format 1, which cannot compress; DODEKA_FORMAT=pages needs format 2"
)
UPGRADE = "restic migrate upgrade_repo_v2 (BACKUP.md, 'Format')"
RETENTION = {"last": 10, "hourly": 24, "daily": 7, "weekly": 4, "monthly": 6}


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
        return gone or datetime.now().astimezone() - self.renewed > STALE


@dataclass(frozen=True)
class Stored:
    """What `store` did: the new snapshot's ID (8 digits or more), its file's path, how much it added.

    Where `is_exact` is false, `added_bytes` is what there was to add before restic compressed it.
    """

    snapshot_id: str
    path: str
    added_bytes: int
    is_exact: bool


class RepositoryFull(BackupError):
    """The file system that the repository is on has no room left."""


class Repository:
    """A restic repository with its password. Making one checks the password file.

    With `locking` False it is only looked at, past all locks and without a cache.
    """

    def __init__(self, settings: Settings, locking: bool = True) -> None:
        self._settings = settings
        self._locking = locking
        check_password_file(settings)
        check_owner(settings)

    def format_version(self) -> int | None:
        """The repository's own format, which from 2 on compresses; None if there is no repository.

        Raises WrongPassword if another one is needed.
        """
        try:
            return self._parsed(self._restic("cat", "config"))["version"]
        except RepositoryMissing:
            return None

    def init(self) -> None:
        """Create it."""
        self._restic("init")

    def store(self, file: BinaryIO, environment: Environment, extra_tags: tuple[str, ...] = ()) -> Stored:
        """Store a finished file, from its start, as a new snapshot in the format that is set.

        restic takes the end of its input for success, so `file` is a real file that is complete, never a
        producer that could die half way. From standard input its path is the same on every machine.
        """
        name = environment.file_name(self._settings.format)
        is_compressed = self._settings.format == "zst"
        output = self._restic(
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
        restic_version(self._settings)  # perhaps it is no restic at all
        raise BackupError("restic backup ended without naming its snapshot", "see: make snapshots")

    def listed(self) -> list[Listed]:
        """Every environment's snapshots, the oldest first, without what is in them: one call."""
        found = [
            Listed(
                id=entry["id"],
                time=datetime.fromisoformat(entry["time"]).astimezone(),
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
            raise _missing(shown)
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
        self._restic("dump", *options, "--", snapshot.id, snapshot.path, reader=reader)

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
            self._restic("dump", "--no-cache", "--", stored.snapshot_id, stored.path, reader=compare)
        except SnapshotError as error:
            raise RepositoryDamaged(
                f"snapshot {stored.snapshot_id[:8]} does not read back, and nothing was removed: {error.message}",
                f"restic check --read-data names the damaged packs, then {self._repair(['PACK'])}",
            ) from error

    def forget(self, environment: Environment) -> int:
        """Apply the retention policy to this environment's snapshots and prune; how many were removed.

        Pre-restore snapshots have a tag more, so that they are a group of their own and count apart.
        """
        keep = [word for period, count in RETENTION.items() for word in (f"--keep-{period}", str(count))]
        output = self._restic(
            *("forget", "--json", "--prune", "--group-by", "host,tags"),
            *("--tag", f"db_dodeka,env_{environment.name}"),
            *keep,
        )
        # 0.14 and 0.18 print prune's progress behind the JSON
        groups, _ = json.JSONDecoder().raw_decode(output.decode())
        return sum(len(group["remove"] or ()) for group in groups or ())

    def check(self, part: int, parts: int, folder: Path) -> None:
        """Check the repository's structure, and read the data in one of `parts` parts of it, numbered from 1.

        restic's cache for that is in `folder`: one that was killed leaves it there. Raises RepositoryDamaged,
        having logged what restic says.
        """
        self._restic("check", f"--read-data-subset={part}/{parts}", "--cache-dir", str(folder))

    def stored_bytes(self, environment: Environment) -> int:
        """How many bytes of the repository the snapshots of `environment` need, what they share counted once."""
        tags = f"db_dodeka,env_{environment.name}"
        return self._parsed(self._restic("stats", "--json", "--mode", "raw-data", "--tag", tags))[
            "total_size"
        ]

    def locks(self) -> list[Lock]:
        """restic's own locks that are there now."""
        found = []
        for lock_id in self._restic("list", "locks").decode().split():
            try:
                lock = self._parsed(self._restic("cat", "lock", lock_id))
            except BackupError:
                continue  # gone meanwhile
            found.append(Lock(lock["pid"], lock["hostname"], datetime.fromisoformat(lock["time"])))
        return found

    def _restic(
        self,
        *arguments: str,
        stdin: BinaryIO | None = None,
        reader: Callable[[BinaryIO], None] | None = None,
    ) -> bytes:
        """The output of a restic that got the locks it needs.

        A lock that restic calls stale is removed, one that is alive is waited for: on every version alike
        (--retry-lock came with 0.16, and does not remove any).
        """
        deadline = time.monotonic() + self._settings.lock_wait_s
        waiting_for, second = "", False
        while True:
            try:
                output = self._run(*arguments, stdin=stdin, reader=reader)
                if waiting_for:
                    log.info("that lock is gone, going on")
                return output
            except RepositoryLocked as locked:
                remaining = deadline - time.monotonic()
                if waiting_for and remaining <= 0:
                    raise
                if not waiting_for:
                    log.info("%s: removing it if it is stale, else waiting for it", locked.message)
                elif remaining > 0:
                    time.sleep(min(LOCK_POLL_S, remaining))
                waiting_for = locked.message
                # never --remove-all; whether it helped shows now: 0.14 says that it did in any case
                command.run(self._settings.restic, "unlock", env=self._settings.variables)
                if stdin:
                    stdin.seek(0)
            except command.TimedOut as error:
                raise BackupError(f"restic {arguments[0]} gave no answer within {LOOK_S} s") from error
            except BackupError:
                # without a lock: a run may just have removed what we were about to read
                if self._locking or second:
                    raise
                second = True
                time.sleep(1)

    def _run(
        self, *arguments: str, stdin: BinaryIO | None, reader: Callable[[BinaryIO], None] | None
    ) -> bytes:
        verb, *rest = arguments
        reading = verb in _READING
        folder = self._settings.local_repository
        unlocked = reading and (not self._locking or bool(folder and volume.is_read_only(folder)))
        while True:
            options = ("--no-lock",) if unlocked else ()
            if not self._locking:
                options = (*options, "--no-cache")
            done = command.run(
                self._settings.restic,
                *(verb, *options, *rest),
                env=self._settings.variables,
                stdin=stdin,
                reader=reader,
                timeout_s=None if self._locking else LOOK_S,
            )
            if not done.exit_code:
                return done.stdout
            failure = self._failure(verb, done)
            # restoring from a full volume: there is no room for a lock either
            if not reading or unlocked or not isinstance(failure, RepositoryFull):
                raise failure
            unlocked = True

    def _restic_list(self, verb: str, *pattern: str) -> list[dict]:
        # where there is none, some versions say null and some nothing
        return self._parsed(self._restic(verb, "--json", "--tag", "db_dodeka", *pattern) or b"null") or []

    def _parsed(self, output: bytes) -> Any:
        try:
            return json.loads(output)
        except ValueError as error:
            restic_version(self._settings)  # perhaps it is no restic at all
            raise BackupError(f"restic said something else than JSON: {_short(repr(output), 100)}") from error

    def _failure(self, verb: str, done: command.Completed) -> BackupError:
        restic_version(self._settings)  # one that is too old fails for options that it does not know
        where, said = self._settings.repository_shown, done.stderr
        failed = BackupError(f"restic {verb} failed with exit code {done.exit_code}: {_short(done.failure)}")
        if done.exit_code < 0 or _NO_ANSWER.search(said):
            return failed
        if done.exit_code == 10 or "Is there a repository at the following location?" in said:
            return _missing(where)
        if done.exit_code == 11 or "already locked" in said:
            owner = re.search(r"locked (?:exclusively )?by (PID \d+ on \S+)", said)
            return RepositoryLocked(
                f"repository {where} is locked{f' by {owner[1]}' if owner else ''}",
                "wait for that run to end: BACKUP.md, 'Locked'",
            )
        if done.exit_code == 12 or "wrong password" in said:
            place = self._settings.password_file or "the settings"
            return WrongPassword(
                f"the password in {place} does not open repository {where}",
                "put the right password back (BACKUP.md, 'Password')",
            )
        if "no space left on device" in said:
            return RepositoryFull(f"the disk of repository {where} is full", "free some, then run this again")
        if verb == "dump":
            return SnapshotError(
                f"the snapshot cannot be read from repository {where}: {_short(done.failure)}",
                f"choose another one; restic check --read-data, then {self._repair(['PACK'])}",
            )
        if verb == "check" and "repository contains errors" in said:
            return self._found_damage(where, done)
        return failed

    def _found_damage(self, where: str, done: command.Completed) -> RepositoryDamaged:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        for line in lines:
            log.warning("restic: %s", line)
        text = "\n".join(lines)
        # 0.14 names a damaged pack by "want", later ones in the command that they suggest
        packs = re.findall(r"want ([0-9a-f]{64}), got", text)
        packs += re.findall(r"^pack ([0-9a-f]{64}) contains", text, re.MULTILINE)
        missing = re.findall(r"pack ([0-9a-f]+).*does not exist", text)
        if missing and not packs:
            rebuild = (
                "restic repair index" if restic_version(self._settings) >= (0, 16) else "restic rebuild-index"
            )
            return RepositoryDamaged(
                f"repository {where} is damaged: {len(missing)} of its pack files are missing",
                f"bring them back if you can, else {rebuild} (BACKUP.md, 'Damaged')",
            )
        named = f": pack {', '.join(pack[:8] for pack in packs)}" if packs else ""
        return RepositoryDamaged(f"repository {where} is damaged{named}", self._repair(packs or ["PACK"]))

    def _repair(self, packs: list[str]) -> str:
        if restic_version(self._settings) >= (0, 16):
            return f"restic repair packs {' '.join(packs)} (BACKUP.md, 'Damaged')"
        return (
            "move the pack away and run restic rebuild-index, or restic 0.16's repair packs"
            " (BACKUP.md, 'Damaged')"
        )


def _missing(shown: str) -> RepositoryMissing:
    return RepositoryMissing(
        f"no restic repository at {shown}", "is the backup volume mounted? (a first one: make init)"
    )


def resolve(snapshots: list[Snapshot], environment: str, wanted: str) -> Snapshot:
    """The snapshot of `environment` that `wanted` names: an ID, its beginning, or `latest`.

    `latest` is the newest that is not a pre-restore one. Raises SnapshotError if `wanted` is malformed,
    unknown, ambiguous, or of another environment.
    """
    hint = f"see: make snapshots ENV={environment}"
    ours = [snapshot for snapshot in snapshots if snapshot.environment == environment]
    if wanted == "latest":
        ordinary = [snapshot for snapshot in ours if not snapshot.is_pre_restore]
        if not ordinary:
            raise SnapshotError(
                f"there is no snapshot of {environment} yet", f"make backup ENV={environment}"
            )
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
    """What the last restore of `environment` replaced; SnapshotError if there is no such snapshot."""
    kept = [s for s in snapshots if s.environment == environment and s.is_pre_restore]
    if not kept:
        raise SnapshotError(
            f"there is nothing to undo: no {PRE_RESTORE} snapshot of {environment}",
            f"see: make snapshots ENV={environment}",
        )
    return kept[-1]


def restic_version(settings: Settings) -> tuple[int, int]:
    """Major and minor version of the restic that is set; SetupError if there is none, or it is too old."""
    said = command.run(settings.restic, "version", env=settings.variables)
    match = re.match(r"restic (\d+)\.(\d+)", said.stdout.decode(errors="replace"))
    if said.exit_code or not match:
        raise SetupError(f"{settings.restic} does not say its version", "check RESTIC")
    version = int(match[1]), int(match[2])
    if version < OLDEST_RESTIC:
        raise SetupError(
            f"{settings.restic} is {match[0]}, which is too old", "0.14 or later is needed: see BACKUP.md"
        )
    return version


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
        raise SetupError(
            f"password file {file} is missing", "is the backup volume mounted? (a first one: make init)"
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


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
