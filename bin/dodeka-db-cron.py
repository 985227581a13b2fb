#!/usr/bin/python3
"""Take one snapshot of an environment's database, then apply the retention policy (make cron; what cron runs)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import cron
from dodeka_db.host import monitor


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 3, 5, 9, opens_repository=True)
    parser.add_argument(
        "environment",
        type=console.environment_name,
        nargs="?",
        default="production",
        help="production (the default) or demo",
    )
    arguments = parser.begin(argv)

    with monitor.told("cron", arguments.environment) as run:
        found = run.began(settings.load())
        run.summary = cron.run(found, found.environment(arguments.environment)).summary
    console.done(run.summary)
    return 0


if __name__ == "__main__":
    console.run(main)
