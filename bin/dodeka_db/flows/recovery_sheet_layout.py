"""The recovery sheet as text and as HTML, for one page of A4."""

import html
from collections.abc import Sequence
from datetime import datetime

from dodeka_db.flows.recovery_sheet import Section
from dodeka_db.formatting import when

TITLE = "Recovery sheet: the databases of D.S.A.V. Dodeka"
# to be filled in by hand
BLANKS = ("passwords are kept by", "whom to call", "printed by, on")
STYLE = """
@page { size: A4; margin: 12mm 14mm }
body { font: 9pt/1.25 sans-serif; max-width: 182mm; margin: auto }
h1 { font-size: 14pt; margin: 0 } p { margin: 0 }
h2 { font-size: 10pt; margin: 3mm 0 0.8mm; border-bottom: 0.3mm solid #999 }
th { text-align: left; font-weight: normal; color: #444; width: 40mm; padding: 0; vertical-align: top }
td { overflow-wrap: anywhere; padding: 0 } table { border-collapse: collapse; width: 100% }
ol { margin: 0 0 0.8mm; padding-left: 6mm } li { margin: 0.2mm 0 }
code { font-size: 8pt; overflow-wrap: anywhere }
.blank { border-bottom: 0.3mm solid #444; height: 7mm }
"""


def as_text(sections: Sequence[Section]) -> list[str]:
    """The page in lines."""
    lines = [TITLE, _as_of()]
    for section in sections:
        lines += ["", section.title.upper()]
        lines += [f"{number:>3}  {command}" for number, command in enumerate(section.commands, start=1)]
        lines += [f"  {name:<24} {value}" for name, value in section.entries.items()]
    lines += ["", "BY HAND"]
    return lines + [f"  {name:<24} {'_' * 50}" for name in BLANKS]


def as_html(sections: Sequence[Section]) -> list[str]:
    """The page in lines of HTML, which needs nothing but itself."""
    lines = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">']
    lines += [f"<title>{TITLE}</title><style>", *STYLE.splitlines(), "</style></head><body>"]
    lines += [f"<h1>{TITLE}</h1>", f"<p>{_as_of()}</p>"]
    for section in sections:
        lines.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.commands:
            items = [f"<li><code>{html.escape(command)}</code></li>" for command in section.commands]
            lines += ["<ol>", *items, "</ol>"]
        if section.entries:
            rows = [
                f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
                for name, value in section.entries.items()
            ]
            lines += ["<table>", *rows, "</table>"]
    blanks = "".join(f'<tr><th>{name}</th><td class="blank"></td></tr>' for name in BLANKS)
    return [*lines, f"<h2>By hand</h2><table>{blanks}</table>", "</body></html>"]


def _as_of() -> str:
    return f"as of {when(datetime.now().astimezone())}"
