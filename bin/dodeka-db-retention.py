#!/usr/bin/python3
"""Show what the next run would keep and remove, and why; nothing is removed (make retention)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import retention
from dodeka_db.restic.repository import Repository


def main(argv: console.Argv = None) -> int:
    arguments = console.parser(__doc__, environment=True, offsite=True).parse_args(argv)
    console.output_is_data()

    found = settings.load()
    repository = Repository(found.repository(arguments.offsite))
    console.show(*retention.preview(repository, found.environment(arguments.environment)))
    return 0


if __name__ == "__main__":
    console.run(main)
