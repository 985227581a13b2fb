#!/usr/bin/env bats
# Every error of docs/errors.md: one line, the documented exit code, nothing lost.

load helpers

setup() { copy_site; }

restic_is() { # a version: a fake, for no older or broken restic can be had from a package
    printf '#!/bin/sh\necho "%s"\n' "$1" >"$SITE/restic-fake"
    chmod +x "$SITE/restic-fake"
    export RESTIC=$SITE/restic-fake
}

@test "unknown environment" {
    for name in backup cron snapshots retention accept changes open bring-back restore undo verify erased; do
        script $name staging
        fails_with 2 "unknown environment 'staging': choose production or demo"
    done
    script restore demo --from staging
    fails_with 2 "unknown environment 'staging'"
}

@test "usage errors" {
    script backup
    fails_with 2 "required: environment"
    script backup demo extra
    fails_with 2 "unrecognized arguments"
    script cron demo --verbose
    fails_with 2 "unrecognized arguments"
    script undo
    fails_with 2 "required: environment"
    script restore demo --snapshot
    fails_with 2 "expected one argument"
    script verify
    fails_with 2 "required: environment"
    script check all
    fails_with 2 "unrecognized arguments"
    script status --json --prometheus
    fails_with 2 "not allowed with"
}

@test "database missing: it stays missing" {
    rm "$DB"*
    script backup production
    fails_with 3 "database $DB is missing"
    [ ! -e "$DB" ]
    [ "$(snapshot_count)" -eq 0 ]
}

@test "database empty" {
    rm "$DB"*
    touch "$DB"
    script cron production
    fails_with 3 "database $DB is empty"
    [ ! -s "$DB" ]
    [ "$(snapshot_count)" -eq 0 ]
}

@test "database without a table" {
    rm "$DB"*
    sqlite3 "$DB" 'PRAGMA user_version=1'
    script backup production
    fails_with 3 "database $DB contains no tables"
    [ "$(snapshot_count)" -eq 0 ]
}

@test "not a database" {
    rm "$DB"*
    head -c 10000 /dev/urandom >"$DB"
    script backup production
    fails_with 3 "database $DB is not an SQLite database"
    [ "$(snapshot_count)" -eq 0 ]
}

@test "database corrupt" {
    sqlite3 "$DB" 'PRAGMA journal_mode=DELETE' >/dev/null
    dd if=/dev/urandom of="$DB" bs=4096 seek=5 count=40 conv=notrunc status=none
    script backup production
    fails_with 3 "database $DB is damaged"
    [ "$(snapshot_count)" -eq 0 ]
}

@test "restic missing" {
    RESTIC=$SITE/none script backup production
    fails_with 6 "$SITE/none is not installed"
}

@test "restic too old (a fake)" {
    restic_is "restic 0.12.1 compiled with go1.16.6 on linux/amd64"
    script backup production
    fails_with 6 "is restic 0.12, which is too old" "0.14"
}

@test "something else called restic (a fake)" {
    restic_is "hello"
    script backup production
    fails_with 6 "prints no version"
}

@test "repository missing: none is made" {
    mv "$SITE/restic" "$SITE/unmounted"
    for name in backup cron restore undo; do
        script $name production
        fails_with 10 "no restic repository at $SITE/restic" "mounted?"
    done
    script snapshots
    fails_with 10 "no restic repository at $SITE/restic"
    [ ! -e "$SITE/restic" ]
}

@test "wrong password" {
    echo wrong >"$SITE/password"
    script backup production
    fails_with 12 "the password in $SITE/password does not open repository $SITE/restic"
    [[ $stderr != *wrong\ * ]]
}

@test "password file missing" {
    rm "$SITE/password"
    script backup production
    fails_with 6 "password file $SITE/password is missing"
}

@test "password file readable by others" {
    for mode in 640 604 660 644; do
        chmod $mode "$SITE/password"
        script backup production
        fails_with 6 "password file $SITE/password can be read by others" "chmod 600 $SITE/password"
    done
}

@test "password file empty" {
    : >"$SITE/password"
    script backup production
    fails_with 6 "password file $SITE/password is empty"
}

@test "repository locked while retention wants it alone: the snapshot is safe, and it is said" {
    . "$SITE/backup.env"
    export RESTIC_REPOSITORY RESTIC_PASSWORD_FILE
    # a backup from a slow pipe holds its lock until the pipe ends
    mkfifo "$SITE/slow"
    "$RESTIC" backup --quiet --stdin <"$SITE/slow" 3>&- &
    exec 7>"$SITE/slow"
    until [ -n "$(ls "$SITE/restic/locks")" ]; do sleep 0.05; done
    script cron production
    echo content >&7
    exec 7>&-
    wait
    fails_with 11 "is safe, but the retention failed: repository $SITE/restic is locked by PID"
    [[ $output == *"snapshot "*" is stored; applying the retention policy"* ]]
    [ "$(snapshot_count)" -eq 1 ]
}

