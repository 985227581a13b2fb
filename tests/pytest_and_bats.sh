#!/bin/sh
# usage: pytest_and_bats.sh [OPTION OF PYTEST...]
# The tests of pytest, and meanwhile those of bats, which are shown behind them.
set -u
cd "$(dirname "$0")/.." || exit

shown=$(mktemp)
trap 'rm -f "$shown"' EXIT
bats tests >"$shown" 2>&1 &
failed=0
.venv/bin/python -m pytest --numprocesses 7 --dist worksteal "$@" || failed=1
wait $! || failed=1
cat "$shown"
exit $failed
