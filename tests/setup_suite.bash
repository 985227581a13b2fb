# bats runs this once, before the first test of all files.

load helpers

setup_suite() { "$ROOT/.venv/bin/python" "$ROOT/tests/support/site_folder.py" "$BATS_SUITE_TMPDIR/site"; }
