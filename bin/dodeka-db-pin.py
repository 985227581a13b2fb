#!/usr/bin/python3
"""Keep a snapshot whatever the retention policy says (make pin)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import pins


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 4, opens_repository=True)
    parser.add_argument("environment", type=console.environment_name, help="production or demo")
    parser.add_argument("snapshot", metavar="ID", help="an ID, 'latest' or 'latest~2'")
    parser.add_argument("--note", metavar="TEXT", default="", help="why, in a few words")
    arguments = parser.parse_args(argv)
    console.begin(arguments.environment)

    found = settings.load()
    console.done(pins.pin(found.main, arguments.environment, arguments.snapshot, arguments.note))
    return 0


if __name__ == "__main__":
    console.run(main)
