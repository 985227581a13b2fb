#!/usr/bin/python3
"""Make the password file and the restic repository where there is none yet (make init)."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, lock, settings, staging
from dodeka_db.errors import SetupError, WrongPassword
from dodeka_db.repository import NO_COMPRESSION, UPGRADE, Repository, restic_version
from dodeka_db.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    console.parser(__doc__).parse_args(argv)
    console.begin("both")

    here = settings.load()
    with lock.held(staging.state_folder(here), "init", here.lock_wait_s):
        _check_folder(here)
        made = _make_password_file(here.password_file)
        try:
            restic_version(here)
            repository = Repository(here)
            version = repository.format_version()
            if version is None:
                repository.init()
        except BaseException as error:
            if made:
                made.unlink()
            if made and isinstance(error, WrongPassword):
                raise SetupError(
                    f"repository {here.repository_shown} is there, but its password file {made} is not",
                    "put the repository's own password into it",
                ) from error
            raise
    state = "was there already, nothing to do" if version else "made"
    console.log.info("repository %s: %s", here.repository_shown, state)
    if version == 1 and here.format == "pages":
        console.log.warning("%s; %s", NO_COMPRESSION, UPGRADE)
    if made:
        console.log.info("made password file %s", made)
        console.log.info("KEEP ITS CONTENT SOMEWHERE ELSE TOO: without it nobody can read the backups, ever")
    return 0


def _check_folder(here: Settings) -> None:
    # restic would make the whole path: on the root disk, where the volume is not mounted
    folder = here.local_repository
    if folder and not folder.parent.is_dir():
        raise SetupError(f"folder {folder.parent} is missing", "mount the backup volume, then run this again")


def _make_password_file(file: Path | None) -> Path | None:
    """A new file with a random password, mode 0600; None if there is one already."""
    if file is None or file.exists():
        return None
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SetupError(
            f"password file {file} cannot be made: {error.strerror}",
            "mount the backup volume; its folder must belong to the user that runs the backend",
        ) from error
    with open(descriptor, "w") as opened:
        opened.write(secrets.token_urlsafe(32) + "\n")
    return file


if __name__ == "__main__":
    console.run(main)
