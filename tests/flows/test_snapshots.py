"""make snapshots: how many rows were in each snapshot, on record since it was taken or counted later, as the list shows it."""

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from dodeka_db import data_description
from dodeka_db.flows import snapshot_table
from dodeka_db.flows.snapshots import Listing
from dodeka_db.host import row_records
from dodeka_db.restic.snapshots import Snapshot
from dodeka_db.settings import load
from dodeka_db.sqlite import sample_data
from site_folder import RESTIC, ROOT, Site, run_first
from waiting import wait_for

TAGS = "db,db_sqlite,db_dodeka,env_production"
# the members with a user ID of 20 or more
GONE = [
    "DELETE FROM users WHERE CAST(key AS INTEGER) >= 20",
    "DELETE FROM birthdays WHERE CAST(key AS INTEGER) >= 20",
    "DELETE FROM users_by_email WHERE CAST(value AS INTEGER) >= 20",
    "INSERT INTO outbox SELECT 'new-' || key, counter, expiration, value FROM outbox LIMIT 12",
]


def change(site: Site, *statements: str, environment: str = "production") -> None:
    with closing(sqlite3.connect(site.database(environment), isolation_level=None)) as backend:
        for statement in statements:
            backend.execute(statement)


def row_counts(database: Path) -> dict[str, int]:
    with closing(sqlite3.connect(database)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
    assert len(counts) == len(sample_data.TABLES)
    return counts


def on_record(state: Path) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in state.glob("rows/*")}


def last_cells(table: str) -> list[str]:
    """The last column of the lines of a table, those of one snapshot in one."""
    cells: list[str] = []
    for line in table.splitlines():
        assert len(line) <= 80, line
        if match := re.match(r"[0-9a-f]{8}  .*(?:seconds?|minutes)  +(?:[\d.]+ k?B|\?)  (.*)", line):
            cells.append(match[1])
        elif line.startswith(" " * 20):
            cells[-1] += f" {line.strip()}"
    return cells


@pytest.mark.parametrize("format", ["zst", "pages"])
def test_backup_and_cron_put_the_rows_on_record(site, format):
    site.ok("backup", "production", DODEKA_FORMAT=format)
    before = row_counts(site.database())
    change(site, *GONE)
    site.loses("cron", "production", DODEKA_FORMAT=format)
    first, second = site.snapshots()
    assert (first["rows"], second["rows"]) == (before, row_counts(site.database()))
    assert on_record(site.state) == {
        one["stored_as"][:8]: {"stored_bytes": one["stored_bytes"], "rows": one["rows"]}
        for one in (first, second)
    }
    assert {file.stat().st_mode & 0o777 for file in site.state.glob("rows/*")} == {0o600}


def test_the_list_and_the_sizes_are_asked_for_at_the_same_time_under_one_lock(site, tmp_path):
    """Two locks made each restic stumble over the other's, which made a server look lost. A fake keeps the list waiting."""
    site.ok("backup", "production")
    restic, locks = tmp_path / "restic", tmp_path / "locks"
    run_first(
        restic,
        f"case $1 in find) : > {tmp_path}/asked ;; snapshots) until [ -e {tmp_path}/asked ]; do sleep 0.1; done ;; esac"
        f'\n[ $1 != find ] || exec strace -f -qqo {locks} -etrace=mkdir,openat,renameat,rename {RESTIC} "$@"',
    )
    listed = json.loads(site.ok("snapshots", "--json", RESTIC=str(restic)))
    assert [one["stored_bytes"] > 1000 for one in listed] == [True]
    assert (
        f"{site.repository}/keys" in locks.read_text()
        and f"{site.repository}/locks/" not in locks.read_text()
    )


