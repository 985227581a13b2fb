"""How long a server is waited for, by a clock of the test's own."""

import pytest

from dodeka_db import settings
from dodeka_db.errors import UnreachableError
from dodeka_db.restic import server_watch
from dodeka_db.restic.server_watch import GIVE_UP_S, LOOK_S, ServerWatch
from site_folder import Site

ADDRESS = "rest:http://127.0.0.1:9/"
RETRYING = (
    f"Load(<data/5f38800ed2>, 0, 0) returned error, retrying after 1s: Get {ADDRESS}: connection refused"
)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    time_s = [1000.0]
    monkeypatch.setattr(server_watch.time, "monotonic", lambda: time_s[0])
    return time_s


@pytest.fixture
def watch(site: Site, clock) -> ServerWatch:
    repository = settings.load({**site.environ, "RESTIC_REPOSITORY": ADDRESS}).main
    return ServerWatch(repository, None, GIVE_UP_S, LOOK_S)


def test_one_that_gives_nothing_is_not_waited_for_as_long_as_one_that_stops_giving(watch, clock):
    watch([], 20_000)  # restic's own files
    watch([], 20_500)
    clock[0] += LOOK_S - 1
    watch([], 21_000)
    clock[0] += 2
    with pytest.raises(UnreachableError, match=f"no data for {LOOK_S} s"):
        watch([], 21_000)
    watch([], 5_000_000)
    clock[0] += GIVE_UP_S - 1
    watch([], 5_000_000)
    clock[0] += 2
    with pytest.raises(UnreachableError, match=f"no data for {GIVE_UP_S} s"):
        watch([], 5_000_000)


@pytest.mark.parametrize(("read_bytes", "patience_s"), [(500, LOOK_S), (5_000_000, GIVE_UP_S)])
def test_the_warning_says_how_long_it_goes_on_trying(watch, caplog, read_bytes, patience_s):
    watch([RETRYING], read_bytes)
    assert f"retrying for up to {patience_s} s" in caplog.text
