# What the bats files share: a site of their own in $SITE, the scripts by short names, and assertions.

bats_require_minimum_version 1.5.0

ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
# what is set for a real server must not reach a test
unset "${!RESTIC_@}" "${!DODEKA_@}" "${!OFFSITE_@}" TZ
unset ENV FROM SNAPSHOT YES OFFSITE NAME HTML CONFIG MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES

# Each test works on a fresh copy of the site that setup_suite.bash made once.
copy_site() {
    SITE=$BATS_TEST_TMPDIR/site
    cp -a "$BATS_SUITE_TMPDIR/site" "$SITE"
    sed -i "s|$BATS_SUITE_TMPDIR/site|$SITE|g" "$SITE/backup.env"
    export DODEKA_BACKUP_ENV=$SITE/backup.env
    export DB=$SITE/backend/envs/production/db.sqlite
}

make_key_cheap() { # REPOSITORY PASSWORD_FILE
    "$ROOT/.venv/bin/python" "$ROOT/tests/support/cheap_key.py" "$1" "$2"
}

script() { # NAME ARGUMENT... : run it, keeping $status, $output and $stderr apart
    run --separate-stderr "$ROOT/bin/dodeka-db-$1.py" "${@:2}"
}

# What was run has done well, and has nothing to complain of.
succeeds() {
    # shellcheck disable=SC2154  # run sets them
    echo "status $status, stdout: $output, stderr: $stderr"
    [ "$status" -eq 0 ]
    [ -z "$stderr" ]
}

# One line on standard error that holds both words, and nothing that looks like a traceback.
fails_with() { # STATUS TEXT [TEXT]
    # shellcheck disable=SC2154  # run sets them
    echo "status $status, stdout: $output, stderr: $stderr"
    [ "$status" -eq "$1" ]
    [ "${#stderr_lines[@]}" -eq 1 ]
    [[ $stderr == *"error: "*"$2"* ]]
    [[ $stderr == *"${3:-}"* ]]
    [[ $stderr != *Traceback* ]]
}

snapshot_count() {
    "$ROOT/bin/dodeka-db-snapshots.py" --json | grep -c '"id"' || true
}

state_of_everything() { # a checksum over databases and repository
    (cd "$SITE" && find backend restic -type f ! -path '*/locks/*' -exec sha256sum {} + | sort | sha256sum)
}
