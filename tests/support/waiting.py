"""Wait for another process."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], timeout_s: float = 180) -> Value:
    """The first true result of `condition`; AssertionError if there is none within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.002)
    return value
