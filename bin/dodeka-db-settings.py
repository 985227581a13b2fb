#!/usr/bin/python3
"""List every setting: its value in force, without secrets, and where it was set (make settings)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.formatting import columns


def main(argv: console.Argv = None) -> int:
    console.parser(__doc__).parse_args(argv)
    console.output_is_data()

    console.show(*columns([("Setting", "Value", "From"), *settings.load().in_force()], "<<<"))
    return 0


if __name__ == "__main__":
    console.run(main)
