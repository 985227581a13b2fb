"""The lines of `make status` about the server: services, files that restores or keys left, crontab, logrotate, user, room."""

import os
import shlex

from dodeka_db import places
from dodeka_db.errors import BackupError
from dodeka_db.flows import keys, stray_writes
from dodeka_db.flows.status_lines import Look, bad, largest_bytes, note, well
from dodeka_db.formatting import size
from dodeka_db.host import disks, file_rights, installed, service
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import kept_files


def service_line(settings: Settings, environment: Environment) -> Look:
    unit = service.of_environment(settings, environment)
    if not unit.managed:
        return well("no service is managed")
    now = unit.look()
    state = now.state if now.load == "loaded" else now.load
    if now.load == "loaded" and now.is_active:
        stray = stray_writes.found(unit, environment.live)
        if stray:
            return bad(stray, "BACKUP.md, 'Written elsewhere'")
        if unit.is_refused:
            text = (
                f"{unit.unit} is active, but sudo does not let this user stop and start it: no restore could"
            )
            set_up = installed.set_up()
            rules = "docs/set-ups.md, 'One user for all', has sudo's rules for an administrator"
            return bad(text, set_up.fix if set_up.is_own else rules)
        return well(f"{unit.unit} is active")
    if state in ("not-found", "masked"):
        fix = "install the unit, or set DODEKA_SYSTEMCTL=none if there is none"
        return bad(f"{unit.unit} is {state}", fix)
    left = ", a restore left it stopped" if unit.is_marked else ""
    return bad(f"{unit.unit} is {state}{left}", f"sudo systemctl start {unit.unit}")


def readers(environment: Environment) -> Look:
    """Who can read the live database besides its owner, its group, this user and the owner of its folder."""
    live = environment.live
    if not live.exists():
        return well("there is none")
    rights, folder = file_rights.read(live), live.parent.stat()
    for parent in live.parents:
        rights = rights.within(parent)
    others = rights.readers({0, os.geteuid(), folder.st_uid}, {*os.getgroups(), os.getegid(), folder.st_gid})
    if not others:
        return well("for its owner and its group alone")
    sudo = "" if os.geteuid() in (0, live.stat().st_uid) else "sudo "
    if "others" in others:
        return note(f"every user of this server can read {live}", f"{sudo}chmod o= {shlex.quote(str(live))}*")
    remove = f"setfacl -x {','.join(others)} {shlex.quote(str(live))}*"
    return note(f"its access list lets {', '.join(others)} read {live}", f"{sudo}{remove}")


def kept_files_line(main: RepositorySettings, environment: Environment) -> Look:
    if damaged := kept_files.damaged_beside(environment.live):
        text = f"restores replaced damaged databases, kept as {', '.join(map(str, damaged))}"
        # with their journals
        remove = " ".join(f"{shlex.quote(str(path))}*" for path in damaged)
        return bad(text, f"when you no longer need them: rm {remove}")
    if kept := kept_files.kept_beside(environment.live):
        text = f"a replaced database is not in a snapshot yet: {', '.join(map(str, kept))}"
        return bad(text, main.make(f"backup ENV={environment.name}"))
    return well("no file of a restore is left")


def key_files(settings: Settings) -> Look:
    repositories = (one for one in (settings.main, settings.offsite) if one)
    if left := [str(file) for one in repositories for file in keys.left_files(one)]:
        text = f"the password of a new key is still on this server: {', '.join(left)}"
        return note(text, f"hand it over, then: rm {shlex.join(left)}")
    return well("no password of a key is left")


def state_folder(settings: Settings) -> Look:
    room = disks.for_export(settings.main, largest_bytes(settings.environments))
    text = f"{room.folder}, {size(room.free_bytes)} free, a backup may need {size(room.needed_bytes)}"
    if not room.is_enough:
        fix = f"free some space (df -h {room.folder}), or {room.hint}"
        return bad(text, fix, state_free_bytes=room.free_bytes)
    return well(text, state_free_bytes=room.free_bytes)


def crontab() -> Look:
    try:
        missing = installed.missing_jobs()
    except BackupError as error:
        return bad(error.message, installed.set_up().fix)
    if missing:
        jobs = installed.set_up().jobs
        return bad(f"{len(missing)} of the {len(jobs)} shipped lines are missing", installed.set_up().fix)
    return well("as shipped")


def logrotate() -> Look:
    if not installed.logrotate_is_installed():
        set_up = installed.set_up()
        fix = set_up.fix if set_up.is_own else f"{set_up.fix} prints the lines for an administrator"
        return bad(f"{installed.LOGROTATE} is not as shipped", fix)
    return well("as shipped")


def user(settings: Settings) -> Look:
    name = places.user_name(os.geteuid())
    folders = [environment.live.parent for environment in settings.environments]
    if settings.systemctl and any(
        folder.is_dir() and folder.stat().st_uid == os.geteuid() for folder in folders
    ):
        text = f"{name} runs the web service too: whoever breaks into the web service can read and remove all backups"
        return note(text, "a separate user for the backups: BACKUP.md, 'Set up a server'")
    return well(name)
