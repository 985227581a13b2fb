"""Install and uninstall the backups: as root with a separate user for them, otherwise for the web service's user.

Every step says what it does, or that it is done already. Root follows no link, and gives away only files that belong to one
of the two users, or to root where it has just made them: the web service's user may be somebody who has broken in.
"""

import grp
import os
import pwd
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dodeka_db import places, safe_open, settings
from dodeka_db.errors import SetupError
from dodeka_db.host import installed, programs
from dodeka_db.host.installed import LOGROTATE, ONE_USER, OWN, OWN_HOME, OWN_USER, POLKIT, SUDOERS, WEB_USER
from dodeka_db.log import log
from dodeka_db.settings import ENVIRONMENTS, SETTINGS_FILE, Settings
from dodeka_db.sqlite import journals

# files that only the timers need: without timers the copies of the passwords are removed too
_OF_TIMERS = (POLKIT, *(installed.CREDENTIALS / name for name in installed.CREDENTIAL_NAMES))


def one_user() -> None:
    """Install what the web service's user may install, and print what an administrator has to add. Raises SetupError."""
    if settings.ROOT.stat().st_uid == 0:
        raise SetupError(
            f"{settings.ROOT} belongs to root",
            f"an administrator sets up the backups' own user: sudo make -C {settings.ROOT} install",
        )
    user = places.user_name(os.geteuid())
    if user != WEB_USER:
        raise SetupError(f"this would give {user} the jobs of {WEB_USER}", f"run this as {WEB_USER}")
    if not ONE_USER.root.is_dir() or ONE_USER.root.resolve() != settings.ROOT:
        raise SetupError(
            f"this is {settings.ROOT}, but the crontab runs the scripts in {ONE_USER.root}",
            f"clone this repository to {ONE_USER.root} and run 'make install' there",
        )
    settings.load()  # what is wrong with them would fail every job
    if ONE_USER.log_folder.is_dir():
        log.info("log folder %s: unchanged", ONE_USER.log_folder)
    else:
        log.info("log folder: mkdir %s", ONE_USER.log_folder)
        try:
            ONE_USER.log_folder.mkdir()
            ONE_USER.log_folder.chmod(0o755)
        except OSError as error:
            raise SetupError(
                f"{ONE_USER.log_folder} cannot be made: {error.strerror}",
                f"check {ONE_USER.log_folder.parent}",
            ) from error
    _set_jobs(user, ONE_USER.crontab)
    if installed.logrotate_is_installed():
        log.info("logrotate %s: unchanged", LOGROTATE)
    else:
        log.info("logrotate: as administrator, put these lines into %s:", LOGROTATE)
        for line in ONE_USER.logrotate.splitlines():
            log.info("    %s", line)
    log.info("a separate user protects the backups if %s is broken into:", WEB_USER)
    log.info("    BACKUP.md, 'Set up a server'")


def own_user(timers: bool) -> None:
    """As root: make a user for the backups alone, and give it all that they need; `timers` in place of its crontab.

    Raises SetupError if a step fails, after the earlier steps; all of them may be repeated.
    """
    web = _user(WEB_USER)
    if not web:
        raise SetupError(f"user {WEB_USER} does not exist", "install the web service first")
    own = _make_user(web)
    _write_settings(own)
    loaded = settings.load({"HOME": str(OWN_HOME)}, check_owner=False)
    _give_folders(loaded, web, own)
    for environment in loaded.environments:
        _open_databases(environment, web, own)
        umask = "# what it makes, its group may read and write: the backups\n[Service]\nUMask=0007\n"
        _write("unit", _drop_in(environment.unit), umask)
    _write("sudo", SUDOERS, OWN.sudoers, 0o440, check=("visudo", "-cq", "-f"))
    _write("logrotate", LOGROTATE, OWN.logrotate)
    _set_jobs(WEB_USER, "")
    if timers:
        _set_jobs(OWN_USER, "")
        _write("polkit", POLKIT, (installed.DEPLOY / "dodeka-backup.rules").read_text())
        _hand_over_passwords(loaded, own)
        units = OWN.units(loaded)
        for path, text in units.items():
            _write("timer", path, text)
        _run("units", "systemctl", "daemon-reload")
        names = (path.name for path in units if path.suffix == ".timer")
        _run("timers", "systemctl", "enable", "--now", "--quiet", *names)
    else:
        _remove_timers()
        for path in _OF_TIMERS:
            _remove(path)
        _run("units", "systemctl", "daemon-reload")
        _set_jobs(OWN_USER, OWN.crontab)
    _prove_readable()
    log.info(
        "done; from now on run the backup commands as %s: sudo -iu %s, then cd %s",
        *(OWN_USER, OWN_USER, settings.ROOT),
    )


