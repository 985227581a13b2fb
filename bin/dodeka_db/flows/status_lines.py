"""The parts of one line of `make status`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from dodeka_db import schedule
from dodeka_db.errors import RepositoryDamagedError, as_line
from dodeka_db.formatting import ago
from dodeka_db.settings import Environment


class State(IntEnum):
    """The state of a subject; the number is the exit code, but NOTE is none: what is not broken, and should not stay so."""

    WELL = 0
    BAD = 1
    UNKNOWN = 2
    NOTE = 3


# the worst first
ORDER = (State.BAD, State.UNKNOWN, State.NOTE, State.WELL)


@dataclass(frozen=True)
class Look:
    """The state of one subject, in words; the command that fixes it; figures by their names in FIGURES."""

    state: State
    text: str
    fix: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    def with_text(self, text: str) -> "Look":
        return replace(self, text=self.text + text)


@dataclass(frozen=True)
class Line:
    """One line: the environment (empty: all), the subject, and its look."""

    environment: str
    subject: str
    look: Look


FIGURES = {
    "newest_snapshot_timestamp_seconds": "When the newest snapshot was taken, in Unix time.",
    "snapshots": "Ordinary snapshots of the environment.",
    "pre_restore_snapshots": "Snapshots of databases that restores replaced.",
    "stored_bytes": "Bytes that the snapshots take in the repository.",
    "growth_bytes_per_day": "Growth of the stored bytes per day, over the last week.",
    "cron_success_timestamp_seconds": "When a cron run last succeeded, in Unix time.",
    "drill_success_timestamp_seconds": "When a drill last passed, in Unix time.",
    "check_success_timestamp_seconds": "When the repository's check last passed, in Unix time.",
    "offsite_success_timestamp_seconds": "When the off-site copy last passed, in Unix time.",
    "volume_free_bytes": "Free bytes on the repository's volume.",
    "volume_days_left": "Days until the repository's volume is full at the present growth.",
    "state_free_bytes": "Free bytes on the disk of the state folder.",
}


def well(text: str, **figures: float) -> Look:
    return Look(State.WELL, text, "", figures)


def bad(text: str, fix: str, **figures: float) -> Look:
    return Look(State.BAD, text, fix, figures)


def note(text: str, fix: str, **figures: float) -> Look:
    return Look(State.NOTE, text, fix, figures)


def unknown(text: str) -> Look:
    return Look(State.UNKNOWN, text)


def guarded(look_at: Callable[[], Look]) -> Look:
    """The result of `look_at`, or its failure: one failed line must not hide the others."""
    try:
        return look_at()
    except RepositoryDamagedError as error:
        return bad(error.message, error.hint)
    except Exception as error:  # noqa: BLE001
        return unknown(as_line(error))


def overall(lines: Sequence[Line]) -> State:
    """BAD if any line is, otherwise UNKNOWN if any line is, otherwise WELL, whatever notes there are."""
    states = {line.look.state for line in lines}
    return next((state for state in (State.BAD, State.UNKNOWN) if state in states), State.WELL)


def notes(lines: Sequence[Line]) -> int:
    return sum(line.look.state is State.NOTE for line in lines)


def age(moment: datetime) -> str:
    """The time since `moment` in words; two clocks may differ a little."""
    return ago(min(moment, now()))


def is_future(moment: datetime) -> bool:
    return moment > now() + schedule.CLOCK_TOLERANCE


def now() -> datetime:
    return datetime.now().astimezone()


def largest_bytes(environments: Sequence[Environment]) -> int:
    """The size of the largest live database; 0 if there is none."""
    files = [environment.live for environment in environments]
    return max(file.stat().st_size if file.exists() else 0 for file in files)
