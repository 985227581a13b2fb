"""Password files: make one with a random password, check an existing one."""

import base64
import os
import secrets
import stat
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import SetupError
from dodeka_db.repository_settings import RepositorySettings


def make(file: Path, hint: str) -> None:
    """Write a new random password to `file` (0600), which must not exist yet; SetupError with `hint` if that fails.

    160 bits as 32 of a-z and 2-7 (RFC 4648), in groups of four, easy to read from paper and to type.
    """
    letters = base64.b32encode(secrets.token_bytes(20)).decode().lower()
    groups = [letters[start : start + 4] for start in range(0, len(letters), 4)]
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SetupError(f"password file {file} cannot be made: {error.strerror}", hint) from error
    try:
        with open(descriptor, "w") as opened:
            opened.write("-".join(groups) + "\n")
    except OSError as error:
        file.unlink(missing_ok=True)  # an empty one would block the next try
        raise SetupError(f"password file {file} cannot be written: {error.strerror}", hint) from error


def check(repository: RepositorySettings) -> None:
    """Raise SetupError unless the password file of `repository`, if it has one, exists, is not empty, and only its owner can read it."""
    file = repository.password_file
    if file is None:
        return
    try:
        with open(file, "rb", opener=safe_open.regular) as opened:
            status = os.fstat(opened.fileno())
            empty = not opened.read(1)
    except FileNotFoundError as error:
        is_there = repository.folder and not repository.is_offsite
        mounted = "is the backup volume mounted?" if is_there else "put it back"
        raise SetupError(
            f"password file {file} is missing",
            f"{mounted} (to create the first repository: {repository.make('init')})",
        ) from error
    except OSError as error:
        raise SetupError(
            f"password file {file} cannot be read: {error.strerror}", "run this as the user that owns it"
        ) from error
    # systemd gives a unit's user the right to read by an ACL, which shows in the mode from version 257 on; its folder is closed
    handed_over = repository.variables.get("CREDENTIALS_DIRECTORY")
    if str(file.parent) != handed_over and stat.S_IMODE(status.st_mode) & 0o077:
        raise SetupError(f"password file {file} can be read by others", f"chmod 600 {file}")
    if empty:
        raise SetupError(f"password file {file} is empty", "write the repository's password into that file")
