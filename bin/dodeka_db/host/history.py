"""What people did with the backups: who, when, what and how it ended, in DODEKA_STATE and in the log of this machine."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dodeka_db import safe_open
from dodeka_db.errors import MEANINGS, BackupError, NotConfirmedError, plain
from dodeka_db.host import journal, operator_name
from dodeka_db.interrupts import Interrupted
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings

DONE, STARTED = "done", "started"
# of the two files together: some thousands of deeds
MAX_BYTES = 1_000_000


@dataclass
class Deed:
    """One command that somebody gave, of this process: what it was `about`, in words, and how it ended ("" while it runs).

    A member's name or address must not be in it. `environment` is empty for a command that is about none.
    """

    began: datetime
    who: str
    command: str
    environment: str = ""
    about: str = ""
    outcome: str = ""
    process: int = field(default_factory=os.getpid)

    @property
    def line(self) -> str:
        """What was done, and how it ended, in one line: "restore demo: done; snapshot 9d31c5a8"."""
        command = f"{self.command} {self.environment}".rstrip()
        outcome = self.outcome or "has not ended: it goes on, or was killed"
        return plain(f"{command}: {outcome}{f'; {self.about}' if self.about else ''}")


@contextmanager
def recorded(
    main: RepositorySettings, command: str, environment: str = "", about: str = ""
) -> Iterator[Deed]:
    """Record that the block began and how it ended; it may say by `about` of the Deed what it is about. `main`: the main repository.

    A failure is recorded by what its exit code means: its words may name a member. What cannot be recorded is a warning.
    """
    deed = Deed(datetime.now().astimezone(), operator_name.of(main.variables), command, environment, about)
    _append(main.state, deed)
    try:
        yield deed
        deed.outcome = DONE
    except BaseException as error:
        deed.outcome = _failure(error)
        raise
    finally:
        _append(main.state, deed)
        _log(deed)


def started(main: RepositorySettings, command: str, about: str) -> None:
    """Record that a program takes the place of this one, which will not know how that ends."""
    deed = Deed(
        datetime.now().astimezone(), operator_name.of(main.variables), command, about=about, outcome=STARTED
    )
    _append(main.state, deed)
    _log(deed)


def read(state: Path) -> list[Deed]:
    """All deeds in the folder `state`, the oldest first. Lines that are not of that form are left out. OSError if unreadable."""
    found: dict[tuple[str, str], Deed] = {}
    for file in (_older(state), _file(state)):
        try:
            with open(file, errors="replace", opener=safe_open.no_link) as opened:
                for deed in filter(None, map(_deed, opened)):
                    # its end takes the place of its beginning
                    found[str(deed.began), str(deed.process)] = deed
        except FileNotFoundError:
            continue
    return sorted(found.values(), key=lambda deed: deed.began)


def _append(state: Path, deed: Deed) -> None:
    file = _file(state)
    line = json.dumps(vars(deed), default=datetime.isoformat)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(file, "a+b", buffering=0, opener=safe_open.no_link) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - 1))
            # a killed run, or a full disk, left half a line
            begun = b"\n" if opened.read(1) not in (b"", b"\n") else b""
            opened.write(begun + line.encode() + b"\n")
        if size > MAX_BYTES // 2:
            os.replace(file, _older(state))
    except OSError as error:
        log.warning("%s cannot be written: %s", file, error.strerror)


def _log(deed: Deed) -> None:
    fields = {
        "DODEKA_COMMAND": deed.command,
        "DODEKA_ENVIRONMENT": deed.environment,
        "DODEKA_WHO": deed.who,
        "DODEKA_ABOUT": deed.about,
        "DODEKA_OUTCOME": deed.outcome,
    }
    try:
        journal.write(f"{plain(deed.who)}: {deed.line}", fields)
    except OSError as error:
        log.warning("the log of this machine cannot be written: %s", error.strerror or error)


def _failure(error: BaseException) -> str:
    code = error.exit_code if isinstance(error, BackupError | Interrupted) else BackupError.exit_code
    meaning = MEANINGS.get(code, MEANINGS[BackupError.exit_code])
    return meaning if isinstance(error, Interrupted | NotConfirmedError) else f"failed: {meaning}"


def _deed(line: str) -> Deed | None:
    try:
        found: Any = json.loads(line)
        deed = Deed(**found)
        began = datetime.fromisoformat(deed.began).astimezone()  # type: ignore[arg-type]  # as JSON has it
        texts = (deed.who, deed.command, deed.environment, deed.about, deed.outcome)
        return replace(deed, began=began) if all(isinstance(text, str) for text in texts) else None
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None


def _file(state: Path) -> Path:
    return state / "history.jsonl"


def _older(state: Path) -> Path:
    return state / "history.1.jsonl"
