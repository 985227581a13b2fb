"""make restore, make undo: replace an environment's database, after a yes."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dodeka_db import data_description, safe_open
from dodeka_db.errors import DatabaseError, ServiceError, UsageError
from dodeka_db.flows import erasures, leftovers, restore_origin, snapshot_table, snapshots, stray_writes
from dodeka_db.flows.exchange_databases import exchange
from dodeka_db.flows.in_the_end import in_the_end
from dodeka_db.flows.restore_origin import Origin
from dodeka_db.flows.restore_question import Change
from dodeka_db.flows.staged_database import stage
from dodeka_db.host import run_lock, staging
from dodeka_db.host import service as services
from dodeka_db.log import log
from dodeka_db.repository_settings import RepositorySettings
from dodeka_db.restic.repository import Repository
from dodeka_db.restic.snapshots import LATEST, Snapshot, resolve
from dodeka_db.settings import Environment, Settings
from dodeka_db.sqlite import swap
from dodeka_db.sqlite.header import read_header

Confirm = Callable[[Change], None]


@dataclass(frozen=True)
class Choice:
    """The snapshot to restore, and the repository that holds it. `all_members`: with those who were erased since."""

    repository: Repository
    snapshot: Snapshot
    all_members: bool = False


def choose(
    settings: RepositorySettings,
    source: str,
    wanted: str | datetime | None,
    ask: Callable[[Sequence[str]], str],
    all_members: bool = False,
) -> Choice:
    """The snapshot of the environment `source` that `wanted` names; if that is None, `ask` shows the list and returns the name."""
    repository = Repository(settings)
    if wanted is None:
        found, candidates = snapshots.described(repository, source)
        shown = snapshot_table.as_tables(candidates, [source])
        wanted = ask([*shown, f"Snapshot of {source} to restore (an ID, or '{LATEST}'):"])
    else:
        found = repository.snapshots()
    snapshot = resolve(settings, found, source, wanted)  # once, before anything is changed
    return Choice(repository, snapshot, all_members)


def tables_to_leave_out(names: str) -> tuple[str, ...]:
    """The tables in `names`, separated by commas or spaces, each once.

    Raises UsageError if one of them is not of the moment, by deploy/data.toml; SetupError if that file is not right.
    """
    wanted = tuple(dict.fromkeys(filter(None, re.split(r"[,\s]+", names))))
    if not wanted:
        return ()
    tables = data_description.read().tables.values()
    possible = sorted(table.name for table in tables if table.is_of_the_moment)
    for name in wanted:
        if name not in possible:
            raise UsageError(
                f"'{name}' is not a table that a restore can leave out", f"choose of: {', '.join(possible)}"
            )
    return wanted


def restore(
    settings: Settings,
    target: Environment,
    choice: Choice,
    confirm: Confirm,
    without: Sequence[str] = (),
    clone: str | None = None,
) -> None:
    """Replace the database of `target` by the one in the chosen snapshot, unless `confirm` raises.

    The tables `without`, from tables_to_leave_out(), have no rows then. `clone` is the kind of the clone, from clones.kind();
    None if it is none.

    Everything slow, and every check of the snapshot, is done before the question, while the service runs. Raises
    BackupError or Interrupted with either the old or the new database in place, whole, the service as it was found, and the
    other database in the repository or kept beside the live one.
    """
    _restore(
        *(settings, target),
        lambda: restore_origin.of_snapshot(choice.repository, target, choice.snapshot, choice.all_members),
        confirm,
        without,
        clone,
    )


def undo(settings: Settings, target: Environment, confirm: Confirm, all_members: bool = False) -> None:
    """Put back the database that the last restore of `target` replaced, the same way. Raises as restore() does.

    `all_members`: with those who were erased since.
    """
    _restore(
        *(settings, target),
        lambda: restore_origin.of_last_restore(settings, target, all_members),
        confirm,
    )


def _restore(
    settings: Settings,
    target: Environment,
    choose: Callable[[], Origin],
    confirm: Confirm,
    without: Sequence[str] | None = None,
    clone: str | None = None,
) -> None:
    service = services.of_environment(settings, target)
    service.check()
    live = target.live
    _check_link(target.database, live)
    if stray := stray_writes.found(service, live):
        raise ServiceError(f"{stray}; nothing was changed", "save that first: BACKUP.md, 'Written elsewhere'")
    doing = f"restore of {target.name}"
    down: leftovers.Down = []
    with ExitStack() as stack:
        stack.enter_context(in_the_end(lambda: leftovers.fail_if_down(down)))
        with staging.locked(settings.main, doing):
            # what becomes of the service itself, the exchange says
            down = [one for one in leftovers.recover(settings, saving=False) if one[0].unit != service.unit]
            origin = choose()
            staged = stack.enter_context(staging.beside(live))
            change = stage(settings, target, origin, staged, without, clone)
            before, erased_before = swap.identity(live), erasures.on_record(settings.main.state)
        confirm(change)  # without the lock: backups go on while somebody thinks
        with staging.locked(settings.main, doing), run_lock.beside(live, settings.main.lock_wait_s):
            if swap.identity(live) != before:
                raise DatabaseError(
                    f"{live} was replaced by something else meanwhile", "nothing was changed; run this again"
                )
            erasures.check_none_came(settings.main, erased_before)
            exchange(settings, service, change, staged)
    for role, address in change.clone.logins if change.clone else ():
        log.info("who can log in as %s: %s", role, address)


def _check_link(link: Path, live: Path) -> None:
    """Raise DatabaseError if the `link` leads to no database: otherwise whoever controls the link could have any file replaced.

    In another user's folder, whose owner can change the link meanwhile, it must lead to a file of the same name: no file of
    ours has that name.
    """
    if live == Path(os.path.realpath(link.parent), link.name):
        return  # if it becomes a link later, the link itself is replaced
    try:
        read_header(live)
    except DatabaseError as error:
        raise DatabaseError(
            f"{link} is a link to {live}, which is not a database ({error.message})",
            "correct the link; nothing was changed",
        ) from error
    if live.name != link.name and not safe_open.is_ours(link.parent):
        raise DatabaseError(
            f"{link} is a link to {live}, in a folder of another user",
            f"rename that file to {link.name}; nothing was changed",
        )
