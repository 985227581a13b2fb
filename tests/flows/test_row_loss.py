"""A loss of rows is told by the run that finds it, and by each run until the rows are back or somebody says that it was meant."""

import json
import re
import sqlite3
from contextlib import closing

import pytest

from dodeka_db import data_description
from dodeka_db.errors import SetupError
from dodeka_db.flows import row_loss
from site_folder import Site


def execute(site: Site, *statements: str) -> None:
    with closing(sqlite3.connect(site.database(), isolation_level=None)) as backend:
        for statement in statements:
            backend.execute(statement)


def cron(site: Site, code: int = 0) -> str:
    done = site.run("cron", "production")
    assert done.returncode == code, done
    return done.stdout + done.stderr


LOSE = "DELETE FROM users_by_email WHERE rowid <= 380"


@pytest.fixture
def good(site) -> Site:
    """A site whose last run was good."""
    cron(site)
    return site


def test_the_accident_is_told_within_one_run_and_nothing_is_removed(good):
    first = good.snapshots("production")[-1]["short_id"]
    for _ in range(11):  # more than the ten latest of the policy
        good.ok("backup", "production")
    before = good.snapshots("production")
    execute(good, LOSE)
    said = cron(good, 9)
    lost, pinned = good.snapshots("production")[-1], good.snapshots("production")[-2]
    assert "pinned" in pinned["tags"] and "note=the last one before a loss of rows" in pinned["tags"]
    assert f"snapshot {lost['short_id']} is safe, but production HAS LOST ROWS since snapshot" in said
    assert (
        f"since snapshot {pinned['short_id']}: users_by_email 400 -> 20; no old snapshot is removed" in said
    )
    assert (
        f"bring them back: make bring-back ENV=production SNAPSHOT={pinned['short_id']}; if it was meant"
        in said
    )
    assert len(good.snapshots("production")) == len(before) + 1, "nothing was removed"
    assert first in {one["short_id"] for one in good.snapshots("production")}


def test_each_run_tells_until_the_rows_are_back(good):
    execute(good, LOSE)
    cron(good, 9)
    said = cron(good, 9)
    (pinned,) = re.findall(r"HAS LOST ROWS since snapshot ([0-9a-f]{8})", said)
    assert "no good run" not in said
    status = good.run("status").stdout
    assert re.search(r"BAD +production +cron +failed .*HAS LOST ROWS", status)
    good.ok("bring-back", "production", "--snapshot", pinned, "--yes")
    said = cron(good)
    assert "production has the rows of snapshot" in said
    (unpin,) = re.findall(
        r"stays pinned until you unpin it: make unpin ENV=production SNAPSHOT=([0-9a-f]{8})\n", said
    )
    assert "LOST" not in cron(good)
    assert [one["short_id"] for one in good.snapshots("production") if "pinned" in one["tags"]] == [pinned]
    good.ok("unpin", "production", "--", unpin)
    assert not [one for one in good.snapshots("production") if "pinned" in one["tags"]]


def test_a_backup_by_hand_tells_too(good):
    execute(good, LOSE)
    done = good.run("backup", "production")
    assert done.returncode == 9 and "users_by_email 400 -> 20" in done.stderr


def test_what_was_meant_is_accepted(good):
    assert good.run("accept", "production").returncode == 2
    execute(good, LOSE)
    cron(good, 9)
    said = good.ok("accept", "production")
    assert "accepted: users_by_email 400 -> 20; the snapshot from before stays pinned" in said
    cron(good)
    done = good.run("accept", "production")
    assert done.returncode == 2 and "no run of production has found a loss of rows" in done.stderr


def test_a_restore_is_meant(good):
    execute(good, LOSE)
    cron(good, 9)
    good.ok("restore", "production", "--snapshot=latest", "--yes")
    cron(good)


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (["DELETE FROM users_by_email WHERE rowid <= 200"], 0),  # half
        (["DELETE FROM users_by_email WHERE rowid <= 201"], 9),
        (["DELETE FROM private"], 9),  # its only row
        (["DELETE FROM outbox", "DELETE FROM session_cache", "DELETE FROM tokens"], 0),  # of the moment
        (["DELETE FROM registrations"], 0),  # deploy/data.toml says so
        (["DROP TABLE birthdays"], 9),
        (["CREATE TABLE new (a)", "INSERT INTO new VALUES (1)"], 0),
    ],
)
def test_what_counts_as_a_loss(good, statements, code):
    execute(good, *statements)
    cron(good, code)


def test_a_small_table_may_shrink_but_not_vanish(site):
    execute(site, "DELETE FROM users_by_email WHERE rowid > 19")
    cron(site)
    execute(site, "DELETE FROM users_by_email WHERE rowid > 1")
    cron(site)
    execute(site, "DELETE FROM users_by_email")
    assert "users_by_email 1 -> 0" in cron(site, 9)


def test_the_last_count_that_is_known_is_the_one_to_compare_with(good):
    baseline = good.state / "baselines" / "production.json"
    found = json.loads(baseline.read_text())
    found["good"]["rows"]["users_by_email"] = None
    baseline.write_text(json.dumps(found))
    execute(good, LOSE)
    cron(good)
    execute(good, "DELETE FROM users_by_email")
    assert "users_by_email 20 -> 0" in cron(good, 9)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"good": {"rows": {"users": "many"}}}', '{"good": {"rows": 7}}']
)
def test_a_baseline_that_is_none_begins_anew(good, content):
    (good.state / "baselines" / "production.json").write_text(content)
    execute(good, LOSE)
    cron(good)
    execute(good, "DELETE FROM users_by_email")
    cron(good, 9)


def test_without_a_description_it_is_said_that_nobody_would_notice(good, monkeypatch, caplog):
    def broken() -> None:
        raise SetupError("data description x: wrong")

    monkeypatch.setattr(data_description, "read", broken)

    class Taken:
        rows = {"users_by_email": 0}
        snapshot_id = "00000000"

    settings = good.settings
    assert row_loss.look(settings, None, settings.environment("production"), Taken()) is None
    assert "a loss of rows would not be noticed: data description x: wrong" in caplog.text
