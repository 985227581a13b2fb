"""Snapshots of the databases: their tags, which of them are ordinary or pre-restore, and which one an operator means."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dodeka_db import local_time, schedule
from dodeka_db.errors import SnapshotError
from dodeka_db.formatting import counted, duration
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic import json_values
from dodeka_db.settings import ENVIRONMENTS, FORMATS

LATEST = "latest"
# the tag of every snapshot of a database, and the one of those that a restore makes of the replaced database
DATABASE = "db_dodeka"
PRE_RESTORE = "pre-restore"
# the beginning of the tag of those whose database was a whole clone of the environment that follows. No ordinary snapshot has
# it: the retention takes snapshots of other tags for a group of their own, and would keep the newest of them for ever
WHOLE_CLONE = "whole-clone-of-"
# the tag of those that stay whatever the retention policy says, and the beginning of the tag that says why
PINNED = "pinned"
NOTE = "note="
# the tag of the probe, a snapshot without a database that is made to be removed
PROBE = "dodeka-probe"
_ABOUT_THE_CLOCK = "check the clock (timedatectl), or give the ID of a snapshot"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot of an environment, as restic lists it.

    `path` is that of the database's file, as it was stored; empty if there is no such file in it. `stored_as` is the ID
    under which it was stored first: a copy in another repository and a change of the tags give a snapshot a new ID.
    """

    id: str
    time: datetime
    environment: str
    tags: tuple[str, ...]
    host: str
    path: str
    stored_as: str

    @property
    def short_id(self) -> str:
        return self.id[:8]

    @property
    def is_pre_restore(self) -> bool:
        return PRE_RESTORE in self.tags

    @property
    def whole_clone_of(self) -> str:
        """The environment whose whole clone the replaced database was; "" if none."""
        found = (tag.removeprefix(WHOLE_CLONE) for tag in self.tags if tag.startswith(WHOLE_CLONE))
        return next((name for name in found if name in ENVIRONMENTS), "")

    @property
    def is_pinned(self) -> bool:
        return PINNED in self.tags

    @property
    def pin_tags(self) -> tuple[str, ...]:
        """The tags that a pin has added: none if it is not pinned."""
        return tuple(tag for tag in self.tags if tag == PINNED or tag.startswith(NOTE))

    @property
    def note(self) -> str:
        """What somebody wrote down about it; empty if nobody did."""
        return next((tag.removeprefix(NOTE) for tag in self.tags if tag.startswith(NOTE)), "")

    @property
    def is_from_the_future(self) -> bool:
        """Whether its time is later than now plus CLOCK_TOLERANCE. Such a snapshot is never the newest."""
        return self.time > datetime.now().astimezone() + schedule.CLOCK_TOLERANCE

    @property
    def format(self) -> str:
        """The format of the file, one of settings.FORMATS."""
        return "zst" if self.path.endswith(".zst") else "pages"


def tags_of(environment: str) -> tuple[str, ...]:
    """The tags of every snapshot of `environment`, those of the shell scripts."""
    return ("db", "db_sqlite", DATABASE, f"env_{environment}")


def tags_of_replaced(whole_clone_of: str) -> tuple[str, ...]:
    """What a snapshot of a replaced database is tagged with besides; `whole_clone_of` as in Snapshot."""
    return (PRE_RESTORE, f"{WHOLE_CLONE}{whole_clone_of}") if whole_clone_of else (PRE_RESTORE,)


def tag_filter(environment: str) -> str:
    """restic's words for the snapshots of `environment`: those that have both tags."""
    return f"{DATABASE},env_{environment}"


def from_json(entries: Any) -> list[Snapshot]:
    """The snapshots of databases in what `restic snapshots --json` prints. Raises as json_values do."""
    return [
        _snapshot(entry, environment)
        for entry in json_values.entries(entries)
        for environment in ENVIRONMENTS
        if set(tag_filter(environment).split(",")) <= set(entry.get("tags") or ())
    ]


def _snapshot(entry: dict[str, Any], environment: str) -> Snapshot:
    endings = "|".join(map(re.escape, FORMATS.values()))
    is_database = re.compile(rf"(.*/)?dodeka-[^/]*({endings})").fullmatch
    return Snapshot(
        id=json_values.object_id(entry["id"]),
        time=json_values.moment(entry["time"]),
        environment=environment,
        tags=tuple(map(str, entry["tags"])),
        host=str(entry["hostname"]),
        path=next(filter(is_database, entry["paths"]), ""),
        stored_as=json_values.object_id(entry.get("original") or entry["id"]),
    )


def of_environment(snapshots: Iterable[Snapshot], environment: str) -> list[Snapshot]:
    return [snapshot for snapshot in snapshots if snapshot.environment == environment]


