"""make bring-back: put rows that a snapshot has and the live database lacks back, while its service runs."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from textwrap import wrap

from dodeka_db import data_description, progress
from dodeka_db.data_description import DataDescription
from dodeka_db.errors import DatabaseError, ServiceError, UsageError
from dodeka_db.flows import bring_back_plan, erasures, leftovers, stray_writes, verify
from dodeka_db.flows.bring_back_plan import MAX_NAMED, Asked, Plan
from dodeka_db.flows.download import shown, to_new_file
from dodeka_db.flows.in_the_end import in_the_end
from dodeka_db.flows.take_snapshot import take_snapshot
from dodeka_db.formatting import COLUMNS, cell, columns, counted, when
from dodeka_db.host import run_lock, service, staging, whole_clones
from dodeka_db.interrupts import Interrupted, shielded
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import PRE_RESTORE, Snapshot, resolve, tags_of_replaced
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import kept_files, missing_rows, swap
from dodeka_db.sqlite.checkpoint import check_access


def table_names(text: str | None) -> tuple[str, ...]:
    """The names of tables in `text`, with commas or spaces between them. Raises UsageError if there is none."""
    if text is None:
        return ()
    if names := tuple(text.replace(",", " ").split()):
        return names
    raise UsageError("TABLES names no table", "leave it out for all tables")


def run(
    settings: Settings,
    source: RepositorySettings,
    environment: Environment,
    wanted: str | datetime,
    asked: Asked,
    name_all: bool,
    confirm: Callable[[Sequence[str]], None],
) -> str:
    """Put what the snapshot `wanted` (as snapshots.resolve() takes it) of `source` has and the live database lacks back.

    `confirm` gets the preview, which names everything if `name_all`, and raises if the answer is not yes. Nothing that is there
    is changed, and the service goes on: the rows go in by one short transaction, or by several (missing_rows.put_in). Before
    that the live database becomes a pre-restore snapshot. Returns what was done, in words. Raises BackupError or Interrupted,
    with each transaction's rows there or not.
    """
    main, live = settings.main, environment.live
    check_access(live)
    if stray := stray_writes.found(service.of_environment(settings, environment), live):
        raise ServiceError(f"{stray}; nothing was changed", "save that first: BACKUP.md, 'Written elsewhere'")
    description = data_description.read()
    doing = f"bring-back to {environment.name}"
    down: leftovers.Down = []
    done = ""
    with ExitStack() as stack:
        stack.enter_context(in_the_end(lambda: leftovers.fail_if_down(down, done)))
        with staging.locked(main, doing):
            down = leftovers.recover(settings)
            _check_saved(settings, environment)
            Repository(main).check_writable()
            planned = Path(stack.enter_context(staging.for_a_reader(main)).name)
            with staging.folder(main) as folder:
                repository = Repository(source)
                snapshot = resolve(source, repository.snapshots(), environment.name, wanted)
                left_out = erasures.since(repository, snapshot.environment, snapshot.time)
                copy = to_new_file(repository, snapshot, folder / "then.sqlite")
                verify.check(repository, snapshot, copy)
                erased = erasures.apply(left_out, copy, shown(snapshot))
                log.info("comparing")
                with progress.step("comparing"), run_lock.beside(live, main.lock_wait_s):
                    plan = bring_back_plan.make(live, copy, planned, description, asked, shown(snapshot))
                    before, erased_before = swap.identity(live), erasures.on_record(main.state)
        preview = _preview(environment, snapshot, plan, description, asked.is_everything, name_all)
        preview += erasures.lines(erased)
        if not plan.count:
            for line in preview:
                log.info("%s", line)
            why = "; AT=03:00, for example, takes an earlier one"
            if plan.left_alone:
                why = ": what is missing is left alone, for the reasons above"
            return f"nothing to bring back from snapshot {snapshot.short_id}{why}"
        confirm(preview)  # without the lock: backups go on while somebody thinks
        with staging.locked(main, doing), run_lock.beside(live, main.lock_wait_s):
            if swap.identity(live) != before:
                raise DatabaseError(
                    f"{live} was replaced by something else meanwhile", "nothing was changed; run this again"
                )
            erasures.check_none_came(main, erased_before)
            done = _put_in(settings, environment, plan, planned)
    return done


def _put_in(settings: Settings, environment: Environment, plan: Plan, planned: Path) -> str:
    """Save the live database, then put the rows of the plan in."""
    live = environment.live
    log.info("saving the database as it is")
    of = whole_clones.source(settings.main.state, environment.name, live)
    taken = take_snapshot(Repository(settings.main), environment, live, tags_of_replaced(of))
    if taken.findings.defects:
        raise DatabaseError(
            f"database {live} has defects: {taken.findings.defects_shown}; nothing was changed",
            "REINDEX repairs an index: BACKUP.md, 'The database has defects'",
        )
    whose = f" of {_people(plan.people)}" if plan.people else ""
    before = f"as it was before: snapshot {taken.snapshot_id}, tagged {PRE_RESTORE}"
    done = f"{counted(plan.count, 'row')}{whose} brought back to {environment.name}; {before}"
    try:
        # a signal waits: it is over soon
        with shielded(), missing_rows.putting_in(live, planned) as connection:
            waited_s = missing_rows.put_in(connection, plan.missing, plan.guards)
    except Interrupted as interruption:
        interruption.note = interruption.note or done  # the note is the failure, if there was one too
        raise
    log.info("the backend waited for %d ms at most", math.ceil(waited_s * 1000))
    return done


def _check_saved(settings: Settings, environment: Environment) -> None:
    """Raise DatabaseError if an undo would go back further than to before this."""
    if kept := kept_files.kept_beside(environment.live):
        raise DatabaseError(
            f"{kept[-1]}, which the last restore replaced, is not saved yet; nothing was changed",
            f"save it first: {settings.main.make(f'backup ENV={environment.name}')}",
        )


def _preview(
    environment: Environment,
    snapshot: Snapshot,
    plan: Plan,
    description: DataDescription,
    is_everything: bool,
    name_all: bool,
) -> list[str]:
    def named(rows: Iterable[tuple[str, str]]) -> list[str]:
        return [f"{cell(table)}  {cell(description.shown_key(table, key))}" for table, key in rows]

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
    if plan.people:
        first = plan.people if name_all else plan.people[:MAX_NAMED]
        lines.append(f"People who come back: {len(plan.people)}")
        lines += _indented(wrap(", ".join(map(cell, first)), COLUMNS - 2, break_on_hyphens=False))
        lines += _indented(_more(plan.people, first))
    if plan.present:
        lines += ["Rows of people who are still there come back:", *_indented(named(plan.present))]
    if plan.rows and name_all:
        lines += ["The rows:", *_indented(named(plan.rows))]
    if plan.left_alone:
        first = plan.left_alone if name_all else plan.left_alone[:MAX_NAMED]
        lines += ["Left alone:", *_indented(map(cell, first)), *_indented(_more(plan.left_alone, first))]
    if is_everything:
        never = [name for name, table in description.tables.items() if not table.can_come_back]
        lines += wrap(f"Never brought back: the rows of {', '.join(never)}.", COLUMNS)
    return lines


def _people(addresses: Sequence[str]) -> str:
    return "1 person" if len(addresses) == 1 else f"{len(addresses)} people"


def _more(names: Sequence[str], first: Sequence[str]) -> list[str]:
    left = len(names) - len(first)
    return [f"and {left} more; ROWS=1 names all"] if left else []


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
