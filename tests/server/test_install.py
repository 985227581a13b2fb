"""The recommended set-up, whole: a user of its own for the backups, made by `sudo make install` from a clone of root's.

And the web service's user, as somebody who has broken into the service would use it, against all of that.
"""

import os
import re
import time
from pathlib import Path

import pytest

from cheap_key import reseal
from hostile_files import with_journal_of
from monitor_receiver import Receiver
from whole_server import CLONE, HOME, OWN_HOME, PROJECT, ROOT, Server

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)

DATABASES = HOME / "dodeka/backend/envs"
DEMO = DATABASES / "demo/db.sqlite"
UNIT = "dodeka-backend-demo"
JOBS = ("production", "demo", "offsite", "verify", "check", "status")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        # as the shell scripts and one user for all have left it
        server.run("make", "-C", str(PROJECT), "init", "YES=1")
        reseal(
            server.path("/mnt/backup/restic"), server.path("/mnt/backup/.restic-password").read_text().strip()
        )
        server.run("chown", "-R", "backend:", "/mnt/backup", user="root")
        server.run("make", "-C", str(PROJECT), "backup", "ENV=demo")
        # with a line of an older version
        old = f"33 3 * * * {PROJECT}/bin/dodeka-db-offsite.py >> {HOME}/log/backup.log 2>&1\n0 4 * * * true\n"
        server.run("crontab", "-", stdin=(ROOT / "deploy/dodeka_crontab").read_text() + old)
        server.move_to_root()
        for kind in ("service", "timer"):  # this machine was not booted, so nothing may wait for that
            drop_in = server.path(f"/etc/systemd/system/{kind}.d/test.conf")
            drop_in.parent.mkdir()
            drop_in.write_text("[Unit]\nDefaultDependencies=no\n")
        server.run("systemctl", "daemon-reload", user="root")
        server.run("systemctl", "start", "dodeka-backend-production", UNIT, user="root")
        install(server)
        server.sh(
            f"printf 'OFFSITE_REPOSITORY={OWN_HOME}/offsite\\nDODEKA_START_WAIT_S=1\\n' >> {CLONE}/deploy/backup.env",
            user="dbackup",
        )
        own(server, "init", "OFFSITE=1", "YES=1")
        for environment in ("production", "demo"):
            own(server, "backup", f"ENV={environment}")
        yield server
    finally:
        server.stop()


def install(server: Server, *words: str, check: bool = True):
    return server.run(
        "make", "--no-print-directory", "-C", str(CLONE), "install", *words, user="root", check=check
    )


def own(server: Server, *words: str, check: bool = True, **options):
    """make, as the user of the backups."""
    return server.run(
        *("make", "--no-print-directory", "-C", str(CLONE), *words),
        user="dbackup",
        check=check,
        **options,
    )


def users(server: Server) -> int:
    return int(
        server.run(
            "sqlite3", "-cmd", ".timeout 5000", str(DEMO), "SELECT count(*) FROM users_by_email", user="root"
        ).stdout
    )


def writes(server: Server) -> int:
    return int(
        server.run(
            "sqlite3", "-cmd", ".timeout 5000", str(DEMO), "SELECT count(*) FROM outbox", user="root"
        ).stdout
    )


def is_writing(server: Server) -> bool:
    before, deadline = writes(server), time.monotonic() + 60
    while writes(server) == before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def mode(server: Server, path: Path | str) -> str:
    return server.run("stat", "-c", "%U:%G %a", str(path), user="root").stdout.strip()


