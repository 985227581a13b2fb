"""Tell a monitor how each job went: the convention of https://healthchecks.io/docs/http_api/.

Behind the address DODEKA_MONITOR each job has a check of its own, by its slug; the monitor makes the check at the first ping.
An address of an environment (DODEKA_PING_URL_...) is requested after a good cron run, the same with /fail after its path after a
bad one.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from dodeka_db import masking, schedule, settings
from dodeka_db.errors import as_line, plain
from dodeka_db.host import job_records
from dodeka_db.log import log
from dodeka_db.settings import ENVIRONMENTS, Settings

if TYPE_CHECKING:
    from dodeka_db.host.http_probe import Question

# for how long a run waits in all, at its end, for the monitor; half of it for the ping of its start
PATIENCE_S = 10
# the name under which the last run whose pings were all delivered is on record
RECORD = "monitor"
SUCCESS, FAILURE, LOG, START = "", "fail", "log", "start"
# by the ID of a check, hc-ping.com answers with a 200 in any case, and says in its text whether it has taken the ping
# (https://healthchecks.io/docs/http_api/)
_REFUSED = re.compile(r"OK \((not found|rate limited)\)")
_JOB_OF_SCRIPT = {
    "cron": "cron",
    "verify": "drill",
    "check": "check",
    "offsite": "offsite",
    "status": "status",
}


@dataclass(frozen=True)
class Job:
    """What the monitor is told of: cron, drill, check, offsite or status; the first two of an environment."""

    name: str
    environment: str = ""

    @property
    def slug(self) -> str:
        """The name of the job's check at the monitor."""
        return "-".join(filter(None, ("dodeka", self.name, self.environment)))


class Run:
    """One run of a job: `signal` and `summary` are what the monitor is told at its end if it succeeds; nothing unless `is_told`."""

    def __init__(self, job: Job, is_told: bool = True) -> None:
        self.signal, self.summary = SUCCESS, ""
        self._job, self._is_told, self._id = job, is_told, ""
        self._settings: Settings | None = None
        self._starting: Question | None = None

    def began(self, settings: Settings) -> Settings:
        """Tell the monitor that the run has begun, without waiting for its answer; returns the `settings`."""
        self._settings = settings
        if address := self._monitor:
            import uuid  # slow to import

            self._id = str(uuid.uuid4())
            self._starting = _ask(slug_address(address, self._job, START, self._id))
        return settings

    def ended(self, signal: str, text: str) -> None:
        """Tell the monitor how the run ended. A ping that cannot be delivered is only a warning."""
        deadline = time.monotonic() + PATIENCE_S
        if self._starting:  # if it arrived behind this one, the run would look like one that does not end
            self._starting.problem(PATIENCE_S / 2)
        asked = []
        if address := self._monitor:
            asked.append((address, _ask(slug_address(address, self._job, signal, self._id), text)))
        if address := self._ping_url:
            failed = signal == FAILURE
            asked.append((address, _ask(_with(address, signal), text if failed else None)))
        problems = [(address, question.problem(deadline - time.monotonic())) for address, question in asked]
        for address, problem in problems:
            if problem:
                shown = masking.shown_host(address)
                log.warning("a ping of the monitor could not be delivered to %s: %s", shown, problem)
        if self._settings and problems and not any(problem for _, problem in problems):
            job_records.passed(self._settings.main.state, RECORD)

    @property
    def _monitor(self) -> str | None:
        if self._job.name == "offsite" and not self._set("OFFSITE_REPOSITORY"):
            return None  # its line of the crontab does nothing
        return self._set("DODEKA_MONITOR")

    @property
    def _ping_url(self) -> str | None:
        name = f"DODEKA_PING_URL_{self._job.environment.upper()}"
        return self._set(name) if self._job.name == "cron" else None

    def _set(self, name: str) -> str | None:
        if not self._is_told:
            return None
        if self._settings is None:
            return settings.leniently(name)
        value = settings.SETTINGS[name](self._settings)
        return str(value) if value else None


@contextmanager
def told(name: str, environment: str = "", is_told: bool = True) -> Iterator[Run]:
    """Tell the monitor how the block ends, which runs a job; not if `is_told` is False.

    The addresses are those of the settings with which Run.began() is called; before that, those that can be found without all
    of the settings.
    """
    run = Run(Job(name, environment), is_told)
    try:
        yield run
    except BaseException as error:
        run.ended(FAILURE, as_line(error))
        raise
    run.ended(run.signal, run.summary)


def of_script(argv: Sequence[str], error_line: str) -> None:
    """Tell the monitor that a script failed before it began, if its command line is that of a job."""
    script, *arguments = argv
    name = _JOB_OF_SCRIPT.get(Path(script).stem.removeprefix("dodeka-db-"))
    if name == "cron" and not arguments:
        arguments = ["production"]
    expected = [[one] for one in ENVIRONMENTS] if name in ("cron", "drill") else [[]]
    if name == "status":
        expected = [["--hourly"]]
    if name and arguments in expected:
        Run(Job(name, "" if name == "status" else "".join(arguments))).ended(FAILURE, error_line)


def scheduled(settings: Settings) -> list[Job]:
    """The jobs that a crontab or timers run, with these settings."""
    jobs = [Job("cron", name) for name in ENVIRONMENTS] + [Job("drill", name) for name in schedule.DRILLED]
    return [*jobs, Job("check"), *([Job("offsite")] if settings.offsite else []), Job("status")]


def slug_address(address: str, job: Job, signal: str, run_id: str = "") -> str:
    """The address of a `signal` of `job`, behind the `address` of the monitor; pings of one `run_id` belong together."""
    query = "create=1" + (f"&rid={run_id}" if run_id else "")
    return _with(address, f"{job.slug}/{signal}".rstrip("/"), query)


def send_tests(settings: Settings) -> "list[tuple[str, Question]]":
    """Send a signal that changes nothing to each check and address; returns what each is called, and the question under way."""
    asked = {}
    if settings.monitor:
        for job in scheduled(settings):
            asked[job.slug] = slug_address(settings.monitor, job, LOG)
    for name, url in settings.ping_urls.items():
        asked[f"DODEKA_PING_URL_{name.upper()}"] = _with(url, LOG)
    return [(name, _ask(url, "a test: make monitor")) for name, url in asked.items()]


def _with(address: str, more: str, query: str = "") -> str:
    """`address` with `more` behind its path, and with `query`."""
    scheme, host, path, own_query, _ = urlsplit(address)
    if more:
        path = f"{path.rstrip('/')}/{more}"
    return urlunsplit((scheme, host, path, "&".join(filter(None, (own_query, query))), ""))


def _ask(url: str, text: str | None = None) -> "Question":
    from dodeka_db.host.http_probe import Question  # slow to import, and only needed if an address is set

    body = None if text is None else "\n".join(map(plain, text.split("\n"))).encode(errors="replace")
    return Question(url, PATIENCE_S, body, refused=_REFUSED)
