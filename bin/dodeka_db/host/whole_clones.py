"""Which database files hold a whole clone of another environment: one small JSON file an environment in DODEKA_STATE.

A file is known by its inode, which it keeps while it is staged, live and kept: so it does not matter where a restore ends, and
which of two databases is in place then. Only a snapshot's name depends on it.
"""

from collections.abc import Iterable
from pathlib import Path

from dodeka_db.host import state_files
from dodeka_db.settings import ENVIRONMENTS


def source(state: Path, environment: str, file: Path) -> str:
    """The environment whose whole clone the database `file` of `environment` holds; "" if none is known."""
    return _read(state, environment).get(_inode(file), "")


def remember(state: Path, environment: str, file: Path, source: str, others: Iterable[Path]) -> None:
    """Note that the database `file`, a new one, holds a whole clone of `source`, or none if that is "".

    `others` are the environment's databases of before; what was noted of any other file is forgotten. If it cannot be written,
    that is only a warning.
    """
    before = _read(state, environment)
    there = set(map(_inode, others)) - {_inode(file)}
    noted = {inode: of for inode, of in before.items() if inode in there}
    if source:
        noted[_inode(file)] = source
    if noted != before:
        state_files.write(_file(state, environment), noted)


def _read(state: Path, environment: str) -> dict[str, str]:
    found = state_files.read_object(_file(state, environment)) or {}
    return {inode: of for inode, of in found.items() if of in ENVIRONMENTS}


def _inode(file: Path) -> str:
    try:
        return str(file.lstat().st_ino)
    except OSError:
        return ""


def _file(state: Path, environment: str) -> Path:
    return state / "whole-clones" / f"{environment}.json"
