"""places: root is refused, by every script, where something belongs to somebody else, before it writes anything."""

import os
from pathlib import Path

import pytest

from site_folder import ROOT, Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused, and give a file away")
SOMEBODY = 12345
ARGUMENTS = {
    "backup": ["production"],
    "cron": ["production"],
    "changes": ["production"],
    "open": ["production"],
    "bring-back": ["production", "--yes"],
    "restore": ["production", "--snapshot=latest", "--yes"],
    "undo": ["production", "--yes"],
    "erased": ["production", "--who=anna@example.org", "--yes"],
    "verify": ["production"],
    "accept": ["production"],
    "retention": ["production"],
    "pin": ["production", "latest"],
    "unpin": ["production", "latest"],
    "key-add": ["anna"],
    "key-remove": ["anna"],
    "restic": ["snapshots"],
}
# it makes a sandbox of its own, in this clone
SCRIPTS = sorted({path.stem.removeprefix("dodeka-db-") for path in ROOT.glob("bin/dodeka-db-*.py")} - {"try"})
ON_A_SERVER = "rest:http://127.0.0.1:9/"


def files(site: Site) -> set[tuple]:
    found = {path: path.lstat() for path in site.folder.rglob("*")}
    return {(path, status.st_uid, status.st_mtime_ns, status.st_size) for path, status in found.items()}


def is_refused(site: Site, script: str, belongs: Path, **variables: str) -> None:
    before = files(site)
    done = site.run(script, *ARGUMENTS.get(script, []), **variables)
    assert done.returncode == (2 if script == "status" else 6), done
    assert f"error: {belongs} belongs to #{SOMEBODY}, not to root; run this as #{SOMEBODY}\n" in done.stderr
    assert files(site) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_with_a_repository_on_a_server(site, script):
    site.state.mkdir(exist_ok=True)
    os.chown(site.state, SOMEBODY, SOMEBODY)
    is_refused(site, script, site.state, RESTIC_REPOSITORY=ON_A_SERVER)


@pytest.mark.parametrize("script", ["cron", "init"])
@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("RESTIC_REPOSITORY", "restic"),
        ("RESTIC_REPOSITORY", "home/restic"),  # it would be made there
        ("RESTIC_CACHE_DIR", "cache"),
        ("DODEKA_STATE", "home/state"),
        ("RESTIC_PASSWORD_FILE", "home/password"),
        ("DODEKA_BACKEND", "home"),
        ("OFFSITE_REPOSITORY", "home/offsite"),
    ],
)
def test_each_place(site, script, setting, name):
    theirs = site.folder / Path(name).parts[0]
    theirs.mkdir(exist_ok=True)
    os.chown(theirs, SOMEBODY, SOMEBODY)
    is_refused(site, script, theirs, **{setting: str(site.folder / name)})


def test_the_folder_of_a_database_that_is_a_link(site):
    theirs = site.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, SOMEBODY, SOMEBODY)
    site.database().rename(theirs / "db.sqlite")
    site.database().symlink_to(theirs / "db.sqlite")
    is_refused(site, "restore", theirs)


def test_a_link_of_somebody_s_on_the_way_to_what_is_root_s(site):
    """Whoever may set it would have root write anywhere."""
    folder = site.database("demo").parent
    elsewhere = site.folder / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert site.run("backup", "demo").returncode == 0
    os.chown(folder, SOMEBODY, SOMEBODY, follow_symlinks=False)
    is_refused(site, "restore", folder)


def test_the_settings_file_of_somebody(site):
    """In a folder of its own; nothing in it counts."""
    other = site.folder / "other"
    other.mkdir()
    file = other / "backup.env"
    file.write_text("DODEKA_LOCK_WAIT_S=nonsense\n")
    file.chmod(0o600)
    os.chown(other, SOMEBODY, SOMEBODY)
    is_refused(site, "backup", other, DODEKA_BACKUP_ENV=str(file))
