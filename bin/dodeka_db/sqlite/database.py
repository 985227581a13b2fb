"""SQLite: export a live database, say what is wrong with a file, count its rows, prepare it for being replaced."""

import errno
import fcntl
import os
import re
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dodeka_db import safe_open
from dodeka_db.errors import WHO, BackupError, DatabaseError
from dodeka_db.host import open_files

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
THIS_SQLITE = f"SQLite {sqlite3.sqlite_version}"
# of the lines that SQLite's check would find
MOST_DEFECTS = 100
SHOWN_DEFECTS = 3
# an index over what a row expands to takes any amount; a row may have about a third of this
MEMORY_BYTES = 256_000_000


class DatabaseInUse(DatabaseError):
    """A process still has the database open."""


class NotWhole(DatabaseError):
    """There is no database whose rows can all be read: it is missing, empty, damaged, or something else."""


class CannotExport(DatabaseError):
    """VACUUM INTO cannot copy this database; its pages can be copied, perhaps."""


@dataclass(frozen=True)
class Header:
    """What the first 100 bytes say (https://www.sqlite.org/fileformat2.html#the_database_header)."""

    page_bytes: int
    pages: int
    wal: bool


@dataclass(frozen=True)
class Findings:
    """What is wrong with a database that can be read through.

    `orphans`: how many rows of one table refer to no row of another one, by the names of the two; SQLite lets them be.
    `defects`: what SQLite's check says, each line once. `unchecked`: why this SQLite cannot do all of that check, or "".
    """

    orphans: Mapping[tuple[str, str], int]
    defects: tuple[str, ...]
    unchecked: str

    @property
    def defects_shown(self) -> str:
        """The first defects, and how many more there are."""
        more = len(self.defects) - SHOWN_DEFECTS
        return ", ".join(self.defects[:SHOWN_DEFECTS]) + (f", and {more} more" if more > 0 else "")

    def lines(self) -> list[str]:
        """All that was found, for a log or a question."""
        lines = [
            f"rows of {child} that refer to no row of {parent}: {count}"
            for (child, parent), count in self.orphans.items()
        ]
        if self.defects:
            lines.append(f"SQLite's check says: {self.defects_shown}")
        if self.unchecked:
            lines.append(f"{THIS_SQLITE} cannot check all of it: {self.unchecked}")
        return lines


def use_for_temporary_files(folder: Path) -> None:
    """From here on SQLite puts into `folder` what a sort or a statement does not keep in memory.

    SQLITE_TMPDIR is read when the module is imported, and what follows is deprecated, but has no successor.
    """
    # who may not write there fails by the next thing that is to be there
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(":memory:")) as connection:
        quoted = str(folder).replace("'", "''")
        connection.execute(f"PRAGMA temp_store_directory='{quoted}'")


def read_header(path: Path, shown: str = "") -> Header:
    """The header of the file at `path`; NotWhole if it is missing, empty or no database, DatabaseError if unreadable.

    `shown` is what a message calls it, if not by its path.

    To be called before SQLite opens a path: SQLite creates what is missing and takes what is empty.
    """
    shown = shown or f"database {path}"
    try:
        with open(path, "rb", opener=safe_open.regular) as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise NotWhole(
            f"{shown} is missing", "check DODEKA_BACKEND, or restore it: BACKUP.md, 'Restore'"
        ) from error
    except OSError as error:
        raise DatabaseError(f"{shown} cannot be read: {error.strerror}", _next_step(error)) from error
    if not head:
        raise NotWhole(f"{shown} is empty (0 bytes)", _RESTORE)
    return header_of(head, shown)


def header_of(head: bytes, shown: str) -> Header:
    """The header in `head`, the first HEADER_BYTES bytes of a file; NotWhole, calling it `shown`, if it is no database."""
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        raise NotWhole(f"{shown} is not an SQLite database", _RESTORE)
    page_bytes = int.from_bytes(head[16:18], "big")
    return Header(
        page_bytes=65536 if page_bytes == 1 else page_bytes,
        pages=int.from_bytes(head[28:32], "big"),
        wal=head[18] == 2,
    )


