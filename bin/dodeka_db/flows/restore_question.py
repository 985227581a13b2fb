"""The question of a restore: the change that it will make, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dodeka_db.flows import changes, erasures
from dodeka_db.flows.clones import Clone
from dodeka_db.flows.restore_origin import Origin
from dodeka_db.formatting import COLUMNS, ago, cell, columns, counted, wrapped
from dodeka_db.settings import MASKED, QUARANTINED, WHOLE, Environment
from dodeka_db.sqlite.acting_rows import ActingRows
from dodeka_db.sqlite.compare import TableChanges
from dodeka_db.sqlite.erased_rows import Removed
from dodeka_db.sqlite.integrity import Findings

# what is typed to say yes, and to a clone that brings mails and sessions along
YES, YES_TO_ALL = "yes", "with mails and sessions"
_OF_A_CLONE = {QUARANTINED: ", quarantined", MASKED: ", with made-up people", WHOLE: ", whole"}
_GOES = {QUARANTINED: "", MASKED: ", WITH MADE-UP PEOPLE", WHOLE: ", WITH MAILS AND SESSIONS"}


@dataclass(frozen=True)
class Change:
    """A change that waits for a yes: how the live database differs from the new one, in `tables`.

    `now` and `then` are the rows of each table as far as they are known; None where SQLite cannot count them. `of_members` are
    the tables that hold what belongs to members, one of which, `members`, has a row for each member. `findings`: defects of
    the new database. `fixed`: defects that rebuilding its indexes repaired. `without` are the tables whose rows are left out;
    None where that is not possible. `clone` is None if this is none. `acting` are the rows on which the backend will act.
    `tables` is None, with a `problem`, if the two cannot be compared; `damaged` if the reason is that the live database is no
    whole database. `erased` are the members who were erased since, and stay out.
    """

    target: Environment
    origin: Origin
    findings: Findings
    fixed: str
    then: Mapping[str, int | None]
    of_members: frozenset[str]
    members: str
    without: Sequence[str] | None = None
    clone: Clone | None = None
    acting: Sequence[ActingRows] = ()
    now: Mapping[str, int | None] = field(default_factory=dict)
    tables: Sequence[TableChanges] | None = None
    problem: str = ""
    damaged: bool = False
    erased: Removed = field(default_factory=Removed)

    @property
    def shown(self) -> str:
        """The new data: "snapshot 9d31c5a8, without the rows of outbox"."""
        of = self.origin.whole_clone_of
        was = f", a whole clone of {of}" if of else ""
        of_a_clone = _OF_A_CLONE[self.clone.kind] if self.clone else ""
        without = f", without the rows of {', '.join(self.without)}" if self.without else ""
        return f"{self.origin.shown}{was}{of_a_clone}{without}"

    @property
    def whole_clone_of(self) -> str:
        """The environment whose mails and sessions the new database has; "" if it is no whole clone."""
        if not self.clone:
            return self.origin.whole_clone_of
        return self.origin.environment if self.clone.kind == WHOLE else ""

    @property
    def words(self) -> str:
        """The words that say yes to it."""
        return YES_TO_ALL if self.clone and self.clone.kind == WHOLE else YES


def describe(change: Change) -> list[str]:
    """The question in lines: the change, and which rows come back, go and change."""
    target, origin = change.target, change.origin
    lines = []
    if change.clone:
        goes = f"GOES TO {target.name.upper()}{_GOES[change.clone.kind]}"
        lines.append(f"{origin.environment.upper()}'S DATA {goes}.")
    lines.append(f"This goes {_back(origin.time)} ({origin.time.astimezone():%A %d %B %Y %H:%M}).")
    link = f", to which {target.database} links" if target.live != target.database else ""
    lines.append(f"It puts {change.shown}{',' * (',' in change.shown)} in the place of {target.live}{link}:")
    if change.tables is None:
        kept = "; the file is kept unchanged" if change.damaged and target.database.exists() else ""
        lines.append(f"  {change.problem}{kept}")
        known = sorted(change.of_members & change.then.keys())
        lines += [f"  {cell(table)}: {_rows_then(change.then[table])}" for table in known]
    else:
        lines += [f"  {line}" for line in _differences(change, change.tables)]
    lines += _left_out(change.clone) if change.clone else []
    lines += erasures.lines(change.erased)
    lines += _without_rows(change)
    lines += _acting(change)
    if change.fixed:
        lines.append(f"Its indexes were damaged, and are rebuilt: {change.fixed}")
    return lines + [f"Warning about the new database: {line}" for line in change.findings.lines()]


def _back(time: datetime) -> str:
    return "to a time in the future" if ago(time) == "in the future" else f"back {ago(time)}"


def _rows_then(count: int | None) -> str:
    return "SQLite cannot count its rows here" if count is None else f"{counted(count, 'row')} then"


def _differences(change: Change, tables: Sequence[TableChanges]) -> list[str]:
    """The tables that differ, and those of members in any case; then what is not compared, or special about it."""
    lines = ["no row differs from now"]
    if any(table.differs for table in tables):
        shown = [one for one in tables if one.differs or (one.table in change.of_members and not one.problem)]
        cells = [
            (one.table, *map(str, (one.new, one.gone, one.changed, one.same + one.changed + one.new)))
            for one in shown
        ]
        lines = columns([("table", "come back", "go", "change", "rows then"), *cells], "<>>>>")
        same = sum(not (one.differs or one.problem or one.notes) for one in tables if one not in shown)
        lines += [f"no difference in {counted(same, 'other table')}"] * bool(same)
    return lines + changes.remarks(tables)


def _left_out(clone: Clone) -> list[str]:
    """What a clone does without, and how to get more of it, or less."""
    pieces = [
        counted(count, clone.each[table])
        if table in clone.each
        else f"{counted(count, 'row')} of {cell(table)}"
        for table, count in sorted(clone.left_out.items(), key=lambda one: (one[0] not in clone.each, one[0]))
    ]
    lines = []
    if pieces:
        lines = wrapped(["Left out:", *(f"{piece}," for piece in pieces[:-1]), f"{pieces[-1]}."], COLUMNS)
    if clone.kind == QUARANTINED:
        lines.append("CLONE=masked makes up the people too; CLONE=whole leaves nothing out.")
    return lines


def _without_rows(change: Change) -> list[str]:
    """What nobody may overlook: that a table of members loses all its rows, or that there is nobody, then as now."""
    lines = []
    for table in sorted(change.of_members):
        is_there = table in change.then or table in change.now or table == change.members
        now = change.now.get(table)
        if is_there and change.then.get(table, 0) == 0 and (now != 0 or table == change.members):
            known = "how many it has now is not known" if now is None else f"it has {now or 'none'} now"
            lines.append(f"{cell(table)} HAS NO ROWS in {change.origin.shown}; {known}.")
    return lines


def _acting(change: Change) -> list[str]:
    """The rows on which the backend will act by itself: how many, what became of them since, and how to leave them out."""
    lines = []
    for rows in change.acting:
        lines.append(
            f"{cell(rows.table)} has {counted(rows.count, rows.action.each)} that the backend will {rows.action.will}."
        )
        condition = " and ".join(f"{field} {text}" for field, text in rows.action.condition.items())
        live = [
            f"{number} {what}"
            for number, what in (
                (rows.still, f"still with {condition}" if condition else "still there"),
                (rows.otherwise, f"no longer with {condition}"),
                (rows.missing, "not there"),
            )
            if number
        ]
        if live:
            lines.append(f"  Of these in the live database: {', '.join(live)}.")
    if lines and change.without is not None:
        names = dict.fromkeys([*change.without, *(rows.table for rows in change.acting)])
        lines.append(f"WITHOUT={','.join(names)} leaves such rows out.")
    return lines
