#!/usr/bin/env bats
# The front door: targets, their variables, and what make says.
# shellcheck disable=SC2016  # text for another shell, or for make

load helpers

setup() {
    copy_site
    unset DODEKA_BACKUP_ENV
    cd "$ROOT" || return
}

mk() { run --separate-stderr make --no-print-directory CONFIG="$SITE/backup.env" "$@"; }

@test "make alone prints the targets in order of use" {
    run --separate-stderr make
    [ "$status" -eq 0 ]
    [ -z "$stderr" ]
    targets=$(printf '%s\n' "${lines[@]}" | sed -n 's/^  make \([a-z-]*\) .*/\1/p' | xargs)
    [ "$targets" = "help status snapshots backup cron verify check offsite changes open bring-back accept restore undo history pin unpin retention try setup init install uninstall monitor settings restic erased keys key-add key-remove recovery-sheet prove test test-fast test-full coverage lint format pins version test-in soak bench fuzz" ]
}

@test "make setup on a machine without its programs names them, and says nothing else" {
    # also where nobody has a ~/.local/bin yet
    mkdir "$BATS_TEST_TMPDIR/bin"
    for program in sh make stat id; do ln -s "$(command -v $program)" "$BATS_TEST_TMPDIR/bin/"; done
    python=$(python3 -c 'import sys; print(sys.executable)')
    run --separate-stderr env -i HOME="$BATS_TEST_TMPDIR" PATH="$BATS_TEST_TMPDIR/bin" make packages PYTHON="$python"
    [ "$status" -eq 2 ]
    [ "${stderr_lines[0]}" = "install-packages.sh: error: apt-get is missing; please install by hand: restic sqlite3" ]
}

@test "make backup without ENV or with an unknown one names the environments and does nothing else" {
    before=$(state_of_everything)
    for goal in backup pin unpin retention changes open bring-back accept restore undo verify erased; do
        mk $goal
        [ "$status" -eq 2 ]
        [ "${#stderr_lines[@]}" -eq 1 ]
        [[ $stderr == *"$goal needs an environment: ENV=production or ENV=demo"* ]]
        [ -z "$output" ]
    done
    for goal in backup cron snapshots pin unpin retention changes open bring-back accept restore undo verify erased; do
        mk $goal ENV=staging WHO=anna@example.org SNAPSHOT=latest
        [ "$status" -eq 2 ]
        [ "${#stderr_lines[@]}" -eq 1 ]
        [[ $stderr == *"unknown environment 'staging': there are production and demo"* ]]
        [ -z "$output" ]
    done
    mk restore ENV=demo FROM=staging
    [ "$status" -eq 2 ]
    [[ $stderr == *"unknown environment 'staging'"* ]]
    [ "$(state_of_everything)" = "$before" ]
}

@test "make pin and unpin without a snapshot do nothing else" {
    for goal in pin unpin; do
        mk $goal ENV=demo
        [ "$status" -eq 2 ]
        [ "${#stderr_lines[@]}" -eq 1 ]
        [[ $stderr == *"$goal needs a snapshot: SNAPSHOT=<id> or SNAPSHOT=latest"* ]]
    done
}

