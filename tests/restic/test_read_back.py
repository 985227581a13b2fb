"""A new snapshot is read back without a lock; a prune on another machine makes that fail, but not the run."""

import pytest

from site_folder import run_first


@pytest.mark.parametrize(
    "said",
    [
        "tree 12345678 not found in the repository",
        "load <index/12345678>: open index/12345678: no such file or directory",
    ],
)
def test_what_a_prune_elsewhere_moves_is_read_again_under_a_lock(site, tmp_path, said):
    """A fake that fails without a lock, as restic does when another machine's prune removes a file that it is about to read."""
    restic = tmp_path / "restic"
    run_first(restic, f'case "$*" in *dump*--no-lock*) echo "Fatal: {said}" >&2; exit 1 ;; esac')
    assert "reading it back" in site.ok("backup", "production", RESTIC=str(restic))
    run_first(restic, f'case "$*" in *dump*) echo "Fatal: {said}" >&2; exit 1 ;; esac')
    assert site.run("backup", "production", RESTIC=str(restic)).returncode == 8
