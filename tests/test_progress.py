"""On a terminal, what takes longer than two seconds shows how far it is; in a log, and in short runs, nothing of that is there."""

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dodeka_db import progress
from dodeka_db.restic import runner
from dodeka_db.sqlite import sample_data
from dodeka_db.sqlite.export import copy_pages, export_compacted
from dodeka_db.sqlite.header import read_header
from site_folder import RESTIC, ROOT, Site, Twin, run_first
from terminal import Terminal, screen

# a restic whose backup has read half a megabyte of the database, and then nothing for some seconds
READS_SLOWLY = """
if [ "$1" = backup ]; then
    { head -c 500000; sleep 4; cat; } | %s "$@"
    exit
fi
"""
SLEEPS = 'case "$*" in *%s*) sleep 4;; esac'
BAR = r"storing  \d\d % \[#+\.+\] 500 kB of \d{3} kB, 00:0\d left"


@pytest.fixture
def twin(empty_twin: Path, tmp_path: Path) -> Twin:
    shutil.copytree(empty_twin, tmp_path / "twin")
    return Twin(tmp_path / "twin")


def slow(site: Site, commands: str) -> dict[str, str]:
    """The environment of a site whose restic first runs `commands`."""
    restic = site.folder / "bin" / "restic"
    restic.parent.mkdir()
    run_first(restic, commands)
    return {**site.environ, "RESTIC": str(restic)}


def script(name: str, *arguments: str) -> list[str | Path]:
    return [ROOT / "bin" / f"dodeka-db-{name}.py", *arguments]


def bars(shown: str) -> list[str]:
    """What was drawn on lines of its own, and is not there any more."""
    return [part.rstrip() for part in re.findall(r"\r([^\r\n]+)(?=\r(?!\n))", shown) if part.strip()]


def without_figures(line: str) -> str:
    return re.sub(r"[0-9a-f]{8}|\d+(\.\d+)?( [kM]?B)?", "N", line)


@pytest.mark.slow("each terminal", keep=["NO_COLOR"])
@pytest.mark.parametrize(
    "variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=lambda one: "".join(one) or "plain"
)
def test_a_backup_shows_how_far_it_is_and_leaves_the_screen_as_it_was(site, variables):
    env = {**slow(site, READS_SLOWLY % RESTIC), "DODEKA_FORMAT": "pages", **variables}
    shown = Terminal(script("backup", "production"), env).until_end()
    drawn = bars(shown)
    assert any(re.fullmatch(BAR, one) for one in drawn), drawn
    assert all(len(one) < 80 for one in drawn)
    quick = Terminal(script("backup", "production"), {**site.environ, "DODEKA_FORMAT": "pages"}).until_end()
    assert bars(quick) == []
    lines = screen(shown, columns=1000)
    assert list(map(without_figures, lines)) == list(map(without_figures, screen(quick, columns=1000)))
    assert lines[0].startswith("exporting ") and lines[-2].startswith("done: snapshot ")


def test_a_log_has_nothing_of_it(site):
    env = {**slow(site, SLEEPS % "backup")}
    done = subprocess.run(script("cron", "production"), env=env, capture_output=True, text=True, check=True)
    assert not re.search(r"\r|%|storing  ", done.stdout + done.stderr)


@pytest.mark.parametrize(("is_on_terminal", "is_slow"), [(False, True), (True, False), (True, True)])
def test_only_a_long_run_on_a_terminal_imports_tqdm(site, is_on_terminal, is_slow):
    env = slow(site, SLEEPS % "backup") if is_slow else dict(site.environ)
    imported = site.folder / "imported"
    command = [
        "sh",
        "-c",
        f'exec "$@" 2>{shlex.quote(str(imported))}',
        "sh",
        sys.executable,
        "-X",
        "importtime",
    ]
    command += map(str, script("cron", "production"))
    if is_on_terminal:
        Terminal(command, env).until_end()
    else:
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    names = {line.rpartition("|")[2].strip() for line in imported.read_text().splitlines()}
    assert "sqlite3" in names
    assert ("tqdm.std" in names) == (is_on_terminal and is_slow)
    assert ("dodeka_db.progress_line" in names) == is_on_terminal


@pytest.mark.slow("another terminal")
def test_a_narrow_terminal_and_one_that_becomes_narrow(site):
    terminal = Terminal(
        script("backup", "production"),
        {**slow(site, READS_SLOWLY % RESTIC), "DODEKA_FORMAT": "pages"},
        columns=200,
    )
    wide = terminal.until(" left")
    assert max(map(len, bars(wide + "\r")), default=0) <= 79
    terminal.resize(30)
    narrow = terminal.until("reading it back")
    last = [one for one in bars(narrow) if one.startswith("storing ")][-1]
    assert 20 < len(last) <= 29, last


def test_ctrl_c_ends_a_run_as_it_did(site):
    env = slow(site, SLEEPS % "backup")
    terminal = Terminal(["setsid", "--ctty", *script("backup", "production")], env)
    shown = terminal.until("storing   0 %")
    terminal.press(b"\x1a")  # Ctrl-Z is ignored, as before
    terminal.press(b"\x03")
    lines = screen(shown + terminal.until_end(130))
    assert lines[-2].endswith("dodeka-db-backup.py: error: interrupted (SIGINT)"), lines
    assert not any("storing  " in line for line in lines), lines


RUN = """
import logging, time
from dodeka_db import console, progress

def main(_argv):
    with progress.step("waiting", lambda: progress.Far(30, 100, "things")):
        time.sleep(2.8)
        logging.getLogger("dodeka_db").warning("something is wrong")
        time.sleep(0.5)
    with progress.step("and again", lambda: progress.Far(30, 100, "things")):
        time.sleep(2.8)
        console.ask("Is that right?")
    return 0

console.run(main)
"""


