#!/usr/bin/python3
"""Make the password file and the restic repository where there is none yet (make init)."""

from collections.abc import Sequence
from pathlib import Path

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, places, settings
from dodeka_db.errors import OF_A_REPOSITORY, Refused, SetupError, Unreachable, WrongPassword
from dodeka_db.flows import cron, offsite
from dodeka_db.host import disks, job_records, password_files, run_lock, staging
from dodeka_db.restic import failures, runner
from dodeka_db.restic.repository import NO_COMPRESSION, UPGRADE, Config, Repository
from dodeka_db.settings import ENVIRONMENTS, Settings


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__, 7, *OF_A_REPOSITORY)
    console.offsite_option(parser)
    parser.add_argument("--yes", action="store_true", help="the answer to the question, given beforehand")
    arguments = parser.parse_args(argv)
    console.begin("both")

    here = settings.load()
    other = here.offsite
    if arguments.offsite:
        here, other = offsite.of(here), here
    places.check_answers(here.places)
    _check_folder(here)
    folder = here.local_repository
    if folder and not (folder / "config").exists():  # before anything is made, and without the lock
        _confirm_new(here, other, arguments.yes)
    with run_lock.held(staging.state_folder(here), "init", here.lock_wait_s):
        made = _make_password_file(here)
        try:
            runner.version(here)
            repository = Repository(here)
            config = _config_of(here, repository, made)
            pattern = _pattern(other) if config is None or here.is_offsite else None
            if here.is_offsite and not pattern:
                raise failures.missing(other)
            offsite.check_apart(config, pattern)
            if config is None and not folder:
                _confirm_new(here, other, arguments.yes)
        except BaseException:
            if made:
                made.unlink()
            raise
        if config is None:  # from here on the password may be the repository's, even if this fails
            repository.init(like=other if pattern else None)
            if repository.config() is None:  # it must open
                raise failures.missing(here)
    if config:
        state = "was there already, nothing to do"
    else:
        state = f"made, with the chunking of {other.repository_shown}" if pattern else "made"
    console.log.info("repository %s: %s", here.repository_shown, state)
    if config and pattern and config.chunker_polynomial != pattern.chunker_polynomial:
        console.log.warning(
            "it cuts files into other chunks than %s: what is copied takes more room", other.repository_shown
        )
    if config and config.format == 1 and here.format == "pages":
        console.log.warning("%s; %s", NO_COMPRESSION, UPGRADE)
    if made:
        console.log.info("made password file %s", made)
    if config is None and here.password_file:
        console.log.info("KEEP ITS CONTENT SOMEWHERE ELSE TOO: without it nobody can read the backups, ever")
    return 0


def _confirm_new(here: Settings, other: Settings | None, yes: bool) -> None:
    """Ask before a first repository is made where it looks as if there was one: NotConfirmed unless the answer is yes."""
    shown, doubts = here.repository_shown, []
    databases = [here.environment(name).live for name in ENVIRONMENTS]
    if here.local_repository and not disks.is_of_its_own(here.local_repository, databases):
        doubts.append(
            f"No volume is mounted there: {shown} would be on the disk of the system or of the databases."
        )
    main = other if here.is_offsite else here
    jobs = [offsite.JOB] if here.is_offsite else [cron.job(here.environment(name)) for name in ENVIRONMENTS]
    if passed := [moment for job in jobs if (moment := job_records.read(main, job).passed)]:
        doubts.append(
            f"This server has used one, well until {console.when(max(passed))}: a new one has no old snapshot."
        )
    if doubts:
        question = [f"THERE IS NO REPOSITORY AT {shown}.", *doubts]
        question.append(
            "If it is only out of reach now (mount its volume, correct its address), do not say yes."
        )
        console.confirm(question, yes)


def _config_of(here: Settings, repository: Repository, made: Path | None) -> Config | None:
    try:
        return repository.config()
    except WrongPassword as error:
        if not made:
            raise
        raise SetupError(
            f"repository {here.repository_shown} is there, but its password file {made} is not",
            "put the repository's own password into it",
        ) from error


def _pattern(other: Settings | None) -> Config | None:
    """How the other of the two repositories was made, so that copies deduplicate; None if it was not yet."""
    if other is None:
        return None
    if other.is_offsite and other.password_file and not other.password_file.exists():
        console.log.info("%s is not looked at: %s is missing", other.repository_shown, other.password_file)
        return None
    try:
        return Repository(other).config()
    except (Unreachable, Refused, WrongPassword) as error:
        if not other.is_offsite:
            raise
        hint = "fix that, or if it cannot wait: take OFFSITE_REPOSITORY out of the settings for now"
        raise type(error)(f"no chunking to take over: {error.message}", hint) from error


def _check_folder(here: Settings) -> None:
    # restic would make the whole path: on the root disk, where the volume is not mounted
    folder = here.local_repository
    if folder and not folder.parent.is_dir():
        raise SetupError(f"folder {folder.parent} is missing", "mount the backup volume, then run this again")
    # 0.14 would add a second key with another content
    if folder and not (folder / "config").exists() and any((folder / "keys").glob("*")):
        raise failures.cut_off(here)


def _make_password_file(here: Settings) -> Path | None:
    """A new file with a random password, mode 0600; None if there is one already."""
    file = here.password_file
    if file is None or file.exists():
        return None
    hint = "its folder must be there, and belong to the user of the backups"
    password_files.make(file, f"mount the backup volume; {hint}" if here.local_repository else hint)
    return file


if __name__ == "__main__":
    console.run(main)
