"""Made-up input at each boundary: it ends in a result or in one of our failures, soon, and in little memory.

`make fuzz` runs it, a minute or two; FUZZ_EXAMPLES says how many inputs a test makes up (200). What fails is shown as small as
it can be made, and is tried first the next time (.hypothesis).
"""

import faulthandler
import io
import json
import os
import resource
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import site_folder
from dodeka_db import errors, local_time, settings
from dodeka_db.errors import BackupError, SetupError, SnapshotError
from dodeka_db.flows import keys, snapshot_table, snapshots
from dodeka_db.flows.download import Incoming
from dodeka_db.formatting import columns, size
from dodeka_db.restic import json_values, repository, stale_locks
from dodeka_db.restic.snapshots import Snapshot, resolve
from dodeka_db.sqlite import header, integrity, sample_data, zstd_frames
from dodeka_db.sqlite.export import export_compacted
from dodeka_db.sqlite.row_counts import row_counts

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
LONGEST_S = 30
MAX_KB = 700_000
hypothesis_settings.register_profile(
    "ours", max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
)
hypothesis_settings.load_profile("ours")


@contextmanager
def bounded(*failures: type[BackupError]) -> Iterator[None]:
    """The block ends in time, in the memory that there is, and well or in one of `failures`, which is one line."""
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    try:
        yield
    except failures as error:
        assert errors.as_line(error).isprintable()
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MAX_KB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# --- the settings file

NAMES = st.sampled_from([*settings.SETTINGS, "AWS_SECRET_ACCESS_KEY", "RESTIC_PASSWORD", "DODEKA_STAT", "X"])
VALUES = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="'\"\\$`~/:@#?%[]{}=,; \tab1.-", max_size=40),
    st.sampled_from(
        ["none", "same", "zst", "pages", "1", "sudo systemctl", "~/x", "/x", "rclone:a:b", "local:/x"]
    ),
    st.builds(
        "{}://{}@{}".format, st.sampled_from(["http", "https", "rest:http", "sftp"]), st.text(), st.text()
    ),
)
LINES = st.builds("{}{}={}".format, st.sampled_from(["", "export ", " ", "# "]), NAMES, VALUES)


@given(st.one_of(st.binary(max_size=300), st.lists(LINES, max_size=6).map("\n".join)))
def test_a_settings_file(folder, content):
    file = folder / "backup.env"
    file.touch(0o600)
    file.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    with bounded(SetupError):
        found = settings.load({"DODEKA_BACKUP_ENV": str(file), "HOME": str(folder)})
        assert all(line.isprintable() for line in columns(list(found.in_force()), "<<<"))
        assert isinstance(found.main.masked("x"), str)
        _ = found.main.places, found.main.folder, found.offsite


# --- snapshot IDs


@given(
    st.one_of(
        st.text(), st.text("0123456789abcdef", max_size=70), st.sampled_from(["latest", "--help", "-h"])
    )
)
def test_a_snapshot_id(folder, wanted):
    here = settings.load({"DODEKA_BACKUP_ENV": "/dev/null", "HOME": str(folder)})
    listed = [snapshot(id=letter * 64) for letter in "0a"]
    with bounded(SnapshotError):
        assert resolve(here.main, listed, "production", wanted) in listed


@given(
    st.one_of(
        st.text(),
        st.text("0123456789-:+TZ yesterdaytoday"),
        st.builds(
            "{}{}{}".format,
            st.one_of(st.just(""), st.dates().map("{} ".format), st.sampled_from(["today ", "yesterday "])),
            st.times().map(lambda time: time.isoformat("seconds")),
            st.one_of(st.just(""), st.times().map(lambda time: f"+{time:%H:%M}"), st.just("-23:59")),
        ),
        st.datetimes().map(lambda moment: moment.isoformat("T", "minutes")),
    ),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 3), max_value=datetime(9999, 12, 29)),
)
def test_a_time(text, now):
    with bounded(SnapshotError):
        moment = local_time.parse(text, now)
        assert moment <= now and local_time.shown(moment).isprintable()


