"""make changes: what differs between a snapshot and the live database, or another snapshot. Nothing is touched."""

import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from datetime import datetime

import pytest
import zstandard
from test_verify import damage, exported, fingerprint, store

from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site, peak_memory_kb, run_first


def change(site: Site, *statements: str) -> None:
    with closing(sqlite3.connect(site.database(), isolation_level=None)) as backend:
        for statement in statements:
            backend.execute(statement)


def backup(site: Site) -> str:
    site.ok("backup", "production")
    return site.snapshots("production")[-1]["short_id"]


def shown(output: str) -> list[str]:
    """The lines but for those of the log, with one space between two words."""
    lines = [line for line in output.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT", line)]
    return [" ".join(line.split()) for line in lines]


def keys(site: Site) -> list[str]:
    with closing(sqlite3.connect(site.database())) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM birthdays ORDER BY key")]


def accident(site: Site) -> list[str]:
    """Two members are gone, one has another name, and one is new; the keys."""
    first, second, third, *_ = keys(site)
    value = "json_set(CAST(value AS TEXT), '$.voornaam', 'Else', '$.achternaam', null)"
    change(
        site,
        f"DELETE FROM birthdays WHERE key IN ('{first}', '{second}')",
        f"UPDATE birthdays SET counter = 1, value = CAST({value} AS BLOB) WHERE key = '{third}'",
        "INSERT INTO birthdays VALUES ('newcomer', 0, 0, x'00')",
    )
    return [first, second, third]


def test_nothing_differs(site):
    snapshot = backup(site)
    output = site.ok("changes", "production")
    assert shown(output) == [f"no difference in {len(sample_data.TABLES)} tables"]
    assert re.search(rf"done: from snapshot {snapshot} of .* to the live database, [\d.]+ s$", output.strip())


def test_since_the_last_snapshot(site):
    backup(site)
    with closing(sqlite3.connect(site.database(), isolation_level=None)) as backend:
        backend.execute("INSERT INTO outbox VALUES ('new', 0, 0, x'00')")  # stands in the WAL
        before = fingerprint(site.database().parent)
        output = shown(site.ok("changes", "production"))
        assert output == ["table gone new changed", "outbox 0 1 0", "no difference in 16 tables"]
        assert fingerprint(site.database().parent) == before
        first, second, third = accident(site)
        before = fingerprint(site.database().parent)
        output = site.ok("changes", "production", "--rows")
        assert fingerprint(site.database().parent) == before
    assert site.staged() == []
    assert shown(output) == [
        f"gone birthdays {first}",
        f"gone birthdays {second}",
        f"changed birthdays {third} counter, value.voornaam, value.achternaam",
        "new birthdays newcomer",
        "new outbox new",
        "",
        "table gone new changed",
        "birthdays 2 1 1",
        "outbox 0 1 0",
        "no difference in 15 tables",
    ]


def test_between_two_snapshots(site):
    old = backup(site)
    accident(site)
    new = backup(site)
    for environment in ("production", "demo"):
        for file in site.database(environment).parent.iterdir():
            file.unlink()  # which is not needed
    assert "birthdays 2 1 1" in shown(site.ok("changes", "production", "--snapshot", old, "--to=latest"))
    assert "birthdays 1 2 1" in shown(site.ok("changes", "production", "--snapshot", new, "--to", old))
    output = site.ok("changes", "production", "--to", new)
    assert shown(output) == ["no difference in 17 tables"]
    assert re.search(rf"done: from snapshot {new} of .* to snapshot {new} of ", output)
    demo = site.run("changes", "demo", "--snapshot", old)
    assert (demo.returncode, "is of production, not of demo" in demo.stderr) == (4, True)
    for wrong in ("--snapshot=x; true", "--to=--help", "--to=0123456789"):
        done = site.run("changes", "production", wrong)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)


@pytest.mark.slow("a repository of its own")
def test_either_format_and_the_off_site_repository(site):
    old = backup(site)
    accident(site)
    site.ok("backup", "production", DODEKA_FORMAT="pages")
    assert "birthdays 2 1 1" in shown(site.ok("changes", "production", "--snapshot", old, "--to", "latest"))
    offsite = {
        "OFFSITE_REPOSITORY": str(site.folder / "offsite"),
        "OFFSITE_PASSWORD_FILE": str(site.folder / "offsite-password"),
    }
    site.ok("init", "--offsite", "--yes", **offsite)
    site.ok("offsite", **offsite)
    site.repository.rename(site.folder / "away")
    assert "no difference in 17 tables" in site.ok("changes", "production", "--offsite", **offsite)


