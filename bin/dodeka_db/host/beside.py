"""Do something in a thread beside the main one, such as to wait for a program."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dodeka_db.errors import no_process
from dodeka_db.host import programs
from dodeka_db.interrupts import left_to_main_thread, shielded

Result = TypeVar("Result")
POLL_S = 0.1


@contextmanager
def beside(work: Callable[[], Result], what: str) -> Iterator[Callable[[], Result]]:
    """Begin `work`; gives a function that waits for its result, or raises its failure.

    The end of the block waits too; if the block fails, programs that `work` runs, or begins to run, are ended. Raises
    NoProcessError, which names `what`, if there is no thread to be had.
    """
    with ThreadPoolExecutor(1) as pool:
        future = None
        try:
            with shielded(), left_to_main_thread():  # a signal waits until we know what to end
                thread = pool.submit(threading.get_native_id).result()
                future = pool.submit(work)
            yield future.result
            wait([future])
        except BaseException as error:
            if future:
                with shielded():  # a second signal must not leave the first one's work half done
                    _end_programs(thread, future)
            elif isinstance(error, RuntimeError):
                raise no_process(what) from error
            raise


def _end_programs(thread: int, future: "Future[Result]") -> None:
    """End each program that the `thread` runs until `future` is done: it may be between two of them, and go on."""
    children = Path(f"/proc/self/task/{thread}/children")
    asked_at: dict[str, float] = {}
    while not future.done():
        for process in children.read_text().split():
            if process not in asked_at:
                asked_at[process] = time.monotonic()
                signum = signal.SIGINT  # on which restic removes its lock
            elif time.monotonic() - asked_at[process] > programs.PATIENCE_S:
                signum = signal.SIGKILL
            else:
                continue
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(process), signum)
        wait([future], POLL_S)
