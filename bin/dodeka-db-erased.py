#!/usr/bin/python3
"""Write down that members were erased, so that no older snapshot brings them back (make erased)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import addresses, erased
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 4, 7, environment=True, offsite=True, yes=True)
    parser.add_argument(
        "--who",
        action="append",
        required=True,
        metavar="ADDRESS",
        help="the address of a member; also several with commas, a file of addresses, or --who again",
    )
    arguments = parser.begin(argv)

    found = settings.load()
    who = addresses.named(arguments.who)
    with history.recorded(found.main, "erasure", arguments.environment) as deed:
        deed.about = erased.run(
            *(found, found.repository(arguments.offsite), found.environment(arguments.environment)),
            who,
            lambda question: console.confirm(question, arguments.yes),
        )
    console.done(deed.about)
    return 0


if __name__ == "__main__":
    console.run(main)
