"""Every job is told to a monitor: that it began, how it ended, also where it could not even begin; and make monitor."""

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from dodeka_db.host import job_records, monitor
from free_ports import free_port
from monitor_receiver import Receiver
from site_folder import Site, Twin

# each job: its slug, its script, the arguments that cron gives it
JOBS = {
    "dodeka-cron-production": ("cron", "production"),
    "dodeka-cron-demo": ("cron", "demo"),
    "dodeka-drill-production": ("verify", "production"),
    "dodeka-drill-demo": ("verify", "demo"),
    "dodeka-check": ("check",),
    "dodeka-offsite": ("offsite",),
    "dodeka-status": ("status", "--hourly"),
}
# those whose end `make status` has nothing to do with
RUNS = [slug for slug in JOBS if slug != "dodeka-status"]
SCHEDULED = sorted(set(JOBS) - {"dodeka-drill-demo"})


@pytest.fixture
def twin(empty_twin: Path, tmp_path: Path) -> Twin:
    """Two databases with a snapshot of each, and an off-site repository."""
    shutil.copytree(empty_twin, tmp_path / "twin")
    twin = Twin(tmp_path / "twin")
    for environment in ("production", "demo"):
        twin.ok("backup", environment)
    return twin


def lose_database(environment: str) -> Callable[[Twin], None]:
    return lambda twin: twin.database(environment).unlink()


def damage_snapshot(environment: str) -> Callable[[Twin], None]:
    def damage(twin: Twin) -> None:
        tags = f"db,db_sqlite,db_dodeka,env_{environment}"
        name = f"dodeka-{environment}.sqlite.zst"
        twin.restic("backup", "--stdin", "--stdin-filename", name, "--tag", tags, input="garbage")

    return damage


def lose_index(twin: Twin) -> None:
    shutil.rmtree(twin.repository / "index")
    (twin.repository / "index").mkdir()


def lose_offsite(twin: Twin) -> None:
    twin.there.rename(twin.folder / "away")


BREAK = {
    "dodeka-cron-production": lose_database("production"),
    "dodeka-cron-demo": lose_database("demo"),
    "dodeka-drill-production": damage_snapshot("production"),
    "dodeka-drill-demo": damage_snapshot("demo"),
    "dodeka-check": lose_index,
    "dodeka-offsite": lose_offsite,
}


@pytest.mark.parametrize("slug", RUNS)
def test_each_job_is_told_when_it_begins_when_it_is_done_and_when_it_fails(twin, slug):
    with Receiver() as receiver:
        address = {"DODEKA_MONITOR": receiver.key_url}
        output = twin.ok(*JOBS[slug], **address)
        (began, ended) = receiver.told
        assert began == (slug, "start", "")
        assert ended[:2] == (slug, "success")
        assert output.splitlines()[-1].split(" done: ")[1].startswith(ended[2]), "with the run's summary"
        first, second = (query["rid"] for query in receiver.queries)
        assert first == second, "so that the monitor knows how long the run took"
        UUID(first[0])
        assert receiver.checks == [slug], "made by itself"

        BREAK[slug](twin)
        done = twin.run(*JOBS[slug], **address)
        assert done.returncode
        (_, _, began, failed) = receiver.told
        assert (began[1], failed[1]) == ("start", "fail")
        assert done.stderr.endswith(f" error: {failed[2]}\n"), "with the error and its next step"
        assert receiver.checks == [slug]
    assert "SECRET" not in output + done.stdout + done.stderr


