"""Write a masked copy of a database: the same rows without the people, checked before anybody sees it."""

import secrets
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dodeka_db import progress
from dodeka_db.data_description import DataDescription, Table, Text
from dodeka_db.errors import BackupError, SnapshotError
from dodeka_db.sqlite import integrity
from dodeka_db.sqlite.clone_logins import Logins
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.failures import DISK, one_line
from dodeka_db.sqlite.made_up_values import MadeUpValues
from dodeka_db.sqlite.masked_rows import NotMaskedError, RowMask
from dodeka_db.sqlite.originals_left import Values, find_left, originals_of

# the room for it, as a multiple of the source's size (measured: 1.3; up to 2.2 if one table has all rows)
TIMES_THE_SOURCE = 2.2
# a made-up value can look like an original by chance, together with what stands beside it; with another key it does not
MAX_TRIES = 3
_COLUMNS = {"key", "counter", "expiration", "value"}
_KEPT_SETTINGS = ("page_size", "auto_vacuum", "user_version", "application_id")
_PAGE = "docs/data.md, 'Masked clones', says what to do; nothing was changed"


@dataclass(frozen=True)
class Masked:
    """What was masked: how many values were `replaced`, by how personal they are; `logins`: each role with the address of a user.

    The words for how personal a value is are those of data_description.PERSONAL.
    """

    replaced: Mapping[str, int]
    logins: tuple[tuple[str, str], ...]


def masked_copy(source: Path, target: Path, shown: str, description: DataDescription) -> Masked:
    """Write a masked copy of the database in the file `source` to the file `target` (0600), which is replaced.

    `source` is a private file of ours that nobody uses, and is only read; `shown` is its name in messages. `target` is on the
    same file system. The copy is made and checked in the folder of `source`; with SQLite's temporary files it needs TIMES_THE_SOURCE.
    No byte that is not masked comes near `target`. It has no row that no clone has, no free page, and a rollback journal; its schema,
    page size and settings are those of `source`. Every name, address, number and secret is in memory meanwhile: some 170 MB for
    36,000 members.

    Raises SnapshotError if something is not described, or if an original is still there. Raises SetupError if .venv lacks a package, and
    BackupError if there is no room, or if no made-up value was found.
    """
    with opened(source, "mode=ro&immutable=1", shown) as connection:
        schema = _schema(connection, shown, description)
        values = Values(connection, description)
    originals = originals_of(values, description)
    with tempfile.TemporaryDirectory(prefix="masked-", dir=source.parent) as folder:
        for attempt in range(MAX_TRIES):
            made = Path(folder) / f"{attempt}.sqlite"
            made_up = MadeUpValues(secrets.token_bytes(), originals, values.by_personal, _fronts(description))
            masked = _write(source, made, shown, description, schema, made_up)
            left = find_left(made, originals, f"the masked copy of {shown}")
            if not left:
                made.replace(target)
                return masked
            found = f"{left.personal}) in {left.place}"
            made.unlink()
    raise _refused(shown, f"the masked copy still has an original ({found}")


@dataclass(frozen=True)
class _Schema:
    """The statements that make the tables, by their names, and the indexes; and the settings of the database."""

    tables: Mapping[str, str]
    indexes: tuple[str, ...]
    settings: Mapping[str, int]


def _schema(connection: sqlite3.Connection, shown: str, description: DataDescription) -> _Schema:
    """The schema of a database that can be masked. Raises SnapshotError if something in it is not described."""
    made: dict[str, str] = {}
    indexes = []
    for sort, name, root, sql in connection.execute("SELECT type, name, rootpage, sql FROM sqlite_master"):
        if sort == "index":
            indexes += [sql] if sql else []
        elif sort != "table" or not root:
            what = "virtual table" if sort == "table" else sort
            raise _refused(shown, f"{what} {one_line(name)}: only tables and their indexes can be masked")
        elif name.startswith("sqlite_"):
            continue  # what SQLite counted, and samples of keys
        elif name not in description.tables:
            raise _refused(shown, f"table {one_line(name)}: in the database, but not described")
        else:
            made[name] = sql
    for name in made:
        columns = {column[1] for column in connection.execute(f"PRAGMA main.table_xinfo({quoted(name)})")}
        for column in sorted(columns ^ _COLUMNS):
            what = "not described" if column in columns else "missing"
            raise _refused(shown, f"table {name}: its column {one_line(column)} is {what}")
    settings = {one: connection.execute(f"PRAGMA main.{one}").fetchone()[0] for one in _KEPT_SETTINGS}
    return _Schema(made, tuple(indexes), settings)


