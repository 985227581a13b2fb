#!/usr/bin/python3
"""Remove somebody's key, but never the last one or the one in use (make key-remove)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import keys
from dodeka_db.host import history
from dodeka_db.log import log


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, offsite=True)
    parser.add_argument("name", help="the name or the ID of the key")
    arguments = parser.begin(argv)

    found = settings.load()
    repository = found.repository(arguments.offsite)
    with history.recorded(found.main, "key-remove", about=f"of {arguments.name} from {repository.shown}"):
        key = keys.remove(repository, arguments.name)
    log.info("done: key %s of %s no longer opens the repository", key.short_id, key.name)
    return 0


if __name__ == "__main__":
    console.run(main)
