"""A clone: the data of another environment, without what must not reach this one, by deploy/data.toml.

There are three kinds (settings.CLONES). Except for a whole clone, the snapshot is downloaded into a private folder, and only the
finished clone goes to the folder of the live database, which other users can enter.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dodeka_db import progress
from dodeka_db.data_description import DataDescription
from dodeka_db.errors import SnapshotError, UsageError
from dodeka_db.flows import proven_database
from dodeka_db.flows.download import Incoming
from dodeka_db.flows.proven_database import Proven
from dodeka_db.flows.restore_origin import Origin
from dodeka_db.formatting import cell
from dodeka_db.host import disks, staging
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.settings import MASKED, Settings
from dodeka_db.sqlite.empty_tables import empty_tables
from dodeka_db.sqlite.export import export_compacted
from dodeka_db.sqlite.failures import THIS_SQLITE, CannotCompactError, one_line
from dodeka_db.sqlite.row_counts import row_counts

_WHOLE_INSTEAD = "CLONE=whole clones all of it"
_LARGER_DISK = "set DODEKA_STATE to another disk"


@dataclass(frozen=True)
class Clone:
    """A clone of that kind, one of settings.CLONES.

    `left_out`: how many rows of each table were left out; `each`: what such a row is called, where it is not just a row.
    `logins`: the role and the address of each made-up member who can log in.
    """

    kind: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    each: Mapping[str, str] = field(default_factory=dict)
    logins: Sequence[tuple[str, str]] = ()


def kind(settings: Settings, target: str, source: str, asked: str | None) -> str | None:
    """The kind of the clone of `source` to `target`, both names of environments: the one `asked` for, or else as it is set.

    None if they are the same: then it is no clone, and UsageError if a kind was asked for.
    """
    if source != target:
        return asked or settings.clone
    if asked:
        raise UsageError(
            f"CLONE={asked} is only for a clone, and this restores {target}'s own data",
            "name another environment with FROM, or leave CLONE out",
        )
    return None


def write(
    repository: RepositorySettings,
    origin: Origin,
    kind: str,
    description: DataDescription,
    incoming: Incoming,
    shown: str,
) -> tuple[Clone, Proven]:
    """Write a clone of `origin`, quarantined or masked, to `incoming`; and what the check of the whole database found.

    Under the lock. `shown` is the name of the database in messages. Raises SnapshotError if it is not whole, or cannot become
    such a clone; BackupError if there is no room.
    """
    with staging.folder(repository) as folder:
        whole, copy = folder / "whole.sqlite", folder / "clone.sqlite"
        with open(whole, "xb", buffering=0) as file:
            to_whole = Incoming(file, whole, shown, _LARGER_DISK)
            proven = proven_database.write(origin, to_whole, whole, shown, _LARGER_DISK)
        before = row_counts(whole)
        logins: Sequence[tuple[str, str]] = ()
        if kind == MASKED:
            from dodeka_db.sqlite import masked_copy  # it needs what no other command does

            disks.check_room_beside(whole, _LARGER_DISK, masked_copy.TIMES_THE_SOURCE)
            log.info("making up the people")
            with progress.step("making up the people"):
                logins = masked_copy.masked_copy(whole, copy, shown, description).logins
        else:
            disks.check_room_beside(whole, _LARGER_DISK)
            _warn_of_undescribed(before, description, origin)
            _quarantine(whole, before, copy, shown, description)
        with open(copy, "rb") as made, progress.step("copying", incoming.far):
            incoming.start_over()
            shutil.copyfileobj(made, incoming)
        return _clone(kind, before, row_counts(copy), description, logins), proven


def _quarantine(
    whole: Path, there: Mapping[str, object], copy: Path, shown: str, description: DataDescription
) -> None:
    """Write `copy`, without what a clone does without, and without remains of it, which free pages may have."""
    tables = [*filter(None, map(description.named, there))]
    emptied = [table.name for table in tables if table.is_of_the_moment]
    rows = {table.name: table.is_left_out_of_clones for table in tables if table.not_in_clones}
    empty_tables(whole, shown, emptied, _WHOLE_INSTEAD, rows)
    try:
        export_compacted(whole, copy)
    except CannotCompactError as error:
        raise SnapshotError(
            f"{THIS_SQLITE} cannot compact {shown}, so remains of removed rows would come along:"
            f" {one_line(error.__cause__)}",
            f"nothing was changed; {_WHOLE_INSTEAD}",
        ) from error


def _warn_of_undescribed(there: Mapping[str, object], description: DataDescription, origin: Origin) -> None:
    if names := [cell(name) for name in there if not description.named(name)]:
        log.warning(
            "%s has tables that deploy/data.toml does not describe; they are cloned as they are: %s",
            *(origin.shown, ", ".join(names)),
        )


def _clone(
    kind: str,
    before: Mapping[str, int | None],
    after: Mapping[str, int | None],
    description: DataDescription,
    logins: Sequence[tuple[str, str]],
) -> Clone:
    left_out = {
        name: (count or 0) - (after.get(name) or 0)
        for name, count in before.items()
        if count != after.get(name)
    }
    each = {name: table.action.each for name, table in description.tables.items() if table.action}
    return Clone(kind, left_out, each, logins)
