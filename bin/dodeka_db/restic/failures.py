"""restic's failures as ours, by its exit codes and its texts. The one place that knows these.

restic has exit codes of its own from 0.17 on (https://restic.readthedocs.io/en/stable/075_scripting.html). For 0.14 to
0.16, and in any version for failures of a disk or a server, only its text says what failed.
"""

import os
import re
import shlex
from pathlib import Path

from dodeka_db import places, repository_address
from dodeka_db.errors import (
    BackupError,
    RefusedError,
    RepositoryDamagedError,
    RepositoryFullError,
    RepositoryLockedError,
    RepositoryMissingError,
    SetupError,
    SnapshotError,
    UnreachableError,
    WrongPasswordError,
)
from dodeka_db.host.programs import Completed
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings

DAMAGED = "BACKUP.md, 'Damaged'"
_SEE_DAMAGED = f"see {DAMAGED}"
# a line that restic prints when an attempt has failed: `Load(<data/5f38800ed2>, 0, 0) failed: open …`
ATTEMPT = re.compile(
    r"(?P<operation>\w+)\((?P<file>.*?)\) (?:returned error, (?P<retrying>retrying) after [\w.µ]+|failed): (?P<reason>.*)"
)
# restic < 0.17 talks to an ssh that has ended; the others are mistakes in the address
_NO_POINT = re.compile(
    r"connection lost|HTTP response to HTTPS client|unsupported protocol scheme|x509", re.IGNORECASE
)
_REFUSED = re.compile(
    r"unauthorized|forbidden|access.?denied|access key id|request signature|permission denied|no credentials",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"dial tcp|connection (?:re|lost)|i/o timeout|no such host|network is|server misbehaving|HTTP response|x509|"
    r"unexpected EOF|: EOF\b|unsupported protocol|tls:|ssh command|sftp session|rclone exited|HTTP to rclone",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"(?P<path>/[^:\n]*): (?:no space left on device|disk quota exceeded)|no space left on device|disk quota"
)
_FILE = r"<?(?:data|index|snapshot|key)s?/"
# a file of the repository that is missing, too short, or does not hold what was stored
_DAMAGE = re.compile(
    rf"{_FILE}[^\n]*(?:no such file|does not exist|404|is too short|EOF)|"
    r"decrypt|ciphertext|nonce is invalid|decompress|invalid data|invalid header|header length|"
    r"(?:hash|ID) does not match|does not match (?:id|hash|real size)|"
    r"not found in (?:the )?(?:repository|index)|packs from index missing|[Dd]ata seems to be missing|"
    r"is too short|repository contains errors|LoadIndex returned errors|repository is damaged",
)
_SUMMARY = re.compile(r"repository contains errors|must be repaired")
_INDEX = re.compile(r"<index/|LoadIndex|packs from index|pack size does not match")


class LockUnreadableError(RepositoryLockedError):
    """The content of a lock is damaged: nobody knows whose it is, and no waiting helps."""


class RemovalRefusedError(RefusedError):
    """The server lets us read and add, but not remove."""


class IndexDamagedError(RepositoryDamagedError):
    """The repository's index is damaged: no snapshot can be read until it is rebuilt."""


def failure_of_restic(repository: RepositorySettings, verb: str, done: Completed) -> BackupError:
    """The failure of a restic on `repository` that ended as `done` says."""
    where, said = repository.shown, done.stderr
    failed = BackupError(f"restic {verb} failed with exit code {done.exit_code}: {short(done.failure)}")
    if done.exit_code < 0:
        return failed
    if of_cache := _failure_of_cache(repository, said):
        return of_cache
    if lock := re.search(r"<lock/([0-9a-f]+)>\)?: invalid data returned", said):
        return lock_unreadable(repository, lock[1])
    if done.exit_code == 11 or "already locked" in said:
        holder = re.search(r"locked (?:exclusively )?by (PID \d+ on \S+)", said)
        return RepositoryLockedError(
            f"repository {where} is locked{f' by {holder[1]}' if holder else ''}",
            "wait for that run to end: BACKUP.md, 'Locked'",
        )
    if done.exit_code == 12 or "wrong password" in said:
        return WrongPasswordError(
            f"the password in {repository.password_file or 'the settings'} does not open repository {where}",
            "put the right password back (BACKUP.md, 'Password')",
        )
    if repository.folder is None and (failure := _failure_of_server(repository, done)):
        return failure
    if done.exit_code == 10 or "Is there a repository at the following location?" in said:
        return missing(repository)
    if "already contains keys" in said:
        return cut_off(repository)
    if failure := failure_in_text(repository, said, short(done.failure)):
        return _named(failure, done) if verb == "check" else failure
    return failed


