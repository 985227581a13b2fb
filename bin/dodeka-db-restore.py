#!/usr/bin/python3
"""Replace an environment's database by a snapshot (make restore)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import clones, restore, restore_question
from dodeka_db.flows.restore_question import Change
from dodeka_db.host import history


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, 3, 4, 5, 7, offsite=True)
    parser.add_argument(
        "environment", type=console.environment_name, help="the environment whose database is replaced"
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=console.environment_name,
        metavar="ENVIRONMENT",
        help="the environment whose snapshot is restored (default: the same one)",
    )
    console.snapshot_options(parser, left_out="asked for if left out")
    parser.add_argument(
        "--without",
        default="",
        metavar="TABLES",
        help="tables whose rows are left out, such as outbox,session_cache: only those of the moment, by deploy/data.toml",
    )
    parser.add_argument(
        "--clone",
        choices=settings.CLONES,
        help="what a clone (--from) brings along: no mails, sessions or codes; made-up people; or all (default: DODEKA_CLONE)",
    )
    console.erased_option(parser)
    parser.add_argument(
        "--yes", action="store_true", help="do not ask for a 'yes'; a whole clone asks all the same"
    )
    arguments = parser.begin(argv)

    found = settings.load()
    without = restore.tables_to_leave_out(arguments.without)
    repository = found.repository(arguments.offsite)
    source = arguments.source or arguments.environment
    wanted = console.wanted_snapshot(arguments, None)
    clone = clones.kind(found, arguments.environment, source, arguments.clone)
    all_members = console.ignores_erasures(arguments)
    choice = restore.choose(repository, source, wanted, lambda question: console.ask(*question), all_members)
    with history.recorded(
        *(found.main, "clone" if clone else "restore", arguments.environment),
        f"snapshot {choice.snapshot.short_id}",
    ) as deed:

        def confirm(change: Change) -> None:
            deed.about = f"{change.shown}{console.with_erased(arguments)}"
            console.confirm(restore_question.describe(change), arguments.yes, change.words)

        restore.restore(found, found.environment(arguments.environment), choice, confirm, without, clone)
    return 0


if __name__ == "__main__":
    console.run(main)
