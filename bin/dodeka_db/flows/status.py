"""make status: is all well? One line per subject, with what is wrong and the command that fixes it.

Read only: takes no lock, on this machine or in the repository, and changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dodeka_db import places
from dodeka_db.flows import status_jobs, status_repository, status_server
from dodeka_db.flows.status_lines import ORDER, Line, Look, State, bad, guarded, unknown
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, of_environment
from dodeka_db.settings import Environment, Settings

Found = TypeVar("Found")


def look(settings: Settings) -> list[Line]:
    """All lines, the worst first."""
    return sorted(_Screen(settings).lines(), key=lambda line: ORDER.index(line.look.state))


class _Screen:
    """Collects the lines; later lines use the results of earlier ones."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        second = settings.offsite
        self._second = [second.password_file, second.folder] if second else []
        # a place that does not answer is not asked again
        self._hung = places.silent(filter(None, [*settings.main.places, *self._second]))

    def lines(self) -> Iterator[Line]:
        settings, main = self._settings, self._settings.main
        state, where = main.state, main.folder
        databases = [environment.database for environment in settings.environments]

        restic = guarded(lambda: status_repository.restic(main))
        yield Line("", "restic", restic)
        password = self._at([main.password_file], lambda: status_repository.password(settings))
        yield Line("", "password", password)
        repository = Repository(main, locking=False) if restic.state is password.state is State.WELL else None
        listed = self._tried(where, repository.listed) if repository else None
        opened = self._at([where], lambda: status_repository.opened(settings, repository, listed))
        yield Line("", "repository", opened)
        readable = repository if isinstance(listed, list) else None
        if readable and main.format == "pages":
            yield Line("", "format", guarded(lambda: status_repository.format(readable)))
        for environment in settings.environments:
            yield from self._of_snapshots(environment, listed)
            yield from self._of_environment(environment, listed)
        yield Line("", "key files", self._at([state], lambda: status_server.key_files(settings)))
        yield Line("", "check", self._at([state], lambda: status_jobs.repository_check(main)))
        copy = self._at([state, where, *self._second], lambda: status_jobs.offsite_copy(settings))
        yield Line("", "off-site copy", copy)
        if settings.offsite:
            yield Line("", "proof", self._at([state], lambda: status_jobs.proof(main)))
        yield Line("", "monitor", self._at([state], lambda: status_jobs.monitor_reached(settings)))
        if where:
            volume = self._at([state, where, *databases], lambda: status_repository.volume(settings, where))
            yield Line("", "volume", volume)
        room = self._at([state, *databases], lambda: status_server.state_folder(settings))
        yield Line("", "state folder", room)
        yield Line("", "lock", self._at([state], lambda: status_jobs.at_work(main)))
        if readable:
            yield Line("", "restic's locks", guarded(lambda: status_repository.locks(readable)))
        yield Line("", "crontab", guarded(status_server.crontab))
        yield Line("", "logrotate", guarded(status_server.logrotate))
        yield Line("", "user", guarded(lambda: status_server.user(settings)))

    def _of_snapshots(
        self,
        environment: Environment,
        listed: list[Snapshot] | Exception | None,
    ) -> Iterator[Line]:
        name, main = environment.name, self._settings.main
        if not isinstance(listed, list):
            yield Line(name, "snapshots", unknown("cannot be seen: the repository does not open"))
            return
        ours = of_environment(listed, name)
        yield Line(name, "snapshots", guarded(lambda: status_repository.snapshots(main, environment, ours)))
        yield Line(
            name, "size", self._at([main.state], lambda: status_repository.size_line(main, environment))
        )

    def _of_environment(
        self,
        environment: Environment,
        listed: list[Snapshot] | Exception | None,
    ) -> Iterator[Line]:
        name, main, database = environment.name, self._settings.main, environment.database
        known = listed if isinstance(listed, list) else []
        yield Line(name, "cron", self._at([main.state], lambda: status_jobs.cron_run(main, environment)))
        yield Line(name, "rows", self._at([main.state], lambda: status_jobs.rows(main, environment, known)))
        yield Line(name, "drill", self._at([main.state], lambda: status_jobs.drill(main, environment)))
        service = self._at([database], lambda: status_server.service_line(self._settings, environment))
        yield Line(name, "service", service)
        rights = self._at([database], lambda: status_server.readers(environment))
        yield Line(name, "live database", rights)
        kept = self._at([database], lambda: status_server.kept_files_line(main, environment))
        yield Line(name, "kept files", kept)

    def _at(self, needed: Sequence[Path | None], look_at: Callable[[], Look]) -> Look:
        """The result of `look_at`, which needs the places `needed`; bad, without calling it, if one of them does not answer."""
        for place in needed:
            if place in self._hung:
                return bad(f"{place} does not answer within {places.ANSWER_S} s", places.HINT)
        return guarded(look_at)

    def _tried(self, needed: Path | None, ask: Callable[[], Found]) -> Found | Exception | None:
        """What `ask` returns or raises; None, without asking, where the place `needed` does not answer."""
        if needed in self._hung:
            return None
        try:
            return ask()
        except Exception as error:  # noqa: BLE001
            return error
