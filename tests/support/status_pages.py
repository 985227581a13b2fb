"""Status pages of made-up states: well, bad, with a gap, with notes, and before anything is known. By the clock of this machine."""

from collections.abc import Mapping
from dataclasses import astuple
from datetime import date, datetime, timedelta
from pathlib import Path

from dodeka_db import settings
from dodeka_db.flows import status_page
from dodeka_db.flows.status_lines import Line, Look, State, bad, note, unknown, well
from dodeka_db.host import day_records, job_records, state_files
from dodeka_db.host.day_records import Day
from dodeka_db.host.job_records import Record
from dodeka_db.settings import Settings

NOW = datetime(2026, 11, 28, 14, 12).astimezone()
SUBJECTS = ("cron", "drill", "service", "kept files")
OF_THE_SERVER = (
    *(
        "restic",
        "password",
        "repository",
        "key files",
        "check",
        "off-site copy",
        "volume",
        "state folder",
        "lock",
    ),
    *("restic's locks", "crontab", "logrotate", "user"),
)
# what a line may say, and a page must not
SECRET = "/mnt/secret <script>alert(1)</script> https://user:password@server.example"


def settings_in(folder: Path, **more: str) -> Settings:
    places = {
        "DODEKA_BACKEND": str(folder / "backend"),
        "DODEKA_STATE": str(folder / "state"),
        "RESTIC_REPOSITORY": str(folder / "restic"),
        "RESTIC_PASSWORD_FILE": str(folder / "password"),
        "OFFSITE_REPOSITORY": str(folder / "elsewhere"),
        "OFFSITE_PASSWORD_FILE": str(folder / "elsewhere-password"),
        "DODEKA_SYSTEMCTL": "none",
        "DODEKA_BACKUP_ENV": "/dev/null",
    }
    return settings.load({"PATH": "/usr/bin:/bin", "HOME": str(folder), **places, **more})


def lines(changed: Mapping[tuple[str, str], Look] = {}) -> list[Line]:
    """The lines of a server on which all is well, but those that are `changed`, by environment and subject."""
    times = {
        name: (NOW - before).timestamp()
        for name, before in (
            ("newest_snapshot_timestamp_seconds", timedelta(minutes=12)),
            ("drill_success_timestamp_seconds", timedelta(days=6, hours=9, minutes=57)),
            ("check_success_timestamp_seconds", timedelta(days=6, hours=9, minutes=27)),
            ("offsite_success_timestamp_seconds", timedelta(minutes=39)),
        )
    }
    all_lines = []
    for name in ("production", "demo"):
        newest = {"newest_snapshot_timestamp_seconds": times["newest_snapshot_timestamp_seconds"]}
        all_lines.append(Line(name, "snapshots", well(SECRET, **newest)))
        all_lines += [Line(name, subject, well(SECRET)) for subject in SUBJECTS]
    all_lines += [Line("", subject, well(SECRET)) for subject in OF_THE_SERVER]
    figures = {"drill": "drill", "check": "check", "off-site copy": "offsite"}
    found = []
    for line in all_lines:
        look = changed.get((line.environment, line.subject), line.look)
        if line.subject in figures and line.environment != "demo" and look.state is not State.UNKNOWN:
            name = f"{figures[line.subject]}_success_timestamp_seconds"
            look = Look(look.state, look.text, look.fix, {name: times[name], **look.figures})
        found.append(Line(line.environment, line.subject, look))
    known = {(line.environment, line.subject) for line in found}
    return found + [Line(*subject, look) for subject, look in changed.items() if subject not in known]


def full_day(day: date, members: int, stored_bytes: int, **more: int) -> Day:
    """A day on which all runs were good; `more` changes it."""
    begins = int(datetime(day.year, day.month, day.day).timestamp())
    whole = {
        "stored": 120,
        "first": begins + 1,
        "last": begins + 85_700,
        "longest_gap_s": 723,
        "members": members,
        "stored_bytes": stored_bytes,
    }
    return Day(**{**whole, **more})


