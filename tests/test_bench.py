"""The benchmark measures what it says: the edits, the tables, the bounds, and what stays of earlier runs."""

import http.client
import json
import random
import re
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import bench
import bench_backup
import bench_changes
import bench_confirmed
import bench_growth
import bench_lists
import bench_page
import bench_results
import cheap_key
import distant_server
from bench_backup import BACKUP, CRON, Costs, Runs
from bench_bounds import too_much
from bench_changes import Comparison
from bench_confirmed import Confirmed
from bench_lists import Lists
from bench_restore import Downtime
from bench_results import Result
from dodeka_db.sqlite import sample_data
from site_folder import ROOT, Site


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
def test_a_small_one_from_end_to_end(tmp_path):
    found = bench_backup.measure(tmp_path, 50, replace(BACKUP, runs=3, watched=1))
    assert found.database_bytes == (tmp_path / "backend/envs/production/db.sqlite").stat().st_size
    for cost in found.costs.values():
        assert (len(cost.wall_s), len(cost.cpu_s), len(cost.growth), len(cost.waits_ms)) == (2, 2, 2, 1)
        assert min(*cost.wall_s, *cost.cpu_s, *cost.growth, cost.written, found.idle_ms) > 0
    documented, zst = found.costs["documented"], found.costs["zst"]
    assert documented.largest_memory_kb > 10_000 and 10_000 < zst.own_memory_kb < 80_000
    table = bench_page.table({"backup, 1.3 MB": today(found)}, "1.3 MB")
    assert [row[0] for row in table][:4] == ["", "wall time", "CPU time", "growth per snapshot"]


@pytest.mark.slow("a benchmark")
@pytest.mark.parametrize("delay_s", [None, 0.005], ids=["folder", "server"])
def test_cron_runs_are_measured_in_the_steady_state(tmp_path, delay_s):
    found = bench_backup.measure(tmp_path, 50, replace(CRON, runs=14), delay_s)
    repositories = tmp_path if delay_s is None else tmp_path / "server" / "served"
    for name, costs in found.costs.items():
        assert (len(costs.wall_s), len(costs.cpu_s)) == (2, 2)
        (key,) = (repositories / name / "keys").iterdir()
        assert json.loads(key.read_text()).items() >= cheap_key.USUAL.items()
        kept = len(list((repositories / name / "snapshots").iterdir()))
        assert kept in (10, 11), "one more if a new hour has begun"


def test_a_distant_server_answers_after_the_way_there_and_back(tmp_path):
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(bytes(100_000))

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        relay = distant_server.Distance(server.server_port)
        relay.delay_s = 0.05
        with closing(http.client.HTTPConnection("127.0.0.1", relay.port)) as client:
            times = []
            for _ in range(2):
                began = time.monotonic()
                client.request("GET", "/")
                assert len(client.getresponse().read()) == 100_000
                times.append(time.monotonic() - began)
        relay.close()
        server.shutdown()
    # the first request waits for TCP's handshake too; the size of the answer costs nothing
    assert 0.2 <= times[0] < 0.4 and 0.1 <= times[1] < 0.3


@pytest.mark.slow("a benchmark")
def test_a_restore_is_measured_from_the_yes(tmp_path):
    found = bench_confirmed.measure(tmp_path, 50)
    assert len(found.wall_s) == bench_confirmed.ROUNDS and min(found.wall_s) > 0.1


@pytest.mark.slow("a benchmark")
def test_lists_are_measured_with_the_usual_key_and_as_many_snapshots_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_lists, "ROUNDS", 1)
    found = bench_lists.measure(tmp_path, 12)
    assert [len(times) for times in vars(found).values()] == [1, 1, 1]
    (key,) = (tmp_path / "restic" / "keys").iterdir()
    assert json.loads(key.read_text()).items() >= cheap_key.USUAL.items()
    listed = Site(tmp_path).snapshots("demo")
    assert len(listed) == 6 and all(snapshot["rows"] for snapshot in listed)
    assert len(list((tmp_path / "restic" / "index").iterdir())) <= 3