@test "repository locked exclusively" {
    . "$SITE/backup.env"
    export RESTIC_REPOSITORY RESTIC_PASSWORD_FILE
    script backup production # something to read, at 1 kB a second
    "$RESTIC" check --read-data --limit-download=1 >"$SITE/said" 2>&1 3>&- &
    check=$!
    until grep -x 'load indexes' "$SITE/said"; do
        kill -0 $check
        sleep 0.05
    done # then it has its lock
    script backup production
    kill -KILL $check
    wait $check || true
    fails_with 11 "repository $SITE/restic is locked by PID"
}

@test "what an init that was cut off has left" {
    rm "$SITE/restic/config"
    script init
    fails_with 6 "repository $SITE/restic has keys, but its file config is missing: an init was interrupted, or the file was lost"
    [ "$(find "$SITE/restic/keys" -type f | wc -l)" -eq 1 ]
}

@test "malformed, unknown and ambiguous snapshot IDs" {
    "$ROOT/bin/dodeka-db-backup.py" production
    before=$(state_of_everything)
    for id in -1 --help --password-command=touch\ "$SITE/executed" "x y" "" abc ../etc; do
        script restore production --snapshot="$id" --yes
        fails_with 4 "is neither a snapshot ID"
    done
    [ ! -e "$SITE/executed" ]
    script restore production --snapshot 0000ffff --yes
    fails_with 4 "there is no snapshot 0000ffff of production" "make snapshots"
    [ "$(state_of_everything)" = "$before" ]
}

@test "a snapshot of another environment" {
    "$ROOT/bin/dodeka-db-backup.py" demo
    id=$("$ROOT/bin/dodeka-db-snapshots.py" demo | sed -n 2p | cut -d' ' -f1)
    before=$(state_of_everything)
    script restore production --snapshot "$id" --yes
    fails_with 4 "snapshot $id is of demo, not of production" "use ENV=demo, or in a restore FROM=demo"
    [ "$(state_of_everything)" = "$before" ]
}

@test "no snapshot yet" {
    script restore production --snapshot latest --yes
    fails_with 4 "there is no snapshot of production yet" "make backup ENV=production"
}

@test "a settings file that cannot be read" {
    DODEKA_BACKUP_ENV=$SITE/none.env script backup production
    fails_with 6 "settings file $SITE/none.env cannot be read"
    (
        umask 077
        echo 'RESTIC_PASSWORD=hush hush' >"$SITE/bad.env"
    )
    DODEKA_BACKUP_ENV=$SITE/bad.env script backup production
    fails_with 6 "settings file $SITE/bad.env, line 1"
    [[ $stderr != *hush* ]]
}

@test "a state folder that cannot be made" {
    touch "$SITE/file"
    sed -i "s|^DODEKA_STATE=.*|DODEKA_STATE=$SITE/file/state|" "$SITE/backup.env"
    script backup production
    fails_with 6 "folder $SITE/file/state cannot be made"
}

@test "another run on this machine" {
    mkdir -p "$SITE/state"
    exec 8>"$SITE/state/lock"
    echo "restore of demo, process 1" >&8
    flock 8
    script backup production
    exec 8>&-
    fails_with 75 "another run holds $SITE/state/lock (restore of demo, process 1)"
}

@test "systemctl missing" {
    "$ROOT/bin/dodeka-db-backup.py" production
    before=$(state_of_everything)
    DODEKA_SYSTEMCTL=$SITE/systemctl script restore production --snapshot latest --yes
    fails_with 6 "$SITE/systemctl is not installed"
    [ "$(state_of_everything)" = "$before" ]
}

@test "no virtual environment" {
    mkdir "$SITE/clone"
    cp -a "$ROOT/bin" "$ROOT/deploy" "$SITE/clone"
    run --separate-stderr "$SITE/clone/deploy/dodeka-db-backup.sh" production
    fails_with 6 "$SITE/clone/.venv is missing; run: make -C $SITE/clone setup"
    [[ $stderr =~ ^[0-9]{4}-[0-9-]+T[0-9:+-]+\ production\ dodeka-db-backup.sh:\ error: ]]
}

@test "a failure leaves nothing in the staging area" {
    mv "$SITE/restic" "$SITE/unmounted"
    script backup production
    [ "$status" -eq 10 ]
    [ -z "$(ls "$SITE/state/staging")" ]
}

@test "what a killed run left in the staging area is removed by the next one" {
    mkdir -p "$SITE/state/staging/dodeka-killed"
    touch "$SITE/state/staging/dodeka-killed/export.sqlite"
    "$ROOT/bin/dodeka-db-backup.py" production
    [ -z "$(ls "$SITE/state/staging")" ]
}
