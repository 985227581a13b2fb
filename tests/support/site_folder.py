"""A site for every test: real SQLite, real restic, a settings file, no service.

For bats: `python site_folder.py FOLDER` makes one in FOLDER.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bin"))

from cheap_key import reseal  # noqa: E402
from dodeka_db import settings  # noqa: E402
from dodeka_db.host import staging  # noqa: E402
from dodeka_db.sqlite import sample_data  # noqa: E402

RESTIC = os.environ.get("RESTIC") or shutil.which("restic") or "restic"
PLAIN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
# make coverage sees the scripts too
PLAIN |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


def run_first(program: Path, commands: str) -> None:
    """Make `program` a restic that first runs the shell `commands`: a fake, for what the real one cannot be made to do."""
    program.write_text(f'#!/bin/sh\n{commands}\nexec {RESTIC} "$@"\n')
    program.chmod(0o755)


@dataclass(frozen=True)
class Site:
    """Databases, repository, password and state below one folder, and the scripts run against them."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        # without the settings file: the variables of a test must not differ from it
        return {**PLAIN, **self.variables, "DODEKA_BACKUP_ENV": "/dev/null"}

    @property
    def variables(self) -> dict[str, str]:
        return {
            "DODEKA_BACKEND": str(self.folder / "backend"),
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD_FILE": str(self.password_file),
            "DODEKA_SYSTEMCTL": "none",
            "DODEKA_STATE": str(self.state),
            "DODEKA_LOCK_WAIT_S": "1",
            "RESTIC": RESTIC,
        }

    @property
    def config(self) -> Path:
        return self.folder / "backup.env"

    @property
    def repository(self) -> Path:
        return self.folder / "restic"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    @property
    def password(self) -> str:
        return self.password_file.read_text().strip()

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
        """As run(), for a script that must succeed and print nothing on standard error."""
        done = self.run(script, *arguments, stdin=stdin, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def loses(self, script: str, *arguments: str, **variables: str) -> str:
        """As ok(), for a backup or a cron run that stores the snapshot, and tells that rows were lost."""
        done = self.run(script, *arguments, **variables)
        assert done.returncode == 9 and " is safe, but " in done.stderr and "HAS LOST ROWS" in done.stderr, (
            done
        )
        return done.stdout

    def waiting_restore(self) -> subprocess.Popen[str]:
        """A restore of production's latest snapshot that has put its question, and waits for the yes."""
        process = subprocess.Popen(
            [ROOT / "bin" / "dodeka-db-restore.py", "production", "--snapshot", "latest"],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while "  users_by_email " not in process.stdout.readline():
            assert process.poll() is None
        return process

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

    def staged(self) -> list[str]:
        """The names in the staging area besides its mark; none if the folder does not exist yet."""
        return [path.name for path in self.state.glob("staging/*") if path.name != staging.MARK]

    def snapshots(self, environment: str | None = None) -> list[dict]:
        return json.loads(self.ok("snapshots", *([environment] if environment else []), "--json"))


class Twin(Site):
    """A site that has an off-site repository: a folder, if a test does not put a server in its place."""

    @property
    def there(self) -> Path:
        return self.folder / "there"

    @property
    def there_password(self) -> Path:
        return self.folder / "there-password"

    @property
    def variables(self) -> dict[str, str]:
        return {
            **super().variables,
            "OFFSITE_REPOSITORY": str(self.there),
            "OFFSITE_PASSWORD_FILE": str(self.there_password),
        }

    def restic_there(self, *arguments: str) -> str:
        """restic itself on the off-site folder."""
        environ = {"RESTIC_REPOSITORY": str(self.there), "RESTIC_PASSWORD_FILE": str(self.there_password)}
        environ = {**self.environ, **environ, "RESTIC_CACHE_DIR": str(self.folder / "cache")}
        return subprocess.run(
            [RESTIC, *arguments], env=environ, capture_output=True, text=True, check=True
        ).stdout

    def listed_there(self, environment: str = "production", **variables: str) -> list[dict]:
        return json.loads(self.ok("snapshots", environment, "--offsite", "--json", **variables))


def make(folder: Path) -> Site:
    """A site with an empty repository and two databases, of 400 and 30 members."""
    site = Site(folder)
    folder.mkdir(exist_ok=True)
    site.config.touch(0o600)
    site.config.write_text("".join(f"{name}='{value}'\n" for name, value in site.variables.items()))
    site.ok("init", "--yes")
    reseal(site.repository, site.password)
    for empty in (site.repository / "data").iterdir():
        empty.rmdir()  # 256 folders less to copy for each test; restic makes those that it needs
    sample_data.create(site.database("production"), members=400)
    sample_data.create(site.database("demo"), members=30, seed=2)
    return site


def make_twin(site: Path, folder: Path) -> Twin:
    """A copy of the empty `site`, with an off-site repository too."""
    shutil.copytree(site, folder)
    twin = Twin(folder)
    said = twin.ok("init", "--yes", "--offsite")
    assert f"repository {twin.there}: made, with the chunking of {twin.repository}\n" in said
    assert f"made password file {twin.there_password}\n" in said
    reseal(twin.there, twin.there_password.read_text().strip())
    return twin


def peak_memory_kb(process: subprocess.Popen) -> int:
    """Wait for `process`, and return its peak resident memory in kB, without the programs that it ran."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except ProcessLookupError:
            continue
        peak = max([peak, *(int(kb) for kb in re.findall(r"VmHWM:\s+(\d+) kB", status))])
        time.sleep(0.02)
    return peak


if __name__ == "__main__":
    make(Path(sys.argv[1]))
