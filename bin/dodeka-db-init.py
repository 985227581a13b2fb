#!/usr/bin/python3
"""Create the password file and the restic repository, if they do not exist yet (make init)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import init
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 7, offsite=True)
    parser.add_argument("--yes", action="store_true", help="answer yes to the question")
    arguments = parser.begin(argv)

    found = settings.load()
    repository = found.repository(arguments.offsite)
    with history.recorded(found.main, "init", about=repository.shown):
        init.run(found, repository, lambda question: console.confirm(question, arguments.yes))
    return 0


if __name__ == "__main__":
    console.run(main)
