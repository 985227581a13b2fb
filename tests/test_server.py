"""The documented server, whole: real systemd, real units that write, real sudo, cron and logrotate."""

import http.server
import json
import os
import pty
import re
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from cheap_key import reseal
from dodeka_db import installed
from ports import free_port
from server import HOME, PROJECT, ROOT, Server

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)

DEMO = PROJECT / "backend/envs/demo/db.sqlite"
PRODUCTION = PROJECT / "backend/envs/production/db.sqlite"
SUDOERS = Path("/etc/sudoers.d/dodeka")
UNIT = "dodeka-backend-demo"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        server.run("make", "-C", str(PROJECT), "init")
        repository = server.path("/mnt/backup/restic")
        reseal(repository, server.path("/mnt/backup/.restic-password").read_text().strip())
        server.run("chown", "-R", "backend:", "/mnt/backup", user="root")
        allow_sudo(server)
        # the default of five would make every restore that long
        there = "OFFSITE_REPOSITORY=/home/backend/offsite"
        server.sh(f"umask 077; printf '{there}\\nDODEKA_START_WAIT_S=1\\n' > {PROJECT}/deploy/backup.env")
        server.run("make", "-C", str(PROJECT), "init", "OFFSITE=1")
        server.run("systemctl", "start", "dodeka-backend-production", UNIT, user="root")
        server.sh("mkdir /home/backend/log")
        for environment in ("production", "demo"):
            make(server, "backup", f"ENV={environment}")
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


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within three minutes."""
    deadline = time.monotonic() + 180
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_writing(server: Server, database: Path) -> bool:
    before = writes(server, database)
    return wait_until(lambda: writes(server, database) > before)


def delete_users(server: Server, database: Path) -> None:
    server.python(
        f"__import__('sqlite3').connect('{database}', isolation_level=None).execute('DELETE FROM users')"
    )


def users(server: Server, database: Path) -> int:
    return int(server.python(f"members.count(Path('{database}'))"))


class Terminal:
    """A program in there on a terminal of its own, as user backend."""

    def __init__(self, server: Server, *words: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            server.command("setsid", "--ctty", *words), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._shown = ""

    def type(self, line: str) -> None:
        time.sleep(0.2)  # whoever asks drops what was typed before
        os.write(self._master, f"{line}\n".encode())

    def until(self, words: str) -> str:
        """All that was shown since the last call, when `words` are there."""
        deadline = time.monotonic() + 60
        while words not in self._shown:
            assert time.monotonic() < deadline, self._shown
            self._read()
        shown, self._shown = self._shown, ""
        return shown

    def until_end(self) -> str:
        self._process.wait(timeout=60)
        while select.select([self._master], [], [], 0.1)[0] and self._read():
            pass
        assert self._process.returncode == 0, self._shown
        return self._shown

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 1)[0]:
            return False
        try:
            self._shown += os.read(self._master, 10_000).decode()
        except OSError:  # how Linux says that nobody has the terminal open any more
            return False
        return True


def main_pid(server: Server) -> str:
    return server.run("systemctl", "show", "-p", "MainPID", "--value", UNIT, user="root").stdout.strip()


def test_a_restore_stops_the_service_and_starts_it_again_by_sudo(server):
    make(server, "backup", "ENV=demo")
    delete_users(server, DEMO)
    before = main_pid(server)
    done = make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
    assert f"stopping {UNIT}" in done.stdout and f"started {UNIT}, after " in done.stdout
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
    make(server, "undo", "ENV=demo", "YES=1")
    assert users(server, DEMO) == 30


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


def restore_demo(server: Server, **variables: str) -> subprocess.CompletedProcess[str]:
    script = str(PROJECT / "deploy/dodeka-db-restore.sh")
    return server.run(script, "demo", "--snapshot", "latest", "--yes", check=False, **variables)


def files_of_demo(server: Server) -> set[str]:
    return set(os.listdir(server.path(DEMO.parent))) - {"db.sqlite-wal", "db.sqlite-shm"}


@contextmanager
def unit_changed(server: Server, *changes: tuple[str, str]) -> Iterator[None]:
    """The unit of demo with other lines, and demo itself with a snapshot of 30 users, of which it then has none."""
    make(server, "backup", "ENV=demo")
    delete_users(server, DEMO)
    unit = server.path(f"/etc/systemd/system/{UNIT}.service")
    text = changed = unit.read_text()
    for old, new in changes:
        assert old in changed
        changed = changed.replace(old, new)
    unit.write_text(changed)
    server.run("systemctl", "daemon-reload", user="root")
    try:
        yield
    finally:
        unit.write_text(text)
        server.run("systemctl", "daemon-reload", user="root")
        server.run("systemctl", "kill", "--signal=9", UNIT, user="root", check=False)
        server.run("systemctl", "reset-failed", UNIT, user="root", check=False)
        make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
        assert users(server, DEMO) == 30


@pytest.mark.parametrize("allowed", ["", "backend ALL=(root) NOPASSWD: /usr/bin/systemctl stop " + UNIT])
def test_sudo_refused_before_anything_happens(server, allowed):
    server.path(SUDOERS).write_text(f"{allowed}\n")
    try:
        before = main_pid(server)
        done = restore_demo(server)
        assert done.returncode == 5
        assert f"error: sudo does not let us stop and start {UNIT}: " in done.stderr
        assert "'Set up a server', step 4; nothing was changed" in done.stderr
        assert done.stderr.count("\n") == 1 and "downloading" not in done.stdout
        assert server.active(UNIT) and main_pid(server) == before, "it was not touched"
        assert is_writing(server, DEMO)
    finally:
        allow_sudo(server)


def test_sudo_asks_for_its_password_before_anything_happens(server):
    """On a terminal, typed as a person would: each answer when its question is there."""
    server.path(SUDOERS).write_text("backend ALL=(ALL) ALL\n")
    server.run("chpasswd", user="root", stdin="backend:secret word\n")
    before = main_pid(server)
    try:
        terminal = Terminal(server, str(PROJECT / "bin/dodeka-db-restore.py"), "demo", "--snapshot", "latest")
        shown = terminal.until("password")
        assert "downloading" not in shown and main_pid(server) == before
        terminal.type("secret word")
        assert "downloading" in terminal.until("Type 'yes' to go on:")
        assert main_pid(server) == before
        terminal.type("yes")
        assert "done: demo has the data of snapshot" in terminal.until_end()
        assert server.active(UNIT) and main_pid(server) != before
    finally:
        allow_sudo(server)


def test_somebody_outside_systemd_has_the_database_open(server):
    holder = server.sh(
        f"/usr/bin/python3 /home/backend/backend.py {DEMO} > /dev/null 2>&1 & echo $!", user="backend"
    ).strip()
    try:
        time.sleep(0.5)
        done = restore_demo(server)
        assert done.returncode == 3
        assert f"database {DEMO} is still open in python3 (process {holder}); end that" in done.stderr
        assert is_writing(server, DEMO) and server.active(UNIT)
        assert files_of_demo(server) == {"db.sqlite"}
    finally:
        server.run("kill", holder, user="root")


def test_a_connection_of_another_user_that_has_read(server):
    """Its files cannot be looked through; SQLite's own locks tell."""
    code = f"import sqlite3, time; c = sqlite3.connect('{DEMO}'); c.execute('select * from users').fetchone(); time.sleep(99)"
    holder = server.sh(f'/usr/bin/python3 -c "{code}" > /dev/null 2>&1 & echo $!', user="root").strip()
    try:
        time.sleep(0.5)
        done = restore_demo(server)
        assert done.returncode == 3
        assert f"database {DEMO} is still open in another process; find it with: sudo fuser -v" in done.stderr
        assert is_writing(server, DEMO) and server.active(UNIT)
        assert files_of_demo(server) == {"db.sqlite"}
    finally:
        server.run("kill", holder, user="root")


