#!/usr/bin/python3
"""Put back the database that the last restore of an environment replaced (make undo)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import restore, restore_question
from dodeka_db.flows.restore_question import Change
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 3, 4, 5, 7, opens_repository=True, environment=True, yes=True)
    console.erased_option(parser)
    arguments = parser.begin(argv)

    found = settings.load()
    all_members = console.ignores_erasures(arguments)
    with history.recorded(found.main, "undo", arguments.environment) as deed:

        def confirm(change: Change) -> None:
            deed.about = f"{change.shown}{console.with_erased(arguments)}"
            console.confirm(restore_question.describe(change), arguments.yes)

        restore.undo(found, found.environment(arguments.environment), confirm, all_members)
    return 0


if __name__ == "__main__":
    console.run(main)
