#!/bin/sh
# usage: pins.sh
# Resolves what .venv has anew: for Python 3.11 on and every machine, with hashes; what tests need fits what runs.
set -eu
cd "$(dirname "$0")/.."

compile() {
    .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command 'make pins' "$@"
}

compile requirements.in --output-file requirements.txt
compile tests/requirements.in --constraints requirements.txt --output-file tests/requirements.txt
