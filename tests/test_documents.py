"""The documents against the code: what they list, and every command of theirs run on a server, in order."""

import os
import re
import subprocess
from pathlib import Path

import pages
import pytest
from server import PROJECT, ROOT, Server

from dodeka_db import errors, installed, interrupts, repository, schedule

BACKUP = (ROOT / "BACKUP.md").read_text()
README = (ROOT / "README.md").read_text()
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "bin").rglob("*.py")))


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is `first`."""
    table = text[text.index(f"\n| {first} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def targets() -> list[str]:
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE)


def test_make_s_targets():
    mentioned = set(re.findall(r"(?:`|\$ |^)make ([a-z-]+)", BACKUP + README, re.MULTILINE))
    assert mentioned - set(targets()) == set()
    for_operators = set(targets()) - {"help", "try", "test", "test-in", "soak", "bench"}
    assert for_operators - set(re.findall(r"(?:`|\$ )make ([a-z-]+)", BACKUP)) == set()


def test_the_exit_codes():
    def codes(kind: type[errors.BackupError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(subclass) for subclass in kind.__subclasses__()))

    interrupted = {128 + signum for signum in interrupts.SIGNALS}
    documented = [int(code) for row in rows(BACKUP, "exit code") for code in row[0].split(", ")]
    assert documented == sorted({0} | codes(errors.BackupError) | interrupted)


def test_every_message_of_the_table_is_one_that_the_code_has():
    table = BACKUP[BACKUP.index("What the messages mean") :]
    messages = [message for row in rows(table, "exit code") for message in re.findall(r"`([^`]+)`", row[1])]
    assert len(messages) > 30
    for message in messages:
        for words in message.split("…"):
            assert words.strip() in SOURCES, message


def test_what_a_message_refers_to_is_there():
    headings = re.findall(r"^#+ (.+)$", BACKUP, re.MULTILINE)
    referred = re.findall(r"BACKUP\.md, '([^']+)'", SOURCES)
    assert referred and set(referred) <= set(headings)


@pytest.mark.parametrize("page", [BACKUP, README], ids=["BACKUP.md", "README.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if target.startswith("#"):
            anchors = [re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in headings(page)]
            assert target[1:] in anchors
        else:
            assert (ROOT / target).exists(), target


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", page, re.MULTILINE)


def test_the_page_is_in_deploy_too():
    assert (ROOT / "deploy" / "BACKUP.md").read_text() == BACKUP


def test_the_settings():
    names = re.findall(r"^#([A-Z_]+)=", (ROOT / "deploy" / "backup.env.example").read_text(), re.MULTILINE)
    documented = [row[0].strip("`") for row in rows(BACKUP, "setting")]
    assert sorted(documented) == sorted(set(names) - {"RESTIC_COMPRESSION"})


def test_the_retention():
    assert [int(row[1]) for row in rows(BACKUP, "keep")] == list(repository.RETENTION.values())


def test_the_schedule():
    """The shipped crontab, the page and what the code takes for due are the same."""
    lines = {line.split(None, 5)[5]: line.split()[:5] for line in installed.jobs()}
    scheduled = {command.split()[1]: when for command, when in lines.items() if "cron.sh" in command}
    assert scheduled == {"production": ["*/12", *"****"], "demo": ["6-59/12", *"****"]}
    every = int(schedule.BACKUP_EVERY.total_seconds() / 60)
    due = {name: list(range(first, 60, every)) for name, first in schedule.FIRST_MINUTE.items()}
    assert due == {"production": list(range(0, 60, 12)), "demo": list(range(6, 60, 12))}
    for minutes, what in rows(BACKUP, "minutes of every hour"):
        assert [int(minute) for minute in minutes.split(":")[1:]] == due[what.strip("`").split("ENV=")[1]]

    others = {
        re.search(r"dodeka-db-(.*?)\.py ?(\w*)", command).groups(): when
        for command, when in lines.items()
        if "cron.sh" not in command
    }
    assert set(others) == {("verify", name) for name in schedule.DRILLED} | {("check", ""), ("offsite", "")}
    at = {re.search(r"`make (\w+)", what)[1]: time for time, what in rows(BACKUP, "at")}
    for (verb, _), (minute, hour, *days) in others.items():
        daily = verb == "offsite"
        assert days == ["*", "*", "*" if daily else "0"]
        assert int(minute) not in due["production"] + due["demo"]
        assert at[verb] == f"{int(hour):02}:{minute}{' daily' if daily else ''}"


def test_the_figures_of_the_formats_are_the_benchmark_s():
    measured = {
        section.splitlines()[0]: section
        for section in (ROOT / "docs" / "bench.md").read_text().split("\n## ")[1:]
    }
    shown = rows(BACKUP, "database")
    assert {database for database, *_ in shown} == set(measured)
    for database, *cells in shown:
        assert f"\n| {' | '.join(cells)} |\n" in measured[database]


def test_the_readme_names_every_file_of_the_scripts():
    tree = README[README.index("```\nMakefile") :].split("```")[1]
    named = set(re.findall(r"^ +([\w.-]+\.(?:py|sh)) ", tree, re.MULTILINE))
    files = {path.name for path in (ROOT / "bin").rglob("*") if path.suffix in (".py", ".sh")}
    assert named == files - {"__init__.py"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("this test needs root, to start a systemd of its own")
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        server.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/mnt/backup", user="root")
        server.path("/etc/sudoers.d/dodeka").write_text("backend ALL=(ALL) NOPASSWD: ALL\n")
        server.run("systemctl", "start", "dodeka-backend-production", "dodeka-backend-demo", user="root")
        server.start_offsite()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("page", [BACKUP, README], ids=["BACKUP.md", "README.md"])
def test_every_command_prints_what_the_page_says(server, page):
    lost = pages.section(page, "The server is lost") if page is BACKUP else ""  # test_lost.py's
    assert pages.run(server, page.replace(lost, "") if lost else page)


def test_the_page_leaves_the_server_whole(server):
    for environment in ("production", "demo"):
        assert server.active(f"dodeka-backend-{environment}")
        database = Path(PROJECT / f"backend/envs/{environment}/db.sqlite")
        assert (
            server.python(f"members.count(Path('{database}'))")
            == {"production": "400", "demo": "30"}[environment]
        )
