"""The line of a terminal that shows how far a step is. For console.py alone, which shows everything else there.

The line appears when a step has taken two seconds, and is gone when the step is over. It is drawn in a thread, which imports
tqdm only then. It has no colour, and needs of a terminal just that a carriage return goes to the beginning of the line.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from dodeka_db import packages, progress
from dodeka_db.errors import SetupError, plain
from dodeka_db.formatting import COLUMNS, size
from dodeka_db.interrupts import left_to_main_thread
from dodeka_db.progress import BYTES, Far, Step

AFTER_S = 2
PAUSE_S = 0.2
# tqdm's words, in braces, and ours
_SO_FAR = "{desc} {percentage:3.0f} % [{bar}] {of}"
_LEFT = ", {remaining} left"
_WITHOUT_TOTAL = "{desc}, {elapsed}"
_BAR = ".#"


class ProgressLine:
    """The progress on the terminal `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None
        self._hidden = 0
        self._step: Step | None = None  # whose line is there
        self._width = 0

    def changed(self) -> None:
        """A step has begun, or is over: then its line goes before anything else can be printed."""
        with self._lock:
            if self._step and not progress.is_running(self._step):
                self._erase()
            if not progress.is_running():
                self._is_needed.clear()
                return
            self._is_needed.set()
            if not self._thread:
                self._thread = threading.Thread(target=self._run, daemon=True)
                with suppress(RuntimeError), left_to_main_thread():  # no thread to be had
                    self._thread.start()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """No line is there while the block runs, which prints, or asks."""
        with self._lock:
            self._hidden += 1
            self._erase()
        try:
            yield
        finally:
            with self._lock:
                self._hidden -= 1

    def _run(self) -> None:
        # the terminal has gone, or tqdm is missing: it is only progress
        with suppress(OSError, ValueError, SetupError):
            while True:
                self._is_needed.wait()
                time.sleep(PAUSE_S)
                if found := progress.to_show(AFTER_S):
                    self._draw(*found)

    def _draw(self, step: Step, far: Far | None) -> None:
        columns = self._columns()
        line = _line(step, far, columns)
        with self._lock:
            if self._hidden or not progress.is_running(step) or not self._is_in_foreground():
                return
            self._step = step
            # the cursor stays at the beginning, where the ^C of a terminal does no harm
            self._stream.write(f"\r{line.ljust(min(self._width, columns))}\r")
            self._stream.flush()
            self._width = len(line)

    def _erase(self) -> None:
        with self._lock:
            if self._step:
                self._step = None
                with suppress(OSError, ValueError):  # the terminal has gone
                    self._stream.write(f"\r{' ' * min(self._width, self._columns())}\r")
                    self._stream.flush()

    def _columns(self) -> int:
        """How long a line can be without the terminal going on in the next one."""
        return min(os.get_terminal_size(self._stream.fileno()).columns or COLUMNS, COLUMNS) - 1

    def _is_in_foreground(self) -> bool:
        """Whether the terminal is ours now: in the background, somebody is typing there."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except OSError:  # it is nobody's
            return True


def _line(step: Step, far: Far | None, columns: int) -> str:
    meter: Callable[..., str] = packages.load("tqdm.std").tqdm.format_meter
    took_s = time.monotonic() - step.began
    if far is None:
        return plain(meter(0, None, took_s, columns, step.what, bar_format=_WITHOUT_TOTAL))
    of = f"{far.done} of {far.total} {far.unit}"
    if far.unit == BYTES:
        of = f"{size(far.done)} of {size(far.total)}"
    elapsed_s = took_s if far.since_s is None else far.since_s
    words = _SO_FAR + _LEFT if far.done and elapsed_s else _SO_FAR
    return plain(meter(far.done, far.total, elapsed_s, columns, step.what, _BAR, bar_format=words, of=of))
