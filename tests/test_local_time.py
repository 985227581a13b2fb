"""A time as it is typed, in a zone whose clock is put forward and back."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from dodeka_db import local_time
from dodeka_db.errors import SnapshotError

pytestmark = pytest.mark.usefixtures("amsterdam")

# 02:00 on the clock of Amsterdam
NOW = datetime(2026, 11, 24, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23 14:00", "2026-11-23 14:00:00+01:00"),
        ("2026-11-23T14:00:30", "2026-11-23 14:00:30+01:00"),
        ("2026-07-01 14:00", "2026-07-01 14:00:00+02:00"),
        (" yesterday 14:00 ", "2026-11-23 14:00:00+01:00"),
        ("today 01:59", "2026-11-24 01:59:00+01:00"),
        ("01:59", "2026-11-24 01:59:00+01:00"),
        ("02:00", "2026-11-24 02:00:00+01:00"),
        ("03:00", "2026-11-23 03:00:00+01:00"),  # the last one
        ("2026-10-25 02:30+01:00", "2026-10-25 02:30:00+01:00"),
        ("2026-10-25 02:30+02:00", "2026-10-25 02:30:00+02:00"),
        ("2026-11-23 14:00Z", "2026-11-23 15:00:00+01:00"),
        ("00:00", "2026-11-24 00:00:00+01:00"),
        ("yesterday 00:00", "2026-11-23 00:00:00+01:00"),
        ("23:59:59", "2026-11-23 23:59:59+01:00"),
    ],
)
def test_it_means(text, moment):
    assert local_time.parse(text, NOW) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("yesterday 23:00", "2026-12-31 22:00Z"),
        ("23:00", "2026-12-31 22:00Z"),
        ("00:10", "2026-12-31 23:10Z"),
        ("today 00:10", "2026-12-31 23:10Z"),
        # with an offset, the day is the one there: in UTC it is still the last one of the year
        ("23:10Z", "2026-12-31 23:10Z"),
        ("23:50Z", "2026-12-30 23:50Z"),
        ("yesterday 23:50Z", "2026-12-30 23:50Z"),
        ("10:00+11:00", "2026-12-31 23:00Z"),
    ],
)
def test_the_day_is_the_one_on_the_clock(text, moment):
    """Half past midnight of the new year here; it is still the old one in UTC."""
    at_night = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert local_time.parse(text, at_night) == datetime.fromisoformat(moment)
    assert local_time.shown(at_night) == "Fri 01 Jan 2027 00:30:00 CET"


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "14", "2026-11-24", "yesterday", "tomorrow 14:00", "14:00; x", "9:00", "14:00:00.5"),
        *("24:00", "25:00", "23:60", "23:59:60", "2026-02-30 10:00", "14:00+24:00", "\u0660\u0663:00"),
        *("0000-01-01 00:00", "0001-01-01 00:00", "0001-01-01 00:00+23:59", "9999-12-31 23:59"),
    ],
)
def test_it_is_no_time(text):
    with pytest.raises(SnapshotError, match=r"is not a time.*; write '2026-11-24 14:00'"):
        local_time.parse(text, NOW)


@pytest.mark.parametrize("text", ["2026-11-24 02:01", "today 14:00", "2027-01-01 00:00"])
def test_it_is_in_the_future(text):
    with pytest.raises(SnapshotError, match="is in the future: it is Tue 24 Nov 2026 02:00:00 CET"):
        local_time.parse(text, NOW)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "2026-10-25 02:30",
            "there was 2026-10-25 02:30 twice: the clock was put back",
            "write '2026-10-25 02:30+02:00' or '2026-10-25 02:30+01:00'",
        ),
        (
            "2026-03-29 02:30:15",
            "there was no 2026-03-29 02:30:15: the clock was put forward",
            "write '2026-03-29 01:30:15+01:00' or '2026-03-29 03:30:15+02:00'",
        ),
    ],
)
def test_a_time_that_was_twice_or_never(text, message, hint):
    """And what the message says to write is taken."""
    with pytest.raises(SnapshotError) as raised:
        local_time.parse(text, NOW)
    assert (raised.value.message, raised.value.hint) == (message, hint)
    first, second = (local_time.parse(written, NOW) for written in hint.split("'")[1::2])
    assert second - first == timedelta(hours=1)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_the_edges_of_such_an_hour_are_plain(day):
    last, first = local_time.parse(f"{day} 01:59", NOW), local_time.parse(f"{day} 03:00", NOW)
    assert first - last == timedelta(minutes=1 if day == "2026-03-29" else 121)
    assert local_time.shown(first)[-4:].strip() == ("CEST" if day == "2026-03-29" else "CET")


@pytest.mark.parametrize(
    ("now", "text", "moment"),
    [
        # the clock is put back at 01:00 UTC: it shows 02:15 for the first time, 02:45, then 02:15 again
        ("2026-10-25 00:15Z", "02:30", "2026-10-24 02:30+02:00"),
        ("2026-10-25 00:15Z", "02:10", "2026-10-25 02:10+02:00"),
        ("2026-10-25 00:45Z", "02:30", "2026-10-25 02:30+02:00"),
        ("2026-10-25 01:15Z", "02:30", "2026-10-25 02:30+02:00"),
        ("2026-10-25 01:15Z", "02:10", "twice"),
        ("2026-10-25 09:00Z", "today 02:30", "twice"),
        ("2026-10-26 09:00Z", "yesterday 02:30", "twice"),
        # the clock is put forward at 01:00 UTC: it shows 01:45, then 03:10
        ("2026-03-29 00:45Z", "02:30", "2026-03-28 02:30+01:00"),
        ("2026-03-29 00:45Z", "today 02:30", "in the future"),
        ("2026-03-29 01:10Z", "02:30", "there was no"),
        ("2026-03-29 01:10Z", "01:59", "2026-03-29 01:59+01:00"),
        ("2026-03-29 01:10Z", "03:10", "2026-03-29 03:10+02:00"),
        ("2026-03-29 01:10Z", "03:11", "2026-03-28 03:11+01:00"),
    ],
)
def test_in_the_night_itself(now, text, moment):
    """Only what the clock has shown so far counts."""
    if moment[0].isdigit():
        assert local_time.parse(text, datetime.fromisoformat(now)) == datetime.fromisoformat(moment)
        return
    with pytest.raises(SnapshotError, match=moment):
        local_time.parse(text, datetime.fromisoformat(now))


def test_a_day_of_another_offset_west_of_it(monkeypatch):
    """Eight in the evening in Los Angeles is three at night of the next day in UTC."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    now = datetime(2026, 7, 2, 3, 0, tzinfo=UTC)
    assert local_time.parse("02:00Z", now) == datetime(2026, 7, 2, 2, 0, tzinfo=UTC)
    assert local_time.parse("19:00", now) == datetime(2026, 7, 2, 2, 0, tzinfo=UTC)
