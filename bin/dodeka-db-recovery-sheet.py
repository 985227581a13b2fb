#!/usr/bin/python3
"""Print the one page to keep on paper, as text or HTML (make recovery-sheet). It contains no password."""

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console, settings
from dodeka_db.flows import recovery_sheet, recovery_sheet_layout


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__)
    parser.add_argument(
        "--html", action="store_true", help="for a browser, which prints it or saves it as PDF"
    )
    arguments = parser.parse_args(argv)
    console.output_is_data()

    layout = recovery_sheet_layout.as_html if arguments.html else recovery_sheet_layout.as_text
    console.show(*layout(recovery_sheet.sections(settings.load())))
    return 0


if __name__ == "__main__":
    console.run(main)
