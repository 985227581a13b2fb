"""Run restic: the locks that it meets, the servers and disks that fail it, and its JSON as types of ours."""

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, BinaryIO, TypeVar

from dodeka_db.errors import BackupError, Refused, RepositoryFull, RepositoryLocked, SetupError, Unreachable
from dodeka_db.host import disks, programs
from dodeka_db.restic import failures, stale_locks
from dodeka_db.restic.failures import short
from dodeka_db.restic.stale_locks import Lock
from dodeka_db.settings import Settings

log = logging.getLogger("dodeka_db")

OLDEST = (0, 14)
LOCK_POLL_S = 5
# how long a run that only looks, or begins, waits for a server's answer; and one that is in the middle
LOOK_S = 60
GIVE_UP_S = 300
# restic waits for 90 s at most before it tries again
PAUSE_S = 120
# what is less than this is not data, but restic's own life signs
MOVING_BYTES = 10_000
# what only reads can do without a lock
_READING = ("snapshots", "find", "dump", "cat", "stats", "list", "ls")

_OF_ONE_SNAPSHOT = ("dump", "ls")

Parsed = TypeVar("Parsed")


class Restic:
    """restic on one repository. With `locking` False it only looks: past all locks and without a cache."""

    def __init__(self, settings: Settings, locking: bool = True) -> None:
        self._settings = settings
        self._locking = locking
        self._has_answered = not locking or settings.local_repository is not None

    def run(
        self,
        *arguments: str,
        stdin: BinaryIO | None = None,
        reader: Callable[[BinaryIO], None] | None = None,
        source: Settings | None = None,
    ) -> programs.Completed:
        """A restic that got the locks it needs and ended well; it may read the repository of `source` besides its own.

        A lock that nobody holds any more is removed, one that is alive is waited for: on every version alike
        (--retry-lock came with 0.16, and does not remove any). Raises BackupError as what it is.
        """
        deadline = time.monotonic() + self._settings.lock_wait_s
        waiting_for, second = "", False
        while True:
            try:
                self._ask()
                done = self._run(*arguments, stdin=stdin, reader=reader, source=source)
                if waiting_for:
                    log.info("that lock is gone, going on")
                return done
            except failures.LockUnreadable:
                raise
            except RepositoryLocked as locked:
                remaining = deadline - time.monotonic()
                if waiting_for and remaining <= 0:
                    raise
                if not waiting_for:
                    log.info("%s: removing it if it is stale, else waiting for it", locked.message)
                elif remaining > 0:
                    time.sleep(min(LOCK_POLL_S, remaining))
                waiting_for = locked.message
                self._unlock()
                if stdin:
                    stdin.seek(0)
            except (Unreachable, Refused):
                raise
            except BackupError:
                # without a lock: a run may just have removed what we were about to read
                if self._locking or second:
                    raise
                second = True
                time.sleep(1)

    def ask(self, convert: Callable[[Any], Parsed], *arguments: str) -> Parsed:
        """What `convert` makes of the JSON that run() with these arguments gives. Raises as run() and parsed() do."""
        return self.parsed(convert, self.run(*arguments).stdout)

    def parsed(self, convert: Callable[[Any], Parsed], output: bytes) -> Parsed:
        """What `convert` makes of restic's JSON in `output`; BackupError if that is none, or of another shape."""
        try:
            return convert(json.loads(output))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            major, minor = version(self._settings)  # perhaps it is no restic at all
            said = short(repr(output)[2:-1], 100)
            raise BackupError(
                f"restic {major}.{minor} gave an answer that makes no sense: '{said}'", "check RESTIC"
            ) from error

    def locks(self) -> tuple[list[Lock], list[str]]:
        """restic's own locks that are there now, and the IDs of those whose content cannot be read."""
        listed = self._start("list", "--no-lock", "locks", timeout_s=LOOK_S)
        if listed.exit_code:
            raise failures.of(self._settings, "list", listed)
        found, unreadable = [], []
        for lock_id in listed.stdout.decode(errors="replace").split():
            done = self._start("cat", "--no-lock", "lock", lock_id, timeout_s=LOOK_S)
            if isinstance(failures.of(self._settings, "cat", done), failures.LockUnreadable):
                unreadable.append(lock_id)
            elif not done.exit_code:  # else it is gone
                found.append(
                    self.parsed(
                        lambda lock: Lock(
                            lock_id, count(lock["pid"]), str(lock["hostname"]), moment(lock["time"])
                        ),
                        done.stdout,
                    )
                )
        return found, unreadable

    def _unlock(self) -> None:
        found, _ = self.locks()
        if stale_locks.can_be_unlocked(found):
            # never --remove-all; whether it helped shows now: restic 0.14 says that it did in any case
            self._start("unlock", timeout_s=None if self._settings.local_repository else LOOK_S)

    def _ask(self) -> None:
        """Before the first command: does the repository's server answer, and let us in?"""
        if not self._has_answered:
            self._has_answered = True
            self._run("cat", "config", timeout_s=LOOK_S)

    def _run(
        self, verb: str, *rest: str, timeout_s: float | None = None, **options: Any
    ) -> programs.Completed:
        reading = verb in _READING
        folder = self._settings.local_repository
        unlocked = reading and (not self._locking or bool(folder and disks.is_read_only(folder)))
        while True:
            flags = ("--no-lock",) if unlocked else ()
            if not self._locking:
                flags, timeout_s = (*flags, "--no-cache"), LOOK_S
            failure: BackupError
            try:
                done = self._start(verb, *flags, *rest, timeout_s=timeout_s, **options)
                if not done.exit_code:
                    return done
                version(self._settings)  # one that is too old fails for options that it does not know
                failure = failures.of(_meant(self._settings, options.get("source"), done.stderr), verb, done)
            except BackupError as error:
                failure = error
            if verb in _OF_ONE_SNAPSHOT:
                failure = failures.of_snapshot(self._settings, failure)
            # restoring from a full volume: there is no room for a lock either
            if not reading or unlocked or not isinstance(failure, RepositoryFull):
                raise failure
            unlocked = True

    def _start(
        self,
        verb: str,
        *rest: str,
        timeout_s: float | None,
        source: Settings | None = None,
        **options: Any,
    ) -> programs.Completed:
        trouble = _Trouble(self._settings, source, timeout_s or GIVE_UP_S)
        try:
            # restic has one set of options for both of its repositories
            options_of_both = (*self._settings.options, *(source.options if source else ()))
            done = programs.run(
                self._settings.restic,
                *(verb, *(f"--option={one}" for one in options_of_both), *rest),
                env={**self._settings.for_restic, **(source.as_source if source else {})},
                timeout_s=timeout_s,
                watch=trouble,
                **options,
            )
        except programs.TimedOut as error:
            raise trouble.unreachable(f"no answer within {LOOK_S} s") from error
        said = done.stderr.replace(r"\u003c", "<").replace(r"\u003e", ">")  # where restic says it in JSON
        return replace(done, stderr=self._settings.masked(said))


