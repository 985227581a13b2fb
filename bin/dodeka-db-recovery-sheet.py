#!/usr/bin/python3
"""Print the one page to keep on paper, as text or HTML (make recovery-sheet). It holds no secret."""

import html
from collections.abc import Sequence

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import recovery_sheet
from dodeka_db.flows.recovery_sheet import Section

TITLE = "Recovery sheet: the databases of D.S.A.V. Dodeka"
# to be filled in by hand
BLANKS = ("the passwords are kept by", "whom to call", "printed by, on")
STYLE = """
@page { size: A4; margin: 15mm }
body { font: 9.5pt sans-serif; max-width: 180mm; margin: auto }
h1 { font-size: 14pt } h2 { font-size: 10.5pt; margin: 3.5mm 0 1mm }
th { text-align: left; font-weight: normal; color: #444; padding-right: 5mm; white-space: nowrap; vertical-align: top }
td { overflow-wrap: anywhere } table { border-collapse: collapse }
pre { font-size: 8pt; white-space: pre-wrap; background: #f3f3f3; padding: 2mm; margin: 0 }
.blank { border-bottom: 1px solid #444; width: 100mm; height: 7mm }
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__)
    parser.add_argument(
        "--html", action="store_true", help="for a browser, which prints it or saves it as PDF"
    )
    arguments = parser.parse_args(argv)
    console.output_is_data()

    sections = recovery_sheet.sections(settings.load())
    console.show(*(_as_html(sections) if arguments.html else _as_text(sections)))
    return 0


def _as_text(sections: Sequence[Section]) -> list[str]:
    lines = [TITLE, f"as of {recovery_sheet.now()}"]
    for section in sections:
        lines += ["", section.title.upper()]
        lines += [f"  {name:<24} {value}" for name, value in section.entries.items()]
        lines += [f"  {line}" for line in section.commands]
    lines += ["", "BY HAND"]
    return lines + [f"  {name:<26} {'_' * 50}" for name in BLANKS]


def _as_html(sections: Sequence[Section]) -> list[str]:
    lines = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">']
    lines += [f"<title>{TITLE}</title><style>", *STYLE.splitlines(), "</style></head><body>"]
    lines += [f"<h1>{TITLE}</h1>", f"<p>as of {recovery_sheet.now()}</p>"]
    for section in sections:
        lines.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.entries:
            rows = [
                f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
                for name, value in section.entries.items()
            ]
            lines += ["<table>", *rows, "</table>"]
        if section.commands:
            lines += ["<pre>", *map(html.escape, section.commands), "</pre>"]
    blanks = "".join(f'<tr><th>{name}</th><td class="blank"></td></tr>' for name in BLANKS)
    return [*lines, f"<h2>By hand</h2><table>{blanks}</table>", "</body></html>"]


if __name__ == "__main__":
    console.run(main)
