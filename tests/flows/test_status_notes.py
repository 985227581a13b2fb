"""The notes of make status, each made true and then untrue: what is not broken, and should not stay so."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dodeka_db.flows import status_report, status_server
from dodeka_db.flows.status_lines import Line, Look, State, overall
from dodeka_db.host import file_rights, job_records, monitor
from monitor_receiver import Receiver
from site_folder import Site, Twin

MONITOR = {"DODEKA_MONITOR": "http://127.0.0.1:9/SECRET-KEY"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give rights to other users")


@pytest.fixture
def twin(empty_twin: Path, tmp_path: Path) -> Twin:
    shutil.copytree(empty_twin, tmp_path / "twin")
    return Twin(tmp_path / "twin")


def line(site: Site, subject: str, environment: str | None = None, **variables: str) -> dict:
    found = json.loads(site.run("status", "--json", **variables).stdout)["lines"]
    (line,) = [one for one in found if (one["environment"], one["subject"]) == (environment, subject)]
    return line


def is_note(found: dict, words: str, fix: str) -> None:
    assert (found["state"], words in found["text"], found["fix"]) == ("note", True, fix), found


def age(site: Site, job: str, by: timedelta) -> None:
    """Make the record of `job` older."""
    file = site.state / "records" / f"{job}.json"
    record = json.loads(file.read_text())
    record["passed"] = (datetime.fromisoformat(record["passed"]) - by).isoformat()
    file.write_text(json.dumps(record))


class TestMonitor:
    def test_none_is_set(self, site):
        is_note(line(site, "monitor"), "nobody is told when a job fails", "BACKUP.md, 'Monitor'")

    def test_none_has_been_reached_yet_and_then_one_was(self, site):
        is_note(line(site, "monitor", **MONITOR), "has not been reached yet", "make monitor")
        with Receiver() as receiver:
            site.ok("cron", "demo", DODEKA_MONITOR=receiver.key_url)
        assert line(site, "monitor", **MONITOR)["state"] == "well"

    def test_none_was_reached_for_a_day(self, site):
        with Receiver() as receiver:
            site.ok("monitor", DODEKA_MONITOR=receiver.key_url)
        age(site, monitor.RECORD, timedelta(hours=23))
        assert line(site, "monitor", **MONITOR)["state"] == "well"
        site.run("cron", "demo", **MONITOR)  # nobody there
        age(site, monitor.RECORD, timedelta(hours=2))
        is_note(line(site, "monitor", **MONITOR), "was last reached 25 hours ago", "make monitor")

    def test_it_was_reached_in_the_future(self, site):
        """When the clock was wrong: until then no day without an answer would be seen."""
        with Receiver() as receiver:
            site.ok("monitor", DODEKA_MONITOR=receiver.key_url)
        age(site, monitor.RECORD, -timedelta(days=400))
        is_note(line(site, "monitor", **MONITOR), "was last reached in the future", "make monitor")

    def test_only_that_of_the_cron_runs(self, site):
        with Receiver() as receiver:
            ping = {"DODEKA_PING_URL_DEMO": receiver.url}
            site.ok("cron", "demo", **ping)
        is_note(line(site, "monitor", **ping), "is told of cron runs only", "BACKUP.md, 'Monitor'")

    def test_the_one_of_all_jobs_is_gone_and_an_address_of_the_cron_runs_is_there(self, site):
        """Only failures of the cron runs would be heard of."""
        with Receiver(404) as gone, Receiver() as receiver:
            addresses = {"DODEKA_MONITOR": gone.key_url, "DODEKA_PING_URL_DEMO": receiver.url}
            site.ok("cron", "demo", **addresses)
            site.run("monitor", **addresses)
        is_note(line(site, "monitor", **addresses), "has not been reached yet", "make monitor")


def test_no_copy_elsewhere(twin):
    is_note(line(Site(twin.folder), "off-site copy"), "none: OFFSITE_REPOSITORY", "BACKUP.md, 'Off-site'")
    assert line(twin, "off-site copy")["state"] != "note"


def test_the_web_user_can_remove_the_backups(site):
    step = "a separate user for the backups: BACKUP.md, 'Set up a server'"
    is_note(line(site, "user", DODEKA_SYSTEMCTL="systemctl"), "runs the web service too", step)
    assert line(site, "user")["state"] == "well"


def test_a_key_that_was_not_handed_over(site):
    file = site.state / "key-anna"
    file.touch(0o600)
    is_note(line(site, "key files"), "is still on this server", f"hand it over, then: rm {file}")
    file.unlink()
    assert line(site, "key files")["state"] == "well"


def test_no_drill_of_demo(site):
    is_note(line(site, "drill", "demo"), "no drill yet", "make verify ENV=demo")
    assert line(site, "drill", "production")["state"] == "bad", "that one is scheduled"
    site.ok("backup", "demo")
    site.ok("verify", "demo")
    assert line(site, "drill", "demo")["state"] == "well"


def test_no_proof_by_paper_or_an_old_one(twin):
    is_note(line(twin, "proof"), "nobody has proven yet", "make prove")
    job_records.passed(twin.state, "prove", {"who": "anna"})
    found = line(twin, "proof")
    assert found["state"] == "well" and found["text"].endswith(" ago, says anna")
    age(twin, "prove", timedelta(days=364))
    assert line(twin, "proof")["state"] == "well"
    age(twin, "prove", timedelta(days=2))
    is_note(line(twin, "proof"), "366 days ago, says anna", "make prove")
    age(twin, "prove", -timedelta(days=3660))
    is_note(line(twin, "proof"), "in the future, says anna", "make prove")
    screen = Site(twin.folder).run("status").stdout
    assert not re.search(r"^\w+ +proof ", screen, re.MULTILINE), "without a copy there is nothing to prove"


@pytest.fixture
def open_backend() -> Iterator[Path]:
    """A backend's folder that every user can enter; those of pytest are closed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class TestALiveDatabaseThatOthersCanRead:
    @pytest.fixture
    def database(self, site, open_backend) -> Path:
        shutil.copytree(site.folder / "backend", open_backend, dirs_exist_ok=True)
        for path in open_backend.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o600)
        return open_backend / "envs" / "demo" / "db.sqlite"

    def seen(self, site: Site, database: Path) -> dict:
        return line(site, "live database", "demo", DODEKA_BACKEND=str(database.parents[2]))

    def test_by_its_mode(self, site, database):
        assert self.seen(site, database)["state"] == "well"
        database.chmod(0o644)
        found = self.seen(site, database)
        is_note(found, f"every user of this server can read {database}", f"chmod o= {database}*")
        database.parents[1].chmod(0o750)
        assert self.seen(site, database)["state"] == "well", "nobody else can come near it"
        database.parents[1].chmod(0o755)
        subprocess.run(found["fix"], shell=True, check=True)
        assert self.seen(site, database)["state"] == "well"

    @needs_root
    def test_by_its_access_list(self, site, database):
        subprocess.run(["setfacl", "-m", "u:nobody:r,g:daemon:r", database], check=True)
        nobody, daemon = (
            int(subprocess.check_output(["id", option, name]))
            for option, name in (("-u", "nobody"), ("-g", "daemon"))
        )
        found = self.seen(site, database)
        who = f"u:{nobody},g:{daemon}"
        assert found["state"] == "note" and f"lets u:{nobody}, g:{daemon} read {database}" in found["text"]
        assert found["fix"] == f"setfacl -x {who} {database}*"
        subprocess.run(["setfacl", "-m", "m::---", database], check=True)
        assert self.seen(site, database)["state"] == "well", "the mask takes the right away"
        subprocess.run(["setfacl", "-m", "m::r", database], check=True)
        subprocess.run(found["fix"], shell=True, check=True)
        assert self.seen(site, database)["state"] == "well"

    @needs_root
    def test_the_owner_of_its_folder_and_this_user_are_no_others(self, site, database):
        """The set-up with a separate user: the web service's user owns the folder, that of the backups the file."""
        os.chown(database, 1234, 1234)
        os.chown(database.parent, 2345, 2345)
        database.chmod(0o660)
        subprocess.run(["setfacl", "-m", "u:2345:rw,u:0:r,g:2345:r", database], check=True)
        demo = replace(site.settings.environment("demo"), database=database)
        assert status_server.readers(demo).state is State.WELL, (
            "in this process: root refuses another's folder"
        )
        assert file_rights.read(database).readers(set(), set()) == ["u:0", "u:2345", "g:2345"]

    def test_none_is_there(self, site, database):
        database.unlink()
        assert self.seen(site, database)["state"] == "well", "the line of cron says so"


