"""database: exports of what is in use and of what is broken, checks, counts, and being alone with it."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from dodeka_db.errors import BackupError, DatabaseError
from dodeka_db.sqlite import header, integrity, sample_data
from dodeka_db.sqlite.checkpoint import check_access, checkpoint_and_close
from dodeka_db.sqlite.export import copy_pages, export_compacted
from dodeka_db.sqlite.failures import CannotCompactError, DatabaseInUseError, NotWholeError
from dodeka_db.sqlite.row_counts import row_counts
from site_folder import ROOT
from sqlite_files import corrupt_page, leave_hot_journal, leave_in_wal, make_staged, rows


@pytest.fixture
def db(tmp_path) -> Path:
    path = tmp_path / "db.sqlite"
    sample_data.create(path, members=300)
    return path


@pytest.fixture(params=[export_compacted, copy_pages], ids=["export", "copy"])
def export(request):
    """Either way to a copy of a database that is in use."""
    return request.param


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "export.sqlite"


def test_an_export_has_every_row_also_those_in_the_wal(db, target, export):
    with closing(sqlite3.connect(db, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("INSERT INTO users_by_email VALUES ('in-the-wal', 0, 0, x'00')")
        export(db, target)
    integrity.verify(target, "the export")
    assert rows(target, "SELECT key FROM users_by_email WHERE key = 'in-the-wal'")
    assert sample_data.digest(target) == sample_data.digest(db)


def test_a_reader_that_exports_leaves_the_wal_alone(db, target, export):
    with closing(sqlite3.connect(db, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("INSERT INTO users_by_email VALUES ('in-the-wal', 0, 0, x'00')")
        wal = Path(f"{db}-wal").read_bytes()
        main = db.read_bytes()
        export(db, target)
        assert (Path(f"{db}-wal").read_bytes(), db.read_bytes()) == (wal, main)


def test_an_export_keeps_the_settings_of_the_file(tmp_path, target, export):
    path = tmp_path / "odd.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=8192")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA user_version=42")
        connection.execute("PRAGMA application_id=4711")
        connection.execute("CREATE TABLE t (a)")
    export(path, target)
    for pragma, value in (
        ("page_size", 8192),
        ("auto_vacuum", 2),
        ("user_version", 42),
        ("application_id", 4711),
    ):
        assert rows(target, f"PRAGMA {pragma}") == [(value,)]


def test_the_same_content_is_exported_to_the_same_bytes(db, tmp_path, export):
    export(db, tmp_path / "1")
    export(db, tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_question_mark_in_the_path_is_a_question_mark(tmp_path, target, export):
    path = tmp_path / "what?mode=rwc&x#y %20" / "db.sqlite"
    sample_data.create(path, members=5)
    export(path, target)
    assert sample_data.count(target) == 5


WRITER = """
import os, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.5)
db.execute("PRAGMA journal_mode=WAL"); db.execute("PRAGMA synchronous=NORMAL")
me, n = sys.argv[2], 0
while not os.path.exists(sys.argv[3]):
    db.execute("BEGIN IMMEDIATE")
    # both or none: an export that has one without the other is not of one moment
    db.execute("INSERT INTO outbox VALUES (?, 0, 0, zeroblob(300))", (f"{me}-{n}",))
    db.execute("INSERT INTO tokens VALUES (?, 0, 0, zeroblob(3))", (f"{me}-{n}",))
    db.execute("COMMIT")
    n += 1
    time.sleep(0.001)
