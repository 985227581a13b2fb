"""make history: who did what with the backups, and how it ended; the newest last."""

from collections.abc import Sequence
from pathlib import Path

from dodeka_db.errors import SetupError
from dodeka_db.formatting import COLUMNS, cell, when, wrapped
from dodeka_db.host import history
from dodeka_db.host.history import Deed

_NAME = 12


def lines(state: Path, environment: str | None) -> list[str]:
    """The deeds in the folder `state` as lines of 80 columns: those about `environment` alone, or all if it is None.

    Raises SetupError if they cannot be read.
    """
    try:
        deeds = history.read(state)
    except OSError as error:
        raise SetupError(
            f"the history in {state} cannot be read: {error.strerror}", f"see: ls -l {state}"
        ) from error
    if chosen := [deed for deed in deeds if environment in (None, deed.environment)]:
        return _table(chosen)
    return [f"nothing is on record{f' about {environment}' if environment else ''}"]


def _table(deeds: Sequence[Deed]) -> list[str]:
    found = [(when(deed.began), cell(deed.who)[:_NAME], deed.line) for deed in deeds]
    width = max(len(who) for _, who, _ in found)
    shown = []
    for time, who, line in found:
        first = f"{time}  {who:<{width}}  "
        pieces = wrapped(cell(line).split(), COLUMNS - len(first))
        shown += [
            f"{first if not number else ' ' * len(first)}{piece}" for number, piece in enumerate(pieces)
        ]
    return shown
