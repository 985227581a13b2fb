#!/bin/sh
# usage: lint.sh [--fix]
# Every check of the sources: format, lint and types of Python, format and lint of the shell.
set -eu
cd "$(dirname "$0")/.."

bin=.venv/bin
python=$(git ls-files 'bin/*.py' 'tests/*.py')
# the links in deploy/ lead to Python
shell=$(git ls-files 'bin/*.sh' 'deploy/*.bash' 'tests/*.sh' 'tests/*.bash' .ci/run)
bats=$(git ls-files 'tests/*.bats')

# shellcheck disable=SC2086  # names of files, as words
case ${1-} in
    --fix)
        $bin/ruff format --quiet $python
        $bin/ruff check --fix --quiet $python || :
        $bin/shfmt --write --indent 4 --case-indent $shell $bats
        ;;
    *)
        $bin/ruff format --check $python
        $bin/ruff check $python
        $bin/mypy bin
        $bin/shfmt --diff --indent 4 --case-indent $shell $bats
        $bin/shellcheck $shell $bats
        ;;
esac
