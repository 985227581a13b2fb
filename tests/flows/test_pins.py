"""make pin, unpin, retention: what stays whatever the policy says, and what the next run would do."""

import re
import shutil

import pytest
from test_verify import TAGS, exported

from site_folder import Site, Twin, run_first


@pytest.fixture
def twin(empty_twin, tmp_path) -> Twin:
    shutil.copytree(empty_twin, tmp_path / "twin")
    return Twin(tmp_path / "twin")


def ids(site: Site) -> list[str]:
    return [one["short_id"] for one in site.snapshots("production")]


def backups(site: Site, count: int) -> None:
    for _ in range(count):
        site.ok("backup", "production")


def test_a_pinned_snapshot_stays_and_has_its_note(site):
    backups(site, 1)
    (old,) = ids(site)
    said = site.ok("pin", "production", "--note", "before migration 12", "--", old)
    (now,) = ids(site)
    assert old != now and "is a whole database" in site.ok("verify", "production", "--snapshot", old)
    assert (
        f"done: snapshot {now}, which was {old}, is pinned (before migration 12): no retention removes it"
        in said
    )
    listed = " ".join(site.ok("snapshots", "production").split())
    assert re.search(rf'{now} .* pinned "before migration 12": 400 members', listed)
    backups(site, 11)
    site.ok("cron", "production")
    assert now in ids(site)
    assert "before migration 12" in site.restic("snapshots").stdout, "restic alone sees it too"


def test_a_backup_with_a_note_is_pinned(site):
    said = site.ok("backup", "production", "--note", "before the update")
    assert re.search(r"done: snapshot \w{8}, .*, pinned, ", said)
    (snapshot,) = site.snapshots("production")
    assert {"pinned", "note=before the update"} <= {*snapshot["tags"]}
    assert snapshot["rows"]["users_by_email"] == 400


def test_unpinned_it_goes_as_if_it_had_never_been_pinned(site):
    backups(site, 2)
    old = ids(site)[0]
    tags = site.snapshots("production")[0]["tags"]
    site.ok("pin", "production", "--note", "why", "--", old)
    pinned = ids(site)[0]
    done = site.ok("unpin", "production", "--", pinned)
    assert "is no longer pinned: the retention policy decides" in done
    assert site.snapshots("production")[0]["tags"] == tags
    done = site.run("unpin", "production", "--", "latest")
    assert done.returncode == 4 and "is not pinned" in done.stderr


def test_a_new_note_takes_the_place_of_the_old_one(site):
    backups(site, 1)
    site.ok("pin", "production", "--note", "one", "--", "latest")
    site.ok("pin", "production", "--note", "two", "--", "latest")
    (snapshot,) = site.snapshots("production")
    assert [tag for tag in snapshot["tags"] if tag.startswith("note=")] == ["note=two"]


def test_without_a_note_the_old_one_stays(site):
    backups(site, 1)
    site.ok("pin", "production", "--note", "one", "--", "latest")
    assert "is pinned (one): " in site.ok("pin", "production", "--", "latest")
    (snapshot,) = site.snapshots("production")
    assert {"pinned", "note=one"} <= {*snapshot["tags"]}


@pytest.mark.parametrize("note", ["a, b", "x" * 81, "bell\x07"])
def test_a_note_that_restic_cannot_keep(site, note):
    backups(site, 1)
    before = site.snapshots()
    for script, arguments in (("pin", ["--", "latest"]), ("backup", [])):
        done = site.run(script, "production", "--note", note, *arguments)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done
    assert site.snapshots() == before


def test_a_pinned_pre_restore_snapshot_stays_too(site):
    backups(site, 1)
    site.ok("restore", "production", "--snapshot=latest", "--yes")
    kept = next(one for one in site.snapshots("production") if "pre-restore" in one["tags"])
    site.ok("pin", "production", "--", kept["short_id"])
    assert "pinned" in site.ok("retention", "production")


def test_what_restic_does_not_do_is_not_said(site):
    """It goes on, and ends with 0, where it cannot change a snapshot."""
    backups(site, 1)
    run_first(site.folder / "lazy", "case $1 in tag) exit 0;; esac")
    for script in ("pin", "unpin"):
        done = site.run(script, "production", "--", "latest", RESTIC=str(site.folder / "lazy"))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
        assert "the tags of snapshot" in done.stderr and "could not be changed" in done.stderr
        site.ok("pin", "production", "--", "latest")