def _write(
    source: Path, made: Path, shown: str, description: DataDescription, schema: _Schema, made_up: MadeUpValues
) -> Masked:
    """Make the masked database `made`, whose rows are in the order of their keys: the old order tells who is who."""
    mask = RowMask(made_up)
    logins = Logins(description)
    counted = progress.Count("rows")
    made.touch(mode=0o600)
    with (
        progress.step("making up the people", counted),
        opened(source, "mode=ro&immutable=1", shown) as read,
        opened(made, "mode=rw", f"the masked copy of {shown}") as write,
    ):
        write.execute("PRAGMA journal_mode=OFF")
        write.execute("PRAGMA synchronous=OFF")
        for name, value in schema.settings.items():
            write.execute(f"PRAGMA main.{name}={value}")
        write.execute("CREATE TEMP TABLE masked (key, counter, expiration, value)")
        write.execute("BEGIN")
        for sql in schema.tables.values():
            write.execute(sql)
        described = [description.tables[name] for name in schema.tables]
        tables = sorted((one for one in described if not one.is_of_the_moment), key=_has_names)
        counted.total = sum(
            read.execute(f"SELECT count(*) FROM main.{quoted(table.name)}").fetchone()[0] for table in tables
        )
        for table in tables:
            try:
                rows = _rows(read, table, mask, counted)
                write.executemany("INSERT INTO temp.masked VALUES (?, ?, ?, ?)", rows)
                logins.give(write, table)
                write.execute(
                    f"INSERT INTO main.{quoted(table.name)} (key, counter, expiration, value)"
                    " SELECT key, counter, expiration, value FROM temp.masked ORDER BY key"
                )
            except NotMaskedError as error:
                raise _refused(shown, f"table {table.name}: {error}") from error
            except sqlite3.IntegrityError as error:
                what = f"the schema does not allow a masked row: {one_line(error)}"
                raise _refused(shown, f"table {table.name}: {what}") from error
            write.execute("DELETE FROM temp.masked")
        for sql in schema.indexes:
            write.execute(sql)
        write.execute("COMMIT")
        named = logins.named(write)
    findings = integrity.verify(made, f"the masked copy of {shown}")
    if findings.defects:
        raise BackupError(f"the masked copy of {shown} is damaged: {findings.defects_shown}", DISK)
    return Masked(dict(mask.replaced), named)


def _rows(
    connection: sqlite3.Connection, table: Table, mask: RowMask, counted: progress.Count
) -> Iterator[tuple[str, int, int, bytes | str]]:
    rows = connection.execute(
        f"SELECT key, counter, expiration, value FROM main.{quoted(table.name)} NOT INDEXED"
    )
    for key, counter, expiration, value in counted.each(rows):
        if not isinstance(key, str) or not isinstance(value, bytes | str):
            raise NotMaskedError("a key that is not a text, or a value that is neither a text nor bytes")
        if table.not_in_clones and table.is_left_out_of_clones(key):
            continue
        if type(counter) is not int or type(expiration) is not int:
            raise NotMaskedError("a counter or an expiration that is not a number")
        made, content = mask.masked(table, key, value)
        yield made, counter, expiration, content


def _has_names(table: Table) -> int:
    """0 if a row has an address beside a user ID, 1 if beside a name, else 2: in this order an address meets its names first."""
    held = [{kind.personal for _, kind in pattern.places()} for pattern in table.patterns]
    together = (personal for one in held if "address" in one for personal in one)
    return min(({"user ID": 0, "name": 1}.get(personal, 2) for personal in together), default=2)


def _fronts(description: DataDescription) -> list[str]:
    """How the keys end behind which SQLite writes a value, without anything between them."""
    return [
        pattern.parts[-1]
        for table in description.tables.values()
        for pattern in table.patterns
        if isinstance(pattern.parts[-1], str) and isinstance(pattern.value, Text) and pattern.value.kinds
    ]


def _refused(shown: str, why: str) -> SnapshotError:
    return SnapshotError(f"{shown} cannot be masked: {why}", _PAGE)
