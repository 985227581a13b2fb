"""A .venv that is missing, half made or of a Python that has gone: one line, exit code 6, and the monitor is told."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitor_receiver import Receiver
from site_folder import ROOT, Site

PURE = Path(sysconfig.get_path("purelib"))
LIB = PURE.relative_to(ROOT / ".venv")
STAMP = r"[\d-]+T[\d:]+[+-][\d:]+"
ARGUMENTS = {
    **{
        key: ["production"]
        for key in ("backup", "bring-back", "changes", "open", "restore", "undo", "verify")
    },
    "erased": ["production", "--who=anna@example.org"],
    **{key: ["production"] for key in ("accept", "retention")},
    **{key: ["production", "latest"] for key in ("pin", "unpin")},
    **{key: ["anna"] for key in ("key-add", "key-remove")},
}
SCRIPTS = sorted(path.stem.removeprefix("dodeka-db-") for path in (ROOT / "bin").glob("dodeka-db-*.py"))


@dataclass(frozen=True)
class Clone:
    """The scripts in a folder of their own, with a .venv of their own, and the settings of a site."""

    folder: Path
    site: Site

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    @property
    def packages(self) -> Path:
        return self.venv / LIB

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.type(f"bin/dodeka-db-{script}.py", *arguments, **variables)

    def type(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.folder,
            env={**self.site.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def fails(self, script: str, *arguments: str, **variables: str) -> str:
        """What is wrong, by the one line that it prints."""
        done = self.run(script, *arguments, **variables)
        assert (done.returncode, done.stdout) == (6, ""), done
        step = re.escape(f"; run: make -C {self.folder} setup")
        match = re.fullmatch(rf"{STAMP} .*dodeka-db-{script}\.py: error: (.*){step}\n", done.stderr)
        assert match, done
        return match[1]


@pytest.fixture
def clone(site: Site, tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone", site)
    for name in ("bin", "deploy"):
        ignore = shutil.ignore_patterns("__pycache__", "backup.env")
        shutil.copytree(ROOT / name, clone.folder / name, symlinks=True, ignore=ignore)
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, clone.folder)
    shutil.copytree(ROOT / ".venv" / "bin", clone.venv / "bin", symlinks=True)
    shutil.copy(ROOT / ".venv" / "pyvenv.cfg", clone.venv)
    for name in ("sh", "zstandard"):
        shutil.copytree(PURE / name, clone.packages / name)
    (clone.venv / ".runtime").touch()
    return clone


def upgrade(clone: Clone) -> None:
    """As a new Debian leaves it: bin/python is another version, which looks into a folder of its own."""
    clone.packages.parent.rename(clone.packages.parents[1] / "python3.7")


def test_the_clone_works(clone):
    assert clone.run("cron", "production").returncode == 0


@pytest.mark.slow("each script", keep=["[backup]", "[restore]", "[try]", "[status]"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_says_what_is_wrong_and_what_to_type(clone, script):
    upgrade(clone)
    wrong = clone.fails(script, *ARGUMENTS.get(script, []))
    assert (
        wrong
        == f"{clone.venv} has no sh and zstandard for Python {sys.version_info[0]}.{sys.version_info[1]}"
    )


@pytest.mark.parametrize("target", ["status", "restore ENV=demo", "cron"])
def test_make_says_so_too_and_installs_nothing_by_itself(clone, target):
    upgrade(clone)
    done = clone.type("make", "--no-print-directory", *target.split())
    assert done.returncode == 2 and done.stdout == ""
    line, made = done.stderr.splitlines()
    assert "error: " in line and line.endswith(f"run: make -C {clone.folder} setup") and "Error 6" in made
    assert not clone.packages.exists()


def without_python(clone: Clone) -> None:
    (clone.venv / "bin" / "python").unlink()
    (clone.venv / "bin" / "python").symlink_to("/usr/bin/python3.7")


def not_executable(clone: Clone) -> None:
    (clone.venv / "bin" / "python").unlink()
    (clone.venv / "bin" / "python").write_bytes(b"")


def of_another_machine(clone: Clone) -> None:
    not_executable(clone)
    (clone.venv / "bin" / "python").write_bytes(b"\x7fELF" + bytes(100))
    (clone.venv / "bin" / "python").chmod(0o755)


def without_its_configuration(clone: Clone) -> None:
    (clone.venv / "pyvenv.cfg").unlink()


def interrupted(clone: Clone) -> None:
    """While pip wrote; the kernel kills whatever reads such a library."""
    (clone.venv / ".runtime").unlink()
    (extension,) = (clone.packages / "zstandard").glob("backend_c*.so")
    os.truncate(extension, 1000)


def without_packages(clone: Clone) -> None:
    for name in ("sh", "zstandard"):
        shutil.rmtree(clone.packages / name)


def half_installed(clone: Clone) -> None:
    shutil.rmtree(clone.packages / "zstandard")
    (clone.packages / "zstandard").mkdir()


def a_damaged_library(clone: Clone) -> None:
    (extension,) = (clone.packages / "zstandard").glob("backend_c*.so")
    extension.write_bytes(b"\0" * 1000)


def a_damaged_source(clone: Clone) -> None:
    file = clone.packages / "sh" / "__init__.py"
    shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
    file.write_text(file.read_text()[:2000] + "\n(")


def a_python_of_something_else(clone: Clone) -> None:
    (clone.venv / "bin" / "python").unlink()
    (clone.venv / "bin" / "python").write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
    (clone.venv / "bin" / "python").chmod(0o755)


BROKEN = {
    lambda clone: shutil.rmtree(clone.venv): "{venv} is missing",
    without_python: "{venv}/bin/python cannot be run: No such file or directory",
    not_executable: "{venv}/bin/python cannot be run: Permission denied",
    of_another_machine: "{venv}/bin/python cannot be run: Exec format error",
    without_its_configuration: "{venv}/bin/python starts the Python of ",
    interrupted: "{venv} is half made",
    without_packages: "{venv} has no sh and zstandard for Python ",
    half_installed: "{venv} has no zstandard for Python ",
    a_damaged_library: "cannot import zstandard from {venv}: ",
    a_damaged_source: "cannot import sh from {venv}: ",
    a_python_of_something_else: "{venv}/bin/python starts the Python of /usr",
    upgrade: "{venv} has no sh and zstandard for Python ",
}


@pytest.mark.slow(
    "each cause for each environment",
    keep=["_python--production-", "library--production-", "upgrade--production-"],
)
@pytest.mark.parametrize(("environment", "arguments"), [("production", []), ("demo", ["demo"])])
@pytest.mark.parametrize(("break_it", "wrong"), BROKEN.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_the_monitor_is_told_by_whatever_python_there_is(clone, break_it, wrong, environment, arguments):
    break_it(clone)
    with Receiver() as receiver:
        url = {f"DODEKA_PING_URL_{environment.upper()}": receiver.url, "DODEKA_MONITOR": receiver.key_url}
        done = clone.run("cron", *arguments, **url)
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert wrong.format(venv=clone.venv) in line
    failed = {
        path.split("?")[0]: body
        for _, path, body in receiver.calls
        if not path.split("?")[0].endswith("/start")
    }
    assert set(failed) == {"/ping/SECRET-UUID/fail", f"/SECRET-KEY/dodeka-cron-{environment}/fail"}
    (body,) = set(failed.values())
    assert line.endswith(f" error: {body}") and body.endswith(f"; run: make -C {clone.folder} setup")


def test_a_monitor_that_is_down_is_a_warning_in_the_log(clone):
    shutil.rmtree(clone.venv)
    with Receiver(500) as receiver:
        done = clone.run("cron", "demo", DODEKA_PING_URL_DEMO=receiver.url)
    first, second = done.stderr.splitlines()
    assert " error: " in first
    assert re.match(
        rf"{STAMP} demo warning: a ping of the monitor could not be delivered to .*: HTTP 500", second
    )
    assert "SECRET" not in done.stderr


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        (["verify", "production"], "dodeka-drill-production"),
        (["check"], "dodeka-check"),
        (["offsite"], "dodeka-offsite"),
        (["status", "--hourly"], "dodeka-status"),
    ],
)
def test_the_other_jobs_tell_it_too(clone, words, slug):
    upgrade(clone)
    with Receiver() as receiver:
        clone.fails(*words, DODEKA_MONITOR=receiver.key_url, OFFSITE_REPOSITORY="/offsite")
        ((told, signal, body),) = receiver.told
    assert (told, signal) == (slug, "fail")
    assert body.endswith(f"; run: make -C {clone.folder} setup")


@pytest.mark.parametrize(
    "words",
    [
        ["backup", "production"],
        ["status"],
        ["verify", "production", "--snapshot=latest"],
        ["cron", "staging"],
        ["offsite"],  # none is set up
    ],
    ids=" ".join,
)
def test_nobody_else_calls_the_monitor(clone, words):
    upgrade(clone)
    with Receiver() as receiver:
        addresses = {"DODEKA_PING_URL_PRODUCTION": receiver.url, "DODEKA_MONITOR": receiver.key_url}
        clone.fails(*words, **addresses)
    assert receiver.calls == []


@pytest.mark.parametrize("address", ["DODEKA_PING_URL_PRODUCTION", "DODEKA_MONITOR"])
def test_settings_that_make_no_sense_are_no_reason_to_tell_nobody(clone, address):
    upgrade(clone)
    with Receiver() as receiver:
        url = receiver.key_url if address == "DODEKA_MONITOR" else receiver.url
        clone.fails("cron", "production", DODEKA_LOCK_WAIT_S="x", **{address: url})
        assert len(receiver.calls) == 1
    clone.fails("cron", "production", DODEKA_LOCK_WAIT_S="x", **{address: "http://a:b/"})


@pytest.mark.slow("pip, for each cause")
@pytest.mark.parametrize("break_it", [upgrade, a_damaged_library, without_python, interrupted])
def test_make_setup_makes_it_anew(clone, break_it):
    """Though the stamp is newer than the requirements. (From the index of packages, as `make test` itself was set up.)"""
    break_it(clone)
    done = clone.type("make", "--no-print-directory", "setup")
    assert done.returncode == 0, done
    assert clone.run("cron", "production").returncode == 0
    assert not (clone.venv / "tmp").exists()


def test_make_setup_leaves_one_that_works_as_it_is(clone):
    (clone.packages / "mark").touch()
    done = clone.type("make", "--no-print-directory", "setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (clone.packages / "mark").exists()


@pytest.mark.slow("pip")
def test_nothing_is_built_from_source(clone):
    """A Python for which there is no wheel; an index of one folder, that has the sources alone, stands for the real one."""
    index, built, pinned = clone.folder / "index", clone.folder / "built", []
    for name, version in re.findall(r"^(\w+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE):
        source = index / f"{name}-{version}"
        source.mkdir(parents=True)
        (source / "setup.py").write_text(f"open({str(built)!r}, 'w'); import setuptools; setuptools.setup()")
        (source / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive = Path(f"{source}.tar.gz")
        subprocess.run(["tar", "czf", archive, "-C", index, source.name], check=True)
        pinned.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}\n")
    (clone.folder / "requirements.txt").write_text("".join(pinned))
    shutil.rmtree(clone.venv)
    done = clone.type("bin/install-venv.sh", sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index))
    assert done.returncode == 6, done
    (said,) = done.stderr.splitlines()
    assert re.fullmatch(
        rf"install-venv\.sh: error: there is no wheel of {pinned[0].split()[0]} for Python 3\.\d+\.\d+ on \w+, and this"
        r" script builds none; name another Python: make setup PYTHON=python3\.12",
        said,
    )
    assert not built.exists()


def test_no_pip_of_ours_builds_anything():
    calls = [
        line
        for path in (ROOT / "Makefile", *(ROOT / "bin").glob("*.sh"), ROOT / "tests/debian.sh")
        for line in path.read_text().splitlines()
        if "pip install" in line
    ]
    assert len(calls) == 2
    assert all("--only-binary :all: --require-hashes" in line for line in calls)
