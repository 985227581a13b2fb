"""Snapshots of the shell scripts and ours, each restored by the other's means."""

import re
import subprocess

import pytest

from dodeka_db.sqlite import sample_data
from site_folder import RESTIC

# the documented pipeline, as an operator would type it
BY_HAND = """
set -eu
d=$(mktemp -d)
sqlite3 "$DB" "VACUUM INTO '$d/dodeka-production.sqlite'"
zstd -q --rsyncable "$d/dodeka-production.sqlite" -o "$d/dodeka-production.sqlite.zst"
rm "$d/dodeka-production.sqlite"
"$RESTIC" backup --quiet --tag db,db_sqlite,db_dodeka,env_production "$d/dodeka-production.sqlite.zst"
rm -r "$d"
"""


def by_hand(site, script: str) -> str:
    return subprocess.run(
        ["sh", "-c", script],
        env={**site.environ, "DB": str(site.database()), "RESTIC": RESTIC, "OUT": str(site.folder / "out")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_snapshot_of_the_shell_scripts_is_listed_and_restored(site):
    before = sample_data.digest(site.database())
    by_hand(site, BY_HAND)
    (listed,) = site.snapshots("production")
    assert listed["path"].startswith("/tmp/tmp.") and listed["path"].endswith("/dodeka-production.sqlite.zst")
    site.database().unlink()
    sample_data.create(site.database(), members=3, seed=7)
    site.ok("restore", "production", "--snapshot", listed["short_id"], "--yes")
    assert sample_data.digest(site.database()) == before


def test_ours_is_restored_with_restic_and_zstd_alone(site):
    site.ok("backup", "production")
    by_hand(
        site,
        '"$RESTIC" dump --tag env_production latest /dodeka-production.sqlite.zst | zstd -d -q -o "$OUT"',
    )
    assert sample_data.digest(site.folder / "out") == sample_data.digest(site.database())


def test_ours_is_restored_the_way_the_shell_script_did_it(site):
    site.ok("backup", "production")
    by_hand(
        site,
        'd=$(mktemp -d); "$RESTIC" restore --quiet latest --target "$d"\n'
        'zstd -d -q "$(find "$d" -name "*.sqlite.zst" -type f | head -1)" -o "$OUT"; rm -r "$d"',
    )
    assert sample_data.digest(site.folder / "out") == sample_data.digest(site.database())


@pytest.mark.slow("dozens of runs")
def test_both_kinds_age_out_together(site):
    for _ in range(6):
        by_hand(site, BY_HAND)
    for _ in range(5):
        site.ok("backup", "production")
    output = site.ok("cron", "production")
    # 12 within the hour, of which the policy keeps the latest 10; one more where an hour has just ended
    (removed,) = re.findall(r"(\d+) old snapshots? removed", output)
    assert int(removed) in (1, 2)
    kept = site.snapshots("production")
    assert len([entry for entry in kept if entry["path"].startswith("/tmp/")]) == 6 - int(removed)
    assert len([entry for entry in kept if not entry["path"].startswith("/tmp/")]) == 6
