"""The grammar of a repository's address, as restic takes it.

https://restic.readthedocs.io/en/stable/030_preparing_a_new_repo.html
"""

import re
from pathlib import Path

from dodeka_db.errors import SetupError

# a password in an address, or with http a user name alone, which may be a token
_PASSWORD = re.compile(
    r"([a-z][a-z0-9+.-]*://[^/@:\s]*:)[^/\s]*@|(https?://)[^/@:\s]+@|(sftp:[^/@:\s]+:)[^/@\s]*@(?=[^/@:\s]+:)",
    re.IGNORECASE,
)
# not a port, so the beginning of a password that was cut off
_CUT_OFF_PASSWORD = re.compile(r"(https?://[^/@:\[\s]*:)(?!\*\*\*@|\d+(?:[^\w]|$))[^/@\s\"]+", re.IGNORECASE)
_LOOPBACK = re.compile(r"(.*\.)?localhost|127(\.\d+){3}|::1")


def backend(address: str) -> str:
    """The means to reach the repository: `local` for a folder of this machine, else `rest`, `sftp`, `s3`, `rclone`, ..."""
    match = re.match(r"([a-z0-9]+):", address)
    return match[1] if match else "local"


def folder(address: str) -> Path | None:
    """The repository's folder on this machine; None if it is on a server."""
    return Path(address.removeprefix("local:")) if backend(address) == "local" else None


def host(address: str) -> str:
    """The host and port in the address of a server, as restic's messages name it; else the whole address."""
    match = re.match(r"\w+:(?:https?:)?(?://)?(?:[^@/]*@)?([^/:]+(?::\d+)?)", address)
    return match[1] if match else address


def user_info(address: str) -> str:
    """The `user:password` in an http address, as it is written; empty if there is none."""
    match = re.match(r"(?:\w+:)?https?://(.*)@", address, re.IGNORECASE)
    return match[1] if match else ""


def is_plain_http(address: str) -> bool:
    """Whether `address` is plain http to another machine."""
    match = re.match(r"(?:\w+:)?http://(?:[^/]*@)?(\[[^]]*|[^/:?#]*)", address, re.IGNORECASE)
    return bool(match and not _LOOPBACK.fullmatch(match[1].strip("[").lower()))


def sftp_host_and_path(address: str) -> tuple[str, str] | None:
    """HOST and PATH of `sftp:HOST:PATH`, where HOST may be one of ~/.ssh/config; None for any other form."""
    match = re.fullmatch(r"sftp:([^:/]+):(.+)", address)
    return (match[1], match[2]) if match else None


def without_password(text: str) -> str:
    """`text` with `***` for each password in an address in it."""
    text = _PASSWORD.sub(lambda match: f"{match[1] or match[2] or match[3]}***@", text)
    return _CUT_OFF_PASSWORD.sub(r"\1***", text)


def check(name: str, address: str) -> None:
    """Raise SetupError unless the `address` of the setting `name` is one that restic understands, without a secret that other users can see."""
    if folder(address):
        check_absolute(name, address.removeprefix("local:"))
    if re.search(r"[/?#@\s]", user_info(address)):
        raise SetupError(
            f"{name} has a special character before its last @ that must be escaped",
            "write %2F for a slash, %40 for an @, %3F for a question mark, %23 for a #, %20 for a space",
        )
    if re.match(r"sftp://[^/@]*:[^/]*@|sftp:[^/@:]+:[^/@]*@[^/@:]+:", address):
        raise SetupError(
            f"{name} contains a password, which restic does not accept for sftp", "use an SSH key"
        )
    # restic hands the address to rclone on the command line, which all users of the machine can see
    if re.match(r"rclone:[^:]*[,=]|rclone::", address):
        raise SetupError(
            f"{name} contains rclone settings, which every user could see in the process list",
            "move them to rclone's configuration, and give its name here: rclone:NAME:FOLDER",
        )
    if re.match(r"rclone:(?![^:/]+:)", address):  # rclone takes it for a folder of this machine
        raise SetupError(f"{name}={address} does not name an rclone remote", "write rclone:NAME:FOLDER")


def check_absolute(name: str, path: str) -> None:
    """Raise SetupError unless the `path` of the setting `name` is absolute: cron starts a run in another folder than make."""
    if not path.startswith("/"):
        raise SetupError(f"{name}={without_password(path)} is a relative path", "begin the path with / or ~/")
