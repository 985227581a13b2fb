"""How far the steps of a run are. Whoever begins a step says where that can be seen; only a terminal looks, some times a second.

So a step costs the same, next to nothing, whether somebody looks or not, and the work itself has nothing to report.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

Thing = TypeVar("Thing")
BYTES = "bytes"


@dataclass(frozen=True)
class Far:
    """How far a step is: `done` of `total`, both in `unit`. `since_s`: how many seconds ago that began, if not with the step."""

    done: int
    total: int
    unit: str = BYTES
    since_s: float | None = None


# how far a step is; None if that is not known (yet). Called in another thread than the step's own
Look = Callable[[], Far | None]


@dataclass(frozen=True, eq=False)
class Step:
    """A step that is running: what it does, in words for a terminal, and when it began (time.monotonic())."""

    what: str
    look: Look
    began: float


_running: list[Step] = []
_followers: list[Callable[[], None]] = []


def follow(changed: Callable[[], None] | None) -> None:
    """Call `changed` after each beginning and each end of a step from now on, in the step's own thread; with None, nobody."""
    _followers[:] = [changed] if changed else []


def is_followed() -> bool:
    return bool(_followers)


@contextmanager
def step(what: str, look: Look = lambda: None) -> Iterator[None]:
    """The block is a step, which does `what`."""
    one = Step(what, look, time.monotonic())
    _running.append(one)
    try:
        _tell()
        yield
    finally:
        _running.remove(one)
        _tell()


def _tell() -> None:
    for changed in _followers:
        changed()


def is_running(one: Step | None = None) -> bool:
    """Whether the step `one`, or any, is running."""
    return one in _running if one else bool(_running)


def to_show(age_s: float) -> tuple[Step, Far | None] | None:
    """The step to show of those that have been running for `age_s` seconds, and how far it is; None if there is none.

    Of steps within each other, or beside each other, it is the newest one of which it is known how far it is. One that has done
    all that it counts, and goes on, is as far as nobody knows.
    """
    began = time.monotonic() - age_s
    old = [one for one in reversed(_running) if one.began <= began]
    for one in old:
        with suppress(OSError, ValueError):  # the file is not there yet, or closed by now
            far = one.look()
            if far and far.done < far.total:
                return one, far
    return (old[0], None) if old else None


def growth_of(path: Path, total: int) -> Look:
    """How far a step is that writes a file of some `total` bytes at `path`."""
    return lambda: Far(min(path.stat().st_size, total), total)


def position_in(file: IO[bytes]) -> Look:
    """How far a step is that reads `file`, by itself or in a program that it is given to: they have one position."""

    def look() -> Far:
        descriptor = file.fileno()
        return Far(os.lseek(descriptor, 0, os.SEEK_CUR), os.fstat(descriptor).st_size)

    return look


class Count:
    """How far a step is that goes through things by each(), once `total` is set: how many there are."""

    def __init__(self, unit: str) -> None:
        self.total, self._done, self._unit = 0, 0, unit

    def __call__(self) -> Far:
        return Far(self._done, self.total, self._unit)

    def each(self, things: Iterable[Thing]) -> Iterator[Thing]:
        for thing in things:
            self._done += 1
            yield thing
