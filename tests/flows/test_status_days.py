"""The strip: what each of thirty days was, by the records of the runs, on a clock that is put forward and back."""

from datetime import date, datetime, timedelta

import pytest

from dodeka_db.flows import status_days
from dodeka_db.host.day_records import Day
from status_pages import full_day

pytestmark = pytest.mark.usefixtures("amsterdam")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def unix(text: str) -> int:
    return int(at(text).timestamp())


def whole(text: str, **more: object) -> tuple[date, Day]:
    day = date.fromisoformat(text)
    return day, full_day(day, 412, 1000, **more)


def kinds(days: list[tuple[date, Day]], now: str) -> str:
    """The strip in one letter a day, without the days that are not on record."""
    shown = status_days.strip(dict(days), at(now))
    assert len(shown) == 30 and shown[-1].day == at(now).date()
    return "".join(one.kind[0] for one in shown).lstrip("u")


def what(days: list[tuple[date, Day]], now: str) -> list[str]:
    return [one.what for one in status_days.strip(dict(days), at(now))]


def test_without_a_record_nothing_is_known():
    assert kinds([], "2026-11-28 14:00") == ""
    assert status_days.in_words(status_days.strip({}, at("2026-11-28 14:00"))) == "nothing is on record yet"


def test_days_before_the_first_record_are_not_a_gap_and_days_after_it_are():
    days = [whole("2026-11-24"), whole("2026-11-27"), whole("2026-11-28")]
    assert kinds(days, "2026-11-28 23:59:59") == "wggww"
    shown = status_days.strip(dict(days), at("2026-11-28 23:59:59"))
    assert status_days.in_words(shown) == "3 without a gap, 2 without a snapshot"
    assert [one.what for one in shown if one.kind == "gap"] == ["no snapshot"] * 2


def test_the_first_day_begins_with_its_first_run():
    noon = unix("2026-11-27 12:00")
    assert kinds([whole("2026-11-27", first=noon), whole("2026-11-28")], "2026-11-28 23:59") == "ww"


def test_a_day_in_progress_is_judged_up_to_now():
    days = [whole("2026-11-27"), whole("2026-11-28", last=unix("2026-11-28 14:00"))]
    assert kinds(days, "2026-11-28 14:12") == "ww"
    assert kinds(days, "2026-11-28 14:31") == "wp"
    assert what(days, "2026-11-28 16:00")[-1] == "no snapshot for 2 hours"


def test_just_after_midnight_the_first_run_is_still_to_come():
    yesterday = whole("2026-11-27", last=unix("2026-11-27 23:48"))
    assert kinds([yesterday], "2026-11-28 00:00:05") == "ww"
    assert kinds([yesterday], "2026-11-28 00:18:01")[-1] == "g"
    # nor is a day well that begins while nothing has run for days
    assert kinds([whole("2026-11-26")], "2026-11-28 00:00:05") == "wgg"


def test_a_gap_over_midnight_is_one_of_both_days():
    days = [
        whole("2026-11-26"),
        whole("2026-11-27", last=unix("2026-11-27 23:36")),
        whole("2026-11-28", first=unix("2026-11-28 00:24")),
    ]
    assert what(days, "2026-11-28 23:59:59")[-3:] == ["", *["no snapshot for 48 minutes"] * 2]


def test_the_days_beside_a_gap_have_a_part_of_it():
    days = [
        whole("2026-11-24"),
        whole("2026-11-25", last=unix("2026-11-25 18:00")),
        whole("2026-11-27", first=unix("2026-11-27 03:00")),
        whole("2026-11-28"),
    ]
    said = ["", "no snapshot for 6 hours", "no snapshot", "no snapshot for 3 hours", ""]
    assert what(days, "2026-11-28 23:59:59")[-5:] == said


def test_runs_that_failed():
    failed = (date(2026, 11, 27), Day(failed=120))
    days = [whole("2026-11-26"), failed, whole("2026-11-28", failed=1)]
    assert what(days, "2026-11-28 23:59:59")[-2:] == ["no snapshot; 120 runs failed", "1 run failed"]
    assert kinds(days, "2026-11-28 23:59:59") == "wgp"


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 10, 25), 25), (date(2026, 3, 29), 23)], ids=["25 hours", "23 hours"]
)
def test_days_of_25_and_of_23_hours(day, hours):
    begins = unix(f"{day} 00:00")
    ends = begins + hours * 3600
    assert ends == unix(f"{day + timedelta(days=1)} 00:00")
    before, after = whole(str(day - timedelta(days=1))), whole(str(day + timedelta(days=1)))
    full = full_day(day, 412, 1000, last=ends - 720)
    assert kinds([before, (day, full), after], f"{after[0]} 23:59") == "www"
    short = full_day(day, 412, 1000, last=ends - 7200)
    assert what([before, (day, short), after], f"{after[0]} 23:59")[-2] == "no snapshot for 2 hours"
