#!/bin/sh
# usage: install-packages.sh PYTHON PACKAGE...
# Installs the Debian packages among PACKAGE that are missing, with sudo unless NO_SUDO is set; silent and quick if none
# is missing. Checks PYTHON.
# In sh, because it runs before there is a Python to rely on.
set -eu

python=$1
shift

fail() {
    echo "install-packages.sh: error: $*" >&2
    exit 6
}

# Whether the program of a package is installed, also from another source.
is_there() {
    case $1 in
        python3-venv) "$python" -c 'import ensurepip, venv' 2>/dev/null ;;
        restic) command -v "${RESTIC:-restic}" || { [ "$(stat -c %u ~/.local/bin 2>/dev/null)" = "$(id -u)" ] && test -x ~/.local/bin/restic; } ;;
        cron) command -v crontab && test -x /usr/sbin/cron ;;
        logrotate) test -x /usr/sbin/logrotate ;;
        polkitd) test -x /usr/lib/polkit-1/polkitd ;;
        systemd) test -x /lib/systemd/systemd ;;
        openssh-server) test -x /usr/sbin/sshd ;;
        acl) command -v setfacl ;;
        attr) command -v setfattr ;;
        e2fsprogs) command -v chattr ;;
        exfat-fuse) test -x /usr/sbin/mount.exfat-fuse ;;
        exfatprogs) test -x /usr/sbin/mkfs.exfat ;;
        procps) command -v pgrep ;;
        dbus) test -x /usr/bin/dbus-daemon ;;
        util-linux) command -v unshare && command -v nsenter ;;
        *) command -v "$1" ;;
    esac >/dev/null
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is missing or older than Python 3.11; name another one: make PYTHON=python3.12"

missing=
for package in "$@"; do
    is_there "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    fail "apt-get is missing; please install by hand:$missing"
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    sudo=/usr/bin/sudo # not another program of that name on PATH
    [ -z "${NO_SUDO:-}" ] && [ -x $sudo ] || fail "please install as root: apt-get install$missing"
fi
# only the tests start an sshd, on loopback: the package must not start one on this machine
sshd_stays_off=
case $missing in *openssh-server*) [ ! -d /run/systemd/system ] || sshd_stays_off="ssh.service ssh.socket" ;; esac
echo "installing:$missing"
# shellcheck disable=SC2086
[ -z "$sshd_stays_off" ] || $sudo systemctl --quiet mask $sshd_stays_off
# apt-get's output is shown only if it fails; /tmp may be in memory, and full
apt="$sudo env DEBIAN_FRONTEND=noninteractive TMPDIR=/var/tmp apt-get -qq"
# shellcheck disable=SC2086  # a list of words
said=$($apt update 2>&1) ||
    fail "'apt-get update' failed ($said); please install as root: apt-get install$missing"
# shellcheck disable=SC2086
said=$($apt install -y --no-install-recommends $missing 2>&1) ||
    fail "apt-get failed ($said); please install as root: apt-get install$missing"
# shellcheck disable=SC2086
[ -z "$sshd_stays_off" ] || { $sudo systemctl --quiet unmask $sshd_stays_off && $sudo systemctl --quiet disable $sshd_stays_off; }
