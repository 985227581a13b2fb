"""processes: who has a file open, by whatever name."""

import os
import subprocess
import sys

import pytest

import site_folder
from dodeka_db.host import open_files


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file"


def test_nobody(file, tmp_path):
    assert open_files.processes_with(file) == []
    assert open_files.processes_with(tmp_path / "none") == []


def test_we_ourselves_do_not_count(file):
    with open(file):
        assert open_files.processes_with(file) == []


def test_another_process_that_has_it_by_another_name(file, tmp_path):
    os.link(file, tmp_path / "other")
    code = f"f = open({str(tmp_path / 'other')!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        (holder,) = open_files.processes_with(file)
        assert holder.endswith(f" (process {other.pid})") and holder.startswith("python")
        other.communicate(b"\n")
    assert open_files.processes_with(file) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_process_of_another_user_that_has_read_nothing(file):
    """Whose files its owner may not look through: the kernel's lease tells."""
    os.chown(file, 1234, 1234)
    os.chmod(file.parent, 0o755)
    look = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from dodeka_db.host import open_files;"
    look += "print(open_files.processes_with(Path(sys.argv[2])))"

    def seen_by_its_owner() -> str:
        # descriptors for the folders, whose own paths may be closed to others
        folders = [os.open(folder, os.O_RDONLY) for folder in (site_folder.ROOT / "bin", file.parent)]
        bin_folder, parent = (f"/proc/self/fd/{folder}" for folder in folders)
        command = ["/usr/bin/python3", "-c", look, bin_folder, f"{parent}/{file.name}"]
        try:
            return subprocess.check_output(command, user=1234, pass_fds=folders, text=True).strip()
        finally:
            for folder in folders:
                os.close(folder)

    assert seen_by_its_owner() == "[]"
    with open(file):
        assert seen_by_its_owner() == str([open_files.UNSEEN])