def snapshot(**changed: object) -> Snapshot:
    one = Snapshot(
        "0" * 64,
        json_values.moment("2026-01-01T00:00:00Z"),
        "production",
        ("db",),
        "host",
        "/dodeka-production.sqlite",
        "0" * 64,
    )
    return replace(one, **changed)


# --- what is in a snapshot


def export(folder: Path) -> bytes:
    source, target = folder / "members.sqlite", folder / "export.sqlite"
    if not target.exists():
        sample_data.create(source, members=20)
        export_compacted(source, target)
    return target.read_bytes()


CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), max_size=6)


def changed(content: bytes, changes: list[tuple[int, bytes]], length: int) -> bytes:
    """`content` with other bytes at some places, cut off at some length."""
    whole = bytearray(content)
    for at, new in changes:
        at %= len(whole)
        whole[at : at + len(new)] = new
    return bytes(whole[: max(1, length % (2 * len(whole)))])


def receive(folder: Path, content: bytes, write: Callable[[io.BytesIO, Incoming], None]) -> None:
    """What a restore does with what it gets, to the proof that it is a database."""
    target = folder / "received.sqlite"
    target.unlink(missing_ok=True)
    for suffix in ("-wal", "-journal", "-shm"):
        Path(f"{target}{suffix}").unlink(missing_ok=True)
    pages = None
    with open(target, "xb", buffering=0) as file:
        incoming = Incoming(file, target, "it", "x")
        incoming.start_over()
        try:
            write(io.BytesIO(content), incoming)
        finally:
            head = target.read_bytes()[: header.HEADER_BYTES] if target.stat().st_size < 10**8 else b""
            if len(head) == header.HEADER_BYTES:
                told = header.header_of(head, "it")
                pages = told.pages * told.page_bytes
            assert pages is None or target.stat().st_size <= pages
    found = integrity.verify(target, "it")
    if found.defects:
        integrity.reindex(target, "it")
    row_counts(target)
    assert all(errors.plain(line).isprintable() for line in found.lines())


@given(CHANGES, st.integers(0, 2**20))
def test_a_compressed_export(folder, changes, length):
    whole = io.BytesIO()
    zstd_frames.compress(io.BytesIO(export(folder)), whole, 4096)
    with bounded(BackupError):
        receive(folder, changed(whole.getvalue(), changes, length), zstd_frames.decompress)


@given(CHANGES, st.integers(0, 2**20))
def test_pages(folder, changes, length):
    with bounded(BackupError):
        receive(folder, changed(export(folder), changes, length), shutil.copyfileobj)


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(10, 27), st.integers(0, 50_000_000))
def test_frames_of_any_kind(folder, parts, window_log, zeros):
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1)
    content = b""
    for part in (*parts, bytes(zeros)):
        frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        content += frame.compress(part) + frame.flush() + part[:3]
    with bounded(BackupError):
        receive(folder, content, zstd_frames.decompress)


@given(st.lists(st.text(max_size=30), max_size=6))
def test_names_in_a_database(folder, names):
    file = folder / "names.sqlite"
    file.unlink(missing_ok=True)
    quoted = ['"' + name.replace('"', '""').replace("\0", "") + '"' for name in names]
    with closing(sqlite3.connect(file)) as connection:
        for name in quoted:
            try:
                connection.execute(
                    f"CREATE TABLE {name} ({name} REFERENCES {name} ({name}), CHECK ({name} > 1))"
                )
                connection.execute(f'CREATE VIEW {name[:-1]}v" AS SELECT * FROM {name}')
            except (sqlite3.Error, UnicodeEncodeError):
                continue
    with bounded(BackupError):
        found = integrity.verify(file, "it")
        rows = [(name, str(count), "-") for name, count in row_counts(file).items()]
        lines = columns([("table", "rows", "live"), *rows], "<>>")
        assert all(errors.plain(line).isprintable() for line in (*lines, *found.lines()))


# --- restic's JSON

