#!/usr/bin/python3
"""Look into a snapshot with sqlite3 (make open): a checked copy, read-only, removed at the end."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import open_snapshot
from dodeka_db.restic.snapshots import LATEST


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 4, environment=True, offsite=True)
    console.snapshot_options(parser, left_out="latest if left out")
    parser.add_argument(
        "--file", metavar="PATH", help="keep the copy as this new file (0600), and do not start sqlite3"
    )
    arguments = parser.begin(argv)

    found = settings.load()
    environment = found.environment(arguments.environment)
    wanted = console.wanted_snapshot(arguments, LATEST)
    repository = found.repository(arguments.offsite)
    if arguments.file is not None:
        console.done(open_snapshot.keep(repository, environment, wanted, arguments.file))
        return 0
    console.output_is_data()
    open_snapshot.with_sqlite3(repository, environment, wanted)
    return 0


if __name__ == "__main__":
    console.run(main)