def test_killed_between_the_new_tags_and_the_old_ones(site):
    """The snapshot is there twice then, and the pinned one counts."""
    backups(site, 1)
    (old,) = ids(site)
    file = site.repository / "snapshots" / site.snapshots("production")[0]["id"]
    kept = file.read_bytes()
    site.ok("pin", "production", "--", old)
    (pinned,) = ids(site)
    file.write_bytes(kept)
    assert sorted(ids(site)) == sorted([old, pinned])
    assert "is a whole database" in site.ok("verify", "production", "--snapshot", old)
    site.ok("pin", "production", "--note", "again", "--", pinned)
    assert len(ids(site)) == 2


class TestOffSite:
    def tags(self, twin: Twin) -> list[list[str]]:
        return [
            [tag for tag in one["tags"] if tag == "pinned" or tag.startswith("note=")]
            for one in twin.listed_there()
        ]

    def test_a_copy_is_pinned_and_unpinned_with_its_original_and_not_copied_again(self, twin):
        backups(twin, 2)
        twin.ok("offsite")
        twin.ok("pin", "production", "--note", "mine", "--", "latest~1")
        assert "done: 0 snapshots copied" in twin.ok("offsite")
        assert self.tags(twin) == [["pinned", "note=mine"], []]
        twin.ok("unpin", "production", "--", "latest~1")
        assert "done: 0 snapshots copied" in twin.ok("offsite")
        assert self.tags(twin) == [[], []], "it would stay for ever"

    @pytest.mark.slow("many copies")
    def test_where_nothing_can_be_removed_it_is_copied_once_more_and_no_oftener(self, twin):
        backups(twin, 1)
        none = {"OFFSITE_RETENTION": "none"}
        twin.ok("offsite", **none)
        twin.ok("pin", "production", "--", "latest")
        for copied in (1, 0):
            said = twin.ok("offsite", **none)
            assert re.search(f"done: {copied} snapshots? copied", said)
        assert sorted(self.tags(twin)) == [[], ["pinned"]]
        assert "done: 0 snapshots copied" in twin.ok("offsite"), "and one of the two is enough"
        assert sorted(self.tags(twin)) == [[], ["pinned"]]

    @pytest.mark.slow("many copies")
    def test_of_what_only_the_off_site_repository_has_nothing_changes(self, twin):
        backups(twin, 2)
        twin.ok("pin", "production", "--", "latest~1")
        twin.ok("offsite")
        twin.restic("forget", twin.snapshots()[0]["id"])
        twin.ok("offsite")
        assert self.tags(twin) == [["pinned"], []]

    @pytest.mark.slow("many copies")
    def test_what_the_server_decides_is_not_foretold(self, twin):
        backups(twin, 12)
        twin.ok("offsite", OFFSITE_RETENTION="none")
        said = twin.ok("retention", "production", "--offsite", OFFSITE_RETENTION="none")
        assert " removes" not in said and "OFFSITE_RETENTION=none: left to the server" in said


@pytest.mark.slow("twelve backups")
def test_what_the_next_run_would_do(site):
    backups(site, 12)
    site.ok("pin", "production", "--note", "mine", "--", ids(site)[0])
    before = ids(site)
    lines = site.ok("retention", "production").splitlines()
    assert ids(site) == before
    table = {line.split()[0]: line for line in lines[1:]}
    assert re.search(r"keeps +pinned: mine$", table[before[0]])
    assert re.search(r"removes$", table[before[1]])
    assert re.search(r"keeps +last", table[before[-1]])
    would_go = [snapshot for snapshot in before if table[snapshot].endswith("removes")]
    site.ok("cron", "production")
    gone = set(before) - set(ids(site))
    assert set(would_go) <= gone and len(gone) <= len(would_go) + 1


def test_nothing_goes_while_a_snapshot_is_from_the_future(site):
    backups(site, 1)
    file = site.folder / "dodeka-production.sqlite.zst"
    file.write_bytes(exported(site))
    for time in (*(f"2020-01-01 03:00:{second:02}" for second in range(12)), "2099-01-01 00:00:00"):
        site.restic("backup", "--time", time, "--tag", TAGS, str(file))
    future = ids(site)[-1]
    lines = site.ok("retention", "production").splitlines()[1:]
    assert len(lines) == 14 and all(" keeps " in line for line in lines)
    # which of them would go is restic's to say: 0.18 keeps the oldest one
    assert any(f"nothing is removed while {future} is from the future" in line for line in lines)
    site.restic("forget", future)
    assert " removes" in site.ok("retention", "production")
