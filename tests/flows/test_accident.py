"""The accident of this club as one story: a wrong member list at 03:00, noticed at 14:00, while members go on registering."""

import random
import re
import sqlite3
import threading
import time
from contextlib import closing
from datetime import datetime

import pytest

from dodeka_db.sqlite import sample_data
from site_folder import Site
from sqlite_files import rows
from waiting import wait_for

MEMBERS, DELETED = 412, 380
OF_A_MEMBER = ("users", "users_by_email", "users_by_bondsnummer", "volta_data", "birthdays")


class Backend:
    """The backend at work: mails that come and are delivered, new members; it gives up after 500 ms without an answer."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.failures: list[Exception] = []
        self.newcomers: list[str] = []
        self.delivered: list[str] = []

    def __enter__(self) -> "Backend":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        rng = random.Random(5)
        with closing(sqlite3.connect(self._site.database(), isolation_level=None, timeout=0.5)) as connection:
            while not self._stop.is_set():
                try:
                    self._once(connection, rng)
                except sqlite3.Error as error:
                    self.failures.append(error)
                time.sleep(0.01)

    def _once(self, connection: sqlite3.Connection, rng: random.Random) -> None:
        first = connection.execute("SELECT key FROM outbox ORDER BY rowid LIMIT 1").fetchone()
        if first:
            connection.execute("DELETE FROM outbox WHERE key = ?", first)
            self.delivered.append(first[0])
        if len(self.newcomers) < 25:
            connection.execute("BEGIN IMMEDIATE")
            _, email = sample_data.add_member(connection, rng, 1000 + len(self.newcomers))
            connection.execute("COMMIT")
            self.newcomers.append(email)

    def import_a_wrong_list(self) -> None:
        """What the backend does when an import of a member list is completed that lacks most of the members."""
        with closing(sqlite3.connect(self._site.database(), isolation_level=None, timeout=5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            find = "SELECT key, CAST(value AS TEXT) FROM users_by_bondsnummer ORDER BY rowid LIMIT ?"
            for number, user in connection.execute(find, (DELETED,)).fetchall():
                connection.execute("DELETE FROM users WHERE key GLOB ? || ':*'", (user,))
                connection.execute("DELETE FROM users_by_email WHERE CAST(value AS TEXT) = ?", (user,))
                connection.execute("DELETE FROM birthdays WHERE key = ?", (user,))
                for table in ("users_by_bondsnummer", "volta_data"):
                    connection.execute(f"DELETE FROM {table} WHERE key = ?", (number,))
            connection.execute("COMMIT")


def of_members(site: Site) -> dict[str, set]:
    return {table: set(rows(site.database(), f"SELECT * FROM {table}")) for table in OF_A_MEMBER}


@pytest.mark.long
def test_found_seen_looked_at_and_brought_back(site):
    for path in site.database().parent.iterdir():
        path.unlink()
    sample_data.create(site.database(), members=MEMBERS)
    before = of_members(site)
    pending = {key for (key,) in rows(site.database(), "SELECT key FROM outbox")}
    site.ok("backup", "production")
    time.sleep(1.1)  # a time has whole seconds
    at = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    time.sleep(1.1)
    with Backend(site) as backend:
        backend.import_a_wrong_list()
        wait_for(lambda: len(backend.newcomers) == 25 and pending <= {*backend.delivered})
        # told within one run
        said = site.run("cron", "production")
        assert said.returncode == 9 and f"users_by_email {MEMBERS} -> {MEMBERS - DELETED + 25}" in said.stderr
        site.loses("backup", "production")

        # found by the list: the snapshot behind the accident lost 380 members, and the one before is pinned
        listed = [" ".join(line.split()) for line in site.ok("snapshots", "production").splitlines()]
        list_of_the_second = " ".join(listed[2:])
        assert 'pinned "the last one before a loss of rows": 412 members' in " ".join(listed[1:4])
        assert f"users_by_email -{DELETED - 25}" in list_of_the_second, listed
        # seen by changes
        seen = site.ok("changes", "production", "--at", at)
        assert re.search(rf"users_by_email +{DELETED} +25 +0\n", seen)
        # looked at by open
        count = "SELECT count(*) FROM users_by_email;"
        assert site.run("open", "production", "--at", at, stdin=count).stdout == f"{MEMBERS}\n"
        # brought back
        done = site.ok("bring-back", "production", "--at", at, stdin="yes\n")
        assert f"People who come back: {DELETED}\n" in done and "Left alone" not in done
        assert re.search(rf"done: \d+ rows of {DELETED} people brought back to production", done)

    after = of_members(site)
    assert all(before[table] <= after[table] for table in OF_A_MEMBER), "all of them, with all their rows"
    addresses = {key for key, *_ in after["users_by_email"]}
    assert len(addresses) == MEMBERS + 25 and {*backend.newcomers} <= addresses
    assert backend.failures == [], "the backend was never refused"
    assert not pending & {key for (key,) in rows(site.database(), "SELECT key FROM outbox")}, "no mail twice"
    assert rows(site.database(), "PRAGMA integrity_check") == [("ok",)]
