"""The documented server, whole: real systemd, real units that write, real sudo, cron and logrotate."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from cheap_key import reseal
from server import HOME, PROJECT, ROOT, Server

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)

DEMO = PROJECT / "backend/envs/demo/db.sqlite"
PRODUCTION = PROJECT / "backend/envs/production/db.sqlite"
SUDOERS = Path("/etc/sudoers.d/dodeka")
UNIT = "dodeka-backend-demo"
CRON_LINES = [
    line
    for line in (ROOT / "deploy" / "dodeka_crontab").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        server.run("make", "-C", str(PROJECT), "init")
        repository = server.path("/mnt/backup/restic")
        reseal(repository, server.path("/mnt/backup/.restic-password").read_text().strip())
        server.run("chown", "-R", "backend:", "/mnt/backup", user="root")
        allow_sudo(server)
        server.run("systemctl", "start", "dodeka-backend-production", UNIT, user="root")
        yield server
    finally:
        server.stop()


def allow_sudo(server: Server, *more: str) -> None:
    """The rules that BACKUP.md gives, and `more`."""
    (rules,) = re.findall(r"```sudoers\n(.*?)```", (ROOT / "BACKUP.md").read_text(), re.DOTALL)
    server.path(SUDOERS).write_text("\n".join([*(line.strip() for line in rules.splitlines()), *more, ""]))
    server.path(SUDOERS).chmod(0o440)


def make(server: Server, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return server.run("make", "--no-print-directory", "-C", str(PROJECT), *words, **options)


def writes(server: Server, database: Path) -> int:
    return int(server.python(f"members.count(Path('{database}'), 'outbox')"))


def is_writing(server: Server, database: Path) -> bool:
    before = writes(server, database)
    time.sleep(0.5)
    return writes(server, database) > before


def delete_users(server: Server, database: Path) -> None:
    server.python(
        f"__import__('sqlite3').connect('{database}', isolation_level=None).execute('DELETE FROM users')"
    )


def users(server: Server, database: Path) -> int:
    return int(server.python(f"members.count(Path('{database}'))"))


def main_pid(server: Server) -> str:
    return server.run("systemctl", "show", "-p", "MainPID", "--value", UNIT, user="root").stdout.strip()


def test_a_restore_stops_the_service_and_starts_it_again_by_sudo(server):
    make(server, "backup", "ENV=demo")
    delete_users(server, DEMO)
    before = main_pid(server)
    done = make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
    assert f"stopping {UNIT}" in done.stdout and f"starting {UNIT}" in done.stdout
    assert users(server, DEMO) == 30
    assert server.active(UNIT) and main_pid(server) != before
    assert is_writing(server, DEMO)
    owner = server.path(DEMO).stat()
    assert (owner.st_uid, owner.st_gid) == (server.path(HOME).stat().st_uid, server.path(HOME).stat().st_gid)


def test_the_pre_restore_snapshot_has_what_was_written_last(server):
    make(server, "backup", "ENV=demo")
    sql = "INSERT INTO users VALUES ('the last', 0, 0, x'00')"
    server.python(f"__import__('sqlite3').connect('{DEMO}', isolation_level=None).execute(\"{sql}\")")
    make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
    assert users(server, DEMO) == 30
    undo = server.sh(f"{PROJECT}/bin/dodeka-db-snapshots.py demo | tail -1 | cut -d' ' -f1").strip()
    make(server, "restore", "ENV=demo", f"SNAPSHOT={undo}", "YES=1")
    assert users(server, DEMO) == 31


def test_a_unit_that_systemd_does_not_know(server):
    unit = server.path(f"/etc/systemd/system/{UNIT}.service")
    text = unit.read_text()
    server.run("systemctl", "stop", UNIT, user="root")
    unit.unlink()
    server.run("systemctl", "daemon-reload", user="root")
    try:
        digest = server.python(f"members.digest(Path('{DEMO}'))")
        done = make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
        assert done.returncode == 2
        assert f"error: systemd does not know {UNIT} (it says not-found)" in done.stderr
        assert server.python(f"members.digest(Path('{DEMO}'))") == digest
    finally:
        unit.write_text(text)
        server.run("systemctl", "daemon-reload", user="root")
        server.run("systemctl", "start", UNIT, user="root")


def test_sudo_refused(server):
    server.path(SUDOERS).write_text("")
    try:
        delete_users(server, DEMO)
        before = main_pid(server)
        done = server.run(
            str(PROJECT / "deploy/dodeka-db-restore.sh"), "demo", "--snapshot", "latest", "--yes", check=False
        )
        assert done.returncode == 5
        assert f"error: could not stop {UNIT}: sudo:" in done.stderr and done.stderr.count("\n") == 1
        assert server.active(UNIT) and main_pid(server) == before, "it was not touched"
        assert users(server, DEMO) == 0 and is_writing(server, DEMO)
    finally:
        allow_sudo(server)
        make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")


def test_somebody_outside_systemd_has_the_database_open(server):
    server.run("systemctl", "stop", UNIT, user="root")
    holder = server.sh(
        f"/usr/bin/python3 /home/backend/backend.py {DEMO} > /dev/null 2>&1 & echo $!", user="backend"
    ).strip()
    try:
        time.sleep(0.5)
        done = server.run(
            str(PROJECT / "deploy/dodeka-db-restore.sh"), "demo", "--snapshot", "latest", "--yes", check=False
        )
        assert done.returncode == 3
        assert "is still open in another process" in done.stderr
        assert server.active(UNIT) and is_writing(server, DEMO)
    finally:
        server.run("kill", holder, user="root")


def test_a_service_that_does_not_start_gets_its_old_database_back(server):
    unit = server.path(f"/etc/systemd/system/{UNIT}.service")
    text = unit.read_text()
    make(server, "backup", "ENV=demo")
    delete_users(server, DEMO)
    # it starts with an empty users table only
    check = f"ExecStartPre=/bin/sh -c 'test $$(sqlite3 {DEMO} \"select count(*) from users\") = 0'"
    unit.write_text(
        text.replace("Restart=on-failure", "Restart=no").replace("ExecStart=", f"{check}\nExecStart=")
    )
    server.run("systemctl", "daemon-reload", user="root")
    try:
        done = make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
        assert done.returncode == 2
        assert f"could not start {UNIT}" in done.stderr and "the old database is back" in done.stderr
        assert users(server, DEMO) == 0
        assert server.active(UNIT) and is_writing(server, DEMO)
    finally:
        unit.write_text(text)
        server.run("systemctl", "daemon-reload", user="root")
        make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")


def test_a_database_that_may_not_be_read(server):
    server.run("chown", "root:", str(PRODUCTION), user="root")
    server.run("chmod", "600", str(PRODUCTION), user="root")
    try:
        done = server.run(str(PROJECT / "bin/dodeka-db-backup.py"), "production", check=False)
        assert done.returncode == 3
        assert f"error: database {PRODUCTION} cannot be read: Permission denied" in done.stderr
        assert done.stderr.count("\n") == 1
    finally:
        server.run("chown", "backend:", str(PRODUCTION), user="root")


def test_a_password_file_of_somebody_else(server):
    server.run("chown", "root:", "/mnt/backup/.restic-password", user="root")
    try:
        done = server.run(str(PROJECT / "bin/dodeka-db-backup.py"), "production", check=False)
        assert done.returncode == 6
        assert "password file /mnt/backup/.restic-password cannot be read: Permission denied" in done.stderr
    finally:
        server.run("chown", "backend:", "/mnt/backup/.restic-password", user="root")


def test_root_does_not_write_into_the_repository_of_backend(server):
    done = make(server, "backup", "ENV=production", user="root", check=False)
    assert done.returncode == 2
    assert "/mnt/backup/restic belongs to backend, not to root; run this as backend" in done.stderr


def test_the_backup_volume_is_not_mounted(server):
    server.sh("mv /mnt/backup /mnt/elsewhere && mkdir /mnt/backup && chown backend: /mnt/backup", user="root")
    try:
        done = server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "production", check=False)
        assert done.returncode == 6
        assert (
            "password file /mnt/backup/.restic-password is missing; is the backup volume mounted?"
            in done.stderr
        )
        assert list(server.path("/mnt/backup").iterdir()) == []
    finally:
        server.sh("rmdir /mnt/backup && mv /mnt/elsewhere /mnt/backup", user="root")


class TestInstall:
    @pytest.fixture(autouse=True)
    def _allowed(self, server):
        allow_sudo(server, "backend ALL=(root) NOPASSWD: /usr/bin/install")
        yield
        allow_sudo(server)

    def test_it_says_what_it_does_and_can_be_repeated(self, server):
        server.run("crontab", "-r", check=False)
        first = make(server, "install").stdout
        assert f"crontab: crontab {PROJECT}/deploy/dodeka_crontab" in first
        assert "log folder: mkdir /home/backend/log" in first
        assert "logrotate: sudo install" in first
        assert server.run("crontab", "-l").stdout == (ROOT / "deploy/dodeka_crontab").read_text()
        second = make(server, "install").stdout
        assert second.count("there already") == 3 and second.count("\n") == 3

    def test_a_crontab_with_other_lines_is_not_replaced_unasked(self, server):
        other = "0 4 * * * /usr/bin/true # mine\n"
        server.run("crontab", "-", stdin=other)
        done = make(server, "install", check=False)
        assert done.returncode == 2 and "nothing was changed" in done.stderr
        assert "/usr/bin/true # mine" in done.stdout
        assert server.run("crontab", "-l").stdout == other
        make(server, "install", stdin="yes\n")
        assert server.run("crontab", "-l").stdout == (ROOT / "deploy/dodeka_crontab").read_text()
        kept = server.sh("cat ~/.local/state/dodeka-backup/crontab-*")
        assert "/usr/bin/true # mine" in kept

    def test_logrotate_takes_its_file(self, server):
        log = server.path("/home/backend/log/backup.log")
        log.write_text("old\n")
        server.run("chown", "backend:", "/home/backend/log/backup.log", user="root")
        server.run("/usr/sbin/logrotate", "--force", "/etc/logrotate.d/dodeka-backup", user="root")
        names = sorted(path.name for path in server.path("/home/backend/log").iterdir())
        assert any(name.startswith("backup.log.1") for name in names), names

    def test_it_refuses_elsewhere(self, server):
        server.sh(
            "mkdir -p /tmp/clone && cp -a /home/backend/dodeka/bin /home/backend/dodeka/deploy /tmp/clone"
        )
        server.sh("cp -a /home/backend/dodeka/.venv /tmp/clone/.venv")
        done = server.run("/tmp/clone/bin/dodeka-install.py", check=False)
        assert done.returncode == 6
        assert "but the crontab runs the scripts in /home/backend/dodeka" in done.stderr


class TestCron:
    def test_the_schedule(self):
        fields = {line.split()[-4].strip(): minutes(line) for line in CRON_LINES}
        assert fields == {"production": [0, 12, 24, 36, 48], "demo": [6, 18, 30, 42, 54]}
        for line in CRON_LINES:
            assert line.split()[1:5] == ["*", "*", "*", "*"]
            assert line.endswith(">> /home/backend/log/backup.log 2>&1")

    @pytest.mark.parametrize("line", CRON_LINES, ids=["production", "demo"])
    def test_each_line_under_cron_s_own_environment(self, server, line):
        server.run("crontab", str(PROJECT / "deploy/dodeka_crontab"))
        assert line in server.run("crontab", "-l").stdout.splitlines()
        command = line.split(None, 5)[5]
        log = server.path("/home/backend/log/backup.log")
        log.parent.mkdir(exist_ok=True)
        server.run("chown", "backend:", "/home/backend/log", user="root")
        before = log.read_text() if log.exists() else ""
        server.run(
            *("env", "-i", "HOME=/home/backend", "LOGNAME=backend", "PATH=/usr/bin:/bin", "SHELL=/bin/sh"),
            *("sh", "-c", command),
        )
        written = log.read_text().removeprefix(before).splitlines()
        environment = command.split()[1]
        assert re.search(rf" {environment} done: snapshot [0-9a-f]{{8}}, ", written[-1])

    def test_without_a_home(self, server):
        server.run("env", "-i", "PATH=/usr/bin:/bin", str(PROJECT / "deploy/dodeka-db-cron.sh"), "demo")
        assert server.path("/home/backend/.local/state/dodeka-backup/lock").exists()

    def test_cron_itself_runs_it(self, server):
        """cron knows nothing shorter than a minute: the shipped line, with its minutes made every one."""
        line = "* * * * * " + CRON_LINES[1].split(None, 5)[5]
        server.run("crontab", "-", stdin=line + "\n")
        log = server.path("/home/backend/log/backup.log")
        log.write_text("")
        before = snapshots(server)
        server.sh("touch /etc/environment; setsid /usr/sbin/cron -f > /dev/null 2>&1 & echo", user="root")
        deadline = time.monotonic() + 90
        while " done: snapshot " not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
        server.run("crontab", "-r")
        server.sh("pkill -x cron", user="root")
        assert snapshots(server) == before + 1


def minutes(line: str) -> list[int]:
    field = line.split()[0]
    span, _, step = field.partition("/")
    first, last = (0, 59) if span == "*" else map(int, span.split("-"))
    return list(range(first, last + 1, int(step)))


def snapshots(server: Server) -> int:
    return server.sh(f"{PROJECT}/bin/dodeka-db-snapshots.py demo --json").count('"id"')
