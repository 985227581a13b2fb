#!/bin/sh
# usage: complete.sh make|SCRIPT [WORD...] CURRENT
# What may follow on a command line of make in this folder, or of SCRIPT, in the place of the word CURRENT: one a line.
# deploy/completion.bash and deploy/completion.zsh ask it. It reads the Makefile and the help of SCRIPT, and looks into no
# repository: the IDs of snapshots are those of the last listing.
set -eu
root=$(dirname "$(dirname "$(realpath "$0")")")
program=$1
shift

makefile() { # NAME: the words of a list in the Makefile
    sed -n "s/^\(override \)\{0,1\}$1 := //p" "$root/Makefile"
}

targets() { sed -n 's/^\([a-z-]*\):.*## .*/\1/p' "$root/Makefile"; }

variables_of() { # TARGET: the variables in its recipe
    sed -n "/^$1:/,/^\$/s/^$(printf '\t')//p" "$root/Makefile" | grep -oE '[A-Z]+(_FLAG)?' | sed 's/_FLAG$//' | sort -u
}

ids() {
    set -- ${environment:+"$environment"} ${offsite:+--offsite} --ids
    DODEKA_BACKUP_ENV=${config:-${DODEKA_BACKUP_ENV-}} "$root/bin/dodeka-db-snapshots.py" "$@" 2>/dev/null || :
}

values() { # VARIABLE: what it may be set to
    case $1 in
        ENV | FROM) makefile ENVIRONMENTS | tr ' ' '\n' ;;
        CLONE) printf '%s\n' quarantined masked whole ;;
        ERASED) echo ignore ;;
        OFFSITE | ROWS | ALL | HTML | YES | TIMERS) echo 1 ;;
        SUITE) printf '%s\n' bookworm trixie ;;
        AS) printf '%s\n' root user ;;
        SNAPSHOT | TO)
            echo latest
            ids
            ;;
    esac
}

of_make() {
    goals='' given='' environment='' from='' offsite='' config=''
    while [ $# -gt 1 ]; do
        case $1 in
            -C | -f | -I | -j | -o | -W) shift ;;
            -*) ;;
            *=*)
                given="$given ${1%%=*}"
                case $1 in
                    ENV=*) environment=${1#*=} ;;
                    FROM=*) from=${1#*=} ;;
                    OFFSITE=1) offsite=1 ;;
                    CONFIG=*) config=${1#*=} ;;
                esac
                ;;
            *) goals="$goals $1" ;;
        esac
        [ $# -le 1 ] || shift
    done
    environment=${from:-$environment}
    case $1 in
        *=*) values "${1%%=*}" | sed "s/^/${1%%=*}=/" ;;
        -*) ;;
        *)
            if [ -n "$goals" ]; then
                # shellcheck disable=SC2086  # words
                names=$(for goal in $goals; do variables_of "$goal"; done && echo CONFIG)
            else
                targets
                names=$(makefile VALUES)
            fi
            for name in $names; do
                case " $given " in *" $name "*) continue ;; esac
                case " $(makefile VALUES) " in *" $name "*) echo "$name=" ;; esac
            done
            ;;
    esac
}

variable_of() { # OPTION: the variable of make that has the same values
    case $1 in
        --from) echo FROM ;;
        --snapshot) echo SNAPSHOT ;;
        --to) echo TO ;;
        --clone) echo CLONE ;;
        --erased) echo ERASED ;;
    esac
}

of_script() {
    help=$("$root/bin/$program" --help 2>/dev/null || :)
    environment='' from='' offsite='' config='' before=''
    while [ $# -gt 1 ]; do
        case $1 in
            --from=*) from=${1#*=} ;;
            --offsite) offsite=1 ;;
            production | demo) if [ "$before" = --from ]; then from=$1; else environment=$1; fi ;;
        esac
        before=$1
        shift
    done
    named=$environment environment=${from:-$environment}
    if [ -n "$(variable_of "$before")" ]; then
        values "$(variable_of "$before")"
        return
    fi
    case $1 in
        --*=*) values "$(variable_of "${1%%=*}")" | sed "s/^/${1%%=*}=/" ;;
        *)
            ! echo "$help" | grep -q '^  environment ' || [ -n "$named" ] || values ENV
            case $program in dodeka-db-pin.py | dodeka-db-unpin.py) [ -z "$named" ] || values SNAPSHOT ;; esac
            echo "$help" | sed -n 's/^  \(-h, \)\{0,1\}\(--[a-z-]*\).*/\2/p'
            ;;
    esac
}

if [ "$program" = make ]; then of_make "$@"; else of_script "$@"; fi | awk -v current="$(for word in "$@"; do :; done && echo "$word")" \
    'index($0, current) == 1 && !seen[$0]++'
