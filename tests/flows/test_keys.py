"""Keys and hand-over: who can open the repository, a key that is proven, one that goes, and the page for paper."""

import html.parser
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import cheap_key
from dodeka_db.errors import SetupError
from dodeka_db.host import password_files
from dodeka_db.sqlite import sample_data
from remote_servers import Sftp, execute, impatient
from site_folder import RESTIC, ROOT, Site, run_first


def listed(site: Site, *arguments: str) -> list[list[str]]:
    """The table of `make keys` in words."""
    return [re.split(r"  +", line) for line in site.ok("keys", *arguments).splitlines()[1:]]


def opens(site: Site, password: str) -> bool:
    environ = {name: value for name, value in site.environ.items() if name != "RESTIC_PASSWORD_FILE"}
    environ |= {"RESTIC_PASSWORD": password, "RESTIC_CACHE_DIR": str(site.folder / "cache")}
    return subprocess.run([RESTIC, "cat", "config"], env=environ, capture_output=True).returncode == 0


def test_a_key_is_added_proven_listed_used_and_removed(site):
    site.ok("backup", "production")
    (mine,) = listed(site)
    assert mine[-1] == "in use"
    log = site.folder / "starts"
    restic = site.folder / "restic-that-notes"
    run_first(restic, f'echo "$1 $RESTIC_PASSWORD_FILE $RESTIC_PASSWORD" >> {log}')
    said = site.ok("key-add", "anna", RESTIC=str(restic))
    # with a password given in another way too, it is still the new one that opens
    dumps = [line for line in log.read_text().splitlines() if line.startswith("dump ")]
    assert dumps == [f"dump {site.state / 'key-anna'} "]
    assert "opening the repository with the new key alone" in said
    file = site.state / "key-anna"
    assert f"its password is in {file}: HAND IT OVER, THEN REMOVE THE FILE" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = file.read_text().strip()
    assert password not in said
    cheap_key.reseal(site.repository, password)
    assert re.fullmatch(r"([a-z2-7]{4}-){7}[a-z2-7]{4}", password)
    assert opens(site, password)
    assert [(words[1], words[-1] == "in use") for words in listed(site)] == [
        (mine[1], True),
        ("anna", False),
    ]

    # the new maintainer's own server, with that password: now the old key can go, and the new one cannot
    hers = {"RESTIC_PASSWORD_FILE": str(file)}
    done = site.run("key-remove", "anna", **hers)
    assert done.returncode == 2
    assert "is the one that this server uses, by the password in" in done.stderr
    said = site.ok("key-remove", mine[0], **hers)
    assert f"done: key {mine[0]} of {mine[1]} no longer opens the repository" in said
    assert not opens(site, site.password)
    done = site.run("key-remove", "anna", **hers)
    assert done.returncode == 2
    assert "is the only one: without it nobody could read the backups; first: make key-add" in done.stderr
    assert opens(site, password)


