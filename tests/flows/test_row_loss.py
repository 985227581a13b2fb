"""A loss of rows is told by the run that finds it, and by each run until the rows are back or somebody says that it was meant."""

import json
import re
import shutil
import sqlite3
from contextlib import closing

import pytest

from dodeka_db import data_description, settings
from dodeka_db.errors import DatabaseError, RowsLostError, ServiceError, SetupError
from dodeka_db.flows import backup as backup_flow
from dodeka_db.flows import cron as cron_flow
from dodeka_db.flows import row_loss, status
from dodeka_db.flows.in_the_end import in_the_end
from dodeka_db.flows.status_lines import unknown
from dodeka_db.host import run_lock, staging
from dodeka_db.restic.repository import Repository
from site_folder import Site, Twin, run_first


@pytest.fixture
def twin(empty_twin, tmp_path) -> Twin:
    shutil.copytree(empty_twin, tmp_path / "twin")
    return Twin(tmp_path / "twin")


def execute(site: Site, *statements: str, environment: str = "production") -> None:
    with closing(sqlite3.connect(site.database(environment), isolation_level=None)) as backend:
        for statement in statements:
            backend.execute(statement)


def cron(site: Site, code: int = 0) -> str:
    done = site.run("cron", "production")
    assert done.returncode == code, done
    return done.stdout + done.stderr


def ids(site: Site) -> list[str]:
    return [one["short_id"] for one in site.snapshots("production")]


def pinned(site: Site, environment: str = "production") -> list[str]:
    return [one["short_id"] for one in site.snapshots(environment) if "pinned" in one["tags"]]


def loss(site: Site, **tables: tuple[int, int]) -> row_loss.Loss:
    settings = site.settings
    return row_loss.Loss(settings, settings.environment("production"), "1" * 8, "2" * 8, tables)


FULL = "echo 'Fatal: no space left on device' >&2; exit 1"
LOSE = "DELETE FROM users_by_email WHERE rowid <= 380"


@pytest.fixture
def good(site) -> Site:
    """A site whose last run was good."""
    cron(site)
    return site


def test_the_accident_is_told_within_one_run_and_nothing_is_removed(good):
    first = good.snapshots("production")[-1]["short_id"]
    for _ in range(11):  # more than the ten latest of the policy
        good.ok("backup", "production")
    before = good.snapshots("production")
    execute(good, LOSE)
    said = cron(good, 9)
    lost, pinned = good.snapshots("production")[-1], good.snapshots("production")[-2]
    assert "pinned" in pinned["tags"] and "note=the last one before a loss of rows" in pinned["tags"]
    assert f"snapshot {lost['short_id']} is safe, but production HAS LOST ROWS since snapshot" in said
    assert (
        f"since snapshot {pinned['short_id']}: users_by_email 400 -> 20; no old snapshot is removed" in said
    )
    assert (
        f"bring them back: make bring-back ENV=production SNAPSHOT={pinned['short_id']}; if it was meant"
        in said
    )
    assert len(good.snapshots("production")) == len(before) + 1, "nothing was removed"
    assert first in {one["short_id"] for one in good.snapshots("production")}


def test_each_run_tells_until_the_rows_are_back(good):
    execute(good, LOSE)
    cron(good, 9)
    said = cron(good, 9)
    (pinned,) = re.findall(r"HAS LOST ROWS since snapshot ([0-9a-f]{8})", said)
    assert "no good run" not in said
    status = good.run("status").stdout
    assert re.search(r"BAD +production +cron +failed .*HAS LOST ROWS", status)
    good.ok("bring-back", "production", "--snapshot", pinned, "--yes")
    said = cron(good)
    assert "the loss of rows of production is over; the snapshot from before stays pinned" in said
    (unpin,) = re.findall(
        r"stays pinned until you unpin it: make unpin ENV=production SNAPSHOT=([0-9a-f]{8})\n", said
    )
    assert "LOST" not in cron(good)
    assert [one["short_id"] for one in good.snapshots("production") if "pinned" in one["tags"]] == [pinned]
    good.ok("unpin", "production", "--", unpin)
    assert not [one for one in good.snapshots("production") if "pinned" in one["tags"]]