def test_the_accident_and_what_the_restore_replaced_are_seen_in_the_list(site):
    site.ok("backup", "production")
    site.ok("backup", "production")
    change(site, *GONE)
    site.loses("backup", "production")
    change(site, "DELETE FROM outbox WHERE key LIKE 'new-%'")
    good = site.snapshots()[0]["short_id"]
    site.ok("restore", "production", "--snapshot", good, "--yes")
    site.ok("backup", "production")
    listed = site.ok("snapshots", "production")
    assert [" ".join(line.split()) for line in listed.splitlines()][:1] == ["ID When Ago Size Number of rows"]
    assert last_cells(listed) == [
        "400 members",
        'pinned "the last one before a loss of rows": same',
        "users_by_email -380, users -2280, birthdays -380, outbox +12",
        "pre-restore: outbox -12",
        "users_by_email +380, users +2280, birthdays +380",
    ]
    table = listed.partition("oldest copy: ")[0]
    assert not re.search(r"\b20\d\d\b|env_|db_dodeka|zst", table), (
        "neither this year, nor what all have in common"
    )

    question = site.run("restore", "production", stdin="nothing\n").stdout
    assert last_cells(question) == last_cells(listed)


def test_of_both_environments_each_with_its_own_history(site):
    for environment in ("production", "demo", "production", "demo"):
        site.ok("backup", environment)
        change(site, "DELETE FROM tokens", environment=environment)
    *lines, oldest = site.ok("snapshots").splitlines()
    assert oldest.startswith("oldest copy: ")
    assert [line for line in lines if not re.match("[0-9a-f]{8} |ID ", line)] == ["production", "", "demo"]
    assert last_cells("\n".join(lines)) == ["400 members", "tokens -8", "30 members", "tokens -1"]


def test_another_format_than_the_one_that_is_set_is_named(site):
    site.ok("backup", "production", DODEKA_FORMAT="pages")
    site.ok("backup", "production")
    assert last_cells(site.ok("snapshots", "production")) == ["pages: 400 members", "same"]
    assert last_cells(site.ok("snapshots", "production", DODEKA_FORMAT="pages")) == [
        "400 members",
        "zst: same",
    ]


def test_what_is_not_on_record_is_counted_by_fetching_it(site):
    for _ in range(3):
        site.ok("backup", "production")
        change(site, "DELETE FROM tokens WHERE key IN (SELECT key FROM tokens LIMIT 2)")
    expected = site.snapshots()
    first, second, _ = (site.state / "rows" / f"{one['short_id']}.json" for one in expected)
    record = second.read_bytes()
    first.unlink()
    second.write_text('{"stored_bytes": 1, "rows": {"users": 5}}')  # as of a file that restic repaired
    listed = site.ok("snapshots", "production")
    assert last_cells(listed) == ["?", "?", "400 members"]
    assert listed.splitlines()[-3:-1] == [
        "2 snapshots are not counted; to count all:",
        "  make snapshots ENV=production ALL=1",
    ]
    assert [bool(one["rows"]) for one in site.snapshots()] == [False, False, True]

    done = site.run("snapshots", "production", "--all")
    assert (done.returncode, last_cells(done.stdout)) == (0, ["400 members", "tokens -2", "tokens -2"])
    assert "not counted" not in done.stdout
    said = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    ids = [one["short_id"] for one in expected]
    assert said == [
        *(f"downloading snapshot {ids[0]} (zst)", "counted 1 of 2"),
        *(f"downloading snapshot {ids[1]} (zst)", "counted 2 of 2"),
    ]
    assert site.snapshots() == expected
    assert second.read_bytes() == record
    assert site.staged() == []
    assert site.run("snapshots", "production", "--all").stderr == "", "once is enough"


def test_a_damaged_snapshot_keeps_none_of_the_others_from_being_counted(site):
    site.ok("backup", "production")
    for content in (b"no database", zstandard.compress(b"no database")):
        (site.folder / "dodeka-production.sqlite.zst").write_bytes(content)
        site.restic("backup", "--quiet", "--tag", TAGS, str(site.folder / "dodeka-production.sqlite.zst"))
    site.ok("backup", "production")
    shutil.rmtree(site.state / "rows")
    done = site.run("snapshots", "--all")
    assert done.returncode == 0
    assert last_cells(done.stdout) == ["400 members", "?", "?", "400 members"]
    assert len(re.findall(r"warning: snapshot \w{8} is not counted: ", done.stderr)) == 2
    assert "ALL=1" not in done.stdout, "that was tried"


