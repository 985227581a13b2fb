"""What can be set, and where it was. The only reader of os.environ and of the settings file."""

import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dodeka_db import owner
from dodeka_db.errors import SetupError, UsageError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS_FILE = ROOT / "deploy" / "backup.env"
ENVIRONMENTS = ("production", "demo")
# what DODEKA_FORMAT can be, and how the name of the file in a snapshot then ends
FORMATS = {"zst": ".sqlite.zst", "pages": ".sqlite"}
# how restic can be given its password; with FROM_ inside, that of the repository it copies from
_PASSWORDS = ("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND", "RESTIC_KEY_HINT")
_SECRET = re.compile(
    r"(PASSWORD|PASSPHRASE|_PASS|SECRET|TOKEN|KEY|CREDENTIALS|SAS)(_|$)(?!FILE|COMMAND|HINT|ID)"
)


@dataclass(frozen=True)
class Environment:
    """One deployment of the backend: its database file, its systemd unit, its name in the repository.

    `health_url` is an address that answers when the backend is up, `ping_url` one of a monitor that is told
    of every cron run; None where there is none.
    """

    name: str
    database: Path
    unit: str
    health_url: str | None = None
    ping_url: str | None = None

    @property
    def live(self) -> Path:
        """The database file itself, where `database` is a symbolic link."""
        return Path(os.path.realpath(self.database))

    def file_name(self, format: str) -> str:
        """The name of the database's file inside a snapshot of `format`."""
        return f"dodeka-{self.name}{FORMATS[format]}"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its snapshots, those of the shell scripts."""
        return ("db", "db_sqlite", "db_dodeka", f"env_{self.name}")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; paths are absolute.

    `format`, one of FORMATS, is what new snapshots are: `zst`, a compacted copy of the database, compressed, or
    `pages`, one page for page that is left to restic to compress.
    `systemctl` is the command as a tuple of words, empty where no service is managed. `password_file` is
    None where restic is given its password another way. `variables` is the whole environment for restic.
    `offsite` are the same with the second repository in the place of the first, and a state folder of its own, where
    one is set; `retains` is whether the retention policy applies to the repository.
    """

    backend: Path
    repository: str
    password_file: Path | None
    systemctl: tuple[str, ...]
    state: Path
    restic: str
    format: str
    lock_wait_s: int
    start_wait_s: int
    health_urls: Mapping[str, str]
    ping_urls: Mapping[str, str]
    variables: Mapping[str, str]
    retains: bool = True
    is_offsite: bool = False
    offsite: "Settings | None" = None

    def environment(self, name: str) -> Environment:
        """The environment called `name`; raises UsageError if there is none."""
        if name not in ENVIRONMENTS:
            raise UsageError(f"unknown environment '{name}'", f"choose {' or '.join(ENVIRONMENTS)}")
        return Environment(
            name=name,
            database=self.backend / "envs" / name / "db.sqlite",
            unit=f"dodeka-backend-{name}",
            health_url=self.health_urls.get(name),
            ping_url=self.ping_urls.get(name),
        )

    @property
    def local_repository(self) -> Path | None:
        """The repository's folder, or None where restic reaches it over a network."""
        if re.match(r"[a-z0-9]+:", self.repository):
            return Path(self.repository[len("local:") :]) if self.repository.startswith("local:") else None
        return Path(self.repository)

    @property
    def places(self) -> list[Path]:
        """Where a run may write: repositories that are folders, password files, state, cache, and beside the databases."""
        both = [one for one in (self, self.offsite) if one]
        places = [place for one in both for place in (one.local_repository, one.password_file) if place]
        places += [self.state, Path(self.variables["RESTIC_CACHE_DIR"])]
        return places + [self.environment(name).live.parent for name in ENVIRONMENTS]

    @property
    def repository_shown(self) -> str:
        """The repository's address as it may stand in a message: without a password."""
        return self.masked(self.repository)

    def make(self, words: str) -> str:
        """The command `make <words>`, for this repository and not for the other one."""
        return f"make {words} OFFSITE=1" if self.is_offsite else f"make {words}"

    @property
    def as_source(self) -> dict[str, str]:
        """The variables by which another restic reads this repository beside its own."""
        own = {name: self.variables[name] for name in _PASSWORDS if name in self.variables}
        own["RESTIC_REPOSITORY"] = self.repository
        return {name.replace("RESTIC_", "RESTIC_FROM_", 1): value for name, value in own.items()}

    def opened_with(self, password_file: Path) -> "Settings":
        """The same, with the password in `password_file` and no other."""
        others = {name: value for name, value in self.variables.items() if name not in _PASSWORDS}
        variables = {**others, "RESTIC_PASSWORD_FILE": str(password_file)}
        return replace(self, password_file=password_file, variables=variables)

    def masked(self, text: str) -> str:
        """`text` without passwords: those in an address, and the value of every variable that is named like one."""
        for secret in sorted(self._secrets, key=len, reverse=True):  # one may be the beginning of another
            for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe="")):
                text = text.replace(form, "***")
        text = re.sub(r"(https?://[^/@:\s]*:)[^/\s]*@|(https?://)[^/@:\s]+@", r"\1\2***@", text)
        # no port: the beginning of a password that was cut off
        return re.sub(r"(https?://[^/@:\[\s]*:)(?!\*\*\*@|\d+(?:[^\w]|$))[^/@\s\"]+", r"\1***", text)

    @property
    def _secrets(self) -> set[str]:
        values = {value for name, value in self.variables.items() if _SECRET.search(name)}
        for name in ("RESTIC_REPOSITORY", "OFFSITE_REPOSITORY"):
            if user_info := _user_info(self.variables.get(name, "")):
                password = user_info.partition(":")[2] or user_info
                values |= {password, unquote(password)}
        return {value for value in values if len(value) > 3}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings file (DODEKA_BACKUP_ENV names another one) and the environment, which wins.

    Raises SetupError for a file that cannot be read or understood, for a value that makes no sense, and for root where
    something of all this belongs to another user.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("DODEKA_BACKUP_ENV")
    file = Path(named).expanduser() if named else SETTINGS_FILE
    from_file = _read(file) if named or file.exists() else {}
    values = {**from_file, **{name: value for name, value in environ.items() if value}}

    home = Path(values.get("HOME") or _home())
    state = _path(values.get("DODEKA_STATE"), home / ".local" / "state" / "dodeka-backup")
    repository = os.path.expanduser(values.get("RESTIC_REPOSITORY", "/mnt/backup/restic"))
    password_file = None
    if values.get("RESTIC_PASSWORD_FILE") or not (
        values.get("RESTIC_PASSWORD") or values.get("RESTIC_PASSWORD_COMMAND")
    ):
        password_file = _path(values.get("RESTIC_PASSWORD_FILE"), Path("/mnt/backup/.restic-password"))
    variables = {
        **values,
        "HOME": str(home),
        "RESTIC_REPOSITORY": repository,
        "RESTIC_CACHE_DIR": values.get("RESTIC_CACHE_DIR") or str(state / "restic-cache"),
    }
    if password_file:
        variables["RESTIC_PASSWORD_FILE"] = str(password_file)
    settings = Settings(
        backend=_path(values.get("DODEKA_BACKEND"), ROOT / "backend"),
        repository=repository,
        password_file=password_file,
        systemctl=_systemctl(values.get("DODEKA_SYSTEMCTL")),
        state=state,
        restic=values.get("RESTIC") or _find_restic(values.get("PATH", os.defpath)),
        format=_format(values.get("DODEKA_FORMAT", "zst")),
        lock_wait_s=_seconds("DODEKA_LOCK_WAIT_S", values.get("DODEKA_LOCK_WAIT_S", "600")),
        start_wait_s=_seconds("DODEKA_START_WAIT_S", values.get("DODEKA_START_WAIT_S", "5")),
        health_urls=_urls("DODEKA_HEALTH_URL", values),
        ping_urls=_urls("DODEKA_PING_URL", values),
        variables=variables,
    )
    _check_address("RESTIC_REPOSITORY", repository)
    settings = replace(settings, offsite=_offsite(settings, values, home))
    owner.check(settings.places)
    return settings