def _prove_readable() -> None:
    """Raise SetupError unless the user of the backups can run the scripts in the clone (an administrator's umask may have closed it)."""
    script = settings.ROOT / "bin" / "dodeka-db-settings.py"
    as_own = ("setpriv", f"--reuid={OWN_USER}", f"--regid={OWN_USER}", "--init-groups", "--reset-env")
    done = programs.run(*as_own, str(script))
    if done.exit_code:
        raise SetupError(
            f"{OWN_USER} cannot run {script}: {done.failure}",
            f"if a right is missing: chmod -R go+rX {settings.ROOT}",
        )


def uninstall() -> None:
    """Undo one_user() or own_user(). Files with data stay, and are listed. Raises SetupError."""
    if os.geteuid():
        _set_jobs(places.user_name(os.geteuid()), "")
        log.info("an administrator removes the rest: sudo rm -f %s %s", SUDOERS, LOGROTATE)
        return
    _remove_timers()
    for user in (WEB_USER, OWN_USER):
        if _user(user):
            _set_jobs(user, "")
    drop_ins = [_drop_in(f"dodeka-backend-{name}") for name in ENVIRONMENTS]
    for path in (SUDOERS, LOGROTATE, *_OF_TIMERS, *drop_ins):
        _remove(path)
    for folder in (installed.CREDENTIALS, *(path.parent for path in drop_ins)):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    _run("units", "systemctl", "daemon-reload")
    if _user(OWN_USER):
        log.info(
            "not removed, because they hold data: user %s, %s, %s, %s,",
            *(OWN_USER, OWN_HOME, OWN.log_folder, SETTINGS_FILE),
        )
        log.info("the repository, its password and the databases, which belong to %s", OWN_USER)


def _drop_in(unit: str) -> Path:
    return installed.UNITS / f"{unit}.service.d" / "dodeka-backup.conf"


def _make_user(web: pwd.struct_passwd) -> pwd.struct_passwd:
    own = _user(OWN_USER)
    if not own:
        home = ("--create-home", "--key", "HOME_MODE=0700", "--home-dir", str(OWN_HOME))
        _run("user", "useradd", "--system", "--user-group", *home, "--shell", "/bin/bash", OWN_USER)
        own = pwd.getpwnam(OWN_USER)
    if web.pw_gid not in os.getgrouplist(OWN_USER, own.pw_gid):
        _run("group", "usermod", "--append", "--groups", grp.getgrgid(web.pw_gid).gr_name, OWN_USER)
    else:
        log.info("user %s, of the group of %s: unchanged", OWN_USER, WEB_USER)
    members = {
        *grp.getgrgid(web.pw_gid).gr_mem,
        *(one.pw_name for one in pwd.getpwall() if one.pw_gid == web.pw_gid),
    }
    if others := members - {WEB_USER, OWN_USER}:
        log.warning(
            "%s can read and write the databases too (members of %s's group)",
            ", ".join(sorted(others)),
            WEB_USER,
        )
    return own


def _write_settings(own: pwd.struct_passwd) -> None:
    if not SETTINGS_FILE.exists():
        log.info("settings: write %s", SETTINGS_FILE)
        SETTINGS_FILE.write_text(f"# all that can be set stands in {installed.DEPLOY}/backup.env.example\n")
    with _opened(SETTINGS_FILE, os.O_RDONLY) as file:
        _give(file, SETTINGS_FILE, own.pw_uid, own.pw_gid, 0o600, (0, own.pw_uid))


