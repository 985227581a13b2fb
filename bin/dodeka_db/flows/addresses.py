"""The addresses of members, as WHO names them."""

import re
from collections.abc import Sequence
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import UsageError


def named(words: Sequence[str]) -> tuple[str, ...]:
    """The addresses in `words`, each an address, several with commas or spaces between them, or the name of a file of such.

    Raises UsageError if one is neither an address nor a file.
    """
    return tuple(part for word in words for part in _parts(word))


def _parts(word: str) -> list[str]:
    parts = _words(word)
    if parts and all("@" in part for part in parts) and not Path(word).is_file():
        return parts
    try:
        with open(word, encoding="utf-8-sig", opener=safe_open.regular) as file:
            parts = _words(file.read())
    except (OSError, ValueError) as error:
        raise UsageError(f"{word!r} is neither an address nor a readable file of addresses") from error
    for part in parts:
        if "@" not in part:
            raise UsageError(f"file {word} has {part!r}, which is not an address")
    if not parts:
        raise UsageError(f"file {word} has no address")
    return parts


def _words(text: str) -> list[str]:
    """The words of a list, as people and spreadsheets write one."""
    return [word for word in re.split(r"[\s,;\"'<>]+", text) if word]