@pytest.mark.slow("a key takes restic three seconds")
def test_a_key_that_proves_nothing_is_taken_back(site):
    site.ok("backup", "production")
    for pack in (site.repository / "data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            pack.write_bytes(bytes(len(pack.read_bytes())))
    # somebody else adds a key meanwhile, from elsewhere
    new = site.folder / "new"
    new.write_text("carol-s-password\n")
    restic = site.folder / "restic-and-carol"
    restic.write_text(
        f'#!/bin/sh\n[ "$1" = dump ] && [ ! -e {new}.added ] && touch {new}.added \\\n'
        f"  && {RESTIC} key add --new-password-file {new} --user carol >/dev/null\n"
        f'exec {RESTIC} "$@"\n'
    )
    restic.chmod(0o755)
    done = site.run("key-add", "anna", RESTIC=str(restic))
    assert done.returncode == 4, done
    assert [words[1] for words in listed(site)][1:] == ["carol"]
    assert not (site.state / "key-anna").exists()
    assert not (site.state / "records").exists()  # it says nothing of the backups


@pytest.mark.parametrize("name", ["", "-x", "anna bob", "a" * 41, "../anna", "anna;id", "ännä"])
def test_a_name_that_is_none(site, name):
    done = site.run("key-add", "--", name)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"{name!r} is not a valid name" in done.stderr
    assert len(listed(site)) == 1


def test_what_is_refused_changes_nothing(site):
    done = site.run("key-add", "anna")
    assert (done.returncode, "there is no snapshot yet, which is needed to prove a key" in done.stderr) == (
        4,
        True,
    )
    site.ok("backup", "demo")
    cheap_key.add(site.repository, site.password, "anna's", "anna")
    before = listed(site)
    for script, name, words in (
        ("key-add", "anna", "there is a key of anna already; see: make keys"),
        ("key-remove", "bob", "no key has the name or ID 'bob'; see: make keys"),
        ("key-remove", "f" * 8, "no key has the name or ID 'ffffffff'"),
        ("key-remove", before[0][1], "is the one that this server uses"),
    ):
        done = site.run(script, name)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert words in done.stderr
    assert listed(site) == before


@pytest.mark.slow("a key takes restic three seconds")
def test_what_a_killed_one_left_is_in_nobody_s_way(site):
    site.ok("backup", "demo")
    (site.state / "key-bob").write_text("a password that opens nothing")
    site.ok("key-add", "bob")
    assert opens(site, (site.state / "key-bob").read_text().strip())
    site.ok("key-remove", "bob")
    assert not (site.state / "key-bob").exists()


def test_several_keys_of_one_name(site):
    site.ok("backup", "demo")
    for number in range(2):
        cheap_key.add(site.repository, site.password, f"password-{number}", "anna")
    done = site.run("key-remove", "anna")
    assert done.returncode == 2
    ids = [words[0] for words in listed(site) if words[1] == "anna"]
    assert "anna matches several keys: " in done.stderr
    assert all(one in done.stderr for one in ids)
    site.ok("key-remove", ids[0])
    site.ok("key-remove", "anna")
    assert len(listed(site)) == 1


def test_a_password_from_systemd_may_show_an_acl_in_its_mode(site, tmp_path):
    """As systemd 257 (Debian 13) hands it over; any other file that a group can read is refused."""
    handed_over = tmp_path / "restic-password"
    handed_over.write_text(site.password)
    handed_over.chmod(0o440)
    assert site.run("keys", RESTIC_PASSWORD_FILE=str(handed_over)).returncode == 6
    site.ok("keys", CREDENTIALS_DIRECTORY=str(tmp_path))


def test_a_password_is_never_made_over_another(tmp_path):
    file = tmp_path / "password"
    password_files.make(file, "hint")
    before = file.read_text()
    with pytest.raises(SetupError, match="cannot be made: File exists; hint"):
        password_files.make(file, "hint")
    assert file.read_text() == before
    password_files.make(tmp_path / "other", "")
    assert (tmp_path / "other").read_text() != before


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "the-key-of-the-store",
    "DODEKA_PING_URL_DEMO": "https://hc-ping.com/the-secret-of-the-monitor",
    "OFFSITE_REPOSITORY": "rest:http://dodeka:the-server-s-password@127.0.0.1:9/",
}


def test_the_recovery_sheet_holds_no_secret(site):
    site.ok("backup", "production")
    password = site.password
    for arguments in ([], ["--html"]):
        # the off-site server is down: what cannot be told is said
        there = {**SECRETS, "OFFSITE_PASSWORD_FILE": str(site.password_file)}
        page = impatient(site, "recovery-sheet", *arguments, **there).stdout
        assert "cannot be reached" in page
        assert "rest:http://dodeka:***@127.0.0.1:9/" in page
        assert "AWS_SECRET_ACCESS_KEY" in page
        for secret in (password, "the-key-of", "the-secret-of", "the-server-s"):
            assert secret not in page