def test_a_backup_by_hand_tells_too(good):
    execute(good, LOSE)
    done = good.run("backup", "production")
    assert done.returncode == 9 and "users_by_email 400 -> 20" in done.stderr


def test_what_was_meant_is_accepted(good):
    assert good.run("accept", "production").returncode == 2
    execute(good, LOSE)
    cron(good, 9)
    said = good.ok("accept", "production")
    assert "accepted: users_by_email 400 -> 20; the snapshot from before stays pinned" in said
    cron(good)
    done = good.run("accept", "production")
    assert done.returncode == 2 and "no run of production has found a loss of rows" in done.stderr
    execute(good, LOSE.replace("380", "395"))
    assert "users_by_email 20 -> 5" in cron(good, 9)
    good.ok("accept", "production")
    assert good.run("accept", "production").returncode == 2, "once is enough"


class TestAfterARestore:
    """Whatever it put in place is what the next run compares with: it was meant, and a loss after it is none the less one."""

    @pytest.fixture
    def grown(self, good) -> Site:
        """A site that had 20 members in the first of two good runs, and has 400."""
        with_all = good.folder / "with all"
        shutil.copy(good.database(), with_all)
        execute(good, LOSE)
        cron(good, 9)
        good.ok("accept", "production")
        shutil.copy(with_all, good.database())
        cron(good)
        return good

    def test_of_an_older_snapshot_and_an_undo(self, grown):
        grown.ok("restore", "production", "--snapshot=latest~1", "--yes")
        cron(grown)
        grown.ok("undo", "production", "--yes")
        execute(grown, LOSE)
        assert "users_by_email 400 -> 20" in cron(grown, 9), "before any run has counted what came back"

    def test_a_loss_before_the_next_run(self, grown):
        grown.ok("restore", "production", "--snapshot=latest~1", "--yes")
        restored = ids(grown)[-3]
        execute(grown, "DELETE FROM users_by_email")
        said = cron(grown, 9)
        assert "users_by_email 20 -> 0" in said
        now = next(
            one["short_id"] for one in grown.snapshots("production") if one["stored_as"][:8] == restored
        )
        assert f"HAS LOST ROWS since snapshot {now}" in said and pinned(grown)[-1] == now

    def test_of_a_clone_which_no_snapshot_of_the_environment_has(self, good):
        good.ok("backup", "demo")
        good.ok("restore", "demo", "--from", "production", "--snapshot", "latest", "--yes")
        execute(good, LOSE, environment="demo")
        done = good.run("cron", "demo")
        assert done.returncode == 9 and "demo HAS LOST ROWS since the last good run or restore" in done.stderr
        assert "look: make snapshots ENV=demo; if it was meant: make accept ENV=demo" in done.stderr
        assert "no snapshot from before is pinned" in good.ok("accept", "demo")
        good.ok("cron", "demo")

    def test_latest_is_what_was_lost_and_ends_nothing(self, good):
        execute(good, LOSE)
        cron(good, 9)
        said = good.ok("restore", "production", "--snapshot=latest", "--yes")
        assert (
            "production still lacks the rows that were lost: users_by_email 400 -> 20; if it is meant" in said
        )
        cron(good, 9)
        good.ok("restore", "production", "--snapshot=latest~2", "--yes")
        assert "LOST" not in cron(good)


