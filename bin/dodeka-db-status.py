#!/usr/bin/python3
"""Show whether all is well, the worst first (make status)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import MEANINGS, BackupError, as_line
from dodeka_db.flows import status, status_report
from dodeka_db.flows.status_lines import State, overall

OWN_MEANINGS = {
    **{code: meaning for code, meaning in MEANINGS.items() if code > 128},
    0: "all is well",
    1: "something is bad",
    2: "the state is unknown, or the command line is not valid",
}


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, meanings=OWN_MEANINGS)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="for programs")
    formats.add_argument("--prometheus", action="store_true", help="for node_exporter's textfile collector")
    arguments = parser.parse_args(argv)
    console.output_is_data()

    try:
        lines = status.look(settings.load())
    except (BackupError, OSError) as error:
        failure = BackupError(as_line(error))
        failure.exit_code = State.UNKNOWN
        raise failure from error
    if arguments.json:
        console.show(*status_report.as_json(lines))
    elif arguments.prometheus:
        console.show(*status_report.as_metrics(lines))
    else:
        console.show(*status_report.as_text(lines))
    return overall(lines)


if __name__ == "__main__":
    console.run(main)
