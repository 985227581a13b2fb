#!/usr/bin/python3
"""Make the password file and the restic repository where no snapshot yet (make init)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import init


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 7, opens_repository=True)
    console.offsite_option(parser)
    parser.add_argument("--yes", action="store_true", help="the answer to the question, given beforehand")
    arguments = parser.parse_args(argv)
    console.begin("both")

    found = settings.load()
    repository = found.repository(arguments.offsite)
    init.run(found, repository, lambda question: console.confirm(question, arguments.yes))
    return 0


if __name__ == "__main__":
    console.run(main)
