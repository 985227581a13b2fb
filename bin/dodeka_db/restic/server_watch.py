"""Watch restic while it runs, and end it when it cannot succeed.

By itself restic tries each operation for up to a quarter of an hour, and waits for an answer for ever.
"""

import re
import time

from dodeka_db import repository_address
from dodeka_db.errors import UnreachableError
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures

# how long to wait for a server's answer: when a run only looks, or begins; and in the middle of a run
LOOK_S = 60
GIVE_UP_S = 300
# restic waits for 90 s at most before it tries again
PAUSE_S = 120
# fewer bytes than this are not progress: restic reads so much while it waits
MOVING_BYTES = 10_000
# so many may be files of the machine: 0.18 reads the list of mounts at its start, several times
OWN_BYTES = 1_000_000


class ServerWatch:
    """The `watch` of programs.run() for a restic: raises the failure that restic cannot overcome.

    That is: the server refuses access, what restic tries cannot succeed, nothing has moved for `patience_s` seconds
    (`begins_s` until more than OWN_BYTES have), or restic has been retrying for that long. `source` is the repository that it reads
    besides `repository`, if any.
    """

    def __init__(
        self,
        repository: RepositorySettings,
        source: RepositorySettings | None,
        patience_s: float,
        begins_s: float,
    ) -> None:
        self._repository, self._source = repository, source
        self._patience_s, self._later_s = begins_s, patience_s
        self._moved_at, self._moved_bytes = time.monotonic(), 0
        self._failing_since = self._failed_at = 0.0
        self._reason = ""

    def __call__(self, lines: list[str], read_bytes: int) -> None:
        now = time.monotonic()
        if read_bytes - self._moved_bytes > MOVING_BYTES:
            self._moved_at, self._moved_bytes = now, read_bytes
            if read_bytes > OWN_BYTES:
                self._patience_s = self._later_s
        for match in filter(None, map(failures.ATTEMPT.search, lines)):
            self._note(match, now)
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
        if now - self._failed_at > PAUSE_S:  # if not, the same interruption goes on
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
    """The one of the two repositories that restic's error `text` is about: the one whose folder or host is in it.

    If neither is: `source` if it alone is on a server, or for damage, since little is read from the other; else `repository`.
    """
    for one in (source, repository):
        place = one and (str(one.folder) if one.folder else repository_address.host(one.address))
        if one and re.search(rf"{re.escape(place or '')}(?![\w.-])", text):
            return one
    if source and (failures.is_damage(text) or (repository.folder and not source.folder)):
        return source
    return repository
