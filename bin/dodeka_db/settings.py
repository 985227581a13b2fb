"""The settings: each one, its value, and where it was set. Only this module and flows/sandbox.py read os.environ."""

import difflib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from dodeka_db import masking, places, repository_address, settings_file
from dodeka_db.errors import SetupError, UsageError
from dodeka_db.log import log
from dodeka_db.repository_settings import PASSWORDS, READ_BY_RESTIC, RepositorySettings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS_FILE = ROOT / "deploy" / "backup.env"
# where the backend is: in the clone of these scripts; or in that of the web service's user
BACKENDS = (ROOT / "backend", Path("/home/backend/dodeka/backend"))
ENVIRONMENTS = ("production", "demo")
# the values of DODEKA_FORMAT, and how the name of the file in a snapshot then ends
FORMATS = {"zst": ".sqlite.zst", "pages": ".sqlite"}
# the kinds of clones, which are the values of DODEKA_CLONE: without what must not reach another environment, by
# deploy/data.toml; with made-up people too; all of it
QUARANTINED, MASKED, WHOLE = "quarantined", "masked", "whole"
CLONES = (QUARANTINED, MASKED, WHOLE)
# settings that name a place; those of a group are alternatives
_PLACES = (
    *(("DODEKA_BACKEND",), ("DODEKA_STATE",), ("RESTIC_REPOSITORY",), PASSWORDS[:3]),
    *(("OFFSITE_REPOSITORY",), ("OFFSITE_PASSWORD_FILE",), ("OFFSITE_OPTIONS",)),
)
# variables that only we set for restic: the host whose snapshots it lists, the repository that it copies from
# (https://restic.readthedocs.io/en/stable/075_scripting.html)
_KEPT_FROM_RESTIC = re.compile(r"RESTIC_(HOST|FROM_\w+)")


