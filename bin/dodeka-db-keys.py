#!/usr/bin/python3
"""List who can open the repository (make keys)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import keys


def main(argv: console.Argv = None) -> int:
    arguments = console.parser(__doc__, offsite=True).parse_args(argv)
    console.output_is_data()

    console.show(*keys.table(settings.load().repository(arguments.offsite)))
    return 0


if __name__ == "__main__":
    console.run(main)
