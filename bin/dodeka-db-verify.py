#!/usr/bin/python3
"""Prove that a snapshot is a whole database, without touching the live one (make verify): the drill."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import verify
from dodeka_db.host import monitor
from dodeka_db.restic.snapshots import LATEST


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 4, environment=True, offsite=True)
    console.snapshot_options(parser, left_out="latest if left out")
    arguments = parser.begin(argv)

    wanted = console.wanted_snapshot(arguments, LATEST)
    is_drill = wanted == LATEST and not arguments.offsite  # another one says nothing about today's backups
    with monitor.told("drill", arguments.environment, is_told=is_drill) as run:
        found = run.began(settings.load())
        environment = found.environment(arguments.environment)
        run.summary = verify.run(found.repository(arguments.offsite), environment, wanted)
    console.done(run.summary)
    return 0


if __name__ == "__main__":
    console.run(main)
