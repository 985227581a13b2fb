"""A whole server for tests: systemd, cron, the user backend, everything at its documented place.

No container engine: an overlay of this machine's file system, in separate namespaces, with systemd as the
first process. Changes on the server are lost when it stops, and reach nothing outside.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from cheap_key import reseal
from free_ports import free_port
from site_folder import Twin

ROOT = Path(__file__).resolve().parents[2]
HOME = Path("/home/backend")
PROJECT = HOME / "dodeka"
# the clone of root, and the home of the user that runs the backups from it
CLONE = Path("/opt/dodeka-backup")
OWN_HOME = Path("/var/lib/dbackup")

# A cgroup of the server's own, in which its systemd makes those of its units: two that shared one would remove each other's.
JOIN = """
set -eu
name=$1
shift
while IFS=: read -r _ controllers path; do
    case $controllers in
        '') mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts) ;;
        name=systemd) mount=$(awk '$3 == "cgroup" && $4 ~ /name=systemd/ { print $2; exit }' /proc/mounts) ;;
        *) continue ;;
    esac
    [ -n "$mount" ] || continue
    mkdir "$mount$path/$name"
    echo $$ > "$mount$path/$name/cgroup.procs"
done < /proc/self/cgroup
exec "$@"
"""
LEAVE = """
for mount in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do
    find "$mount" -maxdepth 3 -type d -name "$1"
done | while read -r folder; do
    until find "$folder" -depth -type d -exec rmdir {} + 2> /dev/null; do
        [ -d "$folder" ] || break
        sleep 0.1
    done
done
"""

BOOT = """
set -eu
base=$1
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/root"
root=$base/root
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
[ -z "$2" ] || mount --bind "$2" "$root/srv"

units=$root/etc/systemd/system
mkdir -p "$units/dbus.socket.d" "$units/dbus.service.d"
# nothing of a real boot: no kernel settings, no devices, no cleaning of temporary folders
for unit in dbus.socket dbus.service; do
    printf '[Unit]\\nDefaultDependencies=no\\n' > "$units/$unit.d/test.conf"
done
for unit in systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.service \\
            systemd-tmpfiles-clean.timer sysinit.target; do
    ln -sf /dev/null "$units/$unit"
done
printf '[Unit]\\nDefaultDependencies=no\\nRequires=dbus.socket\\nAfter=dbus.socket\\n' > "$units/dodeka-test.target"
mount --make-rshared "$root" # as after a boot: systemd needs it to hand credentials over
echo dodeka > "$root/etc/hostname"
printf '127.0.0.1 localhost dodeka\\n' > "$root/etc/hosts"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test \\
    chroot "$root" /lib/systemd/systemd --system --unit=dodeka-test.target --log-target=null
"""

# A stand-in for the backend: one connection, open all the time, that writes ten times a second.
BACKEND = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA busy_timeout=500")  # a write that waits longer was refused
number = time.time_ns()
while True:
    connection.execute("INSERT INTO outbox VALUES (?, 0, 0, x'7b7d')", (f"live-{number}",))
    number += 1
    time.sleep(0.1)
"""

UNIT = """
[Unit]
DefaultDependencies=no
StartLimitIntervalSec=0
[Service]
Type=simple
User=backend
ExecStart=/usr/bin/python3 /home/backend/backend.py {database}
StandardError=append:/tmp/backend.log
Restart=on-failure
RestartSec=1
"""


# what our key may do on the off-site server, from BACKUP.md
FORCED = re.findall(
    r"^ +(restrict,command=\".*?\") ssh-ed25519 ", (ROOT / "BACKUP.md").read_text(), re.MULTILINE
)[0]


