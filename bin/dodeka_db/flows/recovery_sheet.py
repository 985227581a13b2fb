"""make recovery-sheet: one page for paper, with all that is needed to get the databases back by hand, but without the passwords."""

import getpass
import platform
import re
import shlex
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dodeka_db import data_description, masking, repository_address
from dodeka_db.errors import BackupError, SetupError, as_line
from dodeka_db.flows import check, offsite, oldest_copies, verify
from dodeka_db.formatting import when
from dodeka_db.host import job_records, programs
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import runner
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, newest, of_environment, tag_filter
from dodeka_db.settings import ENVIRONMENTS, ROOT, SETTINGS_FILE, Environment, Settings
from dodeka_db.sqlite.row_counts import row_counts

# the environment that the page is about
MAIN_ENVIRONMENT = ENVIRONMENTS[0]


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, then commands to type in order, then values by their names."""

    title: str
    entries: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def sections(settings: Settings) -> list[Section]:
    """The whole page, as of now. It says what is unknown, and why."""
    environment = settings.environment(MAIN_ENVIRONMENT)
    listed = _listed(settings)
    return [
        Section(
            f"Get {MAIN_ENVIRONMENT}'s database back, on any machine",
            dict(_about_the_commands(settings, environment)),
            tuple(_commands(settings, environment, listed)),
        ),
        Section(
            "Put it in its place, on the server, as an administrator",
            {
                "the fourth answers": "done; if not, nothing was replaced: end the process that has the database open,"
                " or make room"
            },
            _swap(environment),
        ),
        Section("Who can open the repositories", dict(_holders(settings))),
        Section("What is where", dict(_places(settings, listed))),
        Section("When it last passed", dict(_passed(settings))),
        Section("What it was made with", _versions(settings)),
    ]


def _nearest(settings: Settings) -> RepositorySettings:
    """The repository that most likely survives: the off-site one, if there is one."""
    return settings.offsite or settings.main


def _listed(settings: Settings) -> list[Snapshot]:
    """The snapshots of the main repository; none if they are unknown."""
    try:
        return Repository(settings.main).snapshots()
    except (BackupError, OSError):
        return []


def _commands(settings: Settings, environment: Environment, listed: Sequence[Snapshot]) -> Iterator[str]:
    repository, name = _nearest(settings), environment.name
    options = [f"-o {shlex.quote(_option_from_anywhere(one))}" for one in repository.options]
    restic = " ".join(["restic", *options])
    yield " ".join(["sudo apt install restic zstd sqlite3", *_tools(repository)])
    yield "umask 077"
    yield f"export RESTIC_REPOSITORY={shlex.quote(_from_anywhere(repository))}"
    for credential in _credentials(settings):
        yield f"export {credential}=..."
    yield f"{restic} snapshots --tag {tag_filter(name)}"
    found = newest(of_environment(listed, name))
    # the path inside the newest snapshot
    path = found.path if found else f"/{environment.file_name(settings.main.format)}"
    unpacked = f"| zstd -q -d -o {name}.sqlite" if path.endswith(".zst") else f"> {name}.sqlite"
    yield f"{restic} dump ID {shlex.quote(path)} {unpacked}"
    members = data_description.read().members.name
    yield f"sqlite3 {name}.sqlite 'PRAGMA integrity_check' 'SELECT count(*) FROM {members}'"


def _about_the_commands(settings: Settings, environment: Environment) -> Iterator[tuple[str, str]]:
    repository, main = _nearest(settings), settings.main
    which = "the off-site repository's" if repository.is_offsite else "the repository's"
    yield "restic asks for", f"{which} password"
    yield "ID", "one of the list, none tagged pre-restore; another path inside: restic ls ID"
    yield "members erased since", "come back this way; make restore leaves them out"
    yield "the last one shows", f"ok, then the number of members: {_members(environment)}"
    for other in ENVIRONMENTS[1:]:
        yield f"for {other}", f"the same, with {other} in the place of {environment.name}"
    if repository.is_offsite:
        yield "if that is gone", f"the main repository and its password: {_from_anywhere(main)}"
    shown = repository.shown + " ".join(map(repository.masked, repository.options))
    if "***" in shown:
        yield "***", "is the password of the server, kept where the others are"
    if "ssh" in " ".join(_tools(repository)):
        yield "ssh", "needs a key that the other server knows"
    elif repository_address.backend(repository.address) == "rclone":
        yield "rclone", "needs a remote of that name: rclone config"


def _members(environment: Environment) -> str:
    try:
        count = data_description.read().count_of_members(row_counts(environment.live))
    except BackupError as error:
        return f"unknown ({error.message})"
    return f"{count} today" if count is not None else "unknown"


def _tools(repository: RepositorySettings) -> list[str]:
    """The packages that reach the repository, besides restic."""
    backend = repository_address.backend(repository.address)
    by_ssh = backend == "sftp" or any(
        option.startswith("rclone.program=ssh") for option in repository.options
    )
    return ["openssh-client"] if by_ssh else ["rclone"] if backend == "rclone" else []


def _from_anywhere(repository: RepositorySettings) -> str:
    """The repository's address as another machine can use it, which does not have our ~/.ssh/config."""
    match = repository_address.sftp_host_and_path(repository.address)
    known = _ssh(match[0]) if match else {}
    if not match or not known:
        return repository.shown
    return f"sftp://{known['user']}@{known['hostname']}:{known['port']}/{match[1]}"


