"""What can be set, and where it was. The only reader of os.environ and of the settings file."""

import difflib
import errno
import json
import logging
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dodeka_db import places, safe_open
from dodeka_db.errors import SetupError, UsageError

log = logging.getLogger("dodeka_db")
ROOT = Path(__file__).resolve().parents[2]
SETTINGS_FILE = ROOT / "deploy" / "backup.env"
# where the backend is: around the scripts; and beside them, where they have a clone of their own
BACKENDS = (ROOT / "backend", Path("/home/backend/dodeka/backend"))
ENVIRONMENTS = ("production", "demo")
# what DODEKA_FORMAT can be, and how the name of the file in a snapshot then ends
FORMATS = {"zst": ".sqlite.zst", "pages": ".sqlite"}
# how restic can be given its password; with FROM_ inside, that of the repository it copies from
_PASSWORDS = ("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND", "RESTIC_KEY_HINT")
_SECRET = re.compile(
    r"(PASSWORD|PASSPHRASE|_PASS|SECRET|TOKEN|KEY|CREDENTIALS|SAS)(_|$)(?!FILE|COMMAND|HINT|ID)"
)
# of a settings file
_MOST_BYTES = 1_000_000
# what says where something is, in groups of which one setting takes the place of another
_PLACES = (
    *(("DODEKA_BACKEND",), ("DODEKA_STATE",), ("RESTIC_REPOSITORY",), _PASSWORDS[:3]),
    *(("OFFSITE_REPOSITORY",), ("OFFSITE_PASSWORD_FILE",), ("OFFSITE_OPTIONS",)),
)
# what says which account of a server is meant, or lets us in
_OF_A_SERVER = re.compile(r"(AWS|B2|AZURE|GOOGLE|OS|ST|RCLONE|RESTIC_REST|RESTIC_AWS)_\w+")
_READ_BY_RESTIC = re.compile(rf"RESTIC_\w+|{_OF_A_SERVER.pattern}|(?i:(https?|no|all)_proxy)")
# what restic is not to have from anybody but us: the snapshots of one host alone, and where copies come from
# (https://restic.readthedocs.io/en/stable/075_scripting.html)
_KEPT_FROM_RESTIC = re.compile(r"RESTIC_(HOST|FROM_\w+)")
# the password in an address, or a user name alone, which of http may be a token; what is not in an address is no password
_IN_ADDRESS = re.compile(
    r"([a-z][a-z0-9+.-]*://[^/@:\s]*:)[^/\s]*@|(https?://)[^/@:\s]+@|(sftp:[^/@:\s]+:)[^/@\s]*@(?=[^/@:\s]+:)",
    re.I,
)
# no port: the beginning of a password that was cut off
_CUT_OFF = re.compile(r"(https?://[^/@:\[\s]*:)(?!\*\*\*@|\d+(?:[^\w]|$))[^/@\s\"]+", re.I)
_LOOPBACK = re.compile(r"(.*\.)?localhost|127(\.\d+){3}|::1")
# control characters, and bytes that are not UTF-8
_UNPRINTABLE = re.compile(r"[\x00-\x08\n-\x1f\x7f\ud800-\udfff]")


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

    @cached_property
    def live(self) -> Path:
        """The database file itself, where `database` is a symbolic link: found out once, whatever becomes of that link."""
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
    None where restic is given its password another way. `options` are restic's own, as it takes them behind -o.
    `variables` is all that is set; what of it restic gets is `for_restic`. `sources` says of each name that is set where:
    the path of the settings file, or `environment`.
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
    options: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
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
        return _local(self.repository)

    @property
    def places(self) -> list[Path]:
        """What a run looks at and may write: the repository, if it is a folder, password file, state, cache, databases."""
        found = [place for place in (self.local_repository, self.password_file) if place]
        found += [self.state, Path(self.variables["RESTIC_CACHE_DIR"])]
        return found + [self.environment(name).database for name in ENVIRONMENTS]

    @property
    def repository_shown(self) -> str:
        """The repository's address as it may stand in a message: without a password."""
        return self.masked(self.repository)

    @property
    def staging(self) -> Path:
        """Where temporary files go, restic's too: not into /tmp, which may be in memory."""
        return self.state / "staging"

    def make(self, words: str) -> str:
        """The command `make <words>`, for this repository and not for the other one, with the settings file that was named."""
        named = self.variables.get("DODEKA_BACKUP_ENV")
        # an empty one: then everything is in the environment
        config = f" CONFIG={shlex.quote(named)}" if named and named != os.devnull else ""
        return f"make {words}{' OFFSITE=1' if self.is_offsite else ''}{config}"

    @property
    def for_restic(self) -> dict[str, str]:
        """The environment of restic, and of the ssh or rclone that it starts: nothing of ours, no secret of another program."""
        return {
            name: value
            for name, value in self.variables.items()
            if not name.startswith(("DODEKA_", "OFFSITE_"))
            and (name in self.sources or not _SECRET.search(name) or _READ_BY_RESTIC.fullmatch(name))
        }

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
        return _masked(text, self.variables)

    def in_force(self) -> Iterable[tuple[str, str, str]]:
        """Each setting, and whatever else is set that restic reads: name, value without secrets, where it was set."""
        for name, value in SETTINGS.items():
            shown = "-" if (found := value(self)) is None else _shown(name, str(found), self.variables)
            yield name, shown, self.sources.get(name, "default")
        for name in sorted(set(self.sources) - set(SETTINGS)):
            value = self.variables.get(name)
            shown = "not handed to restic" if value is None else _shown(name, value, self.variables)
            yield name, shown, self.sources[name]


