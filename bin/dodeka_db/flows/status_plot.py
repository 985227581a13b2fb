"""A figure over time as a line in a plot: where its points and its ticks are, for the template that draws them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

# of the plot in its own units, which are pixels where there is room
WIDTH, HEIGHT = 320, 132
LEFT, RIGHT, TOP, BOTTOM = 52, 312, 8, 104
MINUS = "\u2212"


@dataclass(frozen=True)
class Tick:
    """A line across the plot at `y`, and what is written at it."""

    y: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot: its heading, the newest value, the change since the first one, and a sentence that says the same as the line.

    `lines` are the points of each part of the line, as SVG's polyline takes them: days that are not known interrupt it.
    `end` is the point of the newest value. `first` and `last` are the days at both ends. All but the heading are empty where
    there are no two days to draw.
    """

    heading: str
    newest: str = ""
    change: str = ""
    sentence: str = ""
    lines: tuple[str, ...] = ()
    end: tuple[float, float] = (0, 0)
    ticks: tuple[Tick, ...] = ()
    first: str = ""
    last: str = ""


def plot(heading: str, values: Mapping[date, int], shown: Callable[[int], str]) -> Plot:
    """The plot of `values` by day, none of them negative; `shown` writes one of them."""
    days = sorted(values)
    if not days:
        return Plot(heading)
    newest = shown(values[days[-1]])
    if len(days) < 2:
        return Plot(heading, newest)
    top = _round_up(max(values.values()))
    span = (days[-1] - days[0]).days

    def point(day: date) -> tuple[float, float]:
        x = LEFT + (RIGHT - LEFT) * (day - days[0]).days / span
        return round(x, 1), _y(values[day] / top)

    parts: list[list[date]] = [days[:1]]
    for before, day in pairwise(days):
        if day - before > timedelta(days=1):
            parts.append([])
        parts[-1].append(day)
    first, last = (_written(day) for day in (days[0], days[-1]))
    least, most = min(values.values()), max(values.values())
    change = values[days[-1]] - values[days[0]]
    signed = f"{'+' if change > 0 else MINUS}{shown(abs(change))}" if change else "unchanged"
    return Plot(
        heading,
        newest,
        f"{signed} since {first}",
        f"{heading}, from {first} to {last}: {shown(values[days[0]])} at first, {newest} at last,"
        f" {shown(least)} at least, {shown(most)} at most.",
        tuple(" ".join("{},{}".format(*point(day)) for day in _twice_if_alone(part)) for part in parts),
        point(days[-1]),
        tuple(Tick(_y(share), shown(int(top * share))) for share in (0, 0.5, 1)),
        first,
        last,
    )


def _twice_if_alone(part: list[date]) -> list[date]:
    """A line of one point is drawn as a dot by its round ends, if it goes somewhere."""
    return part * 2 if len(part) == 1 else part


def _y(share: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def _round_up(value: int) -> int:
    """The least number of at least `value`, and 20, whose half has few digits too."""
    unit = 2
    while True:
        for step in (10, 15, 20, 25, 30, 40, 50, 60, 80):
            if step * unit >= value:
                return step * unit
        unit *= 10


def _written(day: date) -> str:
    return f"{day.day} {day:%b %Y}"
