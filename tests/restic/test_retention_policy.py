"""retention_policy: what is kept at which age, by restic itself."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from dodeka_db.restic import retention_policy
from dodeka_db.restic.snapshots import tags_of
from site_folder import ROOT, Site

NOW = datetime(2026, 11, 24, 14)


@pytest.mark.slow("fifty snapshots")
def test_the_picture_in_backup_md_is_what_the_policy_keeps(site: Site):
    """Runs of a day, of the older hours the last two; then what `restic forget` with the policy leaves of them at 14:00."""
    shown = re.search(r"```\nyesterday.*?```", (ROOT / "BACKUP.md").read_text(), re.DOTALL)[0].splitlines()[2]
    every = (NOW - timedelta(minutes=12 * number) for number in range(5 * 23 + 1))
    times = [time for time in every if (time.date() == NOW.date() and time.hour >= 11) or time.minute >= 36]

    def store(time: datetime) -> None:
        tags = ",".join(tags_of("production"))
        named = ("--stdin", "--stdin-filename", "dodeka-production.sqlite", "--tag", tags)
        site.restic("backup", *named, "--time", f"{time:%Y-%m-%d %H:%M:%S}", input="x")

    with ThreadPoolExecutor(8) as several:
        list(several.map(store, times))
    site.restic("forget", "--group-by", "tags", *retention_policy.options())
    listed = json.loads(site.restic("snapshots", "--json").stdout)
    kept = sorted(datetime.fromisoformat(one["time"][:19]) for one in listed)
    told = [f"{time:%H:%M}" for time in kept]
    pictured = re.findall(r"\d\d:\d\d|\.\.\.", shown)
    # the picture leaves some out, never one between two that stand side by side
    at = told.index(pictured[0]) - 1
    for before, time in zip(["", *pictured], pictured, strict=False):
        if time == "...":
            continue
        here = told.index(time)
        assert here == at + 1 or before == "...", time
        at = here
    assert pictured[-1] == told[-1] == "14:00"
    assert "02:48" in told
    assert not [time for time in kept if time.hour == 3 and time.date() == NOW.date() and time.minute < 48]
