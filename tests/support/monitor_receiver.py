"""A monitor on loopback."""

import http.server
import threading


class Receiver:
    """A monitor on loopback that records its requests, and answers with `status`, or, if that is None, not at all."""

    def __init__(self, status: int | None = 200) -> None:
        self.calls: list[tuple[str, str, str]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                receiver.calls.append((self.command, self.path, body))
                if status is None:
                    receiver.stopping.wait()
                    return
                self.send_response(status)
                self.end_headers()

            do_GET = do_POST = answer

            def log_message(self, *words: object) -> None:
                pass

        self.stopping = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/ping/SECRET-UUID"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
