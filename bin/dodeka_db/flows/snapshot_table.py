"""The list of snapshots as tables of 80 columns: what changed in the number of rows since the snapshot before."""

from collections.abc import Mapping, Sequence

from dodeka_db import data_description
from dodeka_db.data_description import DataDescription
from dodeka_db.flows.snapshots import Listing
from dodeka_db.formatting import COLUMNS, ago, cell, columns, counted, size, when_briefly, wrapped
from dodeka_db.host.row_records import Rows
from dodeka_db.restic.snapshots import PINNED, PRE_RESTORE, Snapshot, of_environment

_HEADINGS = ("ID", "When", "Ago", "Size")
_LAST_HEADING = "Number of rows"


def as_tables(listing: Listing, environments: Sequence[str]) -> list[str]:
    """A table for each of `environments`, below its name if they are several; then how those are counted that are not.

    A snapshot's number of rows is shown as what changed since the one before it in time; where that is not known, as its
    own total. "?" stands for what is not known at all.
    """
    # a list must not wait for a correction of the file
    described = data_description.read_or_warn("the tables of members are not known: %s")
    lines: list[str] = []
    for environment in environments:
        if len(environments) > 1:
            lines += [""] * bool(lines) + [environment]
        lines += _table(listing, of_environment(listing.snapshots, environment), described)
    if count := len(listing.uncounted):
        are = "snapshot is" if count == 1 else "snapshots are"
        env = f" ENV={environments[0]}" if len(environments) == 1 else ""
        lines.append(f"{count} {are} not counted; to count all:")
        lines.append(f"  {listing.settings.make(f'snapshots{env} ALL=1')}")
    return lines


def _table(listing: Listing, snapshots: Sequence[Snapshot], described: DataDescription | None) -> list[str]:
    fixed = [_HEADINGS]
    fixed += [
        (
            snapshot.short_id,
            when_briefly(snapshot.time),
            ago(snapshot.time),
            size(listing.sizes[snapshot.id]) if snapshot.id in listing.sizes else "?",
        )
        for snapshot in snapshots
    ]
    last = [[_LAST_HEADING]]
    before: Rows | None = None
    for snapshot in snapshots:
        rows = listing.rows.get(snapshot.id)
        notes = [note for note in (PRE_RESTORE,) if snapshot.is_pre_restore]
        notes += [f"whole clone of {name}" for name in (snapshot.whole_clone_of,) if name]
        if snapshot.is_pinned:
            notes.append(f'{PINNED} "{cell(snapshot.note)}"' if snapshot.note else PINNED)
        notes += [snapshot.format] * (snapshot.format != listing.settings.format)
        last.append(
            [f"{note}," for note in notes[:-1]]
            + [f"{note}:" for note in notes[-1:]]
            + _pieces(before, rows, described)
        )
        before = rows
    lines = []
    for beginning, pieces in zip(columns(fixed, "<<>>"), last, strict=True):
        width = len(beginning)
        first, *more = wrapped(pieces, COLUMNS - width - 2)
        lines += [f"{beginning}  {first}", *(f"{'':{width}}  {line}" for line in more)]
    return lines


def _pieces(before: Rows | None, rows: Rows | None, described: DataDescription | None) -> list[str]:
    """The last cell of a line, in pieces that stay on one line: 'users -380,', 'outbox +12'."""
    if rows is None:
        return ["?"]
    if before is None:
        return [_total(rows, described)]
    changes = []
    for name in {*before, *rows}:
        then, now = before.get(name, 0), rows.get(name, 0)
        if then is None or now is None:
            if then != now:
                changes.append((name, 0, "?"))
        elif then != now:
            changes.append((name, now - then, f"{now - then:+}"))
    changes.sort(key=lambda change: (_place(change[0], described), change[1] > 0, -abs(change[1]), change[0]))
    pieces = [f"{cell(name)} {shown}" for name, _, shown in changes]
    return [f"{piece}," for piece in pieces[:-1]] + pieces[-1:] or ["same"]


def _total(rows: Mapping[str, int | None], described: DataDescription | None) -> str:
    members = described.count_of_members(rows) if described else None
    return counted(sum(filter(None, rows.values())), "row") if members is None else counted(members, "member")


def _place(name: str, described: DataDescription | None) -> int:
    """Where the table stands among the changes: the members first, what is of the moment last."""
    table = described.named(name) if described else None
    if described and table == described.members:
        return 0
    if table and table.is_of_members:
        return 1
    return 3 if table and table.is_of_the_moment else 2