class TestInstall:
    @pytest.mark.slow("a server of its own")
    def test_what_one_user_had_is_taken_over(self, server):
        listed = own(server, "snapshots", "ENV=demo").stdout.splitlines()
        assert len(listed) >= 3  # the heading, backend's, and one of ours
        assert server.run("crontab", "-l").stdout.strip().splitlines()[-1] == "0 4 * * * true"
        assert "dodeka-db" not in server.run("crontab", "-l").stdout

    @pytest.mark.long
    def test_what_belongs_to_whom(self, server):
        assert mode(server, DATABASES / "demo") == "backend:backend 2770"
        assert mode(server, DEMO) == "dbackup:backend 660"
        assert mode(server, f"{CLONE}/deploy/backup.env") == "dbackup:dbackup 600"
        assert mode(server, CLONE / ".venv") == "root:root 755"
        assert mode(server, "/mnt/backup") == "dbackup:dbackup 700"
        assert mode(server, OWN_HOME) == "dbackup:dbackup 700"
        assert mode(server, "/etc/sudoers.d/dodeka-backup") == "root:root 440"
        assert is_writing(server)

    def test_it_can_be_repeated_and_says_what_is_there(self, server):
        said = install(server).stdout
        assert said.count(": unchanged") == 7
        assert "rights:" not in said and "write" not in said

    def test_lines_of_one_s_own_in_its_crontab_stay(self, server):
        listed = server.run("crontab", "-l", user="dbackup").stdout
        server.run("crontab", "-", user="dbackup", stdin=f"{listed}@daily /usr/bin/true\n")
        install(server)
        assert server.run("crontab", "-l", user="dbackup").stdout == f"{listed}@daily /usr/bin/true\n"
        server.run("crontab", "-", user="dbackup", stdin=listed)

    def test_the_real_paths(self, server):
        listed = server.run("crontab", "-u", "dbackup", "-l", user="root").stdout
        assert (
            f"*/12 * * * * {CLONE}/deploy/dodeka-db-cron.sh production >> /var/log/dodeka-backup/backup.log"
            in listed
        )
        assert str(PROJECT) not in listed

    def test_the_crontab_s_line_runs_and_logrotate_takes_its_log(self, server):
        listed = server.run("crontab", "-u", "dbackup", "-l", user="root").stdout
        (line,) = [line for line in listed.splitlines() if "cron.sh demo" in line]
        server.run("sh", "-c", line.split(None, 5)[5], user="dbackup")
        log = server.path("/var/log/dodeka-backup/backup.log")
        assert " demo done: snapshot " in log.read_text().splitlines()[-1]
        server.run("/usr/sbin/logrotate", "--force", "/etc/logrotate.d/dodeka-backup", user="root")
        assert any(path.name.startswith("backup.log.1") for path in log.parent.iterdir())

    def test_a_clone_that_others_can_write(self, server):
        server.sh(f"chmod o+w {CLONE}/bin/dodeka_db", user="root")
        try:
            done = install(server, check=False)
            assert (
                done.returncode == 2
                and f"users other than root can write {CLONE}/bin/dodeka_db," in done.stderr
            )
        finally:
            server.sh(f"chmod o-w {CLONE}/bin/dodeka_db", user="root")
        server.sh(f"cp -a {CLONE} {HOME}/clone", user="root")
        try:
            done = server.run("make", "-C", f"{HOME}/clone", "install", user="root", check=False)
            assert done.returncode == 2 and f"users other than root can write {HOME}," in done.stderr
        finally:
            server.sh(f"rm -r {HOME}/clone", user="root")

    def test_an_ordinary_user_gets_told_and_runs_no_sudo(self, server):
        server.sh(
            "mkdir -p ~/.local/bin; printf '#!/bin/sh\\ntouch /tmp/ran\\n' > ~/.local/bin/sudo; chmod +x ~/.local/bin/sudo"
        )
        done = server.run(
            "make", "-C", str(CLONE), "install", check=False, PATH=f"{HOME}/.local/bin:/usr/bin:/bin"
        )
        assert done.returncode == 2
        assert (
            f"{CLONE} belongs to root; an administrator sets up the backups' own user: sudo make -C {CLONE} install"
            in done.stderr
        )
        assert not server.path("/tmp/ran").exists()

    def test_what_the_web_user_has_put_in_the_way_stops_it(self, server):
        """Root follows no link of theirs, and gives away nothing of others."""
        server.sh(f"ln -s /etc/shadow {DATABASES}/demo/db.sqlite-evil")
        try:
            done = install(server, check=False)
            assert done.returncode == 2 and "db.sqlite-evil cannot be opened" in done.stderr
        finally:
            server.sh(f"rm {DATABASES}/demo/db.sqlite-evil")
        assert mode(server, "/etc/shadow").startswith("root:")

    @pytest.mark.parametrize(
        ("change", "back", "said"),
        [
            (
                f"mv {DEMO} {DEMO}.away; ln -s /mnt/backup/.restic-password {DEMO}",
                f"rm {DEMO}; mv {DEMO}.away {DEMO}",
                f"{DEMO} cannot be opened",
            ),
            (
                f"mv {DATABASES}/demo {DATABASES}/away; ln -s /mnt/backup {DATABASES}/demo",
                f"rm {DATABASES}/demo; mv {DATABASES}/away {DATABASES}/demo",
                f"{DATABASES}/demo cannot be opened",
            ),
            (
                f"ln /etc/hostname {DATABASES}/demo/db.sqlite-x",
                f"rm {DATABASES}/demo/db.sqlite-x",
                "db.sqlite-x belongs to root",
            ),
        ],
        ids=["a link to the password", "a folder that is a link", "another name of root's file"],
    )
    def test_nor_gives_it_the_web_user_what_is_the_backups(self, server, change, back, said):
        kept = [
            mode(server, path) for path in ("/mnt/backup", "/mnt/backup/.restic-password", "/etc/hostname")
        ]
        server.sh(change, user="root")
        try:
            done = install(server, check=False)
            assert done.returncode == 2 and said in done.stderr
        finally:
            server.sh(back, user="root")
        assert kept == [
            mode(server, path) for path in ("/mnt/backup", "/mnt/backup/.restic-password", "/etc/hostname")
        ]

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ("RESTIC_REPOSITORY=/etc/ssh/restic", "/etc/ssh contains other files than the repository"),
            (f"RESTIC_REPOSITORY={HOME}/restic", f"{HOME}/restic is in the home folder of backend"),
            ("RESTIC_REPOSITORY=/etc/sudoers.d/dodeka-backup", "/etc/sudoers.d contains other files than"),
        ],
    )
    def test_the_own_user_s_settings_make_root_give_nothing_away(self, server, setting, said):
        file = server.path(CLONE / "deploy/backup.env")
        before = file.read_text()
        file.write_text(f"{before}{setting}\n")
        try:
            done = install(server, check=False)
            assert done.returncode == 2 and said in done.stderr
        finally:
            file.write_text(before)
        assert mode(server, "/etc/ssh").startswith("root:") and mode(server, "/etc/sudoers.d").startswith(
            "root:"
        )

    def test_a_clone_that_the_own_user_cannot_read(self, server):
        server.sh(f"chmod o-r {CLONE}/bin/dodeka-db-settings.py", user="root")
        try:
            done = install(server, check=False)
            assert f"dbackup cannot run {CLONE}/bin/dodeka-db-settings.py" in done.stderr
            assert f"chmod -R go+rX {CLONE}" in done.stderr
        finally:
            server.sh(f"chmod o+r {CLONE}/bin/dodeka-db-settings.py", user="root")


