#!/usr/bin/python3
"""List who can open the repository (make keys)."""

from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import OF_A_REPOSITORY
from dodeka_db.flows import offsite
from dodeka_db.restic.repository import Repository


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__, *OF_A_REPOSITORY)
    console.offsite_option(parser)
    arguments = parser.parse_args(argv)
    console.output_is_data()

    here = settings.load()
    console.show(*console.key_table(Repository(offsite.of(here) if arguments.offsite else here).keys()))
    return 0


if __name__ == "__main__":
    console.run(main)
