"""command: what sh does by default and must not do here."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from dodeka_db.errors import NoProcessError, SetupError
from dodeka_db.host import programs

BIN = Path(__file__).resolve().parents[2] / "bin"


def test_output_and_exit_code():
    done = programs.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", "err\n")
    assert done.failure == "err"


def test_standard_output_is_no_terminal():
    assert programs.run("sh", "-c", "test -t 1").exit_code == 1


def test_without_input_a_program_reads_nothing():
    assert programs.run("cat").stdout == b""


def test_input_is_handed_over_and_output_is_read_as_it_comes(tmp_path):
    (tmp_path / "in").write_bytes(os.urandom(1_000_000))
    found = []
    with open(tmp_path / "in", "rb") as source:
        done = programs.run("cat", stdin=source, reader=lambda output: found.append(output.read()))
    assert (done.exit_code, done.stdout) == (0, b"")
    assert found == [(tmp_path / "in").read_bytes()]


def test_a_reader_gets_what_is_there_before_the_program_ends(tmp_path):
    def reader(output) -> None:
        assert output.read(6) == b"early\n"
        (tmp_path / "go").touch()

    programs.run("sh", "-c", f"echo early; until [ -e {tmp_path}/go ]; do sleep 0.01; done", reader=reader)


def test_a_program_is_not_stopped_by_its_reader_having_enough(tmp_path):
    done = programs.run(
        "sh",
        "-c",
        f"head -c 5000000 /dev/zero && touch {tmp_path}/end",
        reader=lambda output: output.read(10),
    )
    assert (done.exit_code, (tmp_path / "end").exists()) == (0, True)


def test_what_a_reader_raises_ends_the_program():
    def reader(output) -> None:
        output.read(1000)
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        programs.run("cat", "/dev/zero", reader=reader)


def test_what_the_end_of_the_output_makes_a_reader_raise_counts_only_if_the_program_did_well():
    def reader(output) -> None:
        if len(output.read(2000)) < 2000:
            raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        programs.run("head", "-c", "1000", "/dev/zero", reader=reader)
    assert programs.run("sh", "-c", "head -c 1000 /dev/zero; exit 3", reader=reader).exit_code == 3


def test_a_long_output_is_kept_whole():
    assert len(programs.run("head", "-c", "50000000", "/dev/zero").stdout) == 50_000_000


def test_output_that_is_no_text():
    assert programs.run("printf", r"\377").stdout == b"\xff"
    assert programs.run("sh", "-c", r"printf '\377' >&2; exit 1").failure == "\ufffd"


def test_the_environment_is_just_the_one_given():
    assert programs.run("/usr/bin/env", env={"A": "b"}).stdout == b"A=b\n"


def test_a_failure_that_restic_tells_in_json():
    line = '{"message_type":"exit_error","code":12,"message":"Fatal: wrong\\npassword"}'
    assert programs.Completed(12, b"", f"noise\n{line}\n").failure == "Fatal: wrong password"


def test_a_failure_without_its_stack():
    said = "Fatal: load(<data/1>): corrupted\nmain.main\n\t/src/cmd/main.go:75\nruntime.goexit\n\t/go/asm_amd64.s:1594\n"
    assert programs.Completed(1, b"", said).failure == "Fatal: load(<data/1>): corrupted"


def test_a_failure_without_a_word():
    assert programs.run("false").failure == "no reason given"


def test_killed_by_a_signal():
    done = programs.run("sh", "-c", "kill -9 $$")
    assert done.exit_code == -signal.SIGKILL
    assert done.failure == "killed by SIGKILL"


def test_a_program_that_is_missing():
    with pytest.raises(SetupError, match="no-such-program is not installed"):
        programs.run("no-such-program")


def test_a_program_that_is_not_executable():
    with pytest.raises(
        SetupError, match="/etc/passwd cannot be run: it is not an executable file; see: ls -l"
    ):
        programs.run("/etc/passwd")


def test_a_program_that_cannot_be_run(tmp_path):
    (tmp_path / "broken").write_bytes(b"\x7fELF rubbish")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(SetupError, match="broken cannot be run"):
        programs.run(str(tmp_path / "broken"))


def script(tmp_path: Path, body: str) -> subprocess.Popen:
    text = f"""
        import sys; sys.path.insert(0, {str(BIN)!r})
        from dodeka_db import interrupts; from dodeka_db.host import programs
        interrupts.install()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(text) + textwrap.dedent(body))
    return subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_us_alone_ends_the_child_and_runs_finally(tmp_path, signum):
    process = script(
        tmp_path,
        f"""
        try:
            programs.run("sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 100")
        except interrupts.Interrupted as interruption:
            print(interruption, interruption.exit_code)
        finally:
            print("finally")
        """,
    )
    pid = wait_for(tmp_path / "pid")
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert output == f"{signum.name} {128 + signum}\nfinally\n"
    assert not Path(f"/proc/{pid}").exists()


def test_the_output_ends_where_the_program_could_only_be_started_at_the_second_try(tmp_path):
    process = script(
        tmp_path,
        """
        import errno, os
        fork, failures = os.fork, [OSError(errno.EAGAIN, "no process")]
        def failing_once():
            if failures:
                raise failures.pop()
            return fork()
        os.fork = failing_once
        programs.run("echo", "out", reader=lambda output: print(output.read().decode(), end=""))
        """,
    )
    try:
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "out\n")


