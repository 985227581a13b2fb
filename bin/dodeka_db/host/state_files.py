"""Small JSON files in DODEKA_STATE: written whole or not at all, and none of them worth a failure."""

import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dodeka_db import safe_open
from dodeka_db.log import log


def read(file: Path) -> object:
    """What `file` holds, of JSON's types; None if it is missing or is not JSON. OSError if it cannot be read."""
    try:
        with open(file, opener=safe_open.no_link) as opened:
            return json.load(opened)
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object that `file` holds; None if there is none, or the file cannot be read."""
    try:
        found = read(file)
    except OSError:
        return None
    return found if isinstance(found, dict) else None


def write(file: Path, content: object) -> None:
    """Write `content`, of JSON's types and datetimes, in the place of `file`. If that fails, it is only a warning."""
    text = json.dumps(content, default=datetime.isoformat)
    # a run that gave up waiting may write at the same time as another one
    new = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(new, "w", opener=safe_open.no_link) as opened:
            opened.write(f"{text}\n")
            opened.flush()
            os.fsync(opened.fileno())  # after a power cut the new name must not stand for an empty file
        os.replace(new, file)
    except OSError as error:
        log.warning("%s cannot be written: %s", file, error.strerror)
        with suppress(OSError):
            new.unlink(missing_ok=True)
