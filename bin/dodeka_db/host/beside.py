"""Do something in a thread beside the main one, such as to wait for a program."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dodeka_db.errors import no_process

Result = TypeVar("Result")


@contextmanager
def beside(work: Callable[[], Result], what: str) -> Iterator[Callable[[], Result]]:
    """Begin `work`; gives a function that waits for its result, or raises its failure.

    The end of the block waits too; if the block fails, programs that `work` runs are ended. Raises NoProcessError, which
    names `what`, if there is no thread to be had.
    """
    with ThreadPoolExecutor(1) as pool:
        try:
            thread = pool.submit(threading.get_native_id).result()
            future = pool.submit(work)
        except RuntimeError as error:
            raise no_process(what) from error
        try:
            yield future.result
        except BaseException:
            _end_programs(thread)
            raise


def _end_programs(thread: int) -> None:
    for process in Path(f"/proc/self/task/{thread}/children").read_text().split():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(process), signal.SIGINT)  # on which restic removes its lock
