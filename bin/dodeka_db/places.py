"""The places that a run writes to: check that each answers and belongs to us."""

import os
import pwd
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dodeka_db.errors import SetupError, UnreachableError, no_process
from dodeka_db.interrupts import left_to_main_thread

# an answer takes microseconds; from a busy server, or a disk that has to start up, some seconds
ANSWER_S = 30
OWNER_S = 5
HINT = "see: sudo dmesg; check its disk, or the server that it is mounted from"


def silent(places: Iterable[Path], answer_s: float = ANSWER_S) -> list[Path]:
    """The `places` that give no answer within `answer_s` seconds, all of them asked at once.

    A system call on a hung volume cannot be interrupted, so each check runs in a daemon thread. Raises NoProcessError if
    the machine has no thread left.
    """
    looks = {}
    for place in dict.fromkeys(places):
        looks[place] = threading.Thread(target=_look, args=(place,), daemon=True)
        try:
            with left_to_main_thread():
                looks[place].start()
        except RuntimeError as error:  # no thread left
            raise no_process("the check of the volumes") from error
    deadline = time.monotonic() + answer_s
    for look in looks.values():
        look.join(max(0, deadline - time.monotonic()))
    return [place for place, look in looks.items() if look.is_alive()]


def check_answers(places: Iterable[Path]) -> None:
    """Raise UnreachableError unless all of `places` answer."""
    if hung := silent(places):
        raise UnreachableError(f"{hung[0]} does not answer within {ANSWER_S} s", HINT)


def check_owner(places: Iterable[Path]) -> None:
    """Raise SetupError for root if one of `places` belongs to another user: that user could not read what root writes.

    For a file its folder counts, and every symbolic link in its path; for a missing place the nearest existing folder above
    it, in which it would be made. A place that does not answer is left to check_answers(). Changes nothing.
    """
    if os.geteuid() != 0:
        return
    places = list(places)
    hung = silent(places, OWNER_S)
    for place in places:
        if place in hung:
            continue
        folder = Path(os.path.realpath(place))
        while not os.path.isdir(folder):
            folder = folder.parent
        for path in (folder, *(part for part in (place, *place.parents) if part.is_symlink())):
            if owner := path.lstat().st_uid:
                raise SetupError(
                    f"{path} belongs to {user_name(owner)}, not to root", f"run this as {user_name(owner)}"
                )


def user_name(user: int) -> str:
    """The name of the user with that ID, or #ID."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"


def _look(place: Path) -> None:
    with suppress(OSError):  # an error is an answer too
        if os.path.isdir(os.path.realpath(place)):
            os.listdir(place)
        os.statvfs(place)  # no cache answers that
