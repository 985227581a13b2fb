"""A REST server on loopback that is as far away as one wants: each byte arrives `delay_s` after it was sent, either way."""

import socket
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from remote_servers import Relay, Rest


class DistantServer:
    """The repositories in the folder `served`, each at its address; `delay_s` holds for what is sent from then on."""

    def __init__(self, folder: Path) -> None:
        self._near = Rest(folder)
        self.served = self._near.served
        self._relay = Distance(self._near.relay.port)

    @property
    def delay_s(self) -> float:
        return self._relay.delay_s

    @delay_s.setter
    def delay_s(self, value: float) -> None:
        self._relay.delay_s = value

    def start(self) -> None:
        self._near.start()

    def address(self, name: str) -> str:
        """restic's address of the repository `served`/`name`, with the password in it."""
        near, far = f":{self._near.relay.port}/", f":{self._relay.port}/"
        return self._near.url.replace(near, far) + f"{name}/"

    def stop(self) -> None:
        self._relay.close()
        self._near.stop()


class Distance(Relay):
    """A relay that takes what comes at once, and passes it on `delay_s` later: the bandwidth has no limit."""

    delay_s = 0.0

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        sent: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        Thread(target=_deliver, args=(sent, target), daemon=True).start()
        time.sleep(2 * self.delay_s)  # nothing is sent before TCP's handshake has gone there and back
        block = b"first"
        while block:
            try:
                block = source.recv(65536)
            except OSError:
                block = b""
            sent.put((time.monotonic() + self.delay_s, block))


def _deliver(sent: "SimpleQueue[tuple[float, bytes]]", target: socket.socket) -> None:
    """Send each block when it is due; an empty one is the end."""
    with suppress(OSError):
        while True:
            due, block = sent.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not block:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(block)