def test_the_recovery_sheet_says_what_it_should(site):
    for environment in ("production", "demo"):
        site.ok("backup", environment)
    cheap_key.add(site.repository, site.password, "anna's", "anna")
    site.ok("check")
    site.ok("verify", "demo")
    page = site.ok("recovery-sheet")
    version = subprocess.run([RESTIC, "version"], capture_output=True, text=True).stdout.split()[1]
    for words in (
        f"database of production     {site.database()}, of dodeka-backend-production",
        f"main repository          {site.repository}",
        f"main password            {site.password_file}",
        "ok, then the number of members: 400 today",
        f"versions                 restic {'.'.join(version.split('.')[:2])}, SQLite ",
        "anna (key ",
        "drill of production      never",
        "off-site repository      none",
    ):
        assert " ".join(words.split()) in " ".join(page.split())
    assert re.search(r"drill of demo +\w{3} \d\d \w{3} \d{4}", page)
    assert re.search(r"check of the repository +\w{3} \d\d \w{3} \d{4}", page)
    # one page of A4 in a plain type
    assert len(page.splitlines()) <= 66


def test_the_recovery_sheet_begins_with_the_repository_that_is_left(site):
    """The off-site one, by an address that works elsewhere; and of a monitor no more than its host."""
    password = site.folder / "password-of-there"
    there = {"OFFSITE_REPOSITORY": "/mnt/there", "OFFSITE_PASSWORD_FILE": str(password)}
    page = site.ok("recovery-sheet", **there, DODEKA_PING_URL_DEMO="https://hc-ping.com/the-secret")
    first, main = page.index("export RESTIC_REPOSITORY=/mnt/there"), page.index(str(site.repository))
    assert first < main
    assert re.search(r"^  if that is gone +the main repository", page, re.MULTILINE)
    assert re.search(r"^  monitor +https://hc-ping\.com/\.\.\.$", page, re.MULTILINE)
    # each password file belongs to one of the two, and the page says which
    assert re.search(rf"^  off-site password +{re.escape(str(password))}$", page, re.MULTILINE)
    assert re.search(rf"^  main password +{re.escape(str(site.password_file))}$", page, re.MULTILINE)
    # what is to be filled in stands in one column
    assert len({line.index("___") for line in page.splitlines() if "___" in line}) == 1


