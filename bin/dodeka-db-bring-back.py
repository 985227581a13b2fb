#!/usr/bin/python3
"""Put rows that a snapshot has and the live database lacks back, while its service runs (make bring-back)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import addresses, bring_back
from dodeka_db.flows.bring_back_plan import Asked
from dodeka_db.host import history
from dodeka_db.restic.snapshots import LATEST


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 3, 4, 5, 7, environment=True, offsite=True, yes=True)
    console.snapshot_options(parser, left_out="latest if left out")
    parser.add_argument(
        "--who",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="only the rows of this member; also several addresses with commas, a file of addresses, or --who again",
    )
    parser.add_argument("--tables", metavar="NAMES", help="only these tables, with commas")
    parser.add_argument("--rows", action="store_true", help="name every row, member and conflict")
    arguments = parser.begin(argv)

    found = settings.load()
    asked = Asked(addresses.named(arguments.who), bring_back.table_names(arguments.tables))
    wanted = console.wanted_snapshot(arguments, LATEST)
    with history.recorded(found.main, "bring-back", arguments.environment) as deed:
        deed.about = bring_back.run(
            *(found, found.repository(arguments.offsite), found.environment(arguments.environment)),
            *(wanted, asked, arguments.rows),
            lambda preview: console.confirm(preview, arguments.yes),
        )
    console.done(deed.about)
    return 0


if __name__ == "__main__":
    console.run(main)
