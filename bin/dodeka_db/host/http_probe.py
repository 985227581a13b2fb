"""Ask an address of http or https, with one time limit for all of its answer."""

import base64
import http.client
import re
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

from dodeka_db.interrupts import left_to_main_thread


class Question:
    """A request of `url`, which may contain `user:password@`, whose answer a thread waits for: the caller can go on meanwhile.

    urllib's time limit is one for each packet, so the thread is waited for, up to `limit_s` seconds. `body` is posted; `direct`
    ignores the proxies of the environment. A 2xx whose text begins as `refused` says, with the reason as its group, is a problem too.
    """

    def __init__(
        self,
        url: str,
        limit_s: float,
        body: bytes | None = None,
        direct: bool = False,
        refused: re.Pattern[str] | None = None,
    ) -> None:
        self.status = 0  # of HTTP, as soon as there is an answer that is a 2xx
        self._problem = _late(limit_s)
        self._thread = threading.Thread(
            target=self._ask, args=(url, limit_s, body, direct, refused), daemon=True
        )
        try:
            with left_to_main_thread():
                self._thread.start()
        except RuntimeError:
            self._problem = "this machine has no thread left to ask"

    def problem(self, wait_s: float) -> str:
        """What is wrong with the answer, for which this waits `wait_s` seconds; empty for a 2xx, also after redirections."""
        if self._thread.ident:
            self._thread.join(max(0, wait_s))
        return self._problem

    def _ask(self, *question: Any) -> None:
        self.status, self._problem = _answer(*question)


def problem(url: str, limit_s: float, direct: bool = False) -> str:
    """What is wrong with the answer of `url` within `limit_s` seconds, as Question.problem() says."""
    return Question(url, limit_s, direct=direct).problem(limit_s)


def _answer(
    url: str, limit_s: float, body: bytes | None, direct: bool, refused: re.Pattern[str] | None
) -> tuple[int, str]:
    """The status of a 2xx, or 0; and the problem."""
    scheme, place, path, query, _ = urlsplit(url)
    user_info, _, host = place.rpartition("@")
    try:
        request = urllib.request.Request(urlunsplit((scheme, host, path, query, "")), data=body)  # noqa: S310  _opener() knows http alone
        if user_info:  # urllib would take it for a part of the host's name
            credentials = base64.b64encode(unquote_to_bytes(user_info)).decode()
            request.add_unredirected_header("Authorization", f"Basic {credentials}")
        if body is not None:
            request.add_header("Content-Type", "text/plain; charset=utf-8")
        with _opener(direct).open(request, timeout=limit_s) as answer:
            if refused and (said := refused.match(answer.read(_SHOWN).decode(errors="replace"))):
                return 0, f"HTTP {answer.status}, but: {said[1]}"
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return 0, f"HTTP {error.code}"
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            return 0, _late(limit_s)
        return 0, str(error.reason)[:_SHOWN]
    except TimeoutError:
        return 0, _late(limit_s)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, str(error)[:_SHOWN] or type(error).__name__


def _late(limit_s: float) -> str:
    return f"no answer within {limit_s:g} s"


def _opener(direct: bool) -> urllib.request.OpenerDirector:
    """An opener for http and https alone: build_opener() would also follow a redirection to ftp:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if direct else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirections(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirections(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, answer: Any, *rest: Any) -> urllib.request.Request | None:
        answer.close()  # otherwise all of the answer would be read, however long it is
        return super().redirect_request(request, answer, *rest)


_SHOWN = 200
