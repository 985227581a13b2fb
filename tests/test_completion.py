"""Completion in bash and zsh: real shells on a terminal, in which a word is begun and Tab is pressed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from site_folder import PLAIN, ROOT, Site
from terminal import Terminal

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
# how each shell is made to know the completion; `bash` alone is one without the package bash-completion
SHELLS = {
    "bash": (["bash", "--norc", "-i"], f". {ROOT}/deploy/completion.bash"),
    "bash-completion": (["bash", "--norc", "-i"], f". {BASH_COMPLETION}; . {ROOT}/deploy/completion.bash"),
    "zsh": (["zsh", "-f", "-i"], f"autoload -U compinit; compinit -u -D; . {ROOT}/deploy/completion.zsh"),
}


@pytest.fixture(params=SHELLS, scope="module")
def shell(request, tmp_path_factory):
    """A function that returns what the line `begun` has become after a Tab, in `folder`; it may be given variables."""
    command, known = SHELLS[request.param]
    if not shutil.which(command[0]) or (request.param == "bash-completion" and not BASH_COMPLETION.exists()):
        pytest.skip(f"{request.param} is not installed")
    home = {"HOME": str(tmp_path_factory.mktemp("home")), "TERM": "dumb", "PS1": ""}
    terminal = Terminal(["setsid", "--ctty", *command], {**PLAIN, **home})
    terminal.press(f"{known}\r".encode())

    def completed(begun: str, folder: Path = ROOT, **environ: str) -> str:
        exports = "".join(f"export {name}={shlex.quote(value)}\r" for name, value in environ.items())
        terminal.press(f"cd {folder}\r{exports}echo re''ady\r".encode())
        terminal.until("ready\r")
        # then the whole line is made an argument of echo
        terminal.press(begun.encode() + b"\t\x01echo '<\x05>'\r")
        return re.findall(r"^<(.*)>\r$", terminal.until(">\r\n"), re.MULTILINE)[
            -1
        ].rstrip()  # zsh removes the space

    yield completed
    terminal.press(b"\x15exit\r")
    terminal.until_end()


@pytest.fixture
def other(tmp_path):
    """Another project, with a Makefile and a file."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "Makefile").write_text("greet:\n\techo hello\n")
    (folder / "notes.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("begun", "line"),
    [
        ("make resto", "make restore"),
        ("make restore ENV=prod", "make restore ENV=production"),
        ("make restore ENV=demo FROM=prod", "make restore ENV=demo FROM=production"),
        ("make pin SNAP", "make pin SNAPSHOT="),
        ("make pin SNAP\tlat", "make pin SNAPSHOT=latest"),
        ("make restore CLONE=ma", "make restore CLONE=masked"),
        ("make recovery-sheet HTM", "make recovery-sheet HTML="),
        ("true; make resto", "true; make restore"),
        ("X=1 make resto", "X=1 make restore"),
        ('make pin NOTE="before it" SNAP', 'make pin NOTE="before it" SNAPSHOT='),
        # what a target does not take is not proposed
        ("make status SNAP", "make status SNAP"),
        ("bin/dodeka-db-restore.py de", "bin/dodeka-db-restore.py demo"),
        ("bin/dodeka-db-restore.py demo --cl", "bin/dodeka-db-restore.py demo --clone"),
        ("bin/dodeka-db-restore.py demo --from pro", "bin/dodeka-db-restore.py demo --from production"),
        ("deploy/dodeka-db-cron.sh de", "deploy/dodeka-db-cron.sh demo"),
    ],
)
def test_a_word_is_completed(shell, begun, line):
    assert shell(begun) == line


def test_snapshots_are_those_of_the_environment(shell, site: Site):
    for environment in ("production", "demo"):
        site.ok("backup", environment)
    ids = {one["environment"]: one["short_id"] for one in site.snapshots()}
    for environment, snapshot in ids.items():
        for script in (f"make restore ENV={environment} SNAPSHOT=", f"bin/dodeka-db-pin.py {environment} "):
            assert shell(f"{script}{snapshot[:2]}", **site.variables) == f"{script}{snapshot}"
        assert (
            shell(f"make restore ENV={environment} TO=lat", **site.variables)
            == f"make restore ENV={environment} TO=latest"
        )


def test_other_folders_are_as_before(shell, other):
    assert shell("make note", other) in ("make notes.txt", "make note")
    assert shell("make resto", other) == "make resto"
    assert shell(f"make -C {ROOT} resto", other) == f"make -C {ROOT} restore"
    assert shell(f"make -C {other} resto") == f"make -C {other} resto"


def test_targets_of_another_makefile(shell, other, request):
    line = shell("make gre", other)
    if "bash" in request.node.callspec.id and "bash-" not in request.node.callspec.id:
        assert line == "make gre", "bash alone knows no targets"
        assert shell("make not", other) == "make notes.txt"
    else:
        assert line == "make greet"


def answers(*words: str) -> list[str]:
    return subprocess.run(
        [ROOT / "bin" / "complete.sh", *words], capture_output=True, text=True, check=True
    ).stdout.split()


def test_what_may_follow():
    assert {"status", "restore", "ENV=", "SNAPSHOT="} <= set(answers("make", ""))
    assert answers("make", "ENV=demo", "key-") == ["key-add", "key-remove"]
    restore = answers("make", "restore", "ENV=demo", "")
    assert {"FROM=", "AT=", "OFFSITE=", "YES=", "CONFIG="} <= set(restore)
    assert not {"ENV=", "NOTE=", "restore"} & set(restore)
    assert answers("make", "check", "") == ["CONFIG="]
    assert answers("make", "verify", "ENV=") == ["ENV=production", "ENV=demo"]
    assert answers("make", "backup", "NOTE=") == []
    assert answers("dodeka-db-status.py", "--j") == ["--json"]
    assert "production" not in answers("dodeka-db-keys.py", "")
