"""A monitor on loopback."""

import http.server
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit


class Receiver:
    """A monitor on loopback that records its requests, and answers with `status`, or, if that is None, not at all.

    Behind `key_url` it speaks the protocol of healthchecks' slugs (https://healthchecks.io/docs/http_api/): a check that is not
    there is made with create=1, answered by a 201, and otherwise by a 404. `delays` are the seconds by signal for which a ping is
    on its way; `said` is the body of each answer.
    """

    def __init__(
        self,
        status: int | None = 200,
        delays: Mapping[str, float] = MappingProxyType({}),
        said: str = "OK",
    ) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.checks: list[str] = []
        self.queries: list[dict[str, list[str]]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                time.sleep(delays.get(urlsplit(self.path).path.rpartition("/")[2], 0))
                receiver.calls.append((self.command, self.path, body))
                if status is None:
                    receiver.stopping.wait()
                    return
                self.send_response(receiver.of_slug(self.path) if status == 200 else status)
                self.end_headers()
                self.wfile.write(said.encode())

            do_GET = do_POST = answer

            def log_message(self, *words: object) -> None:
                pass

        self.stopping = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        place = f"http://127.0.0.1:{self._server.server_port}"
        self.url, self.key_url = f"{place}/ping/SECRET-UUID", f"{place}/SECRET-KEY"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of_slug(self, path: str) -> int:
        """The status of the answer to a request of `path`."""
        parts = urlsplit(path)
        words, query = parts.path.strip("/").split("/"), parse_qs(parts.query)
        if words[0] != "SECRET-KEY":
            return 200
        self.queries.append(query)
        if len(words) not in (2, 3) or words[2:] not in ([], ["start"], ["fail"], ["log"]):
            return 400
        if words[1] in self.checks:
            return 200
        if query.get("create") != ["1"]:
            return 404
        self.checks.append(words[1])
        return 201

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Each ping of a slug: the slug, the signal (success without one), the body."""
        found = []
        for _, path, body in self.calls:
            key, slug, *signal = urlsplit(path).path.strip("/").split("/")
            assert key == "SECRET-KEY"
            found.append((slug, signal[0] if signal else "success", body))
        return found

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