@test "backup, snapshots, restore, clone" {
    mk backup ENV=production
    succeeds
    [[ $output == *" production done: snapshot "* ]]
    mk backup ENV=demo
    mk snapshots ENV=production
    [ "${#lines[@]}" -eq 3 ]
    [[ ${lines[2]} =~ ^"oldest copy: "[A-Z] ]]
    mk snapshots
    [ "${#lines[@]}" -eq 7 ]
    [ "${lines[0]} ${lines[3]}" = "production demo" ]
    rm "$SITE"/state/rows/*
    mk snapshots ENV=production ALL=2
    succeeds
    [[ ${lines[1]} == *" kB  ?" ]]
    [ "${lines[3]}" = "  make snapshots ENV=production ALL=1 CONFIG=$SITE/backup.env" ]
    mk snapshots ENV=production ALL=1
    [[ ${lines[1]} == *" kB  400 members" ]]
    [ "${#lines[@]}" -eq 3 ]
    [[ $stderr == *"counted 1 of 1"* ]]

    cp "$DB" "$SITE/lost.sqlite"
    sqlite3 "$DB" 'DELETE FROM users_by_email'
    mk changes ENV=production
    succeeds
    [[ $output =~ users_by_email\ +400\ +0\ +0 ]]
    [[ $output != *"gone     users_by_email"* ]]
    mk changes ENV=production SNAPSHOT=latest ROWS=1
    [ "$(grep -c '^gone     users_by_email  ' <<<"$output")" -eq 400 ]
    mk changes ENV=production TO=latest
    [[ $output == *"no difference in 17 tables"* ]]
    member=$(sqlite3 "$SITE/lost.sqlite" 'SELECT key FROM users_by_email LIMIT 1')
    mk bring-back ENV=production SNAPSHOT=latest WHO="$member, $member" TABLES="users users_by_email" ROWS=1 YES=1
    succeeds
    [[ $output == *"users_by_email  $member"* ]]
    [ "$(sqlite3 "$DB" 'SELECT key FROM users_by_email')" = "$member" ]
    mk restore ENV=production SNAPSHOT=latest YES=1
    succeeds
    [ "$(sqlite3 "$DB" 'SELECT count(*) FROM users_by_email')" -eq 400 ]

    mk restore ENV=production SNAPSHOT=latest WITHOUT="outbox, session_cache" YES=1
    succeeds
    [[ $output == *", without the rows of outbox, session_cache, in the place of "* ]]
    [ "$(sqlite3 "$DB" 'SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM session_cache)')" -eq 0 ]
    [ "$(sqlite3 "$DB" 'SELECT count(*) FROM users_by_email')" -eq 400 ]

    mk restore ENV=demo FROM=production SNAPSHOT=latest YES=1
    succeeds
    [[ $output == *"PRODUCTION'S DATA GOES TO DEMO."* ]]
    [ "$(sqlite3 "$SITE/backend/envs/demo/db.sqlite" 'SELECT count(*) FROM users_by_email')" -eq 400 ]
    [ "$(sqlite3 "$SITE/backend/envs/demo/db.sqlite" 'SELECT count(*) FROM outbox')" -eq 0 ]

    mk restore ENV=demo FROM=production SNAPSHOT=latest CLONE=whole YES=1 </dev/null
    [ "$status" -eq 2 ]
    [[ $stderr == *"no answer; nothing was changed"* ]]
    mk restore ENV=production SNAPSHOT=latest CLONE=whole YES=1
    [ "$status" -eq 2 ]
    [[ $stderr == *"CLONE=whole is only for a clone"* ]]
    mk backup ENV=production CLONE=whole
    [ "$status" -eq 2 ]
    [[ $stderr == *"CLONE is for restore"* ]]

    mk erased ENV=production WHO="$member" YES=1
    succeeds
    [[ $output == *"done: 1 member stays out of every snapshot before "* ]]
    mk restore ENV=production SNAPSHOT=latest YES=1
    [[ $output == *"1 member erased since stays erased"* ]]
    mk undo ENV=production ERASED=ignore YES=1 <<<"with erased members"
    succeeds
    [ "$(sqlite3 "$DB" 'SELECT count(*) FROM users_by_email')" -eq 400 ]

    mk undo ENV=demo YES=1
    succeeds
    [ "$(sqlite3 "$SITE/backend/envs/demo/db.sqlite" 'SELECT count(*) FROM users_by_email')" -eq 30 ]
    run --separate-stderr sh -c "echo no | make undo ENV=demo CONFIG=$SITE/backup.env"
    [ "$status" -eq 2 ]
    [[ $stderr == *"not confirmed; nothing was changed"* ]]
    [ "$(sqlite3 "$SITE/backend/envs/demo/db.sqlite" 'SELECT count(*) FROM users_by_email')" -eq 30 ]
}

@test "restore asks, and takes its answers from a pipe" {
    mk backup ENV=production
    sqlite3 "$DB" 'DELETE FROM users_by_email'
    run --separate-stderr sh -c "printf 'latest\nyes\n' | make restore ENV=production CONFIG=$SITE/backup.env"
    [ "$status" -eq 0 ]
    [ "$(sqlite3 "$DB" 'SELECT count(*) FROM users_by_email')" -eq 400 ]
    sqlite3 "$DB" 'DELETE FROM users_by_email'
    mk restore ENV=production SNAPSHOT=latest </dev/null
    [ "$status" -eq 2 ]
    [[ $stderr == *"nothing was changed"* ]]
    mk restore ENV=production SNAPSHOT=latest YES=0 </dev/null
    [ "$status" -eq 2 ]
    [ "$(sqlite3 "$DB" 'SELECT count(*) FROM users_by_email')" -eq 0 ]
}

@test "cron: production when nothing is named" {
    mk cron
    [ "$status" -eq 0 ]
    [[ $output == *" production done: snapshot "*" old snapshot"*" removed"* ]]
    mk cron ENV=demo
    [[ $output == *" demo done: snapshot "* ]]
}

@test "the value of a variable is never run as a command" {
    mk backup ENV=production
    mk restore ENV=production SNAPSHOT="x'; touch $SITE/executed; '" YES=1
    [ "$status" -eq 2 ]
    mk restore ENV=production SNAPSHOT='"; touch '"$SITE/executed"'; "' YES=1
    [ "$status" -eq 2 ]
    mk restore ENV=production AT='"; touch '"$SITE/executed"'; "' YES=1
    [ "$status" -eq 2 ]
    mk restore ENV=production SNAPSHOT=latest AT=03:00 YES=1
    [ "$status" -eq 2 ]
    [[ $stderr == *"not allowed with argument --snapshot"* ]]
    for goal in verify changes open bring-back restore; do
        mk "$goal" ENV=production AT='2020-01-01 03:00Z' YES=1
        [ "$status" -eq 2 ]
        [[ $stderr == *"no snapshot of production is of Wed 01 Jan 2020 "*" or before; the oldest is "* ]]
        mk "$goal" ENV=production AT='$(shell touch '"$SITE/executed"') 03:00' YES=1
        [ "$status" -eq 2 ]
        [[ $stderr == *"03:00' is not a time; write '2026-11-24 14:00'"* ]]
    done
    mk restore ENV=production SNAPSHOT='--password-command=touch '"$SITE/executed" YES=1
    [ "$status" -eq 2 ]
    [[ $stderr == *"is neither a snapshot ID"* ]]
    [ ! -e "$SITE/executed" ]
}

@test "the environment wins over the settings file, but for where things are" {
    DODEKA_FORMAT=pages mk backup ENV=demo
    succeeds
    mk snapshots ENV=demo
    [[ ${lines[1]} == *" kB  pages: 30 members" ]]
    before=$(state_of_everything)
    export RESTIC_REPOSITORY=$SITE/elsewhere
    for words in "init YES=1" "backup ENV=demo" "snapshots" "restic ARGS=snapshots" "settings" "status"; do
        # shellcheck disable=SC2086  # words
        mk $words
        [ "$status" -eq 2 ]
        [[ $stderr == *"the environment sets RESTIC_REPOSITORY=$SITE/elsewhere, but settings file $SITE/backup.env sets RESTIC_REPOSITORY=$SITE/restic; unset RESTIC_REPOSITORY, or change the settings file"* ]]
    done
    [ ! -e "$SITE/elsewhere" ]
    [ "$(state_of_everything)" = "$before" ]
    unset RESTIC_REPOSITORY
    mk snapshots ENV=demo
    succeeds
}

@test "settings lists them, and where they were set" {
    DODEKA_FORMAT=pages mk settings
    succeeds
    printf '%s\n' "${lines[@]}" | grep -E "^RESTIC_REPOSITORY +$SITE/restic +$SITE/backup.env$"
    printf '%s\n' "${lines[@]}" | grep -E "^DODEKA_FORMAT +pages +environment$"
    printf '%s\n' "${lines[@]}" | grep -E "^DODEKA_START_WAIT_S +5 +default$"
}

@test "restic by hand, on either repository, without a variable in the shell" {
    printf '%s\n' "OFFSITE_REPOSITORY=$SITE/there" "OFFSITE_PASSWORD_FILE=$SITE/there-password" >>"$SITE/backup.env"
    mk init OFFSITE=1 YES=1
    make_key_cheap "$SITE/there" "$SITE/there-password"
    mk backup ENV=demo
    mk restic ARGS='snapshots --compact --tag env_demo'
    [ "$status" -eq 0 ]
    [[ $output == *"1 snapshots"* ]]
    mk restic ARGS='snapshots --json' OFFSITE=1
    [ "$status" -eq 0 ]
    [[ $output =~ ^(\[\]|null)$ ]]
    mk restic ARGS='snapshots --json --host "a b$c" --tag '"'x y'"
    [ "$status" -eq 0 ]
    mk restic ARGS='snapshots --host "; touch '"$SITE"'/executed; `touch '"$SITE"'/executed` $(shell touch '"$SITE"'/executed) $$"'
    [ "$status" -eq 0 ]
    [ ! -e "$SITE/executed" ]
    mk restic ARGS='no-such-command'
    [ "$status" -eq 2 ]
    [[ $stderr == *"unknown command"* ]]
    mk restic
    [ "$status" -eq 2 ]
    [[ $stderr == *"ARGS is empty; make restic ARGS='snapshots'"* ]]
    mk restic ARGS="snapshots 'x"
    [ "$status" -eq 2 ]
    [[ $stderr == *"ARGS has a quote that does not end; make restic ARGS='snapshots'"* ]]
    chmod 640 "$SITE/password"
    mk restic ARGS='snapshots'
    [ "$status" -eq 2 ]
    [[ $stderr == *"password file $SITE/password can be read by others"* ]]
}

@test "init makes what is missing, once, and only init does" {
    rm -r "$SITE/restic" "$SITE/password"
    mk init </dev/null
    [ "$status" -eq 2 ]
    [[ $output == *"THERE IS NO REPOSITORY AT $SITE/restic."*"No volume is mounted for "* ]]
    [[ $stderr == *"no answer; nothing was changed"* ]]
    [ ! -e "$SITE/password" ]
    [ ! -e "$SITE/restic" ]
    mk init YES=1
    [ "$status" -eq 0 ]
    [[ $output == *"KEEP ITS CONTENT SOMEWHERE ELSE TOO"* ]]
    [ "$(stat -c %a "$SITE/password")" = 600 ]
    [ "$(wc -c <"$SITE/password")" -eq 40 ]
    make_key_cheap "$SITE/restic" "$SITE/password"
    before=$(sha256sum "$SITE/password" "$SITE/restic/config")
    mk init
    [ "$status" -eq 0 ]
    [[ $output == *"exists already, nothing to do"* ]]
    [[ $output != *KEEP* ]]
    [ "$(sha256sum "$SITE/password" "$SITE/restic/config")" = "$before" ]
    mk backup ENV=demo
    [ "$status" -eq 0 ]
}

@test "init does not make up a new password for a repository that is there" {
    rm "$SITE/password"
    mk init
    [ "$status" -eq 2 ]
    [[ $stderr == *"put the repository's own password into it"* ]]
    [ ! -e "$SITE/password" ]
}

@test "init where the volume is not mounted" {
    sed -i "s|$SITE/restic|$SITE/none/restic|; s|$SITE/password|$SITE/none/password|" "$SITE/backup.env"
    mk init YES=1
    [ "$status" -eq 2 ]
    [[ $stderr == *"folder $SITE/none is missing"* ]]
    [ ! -e "$SITE/none" ]
}

@test "a second make setup installs nothing and starts at once" {
    before=$(stat -c %Y .venv/.runtime)
    # of the processor: how long that takes depends on what else this machine does
    TIMEFORMAT='%U %S'
    used=$({ time make --no-print-directory setup >"$SITE/printed" 2>&1; } 2>&1)
    [ ! -s "$SITE/printed" ]
    awk '{ exit $1 + $2 > 1 }' <<<"$used"
    [ "$(stat -c %Y .venv/.runtime)" = "$before" ]
}

@test "make setup compiles the modules, which the user of the backups may not" {
    # in a copy: other tests import from this folder meanwhile
    mkdir "$SITE/copy"
    cp -a Makefile bin deploy requirements.txt "$SITE/copy"
    ln -s "$PWD/.venv" "$SITE/copy/.venv"
    rm -rf "$SITE/copy/bin/dodeka_db/sqlite/__pycache__"
    PYTHONDONTWRITEBYTECODE=1 make --no-print-directory -C "$SITE/copy" setup
    compgen -G "$SITE/copy/bin/dodeka_db/sqlite/__pycache__/swap.*.pyc"
}

@test "an off-site copy, a key and the sheet" {
    export OFFSITE_REPOSITORY=$SITE/there OFFSITE_PASSWORD_FILE=$SITE/there-password
    mk backup ENV=demo
    mk init OFFSITE=1 YES=1
    succeeds
    make_key_cheap "$SITE/there" "$SITE/there-password"
    mk offsite
    succeeds
    [[ $output == *"done: 1 snapshot copied, "* ]]
    mk snapshots ENV=demo OFFSITE=1
    [ "${#lines[@]}" -eq 3 ]
    [[ ${lines[2]} == "oldest copy: off-site "* ]]
    mk verify ENV=demo OFFSITE=1
    [ "$status" -eq 0 ]
    mk restore ENV=demo OFFSITE=1 SNAPSHOT=latest YES=1
    [ "$status" -eq 0 ]
    mk key-add NAME=anna OFFSITE=1
    [ "$status" -eq 0 ]
    make_key_cheap "$SITE/there" "$(find "$SITE" -path '*/offsite/key-anna')"
    mk keys OFFSITE=1
    [ "${#lines[@]}" -eq 3 ]
    mk keys
    [ "${#lines[@]}" -eq 2 ]
    mk key-remove NAME=anna OFFSITE=1
    succeeds
    mk keys OFFSITE=1
    [ "${#lines[@]}" -eq 2 ]
    mk recovery-sheet
    [[ $output == *"off-site repository      $SITE/there"* ]]
    mk recovery-sheet HTML=1
    [[ $output == "<!doctype html>"* ]]
    mk status HTML=1
    [[ $output == "<!doctype html>"*"backups of D.S.A.V. Dodeka</title>"* ]]
}

