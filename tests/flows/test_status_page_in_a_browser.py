"""The page of the status in a real browser: it fits a telephone and a screen, everybody can read it, and it asks nobody."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import browser
import status_pages
from browser import Page
from status_pages import SCENES

pytestmark = [
    pytest.mark.slow("a browser"),
    pytest.mark.skipif(shutil.which(browser.PROGRAM) is None, reason=f"{browser.PROGRAM} is not installed"),
]

# what a text or a mark has in front of it and behind it: [what, its contrast, the least that WCAG 2 AA asks for]
# (https://www.w3.org/TR/WCAG22/#contrast-minimum, #non-text-contrast)
CONTRASTS = """
(() => {
    const parts = colour => {
        const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number)
        return { rgb: [red, green, blue], alpha }
    }
    const luminance = ({ rgb }) => {
        const [red, green, blue] = rgb.map(one => one / 255).map(
            one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue
    }
    const contrast = (one, other) => {
        const [dark, light] = [luminance(parts(one)), luminance(parts(other))].sort((a, b) => a - b)
        return (light + 0.05) / (dark + 0.05)
    }
    const behind = element => {
        for (let one = element; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor
            if (parts(colour).alpha === 1) return colour
        }
        throw new Error("nothing is behind it")
    }
    const found = []
    for (const element of document.body.querySelectorAll("*")) {
        const style = getComputedStyle(element)
        const text = [...element.childNodes].filter(one => one.nodeType === Node.TEXT_NODE)
            .map(one => one.data.trim()).join("")
        if (text) {
            const colour = element instanceof SVGElement ? style.fill : style.color
            const size = parseFloat(style.fontSize)
            const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700)
            found.push([text, contrast(colour, behind(element)), isLarge ? 3 : 4.5])
        }
        if (element.matches(".day")) {
            const shown = element.matches(".well") ? style.backgroundColor : style.borderBottomColor
            found.push([element.className, contrast(shown, behind(element.parentElement)), 3])
        }
        if (element.matches("polyline, .mark")) {
            found.push([element.tagName, contrast(style.stroke === "none" ? style.color : style.stroke, behind(element)), 3])
        }
    }
    return found
})()
"""
# what stands out of the window at the right, or is cut off
OUTSIDE = """
[...document.body.querySelectorAll("*")].filter(
    one => one.getBoundingClientRect().right > innerWidth + 0.5 || one.getBoundingClientRect().left < -0.5
).map(one => one.outerHTML)
"""
STRIPS = """
[...document.querySelectorAll(".days")].map(strip => [...strip.children].map(day => {
    const { left, width, height } = day.getBoundingClientRect()
    return [left, width, height].map(Math.round)
}))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser.started(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each scene."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for scene in SCENES:
        (folder / scene).mkdir()
        found[scene] = folder / f"{scene}.html"
        found[scene].write_text(status_pages.page(folder / scene, scene))
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scene", SCENES)
def test_it_fits_can_be_read_and_asks_nobody(shown, files, scene, width, dark):
    address = files[scene].as_uri()
    shown.open(address, width, dark)
    assert shown.evaluate("innerWidth") == width
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.evaluate(OUTSIDE) == []
    contrasts = shown.evaluate(CONTRASTS)
    assert len(contrasts) > 80
    assert [one for one in contrasts if one[1] < one[2]] == []
    assert (shown.said, shown.requested) == ([], [address])


@pytest.mark.parametrize("width", [360, 1280])
def test_the_strips_are_one_under_the_other(shown, files, width):
    shown.open(files["gap"].as_uri(), width, dark=False)
    production, demo = shown.evaluate(STRIPS)
    assert production == demo
    assert len(production) == 30
    widths = {day[1] for day in production}
    assert min(widths) >= 7 and max(widths) - min(widths) <= 1
    assert all(day[2] >= 36 for day in production)


def test_dark_and_light_are_two(shown, files):
    background = "getComputedStyle(document.documentElement).backgroundColor"
    seen = []
    for dark in (False, True):
        shown.open(files["well"].as_uri(), 1280, dark)
        seen.append(shown.evaluate(background))
    assert seen == ["rgb(255, 255, 255)", "rgb(18, 20, 22)"]


def test_what_somebody_put_into_it_is_neither_run_nor_fetched(shown, files):
    """The page forbids it to the browser; and the browser of these tests tells of it."""
    evil = files["well"].with_name("evil.html")
    put_in = '<script>document.title = "run"</script><img src="http://127.0.0.1:9/x.png">'
    evil.write_text(files["well"].read_text().replace("<main>", f"<main>{put_in}"))
    shown.open(evil.as_uri(), 1280, dark=False)
    assert shown.evaluate("document.title") == "All is well: backups of D.S.A.V. Dodeka"
    assert len([one for one in shown.said if "Content Security Policy" in one]) >= 2