def test_a_live_database_that_is_missing_damaged_or_locked(site):
    backup(site)
    database = site.database()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        done = site.run("changes", "production")
        assert (done.returncode, f"database {database} is locked by another process" in done.stderr) == (
            3,
            True,
        )
    content = bytearray(database.read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    database.write_bytes(content)
    done = site.run("changes", "production")
    assert (done.returncode, f"error: database {database} is damaged: " in done.stderr) == (3, True)
    assert database.read_bytes() == content
    database.unlink()
    done = site.run("changes", "production")
    assert (done.returncode, f"error: database {database} is missing; " in done.stderr) == (3, True)
    assert not database.exists()
    assert site.staged() == []


def test_a_damaged_snapshot(site):
    backup(site)
    data = exported(site)
    bad = store(site, zstandard.compress(data[:8192] + bytes(len(data) // 2) + data[8192 + len(data) // 2 :]))
    for arguments in ([], ["--snapshot", site.snapshots("production")[0]["short_id"], "--to", bad]):
        done = site.run("changes", "production", *arguments)
        assert done.returncode == 4
        said = rf"error: the database in snapshot {bad} is damaged: .*; choose another snapshot\n$"
        assert re.search(said, done.stderr), done.stderr
    damage(site)
    first = site.snapshots("production")[0]["short_id"]
    done = site.run("changes", "production", "--snapshot", first)
    assert (done.returncode, "the snapshot cannot be read from repository" in done.stderr) == (4, True)
    assert site.staged() == []


def test_in_another_journal_mode_a_copy_is_compared(site):
    """Where a reader keeps writers out, it must be a short one."""
    backup(site)
    change(site, "PRAGMA journal_mode=DELETE")
    accident(site)
    before = fingerprint(site.database().parent)
    output = site.ok("changes", "production")
    assert "birthdays 2 1 1" in shown(output) and f"copying {site.database()}\n" in output
    assert fingerprint(site.database().parent) == before
    assert site.staged() == []


def test_a_backend_that_writes_all_the_time_is_never_refused(site):
    sample_data.create(site.folder / "large.sqlite", members=20_000)
    for file in site.database().parent.iterdir():
        file.unlink()
    (site.folder / "large.sqlite").rename(site.database())
    backup(site)
    ended, written = threading.Event(), []

    def write() -> None:
        with closing(sqlite3.connect(site.database(), isolation_level=None, timeout=0.5)) as backend:
            backend.execute("PRAGMA synchronous=NORMAL")
            while not ended.is_set():
                # both or none
                backend.execute("BEGIN IMMEDIATE")
                backend.execute("INSERT INTO outbox VALUES (?, 0, 0, zeroblob(300))", (f"w{len(written)}",))
                backend.execute("INSERT INTO metadata VALUES (?, 0, 0, zeroblob(3))", (f"w{len(written)}",))
                backend.execute("COMMIT")
                written.append(1)
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        output = shown(site.ok("changes", "production"))
    finally:
        ended.set()
        writer.join()
    (metadata,) = (line.split()[1:] for line in output if line.startswith("metadata "))
    (outbox,) = (line.split()[1:] for line in output if line.startswith("outbox "))
    assert outbox == metadata and 0 < int(outbox[1]) <= len(written)


def test_the_copy_is_ours_alone(site):
    backup(site)
    seen = site.folder / "seen"
    # what stands in the folder of the run while restic dumps the second snapshot
    run_first(
        site.folder / "restic-that-looks",
        f'case "$*" in *dump*) find {site.state}/staging -mindepth 1 -printf "%m %P\\n" >> {seen} ;; esac',
    )
    site.ok("changes", "production", "--to=latest", RESTIC=str(site.folder / "restic-that-looks"))
    found = [line.split() for line in seen.read_text().splitlines()]
    assert {(mode, path.rpartition("/")[2]) for mode, path in found if path.endswith(".sqlite")} == {
        ("600", "0.sqlite"),
        ("600", "1.sqlite"),
    }
    assert {mode for mode, path in found if "/" not in path and path.startswith("dodeka-")} == {"700"}
    assert site.staged() == []


def test_names_and_keys_do_nothing_to_a_terminal(site):
    name = 'x\x1b[2J"\n2026-01-01T00:00:00 done: all is well\u202e'
    quoted = name.replace('"', '""')
    change(site, f'CREATE TABLE "{quoted}" (key TEXT PRIMARY KEY, value)')
    with closing(sqlite3.connect(site.database())) as connection, connection:
        value = json.dumps({name: 1, "x" * 5000: 1})
        connection.execute(f'INSERT INTO "{quoted}" VALUES (?, ?)', (name, value))
        connection.execute(f'INSERT INTO "{quoted}" VALUES (?, ?)', ("k" * 5000, b"\xff" * 5000))
        connection.execute(f"INSERT INTO \"{quoted}\" VALUES (CAST(x'ff1b5b324a' AS TEXT), 1)")
        connection.execute(f'INSERT INTO "{quoted}" VALUES (?, 1)', (b"\x00\x1b" * 3000,))
    backup(site)
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute(f'UPDATE "{quoted}" SET value = ? WHERE key = ?', (json.dumps({name: 2}), name))
        connection.execute(f'DELETE FROM "{quoted}" WHERE key <> ?', (name,))
    output = site.ok("changes", "production", "--rows")
    assert [line for line in output.split("\n") if not line.isprintable()] == []
    rows = output[output.index("comparing\n") :].splitlines()[1:5]
    kinds = sorted(line.split()[0] for line in rows)
    assert kinds == ["changed", "gone", "gone", "gone"]
    assert max(map(len, rows)) < 700
    assert any(r"\udcff\u001b[2J" in line for line in rows) and any("x'001b001b" in line for line in rows)


@pytest.mark.parametrize("name", ["session_cache", "Session_Cache"])
def test_a_key_that_opens_something_is_not_shown_whole(site, name):
    change(
        site,
        "ALTER TABLE session_cache RENAME TO renamed",
        f"ALTER TABLE renamed RENAME TO {name}",
    )
    backup(site)
    change(
        site,
        "DELETE FROM session_cache",
        "DELETE FROM registrations",
        f"INSERT INTO session_cache VALUES ('{'0123456789abcdef' * 4}', 0, 0, x'00')",
    )
    output = shown(site.ok("changes", "production", "--rows"))
    assert f"new {name} 01234567..." in output
    rows = output[: output.index("")]
    assert len(rows) > 100
    assert [line for line in rows if re.search("[0-9a-f]{9}", line)] == []


def test_a_snapshot_by_its_time_and_by_its_place_in_the_list(site):
    old = backup(site)
    accident(site)
    backup(site)
    assert f"from snapshot {old} of" in site.ok("changes", "production", "--snapshot", "latest~1")
    assert "birthdays 1 2 1" in shown(site.ok("changes", "production", "--to", "latest~1"))
    done = site.run("changes", "production", "--at", "2020-01-01 00:00")
    assert (done.returncode, "no snapshot of production is of" in done.stderr) == (4, True)
    done = site.run("changes", "production", "--at", "03:00", "--snapshot", old)
    assert (done.returncode, "not allowed with argument" in done.stderr) == (2, True)


def test_with_a_snapshot_that_is_chosen_by_a_time(site):
    old = backup(site)
    time.sleep(1.1)  # a time has whole seconds
    between = datetime.now().astimezone().replace(microsecond=0).isoformat()
    time.sleep(1.1)
    change(site, "DELETE FROM birthdays WHERE rowid <= 100")
    new = backup(site)
    output = site.ok("changes", "production", "--snapshot", new, "--to", between)
    assert "birthdays 0 100 0" in shown(output)
    assert re.search(rf"done: from snapshot {new} of .* to snapshot {old} of ", output)
    done = site.run("changes", "production", "--to", "25:00")
    assert (done.returncode, "'25:00' is not a time" in done.stderr) == (4, True)


def test_so_many_rows_are_named_and_no_more(site):
    backup(site)
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.executemany(
            "INSERT INTO metadata VALUES (?, 0, 0, x'00')", ((f"{number:06}",) for number in range(10_500))
        )
    output = shown(site.ok("changes", "production", "--rows"))
    assert output[0] == "new metadata 000000" and output[9_999] == "new metadata 009999"
    assert output[10_000:10_002] == ["and 500 rows more, which are not named", ""]
    assert "metadata 0 10500 0" in output


def test_a_table_that_cannot_be_compared_and_one_that_is_new(site):
    change(
        site,
        "CREATE TABLE extra (key TEXT PRIMARY KEY, value)",
        "CREATE VIRTUAL TABLE notes USING fts5(body)",
    )
    backup(site)
    change(
        site, "ALTER TABLE extra ADD COLUMN more", "CREATE TABLE newer (a)", "INSERT INTO newer VALUES (1)"
    )
    output = shown(site.ok("changes", "production"))
    database = f"database {site.database()}"
    assert "newer 0 1 0" in output
    assert f"extra: only {database} has the column more, which is left out" in output
    assert f"newer: only {database} has this table" in output
    assert "notes is not compared: a virtual table" in output
    assert "notes_data is not compared: part of the virtual table notes" in output


def test_no_room(site, small_disk):
    backup(site)
    done = site.run("changes", "production", DODEKA_STATE=str(small_disk / "state"))
    assert done.returncode == 1
    assert re.search(
        r"error: no room left for the database in .*; free some space, or set DODEKA_STATE", done.stderr
    )


def test_one_run_at_a_time(site):
    backup(site)
    site.state.mkdir(exist_ok=True)
    with open(site.state / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = site.run("changes", "production")
    assert (done.returncode, "another run holds" in done.stderr) == (75, True)


@pytest.mark.slow("a large database")
def test_a_large_database_takes_little_memory(site):
    sample_data.create(site.folder / "large.sqlite", members=100_000)
    for file in site.database().parent.iterdir():
        file.unlink()
    (site.folder / "large.sqlite").rename(site.database())
    backup(site)
    change(site, "UPDATE volta_data SET counter = 1")
    process = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-changes.py", "production", "--rows"],
        env=site.environ,
        stdout=subprocess.DEVNULL,
    )
    assert peak_memory_kb(process) < 150_000
    assert process.returncode == 0


def test_ctrl_c_leaves_nothing(site):
    backup(site)
    slow, mark = site.folder / "slow-restic", site.folder / "here"
    run_first(slow, f'case "$*" in *dump*) touch {mark}; exec sleep 60 ;; esac')
    process = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-changes.py", "production"],
        env={**site.environ, "RESTIC": str(slow)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not mark.exists():
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=50)
    assert process.returncode == 130 and "interrupted (SIGINT)" in stderr
    assert site.staged() == []