def _option_from_anywhere(option: str) -> str:
    match = re.fullmatch(r"rclone\.program=ssh ([\w.-]+)", option)
    known = _ssh(match[1]) if match else {}
    if not known:
        return option
    return f"rclone.program=ssh -p {known['port']} {known['user']}@{known['hostname']}"


def _ssh(host: str) -> dict[str, str]:
    """User, name and port of a host of our ~/.ssh/config; empty if ssh does not know it."""
    lines = _output("ssh", "-G", host).splitlines()
    known = dict(line.split(" ", 1) for line in lines if " " in line)
    return known if {"user", "hostname", "port"} <= known.keys() else {}


def _swap(environment: Environment) -> tuple[str, ...]:
    return (
        f"db={shlex.quote(str(environment.database))}",
        f"systemctl stop {environment.unit}",
        'rm -f "$db.new"; [ "$(sqlite3 "$db" \'PRAGMA journal_mode=DELETE\')" = delete ] && cp -a "$db" "$db.new"',
        (
            f'[ -e "$db.new" ] && cat {environment.name}.sqlite > "$db.new" && ln "$db" "$db.before"'
            ' && mv "$db.new" "$db" && echo done'
        ),
        f"systemctl start {environment.unit}",
    )


def _holders(settings: Settings) -> Iterator[tuple[str, str]]:
    for title, repository in (("off-site repository", settings.offsite), ("main repository", settings.main)):
        if repository is None:
            continue
        try:
            keys = Repository(repository).keys()
        except (BackupError, OSError) as error:
            yield title, f"unknown: {as_line(error)}"
            continue
        yield title, "; ".join(f"{key.name} (key {key.short_id}, made {key.made:%d %b %Y})" for key in keys)


def _places(settings: Settings, listed: Sequence[Snapshot]) -> Iterator[tuple[str, str]]:
    main, second = settings.main, settings.offsite
    if second:
        yield "off-site repository", second.shown
        if second.options:
            yield "options of restic", second.masked("; ".join(second.options))
        yield "off-site password", str(second.password_file)
    else:
        yield "off-site repository", "none"
    yield "main repository", main.shown
    yield "main password", str(main.password_file or "not in a file: see the settings")
    yield "server", f"{socket.gethostname()}, user {getpass.getuser()}"
    for environment in settings.environments:
        yield f"database of {environment.name}", f"{environment.database}, of {environment.unit}"
    yield "settings", str(main.variables.get("DODEKA_BACKUP_ENV") or SETTINGS_FILE)
    if credentials := _credentials(settings):
        yield "credentials in them", ", ".join(credentials)
    if monitors := {
        masking.shown_host(url) for url in (settings.monitor, *settings.ping_urls.values()) if url
    }:
        yield "monitor", ", ".join(sorted(monitors))
    if origin := _git("remote", "get-url", "origin"):
        yield "these scripts", main.masked(origin)
    if oldest := min((one.time for one in listed), default=None):
        name, shown = oldest_copies.line(main, oldest).split(": ", 1)
        yield name, shown


def _credentials(settings: Settings) -> list[str]:
    return sorted(filter(masking.is_credential, settings.main.variables))


def _passed(settings: Settings) -> Iterator[tuple[str, str]]:
    state = settings.main.state
    records = {
        f"drill of {one.name}": job_records.read(state, verify.job(one)) for one in settings.environments
    }
    records["check of the repository"] = job_records.read(state, check.JOB)
    if settings.offsite:
        records["off-site copy"] = offsite.last(settings)
    for title, record in records.items():
        yield title, when(record.passed) if record.passed else "never"


def _versions(settings: Settings) -> dict[str, str]:
    revision = _git("rev-parse", "--short", "HEAD")
    try:
        version = ".".join(map(str, runner.version(settings.main)))
    except BackupError as error:
        version = as_line(error)
    tools = f"restic {version}, SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}"
    return {"versions": tools, "revision of these scripts": revision or "not a git repository"}


def _git(*words: str) -> str:
    """The output of git in this clone; empty if it fails."""
    # the clone is root's, and git answers others only if it is told to trust that
    return _output("git", "-C", str(ROOT), "-c", "safe.directory=*", *words)


def _output(*words: str) -> str:
    """The output of a program that may be missing; empty if it fails."""
    try:
        done = programs.run(*words)
    except SetupError:
        return ""
    return "" if done.exit_code else done.stdout.decode(errors="replace").strip()