def export(source: Path, target: Path) -> None:
    """Write a compacted copy of the database `source`, which may be in use, to the new file `target`.

    `VACUUM INTO` reads in one transaction: the copy is of one moment, and in WAL mode no writer waits for
    it (https://www.sqlite.org/lang_vacuum.html#vacuuminto). It needs every function, collation and bit of
    syntax that the schema names, and indexes that can be read: CannotExport, with no `target`, where copy() may do
    better. Raises DatabaseError, or BackupError when there is no room for the copy.
    """
    with _exporting(source, target) as connection:
        connection.execute("PRAGMA writable_schema=OFF")  # or it would leave out what it cannot parse
        try:
            connection.execute("PRAGMA synchronous=OFF")  # of the copy, which need not survive a power cut
            connection.execute("VACUUM INTO ?", (str(target),))
        except (sqlite3.Error, MemoryError) as error:
            if not _is_of_the_database(error):
                raise
            target.unlink(missing_ok=True)
            raise CannotExport(f"{THIS_SQLITE} cannot compact database {source}: {_plain(error)}") from error


def copy(source: Path, target: Path) -> None:
    """Write a copy of the database `source`, page for page, which may be in use, to the new file `target`.

    SQLite's online backup in one step: one read transaction, and in WAL mode no writer waits for it
    (https://www.sqlite.org/backup.html). Free pages and what is left of deleted rows come along. Raises as
    export() does.
    """
    with _exporting(source, target) as connection, closing(sqlite3.connect(target)) as copied:
        # the transaction is begun here, where a lock is waited for as elsewhere: backup() would wait for ever
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copied.execute("PRAGMA journal_mode=OFF")
        copied.execute("PRAGMA synchronous=OFF")
        connection.backup(copied)


@contextmanager
def _exporting(source: Path, target: Path) -> Iterator[sqlite3.Connection]:
    read_header(source)
    with _opened(source, "mode=ro", f"database {source}") as connection:
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if _name(error) == "SQLITE_FULL":
                message = f"no room left in {target.parent} for the export of {source}"
                raise BackupError(message, "free some, or set DODEKA_STATE to a larger disk") from error
            if _name(error).startswith(("SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_FSYNC")):
                message = f"the export {target} cannot be written: {error} ({_name(error)})"
                raise BackupError(message, _DISK) from error
            raise


def size_bytes(path: Path) -> int:
    """How large the database at `path`, which may be in use, is with what is in its journal. Raises DatabaseError."""
    header = read_header(path)
    with _opened(path, "mode=ro", f"database {path}") as connection:
        return connection.execute("PRAGMA page_count").fetchone()[0] * header.page_bytes


def verify(path: Path, shown: str, quick: bool = False) -> Findings:
    """What is wrong with the database in the file `path`, which nobody else uses; NotWhole if it cannot be read through.

    `shown` is what a message calls it. With `quick` the indexes are not compared with their tables, which takes
    most of the time (https://www.sqlite.org/pragma.html#pragma_quick_check). The size is checked first: SQLite
    itself does not mind bytes behind the last page.
    """
    header = read_header(path, shown)
    size = path.stat().st_size
    if size != header.pages * header.page_bytes:
        expected = header.pages * header.page_bytes
        raise NotWhole(f"{shown} has {size} bytes where its header says {expected}", _RESTORE)
    # not read-only: then SQLite would leave CHECKs out
    with _opened(path, "mode=rw", shown) as connection:
        findings = _check(connection, "quick_check" if quick else "integrity_check")
        if findings.defects or findings.unchecked:  # else that check has read everything
            try:
                _read_through(connection)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                problem = findings.defects_shown or _plain(error)
                raise NotWhole(f"{shown} is damaged: {problem}", _RESTORE) from error
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise NotWhole(f"{shown} holds no tables", _RESTORE)
    return findings


def _check(connection: sqlite3.Connection, check: str) -> Findings:
    defects, orphans, unchecked = [], Counter(), []

    def rows(sql: str) -> Iterator[tuple]:
        try:
            yield from connection.execute(sql)
        except (sqlite3.DatabaseError, MemoryError) as error:
            if _is_beyond_us(error):
                unchecked.append(_plain(error))
            elif _is_damage(error):
                defects.append(_plain(error))
            else:
                raise

    # here a schema that cannot be parsed is an error: of half of one the check says what is not so
    connection.execute("PRAGMA writable_schema=OFF")
    lines = [line for (line,) in rows(f"PRAGMA {check}({MOST_DEFECTS})")]
    if unchecked:  # for the sake of one table, or of its CHECKs
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for (name,) in list(rows(_TABLES)):
            lines += [line for (line,) in rows(f"PRAGMA {check}({_quoted(name)})")]
    for child, _row, parent, _key in rows("PRAGMA foreign_key_check"):
        orphans[_plain(child), _plain(parent)] += 1
    found = (_plain(line) for several in lines for line in several.splitlines())
    defects += [line for line in found if line != "ok" and not line.startswith("*** in database")]
    return Findings(orphans, tuple(dict.fromkeys(defects)), ", ".join(dict.fromkeys(unchecked)))


