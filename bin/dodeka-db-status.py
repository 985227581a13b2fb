#!/usr/bin/python3
"""Say whether all is well, the worst first (make status)."""

import json
from collections.abc import Sequence
from datetime import datetime

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.errors import MEANINGS, BackupError, as_line
from dodeka_db.flows import status
from dodeka_db.flows.status import Line, State

NAMES = {State.WELL: "ok", State.BAD: "BAD", State.UNKNOWN: "?"}
SUMMARIES = {
    State.WELL: "All is well.",
    State.BAD: "Something needs attention.",
    State.UNKNOWN: "Not everything can be told.",
}
OWN_MEANINGS = {
    **{code: meaning for code, meaning in MEANINGS.items() if code > 128},
    0: "all is well",
    1: "something is bad",
    2: "it cannot be told, or the command line makes no sense",
}


def main(argv: Sequence[str] | None = None) -> int:
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
    overall = status.overall(lines)
    if arguments.json:
        console.show(*_as_json(lines, overall))
    elif arguments.prometheus:
        console.show(*_as_metrics(lines, overall))
    else:
        console.show(*_as_text(lines, overall))
    return overall


def _as_text(lines: Sequence[Line], overall: State) -> list[str]:
    shown = [SUMMARIES[overall], ""]
    for line in lines:
        shown.append(f"{NAMES[line.state]:<4} {line.environment:<11} {line.subject:<15} {line.text}".rstrip())
        if line.fix:
            shown.append(f"{'':<32} fix: {line.fix}")
    return shown


def _as_json(lines: Sequence[Line], overall: State) -> list[str]:
    described = [
        {
            "state": line.state.name.lower(),
            "environment": line.environment or None,
            "subject": line.subject,
            "text": line.text,
            "fix": line.fix or None,
            **line.figures,
        }
        for line in lines
    ]
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    page = {"state": overall.name.lower(), "time": now, "lines": described}
    return json.dumps(page, indent=2).splitlines()


def _as_metrics(lines: Sequence[Line], overall: State) -> list[str]:
    """The text format of https://prometheus.io/docs/instrumenting/exposition_formats/."""
    shown = _metric(
        "status", "0: all is well, 1: something needs attention, 2: cannot tell.", [("", overall)]
    )
    states = [(_labels(line, subject=line.subject), line.state) for line in lines]
    shown += _metric("line_status", "The same for each line of make status.", states)
    for name, meaning in status.FIGURES.items():
        values = [(_labels(line), line.figures[name]) for line in lines if name in line.figures]
        if values:
            shown += _metric(name, meaning, values)
    return shown


def _labels(line: Line, **more: str) -> str:
    labels = {"environment": line.environment, **more} if line.environment else more
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


def _metric(name: str, meaning: str, values: Sequence[tuple[str, float]]) -> list[str]:
    name = f"dodeka_backup_{name}"
    head = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    return head + [f"{name}{labels} {float(value):.15g}" for labels, value in sorted(values)]


if __name__ == "__main__":
    console.run(main)
