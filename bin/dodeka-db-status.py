#!/usr/bin/python3
"""Show whether all is well, the worst first (make status)."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import MEANINGS, BackupError, as_line
from dodeka_db.flows import status, status_page, status_report
from dodeka_db.flows.status_lines import State, overall
from dodeka_db.host import monitor
from dodeka_db.log import log

OWN_MEANINGS = {
    **{code: meaning for code, meaning in MEANINGS.items() if code > 128},
    0: "all is well, perhaps with notes",
    1: "something is bad",
    2: "the state is unknown, or the command line is not valid",
}
SIGNALS = {State.WELL: monitor.SUCCESS, State.BAD: monitor.FAILURE, State.UNKNOWN: monitor.LOG}


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__, meanings=OWN_MEANINGS)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="for programs")
    formats.add_argument("--prometheus", action="store_true", help="for node_exporter's textfile collector")
    formats.add_argument("--html", action="store_true", help="a page for people who do not read terminals")
    formats.add_argument(
        "--hourly",
        action="store_true",
        help="what cron runs: tell the monitor, write the page; print nothing if all is well",
    )
    arguments = parser.parse_args(argv)

    try:
        if arguments.hourly:
            return hourly()
        console.output_is_data()
        found = settings.load()
        lines = status.look(found)
        if arguments.html:
            shown = status_page.as_html(found, lines)
        elif arguments.json:
            shown = status_report.as_json(lines)
        elif arguments.prometheus:
            shown = status_report.as_metrics(lines)
        else:
            shown = status_report.as_text(lines)
    except (BackupError, OSError) as error:
        failure = BackupError(as_line(error))
        failure.exit_code = State.UNKNOWN
        raise failure from error
    console.show(*shown)
    return overall(lines)


def hourly() -> int:
    console.begin("both")
    with monitor.told("status") as run:
        found = run.began(settings.load())
        lines = status.look(found)
        state = overall(lines)
        run.signal, run.summary = SIGNALS[state], "\n".join(status_report.as_text(lines))
        status_page.publish(found, lines)  # a failure of it is told too
    if state is not State.WELL:
        log.warning("%s", status_report.as_one_line(lines))
    return state


if __name__ == "__main__":
    console.run(main)
