#!/usr/bin/python3
"""Take one snapshot of an environment's database now (make backup)."""

import time
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import OF_A_REPOSITORY
from dodeka_db.flows.backup import fail_if_defective, take_snapshot
from dodeka_db.flows.leftovers import fail_if_down, recover
from dodeka_db.host import run_lock, staging
from dodeka_db.restic.repository import Repository


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__, 3, 5, *OF_A_REPOSITORY)
    parser.add_argument("environment", type=console.environment_name, help="production or demo")
    arguments = parser.parse_args(argv)
    console.begin(arguments.environment)

    started = time.monotonic()
    here = settings.load()
    environment = here.environment(arguments.environment)
    with run_lock.held(staging.state_folder(here), f"backup of {environment.name}", here.lock_wait_s):
        repository = Repository(here)
        down = recover(here)
        with run_lock.beside(environment.live, here.lock_wait_s):
            taken = take_snapshot(here, repository, environment)
    console.log.info("done: %s, %.1f s", console.summary(taken), time.monotonic() - started)
    fail_if_down(down)
    fail_if_defective(taken, environment)
    return 0


if __name__ == "__main__":
    console.run(main)
