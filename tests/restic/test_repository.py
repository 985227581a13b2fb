"""repository: tags, paths, IDs and retention, with the real restic."""

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dodeka_db import local_time
from dodeka_db.errors import SnapshotError
from dodeka_db.restic.snapshots import Snapshot, resolve
from dodeka_db.settings import load
from site_folder import RESTIC

HERE = load({"DODEKA_BACKUP_ENV": "/dev/null", "OFFSITE_REPOSITORY": "/mnt/there"})
TAGS = ["db", "db_sqlite", "db_dodeka"]


def snapshot(id: str, environment: str = "production", hour: int = 0, tags: tuple[str, ...] = ()) -> Snapshot:
    time = datetime(2026, 11, 22, hour, tzinfo=UTC)
    return Snapshot(id.ljust(64, "0"), time, environment, tags, "host", "/x", id.ljust(64, "0"))


class TestResolve:
    ALL = [
        snapshot("aaaa1111", hour=1),
        snapshot("aaaa2222", hour=2),
        snapshot("dddd1111", "demo", hour=3),
        snapshot("bbbb1111", hour=4, tags=("pre-restore",)),
    ]

    def test_latest_is_the_newest_ordinary_one_of_the_environment(self):
        assert resolve(HERE.main, self.ALL, "production", "latest").short_id == "aaaa2222"
        assert resolve(HERE.main, self.ALL, "demo", "latest").short_id == "dddd1111"

    def test_an_id_and_its_beginning(self):
        assert resolve(HERE.main, self.ALL, "production", "aaaa1").short_id == "aaaa1111"
        assert resolve(HERE.main, self.ALL, "production", "aaaa1111" + "0" * 56).short_id == "aaaa1111"
        assert resolve(HERE.main, self.ALL, "production", "bbbb1111").is_pre_restore

    @pytest.mark.parametrize(
        "wanted",
        [
            *("", "aaa", "-aaaa", "--password-command=x", "AAAA1111", "aaaa 1", "a" * 65),
            *("latest~", "latest~-1", "latest~x", "latest~1 ", "latest~\u0661", "latest~" + "1" * 5000),
        ],
    )
    def test_malformed(self, wanted):
        with pytest.raises(SnapshotError, match="is neither a snapshot ID"):
            resolve(HERE.main, self.ALL, "production", wanted)

    def test_so_many_before_the_newest(self):
        assert resolve(HERE.main, self.ALL, "production", "latest~0").short_id == "aaaa2222"
        assert resolve(HERE.main, self.ALL, "production", "latest~1").short_id == "aaaa1111"
        assert resolve(HERE.main, self.ALL, "demo", "latest~0").short_id == "dddd1111"
        for environment, wanted, there_are in (
            ("production", "latest~2", "2 snapshots"),
            ("demo", "latest~1", "1 snapshot"),
        ):
            message = f"there is no {wanted}: {environment} has {there_are} that a backup made"
            with pytest.raises(SnapshotError, match=message):
                resolve(HERE.main, self.ALL, environment, wanted)

    def test_the_newest_of_a_time_or_before(self, caplog):
        caplog.set_level("INFO")
        first, second = (one.time for one in self.ALL[:2])
        for moment, found in (
            (first, "aaaa1111"),
            (second - timedelta(seconds=1), "aaaa1111"),
            (second, "aaaa2222"),
            (self.ALL[3].time, "aaaa2222"),  # that one is a pre-restore snapshot
        ):
            assert resolve(HERE.main, self.ALL, "production", moment).short_id == found
        assert caplog.messages[2:4] == [
            f"choosing the newest snapshot of {local_time.shown(second - timedelta(seconds=1))} or before",
            f"snapshot aaaa1111 is of {local_time.shown(first)}, 59 minutes before",
        ]
        assert caplog.messages[5].endswith(", 0 seconds before")
        with pytest.raises(
            SnapshotError, match=r"no snapshot of production is of .* or before; the oldest is aaaa1111"
        ):
            resolve(HERE.main, self.ALL, "production", first - timedelta(seconds=1))

    def test_ambiguous(self):
        with pytest.raises(SnapshotError, match="several snapshots: aaaa1111, aaaa2222"):
            resolve(HERE.main, self.ALL, "production", "aaaa")

    def test_unknown(self):
        with pytest.raises(SnapshotError, match="no snapshot cccc0000 of production"):
            resolve(HERE.main, self.ALL, "production", "cccc0000")

    def test_of_another_environment(self):
        with pytest.raises(SnapshotError, match="dddd1111 is of demo, not of production"):
            resolve(HERE.main, self.ALL, "production", "dddd")

    def test_none_yet(self):
        for wanted in ("latest", "latest~0", "latest~3", datetime.now(UTC)):
            with pytest.raises(SnapshotError, match="no snapshot of demo yet"):
                resolve(HERE.main, self.ALL[:2], "demo", wanted)

    def test_one_from_the_future_is_none_of_them(self):
        future = replace(self.ALL[1], id="ffff" * 16, time=datetime.now(UTC) + timedelta(hours=1))
        for wanted in ("latest", "latest~0", future.time, future.time + timedelta(hours=1)):
            assert resolve(HERE.main, [*self.ALL, future], "production", wanted).short_id == "aaaa2222"
            with pytest.raises(SnapshotError, match="all snapshots of production are from the future"):
                resolve(HERE.main, [future], "production", wanted)

    def test_the_next_step_is_one_for_the_repository_that_was_asked(self):
        for settings, wanted, command in (
            (HERE.main, "cccc0000", "see: make snapshots ENV=demo"),
            (HERE.offsite, "cccc0000", "see: make snapshots ENV=demo OFFSITE=1"),
            (HERE.main, "latest", "make backup ENV=demo"),
            (HERE.offsite, "latest", "make offsite"),
        ):
            with pytest.raises(SnapshotError) as raised:
                resolve(settings, self.ALL[:2], "demo", wanted)
            assert raised.value.hint == command