def test_a_process_that_outlives_its_unit(server):
    """The unit ends its main process only, and the one that writes is another."""
    worker = "KillMode=process\nExecStart=/bin/sh -c '/usr/bin/python3"
    with unit_changed(server, ("ExecStart=/usr/bin/python3", worker), (f"{DEMO}\n", f"{DEMO} & wait'\n")):
        server.run("systemctl", "restart", UNIT, user="root")

        def workers() -> list[str]:
            found = server.run("pgrep", "-f", f"^/usr/bin/python3.*{DEMO}", check=False)
            return found.stdout.split()

        assert wait_until(lambda: len(workers()) >= 1)
        (before,) = workers()
        done = restore_demo(server)
        is_started_again = wait_until(lambda: len(workers()) == 2 and server.active(UNIT))
        server.run("kill", *workers())
        assert done.returncode == 3, done
        assert f"python3 (process {before})" in done.stderr
        assert f"database {DEMO} is still open in " in done.stderr and done.stderr.count("\n") == 1
        assert is_started_again
        assert users(server, DEMO) == 0
        assert files_of_demo(server) == {"db.sqlite"}


def test_a_process_that_has_to_be_killed(server):
    stubborn = 'TimeoutStopSec=1\nExecStart=/bin/sh -c \'trap "" TERM; exec /usr/bin/python3'
    with unit_changed(server, ("ExecStart=/usr/bin/python3", stubborn), (f"{DEMO}\n", f"{DEMO}'\n")):
        server.run("systemctl", "restart", UNIT, user="root")
        done = restore_demo(server)
        assert (done.returncode, done.stderr) == (0, "")
        assert users(server, DEMO) == 30 and is_writing(server, DEMO)


