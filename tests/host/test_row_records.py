"""row_records: what is written is read, what is not one of ours is not there, and nothing of it is a failure."""

import json
import logging
from pathlib import Path

import pytest

from dodeka_db.host import row_records
from dodeka_db.host.row_records import Record

ID = "3f9c2a71" + "0" * 56
RECORD = Record(122_000, {"users": 2401, "search": None})


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "dodeka_db")
    return lambda: caplog.messages


def file(state: Path, snapshot_id: str = ID) -> Path:
    return state / "rows" / f"{snapshot_id[:8]}.json"


def test_a_record_is_found_by_the_id_at_any_length(tmp_path, warnings):
    row_records.write(tmp_path, ID[:8], RECORD)  # restic 0.14 tells no more of a new snapshot's ID
    assert row_records.read(tmp_path, ID) == RECORD
    assert row_records.read(tmp_path, "f" * 64) is None
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["3f9c2a71.json"]
    assert (tmp_path / "rows").stat().st_mode & 0o777 == 0o700
    assert warnings() == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "\udcff", '"rows"', "[" * 100_000),
        *({}, {"rows": {}}, {"stored_bytes": 1}, {"stored_bytes": 1, "rows": []}),
        *({"stored_bytes": count, "rows": {}} for count in (-1, 1.0, True, "1", None, 2**63, [])),
        *({"stored_bytes": 1, "rows": {"users": count}} for count in (-1, 1.0, False, "2401", {}, 10**4000)),
    ],
    ids=lambda content: str(content)[:40] or "empty",
)
def test_what_is_not_a_record_is_not_there(tmp_path, content):
    row_records.write(tmp_path, ID, RECORD)
    text = content if isinstance(content, str) else json.dumps(content)
    file(tmp_path).write_bytes(text.encode(errors="surrogateescape"))
    assert row_records.read(tmp_path, ID) is None
    row_records.write(tmp_path, ID, RECORD)
    assert row_records.read(tmp_path, ID) == RECORD, "and the next one takes its place"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_file_of_another_kind_is_not_there(tmp_path, kind):
    row_records.write(tmp_path / "elsewhere", ID, RECORD)
    file(tmp_path).parent.mkdir()
    if kind == "link":
        file(tmp_path).symlink_to(file(tmp_path / "elsewhere"))
    else:
        file(tmp_path).mkdir()
    assert row_records.read(tmp_path, ID) is None


def test_a_folder_that_is_none_is_a_warning(tmp_path, warnings):
    (tmp_path / "rows").touch()
    row_records.write(tmp_path, ID, RECORD)
    assert row_records.read(tmp_path, ID) is None
    row_records.carry_over(tmp_path / "elsewhere", tmp_path, [ID])
    row_records.keep_only(tmp_path, [])
    assert warnings() == [
        f"{file(tmp_path)} cannot be written: File exists",
        f"old records in {tmp_path / 'rows'} cannot be removed: Not a directory",
    ]
    row_records.keep_only(tmp_path / "elsewhere", [])  # where nothing was ever recorded
    assert len(warnings()) == 2


def test_only_our_records_of_other_snapshots_are_removed(tmp_path, warnings):
    other = "ab" * 32
    for snapshot_id in (ID, other):
        row_records.write(tmp_path, snapshot_id, RECORD)
    file(tmp_path, other).with_suffix(".4711").touch()  # of a run that was killed
    (tmp_path / "rows" / "notes.txt").touch()
    row_records.keep_only(tmp_path, [ID])
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["3f9c2a71.json", "notes.txt"]
    assert warnings() == []


def test_behind_a_link_nothing_is_removed(tmp_path, warnings):
    row_records.write(tmp_path / "elsewhere", ID, RECORD)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "rows").symlink_to(tmp_path / "elsewhere" / "rows")
    row_records.keep_only(tmp_path / "state", [])
    assert row_records.read(tmp_path / "elsewhere", ID) == RECORD
    assert len(warnings()) == 1


def test_what_is_there_is_not_carried_over_again(tmp_path):
    main, offsite = tmp_path, tmp_path / "offsite"
    other = "ab" * 32
    row_records.write(main, ID, RECORD)
    row_records.write(main, other, RECORD)
    row_records.write(offsite, other, counted_there := Record(1, {}))
    row_records.carry_over(main, offsite, [ID, other, "cd" * 32])
    assert row_records.read(offsite, ID) == RECORD
    assert row_records.read(offsite, other) == counted_there
    assert len(list((offsite / "rows").iterdir())) == 2