class TestStatus:
    def test_what_is_bad_is_told_with_the_whole_screen(self, twin):
        """A site for tests has no crontab, so something is bad."""
        with Receiver() as receiver:
            done = twin.run("status", "--hourly", DODEKA_MONITOR=receiver.key_url)
            (_, (slug, signal, body)) = receiver.told
            assert (slug, signal) == ("dodeka-status", "fail")
        screen = twin.run("status").stdout.splitlines()
        assert body.splitlines()[0] == screen[0] == "Something needs attention."
        assert len(body.splitlines()) == len(screen)
        assert any(line.startswith("BAD ") for line in body.splitlines())
        assert done.returncode == 1 and done.stderr == ""
        (line,) = done.stdout.splitlines()
        assert re.search(r" both warning: make status: Something needs attention\. \w", line)

    @pytest.mark.parametrize(
        ("state", "signal"), [("WELL", "success"), ("NOTE", "success"), ("BAD", "fail"), ("UNKNOWN", "log")]
    )
    def test_the_signal_is_that_of_the_worst_line(self, site, monkeypatch, capsys, state, signal):
        """In this process, with lines of our own."""
        script = load_script()
        line = script.status_lines.Line(
            "demo", "cron", script.status_lines.Look(script.status_lines.State[state], "so it is", "")
        )
        monkeypatch.setattr(script.status, "look", lambda _: [line])
        with Receiver() as receiver:
            for name, value in {**site.environ, "DODEKA_MONITOR": receiver.key_url}.items():
                monkeypatch.setenv(name, value)
            code = script.main(["--hourly"])
            assert [one[1] for one in receiver.told] == ["start", signal]
            assert "so it is" in receiver.told[1][2]
        assert code == {"BAD": 1, "UNKNOWN": 2}.get(state, 0)

    def test_a_run_that_has_no_settings(self, site):
        with Receiver() as receiver:
            done = site.run("status", "--hourly", DODEKA_MONITOR=receiver.key_url, DODEKA_FORMAT="zip")
            assert done.returncode == 2
            ((slug, signal, body),) = receiver.told
        assert (slug, signal) == ("dodeka-status", "fail")
        assert body.startswith("DODEKA_FORMAT=zip is not one of the formats")


