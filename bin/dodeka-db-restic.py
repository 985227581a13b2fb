#!/usr/bin/python3
"""Run restic itself on the repository of the settings, with their password (make restic)."""

import os
import shlex
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import MEANINGS, OF_A_REPOSITORY, UsageError
from dodeka_db.flows import offsite
from dodeka_db.host import staging
from dodeka_db.restic import runner
from dodeka_db.restic.repository import Repository


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(
        __doc__, *OF_A_REPOSITORY, meanings={**MEANINGS, 1: "restic failed; its other codes are its own"}
    )
    parser.add_argument("words", help="restic's arguments in the shell's quoting: 'snapshots --tag env_demo'")
    console.offsite_option(parser)
    arguments = parser.parse_args(argv)
    console.output_is_data()
    try:
        words = shlex.split(arguments.words)
    except ValueError as error:
        raise UsageError("ARGS has a quote that does not end", "make restic ARGS='snapshots'") from error
    if not words:
        raise UsageError("restic is told nothing to do", "make restic ARGS='snapshots'")

    here = settings.load()
    here = offsite.of(here) if arguments.offsite else here
    Repository(here)  # is the password file for us alone, and the repository ours?
    runner.version(here)
    staging.state_folder(here)  # where restic's temporary files go
    options = [f"--option={one}" for one in here.options]
    os.execvpe(here.restic, [here.restic, *options, *words], here.for_restic)


if __name__ == "__main__":
    console.run(main)
