"""Tell a monitor that a cron run ended, and how: the convention of https://healthchecks.io/docs/http_api/.

The address of an environment is requested after a good run, the same with /fail after its path after a bad one.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from dodeka_db import masking, settings
from dodeka_db.errors import as_line
from dodeka_db.settings import Environment

log = logging.getLogger("dodeka_db")
PATIENCE_S = 10


@contextmanager
def after(environment: Environment) -> Iterator[None]:
    """Report how the block ended, if an address is set. A report that cannot be delivered is only a warning."""
    try:
        yield
    except BaseException as error:
        _report(environment, as_line(error))
        raise
    _report(environment, None)


def of_script(argv: Sequence[str], error_line: str) -> None:
    """Report that a script failed before it began, if its command line is that of a cron run.

    Raises what settings.load() raises.
    """
    script, *arguments = argv
    if Path(script).stem == "dodeka-db-cron":
        _report(settings.load().environment((arguments or ["production"])[0]), error_line)


def _report(environment: Environment, error_line: str | None) -> None:
    if not environment.ping_url:
        return
    from dodeka_db.host import http_probe  # only needed if an address is set

    scheme, host, path, query, _ = urlsplit(environment.ping_url)
    if error_line is None:
        problem = http_probe.problem(environment.ping_url, PATIENCE_S)
    else:
        failed = urlunsplit((scheme, host, f"{path.rstrip('/')}/fail", query, ""))
        problem = http_probe.problem(failed, PATIENCE_S, error_line.encode(errors="replace"))
    if problem:
        shown = masking.shown_host(environment.ping_url)
        log.warning("the heartbeat could not be delivered to %s: %s", shown, problem)