def failure_of_snapshot(repository: RepositorySettings, failure: BackupError) -> BackupError:
    """`failure` as one of reading a single snapshot: damage, unless it is the index's, becomes a SnapshotError."""
    if type(failure) is not RepositoryDamagedError:
        return failure
    reason = failure.message.partition(" is damaged: ")[2]
    return SnapshotError(
        f"the snapshot cannot be read from repository {repository.shown}: {reason}",
        f"choose another one, then {_SEE_DAMAGED}",
    )


def failure_in_text(repository: RepositorySettings, said: str, reason: str) -> BackupError | None:
    """The failure of a disk or a repository in the text that restic `said`; `reason` goes into the message. None if unknown."""
    where, folder = repository.shown, repository.folder
    if full := _FULL.search(said):
        path = Path(full["path"] or "")
        if path.is_absolute() and folder and not path.is_relative_to(folder):
            return BackupError(
                f"no room left for restic's temporary files ({path})",
                "free some space there, or set DODEKA_STATE to another disk",
            )
        what = f"a quota on the disk of repository {where} is reached"
        if "no space" in full[0]:
            what = f"the disk of repository {where} is full"
        return RepositoryFullError(
            what,
            "free some space (BACKUP.md, 'The volume is full'), then run this again",
        )
    if folder and "permission denied" in said:
        return foreign(repository, reason)
    if folder and "input/output error" in said:
        return BackupError(f"the disk of repository {where} fails: {reason}", "see: dmesg")
    if is_damage(said):
        kind = IndexDamagedError if _INDEX.search(said) else RepositoryDamagedError
        return kind(f"repository {where} is damaged: {reason}", _SEE_DAMAGED)
    return None


def failure_of_attempt(
    repository: RepositorySettings, line: re.Match[str], reason: str
) -> BackupError | None:
    """The failure that no repetition of the attempt in `line`, a match of ATTEMPT, can overcome; None if a repetition may."""
    if of_cache := _failure_of_cache(repository, reason):
        return of_cache
    if "bucket does not exist" in reason:  # restic 0.18 and 0.19 go on trying
        return missing(repository)
    if repository.folder is None:
        if _REFUSED.search(reason):
            return (removal_refused if line["operation"] == "Remove" else refused)(repository, reason)
        return unreachable(repository, reason) if line["retrying"] and _NO_POINT.search(reason) else None
    # restic < 0.17 tries for minutes what only a repair can bring back; a lock may have gone meanwhile
    if (line["retrying"] and not line["file"].startswith("<lock/")) or _FULL.search(reason):
        said = f"{line['file']}: {reason}"
        return failure_in_text(repository, said, short(said))
    return None


def unreadable_snapshots(said: str) -> list[str]:
    """The IDs, 8 digits or more, of the snapshots that restic skipped because it cannot read their metadata."""
    return re.findall(r'(?:could not load snapshot |Ignoring ")([0-9a-f]{8,64})', said)


def without_damage(output: bytes) -> bytes:
    """The JSON of `restic find` without the lines about unreadable trees, which it prints in between, exiting with 0."""
    return re.sub(
        rb"Unable to load tree [0-9a-f]+\n \.\.\. which belongs to snapshot [0-9a-f]+\n", b"", output
    )


def is_damage(said: str) -> bool:
    return bool(_DAMAGE.search(said))


def _failure_of_cache(repository: RepositorySettings, said: str) -> SetupError | None:
    """The failure of restic's cache, which is on this machine, in the text that restic `said`; None if there is none."""
    cache = str(repository.cache)
    reasons = "permission denied|read-only file system|no space left on device|disk quota exceeded|input/output error"
    # without a cache restic goes on; failing to clean it up is no failure either
    failed = rf"^(?!unable to open cache|error clearing).*{re.escape(cache)}(?:/\S*)?: ({reasons})"
    match = re.search(failed, said, re.MULTILINE)
    if not match:
        return None
    fix = "check its disk (sudo dmesg), or set RESTIC_CACHE_DIR to another one"
    if match[1] == "permission denied":
        fix = f"sudo chown -R {places.user_name(os.geteuid())}: {shlex.quote(cache)}"
    return SetupError(f"restic's cache {cache} cannot be used: {match[1]}", fix)


def _failure_of_server(repository: RepositorySettings, done: Completed) -> BackupError | None:
    last = " ".join(done.stderr.strip().splitlines()[-4:])
    if _REFUSED.search(last):
        return refused(repository, done.failure)
    # restic < 0.17 asks whether there is a repository, whatever failed
    is_there = "does not exist" in last or "unable to open config file" not in last
    if not is_there or (_NO_ANSWER.search(last) and not is_damage(last)):
        return unreachable(repository, done.failure)
    return None


