"""The terminal: log lines, questions, and how a script begins and ends.

The one place that prints. Much of the text comes from a database, a repository or a server, so each line goes through plain().
"""

import argparse
import getpass
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

from dodeka_db import interrupts, local_time, progress
from dodeka_db.errors import ALWAYS, MEANINGS, OF_A_REPOSITORY, BackupError, NotConfirmedError, as_line, plain
from dodeka_db.log import log
from dodeka_db.settings import ENVIRONMENTS, keep_to_trusted_programs

if TYPE_CHECKING:
    from dodeka_db.progress_line import ProgressLine

# a command line in the place of the script's own
Argv = Sequence[str] | None
Default = TypeVar("Default", str, None)
_environment, _began = "", 0.0
_progress: "ProgressLine | None" = None


def run(main: Callable[[Argv], int]) -> NoReturn:
    """Call `main` and exit with its code: every foreseen failure becomes one line on standard error.

    A traceback is a bug of this project.
    """
    with interrupts.shielded():  # a signal while the last line is written comes too late
        code = _exit_code(main)
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)  # skips the interpreter's clean-up, which takes 20 ms


def _exit_code(main: Callable[[Argv], int]) -> int:
    os.umask(0o077)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for locales that cannot encode every character
    keep_to_trusted_programs()
    handler = _Handler(sys.stdout)
    _show_progress(sys.stdout)
    log.addHandler(handler)
    logging.raiseExceptions = False  # no traceback because a log cannot be written
    log.setLevel(logging.INFO)
    try:
        interrupts.install()
        with interrupts.interruptible():
            code = main(None)
        with _on_standard_output():
            sys.stdout.flush()
        return code
    except (BackupError, interrupts.Interrupted) as error:
        return _fail(as_line(error), error.exit_code)
    except BrokenPipeError:
        _print_nowhere()
        return _fail("standard output was closed", BackupError.exit_code)
    except OSError as error:
        return _fail(as_line(error), BackupError.exit_code)


def show(*lines: str) -> None:
    """Print the requested output. A reader that goes away (`make snapshots | head`) is not a failure."""
    try:
        with _on_standard_output(), _no_progress():
            print("\n".join(map(plain, lines)), flush=True)
    except BrokenPipeError:
        _print_nowhere()


def output_is_data() -> None:
    """Send log lines to standard error from now on: standard output is for the requested data."""
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    _show_progress(sys.stderr)


def _print_nowhere() -> None:
    """Discard standard output from now on: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(
    description: str,
    *exit_codes: int,
    opens_repository: bool = False,
    environment: bool = False,
    offsite: bool = False,
    yes: bool = False,
    meanings: Mapping[int, str] = MEANINGS,
) -> "Parser":
    """An argument parser that answers bad usage with one line and exit code 2; its help ends with the script's exit codes.

    `exit_codes` are those that the script has besides ALWAYS, and OF_A_REPOSITORY if it `opens_repository`;
    what they mean is in `meanings`. With `environment` its first argument is one; with `offsite`, which opens a repository too,
    it has the option --offsite; with `yes` the option --yes.
    """
    of_a_repository = OF_A_REPOSITORY if opens_repository or offsite else ()
    codes = sorted({*ALWAYS, *exit_codes, *of_a_repository} & set(meanings))
    lines = "\n".join(f"  {code:>3}  {meanings[code]}" for code in codes)
    made = Parser(
        description=description,
        epilog=f"exit codes:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if environment:
        made.add_argument("environment", type=environment_name, help="production or demo")
    if offsite:
        other = "use the off-site repository instead of the main one"
        made.add_argument("--offsite", action="store_true", help=other)
    if yes:
        made.add_argument("--yes", action="store_true", help="do not ask for a 'yes'")
    return made


def environment_name(value: str) -> str:
    """argparse type: one of the environments."""
    if value not in ENVIRONMENTS:
        raise argparse.ArgumentTypeError(f"unknown environment '{value}': choose {_CHOICES}")
    return value


def erased_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--erased",
        choices=["ignore"],
        help="with the members who were erased since, after a question of its own: for a list of erasures that cannot be read",
    )


def ignores_erasures(arguments: argparse.Namespace) -> bool:
    """Whether --erased was given, and then confirmed in its own words, --yes or not. NotConfirmedError if it was not."""
    if arguments.erased is None:
        return False
    if ask(f"MEMBERS WHO WERE ERASED COME BACK with this. Type '{_WITH_ERASED}' to go on:") != _WITH_ERASED:
        raise NotConfirmedError("not confirmed; nothing was changed")
    log.warning("the list of erasures is not used: have the backend delete those members again")
    return True


def with_erased(arguments: argparse.Namespace) -> str:
    """What the record of a restore adds if --erased was given: ", with erased members"; empty if not."""
    return "" if arguments.erased is None else f", {_WITH_ERASED}"


def snapshot_options(parser: argparse.ArgumentParser, left_out: str) -> None:
    """Add --snapshot and --at, of which one may be given, to a parser; `left_out` says what happens without both."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--snapshot", metavar="ID", help=f"an ID, 'latest' or 'latest~2'; {left_out}")
    one.add_argument("--at", metavar="TIME", help="the newest of that time or before: 'yesterday 14:00'")


