"""A server of its own for every test: real SQLite, real restic, settings by environment, no service."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

from cheap_key import reseal  # noqa: E402
from dodeka_db import members, settings  # noqa: E402

RESTIC = os.environ.get("RESTIC") or shutil.which("restic") or "restic"
PLAIN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class Site:
    """Databases, repository, password and state below one folder, and the scripts run against them."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            **PLAIN,
            "DODEKA_BACKUP_ENV": str(self.folder / "backup.env"),
            "DODEKA_BACKEND": str(self.folder / "backend"),
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD_FILE": str(self.password_file),
            "DODEKA_SYSTEMCTL": "none",
            "DODEKA_STATE": str(self.state),
            "DODEKA_LOCK_WAIT_S": "1",
            "RESTIC": RESTIC,
        }

    @property
    def repository(self) -> Path:
        return self.folder / "restic"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def settings(self) -> settings.Settings:
        return settings.load(self.environ)

    def database(self, environment: str = "production") -> Path:
        return self.folder / "backend" / "envs" / environment / "db.sqlite"

    def run(
        self, script: str, *arguments: str, stdin: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run bin/dodeka-db-<script>.py with this site's settings, changed by `variables`."""
        return subprocess.run(
            [ROOT / "bin" / f"dodeka-db-{script}.py", *arguments],
            input=stdin,
            env={**self.environ, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def ok(self, script: str, *arguments: str, stdin: str = "", **variables: str) -> str:
        """The same, for a run that must succeed and say nothing on standard error."""
        done = self.run(script, *arguments, stdin=stdin, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def restic(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """restic itself on this site's repository, as an operator would run it."""
        done = subprocess.run(
            [RESTIC, *arguments],
            env={**self.environ, "RESTIC_CACHE_DIR": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )
        assert done.returncode == 0, done
        return done

    def repository_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())

    def snapshots(self, environment: str | None = None) -> list[dict]:
        return json.loads(self.ok("snapshots", *([environment] if environment else []), "--json"))


@pytest.fixture(scope="session")
def empty_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once and copied: an empty repository and two databases."""
    site = Site(tmp_path_factory.mktemp("site"))
    (site.folder / "backup.env").write_text("")
    site.ok("init")
    reseal(site.repository, site.password_file.read_text().strip())
    members.create(site.database("production"), members=400)
    members.create(site.database("demo"), members=30, seed=2)
    return site.folder


@pytest.fixture
def site(empty_site: Path, tmp_path: Path) -> Site:
    """Two databases (400 and 30 members) and an empty repository."""
    folder = tmp_path / "site"
    shutil.copytree(empty_site, folder)
    return Site(folder)


@pytest.fixture
def live(site: Site) -> Iterator[sqlite3.Connection]:
    """The backend's connection to the production database: open, idle, its last commits still in the WAL."""
    with closing(sqlite3.connect(site.database(), isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("INSERT INTO outbox VALUES ('in-the-wal', 0, 0, x'00')")
        yield connection


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 128 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
