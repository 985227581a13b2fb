"""The recovery sheet as text and as HTML, for one page of A4."""

from collections.abc import Sequence
from datetime import datetime

from dodeka_db.flows import html_page
from dodeka_db.flows.recovery_sheet import Section
from dodeka_db.formatting import when

TITLE = "Recovery sheet: the databases of D.S.A.V. Dodeka"
# to be filled in by hand
BLANKS = ("passwords are kept by", "whom to call", "printed by, on")


def as_text(sections: Sequence[Section]) -> list[str]:
    lines = [TITLE, _as_of()]
    for section in sections:
        lines += ["", section.title.upper()]
        lines += [f"{number:>3}  {command}" for number, command in enumerate(section.commands, start=1)]
        lines += [f"  {name:<24} {value}" for name, value in section.entries.items()]
    lines += ["", "BY HAND"]
    return lines + [f"  {name:<24} {'_' * 50}" for name in BLANKS]


def as_html(sections: Sequence[Section]) -> list[str]:
    """The page in lines of HTML, which needs nothing but itself. SetupError without Jinja2."""
    return html_page.render(
        "recovery_sheet.html", title=TITLE, as_of=_as_of(), sections=sections, blanks=BLANKS
    )


def _as_of() -> str:
    return f"as of {when(datetime.now().astimezone())}"
