"""Does a backend answer at its health address?"""

import http.client
import urllib.error
import urllib.request

ANSWER_S = 2.0
# the address is this server's own: no proxy of somebody's shell
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def problem(url: str) -> str:
    """What is wrong with the answer of `url`; nothing if it is a 2xx, also after redirections."""
    try:
        with _DIRECT.open(url, timeout=ANSWER_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
