"""The files that `make install` puts on a server in either set-up, and whether they are installed: crontab, timers, rules of sudo.

The shipped files in deploy/ are those of the one-user set-up, where the web service's user runs the backups. For a separate
user of the backups the same files are written with other names in them.
"""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dodeka_db import places
from dodeka_db.errors import SetupError
from dodeka_db.host import programs
from dodeka_db.settings import ROOT, Settings

DEPLOY = ROOT / "deploy"
CRONTAB = DEPLOY / "dodeka_crontab"
# the names in the shipped files: the web service's user, the clone, the folder of the log
WEB_USER = "backend"
SERVER_ROOT = Path("/home/backend/dodeka")
LOG_FOLDER = Path("/home/backend/log")
# the separate user of the backups
OWN_USER = "dbackup"
OWN_HOME = Path("/var/lib/dbackup")
OWN_LOG_FOLDER = Path("/var/log/dodeka-backup")

LOGROTATE = Path("/etc/logrotate.d/dodeka-backup")
SUDOERS = Path("/etc/sudoers.d/dodeka-backup")
POLKIT = Path("/etc/polkit-1/rules.d/50-dodeka-backup.rules")
UNITS = Path("/etc/systemd/system")
UNIT_NAME = "dodeka-backup-"
# copies of the passwords, for root to read from a place that no other user can change
CREDENTIALS = Path("/etc/dodeka-backup")
CREDENTIAL_NAMES = ("restic-password", "offsite-password")
_JOB = re.compile(r"/dodeka-db-(cron|offsite|verify|check|status)\.(sh|py)\b.*>> \S+/backup\.log")


@dataclass(frozen=True)
class Job:
    """One line of the crontab: its name (also that of its timer), its five time fields, its command."""

    name: str
    when: tuple[str, ...]
    command: str
    line: str

    @property
    def calendar(self) -> str:
        """The time in the format of https://www.freedesktop.org/software/systemd/man/latest/systemd.time.html."""
        minute, hour, _, _, weekday = self.when
        first, _, every = minute.partition("/")
        first = "0" if first == "*" else first.partition("-")[0]
        day = {"*": "", "0": "Sun "}[weekday]
        return f"{day}*-*-* {hour}:{first}{'/' if every else ''}{every}:00"


@dataclass(frozen=True)
class SetUp:
    """One of the two set-ups: the user that runs the backups, the clone, the folder of the log, and the shipped files for these."""

    user: str
    root: Path
    log_folder: Path

    @property
    def is_own(self) -> bool:
        """Whether the backups have a separate user, not the web service's."""
        return self.user != WEB_USER

    @property
    def fix(self) -> str:
        """The command that installs the missing files."""
        return f"sudo make -C {self.root} install" if self.is_own else "make install"

    @cached_property
    def crontab(self) -> str:
        return self._filled_in(CRONTAB)

    @cached_property
    def jobs(self) -> list[Job]:
        lines = [line for line in self.crontab.splitlines() if line.strip() and not line.startswith("#")]
        return [_job(line) for line in lines]

    @cached_property
    def logrotate(self) -> str:
        return self._filled_in(DEPLOY / "dodeka-backup-logrotate").replace(
            f"su {WEB_USER} {WEB_USER}", f"su {self.user} {self.user}"
        )

    @cached_property
    def sudoers(self) -> str:
        return self._filled_in(DEPLOY / "dodeka-backup-sudoers").replace(
            f"{WEB_USER} ALL", f"{self.user} ALL"
        )

    def units(self, settings: Settings) -> dict[Path, str]:
        """The services and timers in place of the crontab, by path."""
        credentials = [
            f"LoadCredential={name}:{CREDENTIALS / name}\nSetCredential={name}:\\n"
            for name, file in passwords(settings).items()
            if file
        ]
        if settings.systemctl:
            credentials.append("Environment=DODEKA_SYSTEMCTL=systemctl")
        # a - in front: the job starts even if a folder is missing, a volume say, and reports that
        places = [settings.main.folder, settings.offsite and settings.offsite.folder]
        places += [environment.live.parent for environment in settings.environments]
        places.append(settings.status_page and settings.status_page.parent)
        writes = dict.fromkeys(
            f"-{place}" for place in (*places, settings.main.state, OWN_HOME, self.log_folder) if place
        )
        service, timer = ((DEPLOY / f"dodeka-backup.{kind}").read_text() for kind in ("service", "timer"))
        found = {}
        for job in self.jobs:
            filled_in = {
                "name": job.name,
                "user": self.user,
                "command": job.command,
                "calendar": job.calendar,
                "credentials": "\n".join(credentials),
                "writes": " ".join(writes),
            }
            for kind, shipped in (("service", service), ("timer", timer)):
                text = shipped
                for name, value in filled_in.items():
                    text = text.replace(f"{{{name}}}", value.replace("%", "%%"))  # systemd would expand a %
                found[UNITS / f"{UNIT_NAME}{job.name}.{kind}"] = text
        return found

    def _filled_in(self, shipped: Path) -> str:
        text = shipped.read_text()
        return text.replace(str(SERVER_ROOT), str(self.root)).replace(str(LOG_FOLDER), str(self.log_folder))


ONE_USER = SetUp(WEB_USER, SERVER_ROOT, LOG_FOLDER)
OWN = SetUp(OWN_USER, ROOT, OWN_LOG_FOLDER)


def set_up() -> SetUp:
    """The set-up that the user who runs this belongs to."""
    return OWN if places.user_name(os.geteuid()) == OWN_USER else ONE_USER


def passwords(settings: Settings) -> dict[str, Path | None]:
    """The password files, by what systemd calls them when it hands them to a unit."""
    offsite = settings.offsite.password_file if settings.offsite else None
    return dict(zip(CREDENTIAL_NAMES, (settings.main.password_file, offsite), strict=True))


def _job(line: str) -> Job:
    *when, text = line.split(None, 5)
    script, *environment = text.partition(" >>")[0].split()
    verb = Path(script).stem.removeprefix("dodeka-db-")
    return Job(environment[0] if verb == "cron" else verb, tuple(when), text, line)


def crontab(user: str = "") -> str:
    """The crontab of `user` (which takes root) or of this one, empty if there is none; SetupError if it cannot be read."""
    listed = programs.run("crontab", *(("-u", user) if user else ()), "-l")
    if listed.exit_code and "no crontab for" not in listed.stderr:
        raise SetupError(f"the crontab cannot be read: {listed.failure}")
    return listed.stdout.decode(errors="replace")


def is_ours(line: str) -> bool:
    """Whether a line of a crontab is from a shipped one, of this version or an older one."""
    comments = (one for one in CRONTAB.read_text().splitlines() if one.startswith("#"))
    return bool(_JOB.search(line)) or line in comments


def missing_jobs() -> list[str]:
    """The names of the jobs that neither this user's crontab nor a timer runs."""
    wants = UNITS / "timers.target.wants"
    others = [job for job in set_up().jobs if not (wants / f"{UNIT_NAME}{job.name}.timer").exists()]
    there = crontab().splitlines() if others else []  # a unit of the timers may not ask for it
    return [job.name for job in others if job.line not in there]


def logrotate_is_installed() -> bool:
    """Whether logrotate has the file of this set-up."""
    return LOGROTATE.exists() and LOGROTATE.read_text(errors="replace") == set_up().logrotate
