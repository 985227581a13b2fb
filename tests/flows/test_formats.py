"""Snapshots of both formats: each kind by itself, the two in any mixture, and what stands in BACKUP.md of them."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db.flows import take_snapshot
from dodeka_db.restic import repository
from dodeka_db.sqlite import integrity, sample_data
from dodeka_db.sqlite.export import size_bytes
from site_folder import RESTIC, ROOT, Site, run_first

FORMATS = ("zst", "pages")
TAGS = "db,db_sqlite,db_dodeka,env_production"


def take(site: Site, format: str, environment: str = "production") -> str:
    """Back up in `format`; the new snapshot's ID."""
    site.ok("backup", environment, DODEKA_FORMAT=format)
    return site.snapshots(environment)[-1]["short_id"]


def change(site: Site, name: str, environment: str = "production") -> str:
    """Another row; the database's digest."""
    with closing(sqlite3.connect(site.database(environment))) as connection, connection:
        connection.execute("INSERT INTO users_by_email VALUES (?, 0, 0, x'00')", (name,))
    return sample_data.digest(site.database(environment))


def dumped(site: Site, snapshot: str, path: str) -> bytes:
    """The file in a snapshot, got with restic alone."""
    return subprocess.run(
        [RESTIC, "dump", snapshot, path], env=site.environ, capture_output=True, check=True
    ).stdout


@pytest.mark.slow("each order")
@pytest.mark.parametrize("order", [FORMATS, FORMATS[::-1]])
def test_both_kinds_are_listed_checked_and_restored_in_any_mixture(site, order):
    taken = []
    for number, format in enumerate(order * 2):
        digest = change(site, f"{number}")
        taken.append((take(site, format), format, digest))
    listed = site.snapshots("production")
    assert [(entry["short_id"], entry["format"]) for entry in listed] == [(id, f) for id, f, _ in taken]
    assert {(entry["format"], entry["path"]) for entry in listed} == {
        ("zst", "/dodeka-production.sqlite.zst"),
        ("pages", "/dodeka-production.sqlite"),
    }
    assert {entry["host"] for entry in listed} and {tuple(entry["tags"]) for entry in listed} == {
        tuple(TAGS.split(","))
    }
    # the list names a format where it is not the one that is set
    shown = site.ok("snapshots", "production").splitlines()[1:-1]
    named = [(line.split()[0], "pages" if " pages: " in line else "zst") for line in shown]
    assert named == [(id, format) for id, format, _ in taken]
    for id, format, digest in taken:
        assert f"done: snapshot {id} ({format}) of" in site.ok("verify", "production", "--snapshot", id)
        output = site.ok("restore", "production", "--snapshot", id, "--yes")
        assert f"downloading snapshot {id} ({format})\n" in output
        assert sample_data.digest(site.database()) == digest


@pytest.mark.slow("each format", keep=["zst"])
@pytest.mark.parametrize("format", FORMATS)
def test_undo_takes_either_kind(site, format):
    take(site, "zst" if format == "pages" else "pages")
    before = change(site, "late")
    site.ok("restore", "production", "--snapshot", "latest", "--yes", DODEKA_FORMAT=format)
    assert sample_data.digest(site.database()) != before
    newest = site.snapshots("production")[-1]
    assert (newest["format"], "pre-restore" in newest["tags"]) == (format, True)
    # whatever is set by then
    site.ok("undo", "production", "--yes", DODEKA_FORMAT=FORMATS[format == "zst"])
    assert sample_data.digest(site.database()) == before


def test_production_s_pages_become_demo_s_database(site):
    take(site, "pages")
    whole = "--clone=whole", "--from", "production", "--snapshot", "latest"
    site.ok("restore", "demo", *whole, stdin="with mails and sessions\n")
    assert sample_data.digest(site.database("demo")) == sample_data.digest(site.database("production"))