class TestWhatHappensAtTheSameTime:
    """A loss is told whatever else goes wrong."""

    def test_a_failure_after_it(self, good):
        execute(good, LOSE)
        shutil.rmtree(good.state / "records")  # a run counts them once a day
        run_first(
            good.folder / "failing",
            "case $1 in stats) echo 'Fatal: ciphertext verification failed' >&2; exit 1;; esac",
        )
        done = good.run("cron", "production", RESTIC=str(good.folder / "failing"))
        assert done.returncode == 9 and "counting the stored bytes failed" in done.stdout

    def test_defects_of_the_database(self, good):
        def defects(lost: row_loss.Loss | None) -> None:
            with in_the_end(lambda: row_loss.fail_if_lost(lost)):
                raise DatabaseError("defects")

        with pytest.raises(RowsLostError, match="users 4 -> 0"):
            defects(loss(good, users=(4, 0)))
        with pytest.raises(DatabaseError):
            defects(None)

    @pytest.mark.slow("a repository that is filled")
    @pytest.mark.parametrize("code", [9, 6])
    def test_a_full_volume(self, good, code):
        """The policy had to go first, and the message does not deny it; nor with a baseline that is cut off."""
        for _ in range(11):
            good.ok("backup", "production")
        last = ids(good)[-1]
        execute(good, LOSE)
        if code == 6:
            (good.state / "baselines" / "production.json").write_text("")
        once = f"[ $1 != backup ] || [ -e {good.folder}/was ] || {{ touch {good.folder}/was; {FULL}; }}"
        run_first(good.folder / "full", once)
        done = good.run("cron", "production", RESTIC=str(good.folder / "full"))
        assert done.returncode == code
        assert re.search(r"\d+ old snapshots? removed before, because the repository was full", done.stderr)
        assert "no old snapshot is removed" not in done.stderr
        if code == 6:
            return
        (kept,) = [one for one in good.snapshots("production") if "pinned" in one["tags"]]
        assert kept["stored_as"].startswith(last)

    @pytest.mark.slow("a repository that is filled")
    @pytest.mark.parametrize("baseline", ["has a loss", "cannot be read"])
    def test_a_full_volume_in_a_run_of_the_other_environment(self, good, baseline):
        """It makes room with its own old snapshots alone, and stores its own."""
        for _ in range(11):
            good.ok("backup", "production")
            good.ok("backup", "demo")
        execute(good, LOSE)
        if baseline == "has a loss":
            cron(good, 9)
        else:
            file = good.state / "baselines" / "production.json"
            file.symlink_to(file.rename(good.folder / "aside.json"))  # root can read any other file
        before = ids(good)
        once = f"[ $1 != backup ] || [ -e {good.folder}/was ] || {{ touch {good.folder}/was; {FULL}; }}"
        run_first(good.folder / "full", once)
        done = good.run("cron", "demo", RESTIC=str(good.folder / "full"))
        assert done.returncode == 0 and "2 old snapshots removed" in done.stdout, done
        assert ids(good) == before

    def test_killed_before_it_was_pinned(self, good):
        execute(good, LOSE)
        run_first(good.folder / "killing", "case $1 in tag) kill -9 $PPID; sleep 1;; esac")
        assert good.run("cron", "production", RESTIC=str(good.folder / "killing")).returncode == -9
        assert pinned(good) == []
        said = good.ok("accept", "production")
        assert pinned(good) and f"make unpin ENV=production SNAPSHOT={pinned(good)[0]}" in said

    def test_restic_does_not_pin_and_says_that_all_is_well(self, good):
        """As restic does where it cannot change a snapshot."""
        (first,) = ids(good)
        execute(good, LOSE)
        run_first(good.folder / "lazy", "case $1 in tag) exit 0;; esac")
        done = good.run("cron", "production", RESTIC=str(good.folder / "lazy"))
        assert done.returncode == 9 and f"since snapshot {first}" in done.stderr
        assert f"snapshot {first}, from before a loss of rows, is not pinned: the tags of" in done.stdout
        cron(good, 9)
        assert len(pinned(good)) == 1, "the next run tries again"

    def test_the_last_good_snapshot_is_gone(self, good):
        good.ok("backup", "production")
        good.restic("forget", good.snapshots("production")[-1]["id"])
        execute(good, LOSE)
        said = cron(good, 9)
        assert "is not pinned: it is no longer in" in said
        assert "since the last good run or restore: users_by_email 400 -> 20" in said
        assert "look: make snapshots ENV=production; if it was meant" in said

    def test_an_off_site_copy(self, twin):
        cron(twin)
        (first,) = ids(twin)
        execute(twin, LOSE)
        with staging.locked(twin.settings.offsite, run_lock.COPY):
            said = cron(twin, 9)
        assert "is not pinned: an off-site copy is running" in said and f"since snapshot {first}" in said

    def test_the_other_environment_goes_on(self, good):
        good.ok("cron", "demo")
        execute(good, LOSE)
        cron(good, 9)
        good.ok("cron", "demo")
        assert pinned(good, "demo") == []
        assert good.run("accept", "demo").returncode == 2
        cron(good, 9)


