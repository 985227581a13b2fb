"""Watch a restic at work, and end it where going on has no point.

By itself restic tries each operation for up to a quarter of an hour, and waits for an answer for ever.
"""

import logging
import re
import time

from dodeka_db import repository_address
from dodeka_db.errors import UnreachableError
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures

log = logging.getLogger("dodeka_db")

# how long a run that only looks, or begins, waits for a server's answer; and one that is in the middle
LOOK_S = 60
GIVE_UP_S = 300
# restic waits for 90 s at most before it tries again
PAUSE_S = 120
# what is less than this is not data, but restic's own life signs
MOVING_BYTES = 10_000


class ServerWatch:
    """Called with what a restic says and has read, as programs.run() has it; raises the failure that restic cannot get past.

    That is when the server refuses it; when what it tries cannot succeed; when nothing has moved for `patience_s`; or when it
    has been trying again and again for that long. `source` is the repository that it reads besides `repository`, if any.
    """

    def __init__(
        self, repository: RepositorySettings, source: RepositorySettings | None, patience_s: float
    ) -> None:
        self._repository, self._source = repository, source
        self._patience_s = patience_s
        self._moved_at, self._moved_bytes = time.monotonic(), 0
        self._failing_since = self._failed_at = 0.0
        self._reason = ""

    def __call__(self, lines: list[str], read_bytes: int) -> None:
        now = time.monotonic()
        for match in filter(None, map(failures.ATTEMPT.search, lines)):
            self._note(match, now)
        if read_bytes - self._moved_bytes > MOVING_BYTES:
            self._moved_at, self._moved_bytes = now, read_bytes
        is_failing = bool(self._reason) and self._failed_at - self._failing_since > self._patience_s
        if is_failing or now - self._moved_at > self._patience_s:
            raise self.unreachable(f"no data for {self._patience_s:.0f} s")

    def unreachable(self, otherwise: str) -> UnreachableError:
        """The failure to raise: with restic's last reason, or `otherwise`."""
        reason = self._reason or otherwise
        return failures.unreachable(repository_in(self._repository, self._source, reason), reason)

    def _note(self, line: re.Match[str], now: float) -> None:
        reason = self._repository.masked(line["reason"])
        repository = repository_in(self._repository, self._source, reason)
        if failure := failures.failure_of_attempt(repository, line, reason):
            raise failure
        if not line["retrying"]:
            return
        self._reason = reason
        if now - self._failed_at > PAUSE_S:  # else it is still the same trouble
            self._failing_since = now
            if repository.folder is None:
                log.warning(
                    "lost contact with %s: %s; retrying for up to %.0f s",
                    *(repository.shown, failures.short(reason), self._patience_s),
                )
        self._failed_at = now


def repository_in(
    repository: RepositorySettings, source: RepositorySettings | None, text: str
) -> RepositorySettings:
    """The repository of the two that an error of restic's is about: the one whose folder or host stands in its `text`.

    Else the one on a server, or `source` where what is read is damaged: from the other little is read.
    """
    for one in (source, repository):
        place = one and (str(one.folder) if one.folder else repository_address.host(one.address))
        if one and re.search(rf"{re.escape(place or '')}(?![\w.-])", text):
            return one
    if source and (failures.is_damage(text) or (repository.folder and not source.folder)):
        return source
    return repository