@test "OFFSITE and WITHOUT where they mean nothing, and keys of nobody" {
    for goal in backup cron undo check status offsite; do
        mk $goal ENV=demo OFFSITE=1
        [ "$status" -eq 2 ]
        [[ $stderr == *"OFFSITE=1 is for init snapshots retention changes open bring-back restore verify erased keys key-add key-remove restic"* ]]
    done
    mk restore ENV=demo OFFSITE=true SNAPSHOT=latest YES=1
    [ "$status" -eq 2 ]
    for goal in backup cron changes open undo verify; do
        mk $goal ENV=demo WITHOUT=outbox
        [ "$status" -eq 2 ]
        [[ $stderr == *"WITHOUT is for restore"* ]]
    done
    for goal in backup cron changes open bring-back verify; do
        mk $goal ENV=demo ERASED=ignore
        [ "$status" -eq 2 ]
        [[ $stderr == *"ERASED is for restore and undo"* ]]
    done
    mk erased ENV=demo
    [ "$status" -eq 2 ]
    [[ $stderr == *"erased needs a member: WHO=anna@example.org"* ]]
    mk restore ENV=demo SNAPSHOT=latest WITHOUT=users YES=1
    [ "$status" -eq 2 ]
    [[ $stderr == *"'users' is not a table that a restore can leave out; choose of: outbox, session_cache, sync, sync_decisions, sync_state, tokens"* ]]
    for goal in key-add key-remove; do
        mk $goal
        [ "$status" -eq 2 ]
        [[ $stderr == *"$goal needs a name: NAME=anna"* ]]
        mk $goal NAME="x'; touch $SITE/executed; '"
        [ "$status" -eq 2 ]
        mk $goal NAME="--offsite"
        [ "$status" -eq 2 ]
    done
    [ ! -e "$SITE/executed" ]
}

