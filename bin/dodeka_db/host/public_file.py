"""A file that others may read, in a folder that the operator has named for it."""

import os
from contextlib import suppress
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import SetupError


def write(file: Path, text: str) -> None:
    """Put a new file (0644) with `text` in the place of `file`: a reader sees the old one or the new one. SetupError if that fails."""
    new = file.with_name(f".{file.name}.new")
    try:
        new.unlink(missing_ok=True)  # of a killed run
        try:
            with open(new, "x", encoding="utf-8", opener=safe_open.no_link) as opened:
                os.fchmod(opened.fileno(), 0o644)
                opened.write(text)
            os.replace(new, file)
        except OSError:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SetupError(
            f"page {file} cannot be written: {error.strerror}",
            f"give this user a folder {file.parent}, or set DODEKA_STATUS_PAGE to another file",
        ) from error
