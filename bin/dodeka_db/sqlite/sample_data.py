"""A made-up members' database in the backend's own shape, for `make try` and the tests."""

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

# in the order in which the backend makes them
TABLES = (
    *("users", "users_by_email", "users_by_bondsnummer"),
    *("registrations", "registrations_by_email", "registrations_by_bondsnummer", "outbox"),
    *("sync_state", "sync", "sync_decisions", "volta_data", "metadata", "session_cache"),
    *("birthdays", "private", "system_users", "tokens"),
)
# one row a member; `users` has several
MEMBERS = "users_by_email"
_FIRST_NAMES = (
    "Anna Bram Chris Daan Eva Fleur Gijs Hanna Isa Jan Kim Lars Mila Noor Otto Puck Roos Sem Tess Wout"
)
_LAST_NAMES = "Voorbeeld Verzinsel Nepstra Bedachtema Fictief Schijn Testhuizen Nergens"
_PREFIXES = ("", "", "van", "de")
_NOW = 1_780_000_000  # in seconds; a day of May 2026
_SESSION_S = 8 * 3600
_FIRST_NUMBER = 9_000_000  # of the association of clubs; a real number is lower


def create(path: Path, members: int, seed: int = 1) -> None:
    """Make a new database at `path` with `members` members; the same `seed` makes the same rows.

    17 tables, STRICT, in WAL mode, as freetser makes them; about 1.9 kB a member. Every third member has a session. For
    every twentieth there is somebody who asks to become a member, with a mail to send. An import of the member list is
    under way. The first member is the administrator.
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
            user, email = add_member(connection, rng, number)
            if number == 0:
                _add_administrator(connection, rng, user, email)
            if number % 3 == 0:
                add_session(connection, rng, user)
            if number % 20 == 0:
                _add_applicant(connection, rng, number)
            if number % 50 == 0:
                token = {"action": "password_reset", "email": email, "code": f"{rng.randrange(10**8):08}"}
                insert(connection, "tokens", f"password_reset:{email}", token, expiration=_NOW + 3600)
        insert(connection, "metadata", "user_id_counter", str(members))
        insert(connection, "sync_state", "current", {"in_progress": True, "file_modified_at": _NOW - 600})
        insert(connection, "private", "club_code", {"role": "member", "value": "made up"})
        connection.execute("COMMIT")


def add_member(connection: sqlite3.Connection, rng: random.Random, number: int) -> tuple[str, str]:
    """All rows of a new member with that number, of 0 on; the user's ID and address."""
    first, prefix, last = _name(rng)
    full_last = f"{prefix} {last}".strip()
    user = f"{number}_{first.lower()}_{full_last.lower()}"
    email = f"{first.lower()}.{number}@example.org"
    bondsnummer = _FIRST_NUMBER + number
    insert(connection, "users", f"{user}:profile", {"firstname": first, "lastname": full_last})
    insert(connection, "users", f"{user}:email", email)
    password = {
        "password_hash": rng.randbytes(32).hex(),
        "password_salt": rng.randbytes(16).hex(),
        "password_hash_algorithm_id": "argon2id.v1",
    }
    insert(connection, "users", f"{user}:password", password)
    insert(connection, "users", f"{user}:disabled", "0")
    insert(connection, "users", f"{user}:sessions_counter", str(rng.randrange(9)))
    insert(connection, "users", f"{user}:perm:member", "", expiration=_NOW + 365 * 86400)
    insert(connection, "users_by_email", email, user)
    insert(connection, "users_by_bondsnummer", str(bondsnummer), user)
    listed = _listed(rng, bondsnummer, email, (first, prefix, last))
    insert(connection, "volta_data", str(bondsnummer), listed)
    insert(connection, "sync", str(bondsnummer), listed)
    born = {name: listed[name] for name in ("geboortedatum", "voornaam", "tussenvoegsel", "achternaam")}
    insert(connection, "birthdays", user, {"user_id": user, **born})
    return user, email


