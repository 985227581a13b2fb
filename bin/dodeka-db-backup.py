#!/usr/bin/python3
"""Take one snapshot of an environment's database now (make backup)."""

from contextlib import nullcontext

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import backup
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 3, 5, 9, opens_repository=True, environment=True)
    parser.add_argument(
        "--note",
        metavar="TEXT",
        help="what it is for, in a few words: the retention policy never removes it then",
    )
    arguments = parser.begin(argv)

    found = settings.load()
    pinning = history.recorded(found.main, "backup", arguments.environment, f"pinned: {arguments.note}")
    with nullcontext() if arguments.note is None else pinning:
        taken = backup.run(found, found.environment(arguments.environment), arguments.note)
    console.done(taken.summary if arguments.note is None else f"{taken.summary}, pinned")
    return 0


if __name__ == "__main__":
    console.run(main)