@test "what a message tells to type next names the settings file that was named" {
    mk status
    [ "$status" -eq 2 ]
    [[ $output == *"fix: make cron ENV=production CONFIG=$SITE/backup.env"* ]]
    mk verify ENV=production
    [ "$status" -eq 2 ]
    [[ $stderr == *"; make backup ENV=production CONFIG=$SITE/backup.env"* ]]
}

@test "no value of a variable and no goal is executed, by make or by a shell, from the command line or the environment" {
    cd "$ROOT"
    # what recipes run stands for itself: were a value to reach a shell, the words behind it would be run
    hostile=('$(shell touch '"$SITE"'/executed)' ';touch '"$SITE"'/executed;' '`touch '"$SITE"'/executed`'
        '$$(touch '"$SITE"'/executed)' "'; touch $SITE/executed; '" '"; touch '"$SITE"'/executed; "'
        "production'; touch $SITE/executed; '" 'x) $(shell touch '"$SITE"'/executed)')
    # those that the Makefile documents, those that it makes itself, and what reaches a script by the environment
    read=$(sed -n 's/^\([A-Z]*\) ?=.*/\1/p' Makefile)
    made=$(sed -n 's/^ *override \(export \)\?\([A-Z_]*\) .*/\2/p' Makefile)
    [ "$(xargs <<<"$read")" = "PYTHON CONFIG ENV FROM SNAPSHOT AT TO ROWS WHO TABLES ALL FILE WITHOUT CLONE ERASED OFFSITE NOTE NAME HTML ARGS T SUITE AS TIMERS YES" ]
    for name in $read $made MAKECMDGOALS MAKEFILE_LIST DODEKA_FORMAT RESTIC X; do
        for value in "${hostile[@]}"; do
            for goal in help settings venv test-in "snapshots ENV=demo"; do
                [ "$goal" != test-in ] || [[ "$name" =~ ^(SUITE|AS)$ ]] || continue
                [ "$goal" != venv ] || [ "$name" = PYTHON ] || continue
                [ "$name" != SHELL ] || continue
                # shellcheck disable=SC2086  # words
                timeout 60 make -n "$name=$value" $goal >/dev/null 2>&1 || true
                [ ! -e "$SITE/executed" ] || {
                    echo "$name=$value, $goal"
                    false
                }
            done
            timeout 60 make "$name=$value" help >/dev/null 2>&1 || true
            env "$name=$value" timeout 60 make help >/dev/null 2>&1 || true
            env "$name=$value" timeout 60 make -e help >/dev/null 2>&1 || true
            [ ! -e "$SITE/executed" ] || {
                echo "$name=$value"
                false
            }
        done
    done
    # the recipes that have a value, for real
    for value in "${hostile[@]}"; do
        make PYTHON="$value" venv >/dev/null 2>&1 || true
        PYTHON=$value make packages >/dev/null 2>&1 || true
        mk snapshots ENV="$value" ALL="$value"
        mk restore ENV=demo FROM="$value" YES=1
        mk verify ENV=demo SNAPSHOT="$value"
        mk changes ENV=demo SNAPSHOT="$value" TO="$value" ROWS="$value"
        mk open ENV=demo SNAPSHOT="$value" FILE="$value"
        mk bring-back ENV=demo SNAPSHOT="$value" WHO="$value" TABLES="$value" ROWS="$value"
        mk erased ENV=demo WHO="$value" YES=1
        mk restore ENV=demo SNAPSHOT=latest ERASED="$value" YES=1
        mk undo ENV=demo ERASED="$value" YES=1
        mk changes ENV=demo AT="$value"
        mk backup ENV=demo NOTE="$value"
        mk pin ENV=demo SNAPSHOT="$value" NOTE="$value"
        mk unpin ENV=demo SNAPSHOT="$value"
        mk restore ENV=demo SNAPSHOT=latest WITHOUT="$value" YES=1
        mk restore ENV=demo FROM=production SNAPSHOT=latest CLONE="$value" YES=1
        mk key-add NAME="$value"
        ARGS=$value mk restic
        run make --no-print-directory settings CONFIG="$value"
        mk "$value"
        [ ! -e "$SITE/executed" ] || {
            echo "$value"
            false
        }
    done
    # a value goes on to a script as it is
    mk key-remove NAME='a$(b)$$c'
    [ "$status" -eq 2 ]
    [[ $stderr == *"'a\$(b)\$\$c'"* ]]
}
