#!/usr/bin/python3
"""List the snapshots of one environment or of all (make snapshots)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import oldest_copies, snapshot_table, snapshots


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, offsite=True)
    parser.add_argument(
        "environment", type=console.environment_name, nargs="?", help="production or demo; both if left out"
    )
    parser.add_argument("--json", action="store_true", help="for programs: a JSON array, the oldest first")
    parser.add_argument(
        "--all", action="store_true", help="fetch the snapshots whose rows are not on record, and count them"
    )
    parser.add_argument(
        "--ids",
        action="store_true",
        help="the IDs alone, as of the last listing, without a look into the repository",
    )
    arguments = parser.parse_args(argv)
    console.output_is_data()

    found, environment = settings.load().repository(arguments.offsite), arguments.environment
    if arguments.ids:
        console.show(*snapshots.last_ids(found, [environment] if environment else settings.ENVIRONMENTS))
        return 0
    listing = snapshots.listed(found, environment, arguments.all)
    if arguments.json:
        console.show(*snapshots.as_json(listing))
    else:
        environments = [environment] if environment else settings.ENVIRONMENTS
        console.show(*snapshot_table.as_tables(listing, environments))
        console.show(oldest_copies.line(listing.settings, listing.oldest))
    return 0


if __name__ == "__main__":
    console.run(main)
