"""Run a program to its end. The only module that imports sh.

By default sh does three things that would harm us (measured with sh 2.4): it gives the program a terminal, which makes
restic decorate its output; it drops the oldest part of captured output; and it lets the child live on when only we get
SIGTERM. So output goes to a reader, or into a file in memory, which works on a full disk; and whatever interrupts us ends
the child first.
"""

import errno
import fcntl
import gc
import json
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from dodeka_db import packages, progress
from dodeka_db.errors import SetupError, no_process
from dodeka_db.interrupts import SIGNALS, is_shielded, left_to_main_thread, shielded
from dodeka_db.progress import Far
from dodeka_db.stream_types import Readable

if TYPE_CHECKING:  # it takes 0.1 s to import: not before it is needed
    import sh

PATIENCE_S = 20
WATCH_S = 0.2
READ_BYTES = 1024 * 1024
# pauses before another try, on a machine that is short of processes or memory
FORK_PAUSES_S = (0.1, 0.2, 0.5, 1, 2)

# a function of Go's and the line that it was in
_STACK = re.compile(r"^\S+\n\s+\S+\.(?:go|s):\d+$", re.MULTILINE)


class ProgramTimeoutError(Exception):
    """The program did not end in time; it was ended, or left running if it is root's."""


@dataclass(frozen=True)
class Completed:
    """A program that has ended: its exit code (negative: the signal that killed it) and its output."""

    exit_code: int
    stdout: bytes
    stderr: str

    @property
    def failure(self) -> str:
        """The program's own message about its failure, in one line; restic from 0.17 on writes it as JSON."""
        lines = [line.strip() for line in _STACK.sub("", self.stderr).splitlines() if line.strip()]
        for line in reversed(lines):
            if line.startswith("{"):
                try:
                    return " ".join(str(json.loads(line)["message"]).split())
                except (ValueError, KeyError):
                    continue
        if self.exit_code < 0:
            lines.append(f"killed by {signal.Signals(-self.exit_code).name}")
        return " ".join(lines[-3:]) or "no reason given"


def preload() -> None:
    """Begin to import sh, which run() needs, in a thread: while a database is exported, that costs no time."""
    with suppress(RuntimeError), left_to_main_thread():  # no thread to be had
        threading.Thread(target=_load).start()


def _load() -> None:
    with suppress(SetupError):  # run() says so
        packages.load("sh")


