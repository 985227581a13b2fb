"""Fixtures: a site for each test, and a disk that is nearly full."""

import fcntl
import os
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import site_folder
from site_folder import Site

# tests have a terminal where they make one: restic would hand ours to ssh and rclone, and wait to have it back
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with suppress(OSError), open("/dev/tty") as terminal:
    fcntl.ioctl(terminal, termios.TIOCNOTTY)  # with a SIGHUP, where we are what the terminal was opened for
# how `make test &` would have it in a script; and tests and scripts are to have the same time zone
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.environ.pop("TZ", None)
time.tzset()


@pytest.fixture(scope="session")
def empty_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once and copied."""
    return site_folder.make(tmp_path_factory.mktemp("site")).folder


@pytest.fixture
def site(empty_site: Path, tmp_path: Path) -> Site:
    """Two databases (400 and 30 members) and an empty repository."""
    folder = tmp_path / "site"
    shutil.copytree(empty_site, folder)
    return Site(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 128 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
