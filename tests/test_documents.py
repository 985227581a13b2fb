"""The documents against the code: what they list, and every command of theirs run on a server, in order."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

import bench_results
import console_blocks
from dodeka_db import errors, interrupts, schedule
from dodeka_db.host import installed
from dodeka_db.restic import retention_policy
from dodeka_db.settings import ENVIRONMENTS
from whole_server import PROJECT, ROOT, Server

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
}
BACKUP, README = PAGES["BACKUP.md"], PAGES["README.md"]
ERRORS, SETTINGS, FORMATS = (PAGES[f"docs/{name}.md"] for name in ("errors", "settings", "formats"))
# the sections whose commands are run, in the order in which a server lives; those of the last two are test_server_lost.py's
LIFE = (
    *(
        ("BACKUP.md", title)
        for title in ("Set up a server", "Schedule", "Back up by hand", "List the snapshots", "Retention")
    ),
    ("docs/formats.md", "Format"),
    *(("BACKUP.md", title) for title in ("Status", "Drill", "Check")),
    *(("BACKUP.md", title) for title in ("See what changed", "Look into a snapshot")),
    *(("BACKUP.md", title) for title in ("Bring back what was lost", "Restore")),
    *(("BACKUP.md", title) for title in ("Clone production to demo", "Undo a restore", "Log", "Off-site")),
    ("docs/set-ups.md", "When the server gets a new Debian"),
    *(("BACKUP.md", title) for title in ("Keys", "Recovery sheet")),
    ("docs/settings.md", "Settings"),
    *(("BACKUP.md", title) for title in ("Locked", "Damaged", "Password")),
    ("docs/by-hand.md", "By hand, with restic and zstd alone"),
    ("BACKUP.md", "A member asks to be erased"),
)
LOST = (("BACKUP.md", "The server is lost"), ("BACKUP.md", "Broken into"))
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "bin").rglob("*.py")))


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is `first`."""
    table = text[text.index(f"\n| {first} |") + 1 :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def targets() -> list[str]:
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE)


def test_make_s_targets():
    everything = "\n".join(PAGES.values())
    mentioned = set(re.findall(r"(?:`|\$ |^|sudo )make ([a-z][a-z-]*)", everything, re.MULTILINE))
    assert mentioned - set(targets()) == set()
    assert set(targets()) - {"help"} - mentioned == set()


