"""The last success and the last failure of each job: one small JSON file a job in DODEKA_STATE."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dodeka_db import safe_open
from dodeka_db.errors import as_line

log = logging.getLogger("dodeka_db")


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
    try:
        with open(_file(state, job), opener=safe_open.no_link) as file:
            found = json.load(file)
        return Record(
            _time(found["passed"]), _time(found["failed"]), str(found["error"]), dict(found["details"])
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Record()


def passed(state: Path, job: str, details: Mapping[str, object] | None = None) -> None:
    """Record that `job` succeeded. A record that cannot be written is only a warning."""
    _write(state, job, Record(passed=_now(), details=details or {}))


@contextmanager
def failures(state: Path, job: str) -> Iterator[None]:
    """Record a failure of the block, also an interruption, as the job's."""
    try:
        yield
    except BaseException as error:
        before = Record()
        with suppress(OSError):
            before = read(state, job)
        _write(state, job, Record(before.passed, _now(), as_line(error), before.details))
        raise


def _write(state: Path, job: str, record: Record) -> None:
    file = _file(state, job)
    text = json.dumps(vars(record), default=datetime.isoformat)
    new = file.with_suffix(
        f".{os.getpid()}"
    )  # a run that gave up waiting may write at the same time as another one
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(new, "w", opener=safe_open.no_link) as opened:
            opened.write(f"{text}\n")
        os.replace(new, file)
    except OSError as error:
        log.warning("%s cannot be written: %s", file, error.strerror)
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _file(state: Path, job: str) -> Path:
    return state / "records" / f"{job}.json"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone() if text else None


def _now() -> datetime:
    return datetime.now().astimezone().replace(microsecond=0)
