"""make restic: restic itself, with the settings of a repository."""

import os
import shlex
from collections.abc import Sequence
from typing import NoReturn

from dodeka_db import interrupts
from dodeka_db.errors import UsageError
from dodeka_db.host import staging
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import runner
from dodeka_db.restic.repository import Repository

# besides runner.READING
_READING = ("check", "diff", "help", "mount", "restore", "version", "--help", "-h")
_CHANGING = (
    *("backup", "cache", "copy", "forget", "init", "key", "migrate", "prune", "rebuild-index", "recover"),
    *("repair", "rewrite", "self-update", "tag", "unlock"),
)


def words(text: str) -> list[str]:
    """restic's arguments in `text`, by the shell's quoting; UsageError if there are none."""
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise UsageError("ARGS has a quote that does not end", "make restic ARGS='snapshots'") from error
    if not found:
        raise UsageError("ARGS is empty", "make restic ARGS='snapshots'")
    return found


def is_a_change(words: Sequence[str]) -> bool:
    """Whether these arguments may change a repository: all do but those of commands that are known to read only, which come first."""
    return words[0] not in (*runner.READING, *_READING)


def command(words: Sequence[str]) -> str:
    """restic's command in these arguments, also behind options; if none is known that changes a repository, the first of them."""
    return next((word for word in words if word in _CHANGING), words[0])


def run(settings: RepositorySettings, words: Sequence[str]) -> NoReturn:
    """Replace this process by restic with these arguments.

    Raises BackupError if a place does not answer, the password file is missing or open to others, or restic is too old.
    """
    Repository(settings)
    runner.version(settings)
    staging.state_folder(settings)  # for restic's temporary files
    options = [f"--option={one}" for one in settings.options]
    interrupts.allow_suspension()  # with no lock of ours held, Ctrl-Z may stop restic
    os.execvpe(settings.restic, [settings.restic, *options, *words], settings.for_restic)  # noqa: S606
