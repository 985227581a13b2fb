"""The places that a run writes to: does each answer, and is it ours?"""

import os
import pwd
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from dodeka_db.errors import SetupError, UnreachableError, no_process

# a look takes microseconds; a server that is busy, or a disk that has to start up, some seconds
ANSWER_S = 30
OWNER_S = 5
HINT = "dmesg says more; is the disk well, or the server that it is mounted from?"


def silent(places: Iterable[Path], answer_s: float = ANSWER_S) -> list[Path]:
    """The `places` that give no answer within `answer_s` seconds, all of them asked at once.

    A look at a volume that hangs hears no signal and has no time limit of its own: so it is made in a thread, which ends
    with the process. Raises NoProcessError where there is no thread for it.
    """
    looks = {}
    for place in dict.fromkeys(places):
        looks[place] = threading.Thread(target=_look, args=(place,), daemon=True)
        try:
            looks[place].start()
        except RuntimeError as error:  # no thread to be had
            raise no_process("a look at the volumes") from error
    deadline = time.monotonic() + answer_s
    for look in looks.values():
        look.join(max(0, deadline - time.monotonic()))
    return [place for place, look in looks.items() if look.is_alive()]


def check_answers(places: Iterable[Path]) -> None:
    """Raise UnreachableError unless all of `places` answer."""
    if hung := silent(places):
        raise UnreachableError(f"{hung[0]} does not answer within {ANSWER_S} s", HINT)


def check_owner(places: Iterable[Path]) -> None:
    """Raise SetupError for root where one of `places` belongs to another user: what root writes, that user could not read.

    Of a file its folder counts, and every link on the way there; of a place that is missing the nearest folder above it, in
    which it would be made. One that does not answer is left to check_answers(). Changes nothing.
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
    try:
        if os.path.isdir(os.path.realpath(place)):
            os.listdir(place)
        os.statvfs(place)  # which no cache answers
    except OSError:
        pass  # that is an answer