class TestEverythingWorks:
    def test_restore_where_no_database_is(self, server):
        server.sh(f"systemctl stop {UNIT}; rm {DEMO}*", user="root")
        own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
        server.run("systemctl", "start", UNIT, user="root")
        assert mode(server, DEMO) == "dbackup:backend 660" and is_writing(server)

    def test_restore_undo_and_clone(self, server):
        before = writes(server)
        own(server, "restore", "ENV=demo", "FROM=production", "SNAPSHOT=latest", "YES=1")
        assert users(server) == 400 and is_writing(server)
        assert mode(server, DEMO) == "dbackup:backend 660"
        own(server, "undo", "ENV=demo", "YES=1")
        assert users(server) == 30 and is_writing(server) and writes(server) >= before

    def test_a_database_that_the_backend_has_made_anew(self, server):
        """It is the web user's own, and nobody but root can give a file away: what replaces it is ours, for its group."""
        server.sh(
            f"systemctl stop {UNIT}; cd {DATABASES}/demo; setpriv --reuid=backend --regid=backend --init-groups"
            " sh -c 'umask 007; cp db.sqlite new; chmod 660 new; rm db.sqlite; mv new db.sqlite';"
            f"systemctl start {UNIT}",
            user="root",
        )
        assert mode(server, DEMO) == "backend:backend 660"
        own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
        assert mode(server, DEMO) == "dbackup:backend 660"
        assert is_writing(server)

    def test_a_database_that_the_backend_itself_has_made_anew(self, server):
        """SQLite makes it 0640 whatever the unit's UMask=: we read it, and `sudo make install` lets us replace it."""
        server.sh(
            f"systemctl stop {UNIT}; cd {DATABASES}/demo; setpriv --reuid=backend --regid=backend --init-groups"
            " sh -c 'umask 007; sqlite3 db.sqlite .dump > dump; rm db.sqlite; sqlite3 db.sqlite < dump > /dev/null; rm dump';"
            f"systemctl start {UNIT}",
            user="root",
        )
        assert mode(server, DEMO) == "backend:backend 640"
        assert is_writing(server)
        assert "done: snapshot " in own(server, "backup", "ENV=demo").stdout
        done = own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1
        assert f"{DEMO} belongs to another user or group" in done.stderr
        assert "if that is dbackup, 'sudo make install' restores its permissions" in done.stderr
        server.run("make", "-C", str(CLONE), "install", user="root")
        assert mode(server, DEMO) == "dbackup:backend 660"
        own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
        assert mode(server, DEMO) == "dbackup:backend 660"
        assert is_writing(server)

    def test_cron_drill_check_offsite_status(self, server):
        for words in (
            ("cron", "ENV=production"),
            ("cron", "ENV=demo"),
            ("verify", "ENV=production"),
            ("check",),
            ("offsite",),
        ):
            assert "done: " in own(server, *words).stdout
        shown = own(server, "status", check=False).stdout
        assert re.search(r"^ok +crontab +as shipped$", shown, re.MULTILINE)
        assert re.search(r"^ok +logrotate +as shipped$", shown, re.MULTILINE)
        assert re.search(r"^ok +user +dbackup$", shown, re.MULTILINE)
        assert re.search(rf"^ok +demo +service +{UNIT} is active$", shown, re.MULTILINE)

    @pytest.mark.slow("restores have it too")
    def test_a_backend_that_writes_elsewhere_is_noticed(self, server):
        """Its processes are another user's, and closed to us; that nobody has our file open the kernel says."""
        server.sh(
            f"cd {DATABASES}/demo; sqlite3 db.sqlite \"VACUUM INTO 'new'\"; chmod 660 new; mv new db.sqlite; rm db.sqlite-*"
            f"; chown dbackup:backend db.sqlite",
            user="root",
        )
        try:
            done = own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
            assert f"{UNIT} does not have {DEMO} open; nothing was changed" in done.stderr
        finally:
            server.run("systemctl", "restart", UNIT, user="root")
            assert is_writing(server)