print(n)
"""


def test_every_export_under_a_hammering_writer_is_consistent_and_it_is_never_refused(tmp_path, export):
    path = tmp_path / "db.sqlite"
    sample_data.create(path, members=5000)
    started = rows(path, "SELECT count(*) FROM outbox")[0][0]
    stop = tmp_path / "stop"
    # one writer, as the backend has; a writer that is refused ends with a traceback and a 1
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, "w", stop], stdout=subprocess.PIPE, text=True
    )
    for number in range(12):
        target = tmp_path / f"export-{number}"
        export(path, target)
        integrity.verify(target, "the export")
        queued = {key for (key,) in rows(target, "SELECT key FROM outbox WHERE key LIKE '%-%'")}
        counted = {key for (key,) in rows(target, "SELECT key FROM tokens WHERE key LIKE '%-%'")}
        assert queued == counted
        target.unlink()  # as a run does
    stop.touch()
    output, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0, "the writer was refused"
    written = int(output)
    assert written > 100
    assert rows(path, "SELECT count(*) FROM outbox")[0][0] == started + written


def test_a_missing_database_is_an_error_and_stays_missing(tmp_path, target, export):
    with pytest.raises(DatabaseError, match="is missing"):
        export(tmp_path / "none.sqlite", target)
    assert not (tmp_path / "none.sqlite").exists() and not target.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"SQLite format 3\0", "is not an SQLite database"),
        (b"PK\3\4" + bytes(5000), "is not an SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 8000, "is damaged|not"),
    ],
)
def test_what_is_not_a_database_is_an_error(tmp_path, target, content, said, export):
    path = tmp_path / "db.sqlite"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match=said):
        export(path, target)
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_a_database_is_an_error(tmp_path, target, export):
    with pytest.raises(DatabaseError, match="cannot be read"):
        export(tmp_path, target)


def test_a_corrupt_database_is_an_error(db, target, export):
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(3, 40):
        corrupt_page(db, number)
    with pytest.raises(CannotCompactError if export is export_compacted else DatabaseError):
        export(db, target)
        integrity.verify(target, "the copy")  # pages are copied as they are


def test_an_index_of_other_values_than_the_table_s_is_found_in_the_export(db, target):
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, -1)", [(n,) for n in range(100)])
        connection.execute("CREATE INDEX i ON t (b)")
        connection.execute("PRAGMA writable_schema=ON")
        # as many entries as rows: from 3.46 on quick_check counts them
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (a)' WHERE name = 'i'")
        connection.execute("PRAGMA writable_schema=RESET")
    shutil.copy(db, target)
    assert "row 1 missing from index i" in integrity.verify(target, "the copy").defects
    integrity.verify(
        target, "the copy", quick=True
    )  # which need not find it: that is what the drills are for


def test_an_unfinished_transaction_in_a_rollback_journal_is_an_error(tmp_path, target, export):
    path = tmp_path / "db.sqlite"
    leave_hot_journal(path)
    with pytest.raises(DatabaseError, match="unfinished transaction"):
        export(path, target)
    assert Path(f"{path}-journal").exists()


def test_a_database_that_somebody_keeps_locked_is_not_waited_for_for_ever(db, target, export):
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseError, match="is locked by another process"):
            export(db, target)


def test_no_room_for_the_export(db, small_disk, export):
    with pytest.raises(BackupError, match="no room left"):
        export(db, small_disk / "export.sqlite")


class TestVerify:
    def test_whole(self, db, target):
        export_compacted(db, target)
        assert integrity.verify(target, "the copy").lines() == []
        assert [path.name for path in target.parent.glob("export*")] == ["export.sqlite"]

    def test_pages_missing_at_the_end(self, db, target):
        export_compacted(db, target)
        os.truncate(target, target.stat().st_size - 4096)
        with pytest.raises(DatabaseError, match=r"the copy has .* bytes where its header says"):
            integrity.verify(target, "the copy")

    def test_pages_too_many(self, db, target):
        export_compacted(db, target)
        os.truncate(target, target.stat().st_size + 4096)
        with pytest.raises(DatabaseError, match="where its header says"):
            integrity.verify(target, "the copy")

    def test_a_corrupt_page(self, db, target):
        export_compacted(db, target)
        corrupt_page(target, 20)
        with pytest.raises(DatabaseError, match="is damaged"):
            integrity.verify(target, "the copy")

    def test_a_row_that_refers_to_none(self, target):
        with closing(sqlite3.connect(target)) as connection, connection:
            connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            connection.execute("CREATE TABLE child (parent REFERENCES parent)")
            connection.execute("INSERT INTO child VALUES (1)")
        findings = integrity.verify(target, "the copy")
        assert findings == integrity.Findings({("child", "parent"): 1}, (), "")

    def test_no_tables(self, target):
        with closing(sqlite3.connect(target)) as connection:
            connection.execute("VACUUM")
        if not target.stat().st_size:
            with closing(sqlite3.connect(target)) as connection:
                connection.execute("PRAGMA user_version=1")
        with pytest.raises(DatabaseError, match="contains no tables"):
            integrity.verify(target, "the copy")


class TestFold:
    def test_commits_that_their_writer_did_not_live_to_fold_in(self, db):
        leave_in_wal(db)
        checkpoint_and_close(db)
        assert not Path(f"{db}-wal").exists() and not Path(f"{db}-shm").exists()
        assert rows(db, "SELECT key FROM users_by_email WHERE key = 'in-the-wal'")

    def test_an_unfinished_transaction_is_rolled_back(self, tmp_path):
        path = tmp_path / "db.sqlite"
        leave_hot_journal(path)
        checkpoint_and_close(path)
        assert not Path(f"{path}-journal").exists()
        assert rows(path, "SELECT count(*) FROM t") == [(0,)]

    @pytest.mark.slow("each mode", keep=["reading-WAL", "writing-DELETE"])
    @pytest.mark.parametrize("mode", ["WAL", "DELETE"])
    @pytest.mark.parametrize("doing", ["reading", "writing"])
    def test_a_transaction_is_enough_to_refuse(self, db, mode, doing):
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            other.execute(f"PRAGMA journal_mode={mode}")
            other.execute("BEGIN" if doing == "reading" else "BEGIN IMMEDIATE")
            other.execute("SELECT * FROM users_by_email").fetchone()
            with pytest.raises(DatabaseInUseError, match="still open in another process"):
                checkpoint_and_close(db)

    def test_in_wal_mode_an_idle_connection_is_enough(self, db):
        with closing(sqlite3.connect(db, isolation_level=None)) as idle:
            idle.execute("SELECT * FROM users_by_email").fetchone()
            with pytest.raises(DatabaseInUseError, match="still open in another process"):
                checkpoint_and_close(db)

    @pytest.mark.parametrize("content", [None, b"", b"rubbish" * 99, b"SQLite format 3\0" + b"\xff" * 9000])
    def test_what_is_no_whole_database(self, tmp_path, content):
        path = tmp_path / "db.sqlite"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(NotWholeError):
            checkpoint_and_close(path)
        assert (path.read_bytes() if path.exists() else None) == content


class TestRowCounts:
    def test_every_table_by_its_own_name(self, db):
        with closing(sqlite3.connect(db, isolation_level=None)) as connection:
            connection.execute('CREATE TABLE "odd "" name" (a)')
            connection.execute("CREATE VIEW v AS SELECT * FROM users_by_email")
            connection.execute("CREATE TABLE numbered (a INTEGER PRIMARY KEY AUTOINCREMENT)")
        counts = row_counts(db)
        assert set(counts) == {*sample_data.TABLES, 'odd " name', "numbered"}
        assert (counts["users_by_email"], counts["outbox"], counts['odd " name']) == (300, 15, 0)

    def test_what_is_in_the_wal_counts_and_nobody_waits(self, db):
        with closing(sqlite3.connect(db, isolation_level=None)) as writer:
            writer.execute("INSERT INTO users_by_email VALUES ('in-the-wal', 0, 0, x'00')")
            writer.execute("BEGIN IMMEDIATE")
            assert row_counts(db)["users_by_email"] == 301


class TestMatchJournalMode:
    @pytest.mark.parametrize("mode", ["WAL", "DELETE"])
    def test_that_of_the_old_one(self, db, tmp_path, mode):
        staged = make_staged(tmp_path)
        with closing(sqlite3.connect(db)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
        header.match_journal_mode(staged, db)
        assert rows(staged, "PRAGMA journal_mode") == [(mode.lower(),)]
        assert not Path(f"{staged}-wal").exists()

    def test_for_a_copy_of_pages_too(self, db, tmp_path):
        copy_pages(db, tmp_path / "staged")
        assert header.read_header(tmp_path / "staged").wal
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        header.match_journal_mode(tmp_path / "staged", db)
        assert not header.read_header(tmp_path / "staged").wal

    def test_what_is_not_in_its_database_is_no_rest_to_leave_behind(self, db, tmp_path):
        staged = make_staged(tmp_path)
        header.match_journal_mode(staged, db)
        row_counts(staged)  # leaves an empty one
        header.match_journal_mode(staged, db)
        leave_in_wal(staged)
        with pytest.raises(BackupError, match="-wal could not be brought into its database"):
            header.match_journal_mode(staged, db)

    def test_wal_where_there_is_no_database(self, tmp_path):
        staged = make_staged(tmp_path)
        header.match_journal_mode(staged, tmp_path / "none")
        assert header.read_header(staged).wal


SCRIPT = """
import resource, sqlite3, sys, tempfile
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from dodeka_db.sqlite.export import copy_pages, export_compacted
from dodeka_db.errors import BackupError
tempfile.TemporaryFile().close()
{first}
try:
    export_compacted(Path(sys.argv[2]), Path(sys.argv[3]))