@pytest.mark.slow("it waits")
def test_backups_get_in_between(site):
    """One that waits for the lock comes between two snapshots, not after the last one."""
    for _ in range(4):
        site.ok("backup", "production")
    shutil.rmtree(site.state / "rows")
    slow = site.folder / "restic-slow"
    run_first(slow, '[ "$1" != dump ] || sleep 0.5')
    counting = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-snapshots.py", "production", "--all"],
        env={**site.environ, "RESTIC": str(slow)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: on_record(site.state))
    site.ok("backup", "production", DODEKA_LOCK_WAIT_S="60")
    assert counting.poll() is None
    table, _ = counting.communicate(timeout=60)
    assert (counting.returncode, last_cells(table)) == (0, ["400 members", *["same"] * 3])


def test_a_record_that_cannot_be_written_fails_nothing(site):
    site.state.mkdir(exist_ok=True)
    (site.state / "rows").touch()
    for script in ("backup", "cron"):
        done = site.run(script, "production")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r" warning: .*/rows/\w{8}\.json cannot be written: File exists\n", done.stdout)
    assert last_cells(site.ok("snapshots", "production")) == ["?", "?"]
    done = site.run("snapshots", "production", "--all")
    assert (done.returncode, last_cells(done.stdout)) == (0, ["400 members", "same"])


def test_rows_that_cannot_be_counted_fail_no_backup(site, monkeypatch, caplog):
    """Where the check has passed, nothing is known that keeps the rows from being counted: so a fake."""
    from dodeka_db.errors import DatabaseError
    from dodeka_db.flows import take_snapshot
    from dodeka_db.restic.repository import Repository

    def fails(path: Path) -> None:
        raise DatabaseError("no", "look")

    monkeypatch.setattr(take_snapshot, "row_counts", fails)
    settings = site.settings
    take_snapshot.take_snapshot(
        Repository(settings.main), settings.environment("demo"), site.database("demo")
    )
    assert f"the rows of database {site.database('demo')} are not counted: no; look" in caplog.messages
    assert last_cells(site.ok("snapshots", "demo")) == ["?"]


def test_records_go_with_their_snapshots(site):
    site.ok("backup", "demo")
    site.ok("backup", "production")
    old = (datetime.now() - timedelta(days=400)).strftime("%F %T")
    for tags in (TAGS, f"{TAGS},pre-restore"):
        file = site.folder / "dodeka-production.sqlite.zst"
        file.write_text(tags)
        site.restic("backup", "--quiet", "--time", old, "--tag", tags, str(file))
    for _ in range(10):  # as many as are kept whatever their time
        site.ok("backup", "production")
    before = site.snapshots()
    for one in before:
        if not one["rows"]:
            record = row_records.Record(one["stored_bytes"], {})
            row_records.write(site.state, one["id"], record)
    assert len(on_record(site.state)) == len(before) == 14
    site.ok("cron", "production")
    left = {one["short_id"] for one in site.snapshots()}
    assert len({one["short_id"] for one in before} - left) >= 2
    assert set(on_record(site.state)) == left, "those of demo too"


def test_a_snapshot_whose_tags_change_keeps_its_counts(site):
    site.ok("backup", "production")
    (before,) = site.snapshots()
    site.restic("tag", "--add", "pinned", before["id"])
    (after,) = site.snapshots()
    assert after["id"] != before["id"] and "pinned" in after["tags"]
    assert (after["rows"], after["stored_as"]) == (before["rows"], before["id"])
    site.ok("cron", "production")
    assert site.snapshots()[0]["rows"] == before["rows"]


def test_a_mistake_in_the_description_of_the_data_stops_no_list(site, monkeypatch, tmp_path, caplog):
    broken = tmp_path / "data.toml"
    broken.write_text("[kinds")
    site.ok("backup", "production")
    monkeypatch.setattr(data_description.read, "__defaults__", (broken,))
    from dodeka_db.flows import snapshots

    listing = snapshots.listed(site.settings.main, "production", count_all=False)
    rows = sum(row_counts(site.database()).values())
    assert last_cells("\n".join(snapshot_table.as_tables(listing, ["production"]))) == [f"{rows} rows"]
    assert any("the tables of members are not known" in message for message in caplog.messages)


