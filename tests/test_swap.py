"""swap: the old database and its journals, the new one, and the way back."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db import database, members, swap
from dodeka_db.errors import BackupError

from test_database import leave_in_wal, make_staged, rows


@pytest.fixture
def db(tmp_path) -> Path:
    members.create(tmp_path / "db.sqlite", members=300)
    return tmp_path / "db.sqlite"


@pytest.fixture
def staged(tmp_path) -> Path:
    return make_staged(tmp_path)


def replace(db: Path, staged: Path, damaged: bool = False) -> Path:
    kept = swap.new_name(db)
    swap.keep(db, kept)
    return swap.replace(db, staged, kept, damaged)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_the_old_wal_is_not_replayed_into_the_new_database_nor_lost(db, staged, tmp_path):
    leave_in_wal(db)
    new = members.digest(staged)
    kept = replace(db, staged)
    assert names(tmp_path) == ["db.sqlite", kept.name]
    assert members.digest(db) == new
    assert rows(kept, "SELECT key FROM users WHERE key = 'in-the-wal'")
    assert swap.kept_files(db) == [kept]


def test_a_database_in_use_is_left_as_it_is(db, staged):
    before = members.digest(db)
    kept = swap.new_name(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as idle:
        idle.execute("SELECT * FROM users").fetchone()
        swap.keep(db, kept)
        with pytest.raises(database.DatabaseInUse):
            swap.replace(db, staged, kept, damaged=False)
        assert swap.kept_files(db) == [], "it is the live one still"
        swap.forget_unswapped(db)
    assert members.digest(db) == before
    assert staged.exists() and not kept.exists()


def test_what_turns_out_to_be_damaged_only_now(db, staged):
    db.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    damaged = replace(db, staged)
    assert damaged.read_bytes().endswith(b"\xff" * 9000)
    assert swap.kept_files(db) == []


def test_a_damaged_database_is_kept_with_its_journals(db, staged, tmp_path):
    db.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    Path(f"{db}-wal").write_bytes(b"its wal")
    Path(f"{db}-journal").write_bytes(b"its journal")
    new = members.digest(staged)
    damaged = replace(db, staged, damaged=True)
    assert damaged.name.startswith("db.sqlite.damaged-")
    assert names(tmp_path) == ["db.sqlite", damaged.name, f"{damaged.name}-journal", f"{damaged.name}-wal"]
    assert damaged.read_bytes().endswith(b"\xff" * 9000)
    assert Path(f"{damaged}-wal").read_bytes() == b"its wal"
    assert Path(f"{damaged}-journal").read_bytes() == b"its journal"
    assert members.digest(db) == new
    assert swap.kept_files(db) == []


def test_a_damaged_database_whose_swap_was_cut_short_gets_its_journals_back(db, tmp_path):
    db.write_bytes(b"rubbish")
    Path(f"{db}-wal").write_bytes(b"its wal")
    kept = swap.new_name(db)
    swap.keep(db, kept)
    swap.set_aside(kept, journals_of=db)
    swap.forget_unswapped(db)
    assert names(tmp_path) == ["db.sqlite", "db.sqlite-wal"]
    assert Path(f"{db}-wal").read_bytes() == b"its wal"


def test_a_missing_database(tmp_path, staged):
    new = members.digest(staged)
    kept = replace(tmp_path / "db.sqlite", staged, damaged=True)
    assert members.digest(tmp_path / "db.sqlite") == new
    assert names(tmp_path) == ["db.sqlite"] and not kept.exists()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_put_back(db, staged, mode, tmp_path):
    with closing(sqlite3.connect(db)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    database.fit(staged, db)
    before = members.digest(db)
    kept = replace(db, staged)
    leave_in_wal(db) if mode == "wal" else None  # what the service wrote meanwhile
    swap.put_back(db, kept)
    assert names(tmp_path) == ["db.sqlite"]
    assert members.digest(db) == before
    assert rows(db, "PRAGMA journal_mode") == [(mode,)]


def test_put_back_of_a_damaged_one(db, staged, tmp_path):
    db.write_bytes(b"rubbish")
    Path(f"{db}-wal").write_bytes(b"its wal")
    damaged = replace(db, staged, damaged=True)
    swap.put_back(db, damaged)
    assert names(tmp_path) == ["db.sqlite", "db.sqlite-wal"]
    assert db.read_bytes() == b"rubbish"


def test_put_back_is_refused_while_the_new_one_is_in_use(db, staged):
    kept = replace(db, staged)
    new = members.digest(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("SELECT * FROM users").fetchone()
        with pytest.raises(database.DatabaseInUse):
            swap.put_back(db, kept)
    assert members.digest(db) == new and kept.exists()


def test_a_rename_that_fails_leaves_the_old_one_in_its_journal_mode(db, tmp_path):
    before = members.digest(db)
    with pytest.raises(BackupError, match="cannot be replaced: No such file"):
        replace(db, tmp_path / "none")
    assert members.digest(db) == before
    assert rows(db, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder immutable")
def test_where_no_second_name_can_be_given(db):
    subprocess.run(["chattr", "+i", db.parent], check=True)
    try:
        with pytest.raises(BackupError, match="cannot be kept as .*: Operation not permitted; nothing was"):
            swap.keep(db, swap.new_name(db))
    finally:
        subprocess.run(["chattr", "-i", db.parent], check=True)


def test_names_are_never_taken_twice_and_tell_the_time(db):
    first = swap.new_name(db)
    first.write_bytes(b"")
    second = swap.new_name(db)
    assert second != first
    second.with_name(second.name.replace("pre-restore", "damaged")).write_bytes(b"")
    assert swap.new_name(db) not in (first, second)
    assert swap.kept_since(first) <= swap.kept_since(second)
    assert swap.kept_since(first).tzinfo
