"""The settings file: NAME=value lines in a shell's quoting, so that `set -a; . backup.env` gives the same values."""

import errno
import os
import re
import stat
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import SetupError

_MAX_BYTES = 1_000_000
# the characters that a shell takes literally, with or without quotes, at the beginning of a line that only sets one
# variable (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_02)
_PIECE = re.compile(r"""'[^']*'|"(?:\\.|[^"\\$`])*"|\\.|[^ \t'"\\$`;&|<>(){]""")
_LINE = re.compile(
    rf"[ \t]*(?:(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=((?:{_PIECE.pattern})*)(?![^ \t]))?[ \t]*(?:(?<![^ \t])#.*)?"
)
# control characters, and bytes that are not UTF-8
_UNPRINTABLE = re.compile(r"[\x00-\x08\n-\x1f\x7f\ud800-\udfff]")


def read(file: Path, home: Path) -> dict[str, str]:
    """The values in `file` by their names; a ~/ at the beginning of one is `home`.

    Raises SetupError for a file that others can read, and for a value that a shell would expand or
    split.
    """
    try:
        with open(file, "rb", opener=safe_open.regular) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(_MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise OSError(errno.EFBIG, f"the file is longer than {_MAX_BYTES} bytes")
            text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SetupError(f"settings file {file} cannot be read: {reason}") from error
    if stat.S_ISREG(mode) and mode & 0o077:  # it may hold credentials
        raise SetupError(f"settings file {file} can be read by others", f"chmod 600 {file}")
    values = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if _UNPRINTABLE.search(line):
            raise SetupError(
                f"settings file {file}, line {number}: it contains a control character",
                f"if the file has Windows line ends: sed -i 's/\\r$//' {file}",
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


def one(file: Path, name: str) -> str:
    """The value of `name` in `file`, whatever else is wrong with the file; empty if there is none."""
    try:
        with open(file, "rb", opener=safe_open.regular) as opened:
            text = opened.read(_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
    found = ""
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and match[1] == name:
            found = _PIECE.sub(_unquoted, match[2])
    return found


def check_printable(name: str, value: str, where: str) -> None:
    """Raise SetupError if the `value` of `name`, which is from `where`, contains a control character."""
    if _UNPRINTABLE.search(value):
        raise SetupError(f"{name} of {where} contains a control character", "set it again")


def _bare(piece: re.Match[str]) -> str:
    """The piece, if it is a plain character; otherwise a placeholder."""
    return piece[0] if len(piece[0]) == 1 else "''"


def _unquoted(piece: re.Match[str]) -> str:
    if piece[0][0] == "'":
        return piece[0][1:-1]
    if piece[0][0] == '"':
        return re.sub(r'\\([$`"\\])', r"\1", piece[0][1:-1])
    return piece[0].removeprefix("\\")
