#!/usr/bin/python3
"""Copy the snapshots that are missing to the off-site repository (make offsite; what cron runs hourly)."""

import sys
import time
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import OF_A_REPOSITORY
from dodeka_db.flows import offsite


def main(argv: Sequence[str] | None = None) -> int:
    console.parser(__doc__, 4, *OF_A_REPOSITORY).parse_args(argv)
    console.begin("both")

    started = time.monotonic()
    here = settings.load()
    if here.offsite is None:  # cron need not say so every hour
        if sys.stdout.isatty():
            console.show("OFFSITE_REPOSITORY is not set: nothing to copy to (BACKUP.md, 'Off-site')")
        return 0
    done = offsite.run(here)
    console.log.info(
        "done: %d snapshots copied, %s read back, %s, what is there %s be removed from here, %.1f s",
        done.copied,
        " and ".join(f"{snapshot.short_id} of {snapshot.environment}" for snapshot in done.read_back)
        or "none",
        "retention left to the server" if done.removed is None else f"{done.removed} old ones removed",
        "can" if done.is_removable else "cannot",
        time.monotonic() - started,
    )
    return 0


if __name__ == "__main__":
    console.run(main)
