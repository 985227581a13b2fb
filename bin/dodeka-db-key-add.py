#!/usr/bin/python3
"""Add a key for a new maintainer, and prove it by a drill with that key alone (make key-add)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import keys
from dodeka_db.host import history
from dodeka_db.log import log


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 4, offsite=True)
    parser.add_argument("name", help="who gets the key")
    arguments = parser.begin(argv)

    found = settings.load()
    repository = found.repository(arguments.offsite)
    with history.recorded(found.main, "key-add", about=f"for {arguments.name} to {repository.shown}"):
        key, file = keys.add(repository, arguments.name)
    log.info("done: key %s of %s opens the repository", key.short_id, key.name)
    log.info("its password is in %s: HAND IT OVER, THEN REMOVE THE FILE", file)
    return 0


if __name__ == "__main__":
    console.run(main)
