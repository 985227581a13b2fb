"""How old the oldest copy of anything is, in both repositories: what the board tells a member who asks."""

from datetime import datetime

from dodeka_db.formatting import when
from dodeka_db.host import job_records
from dodeka_db.repository_settings import RepositorySettings

# the name of the off-site copy in the records
OFFSITE_JOB = "offsite"


def offsite(main: RepositorySettings) -> datetime | None:
    """The time of the oldest off-site snapshot, as the last copy of the repository of `main` found it; None if not known."""
    if main.copied_to is None:
        return None
    details = job_records.read(main.state, OFFSITE_JOB).details
    try:
        is_same = details.get("to") == main.copied_to.shown
        return datetime.fromisoformat(str(details["oldest"])) if is_same else None
    except (KeyError, ValueError):
        return None


def line(listed: RepositorySettings, oldest: datetime | None) -> str:
    """The line about both; `oldest` is the time of the oldest snapshot of the repository of `listed`, which was listed."""
    shown = when(oldest) if oldest else "none"
    if listed.is_offsite:
        return f"oldest copy: off-site {shown}"
    if listed.copied_to is None:
        return f"oldest copy: {shown}"
    there = offsite(listed)
    return f"oldest copy: main {shown}, off-site {when(there) if there else 'not known until make offsite'}"