def runs(**figures) -> Runs:
    """Of three rounds, in which ours cost what the documented pipeline did; but `figures` of zst."""
    costs = {
        name: Costs(wall_s=[2.0, 4.0, 6.0], cpu_s=[1.0] * 3, sizes=[0, 100, 200, 300], waits_ms=[1.0])
        for name in bench_page.PIPELINES
    }
    for name, value in figures.items():
        setattr(costs["zst"], name, value)
    return Runs(1_300_000, costs, 1.0)


def today(figures) -> Result:
    return Result("2026-12-01", "0.14.0", "3.11.2", 2, figures)


def test_a_ratio_is_the_median_of_the_ratios():
    # 3, 0.5 and 0.5 times as much: the ratio of the medians would be 0.75
    assert bench_results.ratio(runs(wall_s=[6.0, 2.0, 3.0]), "zst", lambda costs: costs.wall_s) == 0.5


def test_what_is_too_much_is_said():
    name = "backup, 1.3 MB"
    assert list(too_much(name, runs())) == []
    for figures, said in (
        ({"wall_s": [2.6, 5.2, 7.8]}, "zst, wall time 1.3, more than 1.25"),
        ({"sizes": [0, 120, 240, 360]}, "zst, growth 1.2, more than 1.15"),
        ({"own_memory_kb": 80_000}, "zst, memory in MB 81.92, more than 80"),
        ({"refused": 1}, "zst, refused writes 1, more than 0"),
    ):
        assert list(too_much(name, runs(**figures))) == [f"{name}: {said}"]


def test_a_cron_run_that_costs_too_much_is_said():
    assert list(too_much("cron run, 1.3 MB", runs(wall_s=[3.1, 6.2, 9.3], cpu_s=[1.6] * 3))) == []
    assert list(too_much("cron run, 1.3 MB", runs(wall_s=[3.3, 6.6, 9.9], cpu_s=[1.7] * 3))) == [
        "cron run, 1.3 MB: zst, wall time 1.65, more than 1.6",
        "cron run, 1.3 MB: zst, CPU time 1.7, more than 1.6",
    ]
    # with a large database the documented pipeline is the slower one
    assert list(too_much("cron run, 1 GB", runs(wall_s=[1.0, 2.0, 3.0]))) == [
        "cron run, 1 GB: pages, wall time 1, more than 0.8"
    ]
    assert list(too_much("distant cron run, 20 ms", runs(wall_s=[99.0] * 3))) == []


def test_a_restore_that_costs_too_much_is_said():
    def restored(ours_s: float, memory_kb: int) -> list[str]:
        return list(too_much("service down, 1.3 MB", Downtime([1.0], [ours_s], memory_kb)))

    assert restored(0.05, 146_000) == []
    assert restored(0.06, 1000) == ["service down, 1.3 MB: downtime in ms 60, more than 50"]
    assert restored(0.01, 147_000) == ["service down, 1.3 MB: memory in MB 150.5, more than 150"]


def test_a_status_that_takes_too_long_is_said():
    slow = Lists(status_s=[1.6, 1.6, 9.0], snapshots_s=[1.4, 1.4, 1.6], restic_s=[1.0, 1.0, 1.0])
    assert list(too_much("lists, 51 snapshots", slow)) == [
        "lists, 51 snapshots: make status, in starts of restic, 1.6, more than 1.5"
    ]
    assert list(too_much("lists, 1000 snapshots", slow)) == []


def test_make_changes_is_measured_on_a_database_that_has_changed(tmp_path):
    found = bench_changes.measure(tmp_path, 400)
    assert len(found.wall_s) == bench_changes.ROUNDS and min(found.wall_s) > 0
    assert 10_000 < found.own_memory_kb < 80_000
    path = tmp_path / "backend/envs/production/db.sqlite"
    assert found.database_bytes == path.stat().st_size
    assert len(rows(path, "users_by_email")) == 400 - 4 + 2


def test_a_make_changes_that_costs_too_much_is_said():
    def compared(wall_s: list[float], memory_kb: int) -> list[str]:
        return list(too_much("changes, 1.3 MB", Comparison(1, wall_s, memory_kb)))

    assert compared([1.0, 20.0, 99.0], 146_000) == []
    assert compared([1.0, 20.5, 99.0], 1000) == ["changes, 1.3 MB: wall time in s 20.5, more than 20"]
    assert compared([1.0], 147_000) == ["changes, 1.3 MB: memory in MB 150.5, more than 150"]


