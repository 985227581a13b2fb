#!/usr/bin/python3
"""Copy the missing snapshots to the off-site repository (make offsite; what cron runs hourly)."""

import sys

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import offsite
from dodeka_db.host import monitor


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__, 4, opens_repository=True).begin(argv)

    with monitor.told("offsite") as run:
        found = run.began(settings.load())
        if found.offsite:
            run.summary = offsite.run(found).summary
    if run.summary:
        console.done(run.summary)
    elif sys.stdout.isatty():  # cron need not say so every hour
        console.show("OFFSITE_REPOSITORY is not set: nothing to copy to (BACKUP.md, 'Off-site')")
    return 0


if __name__ == "__main__":
    console.run(main)
