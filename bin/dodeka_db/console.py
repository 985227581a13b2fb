"""What an operator reads and types: log lines, the snapshot table, questions, and how a script ends.

The one place that prints. Much of it is what a database, a repository or a server says: each line goes through plain().
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

from dodeka_db import interrupts
from dodeka_db.errors import ALWAYS, MEANINGS, BackupError, NotConfirmed, as_line, plain
from dodeka_db.settings import ENVIRONMENTS, keep_to_trusted_programs

if TYPE_CHECKING:  # not every script needs what these import
    from dodeka_db.flows.backup import Taken
    from dodeka_db.flows.restore import Change
    from dodeka_db.restic.repository import Key, Snapshot

log = logging.getLogger("dodeka_db")
# of a name or a path in a table
MOST_LETTERS = 1000
_environment = ""


def run(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Call `main` and exit with its code: every foreseen failure becomes one line on standard error.

    A traceback is a bug of this project.
    """
    code = _exit_code(main)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # at once: to take down what sh has imported would take 20 ms more


def _exit_code(main: Callable[[Sequence[str] | None], int]) -> int:
    os.umask(0o077)
    sys.stdout.reconfigure(errors="backslashreplace")  # in a locale that has not every letter
    keep_to_trusted_programs()
    interrupts.install()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter())
    log.addHandler(handler)
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    log.setLevel(logging.INFO)
    try:
        code = main(None)
        sys.stdout.flush()
        return code
    except BackupError as error:
        return _fail(str(error), error.exit_code)
    except interrupts.Interrupted as interruption:
        return _fail(as_line(interruption), interruption.exit_code)
    except BrokenPipeError:
        nobody_reads()
        return _fail("nobody reads what it prints any more, so it ended", BackupError.exit_code)
    except OSError as error:
        return _fail(as_line(error), BackupError.exit_code)


def show(*lines: str) -> None:
    """Print what was asked for; that its reader goes away (`make snapshots | head`) is no failure."""
    try:
        print("\n".join(map(plain, lines)), flush=True)
    except BrokenPipeError:
        nobody_reads()


