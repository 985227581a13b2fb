"""Fixtures: a site for each test, and a disk that is nearly full."""

import fcntl
import os
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

import site_folder
from site_folder import Site

# tests use only terminals that they make: restic would hand ours to ssh and rclone, and wait to get it back
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with suppress(OSError), open("/dev/tty") as terminal:
    fcntl.ioctl(terminal, termios.TIOCNOTTY)  # sends a SIGHUP if we are the leader of the terminal's session
# as `make test &` in a script would start us; and tests and scripts must have the same time zone
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
os.environ.pop("TZ", None)
time.tzset()


# without --full, only every SAMPLE-th case of a long list is run
SAMPLE = 24


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="slow tests too, and every case of a long list")
    parser.addoption(
        "--fast", action="store_true", help="only those that need no repository, server or systemd"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full, fast = config.getoption("--full"), config.getoption("--fast")
    left_out = [item for item in items if (not full and is_slow(item)) or (fast and needs_a_machine(item))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    # each process begins with an equal part of the list (pytest-xdist's worksteal); the longest tests come first in each part
    long = [item for item in items if item.get_closest_marker("long")]
    rest = (item for item in items if not item.get_closest_marker("long"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    in_order: list[pytest.Item] = []
    for process in range(processes):
        in_order += long[process::processes]
        in_order += islice(rest, len(items) * (process + 1) // processes - len(in_order))
    items[:] = in_order


# the fixtures that make a repository or a server
MACHINES = {"empty_site", "empty_twin", "site", "server", "machine"}


def needs_a_machine(item: pytest.Item) -> bool:
    """Whether `item` needs a repository, a server or systemd: by its fixtures, or because it is in tests/server."""
    return bool(MACHINES & set(getattr(item, "fixturenames", ()))) or item.path.parent.name == "server"


def is_slow(item: pytest.Item) -> bool:
    """Whether `item` is marked as slow; the marker's `keep` has parts of the IDs of cases that are run all the same."""
    marker = item.get_closest_marker("slow")
    return marker is not None and not any(part in item.name for part in marker.kwargs.get("keep", ()))


@pytest.fixture
def sampled(request: pytest.FixtureRequest) -> Callable[[list], list]:
    """A function that returns every SAMPLE-th case of a list; with --full all of them."""
    stride = 1 if request.config.getoption("--full") else SAMPLE
    return lambda cases: cases[::stride]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that makes a folder of that name once for all processes of the tests: a new repository takes seconds."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.made").exists():
                make(base / name)
                (base / f"{name}.made").touch()
        return base / name

    return once


@pytest.fixture(scope="session")
def empty_site(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The site that each test copies."""
    return made_once("site", site_folder.make)


@pytest.fixture(scope="session")
def empty_twin(made_once: Callable[[str, Callable[[Path], object]], Path], empty_site: Path) -> Path:
    """The site with an off-site repository that each test copies."""
    return made_once("twin", lambda folder: site_folder.make_twin(empty_site, folder))


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


@pytest.fixture
def amsterdam(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock of this process is that of Amsterdam, which is put forward and back."""
    monkeypatch.setenv("TZ", "Europe/Amsterdam")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
