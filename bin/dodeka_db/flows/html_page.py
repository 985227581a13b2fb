"""Pages in HTML, from the templates beside this file: everything that is put into one is printable, and escaped."""

from pathlib import Path

from dodeka_db import packages
from dodeka_db.errors import plain


def render(template: str, **values: object) -> list[str]:
    """The lines of the page that `template`, the name of a file in templates/, makes of `values`. SetupError without Jinja2."""
    jinja2 = packages.load("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=lambda value: plain(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template(template).render(values)).split("\n")