@dataclass(frozen=True)
class Environment:
    """One deployment of the backend: its database file, its systemd unit, its name in the repository.

    `health_url` is an address that answers when the backend is up, `ping_url` one of a monitor that is told
    of every cron run; None if not set.
    """

    name: str
    database: Path
    unit: str
    health_url: str | None = None
    ping_url: str | None = None

    @cached_property
    def live(self) -> Path:
        """The database file itself, if `database` is a symbolic link: resolved once for this Environment object, on first use."""
        return Path(os.path.realpath(self.database))

    def file_name(self, format: str) -> str:
        """The name of the database's file inside a snapshot of `format`."""
        return f"dodeka-{self.name}{FORMATS[format]}"


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; paths are absolute.

    `main` is the repository that backups are stored in.
    `systemctl` is the command as a tuple of words, empty if no service is managed. `start_wait_s` is how long a started
    service is watched. `monitor` is the address of a monitor behind which every job has a check; None if not set. `clone` is the
    kind of a clone where nothing is said, one of CLONES. `status_page` is the file of the page that shows the status; None if
    none is written. `sources` says where each name was set: the path of the settings file, or `environment`.
    """

    backend: Path
    main: RepositorySettings
    systemctl: tuple[str, ...]
    start_wait_s: int
    health_urls: Mapping[str, str]
    monitor: str | None
    ping_urls: Mapping[str, str]
    clone: str
    status_page: Path | None
    sources: Mapping[str, str]

    def environment(self, name: str) -> Environment:
        """The environment called `name`; raises UsageError if there is none."""
        if name not in ENVIRONMENTS:
            raise UsageError(f"unknown environment '{name}'", f"choose {' or '.join(ENVIRONMENTS)}")
        return Environment(
            name=name,
            database=_database(self.backend, name),
            unit=f"dodeka-backend-{name}",
            health_url=self.health_urls.get(name),
            ping_url=self.ping_urls.get(name),
        )

    @property
    def offsite(self) -> RepositorySettings | None:
        """The off-site repository, into which the main one is copied; None if there is none."""
        return self.main.copied_to

    @property
    def environments(self) -> list[Environment]:
        return [self.environment(name) for name in ENVIRONMENTS]

    def repository(self, offsite: bool) -> RepositorySettings:
        """The main repository or the off-site one; raises SetupError if that is not set."""
        if not offsite:
            return self.main
        if self.offsite is None:
            raise SetupError("OFFSITE_REPOSITORY is not set", "see BACKUP.md, 'Off-site'")
        return self.offsite

    def in_force(self) -> Iterable[tuple[str, str, str]]:
        """Each setting, and every other variable that restic reads: name, value without secrets, where it was set."""
        variables = self.main.variables
        for name, value in SETTINGS.items():
            shown = "-" if (found := value(self)) is None else masking.shown(name, str(found), variables)
            yield name, shown, self.sources.get(name, "default")
        for name in sorted(set(self.sources) - set(SETTINGS)):
            held = self.main.for_restic.get(name)
            shown = "not handed to restic" if held is None else masking.shown(name, held, variables)
            yield name, shown, self.sources[name]


def _database(backend: Path, environment: str) -> Path:
    return backend / "envs" / environment / "db.sqlite"


# every setting, and its value in force
SETTINGS: Mapping[str, Callable[[Settings], object]] = {
    "DODEKA_BACKEND": lambda settings: settings.backend,
    "RESTIC_REPOSITORY": lambda settings: settings.main.address,
    "RESTIC_PASSWORD_FILE": lambda settings: settings.main.password_file,
    "OFFSITE_REPOSITORY": lambda settings: settings.offsite and settings.offsite.address,
    "OFFSITE_PASSWORD_FILE": lambda settings: settings.offsite and settings.offsite.password_file,
    "OFFSITE_OPTIONS": lambda settings: (settings.offsite and "; ".join(settings.offsite.options)) or None,
    "OFFSITE_RETENTION": lambda settings: (
        settings.offsite and ("same" if settings.offsite.retains else "none")
    ),
    "DODEKA_SYSTEMCTL": lambda settings: shlex.join(settings.systemctl) or "none",
    "DODEKA_STATE": lambda settings: settings.main.state,
    "RESTIC": lambda settings: settings.main.restic,
    "DODEKA_FORMAT": lambda settings: settings.main.format,
    "DODEKA_CLONE": lambda settings: settings.clone,
    "DODEKA_START_WAIT_S": lambda settings: settings.start_wait_s,
    "DODEKA_HEALTH_URL_PRODUCTION": lambda settings: settings.health_urls.get("production"),
    "DODEKA_HEALTH_URL_DEMO": lambda settings: settings.health_urls.get("demo"),
    "DODEKA_MONITOR": lambda settings: settings.monitor,
    "DODEKA_PING_URL_PRODUCTION": lambda settings: settings.ping_urls.get("production"),
    "DODEKA_PING_URL_DEMO": lambda settings: settings.ping_urls.get("demo"),
    "DODEKA_STATUS_PAGE": lambda settings: settings.status_page,
    "DODEKA_LOCK_WAIT_S": lambda settings: settings.main.lock_wait_s,
}


def load(environ: Mapping[str, str] | None = None, check_owner: bool = True) -> Settings:
    """Read the settings file (DODEKA_BACKUP_ENV names another one) and the environment, which wins.

    For places it does not win: there it must not differ from the file. Raises SetupError if it does, if the file cannot be
    read or understood, for an unknown name, for a value that is not valid, and for root if one of the places belongs to another
    user; the last not with `check_owner` False, for make install, which gives the places to their owner.
    """
    environ = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
    named = environ.get("DODEKA_BACKUP_ENV")
    _check_names(environ, "the environment", ("DODEKA_BACKUP_ENV", "HOME"))
    # cron may set no HOME; expanduser then asks the user database
    home = _path("HOME", environ, Path(os.path.expanduser("~")))
    file = Path(os.path.expanduser(named)) if named else SETTINGS_FILE
    if check_owner:
        places.check_owner([ROOT, file])
    from_file = settings_file.read(file, home) if named or file.exists() else {}
    _check_names(from_file, f"settings file {file}")
    _check_places(environ, from_file, file)
    values = {**{name: value for name, value in from_file.items() if value}, **environ}
    sources = {
        name: "environment" if name in environ else str(file)
        for name in values
        if name in from_file or name in SETTINGS or READ_BY_RESTIC.fullmatch(name)
    }

    backend = _path("DODEKA_BACKEND", values, next(filter(Path.is_dir, BACKENDS), BACKENDS[0]))
    databases = tuple(_database(backend, name) for name in ENVIRONMENTS)
    main = _main(values, frozenset(sources), home, databases)
    _warn_of_plain_http(values)
    offsite = _offsite(main, values, home)
    status_page = _path("DODEKA_STATUS_PAGE", values, Path()) if values.get("DODEKA_STATUS_PAGE") else None
    if check_owner:
        places.check_owner([*main.places, *(offsite.places if offsite else ()), *filter(None, [status_page])])
    return Settings(
        backend=backend,
        main=replace(main, copied_to=offsite),
        systemctl=_systemctl(values.get("DODEKA_SYSTEMCTL")),
        start_wait_s=_seconds("DODEKA_START_WAIT_S", values.get("DODEKA_START_WAIT_S", "5")),
        health_urls=_urls("DODEKA_HEALTH_URL", values),
        monitor=_url("DODEKA_MONITOR", values),
        ping_urls=_urls("DODEKA_PING_URL", values),
        clone=_clone(values.get("DODEKA_CLONE", QUARANTINED)),
        status_page=status_page,
        sources=sources,
    )


def leniently(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The value of the setting `name` for a run to which load() fails; None if it is not set or is a monitor's and no address.

    Of the environment, or of its own line of the settings file, whatever else is wrong with these.
    """
    environ = os.environ if environ is None else environ
    file = os.path.expanduser(environ.get("DODEKA_BACKUP_ENV") or str(SETTINGS_FILE))
    value = environ.get(name) or settings_file.one(Path(file), name)
    is_url = name.startswith(("DODEKA_MONITOR", "DODEKA_PING_URL"))
    return value if value and (_is_address(value) or not is_url) else None


