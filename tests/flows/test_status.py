"""make status on a whole server: all is well, then each line is made bad in turn, seen bad, and fixed as it says."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cheap_key import reseal
from dodeka_db.flows import snapshot_growth, status_repository
from dodeka_db.flows.status_lines import State
from dodeka_db.host import installed, job_records
from dodeka_db.restic.snapshots import Snapshot
from monitor_receiver import Receiver
from site_folder import Site
from whole_server import PROJECT, ROOT, Server

STATUS = str(PROJECT / "bin/dodeka-db-status.py")
STATE = "/home/backend/.local/state/dodeka-backup"
ENVS = PROJECT / "backend" / "envs"
RESTIC = {
    "RESTIC_REPOSITORY": "/mnt/backup/restic",
    "RESTIC_PASSWORD_FILE": "/mnt/backup/.restic-password",
    "PATH": "/home/backend/.local/bin:/usr/bin:/bin",
}
DEMO_UNIT = Path("/etc/systemd/system/dodeka-backend-demo.service")
TAGS = "db,db_sqlite,db_dodeka,env_demo"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on which all is well, its backup volume a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("these tests need root, to start a systemd of their own")
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        server.sh(
            "mkdir /tmp/volume; mount -t tmpfs -o size=40m tmpfs /tmp/volume; chown backend: /tmp/volume;"
            "echo '/tmp/volume /mnt/backup none bind 0 0' >> /etc/fstab; mount /mnt/backup;"
            "echo 'backend ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/dodeka;"
            "systemctl start dodeka-backend-production dodeka-backend-demo",
            user="root",
        )
        make(server, "init")
        reseal(
            server.path("/mnt/backup/restic"), server.path("/mnt/backup/.restic-password").read_text().strip()
        )
        server.run("chown", "-R", "backend:", "/mnt/backup/restic", user="root")
        make(server, "install")
        install_logrotate(server)
        for words in (
            ["cron", "ENV=production"],
            ["cron", "ENV=demo"],
            ["verify", "ENV=production"],
            ["check"],
        ):
            make(server, *words)
        yield server
    finally:
        server.stop()


def install_logrotate(server: Server) -> None:
    """As an administrator, who types what `make install` has printed."""
    server.path(installed.LOGROTATE).write_text(installed.ONE_USER.logrotate)


def make(server: Server, *words: str, **options: object) -> None:
    server.run("make", "--no-print-directory", "-C", str(PROJECT), *words, **options)


def look(server: Server, said: str = "", **variables: str) -> tuple[int, dict]:
    """The exit code and the JSON of a status that says no more on standard error than the pattern `said`."""
    done = server.run(STATUS, "--json", check=False, **variables)
    assert re.fullmatch(said, done.stderr), done
    return done.returncode, json.loads(done.stdout)


def counted(server: Server, environment: str) -> tuple[int, int]:
    """How many snapshots there are, and how many of them are pre-restore ones."""
    listed = json.loads(server.run(f"{PROJECT}/bin/dodeka-db-snapshots.py", environment, "--json").stdout)
    replaced = [one for one in listed if "pre-restore" in one["tags"]]
    return len(listed) - len(replaced), len(replaced)


def of_state(found: dict, state: str) -> list[tuple[str, str]]:
    return [(line["environment"] or "", line["subject"]) for line in found["lines"] if line["state"] == state]


def assert_all_is_well(server: Server) -> None:
    code, found = look(server)
    assert (code, found["state"]) == (0, "well"), [line for line in found["lines"] if line["state"] != "well"]


def in_project(server: Server, command: str) -> None:
    server.sh(f"cd {PROJECT}; {command}", **RESTIC)


class TestWell:
    def test_all_is_well(self, server):
        assert_all_is_well(server)
        done = server.run(STATUS)
        lines = done.stdout.splitlines()
        notes = [line for line in lines if line.startswith("note ")]
        assert lines[0] == f"All is well, with {len(notes)} notes."
        said = {re.split(r" {2,}", line.removeprefix("note "))[-2] for line in notes}
        assert {"monitor", "off-site copy", "drill", "user"} <= said
        assert done.stdout.count(" fix: ") == len(notes)
        assert not re.search(r"^(BAD|\?)", done.stdout, re.MULTILINE)
        (newest,) = [line for line in lines if re.match(r"ok +production +snapshots ", line)]
        kept, replaced = counted(server, "production")
        said = rf"the newest, [0-9a-f]{{8}}, was taken \d+ \w+ ago; {kept} snapshots?, {replaced} pre-restore"
        assert re.search(said, newest)
        (volume,) = [line for line in lines if re.match(r"ok +volume ", line)]
        assert re.search(r"/mnt/backup, \d+\.\d MB free", volume)

    def test_each_thing_that_it_is_to_show_has_a_line(self, server):
        _, found = look(server)
        everywhere = {"snapshots", "size", "cron", "rows", "drill", "service", "live database", "kept files"}
        seen = of_state(found, "well") + of_state(found, "note")
        for environment in ("production", "demo"):
            assert {subject for where, subject in seen if where == environment} == everywhere
        assert {subject for where, subject in seen if not where} == {
            *(
                "restic",
                "password",
                "repository",
                "key files",
                "check",
                "off-site copy",
                "monitor",
                "volume",
                "state folder",
                "lock",
            ),
            *("restic's locks", "crontab", "logrotate", "user"),
        }

    def test_it_takes_no_lock_and_changes_nothing(self, server):
        """Neither where a run holds this machine's lock and restic holds the repository's, alone."""
        everything = (
            f"find /mnt/backup {STATE} {ENVS} /etc/logrotate.d /var/spool/cron -path {STATE}/restic-cache -prune"
            " -o -name '*-wal' -o -name '*-shm' -o -path '*/envs/*/db.sqlite' -o -type f -printf '%p %s %T@ %C@\\n' | sort"
        )
        holder = server.sh(
            f"exec 9> {STATE}/lock; flock 9; sleep 100 > /dev/null 2>&1 & echo $!;"
            f'echo "restore of demo, process $!, since {datetime.now().astimezone().isoformat()}" >&9'
        ).strip()
        try:
            before = server.sh(everything, user="root")
            began = time.monotonic()
            code, found = look(server)
            assert time.monotonic() - began < 300, "it would have waited for twice as long"
            assert server.sh(everything, user="root") == before
        finally:
            server.run("kill", holder)
        assert code == 0
        (line,) = [line for line in found["lines"] if line["subject"] == "lock"]
        assert line["text"].startswith(f"restore of demo, process {holder}, for ")

    def test_the_hourly_run_prints_nothing_and_sends_the_screen(self, server):
        with Receiver() as receiver:
            done = server.run(STATUS, "--hourly", DODEKA_MONITOR=receiver.key_url)
            (_, (slug, signal, body)) = receiver.told
            assert (done.stdout, done.stderr) == ("", "")
            assert (slug, signal) == ("dodeka-status", "success")
            assert re.match(r"All is well, with \d notes\.\n", body)
            server.run("systemctl", "stop", "dodeka-backend-demo", user="root")
            try:
                done = server.run(STATUS, "--hourly", check=False, DODEKA_MONITOR=receiver.key_url)
            finally:
                server.run("systemctl", "start", "dodeka-backend-demo", user="root")
            assert done.returncode == 1 and done.stderr == ""
            said = "make status: Something needs attention. demo service: dodeka-backend-demo is inactive; sudo systemctl start"
            assert f" both warning: {said} dodeka-backend-demo\n" in done.stdout
            assert receiver.told[-1][1] == "fail" and "BAD  demo        service" in receiver.told[-1][2]
            done = server.run(
                STATUS,
                "--hourly",
                check=False,
                DODEKA_MONITOR=receiver.key_url,
                DODEKA_SYSTEMCTL="/none/systemctl",
            )
            assert done.returncode == 2 and "Some states are unknown. production service: " in done.stdout
            assert receiver.told[-1][1] == "log"
        assert "SECRET" not in done.stdout

    def test_json(self, server):
        _, found = look(server)
        assert datetime.fromisoformat(found["time"]).tzinfo
        lines = {(line["environment"], line["subject"]): line for line in found["lines"]}
        assert lines["production", "snapshots"]["snapshots"] == counted(server, "production")[0]
        newest = lines["production", "snapshots"]["newest_snapshot_timestamp_seconds"]
        assert 0 < time.time() - newest < 600
        assert lines["production", "size"]["stored_bytes"] > 10_000
        assert lines[None, "volume"]["volume_free_bytes"] > 10_000_000
        for line in found["lines"]:
            assert {"state", "environment", "subject", "text", "fix"} <= set(line)

    def test_prometheus(self, server):
        """Read by the parser of Prometheus' own Python library."""
        text = server.run(STATUS, "--prometheus").stdout
        assert text.endswith("\n")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert all(family.type == "gauge" and family.documentation for family in families.values())
        assert families["dodeka_backup_status"].samples[0].value == 0
        stored = {
            sample.labels["environment"]: sample.value
            for sample in families["dodeka_backup_stored_bytes"].samples
        }
        assert set(stored) == {"production", "demo"} and stored["production"] > stored["demo"]
        states = families["dodeka_backup_line_status"].samples
        assert {"environment": "demo", "subject": "cron"} in [sample.labels for sample in states]
        assert {"subject": "volume"} in [sample.labels for sample in states]

    def test_as_the_page_gives_it_to_prometheus(self, server):
        (command,) = re.findall(
            r"^\*/5 \* \* \* \* dbackup (.*)$", (ROOT / "BACKUP.md").read_text(), re.MULTILINE
        )
        (setup,) = re.findall(
            r"^```sh\n(sudo install -d .*?)```", (ROOT / "BACKUP.md").read_text(), re.MULTILINE | re.DOTALL
        )
        # the page is for a user of its own
        command, setup = (
            command.replace("/opt/dodeka-backup", str(PROJECT)),
            setup.replace("dbackup", "backend"),
        )
        collector = "/var/lib/prometheus/node-exporter"
        server.sh(f"mkdir -p {collector}; umask 077; {setup}", user="root")
        server.sh(command)
        first = server.path("/var/lib/dodeka-status/dodeka.prom").stat().st_ino
        # a collector that looks all the time sees the old file or the new one, never a part of one, and no other file
        looks = f"while [ -d {collector} ]; do ls /var/lib/dodeka-status/*.prom; tail -n 1 {collector}/*.prom; sleep 0.01; done"
        server.run("useradd", "--system", "prom", user="root")
        process = subprocess.Popen(
            server.command("sh", "-c", f"exec > /tmp/looks; {looks}", user="prom"), stderr=subprocess.DEVNULL
        )
        try:
            server.sh(command)
        finally:
            process.kill()
            process.wait()
            server.run("pkill", "-u", "prom", user="root", check=False)
        assert len(set(server.path("/tmp/looks").read_text().splitlines()) - {""}) <= 3
        assert server.path("/var/lib/dodeka-status/dodeka.prom").stat().st_ino != first
        assert (
            server.run("stat", "-c", "%U %a", "/var/lib/dodeka-status/dodeka.prom").stdout == "backend 644\n"
        )
        assert server.run("find", collector, "/var/lib/dodeka-status", "-user", "root").stdout.split() == [
            *(collector, f"{collector}/dodeka.prom"),
        ]
        collected = server.run("cat", f"{collector}/dodeka.prom", user="prom").stdout
        names = {family.name for family in text_string_to_metric_families(collected)}
        assert {"dodeka_backup_status", "dodeka_backup_line_status", "dodeka_backup_stored_bytes"} <= names


