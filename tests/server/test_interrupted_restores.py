"""A restore that gets SIGINT or SIGTERM at every step of it: whole, up, and nothing lost."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from restore_steps import DEMO, Machine, Step, is_new, steps
from site_folder import Twin

if os.geteuid() != 0:
    pytest.skip("these tests need root, to start a systemd of their own", allow_module_level=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory, empty_twin) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("server") / "machine", Twin(empty_twin))
    yield machine
    machine.stop()


def interrupted(machine: Machine, step: Step, name: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Send a restore the signal at `step`; what is wrong afterwards, or nothing."""
    mark = machine.prepare()
    stored = pre_restore_snapshots(machine)
    done = machine.run(step, name)
    number = getattr(signal, f"SIG{name}")
    users, files = machine.users(), machine.files()
    kept = [file for file in files if re.search(r"\.pre-restore-\d+T\d+Z$", file)]
    beside = {f"{file}{suffix}" for file in kept for suffix in ("", "-wal", "-shm")}
    problems = []
    # at its last steps it has done everything already; at its first ones Python itself answers
    if done.returncode not in (128 + number, -number, 0) or "Traceback" in done.stderr:
        problems.append("it did not end as it should")
    if done.returncode == 128 + number and f"interrupted (SIG{name})" not in done.stderr:
        problems.append("it did not say so")
    if not machine.is_up():
        problems.append("the service is down")
    if not machine.is_whole() or (users != [mark] and not is_new(users)):
        problems.append(f"the database is neither: {users}")
    if set(files) - beside != {"db.sqlite"} or machine.staging():
        problems.append(f"left behind: {files} {machine.staging()}")
    if users == [mark] and kept:
        problems.append(f"kept, but nothing was replaced: {files}")
    if users != [mark] and kept:
        if machine.users(DEMO.with_name(kept[0])) != [mark]:
            problems.append("the replaced database is lost")
        said = f"the replaced database is kept as {DEMO.with_name(kept[0])}; to put it back: make undo"
        if said not in done.stderr:
            problems.append("it does not say where the replaced database is")
    if users != [mark] and not kept and pre_restore_snapshots(machine) == stored:
        problems.append("the replaced database is nowhere")
    for file in beside:
        machine.server.path(DEMO.with_name(file)).unlink(missing_ok=True)
    log = machine.server.sh("tail -5 /tmp/backend.log") if problems else ""
    return done, f"{problems}: {done.returncode} {done.stdout} {done.stderr} {log}" if problems else ""


def pre_restore_snapshots(machine: Machine) -> int:
    return len(list(machine.server.path("/mnt/backup/restic/snapshots").iterdir()))


@pytest.mark.slow("each signal", keep=["TERM"])
@pytest.mark.parametrize("name", ["INT", "TERM"])
@pytest.mark.long
def test_at_every_step(machine, sampled, name):
    machine.prepare()
    every = steps(machine.trace())
    assert len(every) > 60
    found = sampled(every)
    wrong = {}
    answered = 0
    for step in found:
        for _ in range(3):
            done, problem = interrupted(machine, step, name)
            # the backend of this test, under load, may fail at its start: then the signal never came
            if "does not stay up" not in done.stderr:
                break
        answered += done.returncode == 128 + getattr(signal, f"SIG{name}")
        if problem:
            wrong[step] = problem
    assert answered > len(found) - 15 * len(found) / len(every) - 1, "all but the first and the last steps"
    assert not wrong, "\n".join(f"{step}: {problem}" for step, problem in wrong.items())
