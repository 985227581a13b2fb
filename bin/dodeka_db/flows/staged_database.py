"""Prepare the new database beside the live one: write it, as a clone if it is one, leave rows out, compare it with the live one."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BufferedRandom
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.data_description import DataDescription
from dodeka_db.errors import WHO, BackupError, DatabaseError
from dodeka_db.flows import changes, clones, proven_database
from dodeka_db.flows.clones import Clone
from dodeka_db.flows.download import Incoming
from dodeka_db.flows.restore_origin import Origin
from dodeka_db.flows.restore_question import Change
from dodeka_db.host import disks, file_rights, staging
from dodeka_db.host.file_rights import Rights
from dodeka_db.log import log
from dodeka_db.settings import WHOLE, Environment, Settings
from dodeka_db.sqlite import swap
from dodeka_db.sqlite.acting_rows import ActingRows, acting_rows
from dodeka_db.sqlite.compare import Source, compare
from dodeka_db.sqlite.empty_tables import empty_tables
from dodeka_db.sqlite.failures import NotWholeError
from dodeka_db.sqlite.header import match_journal_mode
from dodeka_db.sqlite.row_counts import row_counts


def stage(
    settings: Settings,
    target: Environment,
    origin: Origin,
    file: BufferedRandom,
    without: Sequence[str] | None,
    kind: str | None,
) -> Change:
    """Write the new database to `file`, prove that it is whole, and compare it with the live one.

    `kind` is that of the clone (clones.kind()); None if it is none. The rows of the tables `without` are left out. None: that is
    not possible here, and the question will not offer it. Where something is left out of a clone, SetupError if deploy/data.toml
    is not right.

    The data is written by the descriptor. All checks, and what changes the file after that, go by its name.
    """
    live, shown, staged = target.live, f"the database in {origin.shown}", Path(file.name)
    incoming = Incoming(file.raw, staged, shown, swap.LARGER_DISK)
    clone = Clone(kind) if kind else None
    description: DataDescription | None
    if kind in (None, WHOLE):
        proven = proven_database.write(origin, incoming, staged, shown, swap.LARGER_DISK)
        # a restore must not wait for a correction of the file
        unknown = "the tables of members, and of the moment, are not known: %s"
        description = data_description.read_or_warn(unknown)
        if without:
            without = _leave_out(without, staged, origin)
            proven = proven_database.again(proven, staged, shown)
    else:
        without = None  # a clone has no rows of the moment in any case
        description = data_description.read()
        clone, proven = clones.write(settings.main, origin, kind, description, incoming, shown)
        proven = proven_database.again(proven, staged, shown)
    then = row_counts(staged)
    change = Change(
        *(target, origin, proven.findings, proven.fixed, then),
        *_tables_of_members(description, then),
        *(without, clone),
        erased=proven.erased,
    )
    change = _compared(settings, change, staged, description)
    match_journal_mode(staged, live)
    rights_of_new(settings, target, origin, staged)
    os.fsync(file.fileno())
    return change


def _leave_out(tables: Sequence[str], staged: Path, origin: Origin) -> list[str]:
    """Remove the rows of those `tables` that there are; returns their names."""
    there = {name.lower() for name in row_counts(staged)}  # as SQLite compares them
    for name in tables:
        if name.lower() not in there:
            log.warning("%s has no table %s", origin.shown, name)
    found = [name for name in tables if name.lower() in there]
    disks.check_room_beside(staged, swap.LARGER_DISK)  # for a journal with every page
    empty_tables(staged, f"the database in {origin.shown}", found, "leave that table out of WITHOUT")
    return found


def _compared(
    settings: Settings, change: Change, staged: Path, description: DataDescription | None
) -> Change:
    """`change` with what differs from the live database. Where that cannot be told, a restore goes on without it."""
    log.info("comparing")
    try:
        with staging.folder(settings.main) as folder:
            live = changes.source_of_live(change.target.live, folder / "live.sqlite")
            tables = compare(live, Source(staged, change.origin.shown))
            # another environment's database knows nothing of these rows
            is_clone = change.origin.environment != change.target.name
            acting = _acting(change, staged, description, None if is_clone else live.path)
        now = {table.table: table.same + table.changed + table.gone for table in tables if not table.problem}
        return replace(change, tables=tables, now=now, acting=acting)
    except BackupError as error:  # a damaged or missing live database is what a restore is for
        change = replace(change, problem=error.message, acting=_acting(change, staged, description, None))
    try:
        return replace(change, now=row_counts(change.target.live))
    except DatabaseError as error:
        return replace(change, damaged=isinstance(error, NotWholeError))


def _acting(
    change: Change, staged: Path, description: DataDescription | None, live: Path | None
) -> list[ActingRows]:
    """The rows of `staged` on which the backend will act. What cannot be read is only a warning."""
    found = []
    then = {name.lower(): count for name, count in change.then.items()}
    for table in description.tables.values() if description else ():
        if not table.action or then.get(table.name.lower(), 0) == 0:
            continue
        for beside in dict.fromkeys((live, None)):
            try:
                found.append(acting_rows(staged, table, table.action, beside))
                break
            except BackupError as error:
                if not beside:
                    does = f"{table.name} that the backend will {table.action.will}"
                    log.warning("the rows of %s are not counted: %s", does, error.message)
    return [rows for rows in found if rows.count]


def _tables_of_members(
    description: DataDescription | None, there: Iterable[str]
) -> tuple[frozenset[str], str]:
    """The tables whose rows belong to members, and not just for the moment; and the one that has a row for each of them.

    By the names of those that are `there`.
    """
    if not description:
        return frozenset(), ""
    names = {table.name: name for name in there if (table := description.named(name))}
    lasting = (table for table in description.tables.values() if table.is_of_members)
    of_members = frozenset(names.get(table.name, table.name) for table in lasting)
    return of_members, names.get(description.members.name, description.members.name)


def rights_of_new(settings: Settings, target: Environment, origin: Origin, staged: Path) -> Rights:
    """The rights of the new database, which are those of the live one; gives `staged` their owner and attributes.

    A clone is never more readable than the database that its data comes from. Raises DatabaseError if we may not set them.
    """
    live = target.live
    source = live if origin.environment == target.name else settings.environment(origin.environment).live
    try:
        its_rights = file_rights.read(live) if live.exists() else file_rights.for_new_file(live.parent)
        if source != live:
            of_source = file_rights.read(source) if source.exists() else file_rights.for_new_file(live.parent)
            if source.parent.is_dir():  # if not, only its snapshots are on this machine
                of_source = of_source.within(source.parent)
            its_rights = its_rights.stricter(of_source)
        its_rights.own(staged)
    except OSError as error:
        raise DatabaseError(
            f"{live} belongs to another user or group, or {source.parent} cannot be entered ({error.strerror})",
            WHO,
        ) from error
    return its_rights