def record(found: Settings, environment: str, days: Mapping[date, Day]) -> None:
    file = day_records._file(found.main.state, environment)
    state_files.write(file, {day.isoformat(): list(astuple(one)) for day, one in days.items()})


def days_of(environment: str, count: int) -> dict[date, Day]:
    """`count` days without a gap, the last of them today up to NOW."""
    days, is_main = {}, environment == "production"
    for back in range(count - 1, -1, -1):
        day = NOW.date() - timedelta(days=back)
        # members join in September, and some leave at the end of the year
        members = (
            388 + 24 * max(0, 90 - back) // 90 - 9 * max(0, min(30, 345 - back)) // 30 if is_main else 30
        )
        days[day] = full_day(day, members, 21_000_000 + 55_000 * (count - back) if is_main else 1_800_000)
    days[NOW.date()] = full_day(
        NOW.date(),
        412 - 9 if is_main else 30,
        days[NOW.date()].stored_bytes,
        last=int(NOW.timestamp()) - 300,
        stored=71,
    )
    return days


def page(folder: Path, scene: str) -> str:
    """The page of that scene, one of SCENES, from a state folder below `folder`."""
    found = settings_in(folder)
    changed, days = SCENES[scene]()
    for environment, of_days in days.items():
        record(found, environment, of_days)
    if scene != "new":
        state_files.write(
            job_records._file(found.main.state, "prove"),
            vars(Record(passed=NOW - timedelta(days=200), details={"who": "Hidden Person"})),
        )
    return "\n".join(status_page.as_html(found, lines(changed), NOW)) + "\n"


def _well():
    return {}, {name: days_of(name, 395) for name in ("production", "demo")}


def _gap():
    changed, days = _well()
    today = NOW.date()

    def back(count):
        return today - timedelta(days=count)

    for count in (11, 12):
        del days["production"][back(count)], days["demo"][back(count)]
    noon = int(datetime.combine(back(13), datetime.min.time()).timestamp()) + 43_200
    for name in ("production", "demo"):
        of_days = days[name]
        of_days[back(13)] = full_day(back(13), 405, of_days[back(14)].stored_bytes, last=noon, stored=60)
        of_days[back(10)] = full_day(
            back(10), 405, of_days[back(9)].stored_bytes, first=noon + 3 * 86_400, stored=60
        )
    days["demo"][back(3)] = full_day(back(3), 30, 1_800_000, failed=4)
    days["production"][back(21)] = full_day(back(21), 401, 40_000_000, longest_gap_s=8_040)
    return changed, days


def _bad():
    _, days = _well()
    today = NOW.date()
    for name in ("production", "demo"):
        days[name] = {day: one for day, one in days[name].items() if day >= today - timedelta(days=19)}
    old = full_day(today, 0, 42_000_000, last=int(NOW.timestamp()) - 18_000, failed=25, stored=46)
    days["production"][today] = old
    day = today - timedelta(days=1)
    days["production"][day] = full_day(day, 403, 42_000_000, failed=3)
    changed = {
        ("production", "snapshots"): bad(
            SECRET, SECRET, newest_snapshot_timestamp_seconds=NOW.timestamp() - 18_000
        ),
        ("production", "cron"): bad(SECRET, SECRET),
        ("", "check"): bad(SECRET, SECRET, check_success_timestamp_seconds=NOW.timestamp() - 2_000_000),
        ("", "volume"): unknown(SECRET),
    }
    return changed, days


def _new():
    subjects = {("", "off-site copy"): unknown(SECRET), ("", "check"): unknown(SECRET)}
    return subjects, {}


def _notes():
    _, days = _well()
    subjects = (("", "off-site copy"), ("", "monitor"), ("", "user"), ("production", "live database"))
    return {subject: note(SECRET, SECRET) for subject in subjects}, days


SCENES = {"well": _well, "notes": _notes, "gap": _gap, "bad": _bad, "new": _new}