def test_no_thread_for_the_watch_of_a_program_whose_output_is_read(monkeypatch):
    """Nor for the rest of its output, while it is being ended."""

    def start(thread: threading.Thread) -> None:
        if isinstance(thread, programs._Watcher) or thread._target is programs._drain:
            raise RuntimeError("can't start new thread")
        started(thread)

    started = threading.Thread.start
    children = Path("/proc/thread-self/children")
    before = children.read_text()
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(NoProcessError, match="cat cannot be run: this machine is out of processes"):
        programs.run(
            "cat", "/dev/zero", reader=lambda output: output.read(), watch=lambda _lines, _bytes: None
        )
    assert children.read_text() == before


def test_signals_that_come_together_end_the_child_too(tmp_path):
    """As the kernel and bash send SIGHUP when a terminal is closed: the second one came between the first and the child's end."""
    process = script(
        tmp_path,
        f"""
        import os, signal, sys
        shielded = programs.shielded
        def signalled():
            if isinstance(sys.exc_info()[1], interrupts.Interrupted):
                os.kill(os.getpid(), signal.SIGHUP)
            return shielded()
        programs.shielded = signalled
        try:
            programs.run("sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 100")
        except interrupts.Interrupted as interruption:
            print(interruption)
        """,
    )
    pid = wait_for(tmp_path / "pid")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output == "SIGTERM\n"
    assert not Path(f"/proc/{pid}").exists()


def test_a_signal_while_its_output_is_read_ends_the_child(tmp_path):
    process = script(
        tmp_path,
        f"""
        def reader(output):
            output.read(1)
            print("reading", flush=True)
            output.read()
        try:
            programs.run("sh", "-c", "echo $$ > {tmp_path}/pid; echo; exec sleep 100", reader=reader)
        except interrupts.Interrupted as interruption:
            print(interruption)
        """,
    )
    pid = wait_for(tmp_path / "pid")
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output == "SIGTERM\n"
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_that_is_stuck_in_writing_to_us_can_end_in_peace(tmp_path):
    """Like restic's since 0.17: it notices the signal only when its output has gone."""
    (tmp_path / "child.py").write_text(
        "import os, signal, sys\n"
        "asked = []\n"
        "signal.signal(signal.SIGINT, lambda *_: asked.append(1))\n"
        "while not asked: os.write(1, bytes(1_000_000))\n"
        "open(sys.argv[1], 'w').close()\n"
    )
    process = script(
        tmp_path,
        f"""
        import time
        def reader(output):
            output.read(1)
            print("reading", flush=True)
            time.sleep(100)
        try:
            programs.run(sys.executable, "{tmp_path}/child.py", "{tmp_path}/clean", reader=reader)
        except interrupts.Interrupted as interruption:
            print(interruption)
        """,
    )
    assert process.stdout.readline() == "reading\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output == "SIGTERM\n"
    assert (tmp_path / "clean").exists()


def test_a_signal_while_the_child_is_being_started_ends_it_too(tmp_path):
    process = script(
        tmp_path,
        f"""
        import os, sh, signal
        start = sh.Command.__call__
        def start_and_be_signalled(*arguments, **options):
            child = start(*arguments, **options)
            while not os.path.exists("{tmp_path}/pid") or not os.path.getsize("{tmp_path}/pid"): pass
            os.kill(os.getpid(), signal.SIGTERM)
            return child
        sh.Command.__call__ = start_and_be_signalled
        try:
            programs.run("sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 100")
        except interrupts.Interrupted as interruption:
            print(interruption)
        """,
    )
    output, _ = process.communicate(timeout=60)
    assert output == "SIGTERM\n"
    assert not Path(f"/proc/{wait_for(tmp_path / 'pid')}").exists()


def test_in_a_shielded_block_a_signal_waits_and_does_not_reach_the_child(tmp_path):
    process = script(
        tmp_path,
        f"""
        try:
            with interrupts.shielded():
                # Ctrl-C reaches the whole process group
                done = programs.run("sh", "-c", "echo $$ > {tmp_path}/pid; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo ended")
                print(done.stdout.decode().strip(), flush=True)
        except interrupts.Interrupted as interruption:
            print(interruption)
        """,
    )
    pid = wait_for(tmp_path / "pid")
    os.kill(int(pid), signal.SIGINT)
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    output, _ = process.communicate(timeout=60)
    assert output == "ended\nSIGINT\n"


def test_an_interruptible_stretch_of_a_shielded_block(tmp_path):
    process = script(
        tmp_path,
        """
        import os, signal
        with interrupts.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            print("still here")
            try:
                with interrupts.interruptible():
                    print("never")
            except interrupts.Interrupted as interruption:
                print(interruption)
        print("end")
        """,
    )
    output, _ = process.communicate(timeout=60)
    assert output == "still here\nSIGTERM\nend\n"


def wait_for(file: Path) -> str:
    for _ in range(1200):
        if file.exists() and file.read_text().endswith("\n"):
            return file.read_text().strip()
        time.sleep(0.05)
    raise AssertionError(f"{file} did not appear")
