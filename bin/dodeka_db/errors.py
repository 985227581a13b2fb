"""Every failure that an operator can meet: one line, a next step, an exit code (docs/errors.md lists them)."""

import json

from dodeka_db.interrupts import Interrupted

# what to do if a permission is missing
WHO = "run this as the user of the backups; if that is dbackup, 'sudo make install' restores its permissions"
# what a script's exit code means, which docs/errors.md lists too
MEANINGS = {
    0: "everything was done",
    1: "something else failed: a full disk, restic, the machine",
    2: "the command line is not valid",
    3: "a database is missing, empty, damaged, unreadable or in use",
    4: "a snapshot is unknown, of another environment, or damaged",
    5: "the service could not be found, stopped or started",
    6: "something is not set up: a setting, a program, the password file",
    7: "a question was not answered with yes; nothing was changed",
    8: "the repository is damaged: something in it cannot be read",
    9: "the snapshot is safe, but the database has lost many rows since the one before",
    10: "there is no repository",
    11: "the repository is locked",
    12: "the password does not open the repository",
    69: "the repository's server does not answer",
    75: "another run did not end within the waiting time",
    77: "the repository's server refuses access, or does not allow removals",
    129: "interrupted: the terminal was closed",
    130: "interrupted: Ctrl-C",
    131: "interrupted: Ctrl-\\",
    143: "interrupted: SIGTERM",
}
# the exit codes of every script, and those of every script that opens a repository
ALWAYS = (0, 1, 2, 6, 129, 130, 131, 143)
OF_A_REPOSITORY = (8, 10, 11, 12, 69, 75, 77)


class BackupError(Exception):
    """A run has failed.

    `message` names the object and what is wrong with it; `hint` says what to do next. Both are single
    lines without secrets. `exit_code` is what the script exits with.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class UsageError(BackupError):
    """The command line is not valid."""

    exit_code = 2


class DatabaseError(BackupError):
    """An SQLite file is missing, empty, damaged, unreadable, or in use when nobody may use it."""

    exit_code = 3


class SnapshotError(BackupError):
    """A snapshot is unknown, ambiguous, of another environment, or its content is damaged."""

    exit_code = 4


class ServiceError(BackupError):
    """The backend's systemd unit could not be found, stopped or started."""

    exit_code = 5


class SetupError(BackupError):
    """Something on this machine is not set up: a setting, a program, the password file."""

    exit_code = 6


class NotConfirmedError(BackupError):
    """A question was not answered with yes; nothing was changed."""

    exit_code = 7


class RepositoryDamagedError(BackupError):
    """The repository's content cannot be read, or differs from what was stored."""

    exit_code = 8


class RowsLostError(BackupError):
    """The database has lost many rows since the last good run. The snapshot of what is left is stored."""

    exit_code = 9


class RepositoryFullError(BackupError):
    """The file system that the repository is on has no room left, or a quota of it is reached."""


class RepositoryMissingError(BackupError):
    """There is no restic repository at the place that the settings name (restic's own code)."""

    exit_code = 10


class RepositoryLockedError(BackupError):
    """Another restic holds a lock on the repository (restic's own code)."""

    exit_code = 11


class WrongPasswordError(BackupError):
    """The password does not open the repository (restic's own code)."""

    exit_code = 12


class UnreachableError(BackupError):
    """The repository's server does not answer (EX_UNAVAILABLE of sysexits.h)."""

    exit_code = 69


class BusyError(BackupError):
    """Another run on this machine did not end within the waiting time (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class NoProcessError(BackupError):
    """The machine has no process, thread or memory left."""


class RefusedError(BackupError):
    """The repository's server answers, but refuses access (EX_NOPERM of sysexits.h)."""

    exit_code = 77


def no_process(what: str) -> NoProcessError:
    """The failure of `what`, for which the machine has no process or thread."""
    return NoProcessError(
        f"{what} cannot be run: this machine is out of processes, threads or memory", "see: top"
    )


def plain(text: str) -> str:
    """`text` on one line that is safe to print: without characters that end the line, move the cursor or reverse the text.

    Characters that str.isprintable() rejects become JSON escapes, so that JSON stays valid.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return r"\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def as_line(error: BaseException) -> str:
    """The failure in the one line that an operator reads."""
    return plain(_said(error))


def _said(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        return f"interrupted ({error}){f'; {error.note}' if error.note else ''}"
    if isinstance(error, BackupError):
        return str(error)
    if isinstance(error, OSError):
        # a failure of a disk, a permission or a mount, for which nothing better is known
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return f"{type(error).__name__}: {error}"
