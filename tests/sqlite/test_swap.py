"""swap: the old database and its journals, the new one, and the way back."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.host import file_rights
from dodeka_db.sqlite import header, kept_files, sample_data, swap
from dodeka_db.sqlite.checkpoint import checkpoint_and_close
from dodeka_db.sqlite.failures import DatabaseInUseError
from sqlite_files import leave_in_wal, make_staged, rows


@pytest.fixture
def db(tmp_path) -> Path:
    sample_data.create(tmp_path / "db.sqlite", members=300)
    return tmp_path / "db.sqlite"


@pytest.fixture
def staged(tmp_path) -> Path:
    return make_staged(tmp_path)


def replace(db: Path, staged: Path, damaged: bool = False) -> Path:
    its_rights = file_rights.read(db) if db.exists() else file_rights.for_new_file(db.parent)
    return swap.replace(db, staged, swap.keep(db), damaged, its_rights)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_the_old_wal_is_not_replayed_into_the_new_database_nor_lost(db, staged, tmp_path):
    leave_in_wal(db)
    new = sample_data.digest(staged)
    kept = replace(db, staged)
    assert names(tmp_path) == ["db.sqlite", kept.name]
    assert sample_data.digest(db) == new
    assert rows(kept, "SELECT key FROM users_by_email WHERE key = 'in-the-wal'")
    assert kept_files.kept_beside(db) == [kept]


def test_a_database_in_use_is_left_as_it_is(db, staged):
    before = sample_data.digest(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as idle:
        idle.execute("SELECT * FROM users_by_email").fetchone()
        with pytest.raises(DatabaseInUseError):
            replace(db, staged)
        assert kept_files.kept_beside(db) == [], "it is the live one still"
        assert swap.remove_stale_link(db)
    assert sample_data.digest(db) == before
    assert staged.exists() and not list(db.parent.glob("*.pre-restore-*"))


def test_what_turns_out_to_be_damaged_only_now(db, staged):
    db.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    damaged = replace(db, staged)
    assert damaged.read_bytes().endswith(b"\xff" * 9000)
    assert kept_files.kept_beside(db) == []


def test_a_damaged_database_is_kept_with_its_journals(db, staged, tmp_path):
    db.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    Path(f"{db}-wal").write_bytes(b"its wal")
    Path(f"{db}-journal").write_bytes(b"its journal")
    new = sample_data.digest(staged)
    damaged = replace(db, staged, damaged=True)
    assert damaged.name.startswith("db.sqlite.damaged-")
    assert names(tmp_path) == ["db.sqlite", damaged.name, f"{damaged.name}-journal", f"{damaged.name}-wal"]
    assert damaged.read_bytes().endswith(b"\xff" * 9000)
    assert Path(f"{damaged}-wal").read_bytes() == b"its wal"
    assert Path(f"{damaged}-journal").read_bytes() == b"its journal"
    assert sample_data.digest(db) == new
    assert kept_files.kept_beside(db) == []


def test_a_damaged_database_whose_swap_was_cut_short_gets_its_journals_back(db, tmp_path):
    db.write_bytes(b"rubbish")
    Path(f"{db}-wal").write_bytes(b"its wal")
    kept_files.set_aside(swap.keep(db).path, journals_of=db)
    swap.remove_stale_link(db)
    assert names(tmp_path) == ["db.sqlite", "db.sqlite-wal"]
    assert Path(f"{db}-wal").read_bytes() == b"its wal"


def test_a_missing_database(tmp_path, staged):
    new = sample_data.digest(staged)
    kept = replace(tmp_path / "db.sqlite", staged, damaged=True)
    assert sample_data.digest(tmp_path / "db.sqlite") == new
    assert names(tmp_path) == ["db.sqlite"] and kept is None


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_way_back_is_the_same_and_keeps_what_it_takes_out(db, staged, mode, tmp_path):
    with closing(sqlite3.connect(db)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    header.match_journal_mode(staged, db)
    before = sample_data.digest(db)
    kept = replace(db, staged)
    leave_in_wal(db) if mode == "wal" else None  # what the service wrote meanwhile
    taken_out = replace(db, kept)
    assert names(tmp_path) == ["db.sqlite", taken_out.name]
    assert sample_data.digest(db) == before
    assert rows(db, "PRAGMA journal_mode") == [(mode,)]
    users = rows(taken_out, "SELECT count(*) FROM users_by_email")
    assert users == [(11,)] if mode == "wal" else [(10,)]


def test_a_process_that_opened_the_old_one_after_it_was_checkpointed_keeps_its_journals(db, staged, tmp_path):
    """It comes between fold() and the rename; what it commits from then on is in no other database."""
    new = sample_data.digest(staged)
    kept, its_rights = swap.keep(db), file_rights.read(db)
    checkpoint_and_close(db)
    code = f"""