def _give_folders(loaded: Settings, web: pwd.struct_passwd, own: pwd.struct_passwd) -> None:
    """The home, the folder of the log, and the volume with what is on it.

    The own user can write the settings, so root gives away only files of that user or of the web service's user.
    """
    OWN.log_folder.mkdir(mode=0o750, exist_ok=True)
    with _opened(OWN_HOME) as folder:
        _give(folder, OWN_HOME, own.pw_uid, own.pw_gid, 0o700, (own.pw_uid,))
    with _opened(OWN.log_folder) as folder:
        _give(folder, OWN.log_folder, own.pw_uid, own.pw_gid, 0o750, (0, own.pw_uid))
    repository, password_file = loaded.main.folder, loaded.main.password_file
    for path in filter(None, (repository, password_file)):
        if path.is_relative_to(web.pw_dir):
            raise SetupError(
                f"{path} is in the home folder of {WEB_USER}, who can change everything there",
                f"move it, and set its new place in {SETTINGS_FILE}",
            )
    if not repository:
        return
    if not repository.parent.is_dir():
        raise SetupError(
            f"folder {repository.parent} is missing", "mount the backup volume, then run this again"
        )
    users, expected = (web.pw_uid, own.pw_uid), {"lost+found", repository.name}
    if password_file and password_file.parent == repository.parent:
        expected.add(password_file.name)
    with _walked(repository.parent, (0,)) as volume:
        names, owner = set(os.listdir(volume)), os.fstat(volume).st_uid
        is_new = owner == 0 and (os.path.ismount(repository.parent) or not names)
        if owner != own.pw_uid and (names - expected or not (is_new or owner == web.pw_uid)):
            raise SetupError(
                f"{repository.parent} contains other files than the repository",
                f"set RESTIC_REPOSITORY in {SETTINGS_FILE} to a path in a folder that only the backups use",
            )
        _give(volume, repository.parent, own.pw_uid, own.pw_gid, 0o700, (0, *users))
        for name in names & expected - {"lost+found"}:
            with _opened(repository.parent / name, os.O_RDONLY | os.O_NONBLOCK, volume) as found:
                if os.fstat(found).st_uid == web.pw_uid:
                    closed = str(repository.parent / name)  # the volume is closed to all other users now
                    _run("backups", "chown", "-R", "-P", "--no-dereference", f"{OWN_USER}:", closed)
                    _run("backups", "chmod", "-R", "go=", closed)


def _open_databases(
    environment: settings.Environment, web: pwd.struct_passwd, own: pwd.struct_passwd
) -> None:
    """Let the backups read and write the databases of an environment; the web service's user keeps its access."""
    folder, name = environment.database.parent, environment.database.name
    if not folder.is_dir():
        log.info(
            "databases of %s: %s does not exist yet; run this again when it does", environment.name, folder
        )
        return
    with _walked(folder, (0, web.pw_uid), web) as opened:
        _give(opened, folder, web.pw_uid, web.pw_gid, 0o2770, (web.pw_uid,))
        for found in sorted(os.listdir(opened)):
            if not found.startswith(name):
                continue
            with _opened(folder / found, os.O_RDONLY | os.O_NONBLOCK, opened) as file:
                status = os.fstat(file)
                if stat.S_ISREG(status.st_mode):
                    # owned by us, since the kernel tells only the owner of a file whether a process has it open. Journals come and go
                    owner = status.st_uid if found.endswith(journals.SUFFIXES) else own.pw_uid
                    _give(file, folder / found, owner, web.pw_gid, 0o660, (web.pw_uid, own.pw_uid))


def _hand_over_passwords(loaded: Settings, own: pwd.struct_passwd) -> None:
    """Copies of the passwords in a folder of root's, where systemd reads them as root for the units. Follows no link."""
    for name, file in installed.passwords(loaded).items():
        if file and file.exists():
            with _opened(file, os.O_RDONLY | os.O_NONBLOCK) as opened:
                status = os.fstat(opened)
                if status.st_uid == own.pw_uid and stat.S_ISREG(status.st_mode):
                    text = os.read(opened, 4096).decode(errors="surrogateescape")
                    _write("password", installed.CREDENTIALS / name, text, 0o600)


@contextmanager
def _walked(folder: Path, owners: tuple[int, ...], web: pwd.struct_passwd | None = None) -> Iterator[int]:
    """`folder`, opened step by step from / on, so that nobody can put a link into the path; SetupError if there is one.

    All folders above it must belong to one of `owners`. With `web` those that are closed to the group of that user are opened.
    """
    with ExitStack() as opened:
        descriptor = opened.enter_context(_opened(Path("/")))
        for path in (*reversed(folder.parents), folder)[1:]:
            status = os.fstat(descriptor)
            if status.st_uid not in owners:
                raise SetupError(
                    f"{path.parent}, the folder of {path.name}, belongs to {places.user_name(status.st_uid)}",
                    "choose a place that only root and the user of the backups can change",
                )
            let_through = stat.S_IXOTH | (stat.S_IXGRP if web and status.st_gid == web.pw_gid else 0)
            if web and not status.st_mode & let_through:
                if (status.st_uid, status.st_gid) != (web.pw_uid, web.pw_gid):
                    raise SetupError(f"{OWN_USER} cannot enter {path.parent}", f"chmod o+x {path.parent}")
                mode = stat.S_IMODE(status.st_mode) | stat.S_IXGRP
                _give(descriptor, path.parent, web.pw_uid, web.pw_gid, mode, (web.pw_uid,))
            descriptor = opened.enter_context(_opened(path, folder=descriptor))
        yield descriptor