def test_the_exit_codes():
    def codes(kind: type[errors.BackupError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(subclass) for subclass in kind.__subclasses__()))

    interrupted = {128 + signum for signum in interrupts.SIGNALS}
    documented = {int(code): row[1] for row in rows(ERRORS, "exit code") for code in row[0].split(", ")}
    assert list(documented) == list(errors.MEANINGS) == sorted({0} | codes(errors.BackupError) | interrupted)
    for code in documented.keys() - interrupted:
        assert documented[code] == errors.MEANINGS[code]


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "bin").glob("*.py")))
def test_the_help_of_every_script_ends_with_its_exit_codes(script):
    said = subprocess.run(
        [ROOT / "bin" / script, "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = dict(re.findall(r"^ +(\d+)  (.+)$", said.partition("\nexit codes:\n")[2], re.MULTILINE))
    assert listed and said.rstrip().endswith(list(listed.values())[-1])
    own = {"dodeka-db-status.py": {"0", "1", "2"}, "dodeka-db-restic.py": {"1"}}.get(script, set())
    for code, meaning in listed.items():
        assert code in own or meaning == errors.MEANINGS[int(code)]
    assert {"0", "1", "2"} <= listed.keys()
    opens = "Repository(" in (ROOT / "bin" / script).read_text()
    assert not opens or {"6", "8", "10", "11", "12", "69", "77"} <= listed.keys()


def templates() -> tuple[set[str], set[str]]:
    """Every string of the sources, with … for what is filled in; and those of them that are messages of a failure."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "bin").rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = {
        node.name: [name_of(base) for base in node.bases] for node in nodes if isinstance(node, ast.ClassDef)
    }

    def is_failure(name: str) -> bool:
        return name == "BackupError" or any(map(is_failure, classes.get(name, ())))

    raised = {
        template(node.args[0])
        for node in nodes
        if isinstance(node, ast.Call) and node.args and is_failure(name_of(node.func))
    }
    shell = {path.read_text() for path in (ROOT / "bin").glob("*.sh")}
    return (set(map(template, nodes)) - {""}) | shell, {
        message for message in raised if re.search(r"\w", message.replace("…", ""))
    }


def name_of(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def template(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def is_of(message: str, text: str) -> bool:
    """Whether the fragments of a message of the page, between its …, stand in `text`, one behind the other."""
    return bool(
        re.search(".*?".join(re.escape(fragment.strip()) for fragment in message.split("…")), text, re.DOTALL)
    )


# what stands inside another message only, behind "does not read back, and nothing was removed: "
REASONS = {"the content differs from the stored file", "the content is longer than the stored file"}


def test_the_table_of_the_messages_and_the_code_are_the_same():
    """Each failure that the code words has a row, and each row is of a message that the code has."""
    table = ERRORS[ERRORS.index("What the messages mean") :]
    documented = [message for row in rows(table, "exit code") for message in re.findall(r"`([^`]+)`", row[1])]
    every, raised = templates()
    assert len(documented) > 100 and len(raised) > 100
    assert [
        text for text in sorted(raised - REASONS) if not any(is_of(row, text) for row in documented)
    ] == []
    for message in documented:
        for fragment in filter(None, map(str.strip, message.split("…"))):
            assert any(fragment in text for text in every), message
        # a row that fits many messages explains none
        assert sum(is_of(message, text) for text in raised) < 10, message


def test_what_a_message_refers_to_is_there():
    headings = re.findall(r"^#+ (.+)$", BACKUP, re.MULTILINE)
    referred = re.findall(r"BACKUP\.md, '([^']+)'", SOURCES)
    assert referred
    assert set(referred) <= set(headings)
    assert set(re.findall(r"docs/[\w-]+\.md", SOURCES)) <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name]):
        file, _, anchor = target.partition("#")
        there = ((ROOT / name).parent / file).resolve() if file else ROOT / name
        assert there.exists(), target
        if anchor:
            titles = headings(PAGES[str(there.relative_to(ROOT))])
            assert anchor in [re.sub(r"[^a-z -]", "", one.lower()).replace(" ", "-") for one in titles], (
                target
            )


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", page, re.MULTILINE)


def test_the_page_is_in_deploy_too():
    assert (ROOT / "deploy" / "BACKUP.md").read_text() == BACKUP


def test_the_settings():
    names = re.findall(r"^#([A-Z_]+)=", (ROOT / "deploy" / "backup.env.example").read_text(), re.MULTILINE)
    documented = [row[0].strip("`") for row in rows(SETTINGS, "setting")]
    assert sorted(documented) == sorted(set(names) - {"RESTIC_COMPRESSION"})


def test_sudo_s_rules_of_one_user_for_all():
    (shown,) = re.findall(r"```sudoers\n(.*?)```", PAGES["docs/set-ups.md"], re.DOTALL)
    rules = [line for line in installed.ONE_USER.sudoers.splitlines() if not line.startswith("#")]
    assert [line.strip() for line in shown.strip().splitlines()] == rules


def test_the_retention():
    assert [int(row[1]) for row in rows(BACKUP, "keep")] == list(retention_policy.KEEP.values())


def test_the_schedule():
    """The shipped crontab, the page and what the code takes for due are the same."""
    lines = {job.line.split(None, 5)[5]: list(job.when) for job in installed.ONE_USER.jobs}
    scheduled = {command.split()[1]: when for command, when in lines.items() if "cron.sh" in command}
    assert scheduled == {"production": ["*/12", *"****"], "demo": ["6-59/12", *"****"]}
    every = int(schedule.BACKUP_EVERY.total_seconds() / 60)
    due = {name: list(range(first, 60, every)) for name, first in schedule.FIRST_MINUTE.items()}
    assert due == {"production": list(range(0, 60, 12)), "demo": list(range(6, 60, 12))}
    *backups, offsite, status = rows(BACKUP, "minutes of every hour")
    hourly_at = {"offsite": offsite[0], "status": status[0]}
    for minutes, what in backups:
        assert [int(minute) for minute in minutes.split(":")[1:]] == due[what.strip("`").split("ENV=")[1]]

    others = {
        re.search(r"dodeka-db-(.*?)\.py ?(\w*)", command).groups(): when
        for command, when in lines.items()
        if "cron.sh" not in command
    }
    assert set(others) == {("verify", name) for name in schedule.DRILLED} | {
        *(("check", ""), ("offsite", ""), ("status", ""))
    }
    at = {re.search(r"`make (\w+)", what)[1]: time for time, what in rows(BACKUP, "at")}
    for (verb, _), (minute, hour, *days) in others.items():
        hourly = verb in hourly_at
        assert days == ["*", "*", "*" if hourly else "0"]
        assert int(minute) not in due["production"] + due["demo"]
        assert (
            (hour == "*" and hourly_at[verb] == f":{minute}")
            if hourly
            else at[verb] == f"{int(hour):02}:{minute}"
        )


def test_the_schedules_that_a_monitor_is_given():
    """The page's table of checks has the jobs of the crontab, and its times."""
    when = {}
    for job in installed.ONE_USER.jobs:
        script, *arguments = job.command.split(" >>")[0].split()
        verb = Path(script).stem.removeprefix("dodeka-db-").replace("verify", "drill")
        when["-".join(["dodeka", verb, *(one for one in arguments if one in ENVIRONMENTS)])] = " ".join(
            job.when
        )
    page = console_blocks.section(BACKUP, "Monitor").replace("\n   |", "\n|")
    assert {row[0].strip("` "): row[2].strip("`") for row in rows(page, "check")} == when


def test_the_figures_of_the_formats_are_the_benchmark_s():
    measured = {
        section.splitlines()[0]: section
        for section in (ROOT / "docs" / "bench.md").read_text().split("\n## ")[1:]
    }
    shown = rows(FORMATS, "database")
    with_backups = {name for name, section in measured.items() if "\n| wall time |" in section}
    assert {database for database, *_ in shown} == with_backups & set(bench_results.MEMBERS)
    for database, *cells in shown:
        assert f"\n| {' | '.join(cells)} |\n" in measured[database]


def test_the_readme_names_every_file_of_the_scripts():
    tree = README[README.index("```\nMakefile") :].split("```")[1]
    named = set(re.findall(r"^[│ ]+([\w.-]+\.(?:py|sh)) ", tree, re.MULTILINE))
    files = {path.name for path in (ROOT / "bin").rglob("*") if path.suffix in (".py", ".sh")}
    assert named == files - {"__init__.py"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("this test needs root, to start a systemd of its own")
    server = Server(tmp_path_factory.mktemp("server") / "machine")
    try:
        server.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/mnt/backup", user="root")
        server.move_to_root()
        server.run("systemctl", "start", "dodeka-backend-production", "dodeka-backend-demo", user="root")
        yield server
    finally:
        server.stop()


@pytest.mark.long
def test_every_command_prints_what_the_pages_say(server):
    ids: dict[str, str] = {}
    for name, title in LIFE:
        assert console_blocks.run(server, console_blocks.section(PAGES[name], title), ids=ids), title
    assert console_blocks.run(server, README)
    # and they leave the server whole
    for environment in ("production", "demo"):
        assert server.active(f"dodeka-backend-{environment}")
        database = Path(PROJECT / f"backend/envs/{environment}/db.sqlite")
        assert (
            server.python(f"sample_data.count(Path('{database}'))")
            == {"production": "400", "demo": "30"}[environment]
        )


def test_no_command_of_a_page_is_left_out():
    for name, page in PAGES.items():
        if name == "README.md":
            continue
        run = "".join(console_blocks.section(page, title) for of, title in (*LIFE, *LOST) if of == name)
        assert sorted(map(str, console_blocks.consoles(page))) == sorted(
            map(str, console_blocks.consoles(run))
        ), name
