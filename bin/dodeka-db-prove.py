#!/usr/bin/python3
"""Prove that what is on paper opens the off-site repository: it is asked for, and neither shown nor kept (make prove)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import prove
from dodeka_db.host import history, operator_name


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__, 4, 7, opens_repository=True).begin(argv)

    found = settings.load()
    paper = prove.read(console.ask_secret)
    who = console.ask_or("Your name, for the record", operator_name.of(found.main.variables))
    with history.recorded(found.main, "prove") as deed:
        deed.about = prove.run(found, paper, who)
    console.done(deed.about)
    return 0


if __name__ == "__main__":
    console.run(main)