@pytest.mark.parametrize("room_for", ["the journal", "a copy, and not the new one", "all"])
def test_the_recovery_sheet_replaces_nothing_where_there_is_no_room(site, small_disk, room_for):
    """By its third and fourth command, typed as they are printed, the fourth whatever became of the third."""
    page = site.ok("recovery-sheet").partition("PUT IT IN ITS PLACE")[2]
    commands = re.findall(r"^ +\d+  (.+)$", page, re.MULTILINE)[2:4]
    db = small_disk / "db.sqlite"
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    shutil.copy(site.database(), db)
    new = bytes(2 * db.stat().st_size)
    (site.folder / "production.sqlite").write_bytes(new)
    before, old = sample_data.digest(db), db.stat()
    journal = 64 * 1024
    assert journal < old.st_size
    room = {"the journal": journal, "a copy, and not the new one": journal + old.st_size, "all": 0}[room_for]
    if room:
        (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    done = [
        subprocess.run(
            ["sh", "-c", command], cwd=site.folder, env={**os.environ, "db": str(db)}, capture_output=True
        )
        for command in commands
    ]
    assert done[1].stdout == (b"done\n" if room_for == "all" else b""), done
    if room_for == "all":
        assert db.read_bytes() == new and db.stat().st_mode == old.st_mode
        db = small_disk / "db.sqlite.before"
    assert sample_data.digest(db) == before


def test_the_recovery_sheet_without_git_and_ssh(site):
    page = site.ok("recovery-sheet", PATH="/nowhere", OFFSITE_REPOSITORY="sftp:offsite:restic")
    assert "not a git repository" in page
    assert "sftp:offsite:restic" in page


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is a copy without git's files")
def test_the_recovery_sheet_of_a_clone_that_belongs_to_root(site):
    """dbackup does not own the clone. git refuses such a clone (it thinks so here by a variable of its own tests)."""
    page = site.ok("recovery-sheet", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    assert re.search(rf"^  revision of these scripts +{head.stdout.strip()}$", page, re.MULTILINE)
    version = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "version"],
        env={**os.environ, "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert head.stdout.strip() in version.stdout


def test_the_recovery_sheet_in_html_says_the_same(site):
    site.ok("backup", "production")
    words: list[str] = []
    opened: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in ("script", "img", "link")  # it needs nothing but itself
            if tag != "meta":
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

        def handle_data(self, data):
            if "style" not in opened and "title" not in opened:
                words.extend(data.split())

    reader = Reader()
    reader.feed(site.ok("recovery-sheet", "--html"))
    assert not opened
    text = re.sub(r"^ +\d+  |_{50}", "", site.ok("recovery-sheet"), flags=re.MULTILINE).split()
    of_now = r"as of \w{3} \d\d \w{3} \d{4} \d\d:\d\d"
    as_html, as_text = (re.subn(of_now, "as of now", " ".join(page)) for page in (words, text))
    assert as_html[1] == as_text[1] == 1
    assert as_html[0].lower() == as_text[0].lower()


@pytest.mark.slow("each format", keep=["zst"])
@pytest.mark.parametrize("format", ["zst", "pages"])
def test_its_commands_bring_the_databases_back(site, tmp_path, format):
    """With restic, zstd and sqlite3 alone, in an empty folder: row for row."""
    for environment in ("production", "demo"):
        execute(site.database(environment), "DELETE FROM outbox")
        site.ok("backup", environment, DODEKA_FORMAT=format)
    page = site.ok("recovery-sheet")
    commands = re.findall(r"^ +\d+  (.+)$", page.partition("PUT IT IN ITS PLACE")[0], re.MULTILINE)
    assert commands.pop(0).startswith("sudo apt install restic zstd sqlite3")
    script = ""
    for environment in ("production", "demo"):
        snapshot = site.snapshots(environment)[-1]["short_id"]
        for command in commands:
            script += command.replace("production", environment).replace("dump ID", f"dump {snapshot}") + "\n"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = f"{Path(RESTIC).parent}:{os.environ['PATH']}"
    environ = {
        "PATH": path,
        "HOME": str(elsewhere),
        "RESTIC_PASSWORD": site.password,
    }
    done = subprocess.run(
        ["sh", "-e"], input=script, cwd=elsewhere, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done
    assert re.findall(r"^ok\n(\d+)$", done.stdout, re.MULTILINE) == ["400", "30"]
    for environment in ("production", "demo"):
        assert sample_data.digest(elsewhere / f"{environment}.sqlite") == sample_data.digest(
            site.database(environment)
        )


def test_its_address_is_one_that_works_elsewhere(site, tmp_path):
    """An ssh host that only this server's configuration knows would help nobody."""
    server = Sftp(tmp_path / "remote")
    try:
        server.start()
        server.put(site.repository)
        user = server.url.removeprefix("sftp://").partition("@")[0]
        with open(tmp_path / "remote/bin/config", "a") as config:
            config.write(f"Host offsite\n HostName 127.0.0.1\n Port {server.relay.port}\n User {user}\n")
        address = {"RESTIC_REPOSITORY": f"sftp:offsite:{server.served}"}
        page = site.ok("recovery-sheet", **{**server.variables, **address})
        shown = re.search(r"export RESTIC_REPOSITORY=(sftp://\w+@127.0.0.1:\d+//\S+)", page)[1]
        site.ok("snapshots", **{**server.variables, "RESTIC_REPOSITORY": shown})
    finally:
        server.stop()


@pytest.mark.slow("two repositories")
def test_a_key_that_was_never_handed_over_shows_in_the_status(site):
    """In either repository's folder, until the file goes."""
    there = {
        "OFFSITE_REPOSITORY": str(site.folder / "there"),
        "OFFSITE_PASSWORD_FILE": str(site.folder / "pw"),
    }

    def line() -> dict:
        lines = json.loads(site.run("status", "--json", **there).stdout)["lines"]
        return next(line for line in lines if line["subject"] == "key files")

    assert (line()["state"], line()["text"]) == ("well", "no password of a key is left")
    site.ok("backup", "demo")
    site.ok("key-add", "anna")
    site.ok("init", "--offsite", "--yes", **there)
    site.ok("offsite", **there)
    site.ok("key-add", "bob", "--offsite", **there)
    files = [str(site.state / "key-anna"), str(site.state / "offsite/key-bob")]
    shown = line()
    assert (shown["state"], shown["fix"]) == ("note", f"hand it over, then: rm {' '.join(files)}")
    assert shown["text"].endswith(f": {', '.join(files)}")
    for file in files:
        os.unlink(file)
    assert line()["state"] == "well"
