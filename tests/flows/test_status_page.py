"""The page of the status: what it says of each state, and what it never says. How it looks is test_status_page_in_a_browser.py's."""

import getpass
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import date, timedelta
from html.parser import HTMLParser

import pytest

import status_pages
from dodeka_db import places
from dodeka_db.errors import SetupError
from dodeka_db.flows import status_page, status_plot, status_words
from dodeka_db.flows.status_lines import Line, Look, State, bad, note
from dodeka_db.host import installed
from dodeka_db.host.day_records import Day
from monitor_receiver import Receiver
from site_folder import ROOT
from status_pages import NOW, SCENES, SECRET

EMPTY = {"meta", "link", "br"}


class Reader(HTMLParser):
    """The elements of a page, each with its attributes and its text; they must be nested as they should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, Mapping[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {name: value or "" for name, value in attributes}, []))
        if tag not in EMPTY:
            self._open.append(len(self.found) - 1)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, {name: value or "" for name, value in attributes}, []))

    def handle_endtag(self, tag):
        assert self.found[self._open.pop()][0] == tag

    def handle_data(self, data):
        for at in self._open:
            self.found[at][2].append(data)

    def texts(self, tag: str, kind: str = "") -> list[str]:
        """The text of each element of that tag, and that class."""
        return [
            " ".join("".join(words).split())
            for name, attributes, words in self.found
            if name == tag and kind in [*attributes.get("class", "").split(), ""]
        ]

    def classes(self, of: str) -> list[str]:
        """The other class of each element of the class `of`."""
        every = [attributes.get("class", "").split() for _, attributes, _ in self.found]
        return [one for classes in every if of in classes for one in classes if one != of]


@pytest.fixture
def page(tmp_path):
    """A function that returns the page of a scene."""
    return lambda scene: Reader(status_pages.page(tmp_path, scene))


def of_lines(folder, lines: list[Line]) -> str:
    return "\n".join(status_page.as_html(status_pages.settings_in(folder), lines, NOW))


def test_well(page):
    found = page("well")
    assert found.texts("h1") == ["All is well"]
    assert found.texts("title") == ["All is well: backups of D.S.A.V. Dodeka"]
    assert found.texts("code") == []
    assert found.texts("h2") == ["The last thirty days", "Last done", "Members", "Size of the repository"]
    (newest, made, *_) = found.texts("p")[1:]
    assert newest == "The newest snapshot of the members\u2019 database was taken on Sat 28 Nov 2026, 14:00."
    assert made.startswith("This page was made on Sat 28 Nov 2026, 14:12 ")
    assert made.endswith(" If that is more than two hours ago, ask the web committee.")
    assert found.classes("day") == [*["well"] * 60, "well"]  # and one in the legend
    assert found.texts("h3") == ["production", "demo"]
    assert found.texts("td") == [
        "Sun 22 Nov, 04:15",
        "Sun 22 Nov, 04:45",
        "Sat 28 Nov, 13:33",
        "Tue 12 May, 14:12",
    ]


def test_bad_says_what_comes_next_the_worst_first(page):
    found = page("bad")
    assert found.texts("h1") == ["Somebody is needed"]
    assert found.texts("li")[:4] == [
        "The newest snapshot of production is too old, or missing. make cron ENV=production",
        "The last run of production failed, or is too long ago. make status",
        "The check of the repository failed, or is too long ago. make check",
        "The state of the disk of the repository cannot be seen. make status",
    ]
    assert "Thu 5 Nov, 10:38needs somebody" in found.texts("td")
    assert found.classes("day")[:30] == [*["unknown"] * 10, *["well"] * 18, *["partly"] * 2]
    assert found.texts("p", "figure") == ["0", "43.8 MB"]


def test_a_gap_is_seen_and_said(page):
    found = page("gap")
    assert found.texts("h1") == ["All is well"]
    production, demo = found.classes("day")[:30], found.classes("day")[30:60]
    assert production == [
        *["well"] * 8,
        "partly",
        *["well"] * 7,
        "partly",
        "gap",
        "gap",
        "partly",
        *["well"] * 10,
    ]
    assert demo == [*["well"] * 16, "partly", "gap", "gap", "partly", *["well"] * 6, "partly", *["well"] * 3]
    assert found.texts("tr")[:6] == [
        "Wed 25 Novdemo: 4 runs failed",
        "Wed 18 Novproduction and demo: no snapshot for 12 hours",
        "Tue 17 Novproduction and demo: no snapshot",
        "Mon 16 Novproduction and demo: no snapshot",
        "Sun 15 Novproduction and demo: no snapshot for 12 hours",
        "earlier1 more such day",
    ]
    labels = [
        attributes["aria-label"] for _, attributes, _ in found.found if attributes.get("class") == "days"
    ]
    assert labels == [
        f"{name}: 25 without a gap, 3 with a gap or a failed run, 2 without a snapshot"
        for name in ("production", "demo")
    ]


def test_what_is_not_known_is_no_gap_and_not_well(page):
    found = page("new")
    assert found.texts("h1") == ["Cannot tell whether all is well"]
    assert set(found.classes("day")) == {"unknown"}
    assert found.texts("p", "figure") == ["not known", "not known"]
    assert found.texts("td") == ["Sun 22 Nov, 04:15", "not known", "not known", "never"]


def test_a_note_is_not_well_and_bad_outweighs_all(tmp_path):
    logs = {("", "logrotate"): note(SECRET, SECRET)}
    found = Reader(of_lines(tmp_path, status_pages.lines(logs)))
    assert found.texts("h1") == ["All is well, with notes"]
    assert found.texts("h2")[0] == "Notes: what should not stay as it is"
    assert found.texts("li")[0] == "The log is not kept as it should be. make status"
    lines = status_pages.lines(
        {**logs, ("", "check"): Look(State.UNKNOWN, ""), ("demo", "drill"): bad("", "")}
    )
    found = Reader(of_lines(tmp_path, lines))
    assert found.texts("h1") == ["Somebody is needed"]
    assert found.texts("h2")[:2] == ["For the web committee", "Notes: what should not stay as it is"]


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_on_it_helps_an_intruder(tmp_path, scene):
    """Not even where the lines of the status do: the page takes no word of them."""
    text = status_pages.page(tmp_path, scene)
    for word in [*SECRET.split(), "alert", "Hidden", str(tmp_path), socket.gethostname()]:
        assert word not in text, word
    assert not re.search(r"/(mnt|home|var|etc|tmp|root|opt)\b", text)


def test_weaknesses_of_the_server_are_one(page):
    """Whoever reads that the website's user can remove the snapshots knows where to break in."""
    notes = page("notes").texts("li")
    assert notes[:3] == [
        "The copy in another place failed, is too long ago, or is not set up. make status",
        "Who may do what on the server has to be looked at. make status",
        "The monitor, which tells of failures, has to be looked at. make status",
    ]
    assert "on the server" not in " ".join(notes[3:])


