"""The lines of `make status` as text, as JSON, and for Prometheus."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from dodeka_db.flows.status_lines import FIGURES, Line, State, overall

NAMES = {State.WELL: "ok", State.BAD: "BAD", State.UNKNOWN: "?"}
SUMMARIES = {
    State.WELL: "All is well.",
    State.BAD: "Something needs attention.",
    State.UNKNOWN: "Some states are unknown.",
}


def as_text(lines: Sequence[Line]) -> list[str]:
    """One line each, with the fix below where something is bad."""
    shown = [SUMMARIES[overall(lines)], ""]
    for line in lines:
        name = NAMES[line.look.state]
        shown.append(f"{name:<4} {line.environment:<11} {line.subject:<15} {line.look.text}".rstrip())
        if line.look.fix:
            shown.append(f"{'':<32} fix: {line.look.fix}")
    return shown


def as_json(lines: Sequence[Line]) -> list[str]:
    """One object: the state of all, when that was, and the lines."""
    described = [
        {
            "state": line.look.state.name.lower(),
            "environment": line.environment or None,
            "subject": line.subject,
            "text": line.look.text,
            "fix": line.look.fix or None,
            **line.look.figures,
        }
        for line in lines
    ]
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    page = {"state": overall(lines).name.lower(), "time": now, "lines": described}
    return json.dumps(page, indent=2).splitlines()


def as_metrics(lines: Sequence[Line]) -> list[str]:
    """The text format of https://prometheus.io/docs/instrumenting/exposition_formats/."""
    meaning = "0: all is well, 1: something needs attention, 2: the state is unknown."
    shown = _metric("status", meaning, [("", overall(lines))])
    states = [(_labels(line, subject=line.subject), line.look.state) for line in lines]
    shown += _metric("line_status", "The same for each line of make status.", states)
    for name, meaning in FIGURES.items():
        values = [(_labels(line), line.look.figures[name]) for line in lines if name in line.look.figures]
        if values:
            shown += _metric(name, meaning, values)
    return shown


def _labels(line: Line, **more: str) -> str:
    labels = {"environment": line.environment, **more} if line.environment else more
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


def _metric(name: str, meaning: str, values: Iterable[tuple[str, float]]) -> list[str]:
    name = f"dodeka_backup_{name}"
    head = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    return head + [f"{name}{labels} {float(value):.15g}" for labels, value in sorted(values)]
