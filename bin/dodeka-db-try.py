#!/usr/bin/python3
"""Run the main commands for real, in sandbox/: back up, lose data, restore, clone, undo (make try)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console
from dodeka_db.flows import sandbox


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__).parse_args(argv)
    sandbox.run()
    return 0


if __name__ == "__main__":
    console.run(main)
