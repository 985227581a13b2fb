#!/bin/sh
# usage: debian.sh SUITE [root|user]
# make test in a fresh Debian: as root, then as an ordinary user, or as one of them. Needs root, debootstrap and a
# gigabyte. What debootstrap made is kept in DEBIAN_FOLDER, and each run works in a copy of it.
# Packages come from where this machine has its own (or MIRROR), through the proxy that it has.
set -eu
suite=$1
base=${DEBIAN_FOLDER:-/var/cache/dodeka-tests}/$suite
root=$base.run

fail() {
    echo "debian.sh: error: $*" >&2
    exit 6
}

case ${2:-both} in root | user | both) ;; *) fail "AS=$2 is neither root nor user" ;; esac
[ "$(id -u)" = 0 ] || fail "run this as root: a system of its own is mounted and entered"

if [ "${IN_NAMESPACE:-}" != 1 ]; then
    mkdir -p "${base%/*}"
    exec 9>"$base.lock"
    flock --nonblock 9 || fail "$root is in use"
    IN_NAMESPACE=1 unshare --mount --pid --fork --kill-child "$0" "$@"
    # where it failed, it stays to be looked at; whatever was mounted in there went with the last process
    rm -rf --one-file-system "$root"
    exit
fi
mount --make-rprivate /

if [ ! -e "$base" ]; then
    command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
    # shellcheck disable=SC2016  # apt-get's own
    mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | head -1)}
    rm -rf --one-file-system "$base.made"
    debootstrap --variant=minbase --include=make,python3,git,ca-certificates,sudo "$suite" "$base.made" \
        ${mirror:+"$mirror"} >"$base.log" || fail "debootstrap failed: see $base.log"
    mv "$base.made" "$base"
fi
rm -rf --one-file-system "$root"
cp -a --reflink=auto "$base" "$root"
mount --bind "$root" "$root" # unshare wants its root to be a mount

# the proxy, the certificates and the index of packages that this machine has
apt-config dump | grep -iE '^Acquire::(https?|ftp)::' >"$root/etc/apt/apt.conf.d/90host" || true
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"

mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
[ "$suite" = bookworm ] || mount -t tmpfs -o mode=1777 tmpfs "$root/tmp" # as Debian 13 has it
chroot "$root" update-ca-certificates >/dev/null
chroot "$root" useradd --create-home tester
echo 'tester ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/tester"

run() { # USER HOME: the tests in a copy of the working tree, as git sees it
    mkdir "$root$2/dodeka"
    git -C "$(dirname "$0")/.." -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
        tar --create --directory="$(dirname "$0")/.." --null --files-from=- --ignore-failed-read |
        tar --extract --directory="$root$2/dodeka" --no-same-owner
    chroot "$root" chown -R "$1:" "$2/dodeka"
    echo "== $suite, as $1"
    set -- "$@" HOME="$2" USER="$1" LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    for name in TERM http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_CERT; do
        eval "value=\${$name-}"
        [ -z "$value" ] || set -- "$@" "$name=$value"
    done
    who=$1 home=$2
    shift 2
    chroot --userspec="$who:$who" "$root" env -i "$@" make -C "$home/dodeka" test
}

case ${2:-both} in root | both) run root /root ;; esac
case ${2:-both} in user | both) run tester /home/tester ;; esac
