#!/usr/bin/python3
"""Set the server up for the backups, as root with a user of their own (make install), or take that back (make uninstall)."""

import os

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console
from dodeka_db.errors import UsageError
from dodeka_db.flows import install


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__)
    parser.add_argument("--timers", action="store_true", help="systemd's timers in place of the crontab")
    parser.add_argument("--uninstall", action="store_true", help="take back what this has installed")
    arguments = parser.parse_args(argv)
    if arguments.uninstall:
        install.uninstall()
    elif os.geteuid() == 0:
        install.own_user(arguments.timers)
    elif arguments.timers:
        raise UsageError("timers are root's to install", "sudo make install TIMERS=1, from a clone of root's")
    else:
        install.one_user()
    return 0


if __name__ == "__main__":
    console.run(main)
