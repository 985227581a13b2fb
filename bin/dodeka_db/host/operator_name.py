"""Who runs this: the name that somebody logged in with, or what started it where nobody did."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dodeka_db import places

# programs that start others at their times
_BY_THE_CLOCK = ("cron", "crond", "anacron", "atd")
_STAT = re.compile(r"\d+ \((.*)\) \S (\d+) ", re.DOTALL)


def of(variables: Mapping[str, str]) -> str:
    """The login name, also behind sudo and su; else `cron` or `systemd`, else the user's name. `variables` are the environment."""
    behind_sudo = variables.get("SUDO_USER", "root")
    if behind_sudo != "root":
        return behind_sudo
    if clock := _clock():
        return clock
    with suppress(OSError):  # no login: a unit, a container
        return os.getlogin()
    return "systemd" if "INVOCATION_ID" in variables else places.user_name(os.geteuid())


def _clock() -> str:
    """The name of the program of _BY_THE_CLOCK that has started us, or a parent of ours; empty if none has."""
    process = os.getppid()
    while process > 1:
        try:
            match = _STAT.match(Path(f"/proc/{process}/stat").read_text(errors="replace"))
        except OSError:  # it has ended, or is not ours to see
            return ""
        if not match:
            return ""
        if match[1] in _BY_THE_CLOCK:
            return match[1]
        process = int(match[2])
    return ""
