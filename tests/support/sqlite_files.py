"""Databases in the states that tests need: damaged, with a journal, staged beside a live one."""

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from dodeka_db.sqlite import header, sample_data
from dodeka_db.sqlite.export import export_compacted


def rows(path: Path, sql: str = "SELECT * FROM sqlite_master") -> list:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def corrupt_page(path: Path, number: int) -> None:
    found = header.read_header(path)
    with open(path, "r+b") as file:
        file.seek((number - 1) * found.page_bytes)
        file.write(random.Random(number).randbytes(found.page_bytes))


def leave_in_wal(path: Path) -> None:
    """Leave a commit in the WAL of `path`: its writer is killed before it folds it in."""
    script = f"""
import os, sqlite3
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("PRAGMA wal_autocheckpoint=0")
db.execute("INSERT INTO users_by_email VALUES ('in-the-wal', 0, 0, x'00')")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert Path(f"{path}-wal").stat().st_size


def leave_hot_journal(path: Path) -> None:
    """Make a database with an empty table t, and an interrupted transaction in its rollback journal."""
    script = f"""
import os, sqlite3
db = sqlite3.connect({str(path)!r}, isolation_level=None)
db.execute("CREATE TABLE t (a)"); db.execute("PRAGMA cache_size=1"); db.execute("BEGIN")
db.executemany("INSERT INTO t VALUES (?)", [("x" * 2000,)] * 500)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert Path(f"{path}-journal").stat().st_size


def make_staged(folder: Path) -> Path:
    """Make a staged database of 10 members, to replace folder/db.sqlite."""
    sample_data.create(folder / "other" / "db.sqlite", members=10, seed=9)
    export_compacted(folder / "other" / "db.sqlite", folder / "db.sqlite.restoring-x")
    return folder / "db.sqlite.restoring-x"