import sqlite3
db = sqlite3.connect({str(db)!r}, isolation_level=None)
db.execute("INSERT INTO users_by_email VALUES ('in between', 0, 0, x'00')"); print(flush=True); input()
db.execute("INSERT INTO users_by_email VALUES ('afterwards', 0, 0, x'00')"); print(flush=True); input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(DatabaseInUseError):
            swap.replace(db, staged, kept, False, its_rights)
        assert Path(f"{db}-wal").exists() and rows(
            db, "SELECT key FROM users_by_email WHERE key = 'in between'"
        )
        assert swap.replace(db, staged, kept, False, its_rights, even_in_use=True) == kept.path
        other.stdin.write(b"\n")
        other.stdin.flush()
        other.stdout.readline()
        assert sample_data.digest(db) == new
        other.kill()
    assert {"db.sqlite-wal", "db.sqlite-shm"}.isdisjoint(names(tmp_path))
    assert sample_data.digest(db) == new
    late = rows(kept.path, "SELECT key FROM users_by_email WHERE key IN ('in between', 'afterwards')")
    assert len(late) == 2


def test_killed_right_behind_the_rename_of_a_database_in_use(db, staged, monkeypatch):
    """The old write-ahead log stands beside the new database then, by a second name: the next run takes that away."""
    new = sample_data.digest(staged)
    kept, its_rights = swap.keep(db), file_rights.read(db)

    def killed(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(swap, "part", killed)
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("INSERT INTO users_by_email VALUES ('late', 0, 0, x'00')")
        with pytest.raises(SystemExit):
            swap.replace(db, staged, kept, False, its_rights, even_in_use=True)
        assert Path(f"{db}-wal").samefile(f"{kept.path}-wal")
        assert not swap.remove_stale_link(db)
        assert not Path(f"{db}-wal").exists() and not Path(f"{db}-shm").exists()
        assert sample_data.digest(db) == new
    assert rows(kept.path, "SELECT key FROM users_by_email WHERE key = 'late'")
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]


def test_a_kept_file_that_goes_behind_the_rename_is_no_database_that_was_not_there(db, staged, monkeypatch):
    monkeypatch.setattr(swap, "part", lambda _, kept: kept.unlink())
    assert replace(db, staged) is not None


def test_nothing_is_renamed_when_the_kept_file_is_gone_or_another(db, staged):
    before = sample_data.digest(db)
    for other in (None, b"another file"):
        kept = swap.keep(db)
        kept.path.unlink()
        if other:
            kept.path.write_bytes(other)
        with pytest.raises(DatabaseError, match="is not kept; nothing was replaced"):
            swap.replace(db, staged, kept, False, file_rights.read(db))
        assert sample_data.digest(db) == before and staged.exists()


def test_a_database_that_appears_meanwhile_is_kept(tmp_path, staged):
    """The service was started when there was none, and has made an empty one."""
    live = tmp_path / "db.sqlite"
    kept = swap.keep(live)
    sample_data.create(live, members=1)
    path = swap.replace(live, staged, kept, True, file_rights.read(live))
    assert sample_data.count(path) == 1 and sample_data.count(live) == 10