class Server:
    """A running server. Paths are those that its own processes see.

    Its files are in memory, except those in `disk`, a folder that is mounted as /srv.
    """

    def __init__(self, folder: Path, disk: Path | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self._cgroup = f"dodeka-test-{os.getpid()}-{time.monotonic_ns()}"
        self._process = subprocess.Popen(
            [
                *("sh", "-c", JOIN, "sh", self._cgroup),
                *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
                *("sh", "-c", BOOT, "sh", str(folder), str(disk or "")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=(log := open(folder.parent / f"{folder.name}.log", "wb")),  # noqa: SIM115
            stderr=log,
        )
        self._log = Path(log.name)
        try:
            self._init = self._wait_for_init()
            self._set_up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        # the kernel ends the server's processes behind that, and a cgroup with one cannot be removed
        subprocess.run(["sh", "-c", LEAVE, "sh", self._cgroup], check=True, timeout=60)

    def run(
        self, *words: str, user: str = "backend", stdin: str = "", check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the server, as cron would start it: with almost no environment."""
        done = subprocess.run(
            self.command(*words, user=user, **variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, done
        return done

    def command(self, *words: str, user: str = "backend", **variables: str) -> list[str]:
        """The command that runs `words` on the server."""
        drop = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin" if user == "root" else "/usr/bin:/bin",
            "HOME": {"root": "/root", "dbackup": str(OWN_HOME)}.get(user, str(HOME)),
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            **variables,
        }
        enter = ("--mount", "--pid", "--uts", "--ipc", "--root", "--wd=/")
        assignments = (f"{name}={value}" for name, value in environ.items())
        return [
            "nsenter",
            f"--target={self._init}",
            *enter,
            "env",
            "-i",
            "-C",
            "/",
            *assignments,
            *drop,
            *words,
        ]

    def make_keys_cheap(self) -> None:
        """Make the keys cheap in the repositories that the commands of BACKUP.md make, also a new maintainer's key."""
        for repository, password in (
            ("/mnt/backup/restic", "/mnt/backup/.restic-password"),
            ("/home/dodeka/restic", "/home/backend/.restic-offsite-password"),
            ("/home/dodeka/restic", f"{OWN_HOME}/.restic-offsite-password"),
            ("/mnt/backup/restic", f"{OWN_HOME}/.local/state/dodeka-backup/key-anna"),
        ):
            if self.path(repository).exists() and self.path(password).exists():
                owner = self.run("stat", "-c", "%U", repository, user="root").stdout.strip()
                reseal(self.path(repository), self.path(password).read_text().strip())
                self.run("chown", "-R", f"{owner}:", repository, user="root")

    def put_repositories(self, twin: Twin) -> None:
        """Put an empty repository, an off-site one, and their passwords where the user backend's init would make them.

        restic takes seven seconds to make them.
        """
        for source, place in (
            (twin.repository, "/mnt/backup/restic"),
            (twin.password_file, "/mnt/backup/.restic-password"),
            (twin.there, "/home/backend/offsite"),
            (twin.there_password, "/home/backend/.restic-offsite-password"),
        ):
            subprocess.run(["cp", "-a", source, self.path(place)], check=True)
            self.run("chown", "-R", "backend:", place, user="root")

    def start_offsite(self, user: str = "backend") -> None:
        """Start what looks like another server to that user: an account `dodeka` on the ssh host `offsite`, append-only."""
        port = free_port()
        home = self.sh(f"getent passwd {user} | cut -d: -f6").strip()
        self.sh(
            f"""
            set -e
            useradd --create-home dodeka; chmod 700 /home/dodeka
            mkdir -p /run/sshd /home/dodeka/.ssh {home}/.ssh
            ssh-keygen -q -t ed25519 -N '' -f {home}/.ssh/id_ed25519
            ssh-keygen -q -t ed25519 -N '' -f /run/sshd/host
            printf '{FORCED} %s\n' "$(cat {home}/.ssh/id_ed25519.pub)" > /home/dodeka/.ssh/authorized_keys
            printf 'ListenAddress 127.0.0.1\nPort {port}\nHostKey /run/sshd/host\nUsePAM no\nPidFile none\n' > /run/sshd/config
            printf 'PasswordAuthentication no\nSubsystem sftp internal-sftp\n' >> /run/sshd/config
            printf 'Host offsite\n HostName 127.0.0.1\n Port {port}\n User dodeka\n' > {home}/.ssh/config
            printf '[127.0.0.1]:{port} %s\n' "$(cat /run/sshd/host.pub)" > {home}/.ssh/known_hosts
            chown -R dodeka: /home/dodeka; chown -R {user}: {home}/.ssh; chmod 600 {home}/.ssh/*
            usermod -p '*' dodeka
            /usr/sbin/sshd -f /run/sshd/config -E /tmp/sshd.log
            """,
            user="root",
        )

    def sh(self, script: str, **options: object) -> str:
        """The output of a shell script on the server."""
        return self.run("sh", "-c", script, **options).stdout

    def python(self, expression: str, *, user: str = "backend") -> str:
        """The value of a Python expression that may use our module `sample_data`, and `Path`."""
        clone = PROJECT if self.path(PROJECT / "bin").exists() else CLONE
        code = (
            f"import sys; sys.path.insert(0, '{clone}/bin')\n"
            "from pathlib import Path; from dodeka_db.sqlite import sample_data\n"
            f"print({expression})"
        )
        return self.run(str(clone / ".venv/bin/python"), "-c", code, user=user).stdout.strip()

    def path(self, inside: str | Path) -> Path:
        """The path outside of a file on the server."""
        return Path(f"/proc/{self._init}/root{inside}")

    def active(self, unit: str) -> bool:
        return self.run("systemctl", "is-active", unit, user="root", check=False).stdout.strip() == "active"

    def _wait_for_init(self) -> int:
        for _ in range(1200):
            time.sleep(0.1)
            assert self._process.poll() is None, self._log.read_text()
            children = (
                Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            )
            if not children:
                continue
            asked = subprocess.run(
                [
                    "nsenter",
                    f"--target={children[0]}",
                    "--mount",
                    "--pid",
                    "--root",
                    "--wd=/",
                    "systemctl",
                    "is-active",
                    "dodeka-test.target",
                ],
                capture_output=True,
                text=True,
            )
            if asked.stdout.strip() == "active":
                return int(children[0])
        raise AssertionError(f"systemd did not start: {self._log.read_text()}")

    def _set_up(self) -> None:
        # the Python that made .venv may be in root's home, which is opened for it on the server
        self.sh(
            "id backend 2>/dev/null || useradd --create-home --shell /bin/sh backend; chmod o+x /root;"
            "mkdir -p /mnt/backup /home/backend/dodeka; chown backend: /mnt/backup /home/backend /home/backend/dodeka;"
            "chmod 755 /home/backend;"
            "rm -f /etc/sudoers.d/dodeka; rm -rf /home/backend/.local",
            user="root",
        )
        project = self.path(PROJECT)
        for name in ("bin", "deploy", "requirements.txt", "Makefile", "BACKUP.md", ".venv"):
            source = ROOT / name
            if source.is_dir():
                # the packages of the S3 server are as large as the rest together, and not needed on the server
                ignore = shutil.ignore_patterns(
                    "__pycache__", "backup.env", "boto*", "cryptography*", "moto*"
                )
                shutil.copytree(source, project / name, symlinks=True, ignore=ignore)
            elif source.exists():
                shutil.copy2(source, project / name)
        self.path(HOME / "backend.py").write_text(BACKEND)
        for environment, members in (("production", 400), ("demo", 30)):
            database = PROJECT / "backend" / "envs" / environment / "db.sqlite"
            unit = self.path(f"/etc/systemd/system/dodeka-backend-{environment}.service")
            unit.write_text(UNIT.format(database=database))
            self.run("chown", "-R", "backend:", str(HOME), user="root")
            self.python(f"sample_data.create(Path('{database}'), members={members})")
        self.run("systemctl", "daemon-reload", user="root")
        if restic := os.environ.get("RESTIC"):
            program = self.path("/usr/bin/restic")
            program.unlink(missing_ok=True)
            shutil.copy2(restic, program)

    def move_to_root(self) -> None:
        """Move the scripts to a clone of root, as BACKUP.md recommends; `backend` keeps only the databases."""
        self.sh(
            f"chmod 755 /opt; chmod 700 {HOME}; cp -a {PROJECT} {CLONE};"
            f"rm -rf {CLONE}/backend; chown -R root: {CLONE}; chmod -R go-w {CLONE};"
            f"cd {PROJECT}; rm -rf .venv bin deploy Makefile BACKUP.md requirements.txt",
            user="root",
        )
