#!/bin/sh
# usage: pytest_and_bats.sh [OPTION OF PYTEST...]
# The tests of pytest, and meanwhile those of bats, which are shown behind them if one failed.
set -u
cd "$(dirname "$0")/.." || exit

shown=$(mktemp)
trap 'rm -f "$shown"' EXIT
bats tests >"$shown" 2>&1 &
failed=0
.venv/bin/python -m pytest --numprocesses 7 --dist worksteal "$@" || failed=1
if wait $!; then
    echo "bats: $(grep -c '^ok' "$shown") passed"
else
    cat "$shown"
    failed=1
fi
exit $failed