class TestNoHardLinks:
    """A file system that has none: a real exFAT."""

    @pytest.fixture
    def disk(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("only root can mount a file system")
        image, folder = tmp_path / "image", tmp_path / "exfat"
        folder.mkdir()
        image.touch()
        os.truncate(image, 10_000_000)
        subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
        looped = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
        if looped.returncode:
            pytest.skip(f"no loop device here: {looped.stderr.strip()}")
        device = looped.stdout.strip()
        try:
            subprocess.run(["mount.exfat-fuse", device, folder], check=True, capture_output=True)
            yield folder
            subprocess.run(["umount", "-l", folder], check=True)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)

    @pytest.fixture
    def on_it(self, disk):
        sample_data.create(disk / "db.sqlite", members=300)
        return disk / "db.sqlite", make_staged(disk)

    def test_a_copy_takes_the_place_of_the_link(self, on_it):
        db, staged = on_it
        leave_in_wal(db)
        old, new = sample_data.count(db), sample_data.digest(staged)
        kept = replace(db, staged)
        assert names(db.parent) == ["db.sqlite", kept.name]
        assert sample_data.digest(db) == new and sample_data.count(kept) == old == 301
        taken_out = replace(db, kept)
        assert sample_data.count(db) == 301 and sample_data.digest(taken_out) == new

    def test_a_row_that_comes_while_it_is_copied_is_not_lost(self, on_it, monkeypatch):
        db, staged = on_it
        copy = swap._copy

        def with_a_writer(live: Path, kept: Path) -> None:
            copy(live, kept)
            with closing(sqlite3.connect(live, isolation_level=None)) as connection:
                connection.execute("INSERT INTO users_by_email VALUES ('meanwhile', 0, 0, x'00')")

        monkeypatch.setattr(swap, "_copy", with_a_writer)
        with pytest.raises(DatabaseError, match="is not kept; nothing was replaced"):
            replace(db, staged)
        assert rows(db, "SELECT key FROM users_by_email WHERE key = 'meanwhile'")
        assert names(db.parent) == ["db.sqlite", staged.name]

    def test_a_copy_that_was_in_vain_goes(self, on_it):
        db, staged = on_it
        with pytest.raises(BackupError, match="cannot be replaced"):
            replace(db, staged.with_name("none"))
        assert names(db.parent) == ["db.sqlite", staged.name] and sample_data.count(db) == 300

    def test_a_damaged_one(self, on_it):
        db, staged = on_it
        db.write_bytes(b"rubbish")
        Path(f"{db}-wal").write_bytes(b"its wal")
        damaged = replace(db, staged, damaged=True)
        assert damaged.read_bytes() == b"rubbish"
        assert Path(f"{damaged}-wal").read_bytes() == b"its wal"

    def test_no_room_for_it_is_said_before_anything_is_stopped(self, on_it):
        db, _ = on_it
        (db.parent / "filler").write_bytes(bytes(shutil.disk_usage(db.parent).free - 500_000))
        with pytest.raises(BackupError, match="no room left for the database in"):
            swap.keep(db)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_database_file_that_is_a_mount_point(db, tmp_path):
    """Its name has a blank, which the kernel's list shows as \\040, and bytes that are no text."""
    other = tmp_path / os.fsdecode(b"other \xff file")
    other.write_bytes(b"")
    subprocess.run(["mount", "--bind", db, other], check=True)
    try:
        with pytest.raises(BackupError, match=r"is a mount point, .*; nothing was changed"):
            swap.keep(other)
    finally:
        subprocess.run(["umount", other], check=True)


def test_a_rename_that_fails_leaves_the_old_one_in_its_journal_mode(db, tmp_path):
    before = sample_data.digest(db)
    with pytest.raises(BackupError, match="cannot be replaced: No such file"):
        replace(db, tmp_path / "none")
    assert sample_data.digest(db) == before
    assert rows(db, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder immutable")
def test_where_no_second_name_can_be_given(db):
    subprocess.run(["chattr", "+i", db.parent], check=True)
    try:
        with pytest.raises(
            BackupError, match=r"cannot be linked to .*: Operation not permitted; nothing was"
        ):
            swap.keep(db)
    finally:
        subprocess.run(["chattr", "-i", db.parent], check=True)


def test_names_are_never_taken_twice_and_tell_the_time(db):
    first = swap.keep(db).path
    second = swap.keep(db).path
    assert second != first
    second.rename(second.with_name(second.name.replace("pre-restore", "damaged")))
    assert swap.keep(db).path not in (first, second)
    assert kept_files.since(first) < kept_files.since(second)
    assert kept_files.since(first).tzinfo


def test_one_kept_under_a_clock_that_was_wrong_is_not_the_last(db):
    now = datetime.now(UTC)
    names = [f"{now - timedelta(hours=ago):%Y%m%dT%H%M%SZ}" for ago in (-99, 2, 1)]
    files = [db.with_name(f"db.sqlite.pre-restore-{name}") for name in (*names, "99999999T999999Z")]
    for file in files:
        file.write_bytes(b"x")
    assert kept_files.kept_beside(db) == files[:3]