WELL, NOTE, BAD, UNKNOWN = (
    Line("", state.name, Look(state, "so it is", "a step" if state in (State.NOTE, State.BAD) else ""))
    for state in (State.WELL, State.NOTE, State.BAD, State.UNKNOWN)
)


@pytest.mark.parametrize(
    ("lines", "summary", "state"),
    [
        ([WELL], "All is well.", State.WELL),
        ([NOTE, WELL], "All is well, with 1 note.", State.WELL),
        ([NOTE, NOTE, NOTE, WELL], "All is well, with 3 notes.", State.WELL),
        ([UNKNOWN, NOTE, WELL], "Some states are unknown.", State.UNKNOWN),
        ([BAD, UNKNOWN, NOTE], "Something needs attention.", State.BAD),
    ],
)
def test_notes_change_the_summary_and_no_exit_code(lines, summary, state):
    assert overall(lines) is state
    text = status_report.as_text(lines)
    assert text[0] == summary
    assert text.count(f"{'':<32} fix: a step") == lines.count(NOTE) + lines.count(BAD)
    page = json.loads("\n".join(status_report.as_json(lines)))
    assert (page["state"], page["notes"]) == (state.name.lower(), lines.count(NOTE))
    assert [one["state"] for one in page["lines"]] == [one.look.state.name.lower() for one in lines]
    families = {
        family.name: family.samples
        for family in text_string_to_metric_families("\n".join(status_report.as_metrics(lines)) + "\n")
    }
    assert families["dodeka_backup_status"][0].value == state
    assert families["dodeka_backup_notes"][0].value == lines.count(NOTE)
    by_subject = {sample.labels["subject"]: sample.value for sample in families["dodeka_backup_line_status"]}
    assert by_subject == {one.subject: one.look.state for one in lines}


def test_the_worst_first(twin):
    """On a site for tests, which has no crontab and no drill."""
    screen = twin.run("status").stdout
    states = [found[1] for found in re.finditer(r"^(BAD|\?|note|ok) ", screen, re.MULTILINE)]
    order = ["BAD", "?", "note", "ok"]
    assert states == sorted(states, key=order.index)
    assert {"BAD", "note", "ok"} <= set(states)