class TestWhatCannotBeCounted:
    """It is no end of a loss, and no zero."""

    def look(self, site: Site, rows: dict[str, int | None] | None) -> row_loss.Loss | None:
        class Taken:
            snapshot_id = "00000000"

        Taken.rows = rows
        settings = site.settings
        return row_loss.look(settings, Repository(settings.main), settings.environment("production"), Taken())

    @pytest.fixture
    def rows(self, good) -> dict[str, int | None]:
        execute(good, LOSE)
        cron(good, 9)
        return dict(good.snapshots("production")[-1]["rows"])

    def test_all_of_it_after_a_loss(self, good, rows):
        found = self.look(good, None)
        assert found and found.tables == {"users_by_email": (400, 20)}
        assert self.look(good, rows)

    def test_the_table_that_lost(self, good, rows):
        found = self.look(good, {**rows, "users_by_email": None})
        assert found and found.tables == {"users_by_email": (400, 20)}
        assert self.look(good, {**rows, "users_by_email": 400}) is None

    def test_a_description_with_a_mistake_after_a_loss(self, good, rows, monkeypatch):
        def broken() -> None:
            raise SetupError("data description x: wrong")

        monkeypatch.setattr(data_description, "read", broken)
        assert self.look(good, rows).tables == {"users_by_email": (400, 20)}

    def test_what_is_accepted_keeps_what_was_known(self, good, rows):
        assert self.look(good, {**rows, "users": None})
        good.ok("accept", "production")
        assert "users" in self.look(good, {**rows, "users": 0}).tables


@pytest.mark.slow("many copies")
def test_nothing_is_removed_off_site_either_and_retention_says_so(twin):
    cron(twin)
    for _ in range(12):
        twin.ok("backup", "production")
    execute(twin, LOSE)
    cron(twin, 9)
    lines = twin.ok("retention", "production").splitlines()[1:]
    assert all(" keeps " in line for line in lines)
    assert "nothing is removed after a loss of rows (production)" in "\n".join(lines)
    said = "none of the old snapshots of production is removed after a loss of rows (production)"
    assert said in twin.ok("offsite")
    assert len(twin.listed_there()) == len(lines) == 14
    file = twin.state / "baselines" / "production.json"
    content = file.read_text()
    file.write_text(content[:-9])  # a copy that was made is none the less one
    said = "none of the old snapshots of production is removed while it is not known whether rows were lost: "
    assert said in twin.ok("offsite")
    assert len(twin.listed_there()) == 14
    file.write_text(content)
    twin.ok("accept", "production")
    assert " removes" in twin.ok("retention", "production")


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (["DELETE FROM users_by_email WHERE rowid <= 200"], 0),  # half
        (["DELETE FROM users_by_email WHERE rowid <= 201"], 9),
        (["DELETE FROM private"], 9),  # its only row
        (["DELETE FROM outbox", "DELETE FROM session_cache", "DELETE FROM tokens"], 0),  # of the moment
        (["DELETE FROM registrations"], 0),  # deploy/data.toml says so
        (["DROP TABLE birthdays"], 9),
        (["ALTER TABLE birthdays RENAME TO born"], 9),
        (["CREATE TABLE new (a)", "INSERT INTO new VALUES (1)"], 0),
    ],
)
def test_what_counts_as_a_loss(good, statements, code):
    execute(good, *statements)
    cron(good, code)