def test_the_page_has_the_median_of_each_measurement_and_its_ratio():
    found = {
        "backup, 1.3 MB": today(runs(own_memory_kb=30_000, wall_s=[3.0, 6.0, 9.0])),
        "cron run, 1.3 MB": today(runs(cpu_s=[1.1] * 3)),
        "service down, 1.3 MB": today(Downtime([1.0], [0.02], 40_000)),
        "restore, 1.3 MB": today(Confirmed(1_300_000, [0.5, 0.6, 30.0])),
        "changes, 1.3 MB": today(Comparison(1_300_000, [0.7, 0.8, 30.0], 30_000)),
        "distant cron run, 20 ms": today(runs(wall_s=[2.5, 5.0, 7.5])),
        "lists, 51 snapshots": today(Lists([1.2] * 3, [1.3] * 3, [1.0] * 3)),
    }
    lines = bench_page.page(found).splitlines()
    for line in (
        "| wall time | 4.00 s | 6.00 s (1.50) | 4.00 s (1.00) |",
        "| peak memory, our own process |  | 31 MB | 0 MB |",
        "| cron run, CPU time | 1.00 s | 1.10 s (1.10) | 1.00 s (1.00) |",
        "| service down in a restore | 1.00 s | 20 ms (1/50.0) |  |",
        "| restore, from the `yes` to its end |  | 0.60 s |  |",
        "| `make changes` |  | 0.80 s |  |",
        "| 20 ms away, wall time | 4.00 s | 5.00 s (1.25) | 4.00 s (1.00) |",
        "| 51 | 1.20 s (1.20) | 1.30 s (1.30) | 1.00 s |",
    ):
        assert line in lines


def test_how_the_times_grow_is_fitted():
    def of(database_bytes: int, wall_s: float) -> Result:
        return today(replace(runs(wall_s=[wall_s] * 3), database_bytes=database_bytes))

    found = {
        # 0.5 s, and 2 s for each 100 MB, but for 0.1 s more and less
        "cron run, 1.3 MB": of(0, 0.6),
        "cron run, 70 MB": of(100_000_000, 2.3),
        "cron run, 1 GB": of(200_000_000, 4.6),
        "distant cron run, 0 ms": of(1, 1.0),
        "distant cron run, 20 ms": of(1, 4.0),
        "lists, 51 snapshots": today(Lists([1.0], [2.0], [0.5])),
        "lists, 1051 snapshots": today(Lists([1.5], [2.0], [0.75])),
        "changes, 70 MB": today(Comparison(70_000_000, [2.0], 1)),
    }
    page = bench_page.page(found)
    growing = page[page.index("## How each grows") :].split("\n## ")[0].splitlines()
    assert "| cron run, zst | 2.00 s |  | 3.00 s |" in growing
    assert "| `make status` |  | 0.50 s |  |" in growing
    assert "| `restic snapshots` |  | 0.25 s |  |" in growing
    assert not any(line.startswith(("| backup", "| `make changes`")) for line in growing), (
        "one point is no line"
    )


def test_what_a_run_leaves_out_stays_with_its_day(tmp_path, monkeypatch, capsys):
    (tmp_path / "formats.md").write_text("before\n\n| database | |\n|---|---|\n| old | 1 |\n\nafter\n")
    old = replace(today(runs()), date="2026-08-01", restic="0.13.0", cores=8)
    restored = replace(today(Confirmed(1, [1.0])), date="2026-08-01")
    bench_results.store(
        {"backup, 1 GB": old, "restore, 1.3 MB": restored, "lists, 7 snapshots": today(Lists())},
        tmp_path / "bench.json",
    )
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    monkeypatch.setattr(bench_results, "of_today", today)
    monkeypatch.setattr(
        bench_backup,
        "measure",
        lambda folder, count, **_: runs(wall_s=[2.6, 5.2, 7.8]) if folder.is_dir() else None,
    )
    monkeypatch.setenv("BENCH_ONLY", "backup, ")
    assert bench.main() == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[:3] == [
        "measuring backup, 1.3 MB",
        "measuring backup, 70 MB",
        "# Beside the documented pipeline",
    ]
    assert "backup, 1.3 MB: zst, wall time 1.3, more than 1.25\n" in said.err and "1 GB" not in said.err
    page = (tmp_path / "bench.md").read_text()
    assert said.out.endswith(page + "\n")
    sections = {text.splitlines()[0]: text for text in page.split("\n## ")}
    assert "Measured on 2026-08-01, on 8 cores with restic 0.13.0 and Python 3.11.2." in sections["1 GB"]
    assert re.search(
        r"\nBackup: measured on 2026-12-01, .*;\srestore: measured on 2026-08-01, .*", sections["1.3 MB"]
    )
    assert "Measured on 2026-12-01, on 2 cores" in sections["70 MB"]
    svg = (tmp_path / "bench.svg").read_text()
    assert all(f"database of {label}" in svg for label in bench_results.MEMBERS)
    assert (tmp_path / "formats.md").read_text().count("| 1 GB | wall time |") == 1
    # what is measured no more goes
    assert list(bench_results.load(tmp_path / "bench.json")) == [
        *("backup, 1.3 MB", "restore, 1.3 MB", "backup, 70 MB", "backup, 1 GB")
    ]


