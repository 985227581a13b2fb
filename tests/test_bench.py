"""The benchmark measures what it says: the edits, the table and the bounds."""

import random
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

import bench
import bench_backup
import bench_changes
from bench_backup import Costs
from bench_changes import Comparison
from bench_restore import Downtime
from dodeka_db.sqlite import sample_data


def rows(path, table: str) -> dict[str, bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute(f"SELECT key, value FROM {table}"))


def test_the_use_between_two_snapshots_is_what_the_page_says(tmp_path):
    path = tmp_path / "db.sqlite"
    sample_data.create(path, members=100)
    rng = random.Random(1)
    for number in (0, 1):
        before = {table: rows(path, table) for table in sample_data.TABLES}
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            bench_backup.use(connection, rng, number)
        after = {table: rows(path, table) for table in sample_data.TABLES}
        new = {table: len(after[table].keys() - before[table].keys()) for table in sample_data.TABLES}
        gone = {table: len(before[table].keys() - after[table].keys()) for table in sample_data.TABLES}
        changed = sum(
            before[table][key] != after[table][key]
            for table in sample_data.TABLES
            for key in before[table].keys() & after[table].keys()
        )
        member = {"users": 6 * number} | dict.fromkeys(
            ("users_by_email", "users_by_bondsnummer", "sync", "volta_data", "birthdays"), number
        )
        assert changed == 3 + number, "a new member counts in metadata"
        assert {table: n for table, n in gone.items() if n} == {"session_cache": 3}
        assert {table: n for table, n in new.items() if n} == {
            table: n for table, n in {"session_cache": 3, "outbox": 3, **member}.items() if n
        }


@pytest.mark.slow("a benchmark")
def test_a_small_one_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_backup, "SNAPSHOTS", 3)
    monkeypatch.setattr(bench_backup, "WITH_WRITER", 1)
    size, costs, idle_ms = bench_backup.measure(tmp_path, 50)
    assert size == (tmp_path / "backend/envs/production/db.sqlite").stat().st_size
    for cost in costs.values():
        assert (len(cost.wall_s), len(cost.cpu_s), len(cost.growth), len(cost.waits_ms)) == (2, 2, 2, 1)
        assert min(*cost.wall_s, *cost.cpu_s, *cost.growth, cost.written) > 0
    assert costs["documented"].largest_memory_kb > 10_000 and 10_000 < costs["zst"].own_memory_kb < 80_000
    table = bench.table(bench.Result("1.3 MB", size, costs, idle_ms, None, Comparison(size)))
    assert [line.split(" | ")[0] for line in table.splitlines()[4:]][:4] == [
        "| ",
        "|---|---|---|---|",
        "| wall time",
        "| CPU time",
    ]


def result(**figures) -> bench.Result:
    costs = {
        name: Costs(wall_s=[2.0, 4.0, 6.0], cpu_s=[1.0] * 3, sizes=[0, 100, 200, 300], waits_ms=[1.0])
        for name in bench.PIPELINES
    }
    for name, value in figures.items():
        setattr(costs["zst"], name, value)
    return bench.Result(
        "1.3 MB", 1_300_000, costs, 1.0, None, Comparison(1_300_000, [0.5, 0.6, 30.0], 30_000)
    )


def test_a_ratio_is_the_median_of_the_ratios():
    # 3, 0.5 and 0.5 times as much: the ratio of the medians would be 0.75
    assert bench.ratio(result(wall_s=[6.0, 2.0, 3.0]), "zst", lambda costs: costs.wall_s) == 0.5


def test_what_is_too_much_is_said():
    assert list(bench.too_much(result())) == []
    for figures, said in (
        ({"wall_s": [2.6, 5.2, 7.8]}, "1.3 MB, zst: wall time 1.300, more than 1.250"),
        ({"sizes": [0, 120, 240, 360]}, "1.3 MB, zst: growth 1.200, more than 1.150"),
        ({"own_memory_kb": 80_000}, "1.3 MB, zst: memory in MB 81.920, more than 80.000"),
        ({"refused": 1}, "1.3 MB, zst: refused writes 1.000, more than 0.000"),
    ):
        assert list(bench.too_much(result(**figures))) == [said]


def test_a_restore_that_costs_too_much_is_said():
    def restored(ours_s: float, memory_kb: int) -> list[str]:
        downtime = Downtime(documented_s=[1.0], ours_s=[ours_s], own_memory_kb=memory_kb)
        return list(bench.too_much(replace(result(), downtime=downtime)))

    assert restored(0.05, 146_000) == []
    assert restored(0.06, 1000) == ["1.3 MB: 60 ms down, more than 50"]
    assert restored(0.01, 147_000) == ["1.3 MB: 151 MB for a restore, more than 150"]


def test_make_changes_is_measured_on_a_database_that_has_changed(tmp_path):
    found = bench_changes.measure(tmp_path, 400)
    assert len(found.wall_s) == bench_changes.ROUNDS and min(found.wall_s) > 0
    assert 10_000 < found.own_memory_kb < 80_000
    path = tmp_path / "backend/envs/production/db.sqlite"
    assert found.database_bytes == path.stat().st_size
    assert len(rows(path, "users_by_email")) == 400 - 4 + 2


def test_a_make_changes_that_costs_too_much_is_said():
    def compared(wall_s: list[float], memory_kb: int) -> list[str]:
        return list(bench.too_much(replace(result(), comparison=Comparison(1, wall_s, memory_kb))))

    assert compared([1.0, 20.0, 99.0], 146_000) == []
    assert compared([1.0, 20.5, 99.0], 1000) == ["1.3 MB: 20.5 s for make changes, more than 20"]
    assert compared([1.0], 147_000) == ["1.3 MB: 151 MB for make changes, more than 150"]
    assert bench.comparisons({"1.3 MB": result().comparison})[2] == "| 1.3 MB | 1.3 MB | 0.60 s | 31 MB |"


def test_backup_md_gets_the_figures_and_nothing_else_of_it_changes():
    text = "before\n\n| database | |\n|---|---|\n| old | 1 |\n\nafter\n"
    assert bench.with_figures(text, [result()]).splitlines() == [
        *("before", ""),
        "| database | | documented | `zst` | `pages` |",
        "|---|---|---|---|---|",
        "| 1.3 MB | wall time | 4.00 s | 4.00 s (1.00) | 4.00 s (1.00) |",
        "| 1.3 MB | growth per snapshot | 0 kB | 0 kB (1.00) | 0 kB (1.00) |",
        *("", "after"),
    ]
