#!/bin/sh
# usage: install-venv.sh PYTHON
# Makes .venv with PYTHON, and installs what requirements.txt pins; silent and quick if that is done already. A .venv that
# was made by another version of Python, or is half made, is made again. Compiles the scripts' modules: the user of the backups
# may not write here, and each run would compile them again.
# In sh, because it runs before there is a Python to rely on.
set -eu
cd "$(dirname "$0")/.."

python=$1
version='import sys; print(*sys.version_info[:2])'

works() { [ "$(.venv/bin/python -c "import sh, zstandard; $version" 2>/dev/null)" = "$("$python" -c "$version")" ]; }

compile() { .venv/bin/python -m compileall -qq bin/dodeka_db || :; }

! works || [ ! .venv/.runtime -nt requirements.txt ] || {
    compile
    exit 0
}

bin/install-packages.sh "$python" python3-venv
works || "$python" -m venv --clear --without-pip .venv
mkdir -p .venv/tmp
trap 'rm -rf .venv/tmp' EXIT
export TMPDIR="$PWD/.venv/tmp" # /tmp may be in memory, and full
.venv/bin/python -m ensurepip >/dev/null
# nothing is built from source: what a build fetches has no hash
.venv/bin/python -m pip install --quiet --only-binary :all: --require-hashes -r requirements.txt 2>.venv/tmp/said || {
    lacking=$(sed -n 's/^ERROR: No matching distribution found for \([^ ]*\).*/\1/p' .venv/tmp/said)
    if [ -n "$lacking" ] && ! grep -qi 'connection\|retrying\|ssl' .venv/tmp/said; then
        echo "install-venv.sh: error: there is no wheel of $lacking for $("$python" -V) on $(uname -m), and this" \
            "script builds none; name another Python: make setup PYTHON=python3.12" >&2
    else
        cat .venv/tmp/said >&2
        echo "install-venv.sh: error: pip failed, its messages are above; fix that, then: make setup" >&2
    fi
    exit 6
}
compile
touch .venv/.runtime
