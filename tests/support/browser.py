"""Debian's chromium without a window, driven by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from waiting import wait_for

PROGRAM = "chromium"


class Page:
    """A page of the browser: what it says on its console, and which addresses it asks for, is kept."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._number = connection, 0
        self.said: list[str] = []
        self.requested: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        """The result of that method of the protocol."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := self._received()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str, width: int, dark: bool) -> None:
        """Open `address` in a window of that width, in pixels, on a screen that is light or dark, and wait until it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=2,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.said, self.requested = [], []
        self.call("Page.navigate", url=address)
        while self._received().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str) -> object:
        """The value of that JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _received(self) -> dict:
        message = json.loads(self._connection.recv(timeout=30))
        method, parameters = message.get("method"), message.get("params", {})
        if method in (
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Audits.issueAdded",
        ):
            self.said.append(json.dumps(parameters))
        if method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        return message


@contextmanager
def started(profile: Path) -> Iterator[Page]:
    """A browser with a new profile in the folder `profile`, and a page in it."""
    quiet = (
        "--headless",
        "--no-sandbox",  # root has none, nor has a container; it shows nothing but pages of ours
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
    )
    process = subprocess.Popen(
        [PROGRAM, *quiet, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        env={"PATH": os.environ["PATH"], "HOME": str(profile), "TZ": "Europe/Amsterdam", "LANG": "C.UTF-8"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    told = profile / "DevToolsActivePort"
    try:
        wait_for(lambda: told.exists() and "\n" in told.read_text(), 60)
        port = told.read_text().splitlines()[0]
        with connect(_address_of_page(port), max_size=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait()


def _address_of_page(port: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        return next(one["webSocketDebuggerUrl"] for one in json.load(answer) if one["type"] == "page")
