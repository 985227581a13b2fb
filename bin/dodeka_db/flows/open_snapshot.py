"""make open: a checked copy of a snapshot's database, for sqlite3 or as a file. Nothing that is in use is touched."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from io import RawIOBase
from pathlib import Path
from urllib.parse import quote

from dodeka_db.errors import BackupError, SetupError, UsageError, no_process
from dodeka_db.flows import erasures, verify
from dodeka_db.flows.download import Incoming, download, shown
from dodeka_db.formatting import when
from dodeka_db.host import staging
from dodeka_db.interrupts import SIGNALS, Interrupted, shielded, suspendable
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import Snapshot, resolve
from dodeka_db.settings import Environment
from dodeka_db.sqlite import journals


def with_sqlite3(settings: RepositorySettings, environment: Environment, wanted: str | datetime) -> None:
    """Run sqlite3 on a copy of the snapshot `wanted` (as snapshots.resolve() takes it), which is removed when sqlite3 ends.

    sqlite3 reads from standard input: what is typed on a terminal, or a script. No lock is held meanwhile.
    Raises SnapshotError, SetupError or BackupError; also if a script fails.
    """
    if not shutil.which("sqlite3"):
        raise SetupError(
            "sqlite3 is not installed",
            "apt-get install sqlite3, or repeat the command with FILE=$HOME/copy.sqlite, which keeps the copy",
        )
    with ExitStack() as stack:
        with staging.locked(settings, f"copy of {environment.name}"):
            file = stack.enter_context(staging.for_a_reader(settings))
            path = Path(file.name)
            remedy = "set DODEKA_STATE to another disk"
            snapshot = _fetch(settings, environment, wanted, file.raw, path, remedy)
        log.info("snapshot %s of %s, read-only", snapshot.short_id, when(snapshot.time))
        if sys.stdin.isatty():
            log.info(".tables lists the tables; .quit ends, and removes the copy")
        _run_sqlite3(path)


def keep(settings: RepositorySettings, environment: Environment, wanted: str | datetime, name: str) -> str:
    """Write a copy of the snapshot `wanted` to the new file `name` (0600), and return what was done, in words.

    Raises UsageError if there is such a file, or it cannot be made; SnapshotError or BackupError.
    """
    path = Path(os.path.abspath(name))
    try:
        # 0600, in a folder with a default ACL too
        private = partial(os.open, mode=0o600)
        file = open(path, "xb", buffering=0, opener=private)  # noqa: SIM115  closed below
    except FileExistsError as error:
        raise UsageError(f"{path} exists", "give FILE a new name") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be made: {error.strerror}", "give FILE a name such as $HOME/copy.sqlite"
        ) from error
    try:
        if journals.exist(path):  # SQLite would bring it into the copy
            raise UsageError(f"a journal of another database is beside {path}", "give FILE a new name")
        with file, staging.locked(settings, f"copy of {environment.name}"):
            snapshot = _fetch(settings, environment, wanted, file, path, "give FILE a name on another disk")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    log.info("%s has the personal data of members: remove it when you no longer need it", path)
    return f"{path} is a copy of snapshot {snapshot.short_id} of {when(snapshot.time)}"


def _fetch(
    settings: RepositorySettings,
    environment: Environment,
    wanted: str | datetime,
    file: RawIOBase,
    path: Path,
    remedy: str,
) -> Snapshot:
    """Fill the empty `file` at `path` with the snapshot's database, and check that. Under the lock."""
    repository = Repository(settings)
    snapshot = resolve(settings, repository.snapshots(), environment.name, wanted)
    left_out = erasures.since(repository, snapshot.environment, snapshot.time)
    download(repository, snapshot, Incoming(file, path, shown(snapshot), remedy))
    verify.check(repository, snapshot, path)
    for line in erasures.lines(erasures.apply(left_out, path, shown(snapshot))):
        log.info("%s", line)
    return snapshot


def _run_sqlite3(path: Path) -> None:
    # no history, because what is typed may name members; immutable: nobody writes to the copy, so sqlite3 makes no files
    # beside it, not even for a database in WAL mode
    sqlite3_alone = ["env", f"SQLITE_HISTORY={os.devnull}", "sqlite3", "-readonly"]
    command = [*sqlite3_alone, f"file:{quote(str(path))}?immutable=1"]
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends a query of sqlite3, not us
    sqlite3 = None
    try:
        with suspendable():  # no lock is held here
            with shielded():  # a signal waits until we know what to end
                sqlite3 = subprocess.Popen(command)
            code = sqlite3.wait()
    except BlockingIOError as error:
        raise no_process("sqlite3") from error
    finally:
        signal.signal(signal.SIGINT, before)
        if sqlite3:
            sqlite3.terminate()  # nothing, if it has ended
            sqlite3.send_signal(signal.SIGCONT)  # it may be stopped
            sqlite3.wait()
    if -code in SIGNALS:
        raise Interrupted(-code)
    if code == -signal.SIGPIPE:
        return  # the reader of the output has gone, which is no failure
    if code and not sys.stdin.isatty():  # on a terminal, its exit code tells of a line mistyped an hour ago
        raise BackupError(f"sqlite3 failed: exit code {code}", "its own message stands above")