def test_pages_are_restored_with_restic_alone(site):
    digest = change(site, "x")
    id = take(site, "pages")
    (site.folder / "by-hand").write_bytes(dumped(site, id, "/dodeka-production.sqlite"))
    assert sample_data.digest(site.folder / "by-hand") == digest
    site.restic("restore", "--quiet", id, "--target", str(site.folder / "restored"))
    assert sample_data.digest(site.folder / "restored" / "dodeka-production.sqlite") == digest


@pytest.mark.slow("dozens of runs")
def test_a_cron_run_reads_pages_back_and_ages_both_kinds_out_together(site):
    for format in FORMATS * 6:
        change(site, format + str(len(site.snapshots())))
        take(site, format)
    output = site.ok("cron", "production", DODEKA_FORMAT="pages")
    assert "reading it back\n" in output
    # 13 within the hour, of which the policy keeps the latest 10
    assert int(re.search(r"(\d+) old snapshots? removed", output)[1]) >= 1
    left = [entry["format"] for entry in site.snapshots("production")]
    assert len(left) < 13 and left[-9:] == [*FORMATS * 4, "pages"]


def test_one_more_snapshot_of_pages_costs_what_changed(site):
    site.database().unlink()
    sample_data.create(site.database(), members=12_000)
    take(site, "pages")
    before = site.repository_bytes()
    change(site, "one row")
    take(site, "pages")
    # the table's last page and one of its index: two of restic's chunks, compressed, of 17 MB
    assert site.repository_bytes() - before < size_bytes(site.database()) / 4


def test_deleted_rows_are_in_pages_and_not_in_zst(site):
    secret = b"a-secret-of-a-member-who-left"
    with closing(sqlite3.connect(site.database())) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        with connection:
            connection.execute("INSERT INTO users_by_email VALUES ('left', 0, 0, ?)", (secret,))
        with connection:
            connection.execute("DELETE FROM users_by_email WHERE key = 'left'")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = dumped(site, take(site, "pages"), "/dodeka-production.sqlite")
    archive = dumped(site, take(site, "zst"), "/dodeka-production.sqlite.zst")
    unpacked = subprocess.run(["zstd", "-dc"], input=archive, capture_output=True, check=True).stdout
    assert secret in pages and secret not in unpacked


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_stored_whatever_its_journal_mode(site, format):
    with closing(sqlite3.connect(site.database())) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    digest = change(site, "x")
    id = take(site, format)
    change(site, "y")
    site.ok("restore", "production", "--snapshot", id, "--yes")
    assert sample_data.digest(site.database()) == digest


class TestDamagedPages:
    @pytest.fixture
    def whole(self, site) -> bytes:
        return dumped(site, take(site, "pages"), "/dodeka-production.sqlite")

    def refused(self, site: Site, content: bytes, said: str) -> None:
        folder = site.folder / "odd"
        folder.mkdir(exist_ok=True)
        (folder / "dodeka-production.sqlite").write_bytes(content)
        site.restic("backup", "--quiet", "--tag", TAGS, str(folder / "dodeka-production.sqlite"))
        id = site.snapshots("production")[-1]["short_id"]
        digest = sample_data.digest(site.database())
        for done in (
            site.run("restore", "production", "--snapshot", id, "--yes"),
            site.run("verify", "production", "--snapshot", id),
        ):
            assert (done.returncode, done.stderr.count("\n")) == (4, 1), done
            assert said in done.stderr
        assert sample_data.digest(site.database()) == digest
        assert os.listdir(site.database().parent) == ["db.sqlite"]

    def test_cut_off(self, site, whole):
        self.refused(site, whole[:-4096], "where its header says")

    def test_changed(self, site, whole):
        self.refused(site, whole[:40_960] + os.urandom(81_920) + whole[122_880:], "is damaged")

    def test_something_else(self, site):
        self.refused(site, b"hello" * 100, "is not an SQLite database")

    def test_nothing(self, site):
        self.refused(site, b"", "is empty")