def output_is_data() -> None:
    """From here on what is logged goes to standard error, for standard output is what was asked for."""
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def nobody_reads() -> None:
    """Print to nowhere from here on: whoever read our output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(
    description: str, *exit_codes: int, meanings: Mapping[int, str] = MEANINGS
) -> argparse.ArgumentParser:
    """An argument parser that answers bad usage with one line and exit code 2; its help ends with the script's exit codes.

    `exit_codes` are those that the script has besides ALWAYS; what they mean is in `meanings`.
    """
    codes = sorted({*ALWAYS, *exit_codes} & set(meanings))
    lines = "\n".join(f"  {code:>3}  {meanings[code]}" for code in codes)
    return _Parser(
        description=description,
        epilog=f"exit codes:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def environment_name(value: str) -> str:
    """argparse type: one of the environments."""
    if value not in ENVIRONMENTS:
        raise argparse.ArgumentTypeError(f"unknown environment '{value}': choose {_CHOICES}")
    return value


def offsite_option(parser: argparse.ArgumentParser) -> None:
    """Add --offsite to a parser."""
    parser.add_argument("--offsite", action="store_true", help="the off-site repository instead")


def begin(environment: str) -> None:
    """From here on every log line is about `environment`."""
    global _environment
    _environment = environment


def ask(*question: str) -> str:
    """The answer to a question of some lines, from a terminal or a pipe; raises NotConfirmed where there is none."""
    print("\n".join(map(plain, question)), end=" ", flush=True)
    try:
        with interrupts.suspendable():
            answer = sys.stdin.readline()
    except interrupts.Interrupted as interruption:
        print(flush=True)  # behind the question, and the ^C that a terminal shows
        interruption.note = "nothing was changed"
        raise
    if not sys.stdin.isatty():
        print(flush=True)
    if not answer.strip():
        raise NotConfirmed("no answer; nothing was changed")
    return answer.strip()


def confirm(question: Sequence[str], yes: bool = False) -> None:
    """Print the lines of `question`, and raise NotConfirmed unless `yes` is typed, in full, or was given beforehand."""
    print("\n".join(map(plain, question)), flush=True)
    if not yes and ask("Type 'yes' to go on:") != "yes":
        raise NotConfirmed("not confirmed; nothing was changed")


def describe(change: "Change") -> list[str]:
    """What a restore is about to do, and how many rows come and go, in lines."""
    target, origin = change.target, change.origin
    lines = []
    if origin.environment != target.name:
        lines.append(f"{origin.environment.upper()}'S DATA GOES TO {target.name.upper()}.")
    lines.append(f"This goes {_back(origin.time)} ({origin.time.astimezone():%A %d %B %Y %H:%M}).")
    link = f", to which {target.database} links" if target.live != target.database else ""
    lines.append(f"It puts {origin.shown} in the place of {target.live}{link}:")
    lines += [f"  {line}" for line in _differences(change)]
    if change.fixed:
        lines.append(f"Its indexes were damaged, and are rebuilt: {change.fixed}")
    return lines + [f"Not all is well with it: {line}" for line in change.findings.lines()]


def _back(time: datetime) -> str:
    return "to a time in the future" if ago(time) == "in the future" else f"back {ago(time)}"


def _differences(change: "Change") -> list[str]:
    if change.now is None:
        kept = "; it is kept as it is" if change.damaged and change.target.database.exists() else ""
        return [f"{change.problem}{kept}"]
    lines = []
    for table, then in change.then.items():
        now, shown = change.now.get(table), _cell(table)
        if then is None or (now is None and table in change.now):
            lines.append(f"{shown}: SQLite cannot count its rows here")
        elif now is None:
            lines.append(f"{shown}: {_counted(then, 'row')}, a table that is not there now")
        elif then != now:
            more = f"{then - now} more" if then > now else f"{now - then} fewer"
            lines.append(f"{shown}: {_counted(then, 'row')}, {more} than now")
    for table, now in change.now.items():
        if table not in change.then:
            has = "rows that cannot be counted" if now is None else _counted(now, "row")
            lines.append(f"{_cell(table)}: goes, a table that has {has} now")
    return sorted(lines) or ["every table has as many rows as now"]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def summary(taken: "Taken") -> str:
    """What a backup did, in a few words."""
    stored = taken.stored
    at_most = "" if stored.is_exact else "at most "
    return (
        f"snapshot {taken.snapshot_id}, {size(taken.exported_bytes)} exported,"
        f" repository grew by {at_most}{size(stored.added_bytes)}"
    )


def table(snapshots: Sequence["Snapshot"], sizes: Mapping[str, int]) -> list[str]:
    """Snapshots as lines under each other: ID, when, how long ago, size by ID (a damaged one has none), format, tags."""
    rows = [("ID", "When", "Ago", "Size", "Format", "Tags")]
    for snapshot in snapshots:
        rows.append(
            (
                snapshot.short_id,
                when(snapshot.time),
                ago(snapshot.time),
                size(sizes[snapshot.id]) if snapshot.id in sizes else "?",
                snapshot.format,
                ",".join(snapshot.tags),
            )
        )
    return columns(rows, "<<>><<")


def key_table(keys: Sequence["Key"]) -> list[str]:
    """Keys as lines under each other: ID, name, host, when it was made, whether it is the one in use."""
    rows = [("ID", "Name", "Host", "Made", "")]
    rows += [
        (key.short_id, key.name, key.host, when(key.made), "in use here" if key.is_in_use else "")
        for key in keys
    ]
    return columns(rows, "<<<<<")


def columns(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Rows of as many cells as `alignment` has letters, as lines under each other: `<` on the left, `>` on the right."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True))
        for row in rows
    )
    return [line.rstrip() for line in lines]


def _cell(text: str) -> str:
    return plain(text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}...")


def when(time: datetime) -> str:
    return time.astimezone().strftime("%a %d %b %Y %H:%M")


def ago(time: datetime) -> str:
    """How long ago, in the largest unit that gives at least two of it: '26 hours'."""
    age = datetime.now().astimezone() - time
    if age < timedelta(0):
        return "in the future"
    for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if age.total_seconds() >= 2 * seconds:
            return f"{int(age.total_seconds() // seconds)} {unit}"
    return _counted(int(age.total_seconds()), "second")


def size(count: int) -> str:
    """Bytes in decimal units: '1.3 MB'."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # the failure itself matters more
        sys.stdout.flush()
    prefix = "" if sys.stderr.isatty() else _stamp()
    print(plain(f"{prefix}{os.path.basename(sys.argv[0])}: error: {message}"), file=sys.stderr)
    return code


def _stamp() -> str:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return f"{now} {_environment} " if _environment else f"{now} "


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if sys.stdout.isatty() else _stamp()
        level = "warning: " if record.levelno == logging.WARNING else ""
        return plain(f"{prefix}{level}{record.getMessage()}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        prefix = "" if sys.stderr.isatty() else _stamp()
        self.exit(2, plain(f"{prefix}{self.prog}: error: {message} (usage: {self.prog} --help)") + "\n")


_CHOICES = " or ".join(ENVIRONMENTS)