READS = f"""
restic -r /mnt/backup/restic -p /mnt/backup/.restic-password --no-cache snapshots
cat /mnt/backup/.restic-password
ls /mnt/backup
ls {OWN_HOME}
cat {CLONE}/deploy/backup.env
cat {OWN_HOME}/.restic-offsite-password
cat /proc/$(pgrep -u dbackup -o sleep)/environ
ls /proc/$(pgrep -u dbackup -o sleep)/root/mnt/backup
head /var/log/dodeka-backup/backup.log
crontab -u dbackup -l
sudo -n -u dbackup true
"""
DESTROYS = f"""
rm -r /mnt/backup/restic
mv /mnt/backup/restic /mnt/backup/gone
rm /mnt/backup/.restic-password
rm {CLONE}/deploy/backup.env
touch {CLONE}/bin/dodeka_db/evil.py
touch {CLONE}/deploy/evil
ln -sf /tmp/evil {CLONE}/.venv/bin/python
rm -r {OWN_HOME}/offsite
touch {OWN_HOME}/.bashrc
echo evil >> /var/log/dodeka-backup/backup.log
crontab -u dbackup -r
rm /var/spool/cron/crontabs/dbackup
kill $(pgrep -u dbackup -o sleep)
"""
BECOMES_ROOT = f"""
echo 'backend ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/dodeka-backup
sudo -n systemctl stop dodeka-backend-demo
sudo -n true
touch /etc/logrotate.d/evil
echo evil > /etc/logrotate.d/dodeka-backup
touch /etc/systemd/system/evil.service
echo evil > {CLONE}/deploy/dodeka-backup-logrotate
systemctl --no-ask-password stop dodeka-backend-demo
"""