def _read_through(connection: sqlite3.Connection) -> None:
    """Read every row of every table that this SQLite can read, past the indexes. Raises sqlite3.DatabaseError."""
    connection.execute("PRAGMA writable_schema=ON")
    for (name,) in connection.execute(_TABLES).fetchall():
        # without what is generated, maybe by a function that is not there
        columns = connection.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
        selected = ", ".join(_quoted(column[1]) for column in columns)
        connection.text_factory = bytes  # text need not be UTF-8
        try:
            for _row in connection.execute(f"SELECT {selected or 1} FROM main.{_quoted(name)} NOT INDEXED"):
                pass
        except (sqlite3.DatabaseError, MemoryError) as error:
            if not _is_beyond_us(error):
                raise
        connection.text_factory = str


def reindex(path: Path, shown: str) -> None:
    """Rebuild every index of the database `path`, which nobody else uses, that can be rebuilt. Raises BackupError.

    One cannot where rows do not differ that should, or where this SQLite has not what it needs: it stays as it is. In WAL
    mode from then on, which needs no rollback: see _opened().
    """
    _set_journal_mode(path, wal=True)
    with _opened(path, "mode=rw", shown) as connection:
        indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
        for (name,) in indexes:
            try:
                connection.execute(f"REINDEX main.{_quoted(name)}")
            except (sqlite3.DatabaseError, MemoryError) as error:
                if not _is_of_the_database(error):
                    raise


def row_counts(path: Path) -> dict[str, int | None]:
    """How many rows each table of the database at `path`, which may be in use, has. Raises DatabaseError.

    None where this SQLite cannot tell.
    """
    read_header(path)
    counts: dict[str, int | None] = {}
    with _opened(path, "mode=ro", f"database {path}") as connection:
        connection.execute("BEGIN")  # all of them at one moment
        for (name,) in connection.execute(f"{_TABLES} AND name NOT GLOB 'sqlite_*'").fetchall():
            counts[name] = _count(connection, name)
    return counts


def _count(connection: sqlite3.Connection, table: str) -> int | None:
    for past in ("", " NOT INDEXED"):  # SQLite counts in an index, and that may be what is damaged
        try:
            (count,) = connection.execute(f"SELECT count(*) FROM main.{_quoted(table)}{past}").fetchone()
            return count
        except (sqlite3.DatabaseError, MemoryError) as error:
            if _is_beyond_us(error):
                return None
            if past or not _is_damage(error):
                raise


def is_damaged(path: Path) -> bool:
    """Whether the file at `path` is missing or so damaged that nobody can open it as a database; its rows are not read."""
    try:
        read_header(path)
        with _opened(path, "mode=ro", f"database {path}") as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except NotWhole:
        return True
    except BackupError:
        pass  # in use, or not ours to read: somebody can
    return False


def match_journal_mode(staged: Path, live: Path) -> None:
    """Give `staged` the journal mode of `live`, the backend's own (WAL) where that is no database. Raises BackupError."""
    try:
        wal = read_header(live).wal
    except NotWhole:
        wal = True
    left = Path(f"{staged}-wal")  # an empty one is of a reader
    if left.exists() and left.stat().st_size:
        raise BackupError(f"{left} could not be brought into its database", _DISK)
    _set_journal_mode(staged, wal)


def _set_journal_mode(path: Path, wal: bool) -> None:
    """As SQLite does, which would have to open the database for it; nobody else has, and no journal holds anything."""
    try:
        with open(path, "r+b", opener=safe_open.no_link) as file:
            file.seek(18)
            file.write(b"\2\2" if wal else b"\1\1")
    except OSError as error:
        raise BackupError(f"database {path} cannot be written: {error.strerror}", _DISK) from error


def check_access(path: Path) -> None:
    """Raise DatabaseError unless we may read and write the file `path`, which is no link."""
    try:
        os.close(safe_open.no_link(path, os.O_RDWR))
    except OSError as error:
        raise DatabaseError(
            f"database {path} cannot be written: {error.strerror}", _next_step(error)
        ) from error


