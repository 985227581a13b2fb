#!/bin/sh
# usage: install-venv.sh PYTHON
# Makes .venv with PYTHON, and installs what requirements.txt pins; silent and quick when that is done. A .venv that was
# made by another version of Python, or is half made, is made anew.
# In sh, for it runs before there is a Python to rely on.
set -eu
cd "$(dirname "$0")/.."

python=$1
version='import sys; print(*sys.version_info[:2])'

works() { [ "$(.venv/bin/python -c "import sh, zstandard; $version" 2>/dev/null)" = "$("$python" -c "$version")" ]; }

! works || [ ! .venv/.runtime -nt requirements.txt ] || exit 0

bin/install-packages.sh "$python" python3-venv
works || "$python" -m venv --clear --without-pip .venv
mkdir -p .venv/tmp
trap 'rm -rf .venv/tmp' EXIT
export TMPDIR="$PWD/.venv/tmp" # /tmp may be in memory, and full
.venv/bin/python -m ensurepip >/dev/null
.venv/bin/python -m pip install --quiet --require-hashes -r requirements.txt || {
    echo "install-venv.sh: error: pip failed, its words are above; fix that, then: make setup" >&2
    exit 6
}
touch .venv/.runtime