def _offsite(settings: Settings, values: Mapping[str, str], home: Path) -> Settings | None:
    retention = values.get("OFFSITE_RETENTION", "same")
    if retention not in ("same", "none"):
        raise SetupError(f"OFFSITE_RETENTION={retention} is not a retention", "choose same or none")
    address = values.get("OFFSITE_REPOSITORY")
    if not address:
        return None
    address = os.path.expanduser(address)
    _check_address("OFFSITE_REPOSITORY", address)
    if address == settings.repository:
        raise SetupError(
            "OFFSITE_REPOSITORY is the same as RESTIC_REPOSITORY", "a second copy needs a place of its own"
        )
    password_file = _path(values.get("OFFSITE_PASSWORD_FILE"), home / ".restic-offsite-password")
    settings = settings.opened_with(password_file)
    return replace(
        settings,
        repository=address,
        state=settings.state / "offsite",
        variables={**settings.variables, "RESTIC_REPOSITORY": address},
        retains=retention == "same",
        is_offsite=True,
    )


def _user_info(address: str) -> str:
    """The `user:password` of an address of http, as it is written; empty if there is none."""
    match = re.match(r"\w+:https?://(.*)@", address)
    return match[1] if match else ""


def _check_address(name: str, repository: str) -> None:
    if re.search(r"[/?#@\s]", _user_info(repository)):
        raise SetupError(
            f"{name} has a character in front of its last @ that cannot stand there",
            "write %2F for a slash, %40 for an @, %3F for a question mark, %23 for a #, %20 for a blank",
        )
    if re.match(r"sftp://[^/@]*:[^/]*@", repository):
        raise SetupError(f"{name} has a password, which restic does not take for sftp", "use a key of ssh")
    # restic hands it to rclone on the command line, which everybody on the machine can read
    if re.match(r"rclone:[^:]*[,=]|rclone::", repository):
        raise SetupError(
            f"{name} holds settings of rclone, which the process list would show",
            "put them into rclone's own configuration, and name that here: rclone:NAME:FOLDER",
        )


