"""Tell a monitor that a cron run ended, and how: the convention of https://healthchecks.io/docs/http_api/.

The address of an environment is called after a good run, the same with /fail behind its path after a bad one.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from dodeka_db import settings
from dodeka_db.errors import as_line
from dodeka_db.settings import Environment

if TYPE_CHECKING:  # where no address is set, it is not needed
    import urllib.request

log = logging.getLogger("dodeka_db")
PATIENCE_S = 10


@contextmanager
def after(environment: Environment) -> Iterator[None]:
    """Report how the block ended, if an address is set. What cannot be delivered is warned of."""
    try:
        yield
    except BaseException as error:
        _report(environment, as_line(error))
        raise
    _report(environment, None)


def of_script(argv: Sequence[str], error_line: str) -> None:
    """Report a script that failed before it could begin, by its command line; only cron's have an address.

    Raises what settings.load() does.
    """
    script, *arguments = argv
    if Path(script).stem == "dodeka-db-cron":
        _report(settings.load().environment((arguments or ["production"])[0]), error_line)


def _report(environment: Environment, error_line: str | None) -> None:
    if not environment.ping_url:
        return
    import urllib.request

    scheme, host, path, query, _ = urlsplit(environment.ping_url)
    if error_line is None:
        request = urllib.request.Request(environment.ping_url)
    else:
        failed = urlunsplit((scheme, host, f"{path.rstrip('/')}/fail", query, ""))
        request = urllib.request.Request(failed, data=error_line.encode(errors="replace"))
    problems = ["no answer"]
    # a thread that is waited for so long, for a time limit of urllib's is one for each packet
    sender = threading.Thread(target=_send, args=(request, problems), daemon=True)
    sender.start()
    sender.join(PATIENCE_S)
    if problems:
        # the path is the secret part
        shown = f"{scheme}://{urlsplit(environment.ping_url).hostname}/..."
        log.warning("the heartbeat could not be delivered to %s: %s", shown, problems[-1])


def _send(request: "urllib.request.Request", problems: list[str]) -> None:
    import http.client
    import urllib.error

    try:
        with urllib.request.urlopen(request, timeout=2 * PATIENCE_S) as answer:
            answer.read(1)
        problems.clear()
    except urllib.error.HTTPError as error:
        problems.append(f"HTTP {error.code}")
    except urllib.error.URLError as error:
        problems.append(str(error.reason))
    except (OSError, ValueError, http.client.HTTPException) as error:
        problems.append(type(error).__name__)
