"""make try: the main commands for real, in sandbox/: back up, lose data, restore, clone, undo."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing

from dodeka_db import console, data_description
from dodeka_db.errors import BackupError
from dodeka_db.interrupts import shielded
from dodeka_db.settings import ROOT
from dodeka_db.sqlite import sample_data

SANDBOX = ROOT / "sandbox"
CONFIG = SANDBOX / "backup.env"
PRODUCTION = SANDBOX / "backend" / "envs" / "production" / "db.sqlite"
DEMO = SANDBOX / "backend" / "envs" / "demo" / "db.sqlite"


def run() -> None:
    """Run the whole story, with the output of each step. Raises BackupError if a step fails, or if the data did not come back."""
    os.chdir(ROOT)

    _title("A server in sandbox/: two databases, settings, no service")
    _make_sandbox()
    sample_data.create(PRODUCTION, members=400)
    sample_data.create(DEMO, members=25, seed=2)
    console.show(
        f"production has {sample_data.count(PRODUCTION)} members, demo has {sample_data.count(DEMO)}"
    )

    _title("A repository: restic, encrypted")
    _make("init", "YES=1")  # no volume is mounted there

    _title("A backup of both")
    before, demo = sample_data.digest(PRODUCTION), sample_data.digest(DEMO)
    _make("backup", "ENV=production")
    _make("backup", "ENV=demo")

    _title("An accident: somebody imports a wrong member list, and most members are deleted")
    with closing(sqlite3.connect(PRODUCTION)) as connection, connection:
        for table in ("users", "birthdays"):
            connection.execute(f"DELETE FROM {table} WHERE CAST(key AS INTEGER) >= 100")
        for table in ("users_by_email", "users_by_bondsnummer"):
            connection.execute(f"DELETE FROM {table} WHERE CAST(value AS INTEGER) >= 100")
    lost = sample_data.digest(PRODUCTION)
    console.show(f"production has {sample_data.count(PRODUCTION)} members left")

    _title("Put the newest snapshot back; the replaced database becomes a snapshot tagged pre-restore")
    _make("restore", "ENV=production", "SNAPSHOT=latest", "YES=1")
    restored = sample_data.digest(PRODUCTION)
    console.show(f"production has {sample_data.count(PRODUCTION)} members again")

    _title("Clone production to demo: without mails, sessions, codes, and the administrator's first password")
    _make("restore", "ENV=demo", "FROM=production", "SNAPSHOT=latest", "YES=1")
    mails, sessions = (sample_data.count(DEMO, table) for table in ("outbox", "session_cache"))
    console.show(f"demo has {sample_data.count(DEMO)} members, {mails} mails to send and {sessions} sessions")
    tables = data_description.read().tables.values()
    # of which a clone has every row
    lasting = [table.name for table in tables if not table.is_of_the_moment and not table.not_in_clones]
    to_clone, cloned = sample_data.digest(PRODUCTION, lasting), sample_data.digest(DEMO, lasting)

    _title("Undo that: what a restore replaced is put back")
    _make("undo", "ENV=demo", "YES=1")
    console.show(f"demo has {sample_data.count(DEMO)} members again")
    _make("snapshots")

    _title("The proof: checksums over every row of every table")
    for label, digest in (
        ("production before", before),
        ("after the accident", lost),
        ("production restored", restored),
        ("demo before", demo),
        ("production, without what a clone leaves out", to_clone),
        ("demo, the clone", cloned),
        ("demo after the undo", sample_data.digest(DEMO)),
    ):
        console.show(f"  {label:<43} {digest[:16]}")
    if (
        not before == restored != lost
        or mails
        or sessions
        or to_clone != cloned
        or demo != sample_data.digest(DEMO)
    ):
        raise BackupError("the data did not come back")
    console.show("", "All rows are back. Go on in the sandbox, for example:", "")
    for command in (
        "make snapshots CONFIG=sandbox/backup.env",
        "make backup ENV=demo CONFIG=sandbox/backup.env",
        "make cron ENV=production CONFIG=sandbox/backup.env",
        "make verify ENV=production CONFIG=sandbox/backup.env",
        "make restore ENV=demo CONFIG=sandbox/backup.env",
    ):
        console.show(f"  {command}")


def _make_sandbox() -> None:
    shutil.rmtree(SANDBOX, ignore_errors=True)
    SANDBOX.mkdir()
    CONFIG.write_text(
        "# made by `make try`\n"
        f"DODEKA_BACKEND='{SANDBOX}/backend'\n"
        f"RESTIC_REPOSITORY='{SANDBOX}/restic'\n"
        f"RESTIC_PASSWORD_FILE='{SANDBOX}/restic-password'\n"
        f"DODEKA_STATE='{SANDBOX}/state'\n"
        "OFFSITE_REPOSITORY=\n"  # empty, also if the environment sets one
        "DODEKA_SYSTEMCTL=none\n"
    )


def _title(text: str) -> None:
    console.show("", f"== {text}")


def _make(*words: str) -> None:
    # no settings of the environment, which would win over the sandbox's file
    keep = ("HOME", "LANG", "PATH", "RESTIC", "TERM", "USER")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    words = ("make", "--no-print-directory", *words, f"CONFIG={CONFIG.relative_to(ROOT)}")
    console.show("$ " + " ".join(word for word in words if not word.startswith("--")))
    with shielded():  # a signal waits: a killed make would leave the command of this step running
        done = subprocess.run(words, env=environment, check=False)
    if done.returncode:
        raise BackupError(f"'{' '.join(words)}' failed", "its messages are above")
