"""Ask an address of http or https, with one time limit for all of its answer."""

import base64
import http.client
import threading
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit


def problem(url: str, limit_s: float, body: bytes | None = None, direct: bool = False) -> str:
    """What is wrong with the answer of `url`, which may contain `user:password@`; empty for a 2xx, also after redirections.

    urllib's time limit is one for each packet, so a thread asks, and is waited for `limit_s` seconds. `body` is posted;
    `direct` ignores the proxies of the environment.
    """
    found = [f"no answer within {limit_s:g} s"]
    asking = threading.Thread(target=lambda: found.append(_problem(url, limit_s, body, direct)), daemon=True)
    try:
        asking.start()
    except RuntimeError:
        return "this machine has no thread left to ask"
    asking.join(limit_s)
    return found[-1]


def _problem(url: str, limit_s: float, body: bytes | None, direct: bool) -> str:
    scheme, place, path, query, _ = urlsplit(url)
    user_info, _, host = place.rpartition("@")
    try:
        request = urllib.request.Request(urlunsplit((scheme, host, path, query, "")), data=body)  # noqa: S310  _opener() knows http alone
        if user_info:  # urllib would take it for a part of the host's name
            credentials = base64.b64encode(unquote_to_bytes(user_info)).decode()
            request.add_unredirected_header("Authorization", f"Basic {credentials}")
        with _opener(direct).open(request, timeout=limit_s):
            return ""
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)[:_SHOWN]
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error)[:_SHOWN] or type(error).__name__


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
