"""make prove: prove that what is on paper opens the off-site repository, with nothing of this server's."""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dodeka_db import data_description, places, repository_address, safe_open
from dodeka_db.errors import (
    BackupError,
    RepositoryMissingError,
    SetupError,
    SnapshotError,
    UnreachableError,
    UsageError,
    WrongPasswordError,
)
from dodeka_db.flows import verify
from dodeka_db.formatting import counted, when
from dodeka_db.host import job_records, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import PASSWORDS, RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, newest, of_environment
from dodeka_db.settings import ENVIRONMENTS, Settings

# the proof's name in the records, which have who gave it and with which snapshot
JOB = "prove"
# what messages have in the place of the typed address
AS_TYPED = "(as typed)"
_LINE_BY_LINE = (
    "see a new sheet: make recovery-sheet; one line after the other, as in BACKUP.md, 'Recovery sheet'"
)
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)", re.DOTALL)
_OPTION = re.compile(r"[a-z0-9]+\.[a-z0-9.-]+=.+", re.DOTALL)
# variables that are not taken from the paper
_OURS = ("PATH", "HOME", "LANG", "RESTIC_CACHE_DIR", *PASSWORDS)


@dataclass(frozen=True)
class Paper:
    """What somebody typed from paper: an address, a password, credentials as variables, options of restic, a key file of ssh."""

    address: str = field(repr=False)
    password: str = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    options: tuple[str, ...] = field(repr=False)
    ssh_key: str = field(repr=False)


@dataclass(frozen=True)
class _Typed(RepositorySettings):
    """A repository that messages do not name, because its address was typed as a secret."""

    @property
    def shown(self) -> str:
        return AS_TYPED

    def masked(self, text: str) -> str:
        text = super().masked(text)
        found = [self.address, str(self.folder or ""), repository_address.host(self.address)]
        host = re.match(r"[a-z0-9]+:(?://)?(?:[^@/]*@)?(\[[^]]+\]|[^:/]+)", self.address)
        for secret in (*found, *([host[1]] if host else [])):
            if secret:
                text = text.replace(secret, "***")
        return re.sub(r"[^\s@]+@\*\*\*", "***", text)


def read(ask: Callable[[str], str]) -> Paper:
    """Ask for everything by `ask`, which gets a question and returns what was typed, and shows nothing of it.

    UsageError for what nobody can open a repository with; it does not quote what was typed.
    """
    address = " ".join(_words(ask("Address of the off-site repository:").removeprefix("export ")))
    address = os.path.expanduser(address.removeprefix("RESTIC_REPOSITORY="))
    password = ask("Its password:")
    variables: dict[str, str] = {}
    options, ssh_key = [], ""
    while line := ask("Another line of the sheet (NAME=..., -o ..., -i KEY FILE); Enter alone goes on:"):
        words = _words(line.removeprefix("export "))
        if len(words) == 1 and (match := _VARIABLE.fullmatch(words[0])):
            variables[match[1]] = match[2]
        elif len(words) == 2 and words[0] == "-o" and _OPTION.fullmatch(words[1]):
            options.append(words[1])
        elif len(words) == 2 and words[0] == "-i" and safe_open.is_regular(os.path.expanduser(words[1])):
            ssh_key = os.path.abspath(os.path.expanduser(words[1]))
        else:
            raise UsageError(
                "a typed line is neither NAME=value, nor -o and an option, nor -i and a file", _LINE_BY_LINE
            )
    if not address or not password:
        raise UsageError("an address and a password are needed", _LINE_BY_LINE)
    try:
        repository_address.check("RESTIC_REPOSITORY", address)
    except SetupError as error:  # its message quotes the address
        raise UsageError("the typed address is not one that restic takes", error.hint) from error
    return Paper(address, password, variables, tuple(options), ssh_key)


