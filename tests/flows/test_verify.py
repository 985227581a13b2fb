"""The drill and the repository's check: what is whole passes and is written down, what is damaged is found."""

import json
import re
import sqlite3
import subprocess
import zlib
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from dodeka_db import data_description
from dodeka_db.flows import verify
from site_folder import RESTIC, Site

TAGS = "db,db_sqlite,db_dodeka,env_production"


def record(site: Site, job: str) -> dict:
    file = site.state / "records" / f"{job}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def fingerprint(folder: Path) -> dict[str, tuple]:
    """Every file's content and time of change; SQLite's index of the WAL is any reader's to write."""
    return {
        path.name: (zlib.crc32(path.read_bytes()), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


def store(site: Site, content: bytes) -> str:
    """A snapshot of production with `content` in it, made by restic alone; its short ID."""
    file = site.folder / "dodeka-production.sqlite.zst"
    file.write_bytes(content)
    site.restic("backup", "--quiet", "--tag", TAGS, str(file))
    return site.snapshots("production")[-1]["short_id"]


def exported(site: Site) -> bytes:
    copy = site.folder / "copy.sqlite"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(site.database())) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy.read_bytes()


class TestVerify:
    def test_the_newest_snapshot_passes_and_the_live_database_is_only_read(self, site):
        with closing(sqlite3.connect(site.database(), isolation_level=None)) as backend:
            site.ok("backup", "production")
            backend.execute("INSERT INTO outbox VALUES ('new', 0, 0, x'00')")  # stands in the WAL
            before = fingerprint(site.database().parent)
            output = site.ok("verify", "production")
            assert fingerprint(site.database().parent) == before
        rows = {line.split()[2]: line.split()[3:] for line in output.splitlines()}
        assert rows["table"] == ["rows", "live"]
        assert rows["users_by_email"] == ["400", "400"] and rows["outbox"] == ["20", "21"]
        newest = site.snapshots("production")[-1]["short_id"]
        assert re.search(
            rf"done: snapshot {newest} \(zst\) of .* is a whole database, [\d.]+ s$", output.strip()
        )
        passed = record(site, "drill-production")
        assert passed["passed"] and passed["failed"] is None and passed["details"] == {"snapshot": newest}
        assert site.staged() == []

    def test_what_the_description_of_the_data_does_not_have_is_a_warning(self, site):
        with closing(sqlite3.connect(site.database())) as backend, backend:
            backend.execute("CREATE TABLE trophies (key TEXT PRIMARY KEY, value BLOB)")
            backend.execute("INSERT INTO trophies VALUES ('12_anna_voorbeeld', x'00')")
            backend.execute("INSERT INTO private VALUES ('x', 0, 0, CAST('{\"since\": 2020}' AS BLOB))")
        site.ok("backup", "production")
        output = site.ok("verify", "production")
        assert re.findall(r" warning: (.*)", output) == [
            "deploy/data.toml, table trophies: in the database, but not described",
            "deploy/data.toml, table private: value.since: a field that is not described (rows: 1)",
        ]
        assert record(site, "drill-production")["passed"]

    def test_of_many_differences_the_first_ones_are_named(self, site):
        with closing(sqlite3.connect(site.database())) as backend, backend:
            for number in range(13):
                backend.execute(f"CREATE TABLE new_{number} (a)")
        site.ok("backup", "production")
        warnings = re.findall(r" warning: (.*)", site.ok("verify", "production"))
        assert len(warnings) == 11
        assert warnings[-1] == "deploy/data.toml: and 3 more"

    def test_a_mistake_in_the_description_of_the_data_fails_no_drill(self, site, monkeypatch, caplog):
        site.ok("backup", "production")
        broken = site.folder / "data.toml"
        broken.write_text("[kinds")
        monkeypatch.setattr(data_description.read, "__defaults__", (broken,))
        settings = site.settings
        assert "is a whole database" in verify.run(
            settings.main, settings.environment("production"), "latest"
        )
        (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
        assert re.match(
            rf"the database in snapshot \w{{8}} is not compared with deploy/data.toml: data description {broken}",
            warning.getMessage(),
        )

    def test_a_snapshot_by_its_id(self, site):
        site.ok("backup", "production")
        first = site.snapshots("production")[0]["short_id"]
        site.ok("backup", "production")
        assert f"snapshot {first} (zst) of" in site.ok("verify", "production", "--snapshot", first)
        done = site.run("verify", "demo", "--snapshot", first)
        assert (done.returncode, "is of production, not of demo" in done.stderr) == (4, True)

    def test_without_a_live_database(self, site):
        site.ok("backup", "production")
        for file in site.database().parent.iterdir():
            file.unlink()
        output = site.ok("verify", "production")
        assert (
            f"warning: the rows are not compared with the live database: database {site.database()} is missing"
            in output
        )
        assert re.search(r"users_by_email +400 +-\n", output)
        assert record(site, "drill-production")["passed"]

    def test_no_snapshot(self, site):
        done = site.run("verify", "production")
        assert done.returncode == 4 and "there is no snapshot of production yet" in done.stderr

    def damages() -> list:
        def cut(data: bytes) -> bytes:
            return zstandard.compress(data)[:-2000]

        def short(data: bytes) -> bytes:
            return zstandard.compress(data[:-4096])

        def page(data: bytes) -> bytes:
            return zstandard.compress(data[:8192] + bytes(8192) + data[16384:])

        def flipped(data: bytes) -> bytes:
            compressed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(data))
            compressed[len(compressed) // 2] ^= 4
            return bytes(compressed)

        def other(data: bytes) -> bytes:
            return zstandard.compress(b"hello" * 1000)

        return [
            (cut, "the compressed export is"),
            (flipped, "the compressed export is"),
            (short, "bytes where its header says"),
            (page, "is damaged"),
            (other, "is not an SQLite database"),
        ]

    @pytest.mark.slow("each damage", keep=["flipped", "other"])
    @pytest.mark.parametrize(("damage", "words"), damages(), ids=lambda value: getattr(value, "__name__", ""))
    def test_a_damaged_snapshot(self, site, damage, words):
        site.ok("backup", "production")
        site.ok("verify", "production")
        good = record(site, "drill-production")
        store(site, damage(exported(site)))
        before = fingerprint(site.database().parent)
        done = site.run("verify", "production")
        assert done.returncode == 4
        assert words in done.stderr
        assert fingerprint(site.database().parent) == before
        bad = record(site, "drill-production")
        assert bad["passed"] == good["passed"] and words in bad["error"]
        assert site.staged() == []
        # that an older one is whole does not say that today's backups are
        site.ok("verify", "production", "--snapshot", good["details"]["snapshot"])
        assert record(site, "drill-production") == bad

    def test_restic_s_cache_does_not_stand_in_for_the_repository(self, site):
        """It has all trees; the packs that hold them in the repository are damaged."""
        site.ok("backup", "production")
        site.ok("verify", "production")
        for pack in (site.repository / "data").rglob("[0-9a-f]*"):
            if pack.is_file() and pack.stat().st_size < 2000:
                pack.chmod(0o600)
                pack.write_bytes(bytes(pack.stat().st_size))
        assert site.run("verify", "production").returncode == 4

    def test_a_drill_that_could_not_be_held_has_failed(self, site):
        site.ok("backup", "production")
        site.repository.rename(site.folder / "unmounted")
        assert site.run("verify", "production").returncode == 10
        assert "no restic repository" in record(site, "drill-production")["error"]

    def test_no_room(self, site, small_disk):
        site.ok("backup", "production")
        done = site.run("verify", "production", DODEKA_STATE=str(small_disk / "state"))
        assert done.returncode == 1
        assert re.search(
            r"error: no room left for the database in .*; free some space, or set DODEKA_STATE", done.stderr
        )

    def test_a_snapshot_in_a_damaged_pack(self, site):
        site.ok("backup", "production")
        damage(site)
        done = site.run("verify", "production")
        assert done.returncode == 4
        assert "the snapshot cannot be read from repository" in done.stderr
        assert "choose another one, then see BACKUP.md, 'Damaged'" in done.stderr


def damage(site: Site) -> Path:
    pack = max((site.repository / "data").rglob("[0-9a-f]*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)  # restic makes them for reading only
    with open(pack, "r+b") as file:
        file.seek(pack.stat().st_size // 2)
        file.write(b"DAMAGED!")
    return pack


class TestCheck:
    def test_each_time_another_part_so_that_four_times_read_all(self, site):
        site.ok("backup", "production")
        parts = [re.search(r"reading part (\d) of 4", site.ok("check"))[1] for _ in range(5)]
        assert parts[:4] == ["1", "2", "3", "4"]
        assert sorted(record(site, "check")["details"]["read"]) == ["1", "2", "3", "4"]

    def test_restic_reads_all_packs_in_the_four_parts(self, site):
        """Against restic's own words: n/4 for n from 1 to 4 are all packs, each once."""
        for _ in range(3):
            site.ok("backup", "production")
            with closing(sqlite3.connect(site.database(), isolation_level=None)) as connection:
                connection.execute("INSERT INTO outbox VALUES (hex(randomblob(9)), 0, 0, randomblob(9999))")
        packs = len(site.restic("list", "packs").stdout.split())
        read = 0
        for part in range(1, 5):
            said = site.restic("check", f"--read-data-subset={part}/4").stdout
            counted = re.search(r"read group #\d of (\d+) data packs", said)
            read += int(counted[1]) if counted else 0
        assert read == packs > 4

    def test_a_corrupted_pack_is_found_within_four_and_read_first_until_it_is_repaired(self, site):
        site.ok("backup", "production")
        pack = damage(site)
        site.restic("check")  # sees nothing: it does not read the data
        done = [site.run("check") for _ in range(5)]
        failed = [run for run in done if run.returncode]
        assert failed and {run.returncode for run in failed} == {8}
        assert done[done.index(failed[0]) :] == failed, "that part is read again each time"
        said = f"error: repository {site.repository} is damaged: pack {pack.name[:8]}; see BACKUP.md, 'Damaged'\n"
        assert failed[0].stderr.endswith(said)
        assert "warning: restic: " in failed[0].stdout and pack.name in failed[0].stdout
        assert pack.name[:8] in record(site, "check")["error"]

    def test_a_missing_pack_is_found_at_once(self, site):
        site.ok("backup", "production")
        max((site.repository / "data").rglob("[0-9a-f]*"), key=lambda path: path.stat().st_size).unlink()
        done = site.run("check")
        assert done.returncode == 8
        # one check in four begins to read that very pack before it says how many are missing: packs are parted by their IDs
        missing = "1 of its pack files are missing|<data/.*: no such file or directory"
        assert re.search(rf"is damaged: .*({missing}); see BACKUP\.md, 'Damaged'", done.stderr)

    def test_no_repository(self, site):
        site.repository.rename(site.folder / "unmounted")
        done = site.run("check")
        assert done.returncode == 10
        assert "no restic repository" in record(site, "check")["error"]

    def test_a_killed_check_leaves_nothing_behind(self, site):
        site.ok("backup", "production")
        slow = site.folder / "killed-restic"
        slow.write_text(
            f'#!/bin/sh\n[ "$1" = check ] || exec {RESTIC} "$@"\n'
            f'{RESTIC} "$@" --limit-download=1 & until ls -d {site.state}/staging/*/restic-check-cache-* || ! kill -0 $!; do :; done\n'
            "kill -KILL $!; wait $!\n"
        )
        slow.chmod(0o755)
        done = site.run("check", RESTIC=str(slow))
        assert (done.returncode, "failed with exit code 137" in done.stderr) == (1, True)
        site.ok("check")
        assert subprocess.getoutput(f"find {site.state} -name 'restic-check-cache-*'") == ""
