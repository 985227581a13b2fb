#!/usr/bin/python3
"""Run restic itself on the repository of the settings, with their password (make restic)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import MEANINGS
from dodeka_db.flows import restic
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    meanings = {**MEANINGS, 1: "restic failed; other exit codes are restic's own"}
    parser = console.parser(__doc__, offsite=True, meanings=meanings)
    parser.add_argument("words", help="restic's arguments in the shell's quoting: 'snapshots --tag env_demo'")
    arguments = parser.parse_args(argv)
    console.output_is_data()

    words = restic.words(arguments.words)
    found = settings.load()
    repository = found.repository(arguments.offsite)
    if restic.is_a_change(words):
        command = repository.masked(restic.command(words))
        history.started(found.main, "restic", f"{command} on {repository.shown}")
    restic.run(repository, words)


if __name__ == "__main__":
    console.run(main)
