#!/usr/bin/python3
"""Install what runs by itself on the server: log folder, logrotate, crontab (make install). Safe to repeat."""

import os
import shlex
from collections.abc import Sequence
from datetime import datetime

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import command, console, installed, settings, staging
from dodeka_db.errors import SetupError
from dodeka_db.installed import LOG_FOLDER, LOGROTATE, SERVER_ROOT
from dodeka_db.settings import ROOT, Settings


def main(argv: Sequence[str] | None = None) -> int:
    parser = console.parser(__doc__, 7)
    parser.add_argument("--yes", action="store_true", help="replace a crontab that holds other lines unasked")
    arguments = parser.parse_args(argv)
    if not SERVER_ROOT.is_dir() or SERVER_ROOT.resolve() != ROOT:
        raise SetupError(
            f"this is {ROOT}, but the crontab runs the scripts in {SERVER_ROOT}",
            f"clone this repository to {SERVER_ROOT} and run 'make install' there",
        )
    here = settings.load()
    _install_log_folder()
    _install_logrotate()
    _install_crontab(here, arguments.yes)
    return 0


def _install_log_folder() -> None:
    if LOG_FOLDER.is_dir():
        console.show(f"log folder {LOG_FOLDER}: there already")
        return
    console.show(f"log folder: mkdir {LOG_FOLDER}")
    try:
        LOG_FOLDER.mkdir(mode=0o755)
        LOG_FOLDER.chmod(0o755)
    except OSError as error:
        raise SetupError(f"{LOG_FOLDER} cannot be made: {error.strerror}", "run this as backend") from error


def _install_logrotate() -> None:
    if installed.logrotate_is_installed():
        console.show(f"logrotate {LOGROTATE}: there already")
        return
    sudo = () if os.geteuid() == 0 else ("sudo",)
    files = (str(installed.LOGROTATE_SHIPPED), str(LOGROTATE))
    _show_and_run("logrotate", *sudo, "install", "-o", "root", "-g", "root", "-m", "644", *files)


def _install_crontab(here: Settings, yes: bool) -> None:
    shipped = installed.CRONTAB
    there = installed.crontab()
    if there == shipped.read_text():
        console.show("crontab: there already")
        return
    ours = shipped.read_text().splitlines()
    others = [line for line in there.splitlines() if line.strip() and line not in ours]
    if others:
        console.show("crontab: these lines of yours are not in the shipped one and would go:")
        console.show(*(f"    {line}" for line in others))
        if not yes:
            console.confirm(["Replace the crontab?"])
    if there:
        kept = staging.state_folder(here) / f"crontab-{datetime.now():%Y%m%dT%H%M%S}"
        kept.write_text(there)
        console.show(f"crontab: the old one is kept as {kept}")
    _show_and_run("crontab", "crontab", str(shipped))


def _show_and_run(what: str, *words: str) -> None:
    console.show(f"{what}: {shlex.join(words)}")
    done = command.run(*words)
    if done.exit_code:
        raise SetupError(f"'{shlex.join(words)}' failed: {done.failure}", "fix that, then run this again")


if __name__ == "__main__":
    console.run(main)