except BackupError as error:
    print(error)
"""


class TestReasons:
    """The true one, and the next step that fits, where SQLite itself says no more than that it cannot open a file."""

    def said(self, db: Path, *inject: str, first: str = "") -> str:
        """What an export of `db` ends with, in a process of its own, into which strace injects errors."""
        strace = ["strace", "-fqqo/dev/null", *inject] if inject else []
        command = [sys.executable, "-c", SCRIPT.format(first=first), ROOT / "bin", db, f"{db}.export"]
        return subprocess.run([*strace, *command], capture_output=True, text=True, check=True).stdout

    @pytest.fixture
    def of_root(self):
        """A database in WAL mode that belongs to root, and so does its folder, which others may read."""
        if os.geteuid() != 0:
            pytest.skip("only root can become somebody else")
        folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
        folder.chmod(0o755)
        sample_data.create(folder / "db.sqlite", members=5)
        (folder / "db.sqlite").chmod(0o644)
        yield folder / "db.sqlite"
        shutil.rmtree(folder)

    @contextmanager
    def nobody(self):
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    def test_a_folder_that_we_may_not_write(self, of_root, export):
        with self.nobody(), pytest.raises(DatabaseError) as failure:
            export(of_root, of_root.with_name("copy"))
        assert failure.value.message == (
            f"database {of_root} cannot be read: {of_root.parent}: Permission denied"
        )
        assert (
            failure.value.hint
            == "run this as the user of the backups; if that is dbackup, 'sudo make install' restores its permissions"
        )

    def test_a_wal_that_we_may_not_read(self, of_root, export):
        leave_in_wal(of_root)
        Path(f"{of_root}-wal").chmod(0o600)
        with self.nobody(), pytest.raises(DatabaseError) as failure:
            export(of_root, of_root.with_name("copy"))
        assert failure.value.message == f"database {of_root} cannot be read: {of_root}-wal: Permission denied"

    def test_a_lock_that_we_may_not_take(self, of_root):
        leave_in_wal(of_root)
        for suffix in ("-wal", "-shm"):
            Path(f"{of_root}{suffix}").chmod(0o644)
        with self.nobody(), pytest.raises(DatabaseError, match="Permission denied; run this as the user"):
            checkpoint_and_close(of_root)

    def test_a_disk_that_is_mounted_read_only(self, of_root, target, export):
        subprocess.run(["mount", "--bind", of_root.parent, of_root.parent], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", of_root.parent], check=True)
            with pytest.raises(DatabaseError, match="Read-only file system; its disk is mounted read-only"):
                export(of_root, target)
            with pytest.raises(DatabaseError, match="cannot be written: Read-only file system; its disk is"):
                check_access(of_root)
        finally:
            subprocess.run(["umount", of_root.parent], check=True)

    def test_a_full_disk_on_which_a_wal_needs_its_index(self, small_disk, target, export):
        with closing(sqlite3.connect(small_disk / "db.sqlite")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE t (a)")
        with suppress(OSError), open(small_disk / "rest", "wb", buffering=0) as rest:
            while rest.write(bytes(4096)):
                pass
        with pytest.raises(DatabaseError, match="No space left on device; free some space on its disk"):
            export(small_disk / "db.sqlite", target)

    @pytest.mark.parametrize("call", ["openat", "read", "pread64"])
    def test_a_disk_that_fails(self, db, call):
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        said = self.said(db, f"-einject={call}:error=EIO", "-P", db)
        assert re.match(
            f"database {db} cannot be read: (Input/output error|disk I/O error .SQLITE_IOERR)", said
        )
        assert said.endswith("; check its disk: sudo dmesg\n")

    def test_a_disk_that_fails_under_the_export(self, db):
        said = self.said(db, "-einject=pwrite64:error=EIO", "-P", f"{db}.export")
        assert re.match(f"the export {db}.export cannot be written: disk I/O error .SQLITE_IOERR_WRITE", said)

    def test_too_many_open_files(self, db):
        said = self.said(db, first="resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))")
        assert "Too many open files; raise the limit of open files: ulimit -n\n" in said

    def test_no_memory(self, db):
        said = self.said(
            db, first="sqlite3.connect(':memory:').execute('PRAGMA hard_heap_limit=60000').fetchall()"
        )
        assert re.fullmatch(
            # where the limit is met depends on SQLite's version
            f"(SQLite .* cannot compact )?database {db}: SQLite needs more than 256 MB of memory .*\n",
            said,
        )

    def test_a_file_in_the_place_of_the_folder(self, db, target, export):
        with pytest.raises(DatabaseError, match="cannot be read: Not a directory; check DODEKA_BACKEND"):
            export(db / "db.sqlite", target)

    def test_a_folder_in_the_place_of_the_wal(self, db, target, export):
        Path(f"{db}-wal").mkdir()
        with pytest.raises(DatabaseError, match="-wal: Is a directory"):
            export(db, target)
