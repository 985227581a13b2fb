"""Standard streams that are closed, full or not UTF-8, and Ctrl-C at any moment: one line, the right exit code, no traceback."""

import fcntl
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from dodeka_db.errors import NoProcessError
from dodeka_db.flows import take_snapshot
from dodeka_db.sqlite import sample_data, zstd_frames
from site_folder import ROOT, run_first
from waiting import wait_for


def shell(site, command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`command` in a shell, where SCRIPT-NAME stands for the path of the script."""
    command = re.sub(
        r"[A-Z]+(-[A-Z]+)*", lambda match: f"{ROOT}/bin/dodeka-db-{match[0].lower()}.py", command
    )
    environ = {**site.environ, **variables}
    return subprocess.run(["sh", "-c", command], env=environ, capture_output=True, timeout=60)


def test_the_exit_code_is_the_failure_s_where_standard_error_is_full(site):
    """As cron's log is on a full disk."""
    site.password_file.unlink()
    assert shell(site, "KEYS 2>/dev/full").returncode == 6
    assert shell(site, "KEYS 2>&-").returncode == 6


def test_a_full_standard_output_is_named(site):
    done = shell(site, "SETTINGS >/dev/full")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"error: standard output cannot be written: No space left on device" in done.stderr


@pytest.mark.slow("each stream", keep=["[>&-]", "[<&- >&-"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_backup_without_a_stream(site, closed):
    done = shell(site, f"BACKUP demo {closed}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(site.snapshots("demo")) == 1


@pytest.mark.parametrize(
    ("command", "exit_code"), [("RESTORE demo <&-", 7), (r"printf '\377\n' | RESTORE demo", 4)]
)
def test_no_answer_from_a_closed_or_undecodable_standard_input(site, command, exit_code):
    site.ok("backup", "demo")
    before = sample_data.digest(site.database("demo"))
    done = shell(site, command, PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr.count(b"\n")) == (exit_code, 1), done
    assert sample_data.digest(site.database("demo")) == before


def test_ctrl_c_while_a_script_is_still_being_loaded(site, tmp_path):
    (tmp_path / "argparse.py").write_text(
        f"open({str(tmp_path / 'loading')!r}, 'w'); import time; time.sleep(30)\n"
    )
    child = subprocess.Popen(
        [ROOT / "bin" / "dodeka-db-settings.py"],
        env={**site.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "loading").exists)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (-signal.SIGINT, "")


def test_a_signal_while_the_last_line_waits_for_its_reader_is_no_traceback(site):
    site.password_file.unlink()
    reader, writer = os.pipe()
    waits = b"." * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, waits)
    child = subprocess.Popen([ROOT / "bin" / "dodeka-db-keys.py"], env=site.environ, stderr=writer)
    os.close(writer)
    wait_for(lambda: "pipe_write" in Path(f"/proc/{child.pid}/wchan").read_text())
    child.send_signal(signal.SIGINT)
    with open(reader, "rb") as said:
        assert said.read(len(waits)) == waits
        assert said.read().count(b"\n") == 1
    assert child.wait(timeout=20) == 6


def test_who_starts_a_script_may_ignore_its_children(site):
    """As bash does after trap '' CHLD. That is inherited, and the kernel keeps no exit code of a child then."""
    done = shell(site, f"env --ignore-signal={signal.SIGCHLD} BACKUP demo")
    assert (done.returncode, done.stderr) == (0, b""), done


def test_restic_itself_can_be_stopped_with_ctrl_z(site):
    """No lock of ours is held then."""
    seen, restic = site.folder / "seen", site.folder / "restic-that-looks"
    run_first(restic, f"grep SigIgn /proc/$$/status > {seen}")
    site.run("restic", "--", "snapshots", RESTIC=str(restic))
    ignored = int(seen.read_text().split()[1], 16)
    assert not ignored & (1 << signal.SIGTSTP - 1 | 1 << signal.SIGTTOU - 1)


def test_no_thread_left_for_the_compression(site, monkeypatch, tmp_path):
    def no_thread(*_arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(zstd_frames, "compress", no_thread)
    export = tmp_path / "export.sqlite"
    export.write_bytes(site.database().read_bytes())
    with pytest.raises(NoProcessError, match="the compression of the export cannot be run"):
        take_snapshot._check_and_compress(export, site.database())
    assert os.path.exists(site.database())
