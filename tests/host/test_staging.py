"""Temporary files: none in /tmp, which may be in memory, and full."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dodeka_db.host import staging
from site_folder import RESTIC, ROOT, Site

# For a mount namespace: nothing fits into /tmp. The scripts themselves may be in there: $1, by way of the folder $2.
FULL = """
set -e
mkdir "$2"; mount --bind "$1" "$2"
mount -t tmpfs -o size=16k tmpfs /tmp; mkdir -p "$1"; mount --bind "$2" "$1"
head -c 20000 /dev/zero > /tmp/full 2>&- || shift 2
exec "$@"
"""
JOBS = [
    ("backup", "production"),
    ("cron", "production"),
    ("cron", "demo"),
    ("verify", "production"),
    ("check",),
    ("snapshots",),
    ("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes"),
    ("undo", "demo", "--yes"),
    ("init", "--offsite"),
    ("offsite",),
    ("key-add", "anna"),
    ("key-remove", "anna"),
    ("recovery-sheet",),
]


class Elsewhere(Site):
    """A site with a restic of its own and an off-site repository, to be made."""

    @property
    def variables(self) -> dict[str, str]:
        return {
            **super().variables,
            "OFFSITE_REPOSITORY": f"{self.folder}/offsite",
            "OFFSITE_PASSWORD_FILE": f"{self.folder}/offsite-password",
            "RESTIC": f"{self.folder}/restic-program",
        }


@pytest.fixture
def elsewhere(site: Site) -> Iterator[Site]:
    """A site outside of /tmp."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "-p", "/var/tmp"], text=True).strip())
    subprocess.run(["cp", "-a", f"{site.folder}/.", folder], check=True)
    shutil.copy(shutil.which(RESTIC), folder / "restic-program")
    yield Elsewhere(folder)
    subprocess.run(["rm", "-rf", folder], check=True)


def run(site: Site, job: tuple[str, ...], *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
    name, *arguments = job
    return subprocess.run(
        [*before, ROOT / "bin" / f"dodeka-db-{name}.py", *arguments],
        env={**site.environ, **variables},
        input="yes\n",  # what init asks where no volume is mounted
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow("every job")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize(("format", "jobs"), [("zst", JOBS), ("pages", JOBS[:2])])
def test_every_job_does_with_a_full_tmp(elsewhere, format, jobs):
    full = ("unshare", "--mount", "sh", "-c", FULL, "sh", str(ROOT), str(elsewhere.folder / "scripts"))
    for job in jobs:
        done = run(elsewhere, job, *full, DODEKA_FORMAT=format, TMPDIR="/tmp")
        (elsewhere.folder / "scripts").rmdir()
        assert done.returncode == 0, (job, done)
    assert {path.name for path in elsewhere.state.rglob("staging/*")} == {staging.MARK}


@pytest.mark.slow("every job")
def test_no_job_touches_tmp(elsewhere):
    """Nor any program that it runs, whoever runs it, and whatever the surroundings say."""
    trace = elsewhere.folder / "trace"
    strace = ("strace", "-f", "-qq", "-e", "trace=openat,open,mkdir,mkdirat", "-o", str(trace))
    wanted = []
    for job in JOBS:
        done = run(elsewhere, job, *strace, TMPDIR="/tmp")
        assert done.returncode == 0, (job, done)
        calls = trace.read_text().replace(str(ROOT), "ROOT")  # which has folders that Python writes to
        assert re.findall(r'.*"(?:/var|/usr)?/tmp/(?!tmp\.).*O_CREAT.*', calls) == [], job
        wanted += re.findall(r"/staging/restic-temp-pack-", calls)
    assert wanted, f"{RESTIC} makes none any more"


def test_what_a_killed_restic_left_is_removed(site):
    settings = site.settings.main
    staging.state_folder(settings)
    (settings.staging / "restic-temp-pack-123").touch()
    with staging.folder(settings) as folder:
        assert site.staged() == [folder.name]


def test_each_repository_has_a_folder_of_its_own_for_them(elsewhere):
    settings = elsewhere.settings
    assert settings.main.for_restic["TMPDIR"] == str(elsewhere.state / "staging")
    assert settings.offsite.for_restic["TMPDIR"] == str(elsewhere.state / "offsite" / "staging")


def test_sqlite_sorts_there_too(site):
    """Where an index is made of more than fits into memory."""
    code = f"""
import os, sqlite3, sys
sys.path.insert(0, {str(ROOT / "bin")!r})
from dodeka_db import settings
from dodeka_db.host import staging
staging.state_folder(settings.load().main)
connection = sqlite3.connect(":memory:")
connection.execute("CREATE TEMP TABLE t (a)")
connection.execute("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
                   " INSERT INTO t SELECT hex(randomblob(20)) FROM n ORDER BY 1")
for descriptor in os.listdir("/proc/self/fd"):
    path = f"/proc/self/fd/{{descriptor}}"
    if os.path.islink(path):
        print(os.readlink(path))
"""
    shown = subprocess.check_output(
        [sys.executable, "-c", code], env={**site.environ, "TMPDIR": "/tmp"}, text=True
    )
    opened = [line for line in shown.splitlines() if "etilqs" in line]
    assert opened
    assert all(line.startswith(f"{site.state}/staging/") for line in opened), shown


def test_a_folder_with_a_quote_in_its_name(site, tmp_path):
    state = tmp_path / "it's here"
    assert run(site, ("backup", "demo"), DODEKA_STATE=str(state)).returncode == 0


def test_a_state_folder_of_somebody_else_is_said_to_be_that(site):
    site.ok("snapshots")
    staging.state_folder(site.settings.main)
    (site.state / "staging").chmod(0o500)
    unprivileged = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    done = run(site, ("backup", "demo"), *unprivileged)
    assert (done.returncode, done.stderr.count("\n")) != (0, 0)
    assert "Traceback" not in done.stderr
