"""A restore killed with SIGKILL at every step of it, and the order of steps that a power cut asks for."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restore_steps import DEMO, UNIT, Machine, Step, is_new, steps
from site_folder import Twin
from whole_server import PROJECT

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)

NEXT = (
    ("backup", "production"),
    ("cron", "production"),
    ("backup", "demo"),
)  # whose turn it may be after a crash


@pytest.fixture(scope="module")
def machine(tmp_path_factory, empty_twin) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("server") / "machine", Twin(empty_twin))
    yield machine
    machine.stop()


def killed(
    machine: Machine,
    step: Step,
    prepare: Callable[[], str],
    script: list[str] | None = None,
    is_new: Callable[[list[str]], bool] = is_new,
    **variables: str,
) -> str:
    """Kill a restore, or another script, at `step` and let the next run come; what is wrong then, or nothing.

    `prepare` returns the user that the old database has, `is_new` tells the new one by its users.
    """
    for _ in range(5):  # how many pages SQLite writes differs, and so whether there is an nth time
        mark = prepare()
        done = machine.run(step, "KILL", script, **variables)
        if done.returncode in (-9, 137):
            break
    else:
        return f"not killed: {done}"
    files = machine.files()
    name, environment = NEXT[step.number % len(NEXT)]
    next_run = machine.server.run(
        *(str(PROJECT / f"deploy/dodeka-db-{name}.sh"), environment), check=False, DODEKA_START_WAIT_S="0"
    )
    problems = []
    if next_run.returncode:
        problems.append(f"the next run failed: {next_run.stderr}")
    if not machine.is_up():
        problems.append("the service is down")
    users = machine.users()
    if not machine.is_whole() or (users != [mark] and not is_new(users)):
        problems.append(f"the database is neither: {users}")
    if machine.files() != ["db.sqlite"] or machine.staging():
        problems.append(f"left behind: {machine.files()} {machine.staging()}")
    if users != [mark] and machine.users(machine.newest_pre_restore()) != [mark]:
        problems.append("the replaced database is lost")
    return f"{problems} after {files}, the next run said {next_run.stdout}" if problems else ""


def wrong_ones(steps: list[Step], kill: Callable[[Step], str]) -> str:
    """What is wrong after a kill at each of them."""
    return "\n".join(f"{step}: {problem}" for step in steps if (problem := kill(step)))


@pytest.mark.long
def test_killed_at_every_step(machine, sampled):
    machine.prepare()
    found = steps(machine.trace())
    names = {step.name for step in found}
    assert {"link", "rename", "unlink", "fsync", "fdatasync", "pwrite64", "write", "clone", "flock"} <= names
    assert len(found) > 60
    assert not wrong_ones(sampled(found), lambda step: killed(machine, step, machine.prepare))


@pytest.mark.slow("every step, once more")
@pytest.mark.long
def test_killed_at_every_step_while_the_old_database_is_put_back(machine, sampled):
    machine.prepare()
    found = steps(machine.trace(**machine.goes_back))
    renamed = [at for at, step in enumerate(found) if step.name == "rename" and f"{DEMO}" in step.text]
    swapped, put_back = renamed[:2]
    assert ".restoring-" in found[swapped].text and ".pre-restore-" in found[put_back].text
    assert len(found) - swapped > 30

    def kill(step: Step) -> str:
        problem = killed(machine, step, machine.prepare, **machine.goes_back)
        is_back = found.index(step) > put_back
        if not problem and is_back and not is_new(machine.users(machine.newest_pre_restore())):
            return "the new database, with what was written to it, is lost"
        return problem

    assert not wrong_ones(sampled(found[swapped + 1 :]), kill)


@pytest.mark.long
def test_killed_at_every_step_of_a_bring_back(machine, sampled):
    """All rows are back, or none is; and the database as it was is then a snapshot."""
    bring_back = [str(PROJECT / "bin/dodeka-db-bring-back.py"), *machine.script[1:]]

    def are_back(users: list[str]) -> bool:
        return is_new([user for user in users if not user.startswith("mark-")])

    machine.prepare()
    machine.trace(bring_back)  # the first run makes Python's compiled files
    machine.prepare()
    found = steps(machine.trace(bring_back))
    assert are_back(machine.users()) and len(found) > 20
    assert not wrong_ones(
        sampled(found), lambda step: killed(machine, step, machine.prepare, bring_back, are_back)
    )


@pytest.mark.slow("every step")
def test_killed_at_every_step_of_an_undo_from_a_kept_file(machine, sampled):
    undo = [str(PROJECT / "bin/dodeka-db-undo.py"), "demo", "--yes"]

    def prepare() -> str:
        mark = machine.prepare()
        machine.keep()
        return mark

    def kill(step: Step) -> str:
        problem = killed(machine, step, prepare, undo, lambda users: users == ["kept"])
        saved = machine.users(machine.newest_pre_restore())
        if not problem and machine.users() != ["kept"] and saved != ["kept"]:
            return f"the kept database is lost: {saved}"
        return problem

    prepare()
    found = steps(machine.trace(undo))
    copied = next(at for at, step in enumerate(found) if ".restoring-" in step.text)
    assert len(found) - copied > 40 and machine.users() == ["kept"]
    # what comes before is the recovery's
    assert not wrong_ones(sampled(found[copied:]), kill)


@pytest.mark.slow("both sides of the swap")
@pytest.mark.parametrize("swapped", [False, True], ids=["before the swap", "behind it"])
@pytest.mark.long
def test_killed_at_every_step_of_recovery_itself(machine, sampled, swapped):
    """A restore was killed while the service was stopped; then the run that cleans up behind it is killed too."""
    machine.prepare()
    restore = steps(machine.trace())
    (at,) = [at for at, step in enumerate(restore) if step.name == "rename" and ".restoring-" in step.text]
    backup = [str(PROJECT / "bin/dodeka-db-backup.py"), "production"]

    def prepare() -> str:
        mark = machine.prepare()
        assert machine.run(restore[at + swapped], "KILL").returncode in (-9, 137)
        assert not machine.server.active(UNIT)
        return mark

    prepare()
    found = steps(machine.trace(backup))
    if swapped:
        end = max(
            at for at, step in enumerate(found) if step.name == "unlink" and ".pre-restore-" in step.text
        )
    else:  # the service is up again, and the mark is gone; what follows is a backup
        end = max(at for at, step in enumerate(found) if step.name == "unlink" and ".stopped" in step.text)
    assert end > 8
    assert not wrong_ones(sampled(found[: end + 2]), lambda step: killed(machine, step, prepare, backup))


RUBBISH, ITS_WAL = b"SQLite format 3\0" + b"\xff" * 9000, b"its wal"


@pytest.fixture
def idle(machine) -> Iterator[None]:
    """The service leaves the database alone: a damaged one has nothing that could open it."""
    drop_in = machine.server.path(f"/etc/systemd/system/{UNIT}.service.d/idle.conf")
    drop_in.write_text("[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n")
    machine.server.run("systemctl", "daemon-reload", user="root")
    yield
    drop_in.unlink()
    machine.server.run("systemctl", "daemon-reload", user="root")
    machine.server.run("systemctl", "restart", UNIT, user="root")
    machine.server.run(*machine.script, DODEKA_START_WAIT_S="0")
    for path in damaged_files(machine):
        path.unlink()


def damage(machine: Machine) -> None:
    machine.server.run("systemctl", "restart", UNIT, user="root")
    for path in machine.server.path(DEMO.parent).iterdir():
        path.unlink()
    for suffix, data in (("", RUBBISH), ("-wal", ITS_WAL)):
        machine.server.path(f"{DEMO}{suffix}").write_bytes(data)
        machine.server.run("chown", "backend:", f"{DEMO}{suffix}", user="root")


def damaged_files(machine: Machine) -> list[Path]:
    return sorted(machine.server.path(DEMO.parent).glob("db.sqlite.damaged-*"))


@pytest.mark.slow("every step")
def test_killed_at_every_step_of_replacing_a_damaged_database(machine, idle):
    damage(machine)
    found = steps(machine.trace())
    (link,) = [at for at, step in enumerate(found) if step.name == "link"]
    (swap,) = [at for at, step in enumerate(found) if step.name == "rename" and ".restoring-" in step.text]
    assert swap - link > 6
    old = new = 0
    for step in found[link : swap + 4]:
        for _ in range(5):  # how many pages SQLite writes differs
            damage(machine)
            exit_code = machine.run(step, "KILL").returncode
            if exit_code in (-9, 137):
                break
        assert exit_code in (-9, 137), step
        machine.server.run(str(PROJECT / "deploy/dodeka-db-backup.sh"), "production")
        assert machine.server.active(UNIT), step
        assert machine.staging() == [], step
        if machine.server.path(DEMO).read_bytes() == RUBBISH:
            old += 1
            assert machine.server.path(f"{DEMO}-wal").read_bytes() == ITS_WAL, step
            assert machine.files() == ["db.sqlite"], step
        else:
            new += 1
            assert is_new(machine.users()), step
            kept, wal = damaged_files(machine)
            assert (kept.read_bytes(), wal.read_bytes()) == (RUBBISH, ITS_WAL), step
            assert set(machine.files()) == {"db.sqlite", kept.name, wal.name}, step
    assert old > 6 and new > 2


FOLDER = re.escape(str(DEMO.parent))


def first(trace: list[str], pattern: str, after: int = 0) -> int:
    """The first line from `after` on that matches; {db} and {folder} stand for those of demo."""
    pattern = pattern.replace("{db}", re.escape(str(DEMO))).replace("{folder}", FOLDER)
    for at in range(after, len(trace)):
        if re.match(pattern, trace[at]):
            return at
    raise AssertionError(f"no {pattern} from line {after} on in:\n" + "\n".join(trace))


def last(trace: list[str], pattern: str, before: int) -> int:
    return before - 1 - first(trace[:before][::-1], pattern)


def test_the_order_of_steps_is_safe_in_a_power_cut(machine):
    machine.prepare()
    trace = machine.trace()
    swap = first(trace, r'rename\("{db}\.restoring-\w+", "{db}"\) = 0')

    # the new database is on the disk, with all that was done to it, before anything else happens
    staged = re.search(r'"([^"]+)"', trace[swap])[1]
    synced = last(trace, rf"fsync\(\d+<{re.escape(staged)}>\)", before=swap)
    touched = last(trace, rf"(write|pwrite64|ftruncate|fchown|fsetxattr).*{re.escape(staged)}", before=swap)
    kept = first(trace, r'link\("{db}", "{db}\.pre-restore-\w+"\) = 0')
    assert touched < synced < kept

    # so is the second name of the old one
    assert kept < (kept_synced := first(trace, r"fsync\(\d+<{folder}>\)", kept)) < swap

    # the WAL goes when its content is in the old database and on the disk, and for good before the swap
    written = last(trace, r"pwrite64\(\d+<{db}>", first(trace, r'unlink\("{db}-wal"\) = 0'))
    folded = first(trace, r"fdatasync\(\d+<{db}>\)", written)
    gone = first(trace, r'unlink\("{db}-wal"\) = 0')
    assert kept_synced < written < folded < gone
    journal = last(trace, r'unlink\("{db}-(wal|journal|shm)"\) = 0', before=swap)
    assert journal < last(trace, r"fsync\(\d+<{folder}>\)", before=swap)

    # and nothing happens to the folder between that and the swap, nor is anything done before that is on the disk
    assert re.match(rf"fsync\(\d+<{FOLDER}>\)", trace[swap - 1])
    assert re.match(rf"fsync\(\d+<{FOLDER}>\)", trace[swap + 1])

    # the old one goes last, behind the last program that was run: restic, which has stored it
    removed = first(trace, r'unlink\("{db}\.pre-restore-\w+"\) = 0')
    assert removed > last(trace, r"clone\(", before=len(trace)) > swap


def test_the_order_of_steps_while_the_old_database_is_put_back(machine):
    machine.prepare()
    trace = machine.trace(**machine.goes_back)
    swap = first(trace, r'rename\("{db}\.restoring-\w+", "{db}"\) = 0')
    kept = first(trace, r'link\("{db}", "{db}\.pre-restore-\w+"\) = 0', swap)
    synced = first(trace, r"fsync\(\d+<{folder}>\)", kept)
    back = first(trace, r'rename\("{db}\.pre-restore-\w+", "{db}"\) = 0')
    # what the service has written to the new database is in it and on the disk before that goes aside
    assert swap < kept < synced < first(trace, r'unlink\("{db}-wal"\) = 0', synced) < back
    assert re.match(rf"fsync\(\d+<{FOLDER}>\)", trace[back - 1])
    assert re.match(rf"fsync\(\d+<{FOLDER}>\)", trace[back + 1])
    # and it is removed behind the last program that was run: restic, which has stored it
    removed = first(trace, r'unlink\("{db}\.pre-restore-\w+"\) = 0')
    assert removed > last(trace, r"clone\(", before=len(trace)) > back
