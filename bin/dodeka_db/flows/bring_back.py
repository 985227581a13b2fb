"""make bring-back: put rows that a snapshot has and the live database lacks back, while its service runs."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from textwrap import wrap

from dodeka_db import data_description, safe_open
from dodeka_db.data_description import DataDescription
from dodeka_db.errors import DatabaseError, ServiceError, UsageError
from dodeka_db.flows import bring_back_plan, leftovers, stray_writes, verify
from dodeka_db.flows.bring_back_plan import Asked, Plan
from dodeka_db.flows.download import Incoming
from dodeka_db.flows.take_snapshot import take_snapshot
from dodeka_db.formatting import cell, columns, counted, when
from dodeka_db.host import run_lock, service, staging
from dodeka_db.interrupts import shielded
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import PRE_RESTORE, Snapshot, resolve
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import missing_rows
from dodeka_db.sqlite.checkpoint import check_access

log = logging.getLogger("dodeka_db")
# so many members and so many conflicts are named, unless all are asked for
MAX_NAMED = 20
# of a terminal
COLUMNS = 80


def addresses(words: Sequence[str]) -> tuple[str, ...]:
    """The addresses in `words`, each an address, several with commas or spaces between them, or the name of a file of such.

    Raises UsageError if one is neither an address nor a file.
    """
    found: dict[str, None] = {}
    for word in words:
        for part in _parts(word):
            found[part] = None
    return tuple(found)


def _parts(word: str) -> list[str]:
    parts = word.replace(",", " ").split()
    if parts and all("@" in part for part in parts) and not Path(word).is_file():
        return parts
    try:
        with open(word, encoding="utf-8", opener=safe_open.regular) as file:
            parts = file.read().replace(",", " ").split()
    except (OSError, ValueError) as error:
        raise UsageError(f"{word!r} is neither an address nor a readable file of addresses") from error
    for part in parts:
        if "@" not in part:
            raise UsageError(f"file {word} has {part!r}, which is not an address")
    if not parts:
        raise UsageError(f"file {word} has no address")
    return parts


def run(
    settings: Settings,
    source: RepositorySettings,
    environment: Environment,
    wanted: str | datetime,
    asked: Asked,
    confirm: Callable[[Sequence[str]], None],
) -> str:
    """Put what the snapshot `wanted` (as snapshots.resolve() takes it) of `source` has and the live database lacks back.

    `confirm` gets the preview, and raises if the answer is not yes. Nothing that is there is changed, and the service goes on:
    the rows go in by one short transaction. Before that the live database becomes a pre-restore snapshot. Returns what was
    done, in words. Raises BackupError or Interrupted, with all of the rows there or none of them; of very many rows perhaps
    some (missing_rows.put_in).
    """
    main, live = settings.main, environment.live
    check_access(live)
    if stray := stray_writes.found(service.of_environment(settings, environment), live):
        raise ServiceError(f"{stray}; nothing was changed", "save that first: BACKUP.md, 'Written elsewhere'")
    description = data_description.read()
    doing = f"bring-back to {environment.name}"
    with ExitStack() as stack:
        with staging.locked(main, doing):
            down = leftovers.recover(settings)
            planned = Path(stack.enter_context(staging.for_a_reader(main)).name)
            with staging.folder(main) as folder:
                repository = Repository(source)
                snapshot = resolve(source, repository.snapshots(), environment.name, wanted)
                copy = _fetch(repository, snapshot, folder / "then.sqlite")
                log.info("comparing")
                with run_lock.beside(live, main.lock_wait_s):
                    plan = bring_back_plan.make(
                        *(live, copy, planned, description, asked, verify.shown(snapshot))
                    )
        preview = _preview(environment, snapshot, plan, description, asked)
        if not plan.count:
            for line in preview:
                log.info("%s", line)
            leftovers.fail_if_down(down)
            return f"nothing to bring back from snapshot {snapshot.short_id}"
        confirm(preview)  # without the lock: backups go on while somebody thinks
        with staging.locked(main, doing), run_lock.beside(live, main.lock_wait_s):
            done = _put_in(settings, environment, plan, planned)
    leftovers.fail_if_down(down, done)
    return done


def _fetch(repository: Repository, snapshot: Snapshot, copy: Path) -> Path:
    with open(copy, "xb", buffering=0) as file:
        incoming = Incoming(file, copy, verify.shown(snapshot), "set DODEKA_STATE to another disk")
        verify.fetch(repository, snapshot, incoming, copy)
    return copy


def _put_in(settings: Settings, environment: Environment, plan: Plan, planned: Path) -> str:
    """Save the live database, then put the rows of the plan in."""
    live = environment.live
    log.info("saving the database as it is")
    taken = take_snapshot(Repository(settings.main), environment, live, (PRE_RESTORE,))
    if taken.findings.defects:
        raise DatabaseError(
            f"database {live} has defects: {taken.findings.defects_shown}; nothing was changed",
            "REINDEX repairs an index: BACKUP.md, 'The database has defects'",
        )
    # a signal waits: it is over soon
    with shielded(), missing_rows.putting_in(live, planned) as connection:
        waited_s = missing_rows.put_in(connection, planned, plan.missing, plan.guards)
    log.info("the backend waited for %d ms at most", math.ceil(waited_s * 1000))
    members = f" of {counted(len(plan.members), 'member')}" if plan.members else ""
    return (
        f"{counted(plan.count, 'row')}{members} brought back to {environment.name};"
        f" as it was before: snapshot {taken.snapshot_id}, tagged {PRE_RESTORE}"
    )


def _preview(
    environment: Environment, snapshot: Snapshot, plan: Plan, description: DataDescription, asked: Asked
) -> list[str]:
    origin = f"snapshot {snapshot.short_id} of {when(snapshot.time)}"
    if not plan.count:
        lines = [f"{origin} has no missing row that can come back to {environment.live}"]
    else:
        lines = [
            f"This brings back what {environment.name} lacks of {origin}:",
            *_indented(
                columns([("table", "rows"), *((one.table, str(one.count)) for one in plan.missing)], "<>")
            ),
            "Nothing that is there changes, and the backend keeps running.",
        ]
    if plan.members:
        lines.append(f"It is about {counted(len(plan.members), 'member')}:")
        lines += _indented(_wrapped(plan.members, asked.name_all))
    if plan.rows:
        lines += ["The rows:", *_indented([f"{table}  {cell(key)}" for table, key in plan.rows])]
    if plan.left_alone:
        shown = plan.left_alone if asked.name_all else plan.left_alone[:MAX_NAMED]
        lines += ["Left alone:", *_indented(map(cell, shown)), *_indented(_more(plan.left_alone, shown))]
    if not asked.tables:
        never = [name for name, table in description.tables.items() if not table.can_come_back]
        lines += wrap(f"Never brought back: the rows of {', '.join(never)}.", COLUMNS)
    return lines


def _wrapped(names: Sequence[str], name_all: bool) -> list[str]:
    """The names, several on a line: the first MAX_NAMED, and how many there are more; or all."""
    shown = names if name_all else names[:MAX_NAMED]
    return wrap(", ".join(map(cell, shown)), COLUMNS - 2, break_on_hyphens=False) + _more(names, shown)


def _more(names: Sequence[str], shown: Sequence[str]) -> list[str]:
    left = len(names) - len(shown)
    return [f"and {left} more; ROWS=1 names all"] if left else []


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
