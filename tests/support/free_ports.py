"""Ports for servers of tests."""

import os
import socket
from contextlib import suppress
from itertools import count

# below the ports that the kernel assigns, and far apart for the processes that run tests
_LOWEST, _HOW_MANY = 20_000, 12_000
_turns = count(os.getpid() * 509)


def free_port() -> int:
    """A free port on loopback, which the kernel assigns to no other program."""
    for turn in _turns:
        port = _LOWEST + turn % _HOW_MANY
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("unreachable: the turns never end")