# every setting, and what is in force of it
SETTINGS: Mapping[str, Callable[[Settings], object]] = {
    "DODEKA_BACKEND": lambda settings: settings.backend,
    "RESTIC_REPOSITORY": lambda settings: settings.repository,
    "RESTIC_PASSWORD_FILE": lambda settings: settings.password_file,
    "OFFSITE_REPOSITORY": lambda settings: settings.offsite and settings.offsite.repository,
    "OFFSITE_PASSWORD_FILE": lambda settings: settings.offsite and settings.offsite.password_file,
    "OFFSITE_OPTIONS": lambda settings: settings.offsite and "; ".join(settings.offsite.options) or None,
    "OFFSITE_RETENTION": lambda settings: (
        settings.offsite and ("same" if settings.offsite.retains else "none")
    ),
    "DODEKA_SYSTEMCTL": lambda settings: shlex.join(settings.systemctl) or "none",
    "DODEKA_STATE": lambda settings: settings.state,
    "RESTIC": lambda settings: settings.restic,
    "DODEKA_FORMAT": lambda settings: settings.format,
    "DODEKA_START_WAIT_S": lambda settings: settings.start_wait_s,
    "DODEKA_HEALTH_URL_PRODUCTION": lambda settings: settings.health_urls.get("production"),
    "DODEKA_HEALTH_URL_DEMO": lambda settings: settings.health_urls.get("demo"),
    "DODEKA_PING_URL_PRODUCTION": lambda settings: settings.ping_urls.get("production"),
    "DODEKA_PING_URL_DEMO": lambda settings: settings.ping_urls.get("demo"),
    "DODEKA_LOCK_WAIT_S": lambda settings: settings.lock_wait_s,
}


def _masked(text: str, variables: Mapping[str, str]) -> str:
    for secret in sorted(_secrets(variables), key=len, reverse=True):  # one may be the beginning of another
        for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe="", errors="surrogateescape")):
            text = text.replace(form, "***")
    text = _IN_ADDRESS.sub(lambda match: f"{match[1] or match[2] or match[3]}***@", text)
    return _CUT_OFF.sub(r"\1***", text)


def _secrets(variables: Mapping[str, str]) -> set[str]:
    values = {value for name, value in variables.items() if _SECRET.search(name)}
    for name in SETTINGS:
        if user_info := _user_info(variables.get(name, "")):
            password = user_info.partition(":")[2] or user_info
            values |= {password, unquote(password)}
    return {value for value in values if len(value) > 3}


def _shown(name: str, value: str, variables: Mapping[str, str]) -> str:
    """The value of `name` as it may be printed."""
    if _SECRET.search(name) or name == "RESTIC_PASSWORD_COMMAND":
        return "***"
    if name.startswith(("DODEKA_PING_URL_", "DODEKA_HEALTH_URL_")):
        secret = r"(?<=[^/:])[/?#].*" if "PING" in name else r"\?.*"
        value = re.sub(secret, lambda match: f"{match[0][0]}***", value)
    return _masked(value, variables)


