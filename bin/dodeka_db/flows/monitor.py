"""make monitor: send a test to the monitor for each job, and show what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from dodeka_db.errors import BackupError, SetupError
from dodeka_db.formatting import columns, counted
from dodeka_db.host import job_records, monitor
from dodeka_db.settings import Settings

_CREATED = 201


@dataclass(frozen=True)
class Answer:
    """What the monitor answered to the test of a check or of an address of an environment; `problem` is empty if it took it."""

    name: str
    problem: str
    is_new: bool

    @property
    def shown(self) -> str:
        if self.problem:
            return f"NOT RECEIVED: {self.problem}"
        return "received; the monitor has made this check now" if self.is_new else "received"


def run(settings: Settings) -> list[Answer]:
    """Send the tests, all at once, and wait for the answers. Raises SetupError if there is no monitor."""
    if not settings.monitor and not settings.ping_urls:
        raise SetupError("DODEKA_MONITOR is not set", "see BACKUP.md, 'Monitor'")
    questions = monitor.send_tests(settings)
    answers = [
        Answer(name, question.problem(monitor.PATIENCE_S), question.status == _CREATED)
        for name, question in questions
    ]
    if not any(answer.problem for answer in answers):
        job_records.passed(settings.main.state, monitor.RECORD)
    return answers


def table(answers: Sequence[Answer]) -> list[str]:
    return columns([(answer.name, answer.shown) for answer in answers], "<<")


def summary(answers: Sequence[Answer]) -> str:
    """The result in a few words; BackupError if a test was not received."""
    if failed := [answer for answer in answers if answer.problem]:
        raise BackupError(
            f"the monitor did not receive {len(failed)} of {counted(len(answers), 'test')}",
            "HTTP 401, 404 or 'not found': the ping key or address is wrong; 'rate limited': wait a minute; otherwise the monitor or"
            " the network is down: BACKUP.md, 'Monitor'",
        )
    return f"the monitor received {counted(len(answers), 'test')}"
