"""make prove: the off-site repository opened with what is on paper, and with nothing that this server has."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from free_ports import free_port
from remote_servers import S3, AppendOnly, Remote, Rest, Sftp
from site_folder import ROOT, Twin, run_first
from terminal import Terminal

SCRIPT = ROOT / "bin" / "dodeka-db-prove.py"
LOGIN = {"SUDO_USER": "anna"}


class Server(Twin):
    """A twin whose settings do not name the off-site repository: only the paper does."""

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for name, value in super().variables.items() if "OFFSITE" not in name}

    @property
    def paper(self) -> str:
        return self.there_password.read_text().strip()

    @property
    def record(self) -> dict:
        return json.loads((self.state / "records" / "prove.json").read_text())

    def prove(self, *lines: str, who: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """make prove with these lines on standard input: an address, a password, others."""
        typed = "\n".join([*lines, "", who, ""])
        done = self.run("prove", stdin=typed, **LOGIN, **variables)
        assert_unnamed(done, lines)
        assert self.left_of(lines) == []
        return done

    def left_of(self, lines: tuple[str, ...]) -> list[Path]:
        """The files of the state folder that have one of the typed `lines`, and what is in its staging areas."""
        files = [path for path in self.state.rglob("*") if path.is_file() and path.name != "offsite.json"]
        return [
            path for path in files if any(line.encode() in path.read_bytes() for line in lines if line)
        ] + [path for path in self.state.glob("prove/staging/*") if path.name != ".of-dodeka-backup"]


def assert_unnamed(done: subprocess.CompletedProcess[str], lines: tuple[str, ...]) -> None:
    assert len(done.stderr.splitlines()) == bool(done.returncode), done
    for line in lines:
        for secret in filter(None, (line, line.partition("=")[2])):
            assert secret not in done.stdout + done.stderr, (secret, done)


@pytest.fixture
def server(empty_twin: Path, tmp_path: Path) -> Server:
    """A server with one snapshot of each environment in both repositories."""
    shutil.copytree(empty_twin, tmp_path / "twin")
    twin = Twin(tmp_path / "twin")
    for environment in ("production", "demo"):
        twin.ok("backup", environment)
    twin.ok("offsite")
    return Server(tmp_path / "twin")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_paper_opens_it_and_nothing_of_this_server_is_used_or_left(server):
    starts, before = server.folder / "starts", files(server.there)
    restic = server.folder / "restic-that-notes"
    found = f"grep -rlF {server.paper} {server.state} | sed 's/^/FOUND /'"
    run_first(restic, f"{{ echo ARGUMENTS $*; env; {found}; ls -A $HOME; }} >> {starts}")
    ours = {"AWS_SECRET_ACCESS_KEY": "of-this-server", "RESTIC_COMPRESSION": "off", "SSH_AUTH_SOCK": "/agent"}
    done = server.prove(str(server.there), server.paper, RESTIC=str(restic), **ours)
    assert (done.returncode, done.stderr) == (0, ""), done
    said = re.search(
        r"done: snapshot (\w{8}) of production, of .*, is a whole database with 400 members; proven by paper, by anna, ",
        done.stdout,
    )
    assert said
    assert said[1] in server.restic_there("snapshots", "--tag", "env_production")
    assert {"who": "anna", "snapshot": said[1]}.items() <= server.record["details"].items()
    assert server.record["passed"]
    assert files(server.there) == before, "not even a lock is written there"
    noted = starts.read_text()
    assert noted.count("ARGUMENTS") >= 2
    for of_this_server in (*ours, *ours.values(), str(server.password_file), "DODEKA_", "SUDO_USER", "FOUND"):
        assert of_this_server not in noted
    assert server.paper not in noted
    homes = set(re.findall(r"^HOME=(.*)$", noted, re.MULTILINE))
    assert len(homes) == 1 and not Path(*homes).exists() and str(server.state) in homes.pop()


def test_on_a_terminal_nothing_of_it_is_shown(server):
    terminal = Terminal(["setsid", "--ctty", SCRIPT], {**server.environ, **LOGIN})
    shown = terminal.until("Address of the off-site repository:")
    terminal.type(f"export RESTIC_REPOSITORY='{server.there}'")
    shown += terminal.until("Its password:")
    terminal.type(server.paper)
    shown += terminal.until("Enter alone goes on:")
    terminal.type("")
    shown += terminal.until("Your name, for the record (anna):")
    terminal.type("Bea")
    shown += terminal.until_end()
    assert "proven by paper, by Bea" in shown
    assert str(server.there) not in shown and server.paper not in shown
    assert server.record["details"]["who"] == "Bea"


def test_demo_is_taken_where_there_is_no_production(server):
    there = server.restic_there("snapshots", "--json", "--tag", "env_production")
    server.restic_there("forget", *(one["id"] for one in json.loads(there)))
    done = server.prove(str(server.there), server.paper)
    assert " of demo, " in done.stdout and "with 30 members" in done.stdout


def test_what_does_not_open_is_one_line_and_recorded(server, tmp_path):
    empty = tmp_path / "nothing-here"
    empty.mkdir()
    there = str(server.there)
    nobody = f"rest:http://127.0.0.1:{free_port()}/"
    for lines, code, said in (
        ((there, "abcd-efgh-wrong"), 12, "the typed password does not open the off-site repository"),
        ((str(empty), server.paper), 10, "there is no restic repository at the typed address"),
        ((nobody, server.paper), 69, "the server of repository (as typed) cannot be reached: "),
    ):
        done = server.prove(*lines)
        assert (done.returncode, said in done.stderr) == (code, True), done
        assert server.record["failed"] and not server.record["passed"]
        assert said in server.record["error"]
    for lines, code, said in (
        ((str(server.repository), server.password), 2, "is that of the main repository"),
        (("", server.paper), 2, "an address and a password are needed"),
        (("relative/folder", server.paper), 2, "the typed address is not one that restic takes"),
        ((there, server.paper, "no setting"), 2, "a typed line is neither NAME=value, nor"),
        ((there, server.paper, "-i /nowhere/key"), 2, "a typed line is neither NAME=value, nor"),
    ):
        done = server.prove(*lines)
        assert (done.returncode, said in done.stderr) == (code, True), done


def test_a_repository_without_a_snapshot(empty_twin, tmp_path):
    shutil.copytree(empty_twin, tmp_path / "twin")
    server = Server(tmp_path / "twin")
    done = server.prove(str(server.there), server.paper)
    assert done.returncode == 4
    assert "the off-site repository has no snapshot of a database; first: make offsite" in done.stderr


def test_a_damaged_copy_proves_nothing(server):
    for pack in (server.there / "data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            pack.write_bytes(bytes(pack.stat().st_size))
    done = server.prove(str(server.there), server.paper)
    assert done.returncode in (4, 8) and not server.record["passed"], done


def served(kind: type[Remote], server: Server, tmp_path: Path) -> Remote:
    remote = kind(tmp_path / "remote")
    remote.start()
    remote.put(server.there)
    return remote


@pytest.mark.parametrize("kind", [Rest, S3])
def test_credentials_are_typed_as_the_sheet_has_them(server, tmp_path, kind):
    remote = served(kind, server, tmp_path)
    try:
        # a REST server's are in its address
        bare, url = remote.url.replace(f"dodeka:{remote.secret}@", ""), remote.url
        lines = [f"export {name}={value}" for name, value in remote.variables.items() if "AWS" in name]
        # those of this server do not count
        done = server.prove(bare, server.paper, **{**remote.variables, **server.variables})
        # restic 0.14 takes the refusal of S3 for a missing repository
        assert done.returncode in (10, 77), done
        done = server.prove(url, server.paper, *lines)
        assert done.returncode == 0, done
    finally:
        remote.stop()


@pytest.mark.parametrize("kind", [Sftp, AppendOnly])
def test_ssh_takes_the_key_that_was_brought_and_no_other(server, tmp_path, kind):
    remote = served(kind, server, tmp_path)
    try:
        lines = [f"-o 'rclone.program={remote.program}'"] if kind is AppendOnly else []
        # the ssh that is first on the PATH has this server's key
        path = {"PATH": remote.variables["PATH"]}
        done = server.prove(remote.url, server.paper, *lines, f"-i {remote.folder}/stranger", **path)
        assert done.returncode in (69, 77), done
        done = server.prove(remote.url, server.paper, *lines, f"-i {remote.folder}/key", **path)
        assert done.returncode == 0, done
    finally:
        remote.stop()


def test_an_interrupted_question_is_one_line(server):
    terminal = Terminal(["setsid", "--ctty", SCRIPT], {**server.environ, **LOGIN})
    terminal.until("Address of the off-site repository:")
    terminal.press(b"\x03")
    assert "error: interrupted (SIGINT); nothing was changed" in terminal.until_end(130)
