"""Run the commands of a page on a server, in order, and compare their output with the page."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from whole_server import CLONE, Server


def consoles(page: str) -> list[tuple[str, list[str]]]:
    """Each command of the console blocks, with the lines of output that the page shows."""
    found: list[tuple[str, list[str]]] = []
    for indent, block in re.findall(r"^( *)```console\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            line = line.removeprefix(indent)
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


ID = re.compile(r"\b[0-9a-f]{8}\b")
ANSWER = re.compile(r"(.*(?:'latest'\):|Type 'yes' to go on:)) (\S+)")


def masked(line: str) -> str:
    """`line` without the parts that differ from run to run, and without those that a terminal would not show."""
    line = re.sub(r"^[\d-]+T[\d:+-]+ (production |demo |both )?", "", line)
    for pattern, name in (
        (ID, "ID"),
        (r"\w{3} \d\d \w{3} (\d{4} )?\d\d:\d\d", "WHEN"),
        (r"\d+ (second|minute)s?", "AGE"),
        (r"\d+(\.\d+)? (B|kB|MB|GB)", "SIZE"),
        ("grew by at most", "grew by"),  # of restic before 0.17
        (r"(restic +)[\d.]+, \S+", r"\1VERSION"),
        (r"\d+\.\d s\b", "SECONDS"),
        (r"\d+ ms\b", "MILLISECONDS"),
        (r"\b(keeps) .*", r"\1 WHY"),  # restic from 0.17 on names more reasons
        (r"pre-restore-\d{8}T\d{6}Z", "pre-restore-TIME"),
        (r"\w+day \d\d \w+ \d{4} \d\d:\d\d", "WHEN"),
        (r"outbox( +[+-]?\d+)+", "outbox ROWS"),  # the backend writes there all the time
        (r"Left out: \d+ mails", "Left out: ROWS mails"),
    ):
        line = re.sub(pattern, name, line)
    return " ".join(line.split())


def joined(lines: list[str]) -> list[str]:
    """`lines` with the end of a cell that goes on in further lines behind its beginning."""
    found: list[str] = []
    for line in lines:
        if line.startswith(" " * 40):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
    return found


def section(page: str, title: str) -> str:
    """The text below the heading `title`, up to the next heading of its level."""
    return page[page.index(f"\n## {title}\n") :].split("\n## ", 2)[1]


def run(
    server: Server,
    page: str,
    typed: Mapping[str, str] = MappingProxyType({}),
    ids: dict[str, str] | None = None,
) -> int:
    """Run every command of `page` on `server`, and compare its output with the page; returns the number of commands.

    Commands that begin with `sudo` are run as root, the others as the user of the backups. `typed` has the input of commands
    whose question is not shown. `ids` maps IDs of the page to those on the server; IDs in the output are added to it.
    """
    ids = {} if ids is None else ids
    before = f"cd {CLONE}; "
    for command, lines in consoles(page):
        command = ID.sub(lambda match: ids[match[0]], command)
        if command.split()[0] in ("cd", "umask"):
            before += f"{command}; "
            continue
        answers = [ANSWER.fullmatch(line) for line in lines]
        given = "".join(ids.get(answer[2], answer[2]) + "\n" for answer in answers if answer)
        expected = [answer[1] if answer else line for answer, line in zip(answers, lines, strict=True)]
        user = "root" if command.startswith("sudo ") else "dbackup"
        done = server.run("sh", "-c", before + command, user=user, stdin=given or typed.get(command, ""))
        assert done.stderr == "", command
        if command == "sudo make install" and not server.path("/home/dodeka").exists():
            server.start_offsite("dbackup")  # the user has a home only now
        if command.startswith(("make init", "make key-add")):
            server.make_keys_cheap()  # hundreds of starts of restic are to come
        printed, expected = joined(done.stdout.splitlines()), joined(expected)
        if expected[:1] == ["..."]:
            expected = expected[1:]
            printed = printed[len(printed) - len(expected) :]
        if expected[-1:] == ["..."]:
            expected = expected[:-1]
            printed = printed[: len(expected)]
        assert [masked(line) for line in printed] == [masked(line) for line in expected], (command, printed)
        for here, there in zip(printed, expected, strict=True):
            ids.update(zip(ID.findall(there), ID.findall(here), strict=True))
    return len(consoles(page))
