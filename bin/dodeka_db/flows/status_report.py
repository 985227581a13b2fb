"""The lines of `make status` as text, as JSON, and for Prometheus."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from dodeka_db.flows.status_lines import FIGURES, Line, State, notes, overall
from dodeka_db.formatting import counted

NAMES = {State.WELL: "ok", State.NOTE: "note", State.BAD: "BAD", State.UNKNOWN: "?"}
SUMMARIES = {
    State.WELL: "All is well.",
    State.BAD: "Something needs attention.",
    State.UNKNOWN: "Some states are unknown.",
}


def as_text(lines: Sequence[Line]) -> list[str]:
    """One line each, with the next step below where there is one."""
    shown = [_summary(lines), ""]
    for line in lines:
        name = NAMES[line.look.state]
        shown.append(f"{name:<4} {line.environment:<11} {line.subject:<15} {line.look.text}".rstrip())
        if line.look.fix:
            shown.append(f"{'':<32} fix: {line.look.fix}")
    return shown


def as_one_line(lines: Sequence[Line]) -> str:
    """The summary, and the worst line with its next step."""
    worst, more = lines[0], sum(line.look.state in (State.BAD, State.UNKNOWN) for line in lines) - 1
    where = " ".join(filter(None, (worst.environment, worst.subject)))
    said = "; ".join(filter(None, (worst.look.text, worst.look.fix)))
    return f"make status: {_summary(lines)} {where}: {said}{f' (and {more} more)' if more > 0 else ''}"


def _summary(lines: Sequence[Line]) -> str:
    said, count = SUMMARIES[overall(lines)], notes(lines)
    if overall(lines) is State.WELL and count:
        return f"{said.removesuffix('.')}, with {counted(count, 'note')}."
    return said


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
    page = {"state": overall(lines).name.lower(), "notes": notes(lines), "time": now, "lines": described}
    return json.dumps(page, indent=2).splitlines()


def as_metrics(lines: Sequence[Line]) -> list[str]:
    """The text format of https://prometheus.io/docs/instrumenting/exposition_formats/."""
    meaning = "0: all is well, 1: something needs attention, 2: the state is unknown."
    shown = _metric("status", meaning, [("", overall(lines))])
    states = [(_labels(line, subject=line.subject), line.look.state) for line in lines]
    shown += _metric("line_status", "The same for each line of make status; 3: a note.", states)
    shown += _metric("notes", "Lines of make status that are notes.", [("", notes(lines))])
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
