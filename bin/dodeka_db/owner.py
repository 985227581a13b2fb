"""Whose the places are that a run writes to: root is refused where one belongs to somebody else."""

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from dodeka_db.errors import SetupError


def check(places: Iterable[Path]) -> None:
    """Raise SetupError for root where one of `places` belongs to another user: what root writes, that user could not read.

    Of a place that is missing the nearest folder above it counts, in which it would be made. Changes nothing.
    """
    if os.geteuid() != 0:
        return
    for place in places:
        while not os.path.exists(place):
            place = place.parent
        if owner := place.stat().st_uid:
            raise SetupError(f"{place} belongs to {name(owner)}, not to root", f"run this as {name(owner)}")


def name(user: int) -> str:
    """The name of the user with that ID, or #ID."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"
