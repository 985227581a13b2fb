"""Work in a thread beside the main one: its result, its failure, and the end of what it runs."""

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dodeka_db import interrupts
from dodeka_db.host import programs
from dodeka_db.host.beside import beside
from monitor_receiver import Receiver

BIN = Path(__file__).resolve().parents[2] / "bin"


def test_the_result_is_waited_for():
    with beside(lambda: programs.run("sh", "-c", "sleep 0.3; echo out"), "the test") as result:
        began = time.monotonic()
    assert time.monotonic() - began > 0.2, "the end of the block waits"
    assert result().stdout == b"out\n"


def test_a_failure_is_raised_where_the_result_is_wanted():
    with beside(lambda: 1 / 0, "the test") as result:
        pass
    with pytest.raises(ZeroDivisionError):
        result()


def test_a_block_that_fails_ends_the_program():
    began = time.monotonic()
    with pytest.raises(LookupError), beside(lambda: programs.run("sleep", "60"), "the test"):
        time.sleep(0.5)
        raise LookupError
    assert time.monotonic() - began < 10


def test_a_block_that_fails_ends_the_program_that_comes_next():
    """As where the work waits for a lock of restic's, and looks every few seconds whether it has gone."""

    def work() -> None:
        time.sleep(0.5)
        programs.run("sleep", "60")

    began = time.monotonic()
    with pytest.raises(LookupError), beside(work, "the test"):
        time.sleep(0.2)
        raise LookupError
    assert time.monotonic() - began < 10


def test_a_block_that_fails_ends_the_program_that_began_while_signals_waited_in_the_main_thread():
    """As they do while the main thread starts a program of its own, at the same time."""
    began = time.monotonic()
    with pytest.raises(LookupError), beside(lambda: programs.run("sleep", "60"), "the test"):
        with interrupts.shielded():
            time.sleep(0.5)
        raise LookupError
    assert time.monotonic() - began < 10


def test_a_block_that_fails_ends_a_program_that_ignores_being_asked(monkeypatch):
    monkeypatch.setattr(programs, "PATIENCE_S", 0.5)
    began = time.monotonic()
    with (
        pytest.raises(LookupError),
        beside(lambda: programs.run("sh", "-c", "trap '' INT; exec sleep 60"), "the test"),
    ):
        time.sleep(0.5)
        raise LookupError
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_at_the_end_of_the_block_ends_the_program(tmp_path, signals):
    """A second one does not leave behind what the first one has asked in vain."""
    words = f"trap '' INT; echo $$ > {tmp_path}/process; while :; do sleep 0.1; done"
    script = f"""
        from dodeka_db import interrupts
        from dodeka_db.host import programs
        from dodeka_db.host.beside import beside
        programs.PATIENCE_S = 3
        interrupts.install()
        with beside(lambda: programs.run("sh", "-c", {words!r}), "the test"):
            pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=BIN, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "process").exists() or not (tmp_path / "process").read_text():
        time.sleep(0.05)
    time.sleep(0.3)
    for _ in range(signals):
        process.terminate()
        time.sleep(1.2)
    assert process.wait(timeout=20) == 1  # a traceback of Interrupted
    assert not Path(f"/proc/{(tmp_path / 'process').read_text().strip()}").exists()


def test_a_signal_as_soon_as_the_work_has_begun_ends_its_program():
    code = """
        import os, signal
        from concurrent.futures import ThreadPoolExecutor
        from dodeka_db import interrupts
        from dodeka_db.host import programs
        from dodeka_db.host.beside import beside
        interrupts.install()
        submit = ThreadPoolExecutor.submit
        def signalled(pool, work):
            future = submit(pool, work)
            os.kill(os.getpid(), signal.SIGTERM)
            return future
        ThreadPoolExecutor.submit = signalled
        try:
            with beside(lambda: programs.run("sleep", "60"), "the test"):
                print("the block begins")
        except interrupts.Interrupted as interruption:
            print(interruption)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PYTHONPATH": str(BIN), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.stdout, done.stderr) == ("SIGTERM\n", "")


def test_a_signal_ends_both_programs_and_comes_to_the_main_thread():
    """Also one that comes while a program is being started in the other thread, where signals are not held back."""
    code = """
        import os, subprocess, sys
        from dodeka_db import interrupts
        from dodeka_db.host import programs
        from dodeka_db.host.beside import beside
        interrupts.install()
        subprocess.Popen(["sh", "-c", f"sleep {sys.argv[1]}; kill {os.getpid()}"])
        try:
            with beside(lambda: [programs.run("sleep", "0.01") for _ in range(30)], "the test"):
                programs.run("sleep", "60")
        except interrupts.Interrupted as interruption:
            print(interruption, flush=True)
            os._exit(0)
    """
    for delay_s in (0.3, 0.5):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(delay_s)],
            env={"PYTHONPATH": str(BIN), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == ("SIGTERM\n", "")
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("ended_by", ["the failing block", "a signal"])
def test_a_program_that_is_only_being_started_is_ended(ended_by):
    """Between fork and exec it is a copy of us, which a signal must not send through our own code: it would wait for ever."""
    code = """
        import os, signal, sys, time
        from dodeka_db import interrupts
        from dodeka_db.host import programs
        from dodeka_db.host.beside import beside
        interrupts.install()
        us, session = os.getpid(), os.getsid
        def signalled(process):
            if os.getpid() != us:  # in the child, where sh asks for the session
                os.kill(os.getpid(), signal.SIGINT)
            return session(process)
        os.getsid = signalled
        try:
            with beside(lambda: programs.run("sleep", "60"), "the test") as program:
                if sys.argv[1] == "a signal":
                    program()
                time.sleep(0.5)
                raise LookupError
        except LookupError:
            print("failed")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), ended_by],
        env={"PYTHONPATH": str(BIN), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.stdout, done.stderr) == ("failed\n", "")


THREADS = """
import runpy, signal, sys, threading
sys.path.insert(0, {bin!r})
start = threading.Thread.start
def starts(thread):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if not isinstance(thread, threading.Timer):  # sh has one while a program ends, which no main thread waits for then
        print("THREAD", thread.name, sorted(map(int, interrupts.SIGNALS - blocked)), file=sys.stderr)
    start(thread)
from dodeka_db import interrupts
interrupts.SIGNALS = frozenset(interrupts.SIGNALS)
threading.Thread.start = starts
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "words", [["cron", "production"], ["snapshots"], ["restore", "demo", "--snapshot=latest", "--yes"]]
)
def test_no_other_thread_gets_signals(site, words):
    """In one that does, a signal would not interrupt the main thread, which waits for restic: it was lost in 1 run of 10."""
    site.ok("backup", "demo")
    script, *arguments = words
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-c", THREADS.format(bin=str(BIN)), BIN / f"dodeka-db-{script}.py", *arguments],
            env={**site.environ, "DODEKA_MONITOR": receiver.key_url},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done
    started = re.findall(r"^THREAD .*\[(.*)\]$", done.stderr, re.MULTILINE)
    assert len(started) > 5 and set(started) == {""}, done.stderr
