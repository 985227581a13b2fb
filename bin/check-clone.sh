#!/bin/sh
# usage: check-clone.sh
# As root: refuses a clone that other users can write. Files that are installed from it run as root, or give rights to others.
set -eu
[ "$(id -u)" = 0 ] || exit 0
clone=$(cd "$(dirname "$0")/.." && pwd -P)

# a sticky folder such as /tmp lets nobody replace what is root's; a link's own mode says nothing
others='( ! -uid 0 -o ( ! -type l ( -perm -002 -o -perm -020 ! -gid 0 ) ! ( -type d -perm -1000 ) ) )'
parent=$clone
found=
while [ "$parent" != / ] && [ -z "$found" ]; do
    parent=$(dirname "$parent")
    # shellcheck disable=SC2086  # words for find
    found=$(find "$parent" -maxdepth 0 $others)
done
# the settings are for the user that the backups run as
# shellcheck disable=SC2086
[ -n "$found" ] || found=$(find "$clone" -path "$clone/deploy/backup.env" -o $others -print -quit)
[ -z "$found" ] || {
    echo "check-clone.sh: error: users other than root can write $found, and so become root; clone this repository as root: BACKUP.md, 'Set up a server'" >&2
    exit 6
}