def lose_an_index_row(path: Path) -> None:
    """Damage that quick_check does not see: an index that has an entry for something else in its place.

    From 3.46 on it counts them.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.execute("INSERT INTO t VALUES (1000, 0)")
        connection.execute("CREATE INDEX i ON t (b)")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (a)' WHERE name = 'i'")
        connection.execute("PRAGMA writable_schema=RESET")


def lose_an_index_row_again(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (a) WHERE b > 0' WHERE name = 'i'"
        )
        connection.execute("PRAGMA writable_schema=RESET")
        connection.execute("INSERT INTO t VALUES (2000, 0)")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (a)' WHERE name = 'i'")
        connection.execute("PRAGMA writable_schema=RESET")


@pytest.fixture
def large(site) -> Site:
    """Production too large for a full check at each backup."""
    site.database().unlink()
    sample_data.create(site.database(), members=16_000)
    assert size_bytes(site.database()) > take_snapshot.FULL_CHECK_BYTES
    return site


@pytest.mark.slow("20 MB")
@pytest.mark.parametrize("format", FORMATS)
def test_a_large_one_has_its_indexes_checked_by_the_drill_and_rebuilt_by_a_restore(large, format):
    whole = take(large, format)
    lose_an_index_row(large.database())
    done = large.run("backup", "production", DODEKA_FORMAT=format)
    assert done.returncode in (0, 3)  # SQLite 3.46's quick_check finds it, 3.40's does not
    damaged = large.snapshots("production")[-1]["short_id"]
    said = f"warning: the database in snapshot {damaged}: SQLite's check says: "
    assert said in large.ok("verify", "production")
    output = large.ok("restore", "production", "--snapshot", damaged, "--yes", DODEKA_FORMAT=format)
    assert "\nIts indexes were damaged, and are rebuilt: " in output and "missing from index i" in output
    integrity.verify(large.database(), "it")
    lose_an_index_row_again(large.database())
    # what is replaced is stored, so that an undo brings it back
    output = large.ok("restore", "production", "--snapshot", whole, "--yes", DODEKA_FORMAT=format)
    assert large.snapshots("production")[-1]["tags"][-1] == "pre-restore"
    large.ok("undo", "production", "--yes", DODEKA_FORMAT=format)
    with closing(sqlite3.connect(large.database())) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT a FROM t").fetchall() == [(1000,), (2000,)]


@pytest.mark.slow("each format", keep=["zst"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_backup_that_is_asked_to_end_leaves_nothing_behind(large, format):
    for delay_s in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7):
        run = subprocess.Popen(
            [ROOT / "bin" / "dodeka-db-backup.py", "production"],
            env={**large.environ, "DODEKA_FORMAT": format},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(delay_s)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=20)[1]
        # before Python has its handlers a signal just ends it; behind the last step it comes too late
        assert (run.returncode, said.count("\n")) in ((143, 1), (-signal.SIGTERM, 0), (0, 0)), said
        assert large.staged() == []
    take(large, format)  # whatever lock restic has left, where it had just begun
    assert "is a whole database" in large.ok("verify", "production")


def test_pages_need_less_room_than_zst(site, small_disk):
    """For the database and what restic has of it in temporary files, not for a second one."""
    size = size_bytes(site.database())
    subprocess.run(["mount", "-o", f"remount,size={size * 8 // 5 // 1024}k", small_disk], check=True)
    state = str(small_disk / "state")
    done = site.run("backup", "production", DODEKA_STATE=state, RESTIC_CACHE_DIR=str(site.folder / "cache"))
    assert (done.returncode, "no room left for the export" in done.stderr) == (1, True)
    site.ok(
        "backup",
        "production",
        DODEKA_STATE=state,
        DODEKA_FORMAT="pages",
        RESTIC_CACHE_DIR=str(site.folder / "cache"),
    )


class TestFormat1:
    """A repository of restic's older format, which compresses nothing."""

    @pytest.fixture
    def old(self, site) -> Site:
        for path in sorted(site.repository.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        site.restic("init", "--quiet", "--repository-version", "1")
        return site

    @pytest.mark.slow("restic makes all anew")
    def test_zst_is_stored_and_restored(self, old):
        digest = sample_data.digest(old.database())
        id = take(old, "zst")
        change(old, "x")
        old.ok("restore", "production", "--snapshot", id, "--yes")
        assert sample_data.digest(old.database()) == digest
        assert "warning" not in old.ok("init")

    @pytest.mark.slow("restic makes all anew")
    def test_init_warns_of_pages_until_it_is_upgraded(self, old):
        output = old.ok("init", DODEKA_FORMAT="pages")
        assert f"warning: {repository.NO_COMPRESSION}; {repository.UPGRADE}" in output
        digest = sample_data.digest(old.database())
        ids = [take(old, format) for format in FORMATS]
        before = old.repository_bytes()
        # what BACKUP.md says, 'Format'
        old.restic("migrate", "upgrade_repo_v2")
        old.restic("prune", "--repack-uncompressed")
        assert old.repository_bytes() < before / 2
        assert "warning" not in old.ok("init", DODEKA_FORMAT="pages")
        for id in ids:
            change(old, id)
            old.ok("restore", "production", "--snapshot", id, "--yes")
            assert sample_data.digest(old.database()) == digest

    def test_status_says_so(self, old):
        done = old.run("status", DODEKA_FORMAT="pages")
        assert f"format          {repository.NO_COMPRESSION}" in done.stdout
        assert f"fix: {repository.UPGRADE}" in done.stdout
        assert re.search(r"production +snapshots +no snapshot yet", done.stdout), "all else is seen"
        assert repository.NO_COMPRESSION not in old.run("status").stdout


def test_a_setting_that_is_no_format(site):
    done = site.run("backup", "production", DODEKA_FORMAT="gzip")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.endswith("DODEKA_FORMAT=gzip is not one of the formats; choose zst or pages\n")


def test_what_the_repository_grew_by(site):
    before = site.repository_bytes()
    output = site.ok("backup", "production", DODEKA_FORMAT="pages")
    grown = site.repository_bytes() - before
    # restic before 0.17 knows only what there was before it compressed
    at_most, number, unit = re.search(r"repository grew by (at most )?([\d.]+) (kB|MB)", output).groups()
    said = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    if at_most:
        assert said > grown
    else:
        assert said == pytest.approx(grown, rel=0.05)


def test_restic_compresses_pages_and_not_what_is_compressed(site):
    compressed = {}
    for format in FORMATS:
        take(site, format)
        blobs = [
            blob
            for index in site.restic("list", "index", "--quiet").stdout.split()
            for pack in json.loads(site.restic("cat", "index", index).stdout)["packs"]
            for blob in pack["blobs"]
            if blob["type"] == "data" and blob["id"] not in compressed
        ]
        assert blobs
        assert all(("uncompressed_length" in blob) == (format == "pages") for blob in blobs)
        compressed.update((blob["id"], format) for blob in blobs)


def test_restic_is_started_no_more_often_than_needed(site):
    log = site.folder / "starts"
    counting = site.folder / "counting-restic"
    run_first(counting, f"echo $1 >> {log}")
    for format in FORMATS:
        site.ok("backup", "production", RESTIC=str(counting), DODEKA_FORMAT=format)
    assert log.read_text().split() == ["backup", "dump", "backup", "dump"]
    log.unlink()
    site.ok("cron", "production", RESTIC=str(counting))
    site.ok("cron", "production", RESTIC=str(counting))
    # snapshots are listed once, then on record (tests/restic/test_listing_record.py); the size is looked up once a day
    began, *beside, forgot, counted = (started := log.read_text().split())[:5]
    assert (began, sorted(beside), forgot, counted) == ("backup", ["dump", "snapshots"], "forget", "stats")
    assert started[5:] == ["backup", "dump", "forget"]


@pytest.mark.parametrize("script", ["backup", "cron"])
def test_a_run_has_imported_only_what_it_needs(script):
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='imported');print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code, ROOT / "bin" / f"dodeka-db-{script}.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "bin")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "sqlite3" in loaded
    unneeded = {"sh", "asyncio", "zstandard", "urllib.request", "http.client", "dodeka_db.flows.restore"}
    assert unneeded & set(loaded) == set()
