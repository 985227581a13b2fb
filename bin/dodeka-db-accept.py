#!/usr/bin/python3
"""Say that a loss of rows was meant, so that runs no longer fail because of it (make accept)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import row_loss
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    arguments = console.parser(__doc__, 75, environment=True).begin(argv)

    found = settings.load()
    with history.recorded(found.main, "accept", arguments.environment) as deed:
        deed.about = row_loss.accept(found, found.environment(arguments.environment))
    console.done(deed.about)
    return 0


if __name__ == "__main__":
    console.run(main)
