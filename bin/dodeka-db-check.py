#!/usr/bin/python3
"""Check the restic repository, and read a quarter of its data, a different quarter each time (make check)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import check
from dodeka_db.host import monitor


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__, opens_repository=True).begin(argv)

    with monitor.told("check") as run:
        check.run(run.began(settings.load()).main)
        run.summary = "no errors"
    console.done(run.summary)
    return 0


if __name__ == "__main__":
    console.run(main)