# shlex would begin a comment in the middle of a word, which a shell does not: half of a password is none
_UNCOMMENTED = re.compile(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.\#*|(?<=\S)\#|[^'"\\#]|['"\\].*)*""")


def _read(file: Path) -> dict[str, str]:
    """NAME=value lines in the shell's quoting, so that `set -a; . backup.env` reads the same."""
    try:
        with open(file) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise SetupError(f"settings file {file} cannot be read: {reason}") from error
    if stat.S_ISREG(mode) and mode & 0o077:  # it may hold credentials
        raise SetupError(f"settings file {file} can be read by others", f"chmod 600 {file}")
    values = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line[: _UNCOMMENTED.match(line).end()])
        except ValueError:
            words = [""]
        if words[:1] == ["export"]:
            words = words[1:]
        if not words:
            continue
        match = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", words[0], re.DOTALL)
        if not match or len(words) > 1:
            raise SetupError(
                f"settings file {file}, line {number}: not of the form NAME=value",
                "put a value with blanks in quotes",
            )
        values[match[1]] = match[2]
    return {name: value for name, value in values.items() if value}


def _home() -> str:
    # cron may give no HOME; expanduser then asks the user database
    return os.path.expanduser("~")


def _path(value: str | None, default: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(value))) if value else default


def _systemctl(value: str | None) -> tuple[str, ...]:
    if value == "none":
        return ()
    if value:
        return tuple(shlex.split(value))
    return ("systemctl",) if os.geteuid() == 0 else ("sudo", "systemctl")


def _find_restic(path: str) -> str:
    return shutil.which("restic", path=f"/home/backend/.local/bin:{path}") or "restic"


def _format(value: str) -> str:
    if value not in FORMATS:
        raise SetupError(f"DODEKA_FORMAT={value} is not one of the formats", f"choose {' or '.join(FORMATS)}")
    return value


def _seconds(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", value):
        raise SetupError(f"{name}={value} is not a whole number of seconds")
    return int(value)


def _urls(setting: str, values: Mapping[str, str]) -> dict[str, str]:
    urls = {}
    for environment in ENVIRONMENTS:
        name = f"{setting}_{environment.upper()}"
        if url := values.get(name):
            if not _is_address(url):
                raise SetupError(f"{name} is not an address that begins with http:// or https://")
            urls[environment] = url
    return urls


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises ValueError if it is none
        host = (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and url.isascii() and not re.search(r"\s", url)