def ordinary(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """The snapshots that backups made: all but the pre-restore ones."""
    return [snapshot for snapshot in snapshots if not snapshot.is_pre_restore]


def pre_restore(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """The snapshots that hold a database which a restore replaced."""
    return [snapshot for snapshot in snapshots if snapshot.is_pre_restore]


def of_the_past(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    return [snapshot for snapshot in snapshots if not snapshot.is_from_the_future]


def newest(snapshots: Iterable[Snapshot]) -> Snapshot | None:
    """The newest ordinary one of the past in `snapshots`, the oldest first; None if there is none."""
    found = of_the_past(ordinary(snapshots))
    return found[-1] if found else None


def resolve(
    repository: RepositorySettings, snapshots: Sequence[Snapshot], environment: str, wanted: str | datetime
) -> Snapshot:
    """The snapshot of `environment` that `wanted` names, of `snapshots`, the oldest first.

    `wanted` is an ID, its beginning, `latest`, which is the newest(), `latest~2`, the second ordinary one before that, or a
    time (an aware datetime), which means the newest ordinary one of that time or before. A snapshot that was copied or pinned
    is also known by the ID that it had first. Logs which one a time means.

    Raises SnapshotError if `wanted` is malformed, unknown, ambiguous, or of another environment, or if no snapshot is that old.
    """
    hint = f"see: {repository.make(f'snapshots ENV={environment}')}"
    candidates = of_environment(snapshots, environment)
    if isinstance(wanted, datetime):
        return _of_time(_to_choose_from(repository, candidates, environment), environment, wanted)
    if match := re.fullmatch(rf"{LATEST}(?:~([0-9]{{1,6}}))?", wanted):
        past = _to_choose_from(repository, candidates, environment)
        before = int(match[1] or 0)
        if before < len(past):
            return past[-1 - before]
        count = counted(len(past), "snapshot")
        raise SnapshotError(f"there is no {wanted}: {environment} has {count} that a backup made", hint)
    if not re.fullmatch(r"[0-9a-f]{4,64}", wanted):
        raise SnapshotError(
            f"{wanted!r} is neither a snapshot ID (4 to 64 digits, 0-9 and a-f) nor '{LATEST}'", hint
        )
    matches = [snapshot for snapshot in candidates if snapshot.id.startswith(wanted)]
    matches = matches or [snapshot for snapshot in candidates if snapshot.stored_as.startswith(wanted)]
    if len(matches) > 1:
        ids = ", ".join(snapshot.short_id for snapshot in matches)
        raise SnapshotError(f"{wanted} matches several snapshots: {ids}", "type more digits of the ID")
    if matches:
        return matches[0]
    for snapshot in snapshots:
        if snapshot.id.startswith(wanted):
            raise SnapshotError(
                f"snapshot {snapshot.short_id} is of {snapshot.environment}, not of {environment}",
                f"use ENV={snapshot.environment}, or in a restore FROM={snapshot.environment}",
            )
    raise SnapshotError(f"there is no snapshot {wanted} of {environment}", hint)


def _to_choose_from(
    repository: RepositorySettings, candidates: Sequence[Snapshot], environment: str
) -> list[Snapshot]:
    """The ordinary ones of the past in `candidates`; SnapshotError if there is none."""
    if past := of_the_past(ordinary(candidates)):
        return past
    if ordinary(candidates):
        raise SnapshotError(f"all snapshots of {environment} are from the future", _ABOUT_THE_CLOCK)
    first = "make offsite" if repository.is_offsite else repository.make(f"backup ENV={environment}")
    raise SnapshotError(f"there is no snapshot of {environment} yet", first)


def _of_time(past: Sequence[Snapshot], environment: str, moment: datetime) -> Snapshot:
    """The newest one in `past`, the oldest first, that is of `moment` or before; logs which one that is, and of when."""
    asked = f"{local_time.shown(moment)} or before"
    before = [snapshot for snapshot in past if snapshot.time <= moment]
    if not before:
        oldest = f"the oldest is {past[0].short_id}, of {local_time.shown(past[0].time)}"
        raise SnapshotError(f"no snapshot of {environment} is of {asked}", oldest)
    found = before[-1]
    log.info("choosing the newest snapshot of %s", asked)
    earlier = duration(moment - found.time)
    log.info("snapshot %s is of %s, %s before", found.short_id, local_time.shown(found.time), earlier)
    return found


def newest_pre_restore(
    repository: RepositorySettings, snapshots: Iterable[Snapshot], environment: str
) -> Snapshot:
    """The database that the last restore of `environment` replaced; SnapshotError if there is no such snapshot of the past."""
    kept = pre_restore(of_environment(snapshots, environment))
    if past := of_the_past(kept):
        return past[-1]
    if kept:
        raise SnapshotError(
            f"all {PRE_RESTORE} snapshots of {environment} are from the future", _ABOUT_THE_CLOCK
        )
    raise SnapshotError(
        f"there is nothing to undo: no {PRE_RESTORE} snapshot of {environment}",
        f"see: {repository.make(f'snapshots ENV={environment}')}",
    )