def _named(failure: BackupError, done: Completed) -> BackupError:
    """The `failure` of a check, with the damaged packs in its message; logs all that restic said."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    for line in lines:
        log.warning("restic: %s", line)
    if not isinstance(failure, RepositoryDamagedError):
        return failure
    text = "\n".join(lines)
    # restic < 0.16 names a damaged pack by "want", later ones in the command that they suggest
    packs = re.findall(r"want ([0-9a-f]{64}), got", text)
    packs += re.findall(r"^pack ([0-9a-f]{64}) contains", text, re.MULTILINE)
    missing_packs = re.findall(r"pack ([0-9a-f]+).*does not exist", text)
    if packs:
        what = f"pack {', '.join(pack[:8] for pack in packs)}"
    elif missing_packs:
        what = f"{len(missing_packs)} of its pack files are missing"
    else:
        what = next((line for line in lines if is_damage(line) and not _SUMMARY.search(line)), lines[-1])
    shown = failure.message.partition(" is damaged: ")[0]
    return type(failure)(f"{shown} is damaged: {short(what)}", failure.hint)


def cut_off(repository: RepositorySettings) -> SetupError:
    """The repository has keys but no config file."""
    return SetupError(
        f"repository {repository.shown} has keys, but its file config is missing: an init was interrupted, or the file was lost",
        "if its folder data/ has no file in it, remove the repository and run this again; if not, restore the file config",
    )


def missing(repository: RepositorySettings) -> RepositoryMissingError:
    """There is no repository at the place that the settings name."""
    question = "is the backup volume mounted?" if repository.folder else "is its address right?"
    return RepositoryMissingError(
        f"no restic repository at {repository.shown}",
        f"{question} (to create the first repository: {repository.make('init')})",
    )


def foreign(repository: RepositorySettings, reason: str) -> SetupError:
    """Files of a local repository belong to another user: a restic was run as root."""
    folder = repository.folder
    owner = folder.stat().st_uid if folder and folder.exists() else os.geteuid()
    return SetupError(
        f"repository {repository.shown} has files that this user may not read or write: {short(reason)}",
        f"sudo chown -R {places.user_name(owner)}: {shlex.quote(str(folder))}",
    )


def lock_unreadable(repository: RepositorySettings, id: str) -> LockUnreadableError:
    """A lock whose content is damaged: restic < 0.17 ignores it, later versions do nothing while it exists."""
    return LockUnreadableError(
        f"lock {id[:10]} of repository {repository.shown} cannot be read, so nobody knows whose it is",
        f"when no restic uses that repository: {removal_of_lock(repository, id)}",
    )


def removal_of_lock(repository: RepositorySettings, id: str) -> str:
    """The command that removes that one lock."""
    folder = repository.folder
    if folder is None:
        return f"remove locks/{id[:10]}* in the repository on its server"
    names = [path.name for path in (folder / "locks").glob(f"{id}*")] or [f"{id}*"]
    return f"rm {shlex.quote(str(folder / 'locks' / names[0]))}"


def refused(repository: RepositorySettings, reason: str) -> BackupError:
    """The repository's server refuses access; for a local repository foreign()."""
    if repository.folder:
        return foreign(repository, reason)
    return RefusedError(
        f"the server of repository {repository.shown} refuses access: {short(reason)}",
        "check the credentials, and what they allow (docs/repositories.md)",
    )


def removal_refused(repository: RepositorySettings, reason: str) -> RemovalRefusedError:
    """The repository's server gives access, but allows no removals: an append-only one."""
    return RemovalRefusedError(
        f"the server of repository {repository.shown} does not allow removals: {short(reason)}",
        "remove old snapshots from another machine: BACKUP.md, 'Prune from elsewhere'",
    )


def unreachable(repository: RepositorySettings, reason: str) -> UnreachableError:
    """The repository's server or disk does not answer."""
    if repository.folder:
        check = "check its disk (sudo dmesg)"
    elif "x509" in reason:
        check = "check its certificate and the clock (timedatectl; a certificate of your own: SSL_CERT_FILE)"
    elif repository_address.backend(repository.address) == "sftp":
        check = "check that ssh to it works by hand"
    else:
        check = "check that it and the network are up"
    server = "" if repository.folder else "the server of "
    return UnreachableError(
        f"{server}repository {repository.shown} cannot be reached: {short(reason)}",
        f"{check}, then run this again",
    )


def short(text: str, limit: int = 300) -> str:
    """`text`, shortened in its middle: the beginning tells what was tried, the end why it failed."""
    half = (limit - 3) // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"
