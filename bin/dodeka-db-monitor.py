#!/usr/bin/python3
"""Send a test to the monitor for each job, and show what it answers (make monitor)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import monitor


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__).begin(argv)

    answers = monitor.run(settings.load())
    console.show(*monitor.table(answers))
    console.done(monitor.summary(answers))
    return 0


if __name__ == "__main__":
    console.run(main)
