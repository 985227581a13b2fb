"""One login per role in a masked clone: a user of each role gets the password of deploy/data.toml."""

import sqlite3
import time
from collections import defaultdict

from dodeka_db.data_description import DataDescription, Pattern, Table
from dodeka_db.sqlite.connection import quoted


class Logins:
    """Which masked user stands for which role. Without a password in the description, there are none."""

    def __init__(self, description: DataDescription) -> None:
        self._description, self._login = description, description.login
        self._users: dict[str, str] = {}

    def give(self, connection: sqlite3.Connection, table: Table) -> None:
        """Give a user of each role the password, if temp.masked has the masked rows of the table with the passwords.

        It is the user with the fewest roles that have not expired. Raises sqlite3.Error.
        """
        login = self._login
        if not login or table != login.table:
            return
        roles: dict[str, set[str]] = defaultdict(set)
        passwords: dict[str, str] = {}
        for key, expiration in connection.execute("SELECT key, expiration FROM temp.masked ORDER BY key"):
            if user := _of(login.password, key).get("user ID"):
                passwords[user] = key
            elif (expiration == 0 or expiration > time.time()) and (held := _of(login.role, key)):
                roles[held["user ID"]].add(held["no"])
        for user in sorted(roles.keys() & passwords.keys(), key=lambda user: len(roles[user])):
            for role in roles[user] - self._users.keys():
                self._users[role] = user
                connection.execute(
                    "UPDATE temp.masked SET value = ? WHERE key = ?", (login.value.encode(), passwords[user])
                )

    def named(self, connection: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
        """Each role, with the address that its user has in the finished database `connection`. Raises sqlite3.Error."""
        if not self._users:
            return ()
        members, known_by = self._description.members, self._description.known_by
        addresses = {}
        for key, value in connection.execute(f"SELECT key, value FROM main.{quoted(members.name)}"):
            held = {kind: one.text for one in members.read(key, value).contents for kind in one.kinds}
            addresses.update({text: held[known_by] for text in held.values() if known_by in held})
        return tuple(
            (role, addresses[user]) for role, user in sorted(self._users.items()) if user in addresses
        )


def _of(pattern: Pattern, key: str) -> dict[str, str]:
    """What the key holds, by how personal it is; nothing if it is not of that sort."""
    match = pattern.expression.fullmatch(key)
    return (
        dict(zip((kind.personal for kind in pattern.key_kinds), match.groups(), strict=True)) if match else {}
    )