def load_script():
    """bin/dodeka-db-status.py as a module."""
    import importlib.util
    import sys

    sys.modules.pop("sh", None)  # once it is imported, it cannot be looked for: venv.py does that first
    from dodeka_db.flows import status_lines
    from site_folder import ROOT

    spec = importlib.util.spec_from_file_location("status_script", ROOT / "bin" / "dodeka-db-status.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.status_lines = status_lines
    return module


WRONG_SETTINGS = {
    "a value that is not valid": "DODEKA_FORMAT=zip\n",
    "a line that is not one": "DODEKA_STATE=$HOME/x\n",
    "a name that is not known": "DODEKA_STAT=/x\n",
    "a file that others can read": "",
}


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
@pytest.mark.parametrize("slug", JOBS)
def test_a_run_that_cannot_read_its_settings_is_told_too(twin, slug, wrong):
    """By the address in the same file, of which nothing else may be right."""
    with Receiver() as receiver:
        twin.config.write_text(
            "".join(f"{name}='{value}'\n" for name, value in twin.variables.items())
            + f"{WRONG_SETTINGS[wrong]}export DODEKA_MONITOR='{receiver.key_url}'  # ours\n"
        )
        twin.config.chmod(0o644 if wrong.startswith("a file") else 0o600)
        done = twin.run(*JOBS[slug], DODEKA_BACKUP_ENV=str(twin.config))
        assert done.returncode
        ((told, signal, body),) = receiver.told
    assert (told, signal) == (slug, "fail")
    assert done.stderr.endswith(f" error: {body}\n") and done.stderr.count("\n") == 1
    assert "SECRET" not in done.stdout + done.stderr


def test_a_file_that_cannot_be_read_and_an_address_of_the_environment(site):
    with Receiver() as receiver:
        done = site.run("check", DODEKA_BACKUP_ENV="/none/backup.env", DODEKA_MONITOR=receiver.key_url)
        assert done.returncode == 6
        assert [one[:2] for one in receiver.told] == [("dodeka-check", "fail")]


def test_both_kinds_of_addresses_at_once(site):
    with Receiver() as receiver, Receiver() as demo:
        addresses = {"DODEKA_MONITOR": receiver.key_url, "DODEKA_PING_URL_DEMO": demo.url}
        site.ok("cron", "demo", **addresses)
        site.ok("cron", "production", **addresses)
        assert demo.calls == [("GET", "/ping/SECRET-UUID", "")], "as ever"
        assert sorted(receiver.checks) == ["dodeka-cron-demo", "dodeka-cron-production"]


def test_what_is_not_a_job_tells_nobody(twin):
    with Receiver() as receiver:
        address = {"DODEKA_MONITOR": receiver.key_url}
        twin.ok("backup", "production", **address)
        twin.run("status", **address)
        twin.ok("verify", "production", "--snapshot", "latest~1", **address)
        twin.ok("snapshots", **address)
        Site(twin.folder).ok(
            "offsite", **address
        )  # no off-site repository: the line of the crontab does nothing
        wrong = Site(twin.folder).run("offsite", **address, DODEKA_FORMAT="zip")
        assert wrong.returncode == 6
        assert receiver.calls == []


class TestAMonitorThatDoesNotTakeIt:
    @pytest.mark.parametrize("status", [404, 500])
    def test_it_is_one_warning(self, site, status):
        with Receiver(status) as receiver:
            output = site.ok("cron", "demo", DODEKA_MONITOR=receiver.key_url)
        warnings = [line for line in output.splitlines() if "warning:" in line]
        (line,) = warnings
        assert line.endswith(f"not be delivered to http://127.0.0.1/...: HTTP {status}")
        assert " done: snapshot " in output and "SECRET" not in output
        assert not job_records.read(site.state, monitor.RECORD).passed

    def test_one_that_has_no_such_check_and_answers_with_200(self, site):
        """As hc-ping.com does for a UUID: its check was deleted, or there is a slip in the address."""
        with Receiver(said="OK (not found)") as receiver:
            output = site.ok("cron", "demo", DODEKA_PING_URL_DEMO=receiver.url)
            done = site.run("monitor", DODEKA_PING_URL_DEMO=receiver.url)
        assert "could not be delivered to http://127.0.0.1/...: HTTP 200, but: not found\n" in output
        assert done.returncode == 1 and "NOT RECEIVED: HTTP 200, but: not found" in done.stdout
        assert not job_records.read(site.state, monitor.RECORD).passed

    def test_nobody_there(self, site):
        address = f"http://127.0.0.1:{free_port()}/SECRET-KEY"
        output = site.ok("cron", "demo", DODEKA_MONITOR=address)
        assert output.count("warning:") == 1 and "Connection refused" in output
        site.password_file.chmod(0o644)
        done = site.run("cron", "demo", DODEKA_MONITOR=address)
        assert done.returncode == 6 and "password file" in done.stderr
        assert done.stdout.count("warning:") == 1
        assert "SECRET" not in output + done.stdout + done.stderr

    def test_one_that_hangs_holds_up_no_step_and_costs_ten_seconds_in_all(self, site):
        """Both addresses: the run goes on at once, and waits only when everything is done."""
        with Receiver(None) as receiver:
            began = time.monotonic()
            output = site.ok(
                "cron", "demo", DODEKA_MONITOR=receiver.key_url, DODEKA_PING_URL_DEMO=receiver.url
            )
            took_s = time.monotonic() - began
        record = job_records.read(site.state, "cron-demo").passed
        assert record, output
        done_s = time.time() - record.timestamp()
        assert done_s > monitor.PATIENCE_S - 3, "the run was on record before the waiting"
        assert took_s < monitor.PATIENCE_S + 8
        assert output.count("warning:") == 2 and output.count("no answer within 10 s") == 2
        assert "SECRET" not in output

    def test_a_start_that_is_slow_arrives_in_front_of_the_end(self, site):
        """Otherwise the monitor would take the run for one that has begun and does not end."""
        with Receiver(delays={"start": 2.5}) as receiver:
            site.ok("cron", "demo", DODEKA_MONITOR=receiver.key_url)
            assert [one[1] for one in receiver.told] == ["start", "success"]


class TestMakeMonitor:
    def test_each_job_gets_a_test_that_changes_nothing(self, twin):
        with Receiver() as receiver, Receiver() as demo:
            addresses = {"DODEKA_MONITOR": receiver.key_url, "DODEKA_PING_URL_DEMO": demo.url}
            first = twin.ok("monitor", **addresses)
            assert sorted(receiver.checks) == SCHEDULED
            assert {one[1:] for one in receiver.told} == {("log", "a test: make monitor")}
            assert demo.calls == [("POST", "/ping/SECRET-UUID/log", "a test: make monitor")]
            second = twin.ok("monitor", **addresses)
        *lines, done = first.splitlines()
        made = "received; the monitor has made this check now"
        listed = dict(re.split(r"  +", line) for line in lines)
        assert listed == {**dict.fromkeys(SCHEDULED, made), "DODEKA_PING_URL_DEMO": "received"}
        assert re.search(r" done: the monitor received 7 tests, ", done)
        assert set(dict(re.split(r"  +", line) for line in second.splitlines()[:-1]).values()) == {"received"}
        assert "SECRET" not in first + second
        assert job_records.read(twin.state, monitor.RECORD).passed

    @pytest.mark.slow("one that hangs", keep=["404-HTTP 404"])
    @pytest.mark.parametrize(("status", "reason"), [(404, "HTTP 404"), (None, "no answer within 10 s")])
    def test_one_that_does_not_take_it(self, site, status, reason):
        began = time.monotonic()
        with Receiver(status) as receiver:
            done = site.run("monitor", DODEKA_MONITOR=receiver.key_url)
        assert time.monotonic() - began < 20, "all are asked at once"
        assert done.returncode == 1
        assert done.stdout.count(f"NOT RECEIVED: {reason}") == 5
        assert (
            "the monitor did not receive 5 of 5 tests; HTTP 401, 404 or 'not found': the ping key or address is wrong; "
            in done.stderr
        )
        assert "SECRET" not in done.stdout + done.stderr
        assert not job_records.read(site.state, monitor.RECORD).passed

    def test_none_is_set(self, site):
        done = site.run("monitor")
        assert done.returncode == 6
        assert done.stderr.endswith("error: DODEKA_MONITOR is not set; see BACKUP.md, 'Monitor'\n")


def test_the_key_is_nowhere(twin):
    """Neither in what is printed nor in the environment of restic nor in a file of the state folder."""
    secret = {"DODEKA_MONITOR": "https://hc-ping.com/SECRET-KEY"}
    printed = twin.ok("settings", **secret)
    assert re.search(r"^DODEKA_MONITOR +https://hc-ping\.com/\*\*\* +environment$", printed, re.MULTILINE)
    sheet = twin.ok("recovery-sheet", **secret)
    assert re.search(r"^  monitor +https://hc-ping\.com/\.\.\.$", sheet, re.MULTILINE)
    for value in ("hc-ping.com/SECRET-KEY", "ftp://hc-ping.com/SECRET-KEY", "https://h/SECRET KEY"):
        done = twin.run("cron", "demo", DODEKA_MONITOR=value)
        assert done.returncode == 6
        assert "error: DODEKA_MONITOR is not an address that begins with" in done.stderr
        assert "SECRET" not in done.stderr
    with Receiver() as receiver:
        twin.run("status", "--hourly", DODEKA_MONITOR=receiver.key_url)
        assert all("SECRET" not in body for _, _, body in receiver.calls)
    assert "SECRET" not in printed + sheet
    files = [path for path in twin.state.rglob("*") if path.is_file() and "restic-cache" not in path.parts]
    assert files and not any(b"SECRET" in path.read_bytes() for path in files)


def test_what_a_slug_s_check_is_told_needs_no_terminal_and_is_utf_8(site):
    """A table's name in the error, with characters of a terminal in it."""
    with closing(sqlite3.connect(site.database("demo"))) as connection, connection:
        connection.execute('CREATE TABLE "ë\x1b[2J" (a UNIQUE)')
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = 'broken' WHERE type = 'table' AND name LIKE 'ë%'")
    with Receiver() as receiver:
        site.run("cron", "demo", DODEKA_MONITOR=receiver.key_url)
        body = receiver.told[-1][2]
    assert body.isprintable() and json.dumps(body)