def _main(
    values: Mapping[str, str], given: frozenset[str], home: Path, databases: tuple[Path, ...]
) -> RepositorySettings:
    state = _path("DODEKA_STATE", values, home / ".local" / "state" / "dodeka-backup")
    address = os.path.expanduser(values.get("RESTIC_REPOSITORY", "/mnt/backup/restic"))
    repository_address.check("RESTIC_REPOSITORY", address)
    variables = {
        **{name: value for name, value in values.items() if not _KEPT_FROM_RESTIC.fullmatch(name)},
        "HOME": str(home),
        "RESTIC_CACHE_DIR": str(_path("RESTIC_CACHE_DIR", values, state / "restic-cache")),
    }
    password_file = None
    if values.get("RESTIC_PASSWORD_FILE") or not (
        values.get("RESTIC_PASSWORD") or values.get("RESTIC_PASSWORD_COMMAND")
    ):
        password_file = _path("RESTIC_PASSWORD_FILE", values, Path("/mnt/backup/.restic-password"))
        password_file = _handed_over("restic-password", password_file, values)
        variables["RESTIC_PASSWORD_FILE"] = str(password_file)
    return RepositorySettings(
        address=address,
        password_file=password_file,
        state=state,
        variables=variables,
        given=given,
        restic=_restic(values, home),
        format=_format(values.get("DODEKA_FORMAT", "zst")),
        lock_wait_s=_seconds("DODEKA_LOCK_WAIT_S", values.get("DODEKA_LOCK_WAIT_S", "600")),
        databases=databases,
    )


def _offsite(main: RepositorySettings, values: Mapping[str, str], home: Path) -> RepositorySettings | None:
    retention = values.get("OFFSITE_RETENTION", "same")
    if retention not in ("same", "none"):
        raise SetupError(f"OFFSITE_RETENTION={retention} is not valid", "choose same or none")
    if not values.get("OFFSITE_REPOSITORY"):
        return None
    address = os.path.expanduser(values["OFFSITE_REPOSITORY"])
    repository_address.check("OFFSITE_REPOSITORY", address)
    if address == main.address:
        raise SetupError(
            "OFFSITE_REPOSITORY is the same as RESTIC_REPOSITORY", "the second copy must be in another place"
        )
    password_file = _path("OFFSITE_PASSWORD_FILE", values, home / ".restic-offsite-password")
    return replace(
        main.opened_with(_handed_over("offsite-password", password_file, values)),
        address=address,
        state=main.state / "offsite",  # RepositorySettings.states counts on that
        options=_offsite_options(main, values),
        retains=retention == "same",
        is_offsite=True,
    )


def _offsite_options(main: RepositorySettings, values: Mapping[str, str]) -> tuple[str, ...]:
    options = tuple(filter(None, (one.strip() for one in values.get("OFFSITE_OPTIONS", "").split(";"))))
    for option in options:
        match = re.fullmatch(r"([a-z0-9]+)\.[a-z0-9.-]+=.+", option)
        if not match:
            raise SetupError(
                f"OFFSITE_OPTIONS contains '{masking.masked(option, values)}', which is not a restic option",
                "write it as 'rclone.program=ssh offsite', and separate options with semicolons",
            )
        if masking.masked(option, values) != option:
            raise SetupError(
                "OFFSITE_OPTIONS contains a password, which every user could see in the process list",
                "use a key, or the configuration of rclone",
            )
        # a copy is one restic, with one set of options
        if main.address.startswith(f"{match[1]}:"):
            raise SetupError(
                f"OFFSITE_OPTIONS sets an option of {match[1]}, which RESTIC_REPOSITORY uses too",
                f"reach only one of the two by {match[1]}: a copy has one set of options",
            )
    return options