def test_a_table_is_the_same_in_whatever_letter_case(good):
    """As SQLite, and so the backend, finds it."""
    execute(good, "ALTER TABLE birthdays RENAME TO born", "ALTER TABLE born RENAME TO Birthdays")
    cron(good)
    execute(good, "DELETE FROM birthdays")
    assert "birthdays 400 -> 0" in cron(good, 9)


def test_a_small_table_may_shrink_but_not_vanish(site):
    execute(site, "DELETE FROM users_by_email WHERE rowid > 19")
    cron(site)
    execute(site, "DELETE FROM users_by_email WHERE rowid > 1")
    cron(site)
    execute(site, "DELETE FROM users_by_email")
    assert "users_by_email 1 -> 0" in cron(site, 9)


def test_the_last_count_that_is_known_is_the_one_to_compare_with(good):
    baseline = good.state / "baselines" / "production.json"
    found = json.loads(baseline.read_text())
    found["good"]["rows"]["users_by_email"] = None
    baseline.write_text(json.dumps(found))
    execute(good, LOSE)
    cron(good)
    execute(good, "DELETE FROM users_by_email")
    assert "users_by_email 20 -> 0" in cron(good, 9)


@pytest.mark.parametrize(
    "content",
    [
        *("", "null", "{}", "[]", '{"good": {"rows": {"users": "many"}}}', '{"good": {"rows": 7}}'),
        '{"good": {"rows": {}, "snapshot": ""}, "lost": {}}',
    ],
)
def test_a_baseline_that_is_none_fails_the_run_until_it_is_removed(good, content):
    """Perhaps a power cut has cut it off, with an open loss in it."""
    file = good.state / "baselines" / "production.json"
    file.write_text(content)
    execute(good, LOSE)
    done = good.run("cron", "production")
    assert done.returncode == 6, done
    assert (
        f"{file} is not what a run has written; no old snapshot is removed; an open loss of rows is forgotten with it, so look"
        f" first: make snapshots ENV=production; then: rm {file}" in done.stderr
    )
    assert file.read_text() == content
    listed = good.ok("retention", "production")
    assert "removes" not in listed
    file.unlink()
    cron(good)
    execute(good, "DELETE FROM users_by_email")
    cron(good, 9)


@pytest.mark.parametrize(
    ("script", "failing"),
    [
        *(("cron", "baseline"), ("cron", "backup"), ("cron", "forget")),
        *(("backup", "baseline"), ("backup", "backup")),
    ],
)
def test_a_service_that_is_down_is_told_whatever_else_fails(good, script, failing, monkeypatch, caplog):
    def down(_: object, done: str) -> None:
        raise ServiceError(f"{done}: the service is DOWN")

    monkeypatch.setattr("dodeka_db.flows.leftovers.fail_if_down", down)
    monkeypatch.setattr("dodeka_db.flows.cron.fail_if_down", down)
    if failing == "baseline":
        (good.state / "baselines" / "production.json").write_text("")
    run_first(good.folder / "failing", f"case $1 in {failing}) echo 'Fatal: no' >&2; exit 1;; esac")
    found = settings.load({**good.environ, "RESTIC": str(good.folder / "failing")})
    safe = "" if failing == "backup" else "snapshot .{8} is safe"
    with pytest.raises(ServiceError, match=f"^{safe}: the service is DOWN"):
        {"cron": cron_flow, "backup": backup_flow}[script].run(found, found.environment("production"))
    said = {"baseline": "looking for a loss of rows failed", "backup": "no", "forget": "the retention failed"}
    assert said[failing] in caplog.text