def _give(
    descriptor: int, shown: Path, user: int, group: int, mode: int, from_users: tuple[int, ...]
) -> None:
    """Give an open file or folder, which belongs to one of `from_users`, to `user` and `group`, with that mode."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (user, group, mode):
        return
    if status.st_uid not in from_users:
        raise SetupError(
            f"{shown} belongs to {places.user_name(status.st_uid)}", f"look at it: ls -l {shown}"
        )
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise SetupError(
            f"{shown} has a second hard link",
            f"if no restore is running, find it: find / -xdev -samefile {shown}",
        )
    log.info("rights: %s to %s, mode %o", shown, places.user_name(user), mode)
    os.fchown(descriptor, user, group)
    os.fchmod(descriptor, mode)


@contextmanager
def _opened(
    path: Path, flags: int = os.O_RDONLY | os.O_DIRECTORY, folder: int | None = None
) -> Iterator[int]:
    """`path`, which is no link, open while the block runs; with `folder`, an open folder, by its last part in that."""
    try:
        name = path if folder is None else path.name
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise SetupError(
            f"{path} cannot be opened: {error.strerror}", f"perhaps it is a link: ls -l {path}"
        ) from error
    with safe_open.closed_at_end(descriptor):
        yield descriptor


def _write(what: str, path: Path, text: str, mode: int = 0o644, check: tuple[str, ...] = ()) -> None:
    """Write a file of root's, by a rename; `check` is a command that must accept the new file, given as its last argument."""
    if (
        path.exists()
        and path.read_text(errors="surrogateescape") == text
        and stat.S_IMODE(path.stat().st_mode) == mode
    ):
        log.info("%s %s: unchanged", what, path)
        return
    log.info("%s: write %s", what, path)
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755 if mode & 0o004 else 0o700)  # whatever the umask says
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, errors="surrogateescape"
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if check:
                _run("", *check, file.name)
            os.rename(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _remove(path: Path) -> None:
    if path.exists():
        log.info("remove %s", path)
        path.unlink()


def _remove_timers() -> None:
    timers = [installed.UNITS / f"{installed.UNIT_NAME}{job.name}.timer" for job in OWN.jobs]
    found = [path for path in timers if path.exists()]
    if found:
        _run("timers", "systemctl", "disable", "--now", "--quiet", *(path.name for path in found))
    for path in (*found, *(path.with_suffix(".service") for path in found)):
        _remove(path)


def _set_jobs(user: str, jobs: str) -> None:
    """Replace our lines in the crontab of `user` with `jobs`; other lines stay."""
    who = () if os.geteuid() else ("-u", user)
    present = list(filter(str.strip, installed.crontab("" if os.geteuid() else user).splitlines()))
    ours = [installed.is_ours(line) for line in present]
    others = [line for line, is_ours in zip(present, ours, strict=True) if not is_ours]
    at = ours.index(True) if True in ours else len(present)
    # a line that sets a variable stays before the lines that use it
    wanted = [*others[:at], *jobs.splitlines(), *others[at:]]
    if list(filter(str.strip, wanted)) == present:
        log.info("crontab of %s: unchanged", user)
        return
    log.info("crontab of %s: %s", user, f"as {installed.CRONTAB}" if jobs else "without the backups")
    if not wanted:
        _run("", "crontab", *who, "-r")
        return
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(f"{line}\n" for line in wanted))
        file.flush()
        _run("", "crontab", *who, file.name)


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _run(what: str, *words: str) -> None:
    if what:
        log.info("%s: %s", what, shlex.join(words))
    done = programs.run(*words)
    if done.exit_code:
        raise SetupError(f"'{shlex.join(words)}' failed: {done.failure}", "fix that, then run this again")