def run(settings: Settings, paper: Paper, who: str) -> str:
    """Take the newest snapshot out of the repository on `paper`, check it as a drill does, and record that `who` proved it.

    That is one of production, or of demo if there is none. Nothing is written off-site, not even a lock. Returns in words
    what is proven. Raises UsageError if the paper names the main repository, SnapshotError if there is no snapshot or it
    is not a whole database, and BackupError as any reader does; no message has anything that was typed.
    """
    main = settings.main
    typed_folder = repository_address.folder(paper.address)
    is_same = typed_folder and main.folder and os.path.realpath(typed_folder) == os.path.realpath(main.folder)
    if paper.address == main.address or is_same:
        raise UsageError(
            "the typed address is that of the main repository",
            "a proof is about the copy that is left when this server is gone",
        )
    own = replace(main, state=main.state / "prove")
    with job_records.failures(main.state, JOB), staging.locked(own, "proof by paper"):
        with staging.folder(own) as folder, _opened(settings, paper, folder) as typed, _unnamed(typed):
            if typed.folder and places.silent([typed.folder]):
                raise UnreachableError("the folder at the typed address does not answer", places.HINT)
            log.info("opening the off-site repository with what was typed")
            repository = Repository(typed, locking=False)
            snapshot = _newest(repository.snapshots())
            rows = verify.prove(repository, snapshot)
        details = {"who": who, "snapshot": snapshot.short_id, "environment": snapshot.environment}
        job_records.passed(main.state, JOB, details)
    members = data_description.read().count_of_members(rows)
    has = f" with {counted(members, 'member')}" if members is not None else ""
    return (
        f"snapshot {snapshot.short_id} of {snapshot.environment}, of {when(snapshot.time)}, is a whole database{has};"
        f" proven by paper, by {who}"
    )


def _newest(snapshots: list[Snapshot]) -> Snapshot:
    for environment in ENVIRONMENTS:
        if found := newest(of_environment(snapshots, environment)):
            return found
    raise SnapshotError("the off-site repository has no snapshot of a database", "first: make offsite")


@contextmanager
def _opened(settings: Settings, paper: Paper, folder: Path) -> Iterator[_Typed]:
    """The repository on `paper`, for a restic that has nothing else: a home, a cache and an ssh of its own in the new `folder`.

    The password is in memory: restic reads it there by our process ID, and a killed run leaves none behind.
    """
    main = settings.main
    for name in ("home", "bin"):
        (folder / name).mkdir(mode=0o700)
    _make_ssh(folder, paper.ssh_key, main.variables.get("PATH", os.defpath))
    with open(os.memfd_create("password"), "w+b", buffering=0) as memory:
        os.fchmod(memory.fileno(), 0o600)
        memory.write(paper.password.encode())
        password_file = Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        variables = {
            **{name: value for name, value in paper.variables.items() if name not in _OURS},
            "PATH": f"{folder / 'bin'}:{main.variables.get('PATH', os.defpath)}",
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "RESTIC_CACHE_DIR": str(folder / "cache"),
            "RESTIC_PASSWORD_FILE": str(password_file),
        }
        yield _Typed(
            address=paper.address,
            password_file=password_file,
            state=folder,
            variables=variables,
            given=frozenset(paper.variables),
            restic=main.restic,
            format=main.format,
            lock_wait_s=main.lock_wait_s,
            databases=(),
            options=paper.options,
            is_offsite=True,
        )


def _make_ssh(folder: Path, key: str, path: str) -> None:
    """An ssh for restic and its options that knows no host, no agent and no key of this server's, only `key`, if that is not empty.

    ssh looks up the home of its user by itself, whatever HOME says.
    """
    ssh = shutil.which("ssh", path=path)
    if not ssh:
        return
    options = {
        "IdentityFile": key or "none",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": str(folder / "home" / "known_hosts"),
        "GlobalKnownHostsFile": os.devnull,
        "StrictHostKeyChecking": "accept-new",
    }
    words = [
        ssh,
        "-F",
        "none",
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
    ]
    program = folder / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o700)


@contextmanager
def _unnamed(typed: _Typed) -> Iterator[None]:
    """Say in a failure of the block what was typed wrongly, and nothing of what was typed."""
    try:
        yield
    except WrongPasswordError as error:
        raise WrongPasswordError(
            "the typed password does not open the off-site repository",
            "type it again; if the paper says the same, correct the paper: BACKUP.md, 'Keys'",
        ) from error
    except RepositoryMissingError as error:
        raise RepositoryMissingError(
            "there is no restic repository at the typed address", _LINE_BY_LINE
        ) from error
    except BackupError as error:
        raise type(error)(typed.masked(error.message), typed.masked(error.hint)) from error


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []
