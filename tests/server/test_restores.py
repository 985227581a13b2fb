"""The documented server, whole: real systemd, real units that write, real sudo, cron and logrotate."""

import http.server
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from dodeka_db.host import installed
from free_ports import free_port
from site_folder import Twin
from terminal import Terminal
from whole_server import HOME, PROJECT, ROOT, Server

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)

DEMO = PROJECT / "backend/envs/demo/db.sqlite"
PRODUCTION = PROJECT / "backend/envs/production/db.sqlite"
SUDOERS = Path("/etc/sudoers.d/dodeka")
UNIT = "dodeka-backend-demo"
MARK = "db.sqlite.stopped"


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_twin):
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        server.put_repositories(Twin(empty_twin))
        allow_sudo(server)
        # the default of five would make every restore that long
        there = "OFFSITE_REPOSITORY=/home/backend/offsite"
        server.sh(f"umask 077; printf '{there}\\nDODEKA_START_WAIT_S=1\\n' > {PROJECT}/deploy/backup.env")
        server.run("systemctl", "start", "dodeka-backend-production", UNIT, user="root")
        server.sh("mkdir /home/backend/log")
        for environment in ("production", "demo"):
            make(server, "backup", f"ENV={environment}")
        yield server
    finally:
        server.stop()


def allow_sudo(server: Server, *more: str) -> None:
    """The shipped rules, and `more`."""
    server.path(SUDOERS).write_text("\n".join([installed.ONE_USER.sudoers, *more, ""]))
    server.path(SUDOERS).chmod(0o440)


def make(server: Server, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return server.run("make", "--no-print-directory", "-C", str(PROJECT), *words, **options)


def writes(server: Server, database: Path) -> int:
    return int(server.python(f"sample_data.count(Path('{database}'), 'outbox')"))


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
        f"__import__('sqlite3').connect('{database}', isolation_level=None).execute('DELETE FROM users_by_email')"
    )


def users(server: Server, database: Path) -> int:
    return int(server.python(f"sample_data.count(Path('{database}'))"))


def on_a_terminal(server: Server, *words: str) -> Terminal:
    """A program in there on a terminal of its own, as user backend."""
    return Terminal(server.command("setsid", "--ctty", *words))


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
    sql = "INSERT INTO users_by_email VALUES ('the last', 0, 0, x'00')"
    server.python(f"__import__('sqlite3').connect('{DEMO}', isolation_level=None).execute(\"{sql}\")")
    make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
    assert users(server, DEMO) == 30
    undo = server.sh(
        f"{PROJECT}/bin/dodeka-db-snapshots.py demo | grep pre-restore: | tail -1 | cut -d' ' -f1"
    ).strip()
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
        digest = server.python(f"sample_data.digest(Path('{DEMO}'))")
        done = make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
        assert done.returncode == 2
        assert f"error: systemd does not know {UNIT} (LoadState: not-found)" in done.stderr
        assert server.python(f"sample_data.digest(Path('{DEMO}'))") == digest
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
        server.run("systemctl", "start", UNIT, user="root")
        assert users(server, DEMO) == 30


@pytest.mark.parametrize("allowed", ["", "backend ALL=(root) NOPASSWD: /usr/bin/systemctl stop " + UNIT])
def test_sudo_refused_before_anything_happens(server, allowed):
    server.path(SUDOERS).write_text(f"{allowed}\n")
    try:
        before = main_pid(server)
        done = restore_demo(server)
        assert done.returncode == 5
        assert f"error: sudo does not allow this user to stop and start {UNIT}: " in done.stderr
        assert "'Set up a server'; nothing was changed" in done.stderr
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
        terminal = on_a_terminal(
            server, str(PROJECT / "bin/dodeka-db-restore.py"), "demo", "--snapshot", "latest"
        )
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
    code = f"import sqlite3, time; c = sqlite3.connect('{DEMO}'); c.execute('select * from users_by_email').fetchone(); time.sleep(99)"
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


@pytest.mark.slow("one more state of a unit")
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


@pytest.mark.slow("one more state of a unit")
def test_a_process_that_has_to_be_killed(server):
    stubborn = 'TimeoutStopSec=1\nExecStart=/bin/sh -c \'trap "" TERM; exec /usr/bin/python3'
    with unit_changed(server, ("ExecStart=/usr/bin/python3", stubborn), (f"{DEMO}\n", f"{DEMO}'\n")):
        server.run("systemctl", "restart", UNIT, user="root")
        done = restore_demo(server)
        assert (done.returncode, done.stderr) == (0, "")
        assert users(server, DEMO) == 30 and is_writing(server, DEMO)


@pytest.mark.slow("half a minute")
def test_a_unit_that_takes_for_ever_to_stop(server):
    patient = 'TimeoutStopSec=infinity\nExecStart=/bin/sh -c \'trap "" TERM; exec /usr/bin/python3'
    with unit_changed(server, ("ExecStart=/usr/bin/python3", patient), (f"{DEMO}\n", f"{DEMO}'\n")):
        server.run("systemctl", "restart", UNIT, user="root")
        # the whole restore, but that it waits for seconds where it would wait for two minutes
        code = (
            f"import runpy, sys; sys.path.insert(0, '{PROJECT}/bin'); from dodeka_db.host import programs, service;"
            "service.PATIENCE_S = 5; programs.PATIENCE_S = 1;"
            f"sys.argv = ['{PROJECT}/bin/dodeka-db-restore.py', 'demo', '--snapshot', 'latest', '--yes'];"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        done = server.run(str(PROJECT / ".venv/bin/python"), "-c", code, check=False)
        assert done.returncode == 5
        assert f"could not stop {UNIT} within 5 s" in done.stderr and done.stderr.count("\n") == 1
        assert users(server, DEMO) == 0 and files_of_demo(server) == {"db.sqlite", MARK}, (
            "it is to be started"
        )


def test_a_service_that_cannot_be_started_gets_its_old_database_back(server):
    # it starts with an empty users table only
    check = f"ExecStartPre=/bin/sh -c 'test $$(sqlite3 {DEMO} \"select count(*) from users_by_email\") = 0'"
    with unit_changed(server, ("Restart=on-failure", "Restart=no"), ("ExecStart=", f"{check}\nExecStart=")):
        done = restore_demo(server)
        assert done.returncode == 5
        assert f"could not start {UNIT}" in done.stderr and done.stderr.count("\n") == 1
        assert "the old database is back, and the service runs with it" in done.stderr
        assert users(server, DEMO) == 0
        assert is_writing(server, DEMO) and server.active(UNIT)
        assert files_of_demo(server) == {"db.sqlite"}


@pytest.mark.slow("each Restart=", keep=["on-failure"])
@pytest.mark.parametrize("restart", ["no", "on-failure"])
def test_a_service_that_comes_up_and_then_fails_gets_its_old_database_back(server, restart):
    fails = (
        "import sqlite3, time, runpy; from sys import argv; time.sleep(0.3);"
        "n = sqlite3.connect(argv[1]).execute('select count(*) from users_by_email').fetchone()[0];"
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
        assert "the old database is back, and the service runs with it" in done.stderr
        assert users(server, DEMO) == 0
        assert is_writing(server, DEMO) and server.active(UNIT)
        assert files_of_demo(server) == {"db.sqlite"}


@pytest.mark.slow("one more way to fail")
def test_a_service_that_comes_up_with_neither_is_said_to_be_down(server):
    with unit_changed(
        server, ("/home/backend/backend.py", "-c exit(1)"), ("Restart=on-failure", "Restart=no")
    ):
        done = restore_demo(server, DODEKA_START_WAIT_S="10")
        assert done.returncode == 5
        assert "the old database is back, but with that too" in done.stderr and done.stderr.count("\n") == 1
        assert (
            f"the data is not the cause: IT IS DOWN; to start it: sudo systemctl start {UNIT}" in done.stderr
        )
        assert users(server, DEMO) == 0
        assert files_of_demo(server) == {"db.sqlite", MARK}


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
            assert "the old database is back, and the service runs with it" in done.stderr
            assert users(server, DEMO) == 0 and server.active(UNIT)

    @pytest.mark.slow("one more answer")
    def test_nobody_was_there_before_either(self, server):
        """The address is wrong: the new database runs, and stays."""
        with unit_changed(server):
            done = restore_demo(
                server,
                DODEKA_START_WAIT_S="1",
                DODEKA_HEALTH_URL_DEMO=f"http://127.0.0.1:{free_port()}/health",
            )
            assert done.returncode == 5
            refused = "does not answer at its health address within 1 s ([Errno 111] Connection refused)"
            assert f"{refused}; it did not answer before either, so the new database stays" in done.stderr
            assert re.search(
                r"; the replaced database is snapshot [0-9a-f]{8}, tagged pre-restore", done.stderr
            )
            assert "DOWN" not in done.stderr and "127.0.0.1" not in done.stderr
            assert users(server, DEMO) == 30 and server.active(UNIT)
            assert files_of_demo(server) == {"db.sqlite"}
            make(server, "undo", "ENV=demo", "YES=1")
            assert users(server, DEMO) == 0

    def test_what_was_written_while_it_was_watched_is_not_lost_when_the_old_database_is_put_back(
        self, server, health
    ):
        with unit_changed(server):
            old = server.path(DEMO).stat().st_ino
            written = []

            def answer() -> int:
                if server.path(DEMO).stat().st_ino == old:
                    return 200
                if not written:
                    written.append("registered while it was watched")
                    sql = f"INSERT INTO registrations VALUES ('{written[0]}', 0, 0, x'00')"
                    server.run("sqlite3", "-cmd", ".timeout 5000", str(DEMO), sql)
                return 503

            health.answer = answer
            done = restore_demo(server, **self.variables(health, 1))
            assert done.returncode == 5 and written
            (saved,) = re.findall(
                "the new database, with what was written to it, is snapshot ([0-9a-f]{8}), tagged pre-restore",
                done.stderr,
            )
            assert users(server, DEMO) == 0 and files_of_demo(server) == {"db.sqlite"}
            assert registered(server) == []
            health.answer = lambda: 200
            undo = f"{PROJECT}/deploy/dodeka-db-restore.sh demo --snapshot {saved} --yes"
            server.sh(undo)
            assert registered(server) == written and users(server, DEMO) == 30

    @pytest.mark.slow("one more answer")
    def test_the_old_database_does_not_answer_either(self, server, health):
        with unit_changed(server):
            answers = iter([200])
            health.answer = lambda: next(answers, 503)
            done = restore_demo(server, **self.variables(health, 1))
            assert done.returncode == 5
            assert "the old database is back, but with that too" in done.stderr
            assert "(HTTP 503): the data is not the cause" in done.stderr and "DOWN" not in done.stderr


def registered(server: Server) -> list[str]:
    sql = "SELECT key FROM registrations WHERE key GLOB 'registered while*'"
    return server.run("sqlite3", "-cmd", ".timeout 5000", str(DEMO), sql).stdout.split("\n")[:-1]


def damage_demo(server: Server) -> None:
    """The service is down, and its database is garbage."""
    server.run("systemctl", "stop", UNIT, user="root")
    for name in files_of_demo(server) | {"db.sqlite-wal", "db.sqlite-shm"}:
        server.path(DEMO.parent / name).unlink(missing_ok=True)
    server.path(DEMO).write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    server.run("chown", "backend:", str(DEMO), user="root")


@contextmanager
def referenced(server: Server) -> Iterator[None]:
    """The unit is wanted by another one, as at boot, so that systemd does not forget its start limit when it is stopped."""
    drop_in = server.path("/etc/systemd/system/dodeka-test.target.d/wants.conf")
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(f"[Unit]\nWants={UNIT}.service\n")
    server.run("systemctl", "daemon-reload", user="root")
    try:
        yield
    finally:
        drop_in.unlink()
        server.run("systemctl", "daemon-reload", user="root")


class TestADamagedDatabaseIsNotPutBack:
    @pytest.fixture(autouse=True)
    def _clean(self, server):
        yield
        for path in server.path(DEMO.parent).glob("db.sqlite.damaged-*"):
            path.unlink()

    @pytest.mark.slow("one more answer")
    def test_over_one_that_does_not_answer(self, server):
        with unit_changed(server):
            server.run("systemctl", "start", UNIT, user="root")
            damage_demo(server)
            server.run("systemctl", "start", UNIT, user="root")
            health = f"http://127.0.0.1:{free_port()}/health"
            done = restore_demo(server, DODEKA_START_WAIT_S="1", DODEKA_HEALTH_URL_DEMO=health)
            assert done.returncode == 5 and "so the new" in done.stderr
            (damaged,) = server.path(DEMO.parent).glob("db.sqlite.damaged-*Z")
            kept = f"the replaced database is damaged, and kept as it was: {DEMO.with_name(damaged.name)}"
            assert kept in done.stderr
            assert users(server, DEMO) == 30 and server.active(UNIT) and is_writing(server, DEMO)

    @pytest.mark.slow("each right", keep=["False"])
    @pytest.mark.parametrize("may_reset", [True, False])
    def test_over_one_whose_unit_is_at_its_start_limit(self, server, may_reset):
        """It could not run with the garbage, again and again."""
        limit = ("StartLimitIntervalSec=0", "StartLimitIntervalSec=600\nStartLimitBurst=3")
        with referenced(server), unit_changed(server, limit, ("RestartSec=1", "RestartSec=0.1")):
            damage_demo(server)
            server.run("systemctl", "start", UNIT, user="root")
            assert wait_until(lambda: condition(server) == "failed")
            if not may_reset:
                rules = "\n".join(
                    f"backend ALL=(root) NOPASSWD: /usr/bin/systemctl {verb} {UNIT}"
                    for verb in ("stop", "start")
                )
                server.path(SUDOERS).write_text(f"{rules}\n")
            try:
                done = restore_demo(server)
            finally:
                allow_sudo(server)
            assert users(server, DEMO) == 30, "the garbage stays out"
            if may_reset:
                assert (done.returncode, done.stderr) == (0, "")
                assert f"{UNIT} had reached its start limit: ran systemctl reset-failed" in done.stdout
                assert is_writing(server, DEMO)
            else:
                assert done.returncode == 5
                assert f"sudo systemctl reset-failed {UNIT}" in done.stderr
                assert f": IT IS DOWN; to start it: sudo systemctl start {UNIT}" in done.stderr
                server.run("systemctl", "reset-failed", UNIT, user="root")
                server.run("systemctl", "start", UNIT, user="root")
                assert is_writing(server, DEMO)
                # and nothing is owed to it any more
                server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production")
                assert not [name for name in files_of_demo(server) if name == MARK]


def condition(server: Server) -> str:
    return server.run("systemctl", "is-active", UNIT, user="root", check=False).stdout.strip()


class TestAsItWasFound:
    """A unit that somebody has stopped stays stopped, whatever becomes of the restore."""

    @pytest.fixture(autouse=True)
    def _stopped(self, server):
        make(server, "backup", "ENV=demo")
        server.run("systemctl", "stop", UNIT, user="root")
        yield
        server.run("systemctl", "start", UNIT, user="root")

    def test_after_a_restore_and_an_undo(self, server):
        for done in (restore_demo(server), make(server, "undo", "ENV=demo", "YES=1")):
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.endswith(f"; {UNIT} was stopped before, and stays stopped\n")
            assert condition(server) == "inactive"
            assert files_of_demo(server) == {"db.sqlite"}

    @pytest.mark.slow("one more state of a unit")
    def test_after_a_refused_restore(self, server):
        holder = server.sh(
            f"/usr/bin/python3 /home/backend/backend.py {DEMO} > /dev/null 2>&1 & echo $!"
        ).strip()
        time.sleep(0.5)
        done = restore_demo(server)
        server.run("kill", holder, user="root")
        assert done.returncode == 3
        assert f"{UNIT} was stopped before, and stays stopped; end that" in done.stderr
        assert condition(server) == "inactive" and files_of_demo(server) == {"db.sqlite"}

    def test_after_one_that_was_killed(self, server):
        killed_restore(server)
        server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "demo")
        assert condition(server) == "inactive" and files_of_demo(server) == {"db.sqlite"}

    @pytest.mark.slow("one more state of a unit")
    def test_a_unit_that_had_failed_is_started(self, server):
        """Nobody has wanted that, and it may be what the restore is for."""
        server.run("systemctl", "start", UNIT, user="root")
        with unit_changed(server, ("Restart=on-failure", "Restart=no")):
            server.run("kill", "-KILL", main_pid(server), user="root")
            assert wait_until(lambda: condition(server) == "failed")
            assert restore_demo(server).returncode == 0
            assert is_writing(server, DEMO)


def killed_restore(server: Server) -> None:
    """A restore of demo that ended without a word while its service was stopped: at the rename of the database.

    Records in the state folder are renamed before that, and by Python the modules that it compiles.
    """
    script = f"{PROJECT}/bin/dodeka-db-restore.py demo --snapshot latest --yes"
    for number in range(1, 6):
        words = ("strace", "-o/dev/null", f"--inject=rename:signal=KILL:when={number}", *script.split())
        killed = server.run(*words, check=False, PYTHONDONTWRITEBYTECODE="1")
        assert killed.returncode in (-9, 137)
        if (
            len(files_of_demo(server)) > 1
        ):  # staged and kept; and the mark, if the unit is to be started again
            break
    assert condition(server) != "active" and len(files_of_demo(server)) > 2


class TestRecovery:
    @pytest.mark.slow("one more run that recovers")
    def test_a_service_that_does_not_come_up_fails_each_run_until_it_does(self, server):
        fails = ("/home/backend/backend.py", "/home/backend/broken.py")
        server.path(HOME / "broken.py").write_text("import time; time.sleep(0.3); exit(1)")
        with unit_changed(server, ("Restart=on-failure", "Restart=no"), fails):
            killed_restore(server)
            for script in ("cron", "cron", "backup"):
                done = server.run(str(PROJECT / f"deploy/dodeka-db-{script}.sh"), "production", check=False)
                assert done.returncode == 5 and done.stderr.count("\n") == 1
                said = f"a restore left {UNIT} stopped, and it does not come up: {UNIT} does not stay up"
                assert f" is safe, but {said}" in done.stderr and "IT IS DOWN" in done.stderr
                assert f"sudo systemctl start {UNIT}" in done.stderr
                stored = re.findall(r"error: snapshot ([0-9a-f]{8}) is safe", done.stderr)
                assert stored and stored[0] in snapshots(server, "production"), "the backup itself is made"
            assert "does not come up" in make(server, "status", check=False).stdout
            server.path(HOME / "broken.py").write_text(server.path(HOME / "backend.py").read_text())
            output = server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "production").stdout
            assert f"a restore left {UNIT} stopped: starting it" in output
            assert is_writing(server, DEMO) and files_of_demo(server) == {"db.sqlite"}

    def test_a_service_that_somebody_else_has_started_is_owed_nothing(self, server):
        killed_restore(server)
        server.run("systemctl", "start", UNIT, user="root")
        output = server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "production").stdout
        assert "starting it" not in output and files_of_demo(server) == {"db.sqlite"}
        assert is_writing(server, DEMO)

    @pytest.mark.slow("one more state of a unit")
    def test_nor_is_one_that_was_stopped_again_on_purpose(self, server):
        with referenced(server):
            killed_restore(server)
            server.run("systemctl", "start", UNIT, user="root")
            server.run("systemctl", "stop", UNIT, user="root")
            server.run(str(PROJECT / "deploy/dodeka-db-cron.sh"), "production")
            assert condition(server) == "inactive" and files_of_demo(server) == {"db.sqlite"}
            server.run("systemctl", "start", UNIT, user="root")

    @pytest.mark.slow("one more run that recovers")
    def test_a_restore_starts_what_an_earlier_one_has_left_stopped(self, server):
        """The database is gone too, so that recovery could not start it."""
        make(server, "backup", "ENV=demo")
        killed_restore(server)
        server.path(DEMO).unlink()
        done = server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production", check=False)
        assert done.returncode == 5
        assert (
            f"a restore left {UNIT} stopped, and {DEMO} is missing: IT IS DOWN; run the restore again"
            in done.stderr
        )
        done = restore_demo(server)
        assert (done.returncode, done.stderr) == (0, "")
        assert is_writing(server, DEMO) and files_of_demo(server) == {"db.sqlite"}

    def test_by_a_run_with_another_state_folder(self, server):
        """The mark stands beside the database."""
        killed_restore(server)
        server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production", DODEKA_STATE="/tmp/another")
        assert is_writing(server, DEMO) and files_of_demo(server) == {"db.sqlite"}


