"""Cron runs that meet each other, dead ones, locks, damage, full and missing disks, and a silent monitor."""

import fcntl
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dodeka_db import schedule
from free_ports import free_port
from monitor_receiver import Receiver
from site_folder import RESTIC, ROOT, Site, run_first
from waiting import wait_for

CRON = ROOT / "bin" / "dodeka-db-cron.py"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and make namespaces")
VERSION = tuple(map(int, re.findall(r"\d+", subprocess.getoutput(f"{RESTIC} version"))[:2]))


def start(site: Site, environment: str = "production", *before: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*before, CRON, environment],
        env={**site.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# the cron script at a time of day that stands still for what decides when the next run is due
AT = """
import runpy, sys
from datetime import datetime
sys.path.insert(0, {bin!r})
from dodeka_db.flows import cron
class Fixed(datetime):
    now = classmethod(lambda cls: datetime.fromisoformat("2026-11-24 {at}"))
cron.datetime = Fixed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_at(site: Site, at: str, environment: str, **variables: str) -> subprocess.Popen:
    return start(
        site, environment, sys.executable, "-c", AT.format(bin=str(ROOT / "bin"), at=at), **variables
    )


def descendants(process: int) -> dict[int, str]:
    """The command lines of all processes below `process`."""
    found = {}
    for task in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"\) \S (\d+)", (task / "stat").read_text())[1])
            words = (task / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, TypeError):
            continue
        found[int(task.name)] = (parent, words)
    below, grown = {process}, True
    while grown:
        more = {child for child, (parent, _) in found.items() if parent in below} - below
        below, grown = below | more, bool(more)
    return {child: found[child][1] for child in below if child in found and child != process}


def locks(site: Site) -> list[Path]:
    # restic writes a lock under another name first
    return [path for path in (site.repository / "locks").iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)]


@contextmanager
def live_lock(site: Site, *before: str) -> Iterator[subprocess.Popen]:
    """A real restic that is in the middle of a backup: of a pipe that does not end before the block does."""
    restic = subprocess.Popen(
        [*before, RESTIC, "backup", "--quiet", "--stdin", "--tag", "other"],
        env={**site.environ, "RESTIC_CACHE_DIR": str(site.folder / "cache")},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: locks(site))
        yield restic
    finally:
        restic.communicate(b"content")


@contextmanager
def held(site: Site, text: str) -> Iterator[None]:
    """The lock of this machine, held by this process, with `text` in it."""
    site.state.mkdir(exist_ok=True)
    with open(site.state / "lock", "w") as file:
        file.write(text)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def records(site: Site, job: str) -> dict:
    return json.loads((site.state / "records" / f"{job}.json").read_text())


class TestTheLockOfThisMachine:
    def test_two_runs_at_once(self, site):
        # both just after a run was due, so that there is time to wait
        both = [start_at(site, "12:06:10", name, DODEKA_LOCK_WAIT_S="60") for name in ("production", "demo")]
        output = [run.communicate()[0] for run in both]
        assert [run.returncode for run in both] == [0, 0]
        waited = [text for text in output if "waiting up to" in text]
        assert len(waited) == 1
        assert re.search(
            r"waiting up to 60 s for another run: cron run of (production|demo), process \d+, since 20\S+T\S+",
            waited[0],
        )
        # one after the other: the second began to work when the first had ended
        assert len(site.snapshots("production")) == len(site.snapshots("demo")) == 1

    def test_a_holder_that_is_killed_holds_nothing(self, site):
        slow = site.folder / "slow-restic"
        run_first(slow, '[ "$1" != backup ] || exec sleep 1000')
        run = start(site, RESTIC=str(slow))
        (orphan,) = wait_for(
            lambda: [pid for pid, words in descendants(run.pid).items() if words == "sleep 1000 "]
        )
        run.kill()
        run.communicate()
        try:
            os.kill(orphan, 0)  # a child that lives on does not hold it either
            output = site.ok("cron", "production")
        finally:
            os.kill(orphan, signal.SIGKILL)
        assert "waiting" not in output
        assert len(site.snapshots("production")) == 1
        assert site.staged() == []

    @pytest.mark.parametrize(
        ("environment", "at", "wait_s"),
        [("production", "11:59:57", 3), ("demo", "12:05:57", 3), ("production", "12:05:57", 363)],
    )
    def test_cron_waits_at_most_until_its_next_run_is_due(self, site, environment, at, wait_s):
        with held(site, "restore of demo, process 1"):
            run = start_at(site, at, environment, DODEKA_LOCK_WAIT_S="600")
            said = run.stdout.readline()
            if wait_s > 10:
                run.terminate()
            _, problem = run.communicate()
            if wait_s < 10:
                assert run.returncode == 75
                assert "another run holds" in problem and "(restore of demo, process 1)" in problem
        assert f"waiting up to {wait_s} s for another run: restore of demo, process 1" in said

    @pytest.mark.slow("each command")
    def test_drill_check_init_and_restore_wait_for_it_too(self, site):
        site.ok("backup", "demo")
        with held(site, "cron run of demo, process 1"):
            for words in (
                ["verify", "demo"],
                ["check"],
                ["init"],
                ["backup", "demo"],
                ["restore", "demo", "--snapshot=latest", "--yes"],
                ["undo", "demo", "--yes"],
            ):
                done = site.run(*words)
                assert done.returncode == 75, words
                assert "waiting up to 1 s for another run: cron run of demo, process 1" in done.stdout
                assert "another run holds" in done.stderr
            site.ok("snapshots")  # only looks


def test_seconds_until_the_next_run():
    at = datetime(2026, 11, 24, 23, 59, 30)
    assert schedule.seconds_until_next("production", at) == 30
    assert schedule.seconds_until_next("demo", at) == 390
    assert schedule.seconds_until_next("production", at.replace(minute=36, second=0)) == 720
    assert schedule.seconds_until_next("demo", at.replace(minute=0, second=0)) == 360
    assert schedule.seconds_until_next("demo", at.replace(minute=5, second=59)) == 1


class TestTheRepositorysLocks:
    @pytest.mark.slow("each command, alone and with our process", keep=["with our process-forget"])
    @pytest.mark.parametrize("verb", ["backup", "forget"])
    @pytest.mark.parametrize("with_us", [False, True], ids=["restic alone", "with our process"])
    def test_a_killed_restic_stops_no_later_run(self, site, verb, with_us):
        """Killed while it holds its lock; that moment is short, so several are tried until one hits it."""
        site.ok("cron", "production")
        for _ in range(50):
            run = start(site)
            child = wait_for(
                lambda run=run: (
                    run.poll() is not None
                    or [pid for pid, words in descendants(run.pid).items() if f" {verb} " in words]
                )
            )
            if child is True:
                run.communicate()
                continue
            wait_for(lambda run=run: locks(site) or run.poll() is not None)
            try:
                if with_us:
                    run.kill()
                os.kill(child[0], signal.SIGKILL)
            except ProcessLookupError:
                pass
            _, problem = run.communicate()
            if locks(site):
                break
        assert locks(site), "no lock was left behind in 50 attempts"
        assert run.returncode == (-9 if with_us else 1)
        if not with_us:
            assert "killed by SIGKILL" in problem
            assert ("is safe, but the retention failed" in problem) == (verb == "forget")
        stored = len(list((site.repository / "snapshots").iterdir()))
        # as long as nobody has asked for the exit code of a dead process, restic takes it for alive
        output = site.ok("cron", "production", DODEKA_LOCK_WAIT_S="30")
        assert "removing the lock if it is stale" in output
        assert locks(site) == []
        assert stored < len(site.snapshots("production")) <= 10
        site.restic("check", "--read-data")

    def test_a_live_lock_is_waited_for(self, site):
        with live_lock(site):
            run = start(site, DODEKA_LOCK_WAIT_S="60")
            for line in run.stdout:
                if "is locked by PID" in line:
                    break
        assert run.communicate()[1] == ""
        assert run.returncode == 0
        assert "removing the lock if it is stale, otherwise waiting" in line

    def test_a_live_lock_that_stays_fails_the_run_and_is_left_alone(self, site):
        with live_lock(site) as restic:
            held = locks(site)
            done = site.run("cron", "production")
            assert restic.poll() is None and locks(site) == held
        assert done.returncode == 11
        assert re.search(
            rf"error: snapshot [0-9a-f]{{8}} is safe, but the retention failed: repository \S+ is locked by"
            rf" PID {restic.pid} on {socket.gethostname()}; wait for that run to end",
            done.stderr,
        )
        assert len(site.snapshots("production")) == 1

    @needs_root
    def test_a_fresh_lock_of_another_host_is_not_ours_to_remove(self, site):
        """Its process cannot be seen from here, so that it counts as alive until it is 30 minutes old."""
        other = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"')
        with live_lock(site, *other) as restic:
            restic.kill()
            restic.wait()
        held = locks(site)
        assert len(held) == 1
        done = site.run("cron", "production")
        assert done.returncode == 11
        assert "on elsewhere" in done.stderr
        assert locks(site) == held


class TestNothingIsRemovedOnFaith:
    @pytest.fixture
    def crowded(self, site):
        """Snapshots that retention would thin out, a minute apart, and the database that they are of."""
        first = datetime.now().replace(microsecond=0) - timedelta(hours=3)
        tags = "db,db_sqlite,db_dodeka,env_production"
        site.ok("backup", "production")
        file = site.folder / "dodeka-production.sqlite.zst"
        (only,) = site.snapshots("production")
        with open(file, "wb") as target:
            subprocess.run(
                [RESTIC, "dump", only["id"], only["path"]], env=site.environ, stdout=target, check=True
            )
        for minute in range(14):
            time_ = first + timedelta(minutes=minute)
            site.restic("backup", "--quiet", "--time", f"{time_:%F %T}", "--tag", tags, str(file))
        return site

    def damage(self, site: Site) -> Path:
        """The largest pack, with some bytes in its middle changed."""
        pack = max((site.repository / "data").rglob("[0-9a-f]*"), key=lambda path: path.stat().st_size)
        pack.chmod(0o600)  # restic makes them for reading only
        with open(pack, "r+b") as file:
            file.seek(pack.stat().st_size // 2)
            file.write(b"DAMAGED!")
        return pack

    def test_a_snapshot_that_does_not_read_back_fails_the_run_and_keeps_everything(self, crowded):
        before = {entry["id"] for entry in crowded.snapshots("production")}
        pack = self.damage(crowded)
        done = crowded.run("cron", "production")
        assert done.returncode == 8
        assert re.search(
            r"error: snapshot [0-9a-f]{8} does not read back, and nothing was removed: ", done.stderr
        )
        assert done.stderr.endswith("; see BACKUP.md, 'Damaged'\n")
        after = {entry["id"] for entry in crowded.snapshots("production")}
        assert before < after and len(after) == len(before) + 1
        assert "does not read back" in records(crowded, "cron-production")["error"]

        # what BACKUP.md says, 'Damaged'
        if VERSION >= (0, 16):
            crowded.restic("repair", "packs", pack.name, cwd=crowded.folder)
        else:
            pack.rename(crowded.folder / pack.name)
            crowded.restic("rebuild-index")
        output = crowded.ok("cron", "production")
        assert int(re.search(r"(\d+) old snapshots? removed", output)[1]) > 0
        assert records(crowded, "cron-production")["failed"] is None
        crowded.restic("check", "--read-data")  # the others are whole again too: it is the same content

    def test_a_backup_by_hand_is_read_back_too(self, crowded):
        self.damage(crowded)
        done = crowded.run("backup", "production")
        assert done.returncode == 8
        assert re.search(
            r"error: snapshot [0-9a-f]{8} does not read back, and nothing was removed: ", done.stderr
        )
        assert "done:" not in done.stdout

    def test_restic_s_cache_does_not_stand_in_for_the_repository(self, site):
        """What the run itself has just written is damaged before it is read back; the cache has the tree."""
        wrapper = site.folder / "damaging-restic"
        wrapper.write_text(
            f'#!/bin/sh\n[ "$1" != dump ] || find {site.repository}/data -type f -size -2k -newer {wrapper}'
            f" -exec chmod 600 {{}} ';' -exec dd if=/dev/zero of={{}} bs=100 count=1 conv=notrunc status=none ';'\n"
            f'exec {RESTIC} "$@"\n'
        )
        wrapper.chmod(0o755)
        done = site.run("cron", "production", RESTIC=str(wrapper))
        assert done.returncode == 8
        assert "does not read back, and nothing was removed" in done.stderr

    @pytest.mark.parametrize(
        ("ending", "code", "words"),
        [
            ("kill -KILL $$", 1, "restic dump failed with exit code -9: killed by SIGKILL"),
            (
                "echo 'open /mnt: permission denied' >&2; exit 1",
                6,
                "has files that this user may not read or write: ",
            ),
        ],
    )
    def test_what_could_not_be_read_back_for_another_reason_is_not_called_damage(
        self, site, ending, code, words
    ):
        """A fake dump that is killed, or that may not read its repository: nobody should repair anything."""
        fake = site.folder / "fake-restic"
        run_first(fake, f'[ "$1" = dump ] && {{ {ending}; }}')
        done = site.run("cron", "production", RESTIC=str(fake))
        assert done.returncode == code
        assert words in done.stderr
        assert "applying the retention" not in done.stdout

    def test_a_snapshot_that_reads_back_as_something_else(self, site):
        """A fake dump: no real restic would give out other bytes than it has checked."""
        fake = site.folder / "fake-restic"
        run_first(fake, '[ "$1" = dump ] && exec echo other')
        done = site.run("cron", "production", RESTIC=str(fake))
        assert done.returncode == 8
        assert (
            "does not read back, and nothing was removed: the content differs from the stored file"
            in done.stderr
        )

    def test_a_snapshot_from_the_future_is_warned_of_and_removes_nothing(self, crowded):
        tags = "db,db_sqlite,db_dodeka,env_production"
        file = crowded.folder / "dodeka-production.sqlite.zst"
        later = datetime.now() + timedelta(days=40)
        crowded.restic("backup", "--quiet", "--time", f"{later:%F %T}", "--tag", tags, str(file))
        future = crowded.snapshots("production")[-1]["short_id"]
        before = len(crowded.snapshots("production"))
        output = crowded.ok("cron", "production")
        assert f"warning: snapshot {future} is from the future ({later:%F}T" in output
        assert f"make restic ARGS='forget {future}'" in output
        assert ", 0 old snapshots removed, " in output
        assert len(crowded.snapshots("production")) == before + 1
        crowded.restic("forget", future)
        assert ", 0 old snapshots removed, " not in crowded.ok("cron", "production")


class TestARunDidAllItShouldOrFailed:
    @pytest.mark.parametrize(("verb", "exit_code"), [("backup", 3), ("forget", 3), ("backup", 77)])
    def test_every_exit_code_of_restic_but_0_is_a_failure(self, site, verb, exit_code):
        """A restic that does it all and then ends with another code: a fake, for a single file gives no real 3."""
        fake = site.folder / "fake-restic"
        fake.write_text(f'#!/bin/sh\n{RESTIC} "$@" || exit\n[ "$1" != {verb} ] || exit {exit_code}\n')
        fake.chmod(0o755)
        done = site.run("cron", "production", RESTIC=str(fake))
        assert done.returncode == 1
        assert f"restic {verb} failed with exit code {exit_code}" in done.stderr
        assert ("is safe, but the retention failed" in done.stderr) == (verb == "forget")

    def test_no_room_for_the_export(self, site, small_disk):
        done = site.run("cron", "production", DODEKA_STATE=str(small_disk / "state"))
        assert done.returncode == 1
        assert re.search(
            rf"no room left for the export in {small_disk}/state: \d+ kB are free, \d{{4}} kB may be needed;"
            " free some space, or set DODEKA_STATE to another disk",
            done.stderr,
        )
        assert "exporting" not in done.stdout

    def test_a_state_folder_that_is_full(self, site, small_disk):
        """Its lock cannot even be written into; a restore, which needs no room there, goes on."""
        site.ok("backup", "production")
        state = {"DODEKA_STATE": str(small_disk / "state"), "RESTIC_CACHE_DIR": str(site.folder / "cache")}
        (small_disk / "state").mkdir()
        (small_disk / "state" / "staging").mkdir(0o700)
        (small_disk / "state" / "lock").touch()
        subprocess.run(["dd", "if=/dev/zero", f"of={small_disk}/filler"], stderr=subprocess.DEVNULL)
        for script in ("backup", "cron"):
            done = site.run(script, "production", **state)
            assert done.returncode == 1
            assert f"no room left for the export in {small_disk}/state: 0 kB are free" in done.stderr
            assert "free some space, or set DODEKA_STATE to another disk" in done.stderr
        done = site.run("verify", "production", **state)
        assert f"{small_disk}/state" in done.stderr and "a file:" not in done.stderr
        assert "DODEKA_STATE" in done.stderr
        done = site.run("restore", "production", "--snapshot=latest", "--yes", **state)
        assert "production has the data of snapshot" in done.stdout + done.stderr

    def test_a_password_file_on_a_full_disk(self, site, small_disk):
        file = small_disk / "password"
        subprocess.run(["dd", "if=/dev/zero", f"of={small_disk}/filler"], stderr=subprocess.DEVNULL)
        done = site.run(
            "init", "--yes", RESTIC_PASSWORD_FILE=str(file), RESTIC_REPOSITORY=str(site.folder / "new")
        )
        assert done.returncode == 6
        assert f"password file {file} cannot be written: No space left on device; " in done.stderr
        assert not file.exists()

    @pytest.fixture
    def on_a_disk(self, site, small_disk):
        """The repository on a disk of its own with little room, with a snapshot of demo in it."""
        subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
        site.ok("backup", "demo")
        subprocess.run(["cp", "-a", site.repository, small_disk / "restic"], check=True)
        site.config.write_text(
            site.config.read_text().replace(str(site.repository), str(small_disk / "restic"))
        )
        return lambda verb, *words, **more: site.run(
            verb, *words, RESTIC_REPOSITORY=str(small_disk / "restic"), **more
        )

    def test_a_volume_that_is_nearly_full(self, on_a_disk, small_disk):
        used = sum(path.stat().st_blocks * 512 for path in small_disk.rglob("*"))
        subprocess.run(["mount", "-o", f"remount,size={used // 1024 + 200}k", small_disk], check=True)
        done = on_a_disk("cron", "production")
        assert done.returncode == 1
        assert f"no room left for a snapshot in {small_disk}/restic: " in done.stderr
        assert "storing" not in done.stdout
        # what is there can be read all the same
        subprocess.run(["dd", "if=/dev/zero", f"of={small_disk}/filler"], stderr=subprocess.DEVNULL)
        assert on_a_disk("snapshots", "demo").returncode == 0
        assert on_a_disk("verify", "demo").returncode == 0

    @pytest.fixture
    def filled(self, site, small_disk):
        """A disk of the repository's own, which snapshots have filled that the policy does not keep; where it is."""
        subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
        repository = small_disk / "restic"
        subprocess.run(["cp", "-a", site.repository, repository], check=True)
        for name in ("production", "demo"):
            tags = f"db,db_sqlite,db_dodeka,env_{name}"
            file = site.folder / f"dodeka-{name}.sqlite.zst"
            for minute in range(16):
                file.write_bytes(os.urandom(60_000))
                time_ = datetime.now() - timedelta(days=3, minutes=minute)
                site.restic(
                    *(
                        "-r",
                        str(repository),
                        "backup",
                        "--quiet",
                        "--time",
                        f"{time_:%F %T}",
                        "--tag",
                        tags,
                        str(file),
                    )
                )
        return repository

    def leave_free(self, disk: Path, count_kb: int) -> None:
        status = os.statvfs(disk)
        used_kb = (status.f_blocks - status.f_bfree) * status.f_frsize // 1024
        subprocess.run(["mount", "-o", f"remount,size={used_kb + count_kb}k", disk], check=True)

    def kept(self, site, repository: Path) -> set[str]:
        listed = json.loads(site.restic("-r", str(repository), "snapshots", "--json", "--no-lock").stdout)
        return {one["id"] for one in listed}

    @pytest.mark.slow("each amount of room", keep=["[0 kB free]"])
    @pytest.mark.parametrize("free_kb", [0, 4, 120, 300], ids="{} kB free".format)
    @pytest.mark.long
    def test_a_volume_that_the_snapshots_have_filled(self, site, small_disk, filled, free_kb):
        """The retention frees some, and removes nothing that the policy keeps."""
        before = self.kept(site, filled)
        kept = set()
        for name in ("production", "demo"):
            policy = (
                "--keep-last=10",
                "--keep-hourly=24",
                "--keep-daily=7",
                "--keep-weekly=4",
                "--keep-monthly=6",
            )
            said = site.restic(
                *(
                    "-r",
                    str(filled),
                    "forget",
                    "--dry-run",
                    "--json",
                    "--group-by",
                    "tags",
                    "--tag",
                    f"env_{name}",
                ),
                *policy,
            )
            groups, _ = json.JSONDecoder().raw_decode(said.stdout)
            kept |= {one["id"] for group in groups for one in group["keep"]}
        assert kept < before
        self.leave_free(small_disk, free_kb)
        output = site.ok("cron", "production", RESTIC_REPOSITORY=str(filled))
        is_early = "applying the retention policy first, then trying once more" in output
        assert is_early == (free_kb < 300)
        after = self.kept(site, filled)
        if is_early:
            assert len(kept - after) <= 1, "the new snapshot may be the end of another one's time"
            removed = re.search(r", (\d+) old snapshots? removed, ", output)
            assert (
                removed and int(removed[1]) == len(before - after) > 0
            )  # how many depends on the time of day
        assert len(after - before) == 1
        site.restic("-r", str(filled), "check", "--read-data")
        site.ok("verify", "production", RESTIC_REPOSITORY=str(filled))

    @pytest.mark.parametrize("free_kb", [0, 120])
    def test_a_volume_that_something_else_has_filled(self, site, small_disk, on_a_disk, free_kb):
        before = self.kept(site, small_disk / "restic")
        self.leave_free(small_disk, free_kb)
        done = on_a_disk("cron", "production")
        assert done.returncode == 1
        assert re.search(
            r"error: .*, even after the retention policy removed 0 old snapshots; see BACKUP.md, 'The volume is full'",
            done.stderr,
        )
        assert self.kept(site, small_disk / "restic") == before

    def test_a_volume_that_fills_up_while_restic_writes(self, on_a_disk, small_disk, site):
        slow = site.folder / "filling-restic"
        run_first(slow, f'[ "$1" != backup ] || dd if=/dev/zero of={small_disk}/filler 2>/dev/null')
        done = on_a_disk("cron", "production", RESTIC=str(slow))
        assert done.returncode == 1
        assert f"the disk of repository {small_disk}/restic is full, even after the retention" in done.stderr
        (small_disk / "filler").unlink()
        assert on_a_disk("cron", "production").returncode == 0

    def test_a_volume_that_is_mounted_read_only(self, on_a_disk, small_disk):
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        began = time.monotonic()
        done = on_a_disk("cron", "production")
        assert time.monotonic() - began < 60, "restic itself would try for up to a quarter of an hour"
        assert done.returncode == 1
        assert f"{small_disk}/restic is on a file system that is mounted read-only" in done.stderr
        assert f"sudo mount -o remount,rw {small_disk}" in done.stderr
        assert on_a_disk("snapshots", "demo").returncode == 0
        assert on_a_disk("verify", "demo").returncode == 0

    def test_a_repository_that_is_gone(self, site):
        site.repository.rename(site.folder / "unmounted")
        done = site.run("cron", "production")
        assert done.returncode == 10
        assert not site.repository.exists()
        assert "no restic repository" in records(site, "cron-production")["error"]


class TestHeartbeats:
    def test_after_a_good_run_and_after_a_bad_one(self, site):
        with Receiver() as production, Receiver() as demo:
            urls = {"DODEKA_PING_URL_PRODUCTION": production.url, "DODEKA_PING_URL_DEMO": f"{demo.url}?x=1"}
            output = site.ok("cron", "production", **urls)
            assert production.calls == [("GET", "/ping/SECRET-UUID", "")] and demo.calls == []
            assert "SECRET" not in output

            for file in site.database("demo").parent.iterdir():
                file.unlink()
            done = site.run("cron", "demo", **urls)
            assert done.returncode == 3
            ((verb, path, body),) = demo.calls
            assert (verb, path) == ("POST", "/ping/SECRET-UUID/fail?x=1")
            assert body in done.stderr and body.startswith(f"database {site.database('demo')} is missing")
            assert len(production.calls) == 1

            site.ok("backup", "production", **urls)  # by hand: not what the monitor waits for
            assert len(production.calls) == 1

    def test_a_run_that_gave_up_waiting_is_a_bad_one(self, site):
        with Receiver() as receiver, held(site, "restore of demo, process 1"):
            assert site.run("cron", "demo", DODEKA_PING_URL_DEMO=receiver.url).returncode == 75
        assert receiver.calls[0][1].endswith("/fail")

    @pytest.mark.slow("each failure", keep=["500"])
    @pytest.mark.parametrize(
        ("status", "problem", "within_s"), [(500, "HTTP 500", 60), (None, "no answer", 120)]
    )
    def test_a_monitor_that_fails_or_is_slow_is_a_warning(self, site, status, problem, within_s):
        began = time.monotonic()
        with Receiver(status) as receiver:
            output = site.ok("cron", "demo", DODEKA_PING_URL_DEMO=receiver.url)
        assert re.search(rf"warning: .* not be delivered to http://127\.0\.0\.1/\.\.\.: ({problem})", output)
        assert time.monotonic() - began < within_s
        assert " done: snapshot " in output.splitlines()[-1]
        assert "SECRET" not in output

    def test_a_monitor_that_is_down_is_a_warning_after_a_bad_run_too(self, site):
        url = f"http://127.0.0.1:{free_port()}/ping/SECRET-UUID"
        output = site.ok("cron", "demo", DODEKA_PING_URL_DEMO=url)
        assert "delivered to http://127.0.0.1/...: [Errno 111] Connection refused" in output
        site.password_file.chmod(0o644)
        done = site.run("cron", "demo", DODEKA_PING_URL_DEMO=url)
        assert done.returncode == 6
        assert "could not be delivered" in done.stdout and "password file" in done.stderr
        assert "SECRET" not in done.stdout + done.stderr


def test_the_records(site):
    assert not (site.state / "records" / "cron-demo.json").exists()
    site.ok("cron", "demo")
    first = records(site, "cron-demo")
    assert first["failed"] is None and first["error"] == ""
    site.repository.rename(site.folder / "unmounted")
    site.run("cron", "demo")
    second = records(site, "cron-demo")
    assert second["passed"] == first["passed"]
    assert second["failed"] >= first["passed"] and "no restic repository" in second["error"]
    (site.folder / "unmounted").rename(site.repository)
    site.ok("cron", "demo")
    assert records(site, "cron-demo")["failed"] is None


def test_the_day_is_on_record(site):
    """What the status page shows of it: good runs, a failed one, and one that finds that all members are gone."""

    def today():
        (values,) = json.loads((site.state / "days" / "production.json").read_text()).values()
        return dict(
            zip(("stored", "failed", "first", "last", "gap", "members", "stored_bytes"), values, strict=True)
        )

    before = int(time.time())
    site.ok("cron", "production")
    first = today()
    assert (first["stored"], first["failed"], first["members"]) == (1, 0, 400)
    assert before <= first["first"] == first["last"] <= time.time()
    assert 10_000 < first["stored_bytes"] < site.repository_bytes()
    assert site.run("cron", "production", RESTIC="/nowhere/restic").returncode != 0
    assert today() == {**first, "failed": 1}
    with closing(sqlite3.connect(site.database())) as connection, connection:
        connection.execute("DELETE FROM users_by_email")
    site.loses("cron", "production")
    last = today()
    assert (last["stored"], last["failed"], last["members"]) == (2, 2, 0)
    assert last["gap"] == last["last"] - last["first"]
    assert not (site.state / "days" / "demo.json").exists()


def test_an_interrupted_run_says_what_is_safe_and_is_no_good_one(site):
    slow = site.folder / "slow-restic"
    run_first(slow, '[ "$1" != forget ] || exec sleep 1000')
    site.ok("cron", "production")
    run = start(site, RESTIC=str(slow))
    wait_for(lambda: "sleep 1000 " in descendants(run.pid).values())
    run.send_signal(signal.SIGTERM)
    problem = run.communicate()[1]
    assert run.returncode == 143
    said = r"interrupted \(SIGTERM\); snapshot [0-9a-f]{8} is safe, but the retention was not applied"
    assert re.search(said, problem)
    assert re.search(said, records(site, "cron-production")["error"])


def test_a_size_that_is_not_known_fails_no_run(site):
    """A fake stats that fails."""
    fake = site.folder / "fake-restic"
    run_first(fake, '[ "$1" != stats ] || exit 1')
    output = site.ok("cron", "production", RESTIC=str(fake))
    assert "warning: the stored size is not known: restic stats failed with exit code 1" in output


@pytest.mark.slow("each kind of nonsense", keep=["passed"])
@pytest.mark.parametrize(
    "nonsense", ["", "[]", '{"passed": "2026-01-01T00:00:00", "failed": null, "error": 5, "details": []}']
)
def test_records_that_make_no_sense_stop_nothing(site, nonsense):
    (site.state / "records").mkdir(parents=True)
    for job in ("cron-production", "size-production", "check", "drill-production"):
        (site.state / "records" / f"{job}.json").write_text(nonsense)
    site.ok("cron", "production")
    site.ok("check")
    site.ok("verify", "production")


def test_the_stored_size_is_sampled_once_a_day(site):
    for _ in range(2):
        site.ok("cron", "production")
    samples = records(site, "size-production")["details"]["samples"]
    assert len(samples) == 1
    stats = json.loads(site.restic("stats", "--json", "--mode", "raw-data").stdout)
    assert samples[0][1] > 0.9 * stats["total_size"]  # of the first run; the second adds next to nothing
    file = site.state / "records" / "size-production.json"
    yesterday = (datetime.now().astimezone() - timedelta(days=1)).isoformat()
    file.write_text(file.read_text().replace(samples[0][0], yesterday))
    site.ok("cron", "production")
    assert len(records(site, "size-production")["details"]["samples"]) == 2


@needs_root
class TestAVolumeThatHangs:
    """A real file system, exFAT in user space, whose process is stopped: whoever looks at it waits, and hears no signal."""

    @pytest.fixture
    def hung(self, site, tmp_path) -> Iterator[Path]:
        image, folder = tmp_path / "image", tmp_path / "volume"
        folder.mkdir()
        image.touch()
        os.truncate(image, 30_000_000)
        subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
        device = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
        if device.returncode:
            pytest.skip(f"no loop device here: {device.stderr.strip()}")
        server = subprocess.Popen(
            ["mount.exfat-fuse", "-d", device.stdout.strip(), folder], stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: os.path.ismount(folder))
            subprocess.run(["cp", "-r", site.repository, site.password_file, folder], check=True)
            text = site.config.read_text()
            for path in (site.repository, site.password_file):
                text = text.replace(f"'{path}'", f"'{folder / path.name}'")
            site.config.write_text(text)
            server.send_signal(signal.SIGSTOP)
            yield folder
        finally:
            server.send_signal(signal.SIGCONT)
            subprocess.run(["umount", "-l", folder], check=True)
            server.wait()
            subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)

    def places(self, site, hung) -> dict[str, str]:
        return {
            "RESTIC_REPOSITORY": str(hung / "restic"),
            "RESTIC_PASSWORD_FILE": str(hung / site.password_file.name),
        }

    @pytest.mark.slow("half a minute")
    def test_runs_do_not_pile_up_hear_signals_and_tell_the_monitor(self, site, hung):
        with Receiver() as receiver:
            variables = {**self.places(site, hung), "DODEKA_PING_URL_PRODUCTION": receiver.url}
            began = time.monotonic()
            first = start_at(site, "12:00:10", "production", **variables)
            wait_for(lambda: "cron run of production" in (site.state / "lock").read_text())
            second = start_at(site, "12:00:10", "production", **variables)
            assert second.wait(timeout=60) == 75, "the first one holds the lock"
            problem = first.communicate(timeout=90)[1]
            assert time.monotonic() - began < 75
            assert first.returncode == 69
            assert re.search(rf"error: {hung}/\S+ does not answer within 30 s; see: sudo dmesg", problem)
            second.communicate()
            assert [path.endswith("/fail") for _, path, _ in receiver.calls] == [True, True]
            assert "does not answer within 30 s" in receiver.calls[1][2]
        assert "does not answer" in records(site, "cron-production")["error"]

    @pytest.mark.slow("waits for a volume that hangs")
    def test_a_signal_ends_it_at_once(self, site, hung):
        run = start(site, **self.places(site, hung))
        wait_for(lambda: "cron run of production" in (site.state / "lock").read_text())
        time.sleep(1)
        run.terminate()
        assert run.wait(timeout=10) == 143
        assert "interrupted (SIGTERM)" in run.communicate()[1]

    @pytest.mark.slow("half a minute")
    def test_the_status_says_which(self, site, hung):
        began = time.monotonic()
        done = site.run("status", "--json", **self.places(site, hung))
        assert time.monotonic() - began < 75
        assert done.returncode == 1
        bad = {
            line["subject"]: line["text"]
            for line in json.loads(done.stdout)["lines"]
            if line["state"] == "bad"
        }
        for subject in ("password", "repository", "volume"):
            assert re.match(rf"{hung}/\S+ does not answer within 30 s", bad[subject])
        states = {line["subject"]: line["state"] for line in json.loads(done.stdout)["lines"]}
        assert states["snapshots"] == "unknown" and states["state folder"] == "well"

    @pytest.mark.slow("half a minute each")
    @pytest.mark.parametrize("script", [["snapshots"], ["verify", "production"], ["init"]])
    def test_every_other_script(self, site, hung, script):
        done = site.run(*script, **self.places(site, hung))
        assert done.returncode == 69
        assert "does not answer within 30 s" in done.stderr