def fold(path: Path) -> None:
    """Bring what is in the journals of the database at `path` into the file itself, and be the only one there.

    Whoever has used it is noticed on the way, idle readers too, which a checkpoint and BEGIN EXCLUSIVE let
    pass in WAL mode (a connection that has read nothing yet is seen by nobody). Raises DatabaseInUse or
    NotWhole, or another BackupError, with nothing lost and the journals in place.
    """
    read_header(path)
    shown = f"database {path}"
    is_ours = safe_open.is_ours(path.parent)
    try:
        with _opened(path, "mode=rw", shown) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # rolls a hot journal back
            if is_ours:  # else _opened() has seen to that
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute("ROLLBACK")
        # the last one that closes folds the WAL in and removes it (https://www.sqlite.org/wal.html, section 4.1)
        if Path(f"{path}-wal").exists():
            with _opened(path, "mode=rw", shown) as connection:  # is refused, and says why
                if is_ours:
                    connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            if Path(f"{path}-wal").exists():
                raise DatabaseInUse(f"{shown} is locked by another process", _RETRY)
    except DatabaseInUse as error:
        hint = f"find it with: sudo fuser -v {path}"
        raise DatabaseInUse(f"{shown} is still open in another process", hint) from error


@contextmanager
def _opened(path: Path, query: str, shown: str) -> Iterator[sqlite3.Connection]:
    """A connection; what goes wrong in the block becomes a BackupError about `shown`.

    In a folder of another user no journal is rolled back, which "mode=ro" never does, and the block must not change the
    journal mode. A journal can name another file (https://www.sqlite.org/fileformat2.html#the_rollback_journal), and SQLite
    removes that behind the rollback, with our rights and wherever it is.
    """
    _check_journals(Path(os.path.realpath(path)), shown)
    alone, before = None, 0
    try:
        with ExitStack() as opened:
            if query == "mode=rw" and not safe_open.is_ours(path.parent):
                alone = opened.enter_context(_alone(path, shown))
                before = open_files.count_open(alone)
            # as_uri quotes a '?' in the path; isolation_level None: no transaction that we did not begin
            uri = f"{path.as_uri()}?{query}"
            connection = opened.enter_context(
                closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=2))
            )
            # what a newer SQLite wrote into the schema does not keep this one from the rest; nothing is written there
            # (https://www.sqlite.org/pragma.html#pragma_writable_schema). SQLITE_DBCONFIG_DEFENSIVE would forbid just this,
            # and nothing else that is done here: no statement is the database's own
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute(f"PRAGMA hard_heap_limit={MEMORY_BYTES}")
            if alone:
                if open_files.count_open(alone) != before + 1:
                    raise DatabaseError(f"{shown} is another file by now", _RETRY)
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                # in WAL mode this connection looks at no other journal any more
                if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                    _lock(alone, fcntl.F_UNLCK)
            yield connection
    except sqlite3.Error as error:
        raise _failure(path, shown, error, alone) from error
    except UnicodeDecodeError as error:
        # sqlite3's own, where a damaged name stands in a message of SQLite
        raise NotWhole(f"{shown} is damaged: a name in it is no text", _RESTORE) from error
    except MemoryError as error:
        raise BackupError(f"{shown}: {_plain(error)}", "look with: top") from error


def _alone(path: Path, shown: str) -> IO[bytes]:
    """The database file at `path`, with the lock of a reader: behind that SQLite rolls nothing back, however late it comes.

    Raises DatabaseInUse where somebody else has such a lock, or DatabaseError.
    """
    try:
        with ExitStack() as opened:
            file = opened.enter_context(open(path, "r+b", opener=safe_open.no_link))
            _lock(file, fcntl.F_WRLCK)
            _lock(file, fcntl.F_RDLCK)
            opened.pop_all()  # to be closed behind the connection, which loses its own locks by that
            return file
    except BlockingIOError as error:
        raise DatabaseInUse(f"{shown} is locked by another process", _RETRY) from error
    except OSError as error:
        raise DatabaseError(f"{shown} cannot be written: {error.strerror}", _next_step(error)) from error


def _lock(file: IO[bytes], kind: int) -> None:
    """Of the bytes that SQLite's readers lock (SHARED_FIRST and SHARED_SIZE in its os_unix.c), and against its own locks in
    this process too (https://man7.org/linux/man-pages/man2/F_OFD_SETLK.2const.html).
    """
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0x40000000 + 2, 510, 0))


def _check_journals(path: Path, shown: str) -> None:
    """Raise DatabaseError where SQLite would wait for a pipe for ever."""
    try:
        for suffix in ("-wal", "-journal", "-shm"):
            safe_open.check(f"{path}{suffix}")
    except OSError as error:
        place = f"{error.filename}: {error.strerror}"
        raise DatabaseError(f"{shown} cannot be read: {place}", _next_step(error)) from error


