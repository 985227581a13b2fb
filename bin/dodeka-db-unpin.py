#!/usr/bin/python3
"""Let the retention policy decide about a pinned snapshot again (make unpin)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import pins
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 4, opens_repository=True, environment=True)
    parser.add_argument("snapshot", metavar="ID", help="an ID, 'latest' or 'latest~2'")
    arguments = parser.begin(argv)

    found = settings.load()
    with history.recorded(found.main, "unpin", arguments.environment) as deed:
        deed.about = pins.unpin(found.main, arguments.environment, arguments.snapshot)
    console.done(deed.about)
    return 0


if __name__ == "__main__":
    console.run(main)
