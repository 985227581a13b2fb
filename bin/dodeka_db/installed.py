"""What `make install` puts on a server, and whether it is there: the crontab, logrotate's file, the log folder."""

from pathlib import Path

from dodeka_db import command
from dodeka_db.errors import SetupError
from dodeka_db.settings import ROOT

CRONTAB = ROOT / "deploy" / "dodeka_crontab"
LOGROTATE_SHIPPED = ROOT / "deploy" / "dodeka-backup-logrotate"
# the places that these two name
SERVER_ROOT = Path("/home/backend/dodeka")
LOG_FOLDER = Path("/home/backend/log")
LOGROTATE = Path("/etc/logrotate.d/dodeka-backup")


def crontab() -> str:
    """This user's crontab, empty if there is none; SetupError if it cannot be read."""
    listed = command.run("crontab", "-l")
    if listed.exit_code and "no crontab for" not in listed.stderr:
        raise SetupError(f"the crontab cannot be read: {listed.failure}")
    return listed.stdout.decode(errors="replace")


def missing_jobs() -> list[str]:
    """The lines of the shipped crontab that this user's does not have."""
    there = crontab().splitlines()
    return [line for line in jobs() if line not in there]


def jobs() -> list[str]:
    """The lines of the shipped crontab that run something."""
    lines = CRONTAB.read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def logrotate_is_installed() -> bool:
    """Whether logrotate has the shipped file."""
    return LOGROTATE.exists() and LOGROTATE.read_bytes() == LOGROTATE_SHIPPED.read_bytes()
