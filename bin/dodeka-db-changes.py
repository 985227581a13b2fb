#!/usr/bin/python3
"""Show what differs between a snapshot and the live database, or another snapshot (make changes). Nothing is changed."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import changes
from dodeka_db.restic.snapshots import LATEST


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 3, 4, environment=True, offsite=True)
    console.snapshot_options(parser, left_out="latest if left out")
    parser.add_argument(
        "--to",
        metavar="ID|TIME",
        default="",
        help="the snapshot to compare it with, an ID, 'latest', 'latest~2' or a time; the live database if left out",
    )
    parser.add_argument("--rows", action="store_true", help="name the rows too, and the fields that differ")
    arguments = parser.begin(argv)

    found = settings.load()
    environment = found.environment(arguments.environment)
    wanted = console.wanted_snapshot(arguments, LATEST)
    other = console.snapshot_or_time(arguments.to)
    report = changes.run(found.repository(arguments.offsite), environment, wanted, other, arguments.rows)
    console.show(*report.lines)
    console.done(report.summary)
    return 0


if __name__ == "__main__":
    console.run(main)
