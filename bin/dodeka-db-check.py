#!/usr/bin/python3
"""Check the restic repository, and read a quarter of its data, a different quarter each time (make check)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import check


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__, opens_repository=True).parse_args(argv)
    console.begin("both")

    check.run(settings.load().main)
    console.done("no errors")
    return 0


if __name__ == "__main__":
    console.run(main)
