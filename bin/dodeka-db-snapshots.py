#!/usr/bin/python3
"""List the snapshots of one environment or of all (make snapshots)."""

import json
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import OF_A_REPOSITORY
from dodeka_db.flows import offsite
from dodeka_db.restic.repository import Repository, Snapshot


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__, *OF_A_REPOSITORY)
    parser.add_argument(
        "environment", type=console.environment_name, nargs="?", help="production or demo; both if left out"
    )
    parser.add_argument("--json", action="store_true", help="for programs: a JSON array, the oldest first")
    console.offsite_option(parser)
    arguments = parser.parse_args(argv)
    console.output_is_data()

    here = settings.load()
    repository = Repository(offsite.of(here) if arguments.offsite else here)
    snapshots = [
        snapshot
        for snapshot in repository.snapshots()
        if arguments.environment in (None, snapshot.environment)
    ]
    sizes = repository.sizes(snapshots)
    if arguments.json:
        described = [_as_json(snapshot, sizes.get(snapshot.id)) for snapshot in snapshots]
        console.show(*json.dumps(described, indent=2).splitlines())
    else:
        console.show(*console.table(snapshots, sizes))
    return 0


def _as_json(snapshot: Snapshot, size: int | None) -> dict[str, object]:
    return {
        **vars(snapshot),
        "stored_bytes": size,
        "short_id": snapshot.short_id,
        "format": snapshot.format,
        "time": snapshot.time.isoformat(),
    }


if __name__ == "__main__":
    console.run(main)