def load(environ: Mapping[str, str] | None = None, check_owner: bool = True) -> Settings:
    """Read the settings file (DODEKA_BACKUP_ENV names another one) and the environment, which wins.

    But for where things are, which the environment cannot set otherwise than the file. Raises SetupError for that, for a
    file that cannot be read or understood, for a name that is none of ours, for a value that makes no sense, and for root where
    something of all this belongs to another user: not with `check_owner` False, for make install, which gives it to its owner.
    """
    environ = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
    named = environ.get("DODEKA_BACKUP_ENV")
    _check_names(environ, "the environment", ("DODEKA_BACKUP_ENV", "HOME"))
    home = _path("HOME", environ, Path(_home()))
    file = Path(os.path.expanduser(named)) if named else SETTINGS_FILE
    if check_owner:
        places.check_owner([ROOT, file])
    from_file = _read(file, home) if named or file.exists() else {}
    _check_names(from_file, f"settings file {file}")
    _check_places(environ, from_file, file)
    values = {**{name: value for name, value in from_file.items() if value}, **environ}
    sources = {
        name: "environment" if name in environ else str(file)
        for name in values
        if name in from_file or name in SETTINGS or _READ_BY_RESTIC.fullmatch(name)
    }

    state = _path("DODEKA_STATE", values, home / ".local" / "state" / "dodeka-backup")
    repository = os.path.expanduser(values.get("RESTIC_REPOSITORY", "/mnt/backup/restic"))
    password_file = None
    if values.get("RESTIC_PASSWORD_FILE") or not (
        values.get("RESTIC_PASSWORD") or values.get("RESTIC_PASSWORD_COMMAND")
    ):
        password_file = _path("RESTIC_PASSWORD_FILE", values, Path("/mnt/backup/.restic-password"))
        password_file = _handed_over("restic-password", password_file, environ)
    variables = {
        **{name: value for name, value in values.items() if not _KEPT_FROM_RESTIC.fullmatch(name)},
        "HOME": str(home),
        "RESTIC_REPOSITORY": repository,
        "RESTIC_CACHE_DIR": str(_path("RESTIC_CACHE_DIR", values, state / "restic-cache")),
    }
    if password_file:
        variables["RESTIC_PASSWORD_FILE"] = str(password_file)
    settings = Settings(
        backend=_path("DODEKA_BACKEND", values, next(filter(Path.is_dir, BACKENDS), BACKENDS[0])),
        repository=repository,
        password_file=password_file,
        systemctl=_systemctl(values.get("DODEKA_SYSTEMCTL")),
        state=state,
        restic=_restic(values, home),
        format=_format(values.get("DODEKA_FORMAT", "zst")),
        lock_wait_s=_seconds("DODEKA_LOCK_WAIT_S", values.get("DODEKA_LOCK_WAIT_S", "600")),
        start_wait_s=_seconds("DODEKA_START_WAIT_S", values.get("DODEKA_START_WAIT_S", "5")),
        health_urls=_urls("DODEKA_HEALTH_URL", values),
        ping_urls=_urls("DODEKA_PING_URL", values),
        variables=variables,
        sources=sources,
    )
    settings = replace(settings, variables={**variables, "TMPDIR": str(settings.staging)})
    _check_address("RESTIC_REPOSITORY", repository)
    _warn_of_plain_http(values)
    settings = replace(settings, offsite=_offsite(settings, values, home))
    if check_owner:
        places.check_owner([*settings.places, *(settings.offsite.places if settings.offsite else ())])
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
    options = tuple(filter(None, (one.strip() for one in values.get("OFFSITE_OPTIONS", "").split(";"))))
    for option in options:
        match = re.fullmatch(r"([a-z0-9]+)\.[a-z0-9.-]+=.+", option)
        if not match:
            raise SetupError(
                f"OFFSITE_OPTIONS holds '{_masked(option, values)}', which is no option of restic",
                "write 'rclone.program=ssh offsite', and a semicolon between two",
            )
        if settings.repository.startswith(f"{match[1]}:"):  # a copy is one restic, with one set of options
            raise SetupError(
                f"OFFSITE_OPTIONS sets {match[1]}, by which RESTIC_REPOSITORY is reached too",
                "reach one of the two another way: a copy would read the wrong one",
            )
    password_file = _path("OFFSITE_PASSWORD_FILE", values, home / ".restic-offsite-password")
    password_file = _handed_over("offsite-password", password_file, values)
    settings = replace(settings.opened_with(password_file), state=settings.state / "offsite")
    return replace(
        settings,
        repository=address,
        variables={
            **settings.variables,
            "RESTIC_REPOSITORY": address,
            "TMPDIR": str(settings.staging),
        },
        options=options,
        retains=retention == "same",
        is_offsite=True,
    )


