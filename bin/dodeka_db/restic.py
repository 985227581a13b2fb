"""Run restic: the locks that it meets, the servers that fail it, its exit codes and words as failures of ours.

restic is read through its exit codes (https://restic.readthedocs.io/en/stable/075_scripting.html); 0.14 has none
of its own for a missing or locked repository or a wrong password, and what a server refuses no version has one for:
those it says in words.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, BinaryIO

from dodeka_db import command, volume
from dodeka_db.errors import (
    BackupError,
    Refused,
    RepositoryDamaged,
    RepositoryFull,
    RepositoryLocked,
    RepositoryMissing,
    SetupError,
    SnapshotError,
    Unreachable,
    WrongPassword,
)
from dodeka_db.settings import Settings

log = logging.getLogger("dodeka_db")

OLDEST = (0, 14)
# from when on restic calls a lock stale whose process it cannot see; a live one is renewed every 5 minutes
STALE = timedelta(minutes=30)
LOCK_POLL_S = 5
# how long a run that only looks, or begins, waits for a server's answer; and one that is in the middle
LOOK_S = 60
GIVE_UP_S = 300
# restic waits for 90 s at most before it tries again
PAUSE_S = 120
# what is less than this is not data, but restic's own life signs
MOVING_BYTES = 10_000
# what only reads can do without a lock
_READING = ("snapshots", "find", "dump", "cat", "stats", "list")
_TROUBLE = re.compile(
    r"\w+\(.*?\) (?:returned error, (?P<retrying>retrying) after [\w.µ]+|failed): (?P<reason>.*)"
)
# 0.14 talks to an ssh that has ended; the others are mistakes in the address
_NO_POINT = re.compile(r"connection lost|HTTP response to HTTPS client|unsupported protocol scheme", re.I)
_REFUSED = re.compile(
    r"unauthorized|forbidden|access.?denied|access key id|request signature|permission denied|no credentials",
    re.I,
)
_NO_ANSWER = re.compile(
    r"dial tcp|connection (?:re|lost)|i/o timeout|no such host|network is|server misbehaving|HTTP response|x509|"
    r"\bEOF\b|unsupported protocol|tls:|ssh command|sftp session|rclone exited|HTTP to rclone",
    re.I,
)


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
    ) -> bytes:
        """The output of a restic that got the locks it needs; it may read the repository of `source` besides its own.

        A lock that restic calls stale is removed, one that is alive is waited for: on every version alike
        (--retry-lock came with 0.16, and does not remove any). Raises BackupError as what it is.
        """
        deadline = time.monotonic() + self._settings.lock_wait_s
        waiting_for, second = "", False
        while True:
            try:
                self._ask()
                output = self._run(*arguments, stdin=stdin, reader=reader, source=source)
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
                self._start("unlock", timeout_s=None if self._settings.local_repository else LOOK_S)
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

    def parsed(self, output: bytes) -> Any:
        """restic's JSON; BackupError if it is none."""
        try:
            return json.loads(output)
        except ValueError as error:
            version(self._settings)  # perhaps it is no restic at all
            raise BackupError(f"restic said something else than JSON: {_short(repr(output), 100)}") from error

    def _ask(self) -> None:
        """Before the first command: does the repository's server answer, and let us in?"""
        if not self._has_answered:
            self._has_answered = True
            self._run("cat", "config", timeout_s=LOOK_S)

    def _run(self, verb: str, *rest: str, timeout_s: float | None = None, **options: Any) -> bytes:
        reading = verb in _READING
        folder = self._settings.local_repository
        unlocked = reading and (not self._locking or bool(folder and volume.is_read_only(folder)))
        while True:
            flags = ("--no-lock",) if unlocked else ()
            if not self._locking:
                flags, timeout_s = (*flags, "--no-cache"), LOOK_S
            done = self._start(verb, *flags, *rest, timeout_s=timeout_s, **options)
            if not done.exit_code:
                return done.stdout
            failure = self._failure(verb, done, _meant(self._settings, options.get("source"), done.stderr))
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
    ) -> command.Completed:
        trouble = _Trouble(self._settings, source, timeout_s or GIVE_UP_S)
        is_remote = self._settings.local_repository is None or source is not None
        try:
            done = command.run(
                self._settings.restic,
                *(verb, *rest),
                env={**self._settings.variables, **(source.as_source if source else {})},
                timeout_s=timeout_s,
                watch=trouble if is_remote else None,
                **options,
            )
        except command.TimedOut as error:
            if not is_remote:
                raise Unreachable(f"restic {verb} gave no answer within {LOOK_S} s") from error
            raise trouble.unreachable(f"no answer within {LOOK_S} s") from error
        return replace(done, stderr=self._settings.masked(done.stderr))

    def _failure(self, verb: str, done: command.Completed, settings: Settings) -> BackupError:
        """What it was, with the repository of `settings`."""
        version(settings)  # one that is too old fails for options that it does not know
        where, said = settings.repository_shown, done.stderr
        failed = BackupError(f"restic {verb} failed with exit code {done.exit_code}: {_short(done.failure)}")
        if done.exit_code < 0:
            return failed
        if done.exit_code == 11 or "already locked" in said:
            owner = re.search(r"locked (?:exclusively )?by (PID \d+ on \S+)", said)
            return RepositoryLocked(
                f"repository {where} is locked{f' by {owner[1]}' if owner else ''}",
                "wait for that run to end: BACKUP.md, 'Locked'",
            )
        if done.exit_code == 12 or "wrong password" in said:
            place = settings.password_file or "the settings"
            return WrongPassword(
                f"the password in {place} does not open repository {where}",
                "put the right password back (BACKUP.md, 'Password')",
            )
        if settings.local_repository is None:
            last = " ".join(said.strip().splitlines()[-4:])
            if _REFUSED.search(last):
                return _refused(settings, done.failure)
            # 0.14 asks whether there is a repository whatever was wrong
            is_there = "does not exist" in last or "unable to open config file" not in last
            if _NO_ANSWER.search(last) or not is_there:
                return unreachable(settings, done.failure)
        elif "permission denied" in said:
            return failed
        if done.exit_code == 10 or "Is there a repository at the following location?" in said:
            return missing(settings)
        if "already contains keys" in said:
            return cut_off(settings)
        if "no space left on device" in said:
            return RepositoryFull(f"the disk of repository {where} is full", "free some, then run this again")
        if verb == "dump":
            return SnapshotError(
                f"the snapshot cannot be read from repository {where}: {_short(done.failure)}",
                f"choose another one; restic check --read-data, then {self.repair(['PACK'])}",
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
            rebuild = "restic repair index" if version(self._settings) >= (0, 16) else "restic rebuild-index"
            return RepositoryDamaged(
                f"repository {where} is damaged: {len(missing)} of its pack files are missing",
                f"bring them back if you can, else {rebuild} (BACKUP.md, 'Damaged')",
            )
        named = f": pack {', '.join(pack[:8] for pack in packs)}" if packs else ""
        return RepositoryDamaged(f"repository {where} is damaged{named}", self.repair(packs or ["PACK"]))

    def repair(self, packs: list[str]) -> str:
        """The command that takes damaged packs out."""
        if version(self._settings) >= (0, 16):
            return f"restic repair packs {' '.join(packs)} (BACKUP.md, 'Damaged')"
        return (
            "move the pack away and run restic rebuild-index, or restic 0.16's repair packs"
            " (BACKUP.md, 'Damaged')"
        )


class _Trouble:
    """Watches a restic that talks to a server, and raises when it has no point to go on.

    That is when it is refused; when nothing has moved for `patience_s`; or when it has been trying again and again for
    that long. By itself restic tries each operation for a quarter of an hour, and waits for an answer for ever.
    """

    def __init__(self, settings: Settings, source: Settings | None, patience_s: float) -> None:
        self._settings, self._source = settings, source
        self._patience_s = patience_s
        self._moved_at, self._moved_bytes = time.monotonic(), 0
        self._failing_since = self._failed_at = 0.0
        self._reason = ""

    def __call__(self, lines: list[str], read_bytes: int) -> None:
        now = time.monotonic()
        for match in filter(None, map(_TROUBLE.search, lines)):
            self._note(match["reason"], bool(match["retrying"]), now)
        if read_bytes - self._moved_bytes > MOVING_BYTES:
            self._moved_at, self._moved_bytes = now, read_bytes
        is_failing = bool(self._reason) and self._failed_at - self._failing_since > self._patience_s
        if is_failing or now - self._moved_at > self._patience_s:
            raise self.unreachable(f"nothing has come for {self._patience_s:.0f} s")

    def unreachable(self, otherwise: str) -> Unreachable:
        """What to raise: with what restic said last, or `otherwise`."""
        reason = self._reason or otherwise
        return unreachable(_meant(self._settings, self._source, reason), reason)

    def _note(self, reason: str, retrying: bool, now: float) -> None:
        reason = self._settings.masked(reason)
        settings = _meant(self._settings, self._source, reason)
        if "bucket does not exist" in reason:  # from 0.18 on restic goes on trying
            raise missing(settings)
        if _REFUSED.search(reason):
            raise _refused(settings, reason)
        if not retrying:
            return
        self._reason = reason
        if _NO_POINT.search(reason):
            raise unreachable(settings, reason)
        if now - self._failed_at > PAUSE_S:  # else it is still the same trouble
            self._failing_since = now
            shown = settings.repository_shown
            log.warning("%s fails us: %s; trying for up to %.0f s", shown, _short(reason), self._patience_s)
        self._failed_at = now


def _meant(settings: Settings, source: Settings | None, text: str) -> Settings:
    """Which of the two repositories restic speaks of: the one whose folder or host stands in `text`, or on a server."""
    for one in (source, settings):
        if one and re.search(rf"{re.escape(_place(one))}(?![\w.-])", text):
            return one
    return source if source and settings.local_repository and not source.local_repository else settings


def _place(settings: Settings) -> str:
    if settings.local_repository:
        return str(settings.local_repository)
    host = re.match(r"\w+:(?:https?:)?(?://)?(?:[^@/]*@)?([^/:]+(?::\d+)?)", settings.repository)
    return host[1] if host else settings.repository


def cut_off(settings: Settings) -> SetupError:
    """There are keys, and nothing that they would open."""
    return SetupError(
        f"repository {settings.repository_shown} has keys, but no config: an init was cut off, or that file is lost",
        "if nothing is in it, remove it and repeat; else bring its file config back",
    )


def missing(settings: Settings) -> RepositoryMissing:
    """There is no repository at the place that the settings name."""
    question = "is the backup volume mounted?" if settings.local_repository else "is its address right?"
    return RepositoryMissing(
        f"no restic repository at {settings.repository_shown}",
        f"{question} (a first one: {settings.make('init')})",
    )


def _refused(settings: Settings, reason: str) -> BackupError:
    if settings.local_repository:
        shown = settings.repository_shown
        return SetupError(f"repository {shown} cannot be read: {_short(reason)}", "run this as its owner")
    return Refused(
        f"the server of repository {settings.repository_shown} refuses us: {_short(reason)}",
        "check the credentials, and what they allow (BACKUP.md, 'Another repository')",
    )


def unreachable(settings: Settings, reason: str) -> Unreachable:
    if settings.local_repository:
        question = "is its disk well (dmesg)?"
    elif settings.repository.startswith("sftp:"):
        question = "does its ssh work by hand?"
    else:
        question = "are it and the network up?"
    server = "" if settings.local_repository else "the server of "
    return Unreachable(
        f"{server}repository {settings.repository_shown} cannot be reached: {_short(reason)}",
        f"{question} then run this again",
    )


def version(settings: Settings) -> tuple[int, int]:
    """Major and minor version of the restic that is set; SetupError if there is none, or it is too old."""
    said = command.run(settings.restic, "version", env=settings.variables)
    match = re.match(r"restic (\d+)\.(\d+)", said.stdout.decode(errors="replace"))
    if said.exit_code or not match:
        raise SetupError(f"{settings.restic} does not say its version", "check RESTIC")
    found = int(match[1]), int(match[2])
    if found < OLDEST:
        raise SetupError(
            f"{settings.restic} is {match[0]}, which is too old", "0.14 or later is needed: see BACKUP.md"
        )
    return found


def _short(text: str, limit: int = 300) -> str:
    half = (limit - 3) // 2  # what was tried stands at the beginning, and why it failed at the end
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"
