"""Prepare the new database beside the live one: write it, prove that it is whole, compare it with the live one."""

import logging
import os
from dataclasses import replace
from io import BufferedRandom
from pathlib import Path

from dodeka_db import data_description
from dodeka_db.errors import WHO, BackupError, DatabaseError, SetupError, SnapshotError
from dodeka_db.flows import changes
from dodeka_db.flows.download import Incoming
from dodeka_db.flows.restore_origin import Origin
from dodeka_db.flows.restore_question import Change
from dodeka_db.host import disks, file_rights, staging
from dodeka_db.host.file_rights import Rights
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import integrity, swap
from dodeka_db.sqlite.compare import Source, compare
from dodeka_db.sqlite.failures import NotWholeError
from dodeka_db.sqlite.header import match_journal_mode
from dodeka_db.sqlite.row_counts import row_counts

log = logging.getLogger("dodeka_db")


def stage(settings: Settings, target: Environment, origin: Origin, file: BufferedRandom) -> Change:
    """Write the new database to `file`, prove that it is whole, and compare it with the live one.

    The data is written by the descriptor. All checks, and what changes the file after that, go by its name.
    """
    live, shown, staged = target.live, f"the database in {origin.shown}", Path(file.name)
    try:
        origin.write(Incoming(file.raw, staged, shown, swap.LARGER_DISK))
    except OSError as error:
        raise BackupError(f"{error.filename or staged}: {error.strerror}", "nothing was changed") from error
    log.info("checking")
    try:
        found = findings = integrity.verify(staged, shown)
        if found.defects:
            _reindex(staged, shown)
            findings = integrity.verify(staged, shown)
    except NotWholeError as error:
        raise SnapshotError(error.message, "choose another snapshot; nothing was changed") from error
    fixed = replace(found, defects=tuple(line for line in found.defects if line not in findings.defects))
    change = Change(target, origin, findings, fixed.defects_shown, row_counts(staged), *_tables_of_members())
    change = _compared(settings, change, staged)
    match_journal_mode(staged, live)
    rights_of_new(settings, target, origin, staged)
    os.fsync(file.fileno())
    return change


def _compared(settings: Settings, change: Change, staged: Path) -> Change:
    """`change` with what differs from the live database. Where that cannot be told, a restore goes on without it."""
    log.info("comparing")
    try:
        with staging.folder(settings.main) as folder:
            live = changes.source_of_live(change.target.live, folder / "live.sqlite")
            tables = compare(live, Source(staged, change.origin.shown))
        now = {table.table: table.same + table.changed + table.gone for table in tables if not table.problem}
        return replace(change, tables=tables, now=now)
    except BackupError as error:  # a damaged or missing live database is what a restore is for
        change = replace(change, problem=error.message)
    try:
        return replace(change, now=row_counts(change.target.live))
    except DatabaseError as error:
        return replace(change, damaged=isinstance(error, NotWholeError))


def _tables_of_members() -> tuple[frozenset[str], str]:
    """The tables whose rows belong to members, and not just for the moment; and the one that has a row for each of them.

    A mistake in deploy/data.toml is only a warning: a restore must not wait for that.
    """
    try:
        found = data_description.read()
    except SetupError as error:
        log.warning("the tables of members are not known: %s", error)
        return frozenset(), ""
    lasting = (table for table in found.tables.values() if table.is_of_members)
    return frozenset(table.name for table in lasting), found.members.name


def _reindex(staged: Path, shown: str) -> None:
    log.info("rebuilding its indexes")
    try:
        disks.for_database(
            staged.parent, staged.stat().st_size, swap.LARGER_DISK
        ).check()  # room for the journal of REINDEX
        integrity.reindex(staged, shown)
    except BackupError as error:  # if the database is not whole, the next check says so
        log.warning("the indexes could not be rebuilt: %s", error.message)


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
