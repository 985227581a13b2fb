"""Ports for servers of tests."""

import os
import socket
from contextlib import suppress

# below those that the kernel gives out by itself, and apart for each of the processes that run the tests
_ports = iter(range(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), 32_000))


def free_port() -> int:
    """A port on loopback that nobody has, and that nobody is given but who asks for it."""
    for port in _ports:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")