def _handed_over(name: str, file: Path, environ: Mapping[str, str]) -> Path:
    """The file in which systemd hands the password in `file` to a unit (LoadCredential=), else `file`.

    https://systemd.io/CREDENTIALS/
    """
    handed_over = Path(environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / name
    return handed_over if handed_over.is_file() and handed_over.read_bytes().strip() else file


def _check_names(values: Mapping[str, str], where: str, others: Iterable[str] = ()) -> None:
    """Raise SetupError for a misspelt name of a setting, and for a value with control characters."""
    words = set("_".join(SETTINGS).split("_"))
    for name, value in values.items():
        if name in SETTINGS or name in others or name.startswith("RESTIC_"):
            settings_file.check_printable(name, value, where)
        if name in SETTINGS or name in others or not words & set(name.split("_")):
            continue
        is_like_ours = name.startswith(("DODEKA_", "OFFSITE_")) or name == "RESTIC_REPOSITORY_FILE"
        if near := difflib.get_close_matches(name, SETTINGS, 1, 0 if is_like_ours else 0.9):
            raise SetupError(
                f"{name} of {where} is not a setting",
                f"did you mean {near[0]}? If not, remove the line or the variable",
            )


def _check_places(environ: Mapping[str, str], from_file: Mapping[str, str], file: Path) -> None:
    """Raise SetupError if the environment sets another place than the file: a shell may still name another repository."""
    for names in (*_PLACES, *((name,) for name in from_file if masking.OF_A_SERVER.fullmatch(name))):
        in_file = [name for name in names if name in from_file]
        for name in names if in_file else ():
            there = name if name in in_file else in_file[0]
            expanded = (os.path.expanduser(place.get(name, "")) for place in (environ, from_file))
            if name in environ and len(set(expanded)) > 1:
                raise SetupError(
                    f"the environment sets {name}={masking.shown(name, environ[name], environ)}, but settings file"
                    f" {file} sets {there}={masking.shown(there, from_file[there], from_file)}",
                    f"unset {name}, or change the settings file",
                )


def _warn_of_plain_http(values: Mapping[str, str]) -> None:
    """Warn, once per command: over plain http others can read the credentials and answer in the server's place."""
    plain = [
        name
        for name, value in values.items()
        if (name in SETTINGS or masking.OF_A_SERVER.fullmatch(name))
        and repository_address.is_plain_http(value)
    ]
    if plain:
        log.warning(
            "%s: plain http:// to another machine: others can read and change what is sent; use https://",
            ", ".join(plain),
        )


def _path(name: str, values: Mapping[str, str], default: Path) -> Path:
    if not values.get(name):
        return default
    value = os.path.expanduser(values[name])
    repository_address.check_absolute(name, value)
    return Path(os.path.abspath(value))


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
        raise SetupError(f"DODEKA_SYSTEMCTL={value} is not a command", "sudo systemctl, for example, or none")
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
    return os.pathsep.join(found) or os.devnull  # an empty PATH would be the current folder


def keep_to_trusted_programs() -> None:
    """Remove from PATH the folders that other users can write; a shell may still have another user's PATH."""
    path = _trusted(os.environ.get("PATH", os.defpath))
    # `su` keeps the PATH of the previous user
    os.environ["PATH"] = path if os.geteuid() else f"{path}:/usr/sbin:/sbin"


def _format(value: str) -> str:
    if value not in FORMATS:
        raise SetupError(f"DODEKA_FORMAT={value} is not one of the formats", f"choose {' or '.join(FORMATS)}")
    return value


def _clone(value: str) -> str:
    if value not in CLONES:
        raise SetupError(
            f"DODEKA_CLONE={value} is not one of the kinds of clones", "choose quarantined, masked or whole"
        )
    return value


def _seconds(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", value):
        raise SetupError(f"{name}={value} is not a whole number of seconds, up to 999999")
    return int(value)


def _urls(setting: str, values: Mapping[str, str]) -> dict[str, str]:
    found = {name: _url(f"{setting}_{name.upper()}", values) for name in ENVIRONMENTS}
    return {name: url for name, url in found.items() if url}


def _url(name: str, values: Mapping[str, str]) -> str | None:
    url = values.get(name)
    if url and not _is_address(url):
        raise SetupError(f"{name} is not an address that begins with http:// or https://")
    return url


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises ValueError if it is none
        host = (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and url.isascii() and not re.search(r"\s", url)
