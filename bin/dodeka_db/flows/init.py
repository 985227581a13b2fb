"""make init: create the password file and the restic repository, if they do not exist yet."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from dodeka_db import places
from dodeka_db.errors import RefusedError, SetupError, UnreachableError, WrongPasswordError
from dodeka_db.flows import cron, offsite
from dodeka_db.formatting import when
from dodeka_db.host import disks, job_records, password_files, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import failures, runner
from dodeka_db.restic.repository import NO_COMPRESSION, UPGRADE, Config, Repository
from dodeka_db.settings import Settings

Confirm = Callable[[Sequence[str]], None]


def run(settings: Settings, chosen: RepositorySettings, confirm: Confirm) -> None:
    """Make the repository `chosen` and its password file; first ask `confirm` (which may raise) if that may be a mistake.

    An existing repository stays as it is. Raises BackupError, with no new password file left unless the repository was made
    with it.
    """
    other = settings.main if chosen.is_offsite else settings.offsite
    places.check_answers(chosen.places)
    _check_folder(chosen)
    if chosen.folder and not (chosen.folder / "config").exists():  # before anything is made
        _confirm_new(settings, chosen, confirm)
    made = None
    with ExitStack() as stack:
        try:
            with staging.locked(chosen, "init"):
                made = _make_password_file(chosen)
                runner.version(chosen)
                repository = Repository(chosen)
                config = _config_of(repository, made)
                pattern = _pattern(other) if config is None or chosen.is_offsite else None
                if chosen.is_offsite and not pattern:
                    raise failures.missing(settings.main)
                offsite.check_apart(config, pattern)
            if config is None and not chosen.folder:
                # without the lock: backups go on while somebody thinks
                _confirm_new(settings, chosen, confirm)
            if config is None:
                stack.enter_context(staging.locked(chosen, "init"))
        except BaseException:
            if made:
                made.unlink()
            raise
        if config is None:
            # the password may be the repository's from now on, even if this fails
            repository.init(like=other if pattern else None)
            if repository.config() is None:  # it must open
                raise failures.missing(chosen)
    _report(chosen, other.shown if other else "", config, pattern)
    if made:
        log.info("made password file %s", made)
    if config is None and chosen.password_file:
        log.info("KEEP ITS CONTENT SOMEWHERE ELSE TOO: without it nobody can read the backups, ever")


def _report(chosen: RepositorySettings, other: str, config: Config | None, pattern: Config | None) -> None:
    if config is None:
        log.info("repository %s: made%s", chosen.shown, f", with the chunking of {other}" if pattern else "")
        return
    log.info("repository %s: exists already, nothing to do", chosen.shown)
    if pattern and config.chunker_polynomial != pattern.chunker_polynomial:
        log.warning("it cuts files into other chunks than %s: copied snapshots take more room", other)
    if config.format == 1 and chosen.format == "pages":
        log.warning("%s; %s", NO_COMPRESSION, UPGRADE)


def _confirm_new(settings: Settings, chosen: RepositorySettings, confirm: Confirm) -> None:
    """Ask before a first repository is made, if there are signs that one existed."""
    doubts = []
    databases = [environment.live for environment in settings.environments]
    if chosen.folder and not disks.is_on_own_volume(chosen.folder, databases):
        doubts.append(
            f"No volume is mounted for {chosen.shown}: it would be on the system's disk or the databases' disk."
        )
    jobs = [cron.job(environment) for environment in settings.environments]
    if chosen.is_offsite:
        jobs = [offsite.JOB]
    records = (job_records.read(settings.main.state, job) for job in jobs)
    if passed := [record.passed for record in records if record.passed]:
        doubts.append(
            f"This server used a repository until {when(max(passed))}. A new one would not contain its snapshots."
        )
    if doubts:
        confirm(
            [
                f"THERE IS NO REPOSITORY AT {chosen.shown}.",
                *doubts,
                "If the repository is only out of reach (mount its volume, correct its address), answer no.",
            ]
        )


def _config_of(repository: Repository, made: Path | None) -> Config | None:
    try:
        return repository.config()
    except WrongPasswordError as error:
        if not made:
            raise
        raise SetupError(
            f"repository {repository.settings.shown} exists, but its password file {made} does not",
            "put the repository's own password into it",
        ) from error


def _pattern(other: RepositorySettings | None) -> Config | None:
    """The configuration of the other repository, whose chunking makes copies deduplicate; None if it does not exist yet."""
    if other is None:
        return None
    if other.is_offsite and other.password_file and not other.password_file.exists():
        log.info(
            "repository %s is not read: its password file %s is missing", other.shown, other.password_file
        )
        return None
    try:
        return Repository(other).config()
    except (UnreachableError, RefusedError, WrongPasswordError) as error:
        if not other.is_offsite:
            raise
        hint = "fix that, or if it cannot wait: take OFFSITE_REPOSITORY out of the settings for now"
        raise type(error)(
            f"the chunking of the off-site repository is not known: {error.message}", hint
        ) from error


def _check_folder(chosen: RepositorySettings) -> None:
    # restic would make the whole path: on the root disk, if the volume is not mounted
    folder = chosen.folder
    if folder and not folder.parent.is_dir():
        raise SetupError(f"folder {folder.parent} is missing", "mount the backup volume, then run this again")
    # restic 0.14 would add a second key with another content
    if folder and not (folder / "config").exists() and any((folder / "keys").glob("*")):
        raise failures.cut_off(chosen)


def _make_password_file(chosen: RepositorySettings) -> Path | None:
    """A new file with a random password, mode 0600; None if there is one already."""
    file = chosen.password_file
    if file is None or file.exists():
        return None
    hint = "its folder must exist, and belong to the user of the backups"
    password_files.make(file, f"mount the backup volume; {hint}" if chosen.folder else hint)
    return file
