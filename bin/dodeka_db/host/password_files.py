"""Passwords that this project makes up."""

import base64
import os
import secrets
from pathlib import Path

from dodeka_db.errors import SetupError


def make(file: Path, hint: str) -> None:
    """Write a new random password to `file` (0600), which must not be there yet; SetupError with `hint` if it cannot.

    160 bits as 32 of a-z and 2-7 (RFC 4648), in groups of four: to be read from paper and typed.
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
        file.unlink(missing_ok=True)  # an empty one would stand in the way of the next try
        raise SetupError(f"password file {file} cannot be written: {error.strerror}", hint) from error