def add_session(connection: sqlite3.Connection, rng: random.Random, user: str) -> None:
    created = _NOW - rng.randrange(_SESSION_S)
    session = {"user_id": user, "created_at": created, "expires_at": created + 30 * 86400}
    insert(connection, "session_cache", rng.randbytes(32).hex(), session, expiration=created + _SESSION_S)


def add_mail(connection: sqlite3.Connection, rng: random.Random, registration: str, email: str) -> None:
    """A mail that waits to be sent to somebody who may register."""
    key = rng.randbytes(12).hex()
    mail = {
        "outbox_id": key,
        "kind": "send_registration_invite",
        "status": "pending",
        "subject_kind": "registration",
        "subject_id": registration,
        "payload": {"email": email},
        "created_at": _NOW,
        "last_attempt_at": None,
        "next_attempt_at": _NOW,
        "attempt_count": 0,
        "last_error": None,
    }
    insert(connection, "outbox", key, mail)


def insert(
    connection: sqlite3.Connection, table: str, key: str, value: object, *, expiration: int = 0
) -> None:
    """Insert a row, with a text as it is and any other value as JSON, as the backend does."""
    content = (value if isinstance(value, str) else json.dumps(value)).encode()
    connection.execute(f"INSERT INTO {table} VALUES (?, 0, ?, ?)", (key, expiration, content))


def count(path: Path, table: str = MEMBERS) -> int:
    """The number of rows in `table`; of members, unless another one is named."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def digest(path: Path, tables: Iterable[str] = TABLES) -> str:
    """A checksum over every row of `tables`, by default of all: equal if and only if their content is."""
    checksum = hashlib.sha256()
    with closing(sqlite3.connect(path)) as connection:
        for table in sorted(tables):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY key"):
                checksum.update(repr((table, row)).encode())
    return checksum.hexdigest()


def _add_administrator(connection: sqlite3.Connection, rng: random.Random, user: str, email: str) -> None:
    insert(connection, "users", f"{user}:perm:admin", "")
    insert(connection, "system_users", email, "1")
    credentials = {"email": email, "password": rng.randbytes(12).hex()}
    insert(connection, "metadata", "bootstrap_admin_credentials", credentials)


def _add_applicant(connection: sqlite3.Connection, rng: random.Random, number: int) -> None:
    """Somebody who asked to become a member, was accepted, and is found in the member list that is being imported."""
    first, prefix, last = _name(rng)
    token, email = rng.randbytes(32).hex(), f"applicant.{number}@example.org"
    bondsnummer = _FIRST_NUMBER + 900_000 + number
    registration = {
        "registration_id": token,
        "email": email,
        "firstname": first,
        "lastname": f"{prefix} {last}".strip(),
        "accepted": True,
        "bondsnummer": bondsnummer,
        "signup_token": rng.randbytes(32).hex() if number else None,
        "email_send_count": 1,
    }
    insert(connection, "registrations", token, registration)
    insert(connection, "registrations_by_email", email, token)
    insert(connection, "registrations_by_bondsnummer", str(bondsnummer), token)
    insert(connection, "sync", str(bondsnummer), _listed(rng, bondsnummer, email, (first, prefix, last)))
    decision = {"kind": "registration", "subject_id": token}
    insert(connection, "sync_decisions", str(bondsnummer), decision)
    add_mail(connection, rng, token, email)


def _name(rng: random.Random) -> tuple[str, str, str]:
    """First name, the prefix of the last name or nothing, last name."""
    return rng.choice(_FIRST_NAMES.split()), rng.choice(_PREFIXES), rng.choice(_LAST_NAMES.split())


def _listed(rng: random.Random, bondsnummer: int, email: str, name: tuple[str, str, str]) -> dict[str, str]:
    """A member as the member list of the association of clubs has it."""
    first, prefix, last = name
    return {
        "bondsnummer": str(bondsnummer),
        "voornaam": first,
        "tussenvoegsel": prefix,
        "achternaam": last,
        "geslacht": rng.choice("MVX"),
        "geboortedatum": f"{rng.randint(1985, 2008)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
        "email": email,
        "opzegdatum": "",
    }