def run(
    program: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    reader: Callable[[Readable], None] | None = None,
    watch: Callable[[list[str], int], None] | None = None,
    says: Callable[[bytes], Far | None] | None = None,
    timeout_s: float | None = None,
) -> Completed:
    """Run `program` (a path, or a name on PATH) and wait for it, `timeout_s` seconds at most.

    `stdin` is a real file, handed to the child as it is; without it the child reads nothing. `reader` gets its output as
    a stream; without one the output is returned. A non-zero exit is returned, not raised: the caller knows what it means.
    An exception of `reader` ends the program and is raised. If it came at the end of the output, it is raised only for exit
    code 0: otherwise the exit code is the reason. `watch` is called some times a second, in a thread, with the new lines of
    standard error and the number of bytes that the program has read in all; its exception ends the program, and is raised
    whatever the exit code. With `says`, which tells from its output so far how far the program is, it is a step; not with a
    `reader`. Raises SetupError if there is no such program, NoProcessError if it could not be started after some tries,
    ProgramTimeoutError (not while `reader` reads), Interrupted after having ended it.
    """
    sh = packages.load("sh")
    deaf = is_shielded()
    with ExitStack() as files:
        nothing = files.enter_context(open("/dev/null", "rb"))
        errors = files.enter_context(_file_in_memory())
        if reader:
            ends = zip(os.pipe(), ("rb", "wb"), strict=True)
            output, written = (files.enter_context(open(end, mode)) for end, mode in ends)
            with suppress(OSError):
                fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, READ_BYTES)
        else:
            output = written = files.enter_context(_file_in_memory())
            files.enter_context(_as_step(program, arguments, output, says))
        child = problem = watcher = None
        try:
            with shielded():  # a signal between the start and the assignment would leave the program running
                child = _started(
                    program,
                    lambda: sh.Command(program)(
                        *arguments,
                        _in=stdin or nothing,
                        _out=written,
                        _err=errors,
                        _env=dict(env) if env is not None else None,
                        _tty_out=False,
                        _bg=True,
                        _bg_exc=False,
                        _return_cmd=True,
                        _preexec_fn=partial(_take_signals, deaf),
                    ),
                )
                if reader:
                    written.close()  # otherwise its output would never end
                    _close_copies(output)
                if watch:
                    watcher = _Watcher(watch, errors, child.pid)
                    files.callback(watcher.stop)
            if reader:
                problem = _listen(reader, output)
            if timeout_s is not None:
                _wait(child.pid, timeout_s)
            child.wait()
            exit_code = 0
        except sh.CommandNotFound as error:
            raise _not_found(program) from error
        except sh.ForkException as error:
            reason = str(error).strip().splitlines()[-1]
            raise SetupError(
                f"{program} cannot be run ({reason})", "check its path and permissions"
            ) from error
        except sh.ErrorReturnCode as error:
            exit_code = error.exit_code
        except BaseException as error:
            if child is not None:
                with shielded():
                    _end(child, draining=output if reader else None)
            if isinstance(error, RuntimeError):  # no thread to be had for the watcher
                raise no_process(program) from error
            raise
        if watcher and (objection := watcher.stop()):
            raise objection
        if problem and not exit_code:
            raise problem
        if not reader:
            output.seek(0)
        errors.seek(0)
        return Completed(exit_code, output.read(), errors.read().decode(errors="replace"))


def _file_in_memory() -> BinaryIO:
    return open(os.memfd_create("output"), "w+b")


def _as_step(
    program: str, arguments: Sequence[str], output: IO[bytes], says: Callable[[bytes], Far | None] | None
) -> AbstractContextManager[None]:
    if not says:
        return nullcontext()

    def look() -> Far | None:
        descriptor = output.fileno()
        return says(os.pread(descriptor, os.fstat(descriptor).st_size, 0))

    return progress.step(" ".join((os.path.basename(program), *arguments[:1])), look)


def _not_found(program: str) -> SetupError:
    if os.path.exists(program):
        return SetupError(f"{program} cannot be run: it is not an executable file", f"see: ls -l {program}")
    return SetupError(f"{program} is not installed", "see BACKUP.md, 'Set up a server'")


def _started(program: str, start: Callable[[], "sh.RunningCommand"]) -> "sh.RunningCommand":
    for pause_s in (*FORK_PAUSES_S, None):
        try:
            # until it is the program, the child is a copy of us: a signal would raise Interrupted in it, and the copy go on
            with left_to_main_thread():
                return start()
        except OSError as error:
            gc.enable()  # sh switches it off while it forks
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
        except RuntimeError:
            # sh got no thread to watch the program, which runs already, and has read some of its input
            _kill_children()
            break
        if pause_s is not None:
            time.sleep(pause_s)
    raise no_process(program)


def _close_copies(pipe: IO[bytes]) -> None:
    """Close what sh has left open of our `pipe`, but `pipe` itself: a copy of its other end for each time that it could not fork."""
    ours = os.fstat(pipe.fileno())
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # it was closed meanwhile
            if descriptor != pipe.fileno() and os.path.samestat(os.fstat(descriptor), ours):
                os.close(descriptor)


