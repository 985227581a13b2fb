#!/usr/bin/python3
"""Say that a loss of rows was meant, so that runs no longer fail because of it (make accept)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import row_loss


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 75)
    parser.add_argument("environment", type=console.environment_name, help="production or demo")
    arguments = parser.parse_args(argv)
    console.begin(arguments.environment)

    found = settings.load()
    console.done(row_loss.accept(found, found.environment(arguments.environment)))
    return 0


if __name__ == "__main__":
    console.run(main)
