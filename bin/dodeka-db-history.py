#!/usr/bin/python3
"""Show who restored, cloned, brought back, pinned, gave keys, and so on, and how it ended (make history)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__)
    parser.add_argument(
        "environment", type=console.environment_name, nargs="?", help="production or demo; all if left out"
    )
    arguments = parser.parse_args(argv)
    console.output_is_data()

    console.show(*history.lines(settings.load().main.state, arguments.environment))
    return 0


if __name__ == "__main__":
    console.run(main)
