"""Signals of a terminal or an operator: those that end a run raise Interrupted, which shielded() delays.

They are Ctrl-C, Ctrl-\\, closing the terminal, and `kill`. Ctrl-Z, and writing to a terminal in the background, are ignored: a
stopped run would keep its lock, perhaps while the service is down. Only at a question does Ctrl-Z work.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# who closes a terminal sends SIGHUP twice, the kernel and bash, and who ends a session SIGTERM and SIGHUP: they are one signal,
# since the second Interrupted would end the handler of the first before it has ended a program or removed a file
TOGETHER_S = 1

_depth = 0
_pending: int | None = None
_raised_at = float("-inf")


class Interrupted(BaseException):
    """The run was asked to end; like KeyboardInterrupt it passes every `except Exception`.

    `note` is for the operator: what had been done by then, if that matters.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
        self.note = ""


def install() -> None:
    """Turn SIGNALS into Interrupted, so that `finally` blocks run on each of them, and let nothing stop the run."""
    # whoever has started us may ignore it: then no exit code of a child could be had
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for signum in SIGNALS:
        # nohup and cron may ignore it on purpose
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _on_signal)
    for signum in (signal.SIGTSTP, signal.SIGTTOU):
        signal.signal(signum, signal.SIG_IGN)  # restic and systemctl inherit that


def allow_suspension() -> None:
    """Undo what install() does to Ctrl-Z, for a program that takes the place of this one."""
    for signum in (signal.SIGTSTP, signal.SIGTTOU):
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def suspendable() -> Iterator[None]:
    """Let Ctrl-Z stop the process while the block runs. For questions: no lock is held there."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


def _on_signal(signum: int, _frame: object) -> None:
    global _pending
    if time.monotonic() - _raised_at < TOGETHER_S:
        return
    if _depth:
        _pending = signum
    else:
        raise _interrupted(signum)


def _interrupted(signum: int) -> Interrupted:
    global _raised_at
    _raised_at = time.monotonic()
    return Interrupted(signum)


@contextmanager
def shielded() -> Iterator[None]:
    """Run the block to its end; a signal that comes meanwhile raises Interrupted after it.

    If the block itself fails too, its message becomes the note. In another thread than the main one, which gets all signals,
    this does nothing.
    """
    global _depth, _pending
    if not _is_in_main_thread():
        yield
        return
    _depth += 1
    note = ""
    try:
        yield
    except Exception as error:
        note = str(error)
        raise
    finally:
        _depth -= 1
        if not _depth and _pending is not None:
            interruption, _pending = _interrupted(_pending), None
            interruption.note = note
            raise interruption


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside a shielded block: let signals in again for a while, also one that is waiting."""
    global _depth, _pending
    depth, _depth = _depth, 0
    try:
        if _pending is not None:
            signum, _pending = _pending, None
            raise _interrupted(signum)
        yield
    finally:
        _depth = depth


@contextmanager
def left_to_main_thread() -> Iterator[None]:
    """Threads that start in the block never get SIGNALS, and programs not before they unblock them.

    The kernel gives a signal to any thread that does not block it. In another one it would not interrupt the main thread, which
    waits for a program: for ever, where that does not end by itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_shielded() -> bool:
    return _depth > 0 and _is_in_main_thread()


def _is_in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
