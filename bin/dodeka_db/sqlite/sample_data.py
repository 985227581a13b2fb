"""A made-up members' database in the backend's own shape, for `make try` and the tests."""

import hashlib
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

TABLES = (
    *("users", "userdata", "users_by_email", "user_permissions", "metadata", "counters", "outbox"),
    *("session_cache", "registrations", "registration_state", "newusers", "email_updates", "oauth_clients"),
    *("birthdays", "trainings", "classifications", "private_kv"),
)
_NAMES = "Anna Bram Chris Daan Eva Fleur Gijs Hanna Isa Jan Kim Lars Mila Noor Otto Puck Roos Sem Tess Wout"
_CLUBS = "sprint high-jump long-jump hurdles javelin discus shot-put pole-vault 800m 1500m marathon"


def create(path: Path, members: int, seed: int = 1) -> None:
    """Make a new database at `path` with `members` members; the same `seed` makes the same rows.

    17 tables, STRICT, in WAL mode, as freetser makes them; about 1.5 kB a member.
    """
    rng = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN")
        for table in TABLES:
            connection.execute(
                f"CREATE TABLE {table} (key TEXT PRIMARY KEY, counter INTEGER NOT NULL,"
                " expiration INTEGER NOT NULL, value BLOB NOT NULL) STRICT"
            )
        for number in range(members):
            key = f"{number:06d}_{rng.randbytes(6).hex()}"
            name = rng.choice(_NAMES.split())
            email = f"{name.lower()}.{number}@example.org"
            insert(connection, "users", key, {"name": name, "email": email})
            insert(connection, "users_by_email", email, {"user": key})
            sports = rng.sample(_CLUBS.split(), 3)
            notes = " ".join(rng.choices((_NAMES + " " + _CLUBS).split(), k=120))
            insert(connection, "userdata", key, {"name": name, "sports": sports, "notes": notes})
            insert(connection, "user_permissions", f"{key}:member", {"until": 1_800_000_000 + number})
            if number % 3 == 0:
                insert(
                    connection, "session_cache", rng.randbytes(16).hex(), {"token": rng.randbytes(96).hex()}
                )
            if number % 20 == 0:
                insert(connection, "outbox", f"{number:06d}", {"to": email, "subject": f"Hi {name}"})
        connection.execute("COMMIT")


def insert(connection: sqlite3.Connection, table: str, key: str, value: object) -> None:
    """Insert a row, with its value as JSON, as freetser does."""
    connection.execute(f"INSERT INTO {table} VALUES (?, 0, 0, ?)", (key, json.dumps(value).encode()))


def count(path: Path, table: str = "users") -> int:
    """The number of rows in `table`."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def digest(path: Path) -> str:
    """A checksum over every row of every table: equal if and only if the content is."""
    checksum = hashlib.sha256()
    with closing(sqlite3.connect(path)) as connection:
        for table in sorted(TABLES):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY key"):
                checksum.update(repr((table, row)).encode())
    return checksum.hexdigest()
