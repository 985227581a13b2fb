#!/usr/bin/python3
"""Set this server up for the backups, as root with a separate user for them (make install), or undo that (make uninstall)."""

import os

import dodeka_db.venv  # noqa: F401  restarts this script under .venv
from dodeka_db import console
from dodeka_db.errors import UsageError
from dodeka_db.flows import install


def main(argv: console.Argv = None) -> int:
    parser = console.parser(__doc__)
    parser.add_argument("--timers", action="store_true", help="systemd timers instead of the crontab")
    parser.add_argument("--uninstall", action="store_true", help="undo what make install did")
    arguments = parser.parse_args(argv)
    if arguments.uninstall:
        install.uninstall()
    elif os.geteuid() == 0:
        install.own_user(arguments.timers)
    elif arguments.timers:
        raise UsageError(
            "only root can install timers", "sudo make install TIMERS=1, in a clone that root owns"
        )
    else:
        install.one_user()
    return 0


if __name__ == "__main__":
    console.run(main)
