"""A repository that is partly broken: what is whole is listed and restored, what is not is named, soon and as what it is."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import site_folder
from cheap_key import reseal
from dodeka_db.restic import stale_locks
from dodeka_db.restic.stale_locks import Lock
from site_folder import RESTIC, Site, run_first

VERSION = tuple(map(int, re.findall(r"\d+", subprocess.getoutput(f"{RESTIC} version"))[:2]))
SEE = "see BACKUP.md, 'Damaged'"
# restic 0.14 tries for a minute and a half what can never succeed
SOON_S = 20
TAGS = "db,db_sqlite,db_dodeka,env_production"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Three snapshots of demo, the oldest of other content than the others, and two of production."""
    site = site_folder.make(tmp_path_factory.mktemp("whole"))
    for number in range(3):
        site.ok("backup", "demo")
        with closing(sqlite3.connect(site.database("demo"), isolation_level=None)) as connection:
            connection.execute("DELETE FROM outbox")
            connection.execute("INSERT INTO outbox VALUES (?, 0, 0, randomblob(9999))", (str(number),))
    for _ in range(2):
        site.ok("backup", "production")
    return site.folder


@pytest.fixture
def site(whole, tmp_path) -> Site:
    shutil.copytree(whole, tmp_path / "site")
    site = Site(tmp_path / "site")
    site.config.write_text("".join(f"{name}='{value}'\n" for name, value in site.variables.items()))
    return site


def oldest(site: Site) -> dict:
    """restic's own words of demo's oldest snapshot."""
    return json.loads(site.restic("snapshots", "--json", "--tag", "env_demo").stdout)[0]


def pack_of(site: Site, kind: str, blob: str) -> Path:
    found = site.restic("find", "--show-pack-id", f"--{kind}", blob).stdout
    (pack,) = set(re.findall(r"(?i)pack ([0-9a-f]{64})", found))
    return site.repository / "data" / pack[:2] / pack


def tree_pack(site: Site) -> Path:
    return pack_of(site, "tree", oldest(site)["tree"])


def data_pack(site: Site) -> Path:
    tree = json.loads(site.restic("cat", "blob", oldest(site)["tree"]).stdout)
    return pack_of(site, "blob", tree["nodes"][0]["content"][0])


def snapshot_file(site: Site) -> Path:
    return site.repository / "snapshots" / oldest(site)["id"]


def index_file(site: Site) -> Path:
    return min((site.repository / "index").iterdir())


def flipped(file: Path) -> None:
    file.chmod(0o600)
    with open(file, "r+b") as opened:
        opened.seek(60)
        opened.write(b"DAMAGED!")


def cut_short(file: Path) -> None:
    file.chmod(0o600)
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    file.chmod(0o600)
    os.truncate(file, 0)


def gone(file: Path) -> None:
    file.unlink()


def harm(site: Site, part: Callable[[Site], Path], how: Callable[[Path], None]) -> str:
    """Do it, and let restic's cache not stand in for what is lost; the ID of the snapshot that it is about."""
    snapshot = oldest(site)["id"]
    how(part(site))
    for cache in (site.state / "restic-cache", site.folder / "cache"):
        shutil.rmtree(cache, ignore_errors=True)
    return snapshot