def test_an_old_snapshot_without_a_year_would_be_taken_for_one_of_this_year():
    now = datetime.now().astimezone()
    for time, shown in (
        (now, f"{now:%a %d %b %H:%M}"),
        (now.replace(year=2025, month=1, day=2), "Thu 02 Jan 2025 "),
    ):
        assert f"{1:08}  {shown}" in listed([({"users": 1}, "zst")], time)[1]


# --- the width, and names from a hostile database


def listed(rows: list[tuple[dict | None, str]], time: datetime | None = None, **environ: str) -> list[str]:
    time = time or datetime(2025, 11, 30, 23, 59).astimezone()
    settings = load({"DODEKA_BACKUP_ENV": "/dev/null", **environ}).main
    found = [
        Snapshot(f"{n:08}{n:056}", time, "production", (), "host", f"/dodeka-production.sqlite.{format}", "")
        for n, (_, format) in enumerate(rows, start=1)
    ]
    by_id = {one.id: counts for one, (counts, _) in zip(found, rows, strict=True) if counts is not None}
    sizes = {one.id: 999_499_999 for one in found}
    return snapshot_table.as_tables(Listing(settings, found, sizes, by_id, found[:1]), ["production"])


def test_however_many_tables_change_and_whatever_their_names_are_the_list_is_80_wide():
    evil = "x\x1b[2J\r\n2026-01-01T00:00:00 error: \u202e\ud800"
    many = {f"table {n} {'y' * (n % 90)}": n for n in range(300)}
    before = {evil: 2**62, "": 3, "outbox": 7, "users": 10, "z" * 1500: 1, **many}
    lines = listed(
        [(before, "zst"), ({"users": 4, "outbox": 9}, "pages"), (None, "zst"), ({"users": 1}, "zst")]
    )
    assert [line for line in lines if len(line) > 80 or not line.isprintable()] == []
    (first,) = [line for line in lines if line.startswith("00000002 ")]
    assert "pages: users -6," in first, "members first"
    assert lines[-5].endswith(" outbox +2"), "what is of the moment last"
    cells = "".join(line[lines[0].index("Number") :] for line in lines)
    assert sum(f"table {n} " in cells for n in range(1, 300)) > 250, (
        "none is left out but for names that are broken"
    )
    assert r"x\u001b[2J" in cells and r"\u202e" in cells


def test_what_the_last_column_says():
    def last(*rows: dict | None) -> str:
        line = listed([(counts, "zst") for counts in rows])[len(rows)]
        return line[line.index(" MB  ") + 5 :]

    assert last({"users_by_email": 1}) == "1 member"
    assert last({"photos": 1, "search": None}) == "1 row"
    assert last({}) == "0 rows"
    assert last(None) == "?"
    assert last(None, {"users_by_email": 7}) == "7 members", "nothing to compare it with"
    assert last({"users": 1}, None) == "?"
    assert last({"users": 1, "search": None}, {"users": 1, "search": None}) == "same"
    assert last({"users": 1}, {"users": 1, "search": None}) == "search ?"
    assert last({"users": 2}, {"new": 1}) == "users -2, new +1"
    assert last({"new": 0}, {"users": 0}) == "same"


def test_the_command_that_counts_names_the_settings_file_and_the_repository(twin_settings):
    lines = snapshot_table.as_tables(Listing(twin_settings, [], {}, {}, [None]), ["production", "demo"])
    assert lines[-2:] == [
        "1 snapshot is not counted; to count all:",
        "  make snapshots ALL=1 OFFSITE=1 CONFIG=/etc/other.env",
    ]


@pytest.fixture
def twin_settings(monkeypatch, tmp_path):
    file = tmp_path / "other.env"
    file.touch(0o600)
    found = load({"DODEKA_BACKUP_ENV": str(file), "OFFSITE_REPOSITORY": "/mnt/there"}).repository(
        offsite=True
    )
    found.variables["DODEKA_BACKUP_ENV"] = "/etc/other.env"
    return found