def wanted_snapshot(arguments: argparse.Namespace, default: Default) -> str | datetime | Default:
    """What was given to snapshot_options(), a snapshot's name or a time; else `default`.

    SnapshotError if --at is not a time of the past.
    """
    if arguments.at is not None:
        return _time(arguments.at)
    return default if arguments.snapshot is None else str(arguments.snapshot)


def snapshot_or_time(value: str) -> str | datetime:
    """A snapshot's name as it is; a value with a colon is a time. SnapshotError if that is not one of the past."""
    return _time(value) if ":" in value else value


def _time(value: str) -> datetime:
    return local_time.parse(value, datetime.now().astimezone())


def begin(environment: str) -> None:
    """Begin a run: log lines name `environment` from now on, and done() adds the time since now."""
    global _environment, _began
    _environment, _began = environment, time.monotonic()


def done(summary: str) -> None:
    """Log the last line of a run that succeeded: its summary, and the time since begin()."""
    log.info("done: %s, %.1f s", summary, time.monotonic() - _began)


def ask(*question: str) -> str:
    """Print a question, and return the answer, from a terminal or a pipe. Raises NotConfirmedError if there is none."""
    answer = _answer(*question)
    if not answer:
        raise NotConfirmedError("no answer; nothing was changed")
    return answer


def ask_or(question: str, default: str) -> str:
    """As ask(); an empty answer is `default`, which the question shows."""
    return _answer(f"{question} ({default}):") or default


def ask_secret(question: str) -> str:
    """The answer to a question, which a terminal does not show; empty if there is none."""
    if not sys.stdin.isatty():
        return _answer(question)
    try:
        return getpass.getpass(f"{plain(question)} ").strip()
    except EOFError:  # Ctrl-D
        return ""
    except interrupts.Interrupted as interruption:
        _end_of_question(interruption)
        raise


def _answer(*question: str) -> str:
    try:
        # suspendable from the moment when the question can be seen
        with _no_progress(), interrupts.suspendable():
            print("\n".join(map(plain, question)), end=" ", flush=True)
            answer = sys.stdin.readline()
    except interrupts.Interrupted as interruption:
        _end_of_question(interruption)
        raise
    if not sys.stdin.isatty():
        print(flush=True)
    return answer.strip()


def _end_of_question(interruption: interrupts.Interrupted) -> None:
    interruption.note = _UNCHANGED
    with suppress(OSError):  # the terminal has gone, of which the signal tells
        print(flush=True)  # after the question, and the ^C that a terminal shows


def confirm(question: Sequence[str], yes: bool = False, words: str = "yes") -> None:
    """Print the lines of `question`, and raise NotConfirmedError unless `words` are typed, in full.

    `yes`: the answer is yes, so nothing is asked; but other words have to be typed all the same.
    """
    print("\n".join(map(plain, question)), flush=True)
    if not (yes and words == "yes") and ask(f"Type '{words}' to go on:") != words:
        raise NotConfirmedError("not confirmed; nothing was changed")


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # the failure itself matters more
        sys.stdout.flush()
    said = f"{os.path.basename(sys.argv[0])}: error: {message}"
    with suppress(OSError), _no_progress():  # the exit code says it too
        print(plain(f"{_stamp(sys.stderr)}{said}"), file=sys.stderr)
    return code


def _show_progress(stream: TextIO) -> None:
    """Show on `stream`, where log lines go, how far the steps are: on a terminal alone."""
    global _progress
    _progress = None
    if stream.isatty():
        from dodeka_db.progress_line import ProgressLine  # cron has no terminal

        _progress = ProgressLine(stream)
    progress.follow(_progress.changed if _progress else None)


def _no_progress() -> AbstractContextManager[None]:
    """No progress is shown while the block prints, or asks."""
    return _progress.hidden() if _progress else nullcontext()


@contextmanager
def _on_standard_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BackupError(f"standard output cannot be written: {error.strerror}") from error


def _stamp(stream: TextIO) -> str:
    """The time, and the environment, in front of a line; nothing in front of one that is for a terminal."""
    if stream.isatty():
        return ""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"{now} {_environment} " if _environment else f"{now} "


class _Handler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        with _no_progress():
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        level = "warning: " if record.levelno == logging.WARNING else ""
        return plain(f"{_stamp(self.stream)}{level}{record.getMessage()}")


class Parser(argparse.ArgumentParser):
    """An argument parser of parser()."""

    def begin(self, argv: Argv) -> argparse.Namespace:
        """Parse the command line, and begin the run: of the environment in it, or of both."""
        arguments = self.parse_args(argv)
        begin(getattr(arguments, "environment", "both"))
        return arguments

    def error(self, message: str) -> NoReturn:
        said = f"{self.prog}: error: {message} (usage: {self.prog} --help)"
        self.exit(2, plain(f"{_stamp(sys.stderr)}{said}") + "\n")


_WITH_ERASED = "with erased members"
_UNCHANGED = "nothing was changed"
_CHOICES = " or ".join(ENVIRONMENTS)