def test_which_measurements_a_run_makes():
    names = list(bench.measurements())
    large = [name for name in names if "1 GB" in name]
    down = [name for name in names if "service down" in name]
    assert len(large) == 5 and len(down) == 3
    assert bench.chosen(names, "", large=True, root=True) == names
    assert set(names) - set(bench.chosen(names, "", large=False, root=True)) == set(large)
    assert set(names) - set(bench.chosen(names, "", large=True, root=False)) == set(down)
    assert bench.chosen(names, "cron run, 1.3", large=False, root=False) == ["cron run, 1.3 MB"]


def test_a_part_that_nothing_has_in_its_name_is_an_error(monkeypatch, capsys):
    monkeypatch.setenv("BENCH_ONLY", "cronrun")
    assert bench.main() == 2
    assert (
        "BENCH_ONLY is in none of these names: backup, 1.3 MB; cron run, 1.3 MB; " in capsys.readouterr().err
    )


def test_formats_md_gets_the_figures_and_nothing_else_of_it_changes():
    text = "before\n\n| database | |\n|---|---|\n| old | 1 |\n\nafter\n"
    found = {"backup, 1.3 MB": today(runs()), "changes, 70 MB": today(Comparison(1, [1.0], 1))}
    assert bench_page.with_figures(text, found).splitlines() == [
        *("before", ""),
        "| database |  | documented | `zst` | `pages` |",
        "|---|---|---|---|---|",
        "| 1.3 MB | wall time | 4.00 s | 4.00 s (1.00) | 4.00 s (1.00) |",
        "| 1.3 MB | growth per snapshot | 0 kB | 0 kB (1.00) | 0 kB (1.00) |",
        *("", "after"),
    ]


def test_the_figures_of_the_page_were_measured():
    made = bench_page.page(bench_results.load(ROOT / "docs" / "bench.json"))
    written = (ROOT / "docs" / "bench.md").read_text()
    for text in (made, written):
        assert "\n| wall time |" in text
    assert [line for line in written.splitlines() if line[:1] == "|"] == [
        line for line in made.splitlines() if line[:1] == "|"
    ]


@pytest.mark.slow("a benchmark")
def test_a_day_and_a_half_year_are_measured(tmp_path):
    (tmp_path / "day").mkdir()
    day = bench_growth.measure_day(tmp_path / "day", 400, runs=3)
    assert day.runs == 3 and list(day.taken) == list(bench_growth.NAMES)
    assert 0 < day.taken["patch"] < day.taken["zst"] / 2
    (tmp_path / "year").mkdir()
    year = bench_growth.measure_half_year(tmp_path / "year", 50, runs_a_day=1, days=4)
    assert year.runs == 28
    found = {"a day of runs, 1.3 MB": today(day), "half a year, 1.3 MB": today(year)}
    assert "| half a year, 1.3 MB | 28 |" in bench_page.page(found)


def test_the_growth_is_shown_beside_the_documented_pipeline():
    growth = bench_growth.Growth(
        1_000_000, 120, {"documented": 1000, "zst": 900, "pages": 1200, "patch": 100}
    )
    rows = bench_page.page({"a day of runs, 70 MB": today(growth)})
    assert "| a day of runs, 70 MB | 120 | 1.0 kB | 900 B (0.90) | 1.2 kB (1.20) | 100 B (1/10.0) |" in rows