def test_a_loss_that_a_version_before_this_one_found_stays_one(good):
    """It wrote the names of the tables as they are in the database."""
    execute(good, LOSE)
    cron(good, 9)
    file = good.state / "baselines" / "production.json"
    file.write_text(file.read_text().replace('"users_by_email": 400', '"Users_By_Email": 400'))
    assert "users_by_email 400 -> 20" in cron(good, 9)


def test_a_loss_stays_one_while_its_table_cannot_be_counted_whatever_its_letter_case(good, caplog):
    class Taken:
        rows: dict[str, int | None] = {"Users_By_Email": 20}
        snapshot_id = "00000000"

    settings = good.settings
    environment = settings.environment("production")
    for count in (20, None):
        Taken.rows = {"Users_By_Email": count}
        loss = row_loss.look(settings, Repository(settings.main), environment, Taken())
        assert loss and loss.tables["users_by_email"] == (400, 20)
    assert "is over" not in caplog.text


def test_without_a_description_it_is_said_that_nobody_would_notice(good, monkeypatch, caplog):
    def broken() -> None:
        raise SetupError("data description x: wrong")

    monkeypatch.setattr(data_description, "read", broken)

    class Taken:
        rows = {"users_by_email": 0}
        snapshot_id = "00000000"

    settings = good.settings
    assert row_loss.look(settings, None, settings.environment("production"), Taken()) is None
    assert "a loss of rows would not be noticed: data description x: wrong" in caplog.text


def test_a_baseline_that_cannot_be_read_fails_the_run_and_is_not_replaced(good):
    """A loss meanwhile is noticed when it can be read again."""
    file = good.state / "baselines" / "production.json"
    aside = file.rename(good.folder / "aside.json")
    file.symlink_to(aside)  # root can read any other file
    execute(good, LOSE)
    done = good.run("cron", "production")
    assert done.returncode == 6, done
    assert re.search(
        rf"error: snapshot \w+ is safe, but looking for a loss of rows failed: {file} cannot be read: .*; see: ls -l {file}",
        done.stderr,
    )
    found = rows_line(good)
    assert found["state"] == "unknown" and f"{file} cannot be read" in found["text"]
    assert good.run("accept", "production").returncode == 6
    good.ok("restore", "production", "--snapshot=latest", "--yes")
    file.unlink()
    aside.rename(file)
    assert "users_by_email 400 -> 20" in cron(good, 9)


def test_the_status_says_that_a_loss_would_not_be_noticed(good, monkeypatch):
    def broken() -> None:
        raise SetupError("data description x: wrong", "correct it there")

    monkeypatch.setattr(data_description, "read", broken)
    lines = {(line.environment, line.subject): line.look for line in status.look(good.settings)}
    assert lines["production", "rows"] == unknown("data description x: wrong; correct it there")


def rows_line(site: Site) -> dict[str, str]:
    lines = json.loads(site.run("status", "--json").stdout)["lines"]
    return next(one for one in lines if (one["environment"], one["subject"]) == ("production", "rows"))


def test_the_status_says_so_until_it_is_accepted(good):
    found = rows_line(good)
    assert (found["state"], found["text"]) == ("well", "no loss is open")
    execute(good, LOSE)
    cron(good, 9)
    found = rows_line(good)
    before = pinned(good)[0]  # the ID that the run told and the list shows, not the one from before the pin
    assert (found["state"], found["text"]) == (
        "bad",
        "LOST: users_by_email 400 -> 20; nothing old is removed",
    )
    assert found["fix"] == (
        f"make changes ENV=production SNAPSHOT={before};"
        f" bring them back: make bring-back ENV=production SNAPSHOT={before};"
        " if it was meant: make accept ENV=production"
    )
    good.ok("accept", "production")
    assert rows_line(good)["state"] == "well"
