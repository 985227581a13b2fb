"""Remove all rows of some tables of a database, and what is left of them in its pages."""

from collections.abc import Sequence
from pathlib import Path

from dodeka_db.errors import SnapshotError
from dodeka_db.sqlite.connection import opened, quoted
from dodeka_db.sqlite.failures import one_line
from dodeka_db.sqlite.header import set_journal_mode


def empty_tables(path: Path, shown: str, tables: Sequence[str]) -> None:
    """Remove all rows of `tables` of the database in the file `path`, which is whole, and which nobody else uses.

    `shown` is its name in messages. The pages of the rows are overwritten with zeros. The schema, the page size and every
    other table stay as they are. The database is in WAL mode afterwards, which needs no rollback (see opened()), and has no
    journal. Raises SnapshotError if a table has a trigger: it could change other tables. Raises BackupError if the rows
    cannot be removed.
    """
    set_journal_mode(path, wal=True)
    with opened(path, "mode=rw", shown) as connection:
        # all of the schema must be understood: an index that is not known would keep its entries
        # (https://www.sqlite.org/pragma.html#pragma_writable_schema)
        connection.execute("PRAGMA writable_schema=RESET")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("BEGIN")
        for table in tables:
            trigger = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE",
                (table,),
            ).fetchone()
            if trigger:
                raise SnapshotError(
                    f"table {table} of {shown} has the trigger {one_line(trigger[0])}, which could change other tables",
                    f"nothing was changed; do without WITHOUT={table}",
                )
            # without WHERE and triggers, SQLite clears the table's pages, and does not look into any index
            connection.execute(f"DELETE FROM main.{quoted(table)}")
        connection.execute("COMMIT")
