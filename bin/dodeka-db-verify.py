#!/usr/bin/python3
"""Prove that a snapshot is a whole database, without touching the live one (make verify): the drill."""

import time
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import OF_A_REPOSITORY
from dodeka_db.flows import offsite, verify


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__, 4, *OF_A_REPOSITORY)
    parser.add_argument("environment", type=console.environment_name, help="production or demo")
    parser.add_argument(
        "--snapshot", metavar="ID", default=verify.NEWEST, help="an ID, or 'latest' (the default)"
    )
    console.offsite_option(parser)
    arguments = parser.parse_args(argv)
    console.begin(arguments.environment)

    started = time.monotonic()
    here = settings.load()
    if arguments.offsite:
        here = offsite.of(here)
    environment = here.environment(arguments.environment)
    snapshot = verify.run(here, environment, arguments.snapshot)
    console.log.info(
        "done: snapshot %s (%s) of %s is a whole database, %.1f s",
        snapshot.short_id,
        snapshot.format,
        console.when(snapshot.time),
        time.monotonic() - started,
    )
    return 0


if __name__ == "__main__":
    console.run(main)
