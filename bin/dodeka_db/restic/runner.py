"""Run restic on one repository; wait for its locks, and go on where a server or a disk fails for a moment."""

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO, TypeVar

from dodeka_db import progress
from dodeka_db.errors import (
    BackupError,
    RefusedError,
    RepositoryFullError,
    RepositoryLockedError,
    SetupError,
    UnreachableError,
)
from dodeka_db.host import disks, programs
from dodeka_db.log import log
from dodeka_db.progress import Far
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures, server_watch, stale_locks
from dodeka_db.restic.server_watch import ServerWatch, repository_in
from dodeka_db.restic.stale_locks import Lock
from dodeka_db.stream_types import Readable

OLDEST = (0, 14)
LOCK_POLL_S = 5
# commands that only read can run without a lock
READING = ("snapshots", "find", "dump", "cat", "stats", "list", "ls")

_OF_ONE_SNAPSHOT = ("dump", "ls")

# these say how far they are, without a terminal only if RESTIC_PROGRESS_FPS is set: "[1:02] 28.57%  2 / 7 packs"
_OF_LONG = ("check", "copy", "forget", "prune")
_SAYING = {"RESTIC_PROGRESS_FPS": "1"}
_FAR = re.compile(rb"^\[(?:(\d+):)?(\d+):(\d+)\] +[\d.]+% +(\d+) / (\d+) ([\w ]+)$", re.MULTILINE)
# restic copies one snapshot after the other, and says how far it is with this one
_COPIED = b"copy started"

Parsed = TypeVar("Parsed")