def test_a_line_in_between_does_not_tear_it_and_a_question_is_alone():
    terminal = Terminal([sys.executable, "-c", RUN], {**os.environ, "PYTHONPATH": str(ROOT / "bin")})
    shown = terminal.until("Is that right?")
    time.sleep(1)
    terminal.type("yes")
    rest = terminal.until_end()
    assert screen(shown + rest) == ["warning: something is wrong", "Is that right? yes", ""]
    drawn = bars(shown)
    assert drawn[0].startswith("waiting  30 % [#") and drawn[-1].startswith("and again  30 % [#")
    assert bars(rest) == []


def test_restic_says_without_a_terminal_how_far_it_is(twin: Twin):
    twin.ok("backup", "production")
    environ = {**twin.environ, "RESTIC_PROGRESS_FPS": "60", "RESTIC_CACHE_DIR": str(twin.folder / "cache")}
    copying = {
        **environ,
        "RESTIC_REPOSITORY": str(twin.there),
        "RESTIC_PASSWORD_FILE": str(twin.there_password),
        "RESTIC_FROM_REPOSITORY": str(twin.repository),
        "RESTIC_FROM_PASSWORD_FILE": str(twin.password_file),
    }
    for env, words, unit in (
        (environ, ["check", "--read-data-subset=1/1"], b"packs"),
        (environ, ["prune"], b"snapshots"),
        (copying, ["copy"], b"packs copied"),
    ):
        said = subprocess.run([RESTIC, *words], env=env, capture_output=True, check=True).stdout
        assert unit in [match[6] for match in runner._FAR.finditer(said)], said


def test_how_far_restic_is():
    two = b"copy started\n[0:00] 0.00%  0 / 9 packs copied\n[1:02] 50.00%  3 / 6 packs copied\n"
    assert runner._how_far(two) == progress.Far(3, 6, "packs copied (snapshot 1)", 62)
    assert runner._how_far(b"[1:00:01] 14.29%  1 / 7 packs\n") == progress.Far(1, 7, "packs", 3601)
    assert runner._how_far(b'[{"tags":null}]\n') is None


@pytest.mark.slow("each command", keep=["check-check"])
@pytest.mark.parametrize(("name", "verb"), [("check", "check"), ("offsite", "copy")])
def test_what_restic_says_is_shown(twin, name, verb):
    twin.ok("backup", "production")
    says = 'echo "${RESTIC_PROGRESS_FPS:+[0:02] 28.57%  2 / 7 packs}"; sleep 4'
    shown = Terminal(script(name), slow(twin, f'if [ "$1" = {verb} ]; then {says}; fi')).until_end()
    assert re.search(rf"\rrestic {verb}  29 % \[#+\.+\] 2 of 7 packs, 00:0\d left *\r", shown), shown
    assert not any("restic " in line for line in screen(shown)), shown


def test_of_what_says_nothing_the_time_is_shown(site):
    shown = Terminal(script("snapshots"), slow(site, SLEEPS % "snapshots")).until_end()
    assert re.search(r"\rrestic snapshots, 00:0[23] *\r", shown), shown


@pytest.mark.parametrize("export", [export_compacted, copy_pages])
def test_the_size_of_an_export_is_known_before(tmp_path, export):
    """Free pages too, of which the compacted copy has none."""
    source, target = tmp_path / "source.sqlite", tmp_path / "target.sqlite"
    sample_data.create(source, members=400)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("DELETE FROM users WHERE CAST(key AS INTEGER) >= 100")
    assert read_header(source).free_pages > 10
    looks = []
    progress.follow(lambda: looks.extend(one.look for one in progress._running))
    try:
        export(source, target)
    finally:
        progress.follow(None)
    far = looks[0]()
    assert far.done == target.stat().st_size
    assert far.done <= far.total < 1.02 * far.done


def test_which_of_several_steps_is_shown():
    """The check of an export runs beside its compression."""
    compressed = progress.Count("pages")
    with progress.step("checking"), progress.step("compressing", compressed):
        with progress.step("newer"):
            assert progress.to_show(0)[0].what == "newer", "of the compression, the total is not known yet"
            compressed.total = 2
            pages = compressed.each("ab")
            next(pages)
            step, far = progress.to_show(0)
            assert (step.what, far) == ("compressing", progress.Far(1, 2, "pages"))
            assert list(pages) == ["b"]
            assert progress.to_show(0)[0].what == "newer", "all is compressed, but that goes on"
        assert progress.to_show(60) is None
    assert progress.to_show(0) is None


ONE_STEP = """
import time
from dodeka_db import console, progress

def main(_argv):
    with progress.step("waiting"):
        time.sleep(3)
    return 0

console.run(main)
"""


@pytest.mark.slow("another terminal")
def test_in_the_background_nothing_is_drawn(tmp_path):
    """Somebody types there."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "bin")}
    program = tmp_path / "program.py"
    program.write_text(ONE_STEP)
    for where, is_shown in (("", True), ("& wait", False)):
        command = f"set -m; {sys.executable} {program} {where}"
        shown = Terminal(["setsid", "--ctty", "bash", "-c", command], env).until_end()
        assert ("waiting, 00:02" in shown) == is_shown, shown


def test_a_run_passes_without_tqdm(tmp_path):
    (tmp_path / "tqdm.py").write_text("raise ImportError")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'bin'}"}
    assert Terminal([sys.executable, "-c", ONE_STEP], env).until_end() == ""