def soon(site: Site, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script, which must not take long to see what is wrong."""
    began = time.monotonic()
    done = site.run(*words, **variables)
    assert time.monotonic() - began < SOON_S, done
    return done


@pytest.mark.slow("each damage of each file", keep=["tree_pack-flipped"])
@pytest.mark.parametrize(
    ("part", "how"),
    [
        *[(tree_pack, how) for how in (flipped, cut_short, emptied, gone)],
        *[(data_pack, how) for how in (flipped, gone)],
        *[(snapshot_file, how) for how in (flipped, gone)],
    ],
)
@pytest.mark.long
def test_what_is_whole_is_listed_and_restored_and_what_is_not_is_named(site, part, how):
    before = site.snapshots("demo")
    damaged = harm(site, part, how)

    listed = soon(site, "snapshots", "demo", "--json")
    assert listed.returncode == 0, listed
    found = {entry["id"]: entry["stored_bytes"] for entry in json.loads(listed.stdout)}
    for entry in before:
        if entry["id"] != damaged:
            assert found[entry["id"]] == entry["stored_bytes"]
    if part is tree_pack:
        assert found[damaged] is None
        assert f"warning: snapshot {damaged[:8]} of demo is damaged; {SEE}" in listed.stderr
        (line,) = [line for line in soon(site, "snapshots").stdout.splitlines() if damaged[:8] in line]
        assert re.search(r"(seconds?|minutes) +\?  \?$", line)
    elif part is snapshot_file:
        assert damaged not in found
        named = f"warning: snapshot {damaged[:8]} is damaged, so it is not listed; {SEE}"
        assert (named in listed.stderr) == (how is not gone)  # of a file that is gone nobody can know

    assert soon(site, "restore", "production", "--snapshot", "latest", "--yes").returncode == 0
    assert soon(site, "undo", "production", "--yes").returncode == 0
    assert soon(site, "verify", "demo").returncode == 0
    refused = soon(site, "verify", "demo", "--snapshot", damaged)
    assert refused.returncode == 4
    assert len(refused.stderr.splitlines()) == 1
    if part is not snapshot_file:
        assert "the snapshot cannot be read from repository" in refused.stderr
        assert f"choose another one, then {SEE}" in refused.stderr


@pytest.mark.slow("each damage", keep=["flipped"])
@pytest.mark.parametrize("how", [flipped, gone])
def test_cron_and_status_tell_of_a_damaged_tree(site, how):
    harm(site, tree_pack, how)
    done = soon(site, "cron", "demo")
    assert done.returncode == 8
    assert re.search(
        rf"error: snapshot [0-9a-f]{{8}} is safe, but counting the stored bytes failed: "
        rf"repository {site.repository} is damaged: .*; {SEE}",
        done.stderr,
    )
    lines = {
        (line["subject"], line["environment"]): line
        for line in json.loads(soon(site, "status", "--json").stdout)["lines"]
    }
    assert lines["cron", "demo"]["state"] == "bad"
    assert f"repository {site.repository} is damaged" in lines["cron", "demo"]["text"]
    assert lines["snapshots", "demo"]["state"] == lines["size", "production"]["state"] == "well"
    assert soon(site, "cron", "demo").returncode == 8, "the next run counts again"
    assert soon(site, "cron", "production").returncode == 0


def test_status_names_a_snapshot_whose_file_is_damaged(site):
    damaged = harm(site, snapshot_file, flipped)
    lines = {line["subject"]: line for line in json.loads(site.run("status", "--json").stdout)["lines"]}
    assert lines["repository"]["state"] == "bad"
    assert f"opens, but snapshot {damaged[:8]} is damaged" in lines["repository"]["text"]
    assert lines["snapshots"]["state"] == "well"


def crowd(site: Site) -> None:
    """So many snapshots of production that the retention has to prune."""
    file = site.folder / "dodeka-production.sqlite.zst"
    newest = site.snapshots("production")[-1]
    file.write_bytes(
        subprocess.run(
            [RESTIC, "dump", newest["id"], newest["path"]], env=site.environ, capture_output=True, check=True
        ).stdout
    )
    first = datetime.now() - timedelta(hours=3)
    for minute in range(12):
        given = ("--time", f"{first + timedelta(minutes=minute):%F %T}", "--tag", TAGS)
        site.restic("backup", "--quiet", *given, str(file))


@pytest.mark.slow("each damage of each file", keep=["data_pack-flipped"])
@pytest.mark.parametrize(
    ("part", "how"),
    [
        (tree_pack, flipped),
        (tree_pack, gone),
        (data_pack, flipped),
        (data_pack, cut_short),
        (snapshot_file, flipped),
    ],
)
def test_a_retention_that_meets_damage_says_so(site, part, how):
    crowd(site)
    harm(site, part, how)
    before = len(list((site.repository / "data").rglob("*")))
    done = soon(site, "cron", "production")
    assert done.returncode == 8
    assert re.search(
        rf"snapshot [0-9a-f]{{8}} is safe, but the retention failed: repository {site.repository} is damaged: ",
        done.stderr,
    )
    assert done.stderr.strip().endswith(SEE)
    assert len(list((site.repository / "data").rglob("*"))) >= before


def repair_of_the_index(site: Site) -> None:
    """What the page says, 'Damaged'."""
    if VERSION >= (0, 16):
        site.restic("repair", "index")
    else:
        site.restic("rebuild-index")


@pytest.mark.slow("each damage", keep=["flipped"])
@pytest.mark.parametrize("how", [flipped, cut_short, gone])
def test_a_damaged_index(site, how):
    """Nothing can be read without it, but the list; and what the page says brings all of it back."""
    before = {entry["id"]: entry["stored_bytes"] for entry in site.snapshots()}
    harm(site, index_file, how)
    listed = soon(site, "snapshots", "--json")
    assert {entry["id"] for entry in json.loads(listed.stdout)} == set(before)
    if how is not gone:
        assert "warning: the sizes are not known: repository" in listed.stderr
        done = soon(site, "restore", "production", "--snapshot", "latest", "--yes")
        assert done.returncode == 8
        assert f"repository {site.repository} is damaged: " in done.stderr and SEE in done.stderr
    repair_of_the_index(site)
    assert {entry["id"]: entry["stored_bytes"] for entry in site.snapshots()} == before
    site.restic("check", "--read-data")
    site.ok("restore", "production", "--snapshot", "latest", "--yes")


@pytest.mark.slow("each damage of each file", keep=["data_pack-gone"])
@pytest.mark.parametrize(("part", "how"), [(tree_pack, flipped), (data_pack, gone)])
@pytest.mark.long
def test_the_copy_goes_on_with_what_is_whole(site, part, how):
    there = {
        "OFFSITE_REPOSITORY": str(site.folder / "there"),
        "OFFSITE_PASSWORD_FILE": str(site.folder / "there-password"),
    }
    site.ok("init", "--offsite", "--yes", **there)
    reseal(Path(there["OFFSITE_REPOSITORY"]), Path(there["OFFSITE_PASSWORD_FILE"]).read_text().strip())
    whole = len(site.snapshots()) - 1
    damaged = harm(site, part, how)
    run_first(site.folder / "refusing", "case $1 in forget) echo 'Fatal: no' >&2; exit 1;; esac")
    # and again: it stays said until it is repaired, also where nothing old can be removed
    for copied, restic in ((whole, RESTIC), (0, RESTIC), (0, str(site.folder / "refusing"))):
        done = soon(site, "offsite", RESTIC=restic, **there)
        assert done.returncode == 8
        assert (
            f"error: {copied} snapshot{'' if copied == 1 else 's'} copied, but {damaged[:8]} of {site.repository} cannot be: damaged; {SEE}"
            in done.stderr
        )
    listed = json.loads(site.ok("snapshots", "--offsite", "--json", **there))
    assert len(listed) == whole


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (
            "Fatal: unable to save snapshot: something new",
            1,
            "failed with exit code 1: Fatal: unable to save",
        ),
        ("read /mnt/x: input/output error", 1, "fails: read /mnt/x: input/output error; see: dmesg"),
        ("Fatal: StreamPack: ciphertext verification failed", 8, "is damaged: Fatal: StreamPack: "),
        (
            "write /elsewhere/restic-temp-pack-1: no space left on device",
            1,
            "no room left for restic's temporary files (/elsewhere/restic-temp-pack-1)",
        ),
    ],
)
def test_only_what_restic_names_as_damage_is_called_so(site, said, code, words):
    """A fake that fails so in `forget`: not all of it can be had from the real one at will."""
    fake = site.folder / "fake-restic"
    run_first(fake, f'[ "$1" = forget ] && {{ echo "{said}" >&2; exit 1; }}')
    done = site.run("cron", "production", RESTIC=str(fake))
    assert done.returncode == code
    assert words in done.stderr
    assert ("Damaged" in done.stderr) == (code == 8)


class TestAQuota:
    """Each file that restic syncs meets one: strace fails fsync with EDQUOT, for the real ones take a file system of their own."""

    @pytest.fixture
    def variables(self, site) -> dict[str, str]:
        wrapper = site.folder / "restic-with-quota"
        inject = "strace -D -f -qq -o /dev/null -e trace=fsync -e inject=fsync:error=EDQUOT"
        wrapper.write_text(f'#!/bin/sh\nexec {inject} {RESTIC} "$@"\n')
        wrapper.chmod(0o755)
        return {"RESTIC": str(wrapper)}

    def test_what_only_reads_works(self, site, variables):
        assert soon(site, "snapshots", **variables).returncode == 0
        assert soon(site, "verify", "production", **variables).returncode == 0
        done = soon(site, "restore", "demo", "--snapshot", "latest", "--yes", **variables)
        assert done.returncode == 1
        assert "demo has the data of snapshot" in done.stderr and "is not saved" in done.stderr

    @pytest.mark.slow("each script", keep=["backup"])
    @pytest.mark.parametrize("script", ["backup", "cron"])
    @pytest.mark.long
    def test_what_writes_calls_it_full(self, site, variables, script):
        done = soon(site, script, "demo", **variables)
        assert done.returncode == 1
        assert f"a quota on the disk of repository {site.repository} is reached" in done.stderr


class TestAnswersThatMakeNoSense:
    @pytest.mark.parametrize("script", ["snapshots", "backup", "cron", "verify", "status", "keys", "check"])
    def test_of_no_restic_at_all(self, site, script):
        words = [script, *(["production"] if script in ("backup", "cron", "verify") else [])]
        done = site.run(*words, RESTIC="/bin/true")
        if script == "status":
            assert done.returncode == 1 and "/bin/true prints no version" in done.stdout
            return
        assert done.returncode == (0 if script == "check" else 6), done
        if script != "check":
            assert done.stderr.strip().endswith("/bin/true prints no version; check the setting RESTIC")

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            "hello",
            "[1]",
            "{}",
            '[{"tags": ["db_dodeka", "env_production"]}]',
            '"x"',
            "[null]",
            '{"id": []}',
        ],
    )
    @pytest.mark.slow(
        "each answer to each command", keep=["snapshots-", "backup-hello", "keys-[null]", "init-{}"]
    )
    @pytest.mark.parametrize("script", ["snapshots", "backup", "keys", "init"])
    def test_of_another_shape(self, site, script, answer):
        """A fake that answers each question with the same."""
        fake = site.folder / "fake-restic"
        fake.write_text(f"#!/bin/sh\ncase $1 in version) exec {RESTIC} version;; *) echo '{answer}';; esac\n")
        fake.chmod(0o755)
        words = [script, *(["production"] if script == "backup" else [])]
        done = site.run(*words, RESTIC=str(fake))
        assert done.returncode == 1, done
        assert len(done.stderr.splitlines()) == 1
        version = ".".join(map(str, VERSION))
        assert f"error: restic {version} gave an unexpected answer: '{answer}" in done.stderr
        assert done.stderr.endswith("'; check the setting RESTIC\n")


def lock(process: int, host: str = "", minutes: int = 0) -> Lock:
    renewed = datetime.now().astimezone() - timedelta(minutes=minutes)
    return Lock("ab", process, host or os.uname().nodename, renewed)


def test_which_locks_may_be_unlocked():
    """restic sends SIGHUP to the process that a young lock of this host names."""
    alive, dead = os.getpid(), 2**22 + 1
    for found, may in (
        ([], False),
        ([lock(dead)], True),
        ([lock(alive)], False),
        ([lock(alive), lock(dead)], False),
        ([lock(alive, minutes=31)], True),
        ([lock(alive, minutes=29)], False),
        ([lock(dead, "elsewhere")], False),
        ([lock(dead, "elsewhere", minutes=31)], True),
        ([lock(dead, "elsewhere"), lock(dead)], True),
    ):
        assert stale_locks.can_be_removed(found) == may, found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process namespaces")
def test_a_program_that_got_the_process_id_of_a_dead_lock_is_left_alone(site):
    """As after a reboot: a restic was killed with its lock in one process namespace, whose IDs another one uses again."""
    namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
    check = f"{RESTIC} check --read-data --limit-download=1 > {site.folder}/said & wait"
    before = subprocess.Popen(
        [*namespace, check], env={**site.environ, "RESTIC_CACHE_DIR": str(site.folder / "cache")}
    )
    said = site.folder / "said"
    while not (
        said.exists() and "load indexes\n" in said.read_text()
    ):  # said once its exclusive lock is there
        assert before.poll() is None
        time.sleep(0.05)
    before.kill()
    before.wait()
    (left,) = (site.repository / "locks").iterdir()
    after = f"sleep 1000 & {site_folder.ROOT}/bin/dodeka-db-backup.py demo; code=$?; kill -0 $! && echo it lives; exit $code"
    done = subprocess.run([*namespace, after], env=site.environ, capture_output=True, text=True)
    assert "is locked by PID 2 on " in done.stderr
    assert done.stdout.endswith("it lives\n"), done
    assert done.returncode == 11
    assert left.exists()
    later = (
        f"true & true & wait; {site_folder.ROOT}/bin/dodeka-db-backup.py demo"  # nobody has that ID any more
    )
    done = subprocess.run([*namespace, later], env=site.environ, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert not left.exists()


@pytest.mark.parametrize("content", [b"garbage" * 20, b""])
def test_a_lock_that_cannot_be_read_is_named(site, content):
    """From restic 0.17 on nothing goes on while it is there, but what is empty; 0.14 to 0.16 pass over it."""
    bad = site.repository / "locks" / ("ab" * 32)
    bad.write_bytes(content)
    status = json.loads(site.run("status", "--json").stdout)
    (line,) = [line for line in status["lines"] if line["subject"] == "restic's locks"]
    assert line["state"] == "bad"
    assert "lock ababababab" in line["text"] and "cannot be read" in line["text"]
    assert line["fix"].endswith(f"rm {bad}")
    done = site.run("backup", "demo")
    if content and VERSION >= (0, 17):
        assert done.returncode == 11
        assert f"lock ababababab of repository {site.repository} cannot be read" in done.stderr
        assert f"when no restic uses that repository: rm {bad}" in done.stderr
    else:
        assert done.returncode == 0
    subprocess.run(
        ["sh", "-c", line["fix"].partition(": ")[2]], check=True
    )  # what it says removes that one alone
    assert list((site.repository / "locks").iterdir()) == []
    site.ok("backup", "demo")