def _handed_over(name: str, file: Path, environ: Mapping[str, str]) -> Path:
    """Where systemd has put the password in `file` for a unit (LoadCredential=), else `file`.

    https://systemd.io/CREDENTIALS/
    """
    handed_over = Path(environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / name
    return handed_over if handed_over.is_file() and handed_over.read_bytes().strip() else file


def _check_names(values: Mapping[str, str], where: str, others: Iterable[str] = ()) -> None:
    """Refuse what is nearly the name of a setting, or looks like one of ours, and what no value can hold."""
    words = set("_".join(SETTINGS).split("_"))
    for name, value in values.items():
        if name in SETTINGS or name in others or name.startswith("RESTIC_"):
            if _UNPRINTABLE.search(value):
                raise SetupError(f"{name} of {where} holds a character that no setting can", "set it anew")
        if name in SETTINGS or name in others or not words & set(name.split("_")):
            continue
        is_like_ours = name.startswith(("DODEKA_", "OFFSITE_")) or name == "RESTIC_REPOSITORY_FILE"
        if near := difflib.get_close_matches(name, SETTINGS, 1, 0 if is_like_ours else 0.9):
            raise SetupError(f"{name} of {where} is no setting", f"is {near[0]} meant? Else take it away")


def _check_places(environ: Mapping[str, str], from_file: Mapping[str, str], file: Path) -> None:
    """A repository left in a shell must not get what a settings file sends to another one."""
    for names in (*_PLACES, *((name,) for name in from_file if _OF_A_SERVER.fullmatch(name))):
        in_file = [name for name in names if name in from_file]
        for name in names if in_file else ():
            there = name if name in in_file else in_file[0]
            expanded = (os.path.expanduser(place.get(name, "")) for place in (environ, from_file))
            if name in environ and len(set(expanded)) > 1:
                raise SetupError(
                    f"{name}={_shown(name, environ[name], environ)} of the environment is not what settings file"
                    f" {file} sets: {there}={_shown(there, from_file[there], from_file)}",
                    f"unset {name}, or if that one is right, write it into the file",
                )


def _local(repository: str) -> Path | None:
    if re.match(r"[a-z0-9]+:", repository):
        return Path(repository.removeprefix("local:")) if repository.startswith("local:") else None
    return Path(repository)


def _user_info(address: str) -> str:
    """The `user:password` of an address of http, as it is written; empty if there is none."""
    match = re.match(r"(?:\w+:)?https?://(.*)@", address, re.I)
    return match[1] if match else ""


def _check_address(name: str, repository: str) -> None:
    if _local(repository):
        _check_absolute(name, repository.removeprefix("local:"))
    if re.search(r"[/?#@\s]", _user_info(repository)):
        raise SetupError(
            f"{name} has a character in front of its last @ that cannot stand there",
            "write %2F for a slash, %40 for an @, %3F for a question mark, %23 for a #, %20 for a blank",
        )
    if re.match(r"sftp://[^/@]*:[^/]*@|sftp:[^/@:]+:[^/@]*@[^/@:]+:", repository):
        raise SetupError(f"{name} has a password, which restic does not take for sftp", "use a key of ssh")
    # restic hands it to rclone on the command line, which everybody on the machine can read
    if re.match(r"rclone:[^:]*[,=]|rclone::", repository):
        raise SetupError(
            f"{name} holds settings of rclone, which the process list would show",
            "put them into rclone's own configuration, and name that here: rclone:NAME:FOLDER",
        )
    if re.match(r"rclone:(?![^:/]+:)", repository):  # rclone takes it for a folder of this machine
        raise SetupError(f"{name}={repository} names no remote of rclone", "write rclone:NAME:FOLDER")


def _warn_of_plain_http(values: Mapping[str, str]) -> None:
    """Once a command: whoever is on the way to such a server reads what we are let in by, and can answer in its place."""
    plain = [
        name
        for name in values
        if (name in SETTINGS or _OF_A_SERVER.fullmatch(name))
        and (match := re.match(r"(?:\w+:)?http://(?:[^/]*@)?(\[[^]]*|[^/:?#]*)", values[name], re.I))
        and not _LOOPBACK.fullmatch(match[1].strip("[").lower())
    ]
    if plain:
        log.warning(
            "%s: plain http:// to another machine, which can be read and changed on the way; use https://",
            ", ".join(plain),
        )


# what a shell takes as it stands, between or without quotes, at the beginning of a line that does nothing but set one
# variable (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_02)
_PIECE = re.compile(r"""'[^']*'|"(?:\\.|[^"\\$`])*"|\\.|[^ \t'"\\$`;&|<>(){]""")
_LINE = re.compile(
    rf"[ \t]*(?:(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=((?:{_PIECE.pattern})*)(?![^ \t]))?[ \t]*(?:(?<![^ \t])#.*)?"
)


def _read(file: Path, home: Path) -> dict[str, str]:
    """NAME=value lines in the shell's quoting, so that `set -a; . backup.env` reads the same.

    What a shell would make something else of than its own characters is refused, but for a ~/ at the beginning.
    """
    try:
        with open(file, "rb", opener=safe_open.regular) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise OSError(errno.EFBIG, f"it is longer than {_MOST_BYTES} bytes")
            text = text.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SetupError(f"settings file {file} cannot be read: {reason}") from error
    if stat.S_ISREG(mode) and mode & 0o077:  # it may hold credentials
        raise SetupError(f"settings file {file} can be read by others", f"chmod 600 {file}")
    values = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if _UNPRINTABLE.search(line):
            raise SetupError(
                f"settings file {file}, line {number}: it holds a control character",
                f"if an editor of Windows ended the lines: sed -i 's/\\r$//' {file}",
            )
        match = _LINE.fullmatch(line)
        if not match or re.search(r"^~(?!/|$)|:~", _PIECE.sub(_bare, match[2] or "")):
            raise SetupError(
                f"settings file {file}, line {number}: not of the form NAME=value",
                "put the value in single quotes, in which the shell changes nothing",
            )
        if match[1]:
            value = _PIECE.sub(_unquoted, match[2])
            values[match[1]] = str(home) + value[1:] if match[2].startswith("~") else value
    return values


def _bare(piece: re.Match[str]) -> str:
    """What was not quoted, and a place-holder for what was."""
    return piece[0] if len(piece[0]) == 1 else "''"


def _unquoted(piece: re.Match[str]) -> str:
    if piece[0][0] == "'":
        return piece[0][1:-1]
    if piece[0][0] == '"':
        return re.sub(r'\\([$`"\\])', r"\1", piece[0][1:-1])
    return piece[0].removeprefix("\\")


def _home() -> str:
    # cron may give no HOME; expanduser then asks the user database
    return os.path.expanduser("~")


def _path(name: str, values: Mapping[str, str], default: Path) -> Path:
    if not values.get(name):
        return default
    value = os.path.expanduser(values[name])
    _check_absolute(name, value)
    return Path(os.path.abspath(value))


def _check_absolute(name: str, path: str) -> None:
    # cron starts a run in another folder than make
    if not os.path.isabs(path):
        raise SetupError(
            f"{name}={_masked(path, {name: path})} is a relative path", "write it from / on, or from ~/ on"
        )


def _systemctl(value: str | None) -> tuple[str, ...]:
    if value == "none":
        return ()
    if value is None:
        return ("systemctl",) if os.geteuid() == 0 else ("sudo", "systemctl")
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if not words:
        raise SetupError(f"DODEKA_SYSTEMCTL={value} is no command", "sudo systemctl, for example, or none")
    return tuple(words)


def _restic(values: Mapping[str, str], home: Path) -> str:
    if "RESTIC" in values:
        program = os.path.expanduser(values["RESTIC"])
        return str(_path("RESTIC", values, Path())) if "/" in program else program
    path = _trusted(f"{home}/.local/bin:{values.get('PATH', os.defpath)}")
    return shutil.which("restic", path=path) or "restic"


def _trusted(path: str) -> str:
    """The folders of `path`, a PATH, that nobody but root and this user can put a program into."""
    found = []
    for folder in filter(os.path.isabs, path.split(os.pathsep)):
        with suppress(OSError):
            status = os.stat(folder)
            if status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o002:
                found.append(folder)
    return os.pathsep.join(found) or os.devnull  # an empty one would be the current folder


def keep_to_trusted_programs() -> None:
    """From here on no program is run out of the folder of another user, whose PATH a shell may still have."""
    path = _trusted(os.environ.get("PATH", os.defpath))
    os.environ["PATH"] = (
        path if os.geteuid() else f"{path}:/usr/sbin:/sbin"
    )  # `su` gives root the path of the user before


def _format(value: str) -> str:
    if value not in FORMATS:
        raise SetupError(f"DODEKA_FORMAT={value} is not one of the formats", f"choose {' or '.join(FORMATS)}")
    return value


def _seconds(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", value):
        raise SetupError(f"{name}={value} is not a whole number of seconds, up to 999999")
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