def of_demo(server: Server) -> list[str]:
    return [one["id"] for one in json.loads(server.sh("restic snapshots --tag env_demo --json", **RESTIC))]


def forget_all(server: Server) -> None:
    in_project(server, f"restic forget -q {' '.join(of_demo(server))}")


def stored_at(server: Server, moment: datetime, count: int = 1) -> None:
    """Snapshots of demo's, of another time, made by restic alone."""
    in_project(
        server,
        'id=$(restic snapshots --latest 1 --tag env_demo --json | grep -o \'"short_id":"[0-9a-f]*\' | cut -c13- | head -1);'
        "restic dump $id /dodeka-demo.sqlite.zst > /tmp/dodeka-demo.sqlite.zst;"
        f"for n in $(seq {count}); do"
        f" restic backup -q --stdin --stdin-filename dodeka-demo.sqlite.zst --time '{moment:%F %T}'"
        f" --tag {TAGS} < /tmp/dodeka-demo.sqlite.zst; done",
    )


def only_old(server: Server) -> None:
    others = of_demo(server)
    stored_at(server, datetime.now() - timedelta(minutes=31))
    in_project(server, f"restic forget -q {' '.join(others)}")


def edit_record(server: Server, job: str, **changes: object) -> None:
    file = server.path(f"{STATE}/records/{job}.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def before(age: timedelta) -> str:
    return (datetime.now().astimezone() - age).isoformat()


def fail_cron(server: Server) -> None:
    in_project(
        server,
        "mv backend/envs/demo backend/envs/gone; ! make cron ENV=demo; mv backend/envs/gone backend/envs/demo",
    )


def fail_drill(server: Server) -> None:
    in_project(
        server,
        "echo garbage | restic backup -q --stdin --stdin-filename dodeka-production.sqlite.zst"
        f" --tag {TAGS.replace('demo', 'production')}; ! make verify ENV=production; restic forget -q latest",
    )


def fail_check(server: Server) -> None:
    in_project(
        server,
        "mv /mnt/backup/restic/index /mnt/backup/index; mkdir /mnt/backup/restic/index; ! make check;"
        "rmdir /mnt/backup/restic/index; mv /mnt/backup/index /mnt/backup/restic/index",
    )


def keep_file(server: Server, kind: str) -> None:
    in_project(
        server,
        f"sqlite3 {ENVS}/demo/db.sqlite \"VACUUM INTO '{ENVS}/demo/db.sqlite.{kind}-20260101T000000Z'\"",
    )


def fill(server: Server, leave_kb: int) -> None:
    server.sh(
        f"dd if=/dev/zero of=/mnt/backup/filler bs=1k count=$(($(df --output=avail -k /mnt/backup | tail -1) - {leave_kb}))"
        " 2>/dev/null"
    )


def grow(server: Server) -> None:
    for environment in ("production", "demo"):
        edit_record(server, f"size-{environment}", details={"samples": [[before(timedelta(days=1)), 0]]})
        in_project(server, f"make cron ENV={environment}")  # which counts once a day
    fill(server, 3000)


def stop_growing(server: Server) -> None:
    server.sh(f"rm /mnt/backup/filler {STATE}/records/size-*")


def hang(server: Server) -> None:
    since = before(timedelta(minutes=31))
    server.sh(
        f"exec 9> {STATE}/lock; flock 9; sleep 1000 > /dev/null 2>&1 &"
        f' echo "restore of demo, process $!, since {since}" >&9'
    )


def kill_restic(server: Server) -> None:
    in_project(
        server,
        "mkfifo /tmp/pipe; restic backup -q --stdin < /tmp/pipe & exec 7> /tmp/pipe;"
        "until ls /mnt/backup/restic/locks | grep -qx '[0-9a-f]\\{64\\}'; do :; done; kill -9 $!; rm /tmp/pipe",
    )


def wrong_password(server: Server) -> None:
    server.sh("cd /mnt/backup; cp -p .restic-password right; echo wrong > .restic-password")


def drop_line(server: Server) -> None:
    server.sh("crontab -l | sed 's|^45 4|#45 4|' | crontab -")


def sh(script: str) -> Callable[[Server], None]:
    return lambda server: server.sh(script, user="root")


# what is broken, how, the lines that are bad then, words of the first one, and how it is fixed (None: as it says)
CASES = {
    "no snapshot": (forget_all, ["demo snapshots"], "no snapshot yet", None),
    "the newest is old": (only_old, ["demo snapshots"], "was taken 31 minutes ago", None),
    "one from the future": (
        lambda server: stored_at(server, datetime.now() + timedelta(days=3)),
        ["demo snapshots"],
        "from the future, so no snapshot is removed",
        None,
    ),
    "more than retention keeps": (
        lambda server: stored_at(server, datetime.now() - timedelta(hours=1), 72),
        ["demo snapshots"],
        "pre-restore: more than the retention policy keeps",
        None,
    ),
    "a failed cron run": (fail_cron, ["demo cron"], "demo/db.sqlite is missing", None),
    "no cron run for 31 minutes": (
        lambda server: edit_record(server, "cron-demo", passed=before(timedelta(minutes=31))),
        ["demo cron"],
        "the last good run was 31 minutes ago",
        None,
    ),
    "no cron run": (sh(f"rm {STATE}/records/cron-production.json"), ["production cron"], "no good run", None),
    "a failed drill": (fail_drill, ["production drill"], "the compressed export is", None),
    "no drill for 9 days": (
        lambda server: edit_record(server, "drill-production", passed=before(timedelta(days=9))),
        ["production drill"],
        "the last good drill was 9 days ago",
        None,
    ),
    "a drill in the future": (
        lambda server: edit_record(server, "drill-production", passed=before(timedelta(days=-9))),
        ["production drill"],
        "the last good drill is in the future",
        None,
    ),
    "no drill": (
        sh(f"rm {STATE}/records/drill-production.json"),
        ["production drill"],
        "no good drill",
        None,
    ),
    "a stopped service": (
        sh("systemctl stop dodeka-backend-demo"),
        ["demo service"],
        "dodeka-backend-demo is inactive",
        None,
    ),
    "a restore would not be allowed to stop it": (
        sh("mv /etc/sudoers.d/dodeka /tmp"),
        ["demo service", "production service"],
        "sudo does not let this user stop and start it: no restore could",
        sh("mv /tmp/dodeka /etc/sudoers.d"),
    ),
    "it may be stopped and not started": (
        sh(
            "mv /etc/sudoers.d/dodeka /tmp; grep -v start.*demo"
            f" {PROJECT}/deploy/dodeka-backup-sudoers > /etc/sudoers.d/dodeka"
        ),
        ["demo service"],
        "dodeka-backend-demo is active, but sudo does not let",
        sh("mv /tmp/dodeka /etc/sudoers.d"),
    ),
    "no unit": (
        sh(f"mv {DEMO_UNIT} /tmp; systemctl stop dodeka-backend-demo; systemctl daemon-reload"),
        ["demo service"],
        "dodeka-backend-demo is not-found",
        sh(
            f"mv /tmp/{DEMO_UNIT.name} {DEMO_UNIT}; systemctl daemon-reload; systemctl start dodeka-backend-demo"
        ),
    ),
    "a kept file": (
        lambda server: keep_file(server, "pre-restore"),
        ["demo kept files"],
        "is not in a snapshot yet",
        None,
    ),
    "a damaged file": (
        lambda server: keep_file(server, "damaged"),
        ["demo kept files"],
        "restores replaced damaged databases, kept as",
        None,
    ),
    "a failed check": (fail_check, [" check"], "failed", None),
    "no check for 9 days": (
        lambda server: edit_record(server, "check", passed=before(timedelta(days=9))),
        [" check"],
        "the last good check was 9 days ago",
        None,
    ),
    "no check": (sh(f"rm {STATE}/records/check.json"), [" check"], "no good check is on record", None),
    "password for all to read": (
        sh("chmod 644 /mnt/backup/.restic-password"),
        [" password"],
        "can be read by others",
        None,
    ),
    "no password": (
        sh("mv /mnt/backup/.restic-password /mnt/backup/away"),
        [" password"],
        "is missing",
        sh("mv /mnt/backup/away /mnt/backup/.restic-password"),
    ),
    "another password": (
        wrong_password,
        [" repository"],
        "does not open repository",
        sh("mv /mnt/backup/right /mnt/backup/.restic-password"),
    ),
    "no repository": (
        sh("mv /mnt/backup/restic /mnt/backup/away"),
        [" repository"],
        "no restic repository at /mnt/backup/restic",
        sh("mv /mnt/backup/away /mnt/backup/restic"),
    ),
    "the volume is not mounted": (
        sh("umount /mnt/backup"),
        [" volume", " password"],
        "no volume is mounted there",
        None,
    ),
    "the volume is read-only": (
        sh("mount -o remount,ro,bind /mnt/backup"),
        [" volume"],
        "/mnt/backup is mounted read-only",
        sh("mount -o remount,rw,bind /mnt/backup"),
    ),
    "the volume is full": (
        lambda server: fill(server, 200),
        [" volume"],
        "free",
        sh("rm /mnt/backup/filler"),
    ),
    "the volume is full soon": (grow, [" volume"], "enough for ", stop_growing),
    "a run that hangs": (hang, [" lock"], "for 31 minutes", None),
    "a lock of a dead restic": (kill_restic, [" restic's locks"], "left by a restic that was killed", None),
    "no crontab": (sh("crontab -u backend -r"), [" crontab"], "6 of the 6 shipped lines are missing", None),
    "a line of the crontab is missing": (drop_line, [" crontab"], "1 of the 6 shipped lines", None),
    "no logrotate": (
        sh("rm /etc/logrotate.d/dodeka-backup"),
        [" logrotate"],
        "is not as shipped",
        install_logrotate,
    ),
}


@pytest.mark.slow(
    "each line",
    keep=[
        "the newest is old",
        "a failed cron run",
        "password for all",
        "not mounted",
        "not be allowed",
        "lock of a dead",
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_each_line_made_bad_is_seen_and_fixed_as_it_says(server, case):
    break_it, bad, words, fix = CASES[case]
    break_it(server)
    try:
        code, found = look(server)
        assert (code, found["state"]) == (1, "bad")
        assert sorted(of_state(found, "bad")) == sorted(tuple(line.split(" ", 1)) for line in bad)
        shown = [
            line
            for line in found["lines"]
            if (line["environment"] or "", line["subject"]) in of_state(found, "bad")
        ]
        assert found["lines"][: len(bad)] == shown, "the worst first"
        (line,) = [
            line for line in shown if [line["environment"] or "", line["subject"]] == bad[0].split(" ", 1)
        ]
        assert words in line["text"]
        assert all(line["fix"] for line in shown)
        text = server.run(STATUS, check=False).stdout.splitlines()
        assert text[0] == "Something needs attention." and text[2].startswith("BAD ")
        assert f"fix: {shown[0]['fix']}" in text[3]
        prometheus = server.run(STATUS, "--prometheus", check=False).stdout
        assert "dodeka_backup_status 1\n" in prometheus
    finally:
        if fix:
            fix(server)
    if not fix:
        command = line["fix"].split(": ")[-1]  # behind "see what failed; then"
        answers = "yes\n" if "install" in command else ""
        server.sh(f"cd {PROJECT}; {command}", stdin=answers, PATH=RESTIC["PATH"])
    assert_all_is_well(server)


class TestElsewhere:
    """What a server's own files do not show."""

    def test_restic_missing(self, server):
        code, found = look(server, RESTIC="/none/restic")
        assert code == 1 and of_state(found, "bad") == [("", "restic")]
        assert ("", "repository") in of_state(found, "unknown") and ("demo", "cron") in of_state(
            found, "well"
        )
        (line,) = [line for line in found["lines"] if line["subject"] == "restic"]
        assert line["text"] == "/none/restic is not installed" and line["fix"] == "make setup"

    def test_little_room_for_exports(self, server):
        server.sh(
            f"mkdir /tmp/state; mount -t tmpfs -o size=$(($(du -sk {STATE} | cut -f1) + 700))k tmpfs /tmp/state;"
            f"cp -a {STATE}/. /tmp/state; chown backend: /tmp/state",
            user="root",
        )
        code, found = look(server, DODEKA_STATE="/tmp/state")
        assert code == 1 and of_state(found, "bad") == [("", "state folder")]

    def test_what_cannot_be_told(self, server):
        code, found = look(server, DODEKA_SYSTEMCTL="/none/systemctl")
        assert (code, found["state"]) == (2, "unknown")
        assert of_state(found, "unknown") == [("production", "service"), ("demo", "service")]
        assert server.run(STATUS, check=False, DODEKA_SYSTEMCTL="/none/systemctl").stdout.startswith(
            "Some states are unknown.\n"
        )

    def test_a_repository_that_cannot_be_reached(self, server):
        # newer restics go on trying for a while, and the status says so
        said = r"(\S+ warning: lost contact with rest:http://127\.0\.0\.1:9/: .*; retrying for up to 60 s\n)?"
        code, found = look(server, said, RESTIC_REPOSITORY="rest:http://127.0.0.1:9/")
        assert code == 2 and of_state(found, "bad") == []
        (line,) = [line for line in found["lines"] if line["subject"] == "repository"]
        assert line["state"] == "unknown" and line["fix"] is None
        assert "volume" not in [line["subject"] for line in found["lines"]], "that is another machine's"

    def test_a_folder_that_cannot_be_read(self, server):
        server.run("chmod", "0", "/tmp/volume", user="root")
        try:
            code, found = look(server)
        finally:
            server.run("chmod", "755", "/tmp/volume", user="root")
        assert code == 2 and of_state(found, "bad") == []
        assert {("", "password"), ("", "repository"), ("", "volume")} <= set(of_state(found, "unknown"))
        assert ("production", "cron") in of_state(found, "well")

    def test_records_that_cannot_be_read_or_make_no_sense(self, server):
        file = server.path(f"{STATE}/records/cron-demo.json")
        good = file.read_text()
        server.run("chmod", "0", f"{STATE}/records", user="root")
        try:
            code, found = look(server)
        finally:
            server.run("chmod", "700", f"{STATE}/records", user="root")
        assert code == 2 and ("demo", "cron") in of_state(found, "unknown")
        for nonsense in ("", "[]", '{"passed": 5, "failed": null, "error": "", "details": {}}'):
            file.write_text(nonsense)
            code, found = look(server)
            assert code == 1 and of_state(found, "bad") == [("demo", "cron")]
        file.write_text(good.replace("+00:00", ""))  # a time without its zone
        assert_all_is_well(server)

    def test_as_root_it_cannot_be_told(self, server):
        done = server.run(STATUS, user="root", check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "belongs to backend, not to root; run this as backend" in done.stderr

    def test_a_reader_that_goes_away(self, server):
        assert server.sh(f"{STATUS} | true; {STATUS} 2>&1 | head -1").startswith("All is well, with ")

    def test_settings_that_cannot_be_read(self, server):
        done = server.run(STATUS, check=False, DODEKA_BACKUP_ENV="/none/backup.env")
        assert done.returncode == 2 and done.stdout == ""
        assert "settings file /none/backup.env cannot be read" in done.stderr


def test_the_growth_per_day(site):
    demo = site.settings.environment("demo")
    assert snapshot_growth.bytes_per_day(site.state, demo) is None

    def samples(*ages_and_sizes: tuple[timedelta, int]) -> None:
        entries = [[before(age), size] for age, size in ages_and_sizes]
        job_records.passed(site.state, "size-demo", {"samples": entries})

    now = (timedelta(0), 1000)
    samples(now)
    assert snapshot_growth.bytes_per_day(site.state, demo) is None
    samples((timedelta(hours=2), 500), now)
    assert snapshot_growth.bytes_per_day(site.state, demo) is None, "two hours say nothing of a day"
    samples((timedelta(days=20), 0), (timedelta(days=5), 500), (timedelta(days=1), 900), now)
    assert snapshot_growth.bytes_per_day(site.state, demo) == pytest.approx(100, rel=0.01)
    samples((timedelta(days=2), 5000), now)
    assert snapshot_growth.bytes_per_day(site.state, demo) == pytest.approx(-2000, rel=0.01)


def test_more_than_the_retention_keeps_is_counted_by_tags(site: Site):
    """The host makes no group of its own, and pre-restore snapshots are kept by a rule of their own, however many."""
    now = datetime.now().astimezone()

    def state(count: int, *tags: str) -> State:
        entries = [
            Snapshot(
                f"{number:064x}",
                now - timedelta(minutes=number),
                "demo",
                ("env_demo", *tags),
                f"host {number % 2}",
                "/dodeka-demo.sqlite.zst",
                f"{number:064x}",
            )
            for number in reversed(range(count))
        ]
        return status_repository.snapshots(
            site.settings.main, site.settings.environment("demo"), entries
        ).state

    assert state(60) is State.WELL
    assert state(100) is State.BAD
    newest = Snapshot("f" * 64, now, "demo", ("env_demo",), "host", "/x", "f" * 64)
    tags = ("env_demo", "pre-restore")
    kept = [Snapshot(f"{n:064x}", now, "demo", tags, "host", "/x", f"{n:064x}") for n in range(200)]
    demo = site.settings.environment("demo")
    assert status_repository.snapshots(site.settings.main, demo, [*kept, newest]).state is State.WELL


def test_a_snapshot_without_a_database_is_not_the_newest(site: Site):
    """A restore of `latest` passes over it."""
    tags = "db,db_sqlite,db_dodeka,env_demo"
    site.restic("backup", "--stdin", "--stdin-filename", "other", "--tag", tags, input="x")

    def line() -> dict:
        lines = json.loads(site.run("status", "--json").stdout)["lines"]
        return next(line for line in lines if (line["environment"], line["subject"]) == ("demo", "snapshots"))

    assert (line()["state"], line()["text"]) == ("bad", "no snapshot holds a database")
    site.ok("backup", "demo")
    newest = site.snapshots("demo")[-1]["short_id"]
    site.restic("backup", "--stdin", "--stdin-filename", "other", "--tag", tags, input="y")
    assert line()["text"].startswith(f"the newest, {newest}, was taken ")


def test_a_record_that_cannot_be_written_leaves_no_file(small_disk: Path):
    """Or a full disk would get one more with each run."""
    (small_disk / "records").mkdir()
    with suppress(OSError), (small_disk / "rest").open("wb", buffering=0) as rest:
        while rest.write(bytes(4096)):
            pass
    job_records.passed(small_disk, "cron-demo", {"text": "x" * 8192})
    assert list((small_disk / "records").iterdir()) == []
