"""day_records: each run is counted on the day of this server's clock, whatever became of the file, and of the clock."""

import json
import logging
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from dodeka_db.host import day_records
from dodeka_db.host.day_records import Day

pytestmark = pytest.mark.usefixtures("amsterdam")

SATURDAY = date(2026, 11, 28)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that counts a run at a time of this server, and by its arguments changes what it has done."""

    def count(at: str, fails: bool = False, **done: object) -> None:
        class Fixed(datetime):
            now = classmethod(lambda cls: datetime.fromisoformat(at))

        monkeypatch.setattr(day_records, "datetime", Fixed)
        try:
            with day_records.counted(tmp_path, "production") as today:
                for name, value in {"has_stored": not fails, **done}.items():
                    setattr(today, name, value)
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert fails

    return count


def read(state: Path) -> dict[date, Day]:
    return day_records.read(state, "production", date(2026, 11, 29))


def file(state: Path) -> Path:
    return state / "days" / "production.json"


def unix(at: str) -> int:
    return int(datetime.fromisoformat(at).astimezone().timestamp())


def test_the_runs_of_a_day(tmp_path, run):
    run("2026-11-28 10:00", members=412, stored_bytes=1000)
    run("2026-11-28 10:12", members=411)
    run("2026-11-28 10:24", fails=True)
    run("2026-11-28 10:50:01")  # neither the members nor the size were counted
    day = Day(3, 1, unix("2026-11-28 10:00"), unix("2026-11-28 10:50:01"), 38 * 60 + 1, 411, 1000)
    assert read(tmp_path) == {SATURDAY: day}
    assert file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert day_records.read(tmp_path, "demo", SATURDAY) == {}


def test_a_run_that_stores_a_snapshot_and_fails_counts_as_both(tmp_path, run):
    run("2026-11-28 10:00", fails=True, has_stored=True, members=0)
    day = read(tmp_path)[SATURDAY]
    assert (day.stored, day.failed, day.members) == (1, 1, 0)


def test_midnight(tmp_path, run):
    run("2026-11-28 23:48")
    run("2026-11-29 00:00")
    assert [(day.stored, day.longest_gap_s) for day in read(tmp_path).values()] == [(1, 0), (1, 0)]


def test_the_hour_that_comes_twice_and_the_one_that_never_comes(tmp_path, run):
    run("2026-10-25 02:54+02:00")
    run("2026-10-25 02:06+01:00")  # 12 minutes later
    assert read(tmp_path)[date(2026, 10, 25)].longest_gap_s == 12 * 60
    run("2026-03-29 01:54+01:00")
    run("2026-03-29 03:06+02:00")
    assert read(tmp_path)[date(2026, 3, 29)].longest_gap_s == 12 * 60


def test_a_clock_that_was_wrong_for_a_while(tmp_path, run):
    run("2026-11-28 10:00")
    run("2036-01-01 00:00")
    run("1970-01-02 00:00")
    run("2026-11-28 09:50")
    run("2026-11-28 10:02")
    assert list(read(tmp_path)) == [SATURDAY]
    day = read(tmp_path)[SATURDAY]
    assert (day.stored, day.longest_gap_s) == (3, 12 * 60)


def test_400_days_are_kept(tmp_path, run):
    for back in range(405, -1, -1):
        run(f"{SATURDAY - timedelta(days=back)} 12:00")
    assert len(json.loads(file(tmp_path).read_text())) == 400
    days = list(day_records.read(tmp_path, "production", SATURDAY))
    assert (len(days), days[0], days[-1]) == (400, SATURDAY - timedelta(days=399), SATURDAY)


GOOD = [1, 0, 1_795_856_400, 1_795_856_400, 0, 412, 1000]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", '{"2026-11-27": [1, 0', "[]", "null", "\udcff", "[" * 100_000),
        *({"2026-11-27": values} for values in (None, {}, [], GOOD[:-1], [*GOOD, 1])),
        *(
            {"2026-11-27": [*GOOD[:at], wrong, *GOOD[at + 1 :]]}
            for at in (0, 2, 5)
            for wrong in ("1", -1, True, 1.5)
        ),
        *(
            {"2026-11-27": [*GOOD[:at], wrong, *GOOD[at + 1 :]]}
            for at in (1, 2, 4)
            for wrong in (None, 10**400)
        ),
        {"yesterday": GOOD},
    ],
    ids=lambda content: str(content)[:60] or "empty",
)
def test_what_is_not_a_day_is_not_there_and_the_next_run_is_counted(tmp_path, run, content):
    file(tmp_path).parent.mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    file(tmp_path).write_bytes(text.encode(errors="surrogateescape"))
    assert read(tmp_path) == {}
    run("2026-11-28 10:00")
    assert list(read(tmp_path)) == [SATURDAY]


def test_a_torn_day_does_not_hide_the_others(tmp_path, run):
    run("2026-11-28 10:00")
    content = json.loads(file(tmp_path).read_text())
    file(tmp_path).write_text(json.dumps({**content, "2026-11-27": [1, 0]}))
    assert list(read(tmp_path)) == [SATURDAY]


def test_what_cannot_be_written_is_a_warning(tmp_path, run, caplog):
    caplog.set_level(logging.WARNING, "dodeka_db")
    (tmp_path / "days").touch()
    run("2026-11-28 10:00")
    assert caplog.messages == [f"{file(tmp_path)} cannot be written: File exists"]