class TestNobodyKeepsTheOldFile:
    """Something else starts the unit while it is stopped: another unit that upholds it."""

    @pytest.fixture
    def upheld(self, server):
        drop_in = server.path("/etc/systemd/system/dodeka-test.target.d/upholds.conf")
        drop_in.parent.mkdir(exist_ok=True)
        with unit_changed(server):
            drop_in.write_text(f"[Unit]\nUpholds={UNIT}.service\n")
            server.run("systemctl", "daemon-reload", user="root")
            yield
            drop_in.unlink()
            server.run("systemctl", "daemon-reload", user="root")

    @pytest.mark.slow("each moment", keep=["rename"])
    @pytest.mark.parametrize("slow", ["fsync", "rename", "nothing"])
    def test_it_ends_up_on_the_new_one(self, server, upheld, slow):
        script = f"{PROJECT}/bin/dodeka-db-restore.py demo --snapshot latest --yes".split()
        delayed = {"fsync": "fsync:delay_exit=700000", "rename": "rename:delay_enter=700000"}.get(slow)
        inject = ("strace", "-o/dev/null", f"-einject={delayed}") if delayed else ()
        done = server.run(*inject, *script, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert users(server, DEMO) == 30 and is_writing(server, DEMO)
        assert (
            server.run("sqlite3", "-cmd", ".timeout 5000", str(DEMO), "PRAGMA integrity_check").stdout
            == "ok\n"
        )
        opened = server.run("sh", "-c", f"ls -l /proc/{main_pid(server)}/fd", user="root").stdout
        assert str(DEMO) in opened and "deleted" not in opened and "pre-restore" not in opened
        if slow == "rename":
            assert "had opened the old database before it was replaced" in done.stdout
        # what it wrote to the old one meanwhile is in the snapshot of that
        assert files_of_demo(server) == {"db.sqlite"}

    def test_somebody_else_with_it_open_is_named(self, server):
        """It opens the old file in the instant before the rename, and is no business of systemd's."""
        with unit_changed(server):
            hold = f"exec 9< {DEMO}; sleep 60"
            script = f"{PROJECT}/bin/dodeka-db-restore.py demo --snapshot latest --yes".split()
            delay = ("strace", "-o/dev/null", "-einject=rename:delay_enter=1500000")
            restore = subprocess.Popen(
                server.command(*delay, *script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            while not list(server.path(DEMO.parent).glob("*.pre-restore-*")) or server.active(UNIT):
                assert restore.poll() is None
            time.sleep(0.7)
            holder = server.sh(f"sh -c '{hold}' > /dev/null 2>&1 & echo $!").strip()
            _, stderr = restore.communicate(timeout=60)
            server.run("pkill", "-P", holder, check=False)
            server.run("kill", holder, check=False)
            assert restore.returncode == 3, stderr
            assert "demo has the data of snapshot " in stderr and "is still open in s" in stderr
            assert f"(process {holder})" in stderr and stderr.count("\n") == 1
            (kept,) = files_of_demo(server) - {"db.sqlite"}
            assert (
                f"{kept} is still open in" in stderr
                and "end that process; the next backup saves the file" in stderr
            )
            assert users(server, DEMO) == 30 and is_writing(server, DEMO)
            make(server, "backup", "ENV=demo")
            assert files_of_demo(server) == {"db.sqlite"}


class TestTwoStateFolders:
    """Two runs that know nothing of each other but the database."""

    OTHER = {"DODEKA_STATE": "/tmp/another-state"}

    @pytest.fixture
    def restoring(self, server):
        """A restore of demo that waits for its unit to stop, which takes until `go` is there."""
        stubborn = "TimeoutStopSec=60\nExecStop=/bin/sh -c 'until test -e /tmp/go; do sleep 0.1; done'\nExecStart=/usr"
        with unit_changed(server, ("ExecStart=/usr", stubborn)):
            server.sh("rm -f /tmp/go", user="root")
            server.run("systemctl", "start", UNIT, user="root")
            restore = subprocess.Popen(
                server.command(
                    str(PROJECT / "bin/dodeka-db-restore.py"), "demo", "--snapshot", "latest", "--yes"
                ),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert wait_until(lambda: condition(server) == "deactivating")
            try:
                yield restore
            finally:
                server.sh("touch /tmp/go", user="root")
                restore.communicate(timeout=60)

    def end(self, server, restore) -> tuple[int, str, str]:
        server.sh("touch /tmp/go", user="root")
        stdout, stderr = restore.communicate(timeout=120)
        return restore.returncode, stdout, stderr

    def test_another_run_leaves_the_kept_file_alone(self, server, restoring):
        (kept,) = server.path(DEMO.parent).glob("*.pre-restore-*")
        output = server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production", **self.OTHER).stdout
        assert "not cleaning up after killed restores of demo now: another run holds " in output
        assert kept.exists()
        for script, words in (("backup", ["demo"]), ("restore", ["demo", "--snapshot", "latest", "--yes"])):
            done = server.run(
                *(str(PROJECT / f"bin/dodeka-db-{script}.py"), *words),
                check=False,
                DODEKA_LOCK_WAIT_S="1",
                **self.OTHER,
            )
            assert done.returncode == 75 and f"another run holds {DEMO.parent} (process " in done.stderr
        code, output, stderr = self.end(server, restoring)
        assert (code, stderr) == (0, "")
        assert re.search(r"is now snapshot [0-9a-f]{8}, tagged pre-restore", output)
        assert users(server, DEMO) == 30 and files_of_demo(server) == {"db.sqlite"}
        make(server, "undo", "ENV=demo", "YES=1")
        assert users(server, DEMO) == 0

    @pytest.mark.slow("one more way")
    def test_also_where_the_state_folder_was_removed(self, server, restoring):
        state = "/home/backend/.local/state/dodeka-backup"
        server.sh(f"mv {state} /tmp/moved-state; mkdir -p {state}/records")
        server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production")
        code, output, stderr = self.end(server, restoring)
        server.sh(f"rm -rf {state}; mv /tmp/moved-state {state}")
        assert (code, stderr) == (0, "") and "tagged pre-restore" in output

    @pytest.mark.slow("each way")
    @pytest.mark.parametrize("other", ["rm {kept}", "rm {kept}; echo x > {kept}"])
    def test_nothing_is_replaced_where_the_kept_file_is_gone_all_the_same(self, server, restoring, other):
        (kept,) = server.path(DEMO.parent).glob("*.pre-restore-*")
        server.sh(other.format(kept=DEMO.with_name(kept.name)))
        code, _, stderr = self.end(server, restoring)
        assert code == 3
        assert f"{DEMO.with_name(kept.name)} was removed or replaced, so {DEMO} is not kept" in stderr
        assert "nothing was replaced" in stderr
        assert users(server, DEMO) == 0 and server.active(UNIT)
        kept.unlink(missing_ok=True)


def test_a_kept_file_that_is_removed_before_it_was_saved_fails_the_restore(server):
    with unit_changed(
        server, ("ExecStart=", f"ExecStartPre=/bin/sh -c 'rm {DEMO}.pre-restore-*'\nExecStart=")
    ):
        done = restore_demo(server)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "but another program removed " in done.stderr and "before it was saved" in done.stderr
        assert users(server, DEMO) == 30


class TestNoProcess:
    """systemctl start cannot be run, for a moment or for good: the kernel says EAGAIN to the call that would make one."""

    def number_of_the_start(self, server: Server, call: str, *command: str) -> int:
        """Which of all the times that a restore makes that system call is the first behind the swap."""
        server.run("strace", "-o/tmp/calls", f"-etrace={call},rename", *command)
        calls = server.path("/tmp/calls").read_text().splitlines()
        swapped = next(at for at, line in enumerate(calls) if ".restoring-" in line)
        make(server, "undo", "ENV=demo", "YES=1")
        return sum(line.startswith(f"{call}(") for line in calls[:swapped]) + 1

    @pytest.mark.slow("each cause", keep=["thread that sh"])
    @pytest.mark.parametrize(
        "call", ["clone", "clone3"], ids=["for the program", "for the thread that sh wants"]
    )
    def test_once(self, server, call):
        with unit_changed(server):
            script = f"{PROJECT}/bin/dodeka-db-restore.py demo --snapshot latest --yes".split()
            inject = f"-einject={call}:error=EAGAIN:when={self.number_of_the_start(server, call, *script)}"
            done = server.run("strace", "-o/dev/null", inject, *script, check=False)
            assert (done.returncode, done.stderr) == (0, ""), done
            assert users(server, DEMO) == 30 and is_writing(server, DEMO)
            assert files_of_demo(server) == {"db.sqlite"}

    @pytest.mark.slow("half a minute")
    def test_for_good(self, server):
        # the whole restore, but that it tries for a second where it would try for two minutes
        code = (
            f"import runpy, sys; sys.path.insert(0, '{PROJECT}/bin'); from dodeka_db.host import programs, service;"
            "service.PATIENCE_S = 1; programs.FORK_PAUSES_S = (0.1,);"
            f"sys.argv = ['{PROJECT}/bin/dodeka-db-restore.py', 'demo', '--snapshot', 'latest', '--yes'];"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = (str(PROJECT / ".venv/bin/python"), "-c", code)
        with unit_changed(server):
            inject = (
                f"-einject=clone:error=EAGAIN:when={self.number_of_the_start(server, 'clone', *command)}+"
            )
            done = server.run("strace", "-o/dev/null", inject, *command, check=False)
            assert done.returncode == 1 and done.stderr.count("\n") == 1, done
            assert f"could not start {UNIT}: sudo cannot be run" in done.stderr.replace("/usr/bin/", "")
            assert "out of processes" in done.stderr and "so the new database stays" in done.stderr
            assert "IT MAY BE DOWN" in done.stderr
            assert f"to start it: sudo systemctl start {UNIT}" in done.stderr
            assert "the replaced database is kept as " in done.stderr
            assert users(server, DEMO) == 30 and MARK in files_of_demo(server)
            # and the next run that gets its processes starts it
            server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production")
            assert is_writing(server, DEMO) and files_of_demo(server) == {"db.sqlite"}


class TestATerminal:
    """What somebody may type at a restore whose unit takes its time to stop."""

    @pytest.fixture
    def slow(self, server):
        patient = "TimeoutStopSec=60\nExecStop=/bin/sh -c 'until test -e /tmp/go; do sleep 0.1; done'\nExecStart=/usr"
        with unit_changed(server, ("ExecStart=/usr", patient)):
            server.sh("rm -f /tmp/go", user="root")
            server.run("systemctl", "start", UNIT, user="root")
            yield
            server.sh("touch /tmp/go", user="root")

    SCRIPT = f"{PROJECT}/bin/dodeka-db-restore.py demo --snapshot latest"

    def restore(self, server) -> Terminal:
        """In a shell with job control: without one, nothing can be stopped by a terminal."""
        terminal = on_a_terminal(server, "bash", "--norc", "-i")
        terminal.type(f"PS1=; {self.SCRIPT} --yes")
        terminal.until("replacing ")
        assert wait_until(lambda: condition(server) == "deactivating")
        return terminal

    def test_ctrl_backslash_starts_it_again_and_says_so(self, server, slow):
        terminal = self.restore(server)
        terminal.press(b"\x1c")
        server.sh("touch /tmp/go", user="root")
        assert "error: interrupted (SIGQUIT)" in terminal.until("interrupted (SIGQUIT)")
        terminal.type("echo exit code $?; exit")
        assert "exit code 131" in terminal.until_end()
        assert wait_until(lambda: server.active(UNIT)) and users(server, DEMO) == 0
        assert is_writing(server, DEMO) and files_of_demo(server) == {"db.sqlite"}

    def test_ctrl_z_does_not_hold_it(self, server, slow):
        terminal = self.restore(server)
        terminal.press(b"\x1a")
        time.sleep(0.5)
        server.sh("touch /tmp/go", user="root")
        assert "Stopped" not in terminal.until("done: demo has the data of snapshot")
        terminal.type("exit")
        terminal.until_end()
        assert users(server, DEMO) == 30 and is_writing(server, DEMO)

    def test_ctrl_z_works_at_the_question_where_no_lock_is_held(self, server):
        make(server, "backup", "ENV=demo")
        terminal = on_a_terminal(server, "bash", "--norc", "-i")
        terminal.type(f"PS1=; {self.SCRIPT}")
        terminal.until("Type 'yes' to go on:")
        terminal.press(b"\x1a")
        terminal.until("Stopped")
        make(server, "backup", "ENV=demo", DODEKA_LOCK_WAIT_S="0")
        terminal.type("fg")
        terminal.type("yes")
        terminal.until("done: demo has the data of snapshot")
        terminal.type("exit")
        terminal.until_end()


class TestRights:
    @pytest.fixture(autouse=True)
    def _as_before(self, server):
        yield
        server.run("setfacl", "-b", str(DEMO), str(PRODUCTION))
        server.run("chmod", "600", str(DEMO), str(PRODUCTION))

    def test_acl_and_attributes_of_the_live_file(self, server):
        make(server, "backup", "ENV=demo")
        server.run("chmod", "640", str(DEMO))
        server.run("setfacl", "-m", "u:www-data:r,g::-", str(DEMO))
        server.run("setfattr", "-n", "user.of", "-v", "the board", str(DEMO))
        before = server.run("getfacl", str(DEMO)).stdout
        assert "user:www-data:r--" in before and "group::---" in before
        assert restore_demo(server).returncode == 0
        assert server.run("getfacl", str(DEMO)).stdout == before
        assert server.run("getfattr", "--only-values", "-n", "user.of", str(DEMO)).stdout == "the board"

    def test_a_clone_is_as_closed_as_its_source_and_staged_for_its_owner_alone(self, server):
        make(server, "backup", "ENV=production")
        server.run("chmod", "600", str(PRODUCTION))
        server.run("chmod", "644", str(DEMO))
        terminal = on_a_terminal(
            server,
            *(
                str(PROJECT / "bin/dodeka-db-restore.py"),
                "demo",
                "--from",
                "production",
                "--snapshot",
                "latest",
            ),
        )
        terminal.until("Type 'yes' to go on:")
        (staged,) = server.path(DEMO.parent).glob("*.restoring-*")
        assert staged.stat().st_mode & 0o777 == 0o600
        terminal.type("yes")
        terminal.until_end()
        assert server.path(DEMO).stat().st_mode & 0o777 == 0o600
        make(server, "undo", "ENV=demo", "YES=1")


def test_a_run_that_was_killed_while_the_service_is_down(server):
    """The service stays stopped until another environment's cron run."""
    make(server, "backup", "ENV=demo")
    killed_restore(server)
    assert len(files_of_demo(server)) == 4, "staged, kept, and the mark"
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
        assert f"error: database {DEMO} cannot be written: Permission denied; run this as" in done.stderr
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


@pytest.mark.slow("each kind", keep=["a file"])
@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_files_of_root_in_the_repository_are_named_with_what_gives_them_back(server, what):
    """As after one `restic rebuild-index` of root's: restic 0.14 to 0.16 try for minutes to read what they may not."""
    pattern = "index -type f" if what == "a file" else "locks -maxdepth 0"
    server.sh(f"cd /mnt/backup/restic && chown -R root: $(find {pattern}) && chmod 700 locks", user="root")
    try:
        for words in (["backup", "production"], ["verify", "production"], ["status"]):
            began = time.monotonic()
            done = server.run(str(PROJECT / f"bin/dodeka-db-{words[0]}.py"), *words[1:], check=False)
            assert time.monotonic() - began < 20
            fix = "sudo chown -R backend: /mnt/backup/restic"
            named = "repository /mnt/backup/restic has files that this user may not read or write: "
            assert named in done.stdout + done.stderr and fix in done.stdout + done.stderr, done
            assert done.returncode == (1 if words == ["status"] else 6)
    finally:
        server.sh("chown -R backend: /mnt/backup/restic", user="root")
    server.run(str(PROJECT / "bin/dodeka-db-backup.py"), "production")


def test_root_does_not_write_into_the_repository_of_backend(server):
    done = make(server, "backup", "ENV=production", user="root", check=False)
    assert done.returncode == 2
    assert f"{PROJECT} belongs to backend, not to root; run this as backend" in done.stderr


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
    """As the web service's user; with a user of its own: test_own_user.py."""

    def test_it_does_what_it_can_and_says_what_an_administrator_types(self, server):
        server.run("crontab", "-r", check=False)
        server.sh("rm -r /home/backend/log")
        server.sh("rm -f /etc/logrotate.d/dodeka-backup", user="root")
        first = make(server, "install").stdout
        assert f"crontab of backend: as {PROJECT}/deploy/dodeka_crontab" in first
        assert "log folder: mkdir /home/backend/log" in first
        assert "as administrator, put these lines into /etc/logrotate.d/dodeka-backup:" in first
        assert server.run("crontab", "-l").stdout == (ROOT / "deploy/dodeka_crontab").read_text()
        shown = [line.partition("     ")[2] for line in first.splitlines() if "     " in line]
        written = "\n".join(shown[: shown.index("}") + 1]) + "\n"
        server.path("/etc/logrotate.d/dodeka-backup").write_text(written)
        second = make(server, "install").stdout
        assert second.count(": unchanged") == 3 and "types" not in second

    def test_other_lines_of_the_crontab_stay(self, server):
        shipped = (ROOT / "deploy/dodeka_crontab").read_text()
        before, old, after = "MAILTO=root\n", shipped.splitlines(True)[-1], "0 4 * * * /usr/bin/true # mine\n"
        server.run("crontab", "-", stdin=before + old + after)
        make(server, "install")
        assert server.run("crontab", "-l").stdout == before + shipped + after

    def test_another_user_gets_none_of_the_jobs(self, server):
        done = server.run(str(PROJECT / "bin/dodeka-install.py"), user="daemon", check=False)
        assert (done.returncode, done.stderr.count("\n")) == (6, 1), done
        assert "this would give daemon the jobs of backend; run this as backend" in done.stderr
        assert server.run("crontab", "-u", "daemon", "-l", user="root", check=False).stdout == ""

    def test_uninstall_takes_its_own_lines_and_no_others(self, server):
        other = "0 4 * * * /usr/bin/true # mine"
        server.run("crontab", "-", stdin=(ROOT / "deploy/dodeka_crontab").read_text() + other + "\n")
        said = make(server, "uninstall").stdout
        assert server.run("crontab", "-l").stdout.strip() == other
        assert "an administrator removes the rest: sudo rm -f /etc/sudoers.d/dodeka-backup" in said
        assert server.path("/mnt/backup/restic/config").exists()

    def test_logrotate_takes_its_file(self, server):
        server.path("/etc/logrotate.d/dodeka-backup").write_text(installed.ONE_USER.logrotate)
        server.sh("mkdir -p /home/backend/log; echo old > /home/backend/log/backup.log")
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

    def test_timers_are_root_s(self, server):
        done = make(server, "install", "TIMERS=1", check=False)
        assert done.returncode == 2 and "only root can install timers" in done.stderr


# the last line of the log that each of the shipped lines leaves
ENDS = {
    "cron.sh production": r"production done: snapshot [0-9a-f]{8}, .* old snapshots? removed, [\d.]+ s",
    "cron.sh demo": r"demo done: snapshot [0-9a-f]{8}, .* old snapshots? removed, [\d.]+ s",
    "offsite.py": r"both done: \d+ snapshots? copied, .* read back, \d+ old ones? removed, off-site snapshots can be removed from here, [\d.]+ s",
    "verify.py production": r"production done: snapshot [0-9a-f]{8} \(zst\) of .* is a whole database, [\d.]+ s",
    "check.py": r"both done: no errors, [\d.]+ s",
    "status.py --hourly": r"both warning: make status: Something needs attention\. .*",
}
LINES = [job.line for job in installed.ONE_USER.jobs]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"


class TestCron:
    def test_every_line_appends_to_the_log(self):
        assert len(LINES) == len(ENDS)
        for line in LINES:
            assert line.endswith(" >> /home/backend/log/backup.log 2>&1")

    @pytest.mark.slow("each line", keep=["[cron]"])
    @pytest.mark.parametrize("job", ENDS)
    def test_each_line_under_cron_s_own_environment(self, server, job):
        server.run("crontab", str(PROJECT / "deploy/dodeka_crontab"))
        (line,) = [line for line in LINES if f"dodeka-db-{job} >>" in line]
        assert line in server.run("crontab", "-l").stdout.splitlines()
        command = line.split(None, 5)[5]
        log = server.path("/home/backend/log/backup.log")
        before = log.read_text() if log.exists() else ""
        server.run(
            *("env", "-i", "HOME=/home/backend", "LOGNAME=backend", "PATH=/usr/bin:/bin", "SHELL=/bin/sh"),
            *("sh", "-c", command),
            check="status" not in job,  # something is bad on this server
        )
        written = log.read_text().removeprefix(before).splitlines()
        assert re.fullmatch(f"{STAMP} {ENDS[job]}", written[-1])

    def test_without_a_home(self, server):
        server.run("env", "-i", "PATH=/usr/bin:/bin", str(PROJECT / "deploy/dodeka-db-cron.sh"), "demo")
        assert server.path("/home/backend/.local/state/dodeka-backup/lock").exists()

    @pytest.mark.long
    def test_cron_itself_runs_them_all(self, server):
        """cron knows nothing shorter than a minute: the shipped lines, with their times made every minute.

        So all six start at once, and wait for each other.
        """
        lines = ["* * * * * " + line.split(None, 5)[5] for line in LINES]
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


class TestTheBackendWritesElsewhere:
    """For weeks nobody would see it: what is backed up is there, and whole."""

    SAID = rf"{UNIT} does not have {re.escape(str(DEMO))} open, but "

    def seen(self, server, what: str) -> None:
        said = re.compile(self.SAID + what)
        for script in ("backup", "cron"):
            output = server.run(str(PROJECT / f"bin/dodeka-db-{script}.py"), "demo").stdout
            assert re.search(rf"warning: {said.pattern}.*: its new rows are in no snapshot; ", output)
            assert re.search(r" done: snapshot [0-9a-f]{8}, ", output)
        shown = server.run(str(PROJECT / "bin/dodeka-db-status.py"), "--json", check=False).stdout
        (line,) = [
            line
            for line in json.loads(shown)["lines"]
            if (line["environment"], line["subject"]) == ("demo", "service")
        ]
        assert line["state"] == "bad" and said.match(line["text"]) and line["fix"]
        pid = main_pid(server)
        for words in (("restore", "SNAPSHOT=latest", "YES=1"), ("undo", "YES=1")):
            done = make(server, words[0], "ENV=demo", *words[1:], check=False)
            assert re.search(rf"error: {said.pattern}.*; nothing was changed; save that first", done.stderr)
        assert main_pid(server) == pid

    @pytest.fixture(autouse=True)
    def _clean(self, server):
        yield
        server.run("systemctl", "restart", UNIT, user="root")
        assert is_writing(server, DEMO)

    @pytest.mark.slow("one more way")
    def test_in_a_file_that_was_replaced(self, server):
        """And what BACKUP.md says saves what was written to it."""
        server.sh(
            f"cd {DEMO.parent}; sqlite3 db.sqlite \"VACUUM INTO 'new'\"; mv new db.sqlite; rm db.sqlite-*"
        )
        self.seen(server, r"\S+ \(deleted\): /proc/\d+/fd/\d+")
        (text,) = re.findall(r"```sh\n(  pid=.*?)```", (ROOT / "BACKUP.md").read_text(), re.DOTALL)
        opened = server.run("sh", "-c", f"ls -l /proc/{main_pid(server)}/fd", user="root").stdout
        numbers = [re.search(rf"(\d+) -> \S+{name} \(deleted\)", opened)[1] for name in ("e", "-wal")]
        text = (
            text.replace("production", "demo")
            .replace("sudo ", "")
            .replace("'SELECT count(*) FROM users_by_email'", "")
        )
        for number, shown in zip(numbers, ("/fd/5", "/fd/6"), strict=True):
            text = text.replace(shown, f"/fd/{number}")
        assert "ok" in server.sh(text, user="root", HOME="/tmp").splitlines()
        assert server.active(UNIT)
        live, saved = (
            int(server.run("sqlite3", file, "SELECT count(*) FROM outbox", user="root").stdout)
            for file in (str(DEMO), "/tmp/saved.sqlite")
        )
        assert saved > live
        server.sh("rm /tmp/saved.sqlite*", user="root")

    @pytest.mark.slow("one more way")
    def test_in_a_file_that_was_moved_away(self, server):
        server.sh(
            f"cd {DEMO.parent}; sqlite3 db.sqlite \"VACUUM INTO 'new'\";"
            "for file in db.sqlite*; do mv $file old${file#db.sqlite}; done; mv new db.sqlite"
        )
        self.seen(server, f"{DEMO.parent}/old")
        server.sh(f"rm {DEMO.parent}/old*")

    def test_in_another_folder_than_the_settings_say(self, server):
        server.sh(
            f"cd {DEMO.parents[2]}; mkdir -p /tmp/copy/envs; cp -a envs/* /tmp/copy/envs; rm /tmp/copy/envs/*/*-*"
        )
        done = server.run(str(PROJECT / "bin/dodeka-db-backup.py"), "demo", DODEKA_BACKEND="/tmp/copy")
        assert (
            f"{UNIT} does not have /tmp/copy/envs/demo/db.sqlite open, but {DEMO}: its new rows"
            in done.stdout
        )
        server.sh("rm -r /tmp/copy")

    @pytest.mark.slow("each content")
    @pytest.mark.parametrize("content", [None, b"SQLite format 3\0" + b"\xff" * 9000])
    def test_one_that_has_nothing_it_could_open_is_helped_by_a_restore(self, server, content):
        """It stays up without its database, as a server with other pages would."""
        drop_in = server.path(f"/etc/systemd/system/{UNIT}.service.d/idle.conf")
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text("[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n")
        server.run("systemctl", "daemon-reload", user="root")
        server.run("systemctl", "restart", UNIT, user="root")
        try:
            server.sh(f"rm {DEMO}*")
            if content:
                server.path(DEMO).write_bytes(content)
                server.run("chown", "backend:", str(DEMO), user="root")
            make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1")
            assert users(server, DEMO) == 30
            refused = make(server, "restore", "ENV=demo", "SNAPSHOT=latest", "YES=1", check=False)
            assert f"{UNIT} has no database open, not even {DEMO}; nothing was changed" in refused.stderr
        finally:
            drop_in.unlink()
            server.run("systemctl", "daemon-reload", user="root")
            server.sh(f"rm -f {DEMO.parent}/*.damaged-*")

    @pytest.mark.slow("one more state of a unit")
    def test_one_that_has_been_started_a_moment_ago(self, server):
        """It takes some seconds before it opens anything."""
        drop_in = server.path(f"/etc/systemd/system/{UNIT}.service.d/slow.conf")
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text(
            f"[Service]\nExecStart=\nExecStart=/bin/sh -c 'sleep 5; exec python3 /home/backend/backend.py {DEMO}'\n"
        )
        try:
            server.run("systemctl", "daemon-reload", user="root")
            server.run("systemctl", "restart", UNIT, user="root")
            assert "warning" not in server.run(str(PROJECT / "bin/dodeka-db-backup.py"), "demo").stdout
        finally:
            drop_in.unlink()
            server.run("systemctl", "daemon-reload", user="root")