RESTIC = """#!/bin/sh
[ "$1" = version ] && { echo "restic 0.18.0"; exit; }
cat "FOLDER/answer"
"""
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.text(max_size=20), st.integers(), st.floats()),
    st.sampled_from(
        [
            *(
                10**400,
                -(10**30),
                2**64,
                "9999-12-31T23:59:59Z",
                "0000-00-00T00:00:00Z",
                "2026-01-01T00:00:00Z",
            ),
            *("db_dodeka", "env_production", "/dodeka-production.sqlite.zst", "../../etc/passwd", "a" * 64),
        ]
    ),
)
KEYS = st.sampled_from(
    [
        "id",
        "time",
        "tags",
        "hostname",
        "paths",
        "userName",
        "hostName",
        "created",
        "current",
        "snapshot",
        "matches",
        "size",
        "remove",
        "keep",
        "total_size",
        "pid",
        "version",
        "chunker_polynomial",
        "snapshot_id",
        "data_added",
        "data_added_packed",
        "message_type",
    ]
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=12,
)
SNAPSHOTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.just("a" * 64) | SCALARS,
            "time": st.sampled_from(["2026-01-01T00:00:00.5+02:00", "9999-12-31T23:59:59-12:00"]) | SCALARS,
            "tags": st.just(["db_dodeka", "env_production"]) | st.lists(st.text(), max_size=2) | SCALARS,
            "hostname": SCALARS,
            "paths": st.lists(SCALARS, max_size=3) | SCALARS,
            "userName": SCALARS,
            "hostName": SCALARS,
            "created": st.just("2026-01-01T00:00:00Z") | SCALARS,
            "current": SCALARS,
            "pid": SCALARS,
            "snapshot": SCALARS,
            "matches": st.lists(st.fixed_dictionaries({"size": SCALARS}), max_size=2) | SCALARS,
            "total_size": SCALARS,
        }
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def fake(folder: Path) -> Path:
    """A restic that answers with what is in a file, whatever it is asked."""
    program = folder / "restic"
    program.write_text(RESTIC.replace("FOLDER", str(folder)))
    program.chmod(0o755)
    (folder / "password").touch(0o600)
    (folder / "password").write_text("x")
    (folder / "repository").mkdir()
    (folder / "repository" / "config").touch()
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    return program


def asked(folder: Path, fake: Path, answer: bytes) -> None:
    (folder / "answer").write_bytes(answer)
    here = settings.load(
        {
            **site_folder.PLAIN,
            "DODEKA_BACKUP_ENV": "/dev/null",
            "RESTIC": str(fake),
            "RESTIC_REPOSITORY": str(folder / "repository"),
            "RESTIC_PASSWORD_FILE": str(folder / "password"),
            "DODEKA_STATE": str(folder / "state"),
            "DODEKA_LOCK_WAIT_S": "0",
        }
    )
    of_it = repository.Repository(here.main)
    environment = here.environment("production")
    for look in (
        lambda: snapshot_table.as_tables(snapshots.described(of_it, None)[1], settings.ENVIRONMENTS),
        lambda: [size(count) for count in of_it.sizes([snapshot()], of_it.all_sizes).values()],
        lambda: keys.table(here.main),
        of_it.config,
        lambda: size(of_it.stored_bytes(environment)),
        lambda: of_it.forget(environment),
        lambda: stale_locks.can_be_removed(of_it.locks()[0]),
        lambda: [one.is_stale for one in of_it.locks()[0]],
    ):
        with bounded(BackupError):
            look()


NESTED = b"[" * 100_000


@hypothesis_settings(max_examples=max(1, EXAMPLES // 3))
@given(st.one_of(st.binary(max_size=100), st.one_of(ANY, SNAPSHOTS).map(json.dumps).map(str.encode)))
@example(NESTED)
@example(b"9" * 5000)
@example(b"[1e999]")
@example(b'{"total_size": 1' + b"0" * 400 + b"}")
def test_restic_s_json(folder, fake, answer):
    asked(folder, fake, answer)


# --- what is printed


@given(st.text())
def test_printed_text(text):
    shown = errors.plain(text)
    assert shown.isprintable()
    assert errors.plain(shown) == shown
    assert (shown == text) is text.isprintable()


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:warnings", __file__]))
