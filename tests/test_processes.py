"""processes: who has a file open, by whatever name."""

import os
import subprocess
import sys

import pytest

from dodeka_db import processes


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file"


def test_nobody(file, tmp_path):
    assert processes.that_have_open(file) == []
    assert processes.that_have_open(tmp_path / "none") == []


def test_we_ourselves_do_not_count(file):
    with open(file):
        assert processes.that_have_open(file) == []


def test_another_process_that_has_it_by_another_name(file, tmp_path):
    os.link(file, tmp_path / "other")
    code = f"f = open({str(tmp_path / 'other')!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        (holder,) = processes.that_have_open(file)
        assert holder.endswith(f" (process {other.pid})") and holder.startswith("python")
        other.communicate(b"\n")
    assert processes.that_have_open(file) == []
