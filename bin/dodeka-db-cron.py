#!/usr/bin/python3
"""Take one snapshot of an environment's database, then apply the retention policy (make cron; what cron runs)."""

import sys
import time
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, lock, settings, staging
from dodeka_db.backup import take_snapshot
from dodeka_db.recovery import recover
from dodeka_db.repository import Repository


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__)
    parser.add_argument(
        "environment",
        type=console.environment_name,
        nargs="?",
        default="production",
        help="production (the default) or demo",
    )
    arguments = parser.parse_args(argv)
    console.begin(arguments.environment)

    started = time.monotonic()
    here = settings.load()
    environment = here.environment(arguments.environment)
    repository = Repository(here)
    with lock.held(staging.state_folder(here), f"cron run of {environment.name}", here.lock_wait_s):
        recover(here)
        taken = take_snapshot(here, repository, environment)
        console.log.info("snapshot %s is stored; applying the retention policy", taken.snapshot_id)
        removed = repository.forget(environment)
    console.log.info(
        "done: snapshot %s, %s exported, repository grew by %s, %d old snapshots removed, %.1f s",
        taken.snapshot_id,
        console.size(taken.exported_bytes),
        console.size(taken.added_bytes),
        removed,
        time.monotonic() - started,
    )
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
