"""The recovery sheet: one page for paper, with what is needed to get the databases back by hand, but no secret."""

import getpass
import platform
import re
import shlex
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dodeka_db import masking, repository_address
from dodeka_db.errors import BackupError, SetupError, as_line
from dodeka_db.flows import check, offsite, verify
from dodeka_db.host import job_records, programs
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import runner
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, ordinary
from dodeka_db.settings import ENVIRONMENTS, ROOT, SETTINGS_FILE, Environment, Settings


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, then either what is called what, or lines to be typed."""

    title: str
    entries: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def sections(settings: Settings) -> list[Section]:
    """The whole page, as things are now. What cannot be told it says, and why."""
    newest = _newest(settings)
    return [
        Section("What is where", dict(_places(settings))),
        Section("Who can open it", dict(_holders(settings))),
        Section("When it last passed", dict(_passed(settings))),
        Section("What it was made with", _versions(settings)),
        Section(
            "Get a database back, on any machine with restic, zstd and sqlite3",
            commands=_commands(settings, newest),
        ),
        Section("Put it in its place, on the server", commands=_swap(settings.environment(ENVIRONMENTS[0]))),
    ]


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "server", f"{socket.gethostname()}, user {getpass.getuser()}"
    for name in ENVIRONMENTS:
        environment = settings.environment(name)
        yield f"database of {name}", f"{environment.database}, of {environment.unit}"
    yield "repository", settings.main.shown
    yield "its password", str(settings.main.password_file or "not in a file: see the settings")
    if there := settings.offsite:
        yield "off-site repository", there.shown
        if there.options:
            yield "options of restic there", there.masked("; ".join(there.options))
        yield "off-site password", str(there.password_file)
    else:
        yield "off-site repository", "none"
    named = settings.main.variables.get("DODEKA_BACKUP_ENV")
    yield "settings", str(named or SETTINGS_FILE)
    if credentials := _credentials(settings):
        yield "credentials in them", ", ".join(credentials)
    if origin := _said("git", "-C", str(ROOT), "remote", "get-url", "origin"):
        yield "these scripts", settings.main.masked(origin)


def _said(*words: str) -> str:
    """The output of a program that may be missing; empty if it fails."""
    try:
        done = programs.run(*words)
    except SetupError:
        return ""
    return "" if done.exit_code else done.stdout.decode(errors="replace").strip()


def _credentials(settings: Settings) -> list[str]:
    return sorted(name for name in settings.main.variables if masking.is_credential(name))


def _from_anywhere(repository: RepositorySettings) -> str:
    """The repository's address as another machine can use it, which does not have our ~/.ssh/config."""
    match = repository_address.sftp_host_and_path(repository.address)
    if not match:
        return repository.shown
    host, path = match
    lines = _said("ssh", "-G", host).splitlines()
    known = dict(line.split(" ", 1) for line in lines if " " in line)
    if not {"user", "hostname", "port"} <= known.keys():
        return repository.shown
    return f"sftp://{known['user']}@{known['hostname']}:{known['port']}/{path}"


def _holders(settings: Settings) -> Iterator[tuple[str, str]]:
    for title, repository in (("repository", settings.main), ("off-site repository", settings.offsite)):
        if repository is None:
            continue
        try:
            keys = Repository(repository).keys()
        except (BackupError, OSError) as error:
            yield title, f"cannot be told: {as_line(error)}"
            continue
        yield title, "; ".join(f"{key.name} (key {key.short_id}, made {key.made:%d %b %Y})" for key in keys)


def _passed(settings: Settings) -> Iterator[tuple[str, str]]:
    jobs = {f"drill of {name}": verify.job(settings.environment(name)) for name in ENVIRONMENTS}
    jobs |= {"check of the repository": check.JOB}
    if settings.offsite:
        jobs |= {"off-site copy": offsite.JOB}
    for title, job in jobs.items():
        passed = (
            offsite.last(settings) if job == offsite.JOB else job_records.read(settings.main.state, job)
        ).passed
        yield title, f"{passed:%a %d %b %Y %H:%M}" if passed else "never"


def _versions(settings: Settings) -> dict[str, str]:
    revision = _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    try:
        version = ".".join(map(str, runner.version(settings.main)))
    except BackupError as error:
        version = as_line(error)
    return {
        "restic": version,
        "SQLite": sqlite3.sqlite_version,
        "Python": platform.python_version(),
        "these scripts": revision or "not a git repository",
    }


def _newest(settings: Settings) -> dict[str, Snapshot]:
    """The newest ordinary snapshot by environment; empty where the repository does not open."""
    try:
        snapshots = Repository(settings.main).snapshots()
    except (BackupError, OSError):
        return {}
    return {snapshot.environment: snapshot for snapshot in ordinary(snapshots)}


def _commands(settings: Settings, newest: Mapping[str, Snapshot]) -> tuple[str, ...]:
    there = settings.offsite
    lines = [f"export RESTIC_REPOSITORY={shlex.quote(_from_anywhere(settings.main))}"]
    if there:
        lines.append(f"# or: export RESTIC_REPOSITORY={shlex.quote(_from_anywhere(there))}")
        if there.options:
            options = " ".join(f"-o {shlex.quote(there.masked(one))}" for one in there.options)
            lines.append(f"# and with that one, behind each 'restic': {options}")
    lines += [f"# export {name}=..." for name in _credentials(settings)]
    lines.append("umask 077")
    for name in ENVIRONMENTS:
        lines.append(f"restic snapshots --tag db_dodeka,env_{name}   # choose an ID, none tagged pre-restore")
        path = newest[name].path if name in newest else f"/dodeka-{name}.sqlite.zst"
        unpacked = f"| zstd -q -d -o {name}.sqlite" if path.endswith(".zst") else f"> {name}.sqlite"
        lines.append(f"restic dump ID {shlex.quote(path)} {unpacked}")
        lines.append(f"sqlite3 {name}.sqlite 'PRAGMA integrity_check'   # ok")
    lines.append("# restic asks for the password; another path inside: restic ls ID")
    addresses = " ".join(lines[:3])
    if "***" in addresses:
        lines.append("# *** is the password of the server, kept where the others are")
    if "sftp:" in addresses or "rclone.program=ssh" in addresses:
        lines.append("# ssh needs a key that the other server knows")
    if re.search(r"rclone:(?!.*rclone\.program=ssh)", addresses):
        lines.append("# rclone needs a remote of that name: rclone config")
    return tuple(lines)


def _swap(environment: Environment) -> tuple[str, ...]:
    live = environment.database
    return (
        f"sudo systemctl stop {environment.unit}",
        f"sqlite3 {shlex.quote(str(live))} 'PRAGMA journal_mode=DELETE'   # delete; if there is still one",
        f"cp -p {shlex.quote(str(live))} {shlex.quote(str(live))}.before",
        f"mv {environment.name}.sqlite {shlex.quote(str(live))}   # as the user that runs the backend",
        f"sudo systemctl start {environment.unit}",
    )


def now() -> str:
    """The date of the page."""
    return f"{datetime.now().astimezone():%a %d %b %Y %H:%M}"