def _kill_children() -> None:
    for child in Path("/proc/thread-self/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
        os.waitpid(int(child), 0)


class _Watcher(threading.Thread):
    """Calls `watch` while a program runs, and once more after stop(), which returns the exception of `watch`, if any."""

    def __init__(self, watch: Callable[[list[str], int], None], errors: BinaryIO, process: int) -> None:
        super().__init__(daemon=True)
        self._watch, self._errors = watch, errors
        self._ended = threading.Event()
        self._objection: Exception | None = None
        self._read_bytes = 0
        self._counts = Path(f"/proc/{process}/io")
        self._process: int | None
        try:
            self._process = os.pidfd_open(process)
        except ProcessLookupError:
            self._process = None  # it has ended already
        with left_to_main_thread():
            self.start()

    def stop(self) -> Exception | None:
        with shielded():
            if not self._ended.is_set():
                self._ended.set()
                self.join()
                if self._process is not None:
                    os.close(self._process)
        return self._objection

    def run(self) -> None:
        position, begun = 0, b""
        while not self._objection:
            is_over = self._ended.wait(WATCH_S)
            block = os.pread(self._errors.fileno(), READ_BYTES, position)
            position += len(block)
            is_all = is_over and not block
            *lines, begun = (begun + block).split(b"\n")
            if is_all:
                lines.append(begun)
            with suppress(OSError, IndexError, ValueError):  # the counts are gone once it has ended
                self._read_bytes = int(self._counts.read_text().split()[1])
            try:
                self._watch([line.decode(errors="replace") for line in lines], self._read_bytes)
            except Exception as error:  # noqa: BLE001
                self._objection = error
                self._end_program()
            if is_all:
                return

    def _end_program(self) -> None:
        for signum in (signal.SIGINT, signal.SIGKILL):
            if self._process is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._process, signum)
            if self._ended.wait(PATIENCE_S):
                return


class Output:
    """The output of a program, for its reader; `has_ended` is whether all of it was read."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self.has_ended = pipe, False

    def read(self, count: int = -1, /) -> bytes:
        block = self._pipe.read(count)
        self.has_ended = count < 0 or len(block) < count
        return block


def _listen(reader: Callable[[Readable], None], pipe: IO[bytes]) -> Exception | None:
    """Give `reader` the output; returns what it raised at the end of it, since the program may be the reason."""
    output = Output(pipe)
    try:
        reader(output)
    except Exception as error:
        if not output.has_ended:
            raise
        return error
    _drain(pipe)  # the program would fail if nobody read the rest
    return None


def _drain(output: IO[bytes]) -> None:
    # without the buffer, which an interrupted read may still hold
    while os.read(output.fileno(), READ_BYTES):
        pass


def _wait(process: int, timeout_s: float) -> None:
    # sh's own wait(timeout=...) polls every 0.1 s: twice as long as a service is down for a restore
    try:
        ended = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        if not select.select([ended], [], [], timeout_s)[0]:
            raise ProgramTimeoutError
    finally:
        os.close(ended)


def _take_signals(deaf: bool) -> None:
    """In the child: get signals again, as the program will; or ignore them, which it inherits too.

    A Ctrl-C meant for us must not kill the command that starts the service again.
    """
    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, signal.SIG_IGN if deaf else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end(child: "sh.RunningCommand", draining: IO[bytes] | None) -> None:
    if draining:  # a program that is blocked in writing to us could not end
        listener = threading.Thread(target=_drain, args=(draining,), daemon=True)
        try:
            with left_to_main_thread():
                listener.start()
        except RuntimeError:  # no thread to be had: then what it writes fails
            draining.close()
    _ask_to_end(child)
    if draining and listener.is_alive():
        listener.join(PATIENCE_S)  # before the pipe is closed under it


def _ask_to_end(child: "sh.RunningCommand") -> None:
    sh = packages.load("sh")
    # SIGINT: on it every restic removes its own lock, on SIGTERM 0.14 does not
    for signum in (signal.SIGINT, signal.SIGKILL):
        try:
            child.signal(signum)
        except ProcessLookupError:
            return
        except PermissionError:
            pass  # sudo runs as root: it ends by itself
        try:
            child.wait(timeout=PATIENCE_S)
            return
        except sh.TimeoutException:
            continue
        except sh.ErrorReturnCode:
            return