@pytest.fixture(scope="module")
def attacked(server):
    """With a process and a log of the backups there, to be read, killed and written."""
    server.sh("setsid sleep 600 > /dev/null 2>&1 & echo > /var/log/dodeka-backup/backup.log", user="dbackup")
    return server


class TestTheWebUser:
    """Whoever has broken into the web service has all that its user has."""

    @pytest.mark.parametrize(
        "command", [line for line in (READS + DESTROYS + BECOMES_ROOT).splitlines() if line]
    )
    def test_is_refused(self, attacked, command):
        assert attacked.run("sh", "-c", command, check=False).returncode != 0

    def test_the_same_commands_do_something_for_the_user_of_the_backups(self, attacked):
        """Else the refusals above would prove nothing."""
        for command in READS.strip().splitlines()[:9]:
            assert attacked.run("sh", "-c", command, user="dbackup", check=False).returncode == 0, command

    def test_a_mark_that_is_a_link_overwrites_nothing(self, server):
        server.sh(f"ln -s /mnt/backup/.restic-password {DEMO}.stopped")
        before = server.path("/mnt/backup/.restic-password").read_text()
        try:
            own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
        finally:
            server.sh(f"rm -f {DEMO}.stopped")
        assert server.path("/mnt/backup/.restic-password").read_text() == before

    def test_a_mark_that_starts_a_service_which_an_administrator_has_stopped(self, server):
        server.run("systemctl", "stop", UNIT, user="root")
        try:
            server.sh(f"echo > {DEMO}.stopped")
            own(server, "cron", "ENV=demo")
            assert not server.active(UNIT)
        finally:
            server.sh(f"rm -f {DEMO}.stopped; systemctl start {UNIT}", user="root")

    def test_a_journal_that_names_a_file_of_ours_removes_nothing(self, server):
        """The page that SQLite rolls back names it: https://www.sqlite.org/fileformat2.html#the_rollback_journal."""
        server.path("/mnt/backup/precious").write_text("ours")
        server.sh("chown dbackup: /mnt/backup/precious; chmod 600 /mnt/backup/precious", user="root")
        server.run("systemctl", "stop", UNIT, user="root")
        kept = f"{DEMO}.pre-restore-20260101T000000Z"
        try:
            server.sh(f"cp {DEMO} {kept}; chmod 660 {kept}", user="backend")
            for db in (DEMO, kept):
                with_journal_of(server.path(db), Path("/mnt/backup/precious"))
                server.sh(f"chown backend: {db}-journal; chmod 660 {db}-journal", user="root")
            for words in (("backup", "ENV=demo"), ("restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")):
                own(server, *words, check=False)
            assert server.path("/mnt/backup/precious").exists()
        finally:
            server.sh(f"rm -f {DEMO}-journal {kept}*; systemctl start {UNIT}", user="root")
        assert is_writing(server)

    def test_a_database_that_is_a_link_to_what_is_none(self, server):
        server.sh(
            f"systemctl stop {UNIT}; mv {DEMO} {DEMO}.away; ln -s /mnt/backup/.restic-password {DEMO}",
            user="root",
        )
        before = server.path("/mnt/backup/.restic-password").read_text()
        try:
            done = own(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
            assert done.returncode == 2
            assert f"{DEMO} is a link to /mnt/backup/.restic-password, which is not a database" in done.stderr
        finally:
            server.sh(f"rm {DEMO}; mv {DEMO}.away {DEMO}; systemctl start {UNIT}", user="root")
        assert server.path("/mnt/backup/.restic-password").read_text() == before

    @pytest.mark.parametrize(
        "script", ["restore demo --snapshot latest --yes", "undo demo --yes", "backup demo", "status"]
    )
    def test_root_is_refused_by_every_script_where_others_own_what_it_would_write(self, server, script):
        name, *arguments = script.split()
        done = server.run(f"{CLONE}/bin/dodeka-db-{name}.py", *arguments, user="root", check=False)
        assert done.returncode in (2, 6) and re.search(
            r"belongs to (dbackup|backend), not to root", done.stderr
        )


def test_root_is_refused_in_a_clone_of_somebody_s(server):
    server.run("chown", "backend:", str(CLONE), user="root")
    try:
        done = server.run(
            f"{CLONE}/bin/dodeka-db-snapshots.py", user="root", check=False, DODEKA_BACKUP_ENV="/dev/null"
        )
        assert done.returncode == 6 and f"{CLONE} belongs to backend, not to root" in done.stderr
    finally:
        server.run("chown", "root:", str(CLONE), user="root")


@pytest.fixture(scope="module")
def timers(server):
    yield server, install(server, "TIMERS=1").stdout
    install(server)


class TestTimers:
    def test_they_take_the_crontab_s_place_and_back(self, timers):
        server, _said = timers
        assert server.run("crontab", "-u", "dbackup", "-l", user="root", check=False).returncode == 1
        listed = server.run("systemctl", "list-timers", "--no-pager", user="root").stdout
        assert all(f"dodeka-backup-{job}.timer" in listed for job in JOBS)
        assert "crontab         as shipped" in own(server, "status", check=False).stdout

        def left() -> list[str]:
            names = "/etc/polkit-1/rules.d/50-dodeka-backup.rules /etc/dodeka-backup/* /etc/systemd/system/dodeka-backup-*"
            return server.sh(f"ls -d {names} 2> /dev/null", user="root", check=False).split()

        assert len(left()) == 1 + 2 + 2 * len(
            JOBS
        )  # the rule, both passwords, a service and a timer for each job
        install(server)
        assert left() == []
        assert "dodeka-db-cron.sh production" in server.run("crontab", "-l", user="dbackup").stdout
        install(server, "TIMERS=1")

    def test_what_the_own_user_links_there_is_handed_to_no_unit(self, timers):
        """systemd reads a credential as root, and follows links."""
        server, _ = timers
        unit = server.path("/etc/systemd/system/dodeka-backup-demo.service").read_text()
        assert "LoadCredential=restic-password:/etc/dodeka-backup/restic-password" in unit
        assert mode(server, "/etc/dodeka-backup/restic-password") == "root:root 600"
        server.sh(
            "cd /mnt/backup; mv .restic-password away; ln -s /etc/shadow .restic-password", user="dbackup"
        )
        try:
            done = install(server, "TIMERS=1", check=False)
            assert ".restic-password cannot be opened" in done.stderr
        finally:
            server.sh("cd /mnt/backup; mv away .restic-password", user="dbackup")
        install(server, "TIMERS=1")

    @pytest.mark.slow("each job", keep=["cron"])
    @pytest.mark.parametrize("job", JOBS)
    def test_each_of_them(self, timers, job):
        server, _ = timers
        done = server.run("systemctl", "start", f"dodeka-backup-{job}.service", user="root", check=False)
        log = server.path("/var/log/dodeka-backup/backup.log").read_text()
        if job == "status":  # this server has all its backups on the disk of its databases
            assert " both warning: make status: Something needs attention. " in log.splitlines()[-1]
            return
        assert done.returncode == 0, log[-2000:]
        assert " done: " in log.splitlines()[-1]

    def test_the_hourly_status_sees_what_somebody_sees_who_types_it(self, timers):
        """Without sudo, and without the right to read a crontab."""
        server, _ = timers
        config = server.path(CLONE / "deploy/backup.env")
        before = config.read_text()
        with Receiver() as receiver:
            server.sh(f"echo DODEKA_MONITOR={receiver.key_url} >> {CLONE}/deploy/backup.env", user="dbackup")
            try:
                server.run("systemctl", "start", "dodeka-backup-status.service", user="root", check=False)
                own(server, "monitor")
                by_hand = own(server, "status", check=False).stdout
                server.run("systemctl", "start", "dodeka-backup-status.service", user="root", check=False)
            finally:
                config.write_text(before)
            told = [one for one in receiver.told if one[0] == "dodeka-status" and one[1] == "fail"]
        assert len(told) == 2
        lines = [re.findall(r"^(?:BAD|ok|note|\?) .{28}", one, re.MULTILINE) for one in (told[1][2], by_hand)]
        assert lines[0] == lines[1]

    def test_a_restore_under_the_same_hardening(self, timers):
        """What an option breaks would be found here: it stops, replaces, starts and saves."""
        server, _ = timers
        unit = server.path("/etc/systemd/system/dodeka-backup-demo.service").read_text()
        script = f"{CLONE}/bin/dodeka-db-restore.py demo --from production --snapshot latest --yes"
        changed = re.sub(r"exec .*?>>", f"exec {script} >>", unit)
        assert script in changed
        server.path("/etc/systemd/system/test-restore.service").write_text(changed)
        server.run("systemctl", "daemon-reload", user="root")
        done = server.run("systemctl", "start", "test-restore.service", user="root", check=False)
        log = server.path("/var/log/dodeka-backup/backup.log").read_text()
        assert done.returncode == 0, log[-2000:]
        assert users(server) == 400 and is_writing(server)
        own(server, "undo", "ENV=demo", "YES=1")

    def test_a_volume_that_is_not_mounted_is_said_by_the_job_itself(self, timers):
        server, _ = timers
        server.sh(
            "mv /mnt/backup /mnt/elsewhere && mkdir /mnt/backup && chown dbackup: /mnt/backup", user="root"
        )
        try:
            done = server.run("systemctl", "start", "dodeka-backup-demo.service", user="root", check=False)
            log = server.path("/var/log/dodeka-backup/backup.log").read_text()
            assert done.returncode != 0
            assert "no restic repository at /mnt/backup/restic" in log.splitlines()[-1]
        finally:
            server.sh("rmdir /mnt/backup && mv /mnt/elsewhere /mnt/backup", user="root")


def test_uninstall_leaves_the_data(server):
    before = server.run("sh", "-c", "find /mnt/backup -type f | wc -l", user="root").stdout
    said = server.run("make", "--no-print-directory", "-C", str(CLONE), "uninstall", user="root").stdout
    assert "not removed, because they hold data: user dbackup" in said
    for path in ("/etc/sudoers.d/dodeka-backup", "/etc/logrotate.d/dodeka-backup"):
        assert not server.path(path).exists()
    assert not list(server.path("/etc/systemd/system").glob("**/dodeka-backup*"))
    assert server.run("crontab", "-u", "dbackup", "-l", user="root", check=False).returncode == 1
    assert server.run("sh", "-c", "find /mnt/backup -type f | wc -l", user="root").stdout == before
    assert is_writing(server)
    install(server)  # for whatever test comes behind this one