@pytest.mark.parametrize("scene", SCENES)
def test_it_needs_no_script_and_asks_nobody(tmp_path, scene):
    text = status_pages.page(tmp_path, scene)
    found = Reader(text)
    tags = {tag for tag, _, _ in found.found}
    assert not tags & {"script", "img", "iframe", "object", "form", "a", "base"}
    sources = [
        value
        for _, attributes, _ in found.found
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert sources == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text
    (html,) = [attributes for tag, attributes, _ in found.found if tag == "html"]
    assert html == {"lang": "en"}
    assert len(found.texts("h1")) == 1
    # what only shows something says it in words too
    assert all(
        attributes.get("aria-label") for _, attributes, _ in found.found if attributes.get("role") == "img"
    )


def test_hostile_words_stay_words(tmp_path):
    """A line that the page has no words for is named by its subject: nothing but code chooses that, and it is escaped."""
    evil = "<b onclick='x'>&amp;\"</b>\n\x1b[2J"
    lines = [*status_pages.lines(), Line(evil, evil, bad("", ""))]
    text = of_lines(tmp_path, lines)
    found = Reader(text)
    shown = evil.replace("\n", "\\n").replace("\x1b", "\\u001b")
    assert f"“{shown}” needs a look. make status" in found.texts("li")
    assert not found.texts("b")


def test_every_line_of_the_status_has_its_words():
    sources = (ROOT / "bin" / "dodeka_db" / "flows" / "status.py").read_text()
    subjects = set(re.findall(r'Line\(\w*(?:"")?, "([^"]+)"', sources))
    assert len(subjects) > 15
    assert subjects - set(status_words.WORDS) == set()


def test_every_command_on_it_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for words in status_words.WORDS.values():
        target = re.fullmatch(r"make ([a-z-]+)( ENV=\{name\})?", words.step)[1]
        assert f"\n.PHONY: {target}\n" in makefile


def test_a_state_folder_that_does_not_answer_is_not_waited_for_again(tmp_path, monkeypatch):
    found = status_pages.settings_in(tmp_path)
    status_pages.record(found, "production", status_pages.days_of("production", 30))
    monkeypatch.setattr(places, "silent", list)
    page = "\n".join(status_page.as_html(found, status_pages.lines(), NOW))
    assert set(Reader(page).classes("day")) == {"unknown"}


def test_a_record_that_makes_no_sense_spoils_no_page(tmp_path):
    """What may stand in the file, and no run has written."""
    found = status_pages.settings_in(tmp_path)
    most = 2**43 - 1
    days = {
        NOW.date() - timedelta(days=back): Day(most, most, most, 0, most, most, most) for back in range(3)
    }
    status_pages.record(found, "production", days)
    page = Reader("\n".join(status_page.as_html(found, status_pages.lines(), NOW)))
    assert page.classes("day")[27:30] == ["partly"] * 3


def test_only_a_page_takes_the_time_to_load_jinja():
    code = (
        "import sys; from dodeka_db.flows import cron, status, status_page; sys.exit('jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "bin").returncode == 0


def test_a_unit_may_write_into_its_folder(tmp_path):
    """A unit sees the rest of the system read-only."""
    found = status_pages.settings_in(tmp_path, DODEKA_STATUS_PAGE=str(tmp_path / "web" / "status.html"))
    services = [text for path, text in installed.ONE_USER.units(found).items() if path.suffix == ".service"]
    assert services
    for text in services:
        (writes,) = re.findall("^ReadWritePaths=(.*)$", text, re.MULTILINE)
        assert f"-{tmp_path / 'web'}" in writes.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_writes_no_page_into_the_folder_of_another_user(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    tmp_path.chmod(0o755)
    (tmp_path / "own").mkdir()
    with pytest.raises(SetupError, match=f"{tmp_path} belongs to nobody, not to root"):
        status_pages.settings_in(tmp_path / "own", DODEKA_STATUS_PAGE=str(tmp_path / "status.html"))


class TestPlots:
    def plot(self, *values: int | None) -> status_plot.Plot:
        days = {
            date(2026, 11, 1) + timedelta(days=at): value
            for at, value in enumerate(values)
            if value is not None
        }
        return status_plot.plot("Members", days, str)

    def test_the_line(self):
        found = self.plot(400, 401, 412)
        assert found.lines == ("52.0,27.2 182.0,27.0 312.0,24.9",)
        assert [tick.text for tick in found.ticks] == ["0", "250", "500"]
        assert (found.newest, found.change) == ("412", "+12 since 1 Nov 2026")
        words = "400 at first, 412 at last, 400 at least, 412 at most."
        assert found.sentence == f"Members, from 1 Nov 2026 to 3 Nov 2026: {words}"

    def test_days_that_are_not_known_interrupt_it(self):
        found = self.plot(400, None, None, 0, 0, None, 3)
        assert [len(points.split()) for points in found.lines] == [2, 2, 2]
        assert found.change == "\u2212397 since 1 Nov 2026"
        alone = found.lines[0].split()
        assert alone[0] == alone[1]  # a dot

    def test_too_little_for_a_line(self):
        assert self.plot() == status_plot.Plot("Members")
        assert self.plot(412) == status_plot.Plot("Members", "412")

    @pytest.mark.parametrize(
        ("most", "top"), [(0, "20"), (20, "20"), (21, "30"), (412, "500"), (1001, "1200")]
    )
    def test_the_highest_tick(self, most, top):
        found = self.plot(0, most)
        assert found.ticks[-1].text == top
        assert all(
            status_plot.TOP <= float(point.split(",")[1]) <= status_plot.BOTTOM
            for point in found.lines[0].split()
        )


class TestOnASite:
    def test_the_hourly_run_writes_it_and_make_status_prints_it(self, site):
        site.ok("cron", "production")
        (site.folder / "web").mkdir()
        page = site.folder / "web" / "status.html"
        done = site.run("status", "--hourly", DODEKA_STATUS_PAGE=str(page))
        assert (done.returncode, done.stderr) == (1, "")  # no crontab, no drill
        assert page.stat().st_mode & 0o777 == 0o644
        assert [path.name for path in page.parent.iterdir()] == ["status.html"]
        printed = site.run("status", "--html").stdout
        made = r'<time datetime="[^"]+">[^<]+</time>'
        assert re.sub(made, "", page.read_text()) == re.sub(made, "", printed)
        found = Reader(printed)
        assert found.texts("h1") == ["Somebody is needed"]
        assert found.texts("p", "figure")[0] == "400"
        assert "The schedule of the jobs is not complete. make status" in found.texts("li")
        for word in (str(site.folder), str(ROOT), socket.gethostname(), f"user {getpass.getuser()}", "/usr/"):
            assert word not in printed, word

    def test_without_the_setting_the_hourly_run_writes_nothing(self, site):
        before = sorted(site.folder.rglob("*.html"))
        assert site.run("status", "--hourly").stderr == ""
        assert sorted(site.folder.rglob("*.html")) == before == []

    def test_a_page_that_cannot_be_written_is_a_failure_and_the_monitor_is_told(self, site):
        page = site.folder / "web" / "status.html"
        with Receiver() as receiver:
            done = site.run(
                "status", "--hourly", DODEKA_STATUS_PAGE=str(page), DODEKA_MONITOR=receiver.key_url
            )
        slug, signal, body = receiver.told[-1]
        assert (slug, signal) == ("dodeka-status", "fail")
        assert f"page {page} cannot be written" in body
        assert done.returncode == 2
        assert (
            f"error: page {page} cannot be written: No such file or directory; give this user a folder"
            in done.stderr
        )