class _Trouble:
    """Watches a restic, and raises when it has no point to go on.

    That is when it is refused; when what it tries cannot succeed; when nothing has moved for `patience_s`; or when it has been
    trying again and again for that long. By itself restic tries each operation for up to a quarter of an hour, and waits
    for an answer for ever.
    """

    def __init__(self, settings: Settings, source: Settings | None, patience_s: float) -> None:
        self._settings, self._source = settings, source
        self._patience_s = patience_s
        self._moved_at, self._moved_bytes = time.monotonic(), 0
        self._failing_since = self._failed_at = 0.0
        self._reason = ""

    def __call__(self, lines: list[str], read_bytes: int) -> None:
        now = time.monotonic()
        for match in filter(None, map(failures.TROUBLE.search, lines)):
            self._note(match, now)
        if read_bytes - self._moved_bytes > MOVING_BYTES:
            self._moved_at, self._moved_bytes = now, read_bytes
        is_failing = bool(self._reason) and self._failed_at - self._failing_since > self._patience_s
        if is_failing or now - self._moved_at > self._patience_s:
            raise self.unreachable(f"nothing has come for {self._patience_s:.0f} s")

    def unreachable(self, otherwise: str) -> Unreachable:
        """What to raise: with what restic said last, or `otherwise`."""
        reason = self._reason or otherwise
        return failures.unreachable(_meant(self._settings, self._source, reason), reason)

    def _note(self, line: re.Match, now: float) -> None:
        reason = self._settings.masked(line["reason"])
        settings = _meant(self._settings, self._source, reason)
        if failure := failures.of_attempt(settings, line, reason):
            raise failure
        if not line["retrying"]:
            return
        self._reason = reason
        if now - self._failed_at > PAUSE_S:  # else it is still the same trouble
            self._failing_since = now
            if settings.local_repository is None:
                shown = settings.repository_shown
                log.warning(
                    "%s fails us: %s; trying for up to %.0f s", shown, short(reason), self._patience_s
                )
        self._failed_at = now


def _meant(settings: Settings, source: Settings | None, text: str) -> Settings:
    """Which of the two repositories restic speaks of: the one whose folder or host stands in `text`.

    Else the one on a server, or that of `source` where what is read is damaged: from the other little is read.
    """
    for one in (source, settings):
        if one and re.search(rf"{re.escape(_place(one))}(?![\w.-])", text):
            return one
    is_source = source and (
        failures.is_damage(text) or (settings.local_repository and not source.local_repository)
    )
    return source if is_source else settings


def _place(settings: Settings) -> str:
    if settings.local_repository:
        return str(settings.local_repository)
    host = re.match(r"\w+:(?:https?:)?(?://)?(?:[^@/]*@)?([^/:]+(?::\d+)?)", settings.repository)
    return host[1] if host else settings.repository


def version(settings: Settings) -> tuple[int, int]:
    """Major and minor version of the restic that is set; SetupError if there is none, or it is too old."""
    said = programs.run(settings.restic, "version", env=settings.for_restic)
    match = re.match(r"restic (\d+)\.(\d+)", said.stdout.decode(errors="replace"))
    if said.exit_code or not match:
        raise SetupError(f"{settings.restic} does not say its version", "check RESTIC")
    found = int(match[1]), int(match[2])
    if found < OLDEST:
        raise SetupError(
            f"{settings.restic} is {match[0]}, which is too old", "0.14 or later is needed: see BACKUP.md"
        )
    return found


def count(number: object) -> int:
    """A number of bytes, or of a process, as restic writes it; ValueError if it can be none."""
    found = int(number)
    if not 0 <= found < 2**63:
        raise ValueError(number)
    return found


def object_id(text: str) -> str:
    """An ID as restic writes it, which becomes an argument or a file's name; ValueError if it is none."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", text):
        raise ValueError(text)
    return text


def moment(text: str) -> datetime:
    """A time as restic writes it (RFC 3339, years 0000 to 9999; local without a zone), in the time zone of this machine.

    A time within two days of what datetime can hold becomes the nearest one that every time zone can show.
    """
    if text.startswith("0000"):  # a year that datetime does not have
        text = f"0001-01-01{text[10:]}"
    when = datetime.fromisoformat(text)
    earliest, latest = datetime(1, 1, 3, tzinfo=when.tzinfo), datetime(9999, 12, 29, tzinfo=when.tzinfo)
    return min(max(when, earliest), latest).astimezone()