class Restic:
    """restic on one repository. `locking` False: read only, ignoring locks, without a cache."""

    def __init__(self, repository: RepositorySettings, locking: bool = True) -> None:
        self._repository = repository
        self._locking = locking
        self._has_answered = not locking or repository.folder is not None

    def run(
        self,
        *arguments: str,
        stdin: BinaryIO | None = None,
        reader: Callable[[Readable], None] | None = None,
        source: RepositorySettings | None = None,
    ) -> programs.Completed:
        """Run restic, again until it gets the locks that it needs; it may read the repository of `source` besides its own.

        A stale lock is removed, any other is waited for, in every version (--retry-lock came with 0.16, and removes none).
        Raises the BackupError that fits the failure.
        """
        deadline = time.monotonic() + self._repository.lock_wait_s
        waiting_for, second = "", False
        while True:
            try:
                done = self._run(*arguments, stdin=stdin, reader=reader, source=source)
                if waiting_for:
                    log.info("the lock is gone; continuing")
                return done
            except failures.LockUnreadableError:
                raise
            except RepositoryLockedError as locked:
                remaining = deadline - time.monotonic()
                if waiting_for and remaining <= 0:
                    raise
                if not waiting_for:
                    log.info("%s: removing the lock if it is stale, otherwise waiting", locked.message)
                else:
                    time.sleep(min(LOCK_POLL_S, remaining))
                waiting_for = locked.message
                self._remove_stale_locks()
                if stdin:
                    stdin.seek(0)
            except (UnreachableError, RefusedError):
                raise
            except BackupError:
                # without a lock another run may just have removed what we were about to read
                if self._locking or second:
                    raise
                second = True
                time.sleep(1)

    def ask(self, convert: Callable[[Any], Parsed], *arguments: str) -> Parsed:
        """Run restic and `convert` its JSON. Raises as run() and parsed() do."""
        return self.parsed(convert, self.run(*arguments).stdout)

    def parsed(self, convert: Callable[[Any], Parsed], output: bytes) -> Parsed:
        """`convert` restic's JSON in `output`; BackupError if it is not JSON, or of another shape."""
        try:
            return convert(json.loads(output))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            major, minor = version(self._repository)  # perhaps it is no restic at all
            said = failures.short(repr(output)[2:-1], 100)
            raise BackupError(
                f"restic {major}.{minor} gave an unexpected answer: '{said}'", "check the setting RESTIC"
            ) from error

    def locks(self) -> tuple[list[Lock], list[str]]:
        """The locks in the repository now, and the IDs of those whose content cannot be read. Raises BackupError."""
        folder = self._repository.folder
        with suppress(OSError):
            if folder and not os.listdir(folder / "locks"):
                return [], []
        listed = self.start("list", "--no-lock", "locks", timeout_s=server_watch.LOOK_S)
        if listed.exit_code:
            raise failures.failure_of_restic(self._repository, "list", listed)
        found, unreadable = [], []
        for lock_id in listed.stdout.decode(errors="replace").split():
            done = self.start("cat", "--no-lock", "lock", lock_id, timeout_s=server_watch.LOOK_S)
            if isinstance(
                failures.failure_of_restic(self._repository, "cat", done), failures.LockUnreadableError
            ):
                unreadable.append(lock_id)
            elif not done.exit_code:  # if not, the lock is gone
                found.append(self.parsed(partial(stale_locks.from_json, lock_id), done.stdout))
        return found, unreadable

    def _remove_stale_locks(self) -> None:
        """Let restic remove stale locks, if there are any and no other process can be harmed. Raises BackupError."""
        found, _ = self.locks()
        if stale_locks.can_be_removed(found):
            # never --remove-all; the next try shows whether it helped: restic 0.14 reports success in any case
            self.start("unlock", timeout_s=None if self._repository.folder else server_watch.LOOK_S)

    def _run(
        self, verb: str, *rest: str, timeout_s: float | None = None, **options: Any
    ) -> programs.Completed:
        reading = verb in READING
        folder = self._repository.folder
        unlocked = reading and (not self._locking or bool(folder and disks.is_read_only(folder)))
        while True:
            flags = ("--no-lock",) if unlocked else ()
            if not self._locking:
                flags, timeout_s = (*flags, "--no-cache"), server_watch.LOOK_S
            failure: BackupError
            try:
                done = self.start(verb, *flags, *rest, timeout_s=timeout_s, **options)
                if not done.exit_code:
                    return done
                version(self._repository)  # an old restic fails for options that it does not know
                failure = failures.failure_of_restic(
                    repository_in(self._repository, options.get("source"), done.stderr), verb, done
                )
            except BackupError as error:
                failure = error
            if verb in _OF_ONE_SNAPSHOT:
                failure = failures.failure_of_snapshot(self._repository, failure)
            # restoring from a full volume: there is no room for a lock either
            if not reading or unlocked or not isinstance(failure, RepositoryFullError):
                raise failure
            unlocked = True

    def start(
        self,
        verb: str,
        *rest: str,
        timeout_s: float | None,
        source: RepositorySettings | None = None,
        **options: Any,
    ) -> programs.Completed:
        """Start restic once, and return how it ended; its standard error is without passwords.

        Raises UnreachableError if there is no answer within `timeout_s`, and what ServerWatch raises.
        """
        patience_s = timeout_s or server_watch.GIVE_UP_S
        begins_s = patience_s if self._has_answered else server_watch.LOOK_S
        watch = ServerWatch(self._repository, source, patience_s, begins_s)
        try:
            # restic has one set of options for both of its repositories
            options_of_both = (*self._repository.options, *(source.options if source else ()))
            done = programs.run(
                self._repository.restic,
                *(verb, *(f"--option={one}" for one in options_of_both), *rest),
                env={
                    **self._repository.for_restic,
                    **(source.as_source if source else {}),
                    **(_SAYING if progress.is_followed() and verb in _OF_LONG else {}),
                },
                timeout_s=timeout_s,
                watch=watch,
                says=_how_far,
                **options,
            )
        except programs.ProgramTimeoutError as error:
            raise watch.unreachable(f"no answer within {server_watch.LOOK_S} s") from error
        self._has_answered = True
        said = done.stderr.replace(r"\u003c", "<").replace(r"\u003e", ">")  # where restic says it in JSON
        return replace(done, stderr=self._repository.masked(said))


def _how_far(output: bytes) -> Far | None:
    """How far restic is with what it does now, by its `output` so far."""
    for last in deque(_FAR.finditer(output), maxlen=1):
        hours, minutes, seconds, done, total = (int(number or 0) for number in last.groups()[:5])
        unit = last[6].decode()
        if copied := output.count(_COPIED):
            unit = f"{unit} (snapshot {copied})"
        return Far(done, total, unit, hours * 3600 + minutes * 60 + seconds)
    return None


def version(repository: RepositorySettings) -> tuple[int, int]:
    """Major and minor version of the restic that is set; SetupError if there is none, or it is too old."""
    said = programs.run(repository.restic, "version", env=repository.for_restic)
    match = re.match(r"restic (\d+)\.(\d+)", said.stdout.decode(errors="replace"))
    if said.exit_code or not match:
        raise SetupError(f"{repository.restic} prints no version", "check the setting RESTIC")
    found = int(match[1]), int(match[2])
    if found < OLDEST:
        raise SetupError(
            f"{repository.restic} is {match[0]}, which is too old",
            "0.14 or later is needed: BACKUP.md, 'Set up a server'",
        )
    return found
