"""Write the database of an origin to a file, and prove that it is whole; rebuild its indexes if they have defects."""

from dataclasses import dataclass, replace
from pathlib import Path

from dodeka_db.errors import BackupError, SnapshotError
from dodeka_db.flows import erasures
from dodeka_db.flows.download import Incoming
from dodeka_db.flows.restore_origin import Origin
from dodeka_db.host import disks
from dodeka_db.log import log
from dodeka_db.sqlite import integrity
from dodeka_db.sqlite.erased_rows import Removed
from dodeka_db.sqlite.failures import NotWholeError
from dodeka_db.sqlite.integrity import Findings


@dataclass(frozen=True)
class Proven:
    """A database that can be read through: its defects now, and those that rebuilding its indexes repaired, in words.

    `erased`: the members who were erased since, and whose rows were removed.
    """

    findings: Findings
    fixed: str
    erased: Removed


def write(origin: Origin, incoming: Incoming, path: Path, shown: str, remedy: str) -> Proven:
    """Write the data of `origin` by `incoming` to the file at `path`, called `shown` in messages, and check it. Then remove the rows
    of members who were erased since.

    `remedy` is the hint if there is no room for rebuilding the indexes. Raises SnapshotError if the database cannot be read
    through, or BackupError.
    """
    try:
        origin.write(incoming)
    except OSError as error:
        raise BackupError(f"{error.filename or path}: {error.strerror}", "nothing was changed") from error
    log.info("checking")
    found = findings = _verify(path, shown)
    if found.defects:
        log.info("rebuilding its indexes")
        try:
            disks.check_room_beside(path, remedy)  # for a journal with every page
            integrity.reindex(path, shown)
        except BackupError as error:  # if the database is not whole, the next check says so
            log.warning("the indexes could not be rebuilt: %s", error.message)
        findings = _verify(path, shown)
    repaired = tuple(line for line in found.defects if line not in findings.defects)
    erased = erasures.apply(origin.erasures, path, shown)
    proven = Proven(findings, replace(found, defects=repaired).defects_shown, erased)
    return again(proven, path, shown) if erased.rows else proven


def again(proven: Proven, path: Path, shown: str) -> Proven:
    """`proven` after the database was changed, or written anew, at `path`. Raises SnapshotError if it is no longer whole."""
    return replace(proven, findings=_verify(path, shown))


def _verify(path: Path, shown: str) -> Findings:
    try:
        return integrity.verify(path, shown)
    except NotWholeError as error:
        raise SnapshotError(error.message, "choose another snapshot; nothing was changed") from error
