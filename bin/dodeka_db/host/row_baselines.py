"""How many rows each table of an environment had at the last good run, and a loss since: a JSON file in DODEKA_STATE."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dodeka_db.errors import SetupError
from dodeka_db.host import state_files
from dodeka_db.host.row_records import Rows


@dataclass(frozen=True)
class Counts:
    """The rows of each table in a snapshot, which is named by the ID under which it was stored; "" if no snapshot has them."""

    snapshot: str
    rows: Rows


@dataclass(frozen=True)
class Lost:
    """A loss: the counts in which it was found, and each table that lost too much, with its rows before and after."""

    counts: Counts
    tables: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Baseline:
    """The counts of the last good run or restore; and the loss since then of which somebody must say whether it was meant."""

    good: Counts
    lost: Lost | None = None


def read(state: Path, environment: str) -> Baseline | None:
    """The baseline in the folder `state`; None if there is none. SetupError if it cannot be read, or is not one."""
    file = _file(state, environment)
    try:
        found = state_files.read(file)
    except OSError as error:
        raise SetupError(f"{file} cannot be read: {error.strerror}", f"see: ls -l {file}") from error
    if found is None and not file.exists():
        return None
    if isinstance(found, dict) and (good := _counts(found.get("good"))):
        lost = found.get("lost")
        if lost is None or (lost := _lost(lost)):
            return Baseline(good, lost)
    # perhaps cut off by a power cut: nobody knows whether a loss was open
    raise SetupError(
        f"{file} is not what a run has written",
        f"an open loss of rows is forgotten with it, so look first: make snapshots ENV={environment}; then: rm {file}",
    )


def write(state: Path, environment: str, baseline: Baseline) -> None:
    """Write the baseline. One that cannot be written is only a warning."""
    state_files.write(_file(state, environment), asdict(baseline))


def has_open_loss(state: Path, environment: str) -> bool:
    """Whether the last run found a loss that nobody has accepted, and that is not over. Raises as read() does."""
    found = read(state, environment)
    return bool(found and found.lost)


def _lost(found: object) -> Lost | None:
    if not isinstance(found, dict) or not isinstance(tables := found.get("tables"), dict):
        return None
    counts = _counts(found.get("counts"))
    pairs = tables.values()
    if not counts or not all(isinstance(one, list) and [*map(type, one)] == [int, int] for one in pairs):
        return None
    return Lost(counts, {name: (before, after) for name, (before, after) in tables.items()})


def _counts(found: object) -> Counts | None:
    if not isinstance(found, dict) or not isinstance(rows := found.get("rows"), dict):
        return None
    if not all(count is None or type(count) is int for count in rows.values()):
        return None
    # a version before this one wrote the names as they are in the database
    return Counts(str(found.get("snapshot")), {name.lower(): count for name, count in rows.items()})


def _file(state: Path, environment: str) -> Path:
    return state / "baselines" / f"{environment}.json"
