"""A time as it is typed, in a zone whose clock is put forward and back."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from dodeka_db import local_time
from dodeka_db.errors import UsageError

# 02:00 on the clock of Amsterdam
NOW = datetime(2026, 11, 24, 1, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def amsterdam(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Amsterdam")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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
    ],
)
def test_it_means(text, moment):
    assert local_time.parse(text, NOW) == datetime.fromisoformat(moment)


def test_yesterday_is_the_day_on_the_clock():
    """Half past midnight here is yesterday in UTC."""
    at_night = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert local_time.parse("yesterday 23:00", at_night) == datetime(2026, 12, 31, 22, 0, tzinfo=UTC)
    assert local_time.shown(at_night) == "Fri 01 Jan 2027 00:30 CET"


@pytest.mark.parametrize(
    "text", ["", "x", "14", "2026-11-24", "tomorrow 14:00", "14:00; x", "25:00", "2026-02-30 10:00"]
)
def test_it_is_no_time(text):
    with pytest.raises(UsageError, match=r"is not a time.*; write '2026-11-24 14:00'"):
        local_time.parse(text, NOW)


@pytest.mark.parametrize("text", ["2026-11-24 02:01", "today 14:00", "2027-01-01 00:00"])
def test_it_is_in_the_future(text):
    with pytest.raises(UsageError, match="is in the future: it is Tue 24 Nov 2026 02:00 CET"):
        local_time.parse(text, NOW)


def test_a_time_that_was_twice_or_never():
    with pytest.raises(
        UsageError, match=r"twice: the clock was put back; write '2026-10-25 02:30:00.02:00' or '.*.01:00'"
    ):
        local_time.parse("2026-10-25 02:30", NOW)
    with pytest.raises(UsageError, match="there was no 2026-03-29 02:30: the clock was put forward"):
        local_time.parse("2026-03-29 02:30", NOW)
