#!/usr/bin/env bats
# The documented command lines: by their old paths, from anywhere, under cron's environment, for programs.

load helpers

setup() { copy_site; }

@test "the documented paths go on working" {
    run --separate-stderr "$ROOT/deploy/dodeka-db-backup.sh" production
    succeeds
    run --separate-stderr "$ROOT/deploy/dodeka-db-cron.sh"
    succeeds
    run --separate-stderr sh -c "printf 'latest\nyes\n' | '$ROOT/deploy/dodeka-db-restore.sh' demo --from production"
    succeeds
    [ "$(sqlite3 "$SITE/backend/envs/demo/db.sqlite" 'SELECT count(*) FROM users_by_email')" -eq 400 ]
}

@test "from any folder, by a link on any PATH, with no environment at all" {
    ln -s "$ROOT/deploy/dodeka-db-backup.sh" "$SITE/dodeka-db-backup.sh"
    cd /
    run --separate-stderr env PATH="$SITE:/usr/bin:/bin" dodeka-db-backup.sh demo
    succeeds
    run --separate-stderr env -i DODEKA_BACKUP_ENV="$SITE/backup.env" "$SITE/dodeka-db-backup.sh" demo
    succeeds
    run --separate-stderr env PATH=/nowhere "$SITE/dodeka-db-backup.sh" demo
    succeeds
    [ "$(snapshot_count)" -eq 3 ]
}

@test "without a terminal every line has a time and the environment, and the last one sums up" {
    script backup production
    stamp='^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[+-][0-9]{2}:[0-9]{2} production '
    for line in "${lines[@]}"; do [[ $line =~ $stamp ]]; done
    [[ ${lines[-1]} =~ done:\ snapshot\ [0-9a-f]{8},\ [0-9.]+\ [kM]B\ exported,\ repository\ grew\ by\ [0-9.]+\ k?B,\ [0-9.]+\ s$ ]]
    rm "$DB"
    script cron production
    [[ $stderr =~ $stamp ]]
}

@test "on a terminal the lines are plain" {
    run /usr/bin/script -qec "$ROOT/bin/dodeka-db-backup.py demo" /dev/null
    [ "$status" -eq 0 ]
    [[ ${lines[0]} == "exporting $SITE/backend/envs/demo/db.sqlite"* ]]
}

@test "snapshots --json is JSON and nothing else" {
    "$ROOT/bin/dodeka-db-backup.py" production
    script snapshots production --json
    succeeds
    "$ROOT/.venv/bin/python" -c '
import datetime, json, sys
(entry,) = json.load(sys.stdin)
assert set(entry) == {"id", "short_id", "time", "environment", "tags", "host", "path", "stored_as", "stored_bytes", "format", "rows"}, entry
assert entry["environment"] == "production" and entry["format"] == "zst" and entry["path"] == "/dodeka-production.sqlite.zst"
assert datetime.datetime.fromisoformat(entry["time"]).tzinfo and entry["stored_bytes"] > 1000
assert entry["rows"]["users_by_email"] == 400 and len(entry["rows"]) == 17
' <<<"$output"
}

@test "the table" {
    "$ROOT/bin/dodeka-db-backup.py" production
    script snapshots production
    [[ ${lines[0]} =~ ^ID\ +When\ +Ago\ +Size\ +Number\ of\ rows$ ]]
    [[ ${lines[1]} =~ ^[0-9a-f]{8}\ \ [A-Z][a-z]{2}\ .*\ [0-9]+\ (seconds?|minutes)\ +[0-9.]+\ kB\ \ 400\ members$ ]]
    [[ ${lines[2]} == "oldest copy: "* ]]
    [ "${#lines[@]}" -eq 3 ]
}

@test "a reader that goes away is no failure" {
    "$ROOT/bin/dodeka-db-backup.py" production
    run --separate-stderr bash -c "set -o pipefail; '$ROOT/bin/dodeka-db-snapshots.py' --json | true"
    succeeds
}

@test "--help of every script" {
    for file in "$ROOT"/bin/dodeka-*.py; do
        run --separate-stderr "$file" --help
        succeeds
        [[ $output == usage:* ]]
    done
}

@test "files made are for their owner alone" {
    "$ROOT/bin/dodeka-db-backup.py" production
    [ "$(stat -c %a "$SITE/state")" = 700 ]
    [ "$(stat -c %a "$SITE/state/staging")" = 700 ]
    [ "$(stat -c %a "$SITE/state/lock")" = 600 ]
}

@test "no secret on a command line, in the output or in an error" {
    # every argument list of every restic that runs, by a restic that writes it down and then is the real one
    . "$SITE/backup.env"
    printf '#!/bin/sh\necho "$@" >> %s/arguments\nexec %s "$@"\n' "$SITE" "$RESTIC" >"$SITE/restic-spy"
    chmod +x "$SITE/restic-spy"
    secret=$(cat "$SITE/password")
    RESTIC=$SITE/restic-spy script cron production
    [ "$status" -eq 0 ]
    [ "$(grep -c backup "$SITE/arguments")" -eq 1 ]
    run ! grep -qF "$secret" "$SITE/arguments"
    [[ $output$stderr != *"$secret"* ]]
}