def test_a_snapshot_has_the_scripts_tags_and_the_same_path_every_time(site, tmp_path):
    site.ok("backup", "production")
    site.ok("backup", "production", DODEKA_STATE=str(tmp_path / "elsewhere"))
    listed = json.loads(site.restic("snapshots", "--json").stdout)
    assert [entry["paths"] for entry in listed] == [["/dodeka-production.sqlite.zst"]] * 2
    assert [entry["tags"] for entry in listed] == [[*TAGS, "env_production"]] * 2


def test_a_second_snapshot_of_the_same_data_costs_next_to_nothing(site):
    first = site.ok("backup", "production")
    grown = site.repository_bytes()
    site.ok("backup", "production")
    assert first and site.repository_bytes() - grown < 3_000


def test_only_our_snapshots_are_listed_the_oldest_first_with_their_sizes(site, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x" * 100)
    site.restic("backup", "--quiet", "--tag", "photos", str(tmp_path / "holiday.jpg"))
    site.restic("backup", "--quiet", "--tag", "db_dodeka,env_demo", str(tmp_path / "holiday.jpg"))
    site.ok("backup", "demo")
    site.ok("backup", "production")
    listed = site.snapshots()
    assert [entry["environment"] for entry in listed] == ["demo", "production"]
    for entry in listed:
        dumped = site.restic("ls", "--json", entry["id"]).stdout.splitlines()
        sizes = [json.loads(line).get("size") for line in dumped if json.loads(line).get("type") == "file"]
        assert [entry["stored_bytes"]] == sizes
    assert [entry["id"] for entry in site.snapshots("demo")] == [listed[0]["id"]]


def test_the_last_pre_restore_snapshot_goes_after_six_months_too(site):
    """There is no newer one that restic could count from; and none of demo's is touched."""
    site.ok("backup", "production")
    for environment in ("production", "demo"):
        tags = ",".join([*TAGS, f"env_{environment}", "pre-restore"])
        site.restic("backup", "--quiet", "--time", "2023-05-01 12:00:00", "--tag", tags, str(site.database()))
    assert "1 old snapshot removed" in site.ok("cron", "production")
    left = json.loads(site.restic("snapshots", "--json", "--tag", "pre-restore").stdout)
    assert [entry["tags"] for entry in left] == [[*TAGS, "env_demo", "pre-restore"]]


def store_again(site, time: str, *tags: str, zone: str = "UTC") -> str:
    """Production's first snapshot once more, of another time in another time zone, by restic alone; its ID."""
    name = "dodeka-production.sqlite.zst"
    environ = {**site.environ, "TZ": zone, "RESTIC_CACHE_DIR": str(site.folder / "cache")}
    dumped = subprocess.run(
        [RESTIC, "dump", site.snapshots("production")[0]["id"], f"/{name}"],
        env=environ,
        capture_output=True,
        check=True,
    ).stdout
    (site.folder / name).write_bytes(dumped)
    before = {entry["id"] for entry in site.snapshots()}
    given = ("--time", time, "--tag", ",".join([*TAGS, "env_production", *tags]))
    subprocess.run([RESTIC, "backup", "--quiet", *given, name], env=environ, cwd=site.folder, check=True)
    (new,) = {entry["id"] for entry in site.snapshots()} - before
    return new


# the last second of what restic can write and the first, in the time zones that are farthest off
@pytest.mark.slow("each time and zone", keep=["9999-12-31 23:59:59-Etc/GMT+12"])
@pytest.mark.parametrize(
    ("time", "zone"),
    [
        ("9999-12-31 23:59:59", "Etc/GMT+12"),
        ("9999-12-31 23:59:59", "Etc/GMT-14"),
        ("0000-01-01 00:00:00", "UTC"),
        ("0001-01-01 00:00:00", "Etc/GMT-14"),
    ],
)
def test_any_legal_time_lists(site, time, zone):
    site.ok("backup", "production")
    odd = store_again(site, time, zone=zone)
    is_future = time.startswith("9999")
    (line,) = [line for line in site.ok("snapshots").splitlines() if line.startswith(odd[:8])]
    assert ("in the future" if is_future else " days ") in line
    assert site.run("status").stderr == ""
    site.ok("verify", "production", "--snapshot", odd)
    site.ok("restore", "production", "--snapshot", odd, "--yes")
    output = site.ok("cron", "production")
    assert ("is from the future" in output) == is_future


@pytest.mark.slow("dozens of snapshots")
def test_only_the_past_counts(site):
    """For `latest`, the drill, undo and keys; whoever may add snapshots may give them any time."""
    site.ok("backup", "production")
    (honest,) = site.snapshots()
    future = {
        store_again(site, "2099-01-01 00:00:00"),
        store_again(site, "2099-01-01 00:00:00", "pre-restore"),
    }
    assert f"snapshot {honest['short_id']} " in site.ok("verify", "production").splitlines()[-1]
    assert site.run("undo", "production", "--yes").returncode == 4
    restored = site.ok("restore", "production", "--snapshot", "latest", "--yes")
    assert f"has the data of snapshot {honest['short_id']}" in restored
    (replaced,) = {
        entry["id"]
        for entry in site.snapshots("production")
        if "pre-restore" in entry["tags"] and entry["id"] not in future
    }
    assert f"has the data of snapshot {replaced[:8]}" in site.ok("undo", "production", "--yes")
    assert f"downloading snapshot {honest['short_id']}" in site.ok("key-add", "--", "anna")
    assert site.run("restore", "production", "--snapshot", min(future), stdin="no\n").returncode == 7, (
        "but by its ID"
    )


@pytest.mark.slow("every command")
def test_all_are_from_the_future(site):
    """As where the clock is set back: they are not called missing, and one can be named."""
    site.ok("backup", "production")
    odd = store_again(site, "2099-01-01 00:00:00")
    site.restic("forget", next(entry["id"] for entry in site.snapshots() if entry["id"] != odd))
    for script in ("verify", "restore"):
        done = site.run(script, "production", "--snapshot", "latest")
        assert done.returncode == 4
        assert "all snapshots of production are from the future; check the clock" in done.stderr
    site.ok("verify", "production", "--snapshot", odd)
    store_again(site, "2099-01-01 00:00:00", "pre-restore")
    done = site.run("undo", "production", "--yes")
    assert done.returncode == 4 and "pre-restore snapshots of production are from the future" in done.stderr


def test_an_empty_repository_lists_nothing(site):
    assert site.snapshots() == []
    heading, oldest = site.ok("snapshots", "demo").splitlines()
    assert heading.split() == ["ID", "When", "Ago", "Size", "Number", "of", "rows"]
    assert oldest == "oldest copy: none"


def expected_to_stay(times: list[datetime]) -> set[datetime]:
    """The policy, written down again: the newest of each of the newest so many hours, days, weeks, months."""
    newest_first = sorted(times, reverse=True)
    stay = set(newest_first[:10])
    for count, period in (
        (24, lambda t: (t.date(), t.hour)),
        (7, lambda t: t.date()),
        (4, lambda t: t.isocalendar()[:2]),
        (6, lambda t: (t.year, t.month)),
    ):
        seen = []
        for time in newest_first:
            if period(time) not in seen and len(seen) < count:
                seen.append(period(time))
                stay.add(time)
    return stay


@pytest.mark.slow("months of snapshots")
def test_retention_over_months(site, tmp_path):
    now = datetime.now().replace(microsecond=0)
    hours = (
        [n * 0.4 for n in range(60)] + [30 + n * 9 for n in range(40)] + [400 + n * 150 for n in range(26)]
    )
    production = [now - timedelta(hours=hour, minutes=1) for hour in hours]
    demo = [now - timedelta(minutes=12 * n + 1) for n in range(15)]
    lately = [now - timedelta(minutes=5 * n + 2) for n in range(12)]
    months = [now - timedelta(days=days) for days in (40, 41, 170)]
    expired = [now - timedelta(days=days) for days in (185, 900)]
    # as the shell scripts stored them: a new temporary folder every time
    jobs = [
        (time, [*TAGS, "env_production"], "production", f"tmp.{n:010}") for n, time in enumerate(production)
    ]
    jobs += [
        (time, [*TAGS, "env_production", "pre-restore"], "production", f"tmp.x{n:09}")
        for n, time in enumerate([*lately, *months, *expired])
    ]
    jobs += [(time, [*TAGS, "env_demo"], "demo", f"tmp.y{n:09}") for n, time in enumerate(demo)]

    # one at a time: a lock that another restic removes meanwhile makes 0.14 look for it for 40 seconds
    for time, tags, environment, folder in jobs:
        file = tmp_path / folder / f"dodeka-{environment}.sqlite.zst"
        file.parent.mkdir()
        file.write_text(str(time))
        host = "renamed" if time < now - timedelta(hours=12) else "server"  # which makes no group of its own
        when = ("--time", f"{time:%F %T}", "--host", host)
        site.restic("backup", "--quiet", *when, "--tag", ",".join(tags), str(file))
    output = site.ok("cron", "production")

    def left(*tags: str) -> set[datetime]:
        entries = json.loads(site.restic("snapshots", "--json").stdout)
        return {
            datetime.fromisoformat(entry["time"]).astimezone().replace(tzinfo=None, microsecond=0)
            for entry in entries
            if set(entry["tags"]) == {*TAGS, *tags}
        }

    kept = left("env_production")
    new = max(kept)
    assert new >= now, "the run's own snapshot"
    # while there are too few for a period, newer restics keep the oldest besides
    oldest = {min(production)}
    assert kept - oldest == expected_to_stay([*production, new]) - oldest
    assert len(kept) < len(production) / 2
    assert left("env_production", "pre-restore") == {*lately, *months}, (
        "six months, all of them, and no longer"
    )
    assert left("env_demo") == set(demo)
    removed = len(production) + 1 - len(kept) + len(expired)
    assert f"{removed} old snapshots removed" in output
    site.restic("check", "--read-data")


def test_the_cache_is_in_the_state_folder_and_home_is_not_needed(site, tmp_path):
    nowhere = tmp_path / "nowhere"
    site.ok("backup", "demo", HOME=str(nowhere))
    assert (site.state / "restic-cache").is_dir()
    assert not nowhere.exists()


def test_the_output_of_find_on_thousands_of_snapshots_is_read_whole(site):
    """A fake restic: thousands of real snapshots would take half an hour."""
    count = 12_000
    ids = [f"{n:064x}" for n in range(count)]
    answers = {
        "snapshots": [
            {
                "id": i,
                "time": "2026-01-01T00:00:00Z",
                "tags": [*TAGS, "env_demo"],
                "hostname": "h",
                "paths": ["/dodeka-demo.sqlite.zst"],
            }
            for i in ids
        ],
        "find": [
            {"snapshot": i, "hits": 1, "matches": [{"path": "/dodeka-demo.sqlite.zst", "size": 5}]}
            for i in ids
        ],
    }
    for verb, answer in answers.items():
        (site.folder / verb).write_text(json.dumps(answer))
    fake = site.folder / "fake-restic"
    fake.write_text(f"#!/bin/sh\ncase $1 in version) echo restic 0.18.0;; *) cat {site.folder}/$1;; esac\n")
    fake.chmod(0o755)
    assert len(json.loads(site.ok("snapshots", "--json", RESTIC=str(fake)))) == count