def test_a_unit_that_takes_for_ever_to_stop(server):
    patient = 'TimeoutStopSec=infinity\nExecStart=/bin/sh -c \'trap "" TERM; exec /usr/bin/python3'
    with unit_changed(server, ("ExecStart=/usr/bin/python3", patient), (f"{DEMO}\n", f"{DEMO}'\n")):
        server.run("systemctl", "restart", UNIT, user="root")
        # the whole restore, but that it waits for seconds where it would wait for two minutes
        code = (
            f"import runpy, sys; sys.path.insert(0, '{PROJECT}/bin'); from dodeka_db import command, service;"
            "service.PATIENCE_S = 5; command.PATIENCE_S = 1;"
            f"sys.argv = ['{PROJECT}/bin/dodeka-db-restore.py', 'demo', '--snapshot', 'latest', '--yes'];"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        done = server.run(str(PROJECT / ".venv/bin/python"), "-c", code, check=False)
        assert done.returncode == 5
        assert f"could not stop {UNIT} within 5 s" in done.stderr and done.stderr.count("\n") == 1
        assert users(server, DEMO) == 0 and files_of_demo(server) == {"db.sqlite"}


def test_a_service_that_cannot_be_started_gets_its_old_database_back(server):
    # it starts with an empty users table only
    check = f"ExecStartPre=/bin/sh -c 'test $$(sqlite3 {DEMO} \"select count(*) from users\") = 0'"
    with unit_changed(server, ("Restart=on-failure", "Restart=no"), ("ExecStart=", f"{check}\nExecStart=")):
        done = restore_demo(server)
        assert done.returncode == 5
        assert f"could not start {UNIT}" in done.stderr and done.stderr.count("\n") == 1
        assert "the old database is back, and it runs with that" in done.stderr
        assert users(server, DEMO) == 0
        assert is_writing(server, DEMO) and server.active(UNIT)
        assert files_of_demo(server) == {"db.sqlite"}


@pytest.mark.parametrize("restart", ["no", "on-failure"])
def test_a_service_that_comes_up_and_then_fails_gets_its_old_database_back(server, restart):
    fails = (
        "import sqlite3, time, runpy; from sys import argv; time.sleep(0.3);"
        "n = sqlite3.connect(argv[1]).execute('select count(*) from users').fetchone()[0];"
        "n and exit(1); runpy.run_path('/home/backend/backend.py')"
    )
    with unit_changed(
        server,
        ("/home/backend/backend.py", f'-c "{fails}"'),
        ("Restart=on-failure\nRestartSec=1", f"Restart={restart}"),
    ):
        done = restore_demo(server, DODEKA_START_WAIT_S="10")
        assert done.returncode == 5
        assert f"{UNIT} does not stay up" in done.stderr and done.stderr.count("\n") == 1
        assert "the old database is back, and it runs with that" in done.stderr
        assert users(server, DEMO) == 0
        assert is_writing(server, DEMO) and server.active(UNIT)
        assert files_of_demo(server) == {"db.sqlite"}


def test_a_service_that_comes_up_with_neither_is_said_to_be_down(server):
    with unit_changed(
        server, ("/home/backend/backend.py", "-c exit(1)"), ("Restart=on-failure", "Restart=no")
    ):
        done = restore_demo(server, DODEKA_START_WAIT_S="10")
        assert done.returncode == 5
        assert "the old database is back, and with that" in done.stderr and "IT IS DOWN" in done.stderr
        assert done.stderr.count("\n") == 1
        assert users(server, DEMO) == 0
        assert files_of_demo(server) == {"db.sqlite"}


class TestHealth:
    """An address on loopback that answers as the test wants it; DODEKA_HEALTH_URL_DEMO names it."""

    @pytest.fixture
    def health(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(self.server.answer())
                self.end_headers()

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()

    def variables(self, health, wait_s: int) -> dict[str, str]:
        return {
            "DODEKA_HEALTH_URL_DEMO": f"http://127.0.0.1:{health.server_port}/health",
            "DODEKA_START_WAIT_S": str(wait_s),
        }

    def test_it_answers_after_a_while(self, server, health):
        began = time.monotonic()
        answers = iter([500, 500])
        health.answer = lambda: next(answers, 204)
        done = restore_demo(server, **self.variables(health, 60))
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - began < 30, "nobody waits on when it has answered"
        assert next(answers, None) is None

    def test_it_does_not_answer_with_the_new_data(self, server, health):
        with unit_changed(server):
            old = server.path(DEMO).stat().st_ino
            health.answer = lambda: 200 if server.path(DEMO).stat().st_ino == old else 503
            done = restore_demo(server, **self.variables(health, 1))
            assert done.returncode == 5
            assert f"{UNIT} does not answer at its health address within 1 s (HTTP 503)" in done.stderr
            assert "the old database is back, and it runs with that" in done.stderr
            assert users(server, DEMO) == 0 and server.active(UNIT)

    def test_nobody_is_there(self, server, health):
        with unit_changed(server):
            variables = self.variables(health, 1)
            variables["DODEKA_HEALTH_URL_DEMO"] = f"http://127.0.0.1:{free_port()}/health"
            done = restore_demo(server, **variables)
            assert done.returncode == 5
            assert (
                "does not answer at its health address within 1 s ([Errno 111] Connection refused)"
                in done.stderr
            )
            assert "the old database is back, and with that" in done.stderr
            assert "DOWN" not in done.stderr and "127.0.0.1" not in done.stderr
            assert users(server, DEMO) == 0


def test_a_run_that_was_killed_while_the_service_is_down(server):
    """The service stays stopped until another environment's cron run."""
    script = f"{PROJECT}/bin/dodeka-db-restore.py demo --snapshot latest --yes"
    make(server, "backup", "ENV=demo")
    killed = server.run(
        *("strace", "-o/dev/null", "--inject=rename:signal=KILL", *script.split()),
        check=False,
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert killed.returncode == -9 or killed.returncode == 137
    assert not server.active(UNIT)
    assert len(files_of_demo(server)) == 3, "staged and kept"
    output = server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "production").stdout
    assert f"warning: a restore left {UNIT} stopped: starting it" in output
    assert is_writing(server, DEMO) and server.active(UNIT)
    assert files_of_demo(server) == {"db.sqlite"}


def test_a_database_that_may_not_be_written(server):
    server.run("chmod", "400", str(DEMO))
    try:
        before = main_pid(server)
        done = restore_demo(server)
        assert done.returncode == 3
        assert f"error: database {DEMO} cannot be written; run this as" in done.stderr
        assert main_pid(server) == before
        assert files_of_demo(server) == {"db.sqlite"}
    finally:
        server.run("chmod", "600", str(DEMO))


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
        server.sh("rm -r /home/backend/log")
        server.sh("rm -f /etc/logrotate.d/dodeka-backup", user="root")
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
        make(server, "install", stdin="yes\n")
        server.sh("echo old > /home/backend/log/backup.log")
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


# the last line of the log that each of the shipped lines leaves
ENDS = {
    "cron.sh production": r"production done: snapshot [0-9a-f]{8}, .* old snapshots removed, [\d.]+ s",
    "cron.sh demo": r"demo done: snapshot [0-9a-f]{8}, .* old snapshots removed, [\d.]+ s",
    "offsite.py": r"both done: \d+ snapshots copied, .* read back, \d+ old ones removed, [\d.]+ s",
    "verify.py production": r"production done: snapshot [0-9a-f]{8} \(zst\) of .* is a whole database, [\d.]+ s",
    "check.py": r"both done: no errors, [\d.]+ s",
}
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"


class TestCron:
    def test_every_line_appends_to_the_log(self):
        assert len(installed.jobs()) == len(ENDS)
        for line in installed.jobs():
            assert line.endswith(" >> /home/backend/log/backup.log 2>&1")

    @pytest.mark.parametrize("job", ENDS)
    def test_each_line_under_cron_s_own_environment(self, server, job):
        server.run("crontab", str(PROJECT / "deploy/dodeka_crontab"))
        (line,) = [line for line in installed.jobs() if f"dodeka-db-{job} >>" in line]
        assert line in server.run("crontab", "-l").stdout.splitlines()
        command = line.split(None, 5)[5]
        log = server.path("/home/backend/log/backup.log")
        before = log.read_text() if log.exists() else ""
        server.run(
            *("env", "-i", "HOME=/home/backend", "LOGNAME=backend", "PATH=/usr/bin:/bin", "SHELL=/bin/sh"),
            *("sh", "-c", command),
        )
        written = log.read_text().removeprefix(before).splitlines()
        assert re.fullmatch(f"{STAMP} {ENDS[job]}", written[-1])

    def test_without_a_home(self, server):
        server.run("env", "-i", "PATH=/usr/bin:/bin", str(PROJECT / "deploy/dodeka-db-cron.sh"), "demo")
        assert server.path("/home/backend/.local/state/dodeka-backup/lock").exists()

    def test_cron_itself_runs_them_all(self, server):
        """cron knows nothing shorter than a minute: the shipped lines, with their times made every minute.

        So all five start at once, and wait for each other.
        """
        lines = ["* * * * * " + line.split(None, 5)[5] for line in installed.jobs()]
        log = server.path("/home/backend/log/backup.log")
        server.sh("true > /home/backend/log/backup.log")
        # a run that finds its next one due a minute later would not wait for the four others for longer
        assert wait_until(lambda: (datetime.now().minute + 1) % 6 != 5)
        before = {name: snapshots(server, name) for name in ("production", "demo")}
        server.run("crontab", "-", stdin="\n".join(lines) + "\n")
        server.sh("touch /etc/environment; setsid /usr/sbin/cron -f > /dev/null 2>&1 & echo", user="root")
        try:
            assert wait_until(lambda: log.stat().st_size > 0), "cron has started nothing"
        finally:
            server.run("crontab", "-r")  # once is enough
            ended = [wait_until(lambda end=end: re.search(end, log.read_text())) for end in ENDS.values()]
            server.sh("pkill -x cron", user="root")
        assert all(ended), log.read_text()
        written = log.read_text().splitlines()
        for line in written:
            assert re.match(f"{STAMP} (production|demo|both) ", line), line
        assert not [line for line in written if " error: " in line or "Traceback" in line]
        assert any("waiting up to" in line and "for another run: " in line for line in written)
        for name in ("production", "demo"):
            stored = re.findall(rf" {name} done: snapshot ([0-9a-f]{{8}}), ", log.read_text())
            assert stored and set(stored) <= snapshots(server, name) - before[name]


def snapshots(server: Server, environment: str) -> set[str]:
    listed = json.loads(server.run(f"{PROJECT}/bin/dodeka-db-snapshots.py", environment, "--json").stdout)
    return {entry["short_id"] for entry in listed}
