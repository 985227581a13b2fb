"""A cron run knows the snapshots from before, without asking restic; and asks where it does not know all of them."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from site_folder import Site, run_first

IN_A_WEEK = f"{datetime.now() + timedelta(days=7):%Y-%m-%d %H:%M:%S}"


@pytest.fixture
def asked(site: Site, tmp_path: Path):
    """A function that makes a cron run; returns what restic was asked to do, by the alphabet, and what the run printed."""
    log, restic = tmp_path / "asked", tmp_path / "restic"
    run_first(restic, f'echo "$1" >> {log}')

    def cron() -> tuple[list[str], str]:
        log.unlink(missing_ok=True)
        said = site.ok("cron", RESTIC=str(restic))
        return sorted(log.read_text().split()), said

    site.ok("cron")  # also takes the day's sample of the size
    return cron


def test_a_run_starts_restic_three_times(site, asked):
    assert asked()[0] == ["backup", "dump", "forget"]
    # the snapshots of the other environment, and of a backup by hand, are on record as well
    site.ok("cron", "demo")
    site.ok("backup", "production")
    assert asked()[0] == ["backup", "dump", "forget"]


@pytest.mark.slow("many runs")
def test_the_policy_removes_as_many_as_before(site, asked):
    removed = sum(" 1 old snapshot removed" in asked()[1] for _ in range(12))
    # 10 latest, and the newest of each hour, of which there are two at most
    assert removed >= 13 - 11


def test_a_snapshot_from_the_future_is_seen_by_every_run(site, asked):
    tags = "db,db_sqlite,db_dodeka,env_production"
    site.restic("backup", str(site.database()), "--tag", tags, "--time", IN_A_WEEK)
    for verbs in (["backup", "dump", "snapshots"], ["backup", "dump"]):
        said = asked()
        assert said[0] == verbs
        assert "is from the future" in said[1] and "0 old snapshots removed" in said[1]


def test_what_others_store_is_asked_about_once(site, asked):
    site.restic("backup", "/etc/hostname", "--tag", "other")
    assert asked()[0] == ["backup", "dump", "forget", "snapshots"]
    assert asked()[0] == ["backup", "dump", "forget"]


def test_a_removed_snapshot_is_on_record_no_more(site, asked):
    oldest = json.loads(site.restic("snapshots", "--json").stdout)[0]["id"]
    site.restic("forget", oldest)
    assert asked()[0] == ["backup", "dump", "forget"]
    assert (site.state / "rows" / f"{oldest[:8]}.json").exists() is False


@pytest.mark.parametrize("record", ["", "[]", '{"0": 1}', '{"%s": 7}'], ids=lambda text: text or "empty")
def test_a_record_that_is_none_is_made_again(site, asked, record):
    ids = [one["id"] for one in json.loads(site.restic("snapshots", "--json").stdout)]
    (site.state / "listing.json").write_text(record.replace("%s", ids[0]))
    assert "snapshots" in asked()[0]
    assert asked()[0] == ["backup", "dump", "forget"]


def test_the_record_does_not_grow_with_each_run(site, asked):
    first = json.loads(site.restic("snapshots", "--json").stdout)[0]["id"]
    site.restic("forget", first)
    for _ in range(2):
        asked()
    on_record = json.loads((site.state / "listing.json").read_text())
    assert on_record.keys() == {one["id"] for one in json.loads(site.restic("snapshots", "--json").stdout)}


def test_a_damaged_snapshot_is_never_on_record(site, asked):
    damaged = next((site.repository / "snapshots").iterdir())
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (site.state / "listing.json").unlink()
    shutil.rmtree(site.state / "restic-cache")  # it stands in for what is damaged
    assert asked()[0] == asked()[0] == ["backup", "dump", "forget", "snapshots"]
    assert not (site.state / "listing.json").exists()