def _failure(path: Path, shown: str, error: sqlite3.Error, alone: IO[bytes] | None) -> BackupError:
    name, said = _name(error), _plain(error)
    rolls_nothing_back = alone and name == "SQLITE_BUSY" and Path(f"{path}-journal").exists()
    if name == "SQLITE_NOTADB" or said == "unsupported file format":
        return NotWhole(
            f"{shown} is no database that {THIS_SQLITE} can read: {said}",
            "a newer SQLite can, perhaps; else restore it: BACKUP.md, 'Restore'",
        )
    if _is_damage(error) or said.startswith("Could not decode"):
        return NotWhole(f"{shown} is damaged: {said}", _RESTORE)
    if name in ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY") or rolls_nothing_back:
        return DatabaseError(
            f"{shown} has an unfinished transaction in its journal",
            "start its service once, which rolls it back",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return DatabaseInUse(f"{shown} is locked by another process", _RETRY)
    if name == "SQLITE_FULL":
        return BackupError(f"no room left on the disk of {shown}", "free some")
    if name == "SQLITE_IOERR_NOMEM":
        return BackupError(f"{shown}: {_plain(MemoryError())}", "look with: top")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        if reason := _why_not_opened(path):
            place = f"{reason.filename}: {reason.strerror}"
            return DatabaseError(f"{shown} cannot be read: {place}", _next_step(reason))
        return DatabaseError(f"{shown} cannot be read: {said} ({name})", _DISK)
    return DatabaseError(f"{THIS_SQLITE} cannot read {shown}: {said}")


def _why_not_opened(path: Path) -> OSError | None:
    """Why SQLite, which does not say so, could not open the database at `path` or a file that it keeps or makes beside it."""
    try:
        with ExitStack() as opened:  # all of them at once: there is a limit
            for suffix in ("", "-wal", "-shm", "-journal"):
                if not suffix or os.path.lexists(f"{path}{suffix}"):
                    opened.enter_context(open(f"{path}{suffix}", "rb", opener=safe_open.regular))
            file = opened.enter_context(tempfile.TemporaryFile(dir=path.parent))
            file.write(bytes(32768))  # a -shm has as many
            file.flush()
    except OSError as error:
        if not str(error.filename).startswith(str(path)):
            error.filename = str(path.parent)
        return error
    return None


def _next_step(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return WHO
    if error.errno == errno.EROFS:
        return "its disk is mounted read-only; why, says: sudo dmesg"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some room there"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files: ulimit -n"
    wrong_place = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
    if error.errno in wrong_place:
        return "check DODEKA_BACKEND"
    return _DISK


def _is_beyond_us(error: sqlite3.Error | MemoryError) -> bool:
    """Whether this SQLite lacks what the schema needs, or the data are beyond its limits or ours: no fault of the data."""
    if isinstance(error, MemoryError):
        return True
    name, said = _name(error), str(error)
    if name.startswith("SQLITE_CORRUPT"):  # damaged is what names a page that is not there
        return bool(
            re.match(r"malformed database schema \(.*\) - (?!invalid rootpage|orphan index)", said, re.DOTALL)
        )
    return name == "SQLITE_TOOBIG" or (name.startswith("SQLITE_ERROR") and said != "unsupported file format")


def _is_of_the_database(error: sqlite3.Error | MemoryError) -> bool:
    """Whether what is in the database is the reason, and not a disk, a right or another process."""
    return _is_beyond_us(error) or _is_damage(error) or isinstance(error, sqlite3.IntegrityError)


def _is_damage(error: sqlite3.Error | MemoryError) -> bool:
    return _name(error).startswith("SQLITE_CORRUPT") and not _is_beyond_us(error)


def _name(error: sqlite3.Error | MemoryError) -> str:
    return getattr(error, "sqlite_errorname", "")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(said: object) -> str:
    """What SQLite says, in one line that is not too long; of its memory it says nothing."""
    if isinstance(said, MemoryError):
        return f"SQLite takes more than the {MEMORY_BYTES // 1_000_000} MB of memory that we give it, or than there is"
    return " ".join(str(said).split())[:200]


# by the schema alone: pragma_table_list prepares every view
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
_RESTORE = "restore it: BACKUP.md, 'Restore'"
_RETRY = "try again"
_DISK = "look at its disk: sudo dmesg"
