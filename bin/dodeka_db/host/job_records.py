"""The last success and the last failure of each job: one small JSON file a job in DODEKA_STATE."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dodeka_db.errors import as_line
from dodeka_db.host import state_files


@dataclass(frozen=True)
class Record:
    """`passed`: the last success. `failed` and `error`: the last failure since then, if any.

    `details` are the job's own, of JSON's types.
    """

    passed: datetime | None = None
    failed: datetime | None = None
    error: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


def read(state: Path, job: str) -> Record:
    """The record of `job` in the folder `state`; an empty one if it is missing or not readable as one. OSError if unreadable."""
    found: Any = state_files.read(_file(state, job))
    try:
        return Record(
            _time(found["passed"]), _time(found["failed"]), str(found["error"]), dict(found["details"])
        )
    except (ValueError, KeyError, TypeError):
        return Record()


def passed(state: Path, job: str, details: Mapping[str, object] | None = None) -> None:
    """Record that `job` succeeded. A record that cannot be written is only a warning."""
    state_files.write(_file(state, job), vars(Record(passed=_now(), details=details or {})))


@contextmanager
def failures(state: Path, job: str) -> Iterator[None]:
    """Record a failure of the block, also an interruption, as the job's."""
    try:
        yield
    except BaseException as error:
        before = Record()
        with suppress(OSError):
            before = read(state, job)
        failed = Record(before.passed, _now(), as_line(error), before.details)
        state_files.write(_file(state, job), vars(failed))
        raise


def _file(state: Path, job: str) -> Path:
    return state / "records" / f"{job}.json"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone() if text else None


def _now() -> datetime:
    return datetime.now().astimezone().replace(microsecond=0)
