"""Repositories on real servers, each on its own port on loopback: REST, SFTP and S3.

A server's port is that of a relay, which passes every byte on, and can act after a number of bytes, for example kill the
server. So "in the middle" is at the same place in every run.
"""

import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from free_ports import free_port
from site_folder import RESTIC, ROOT, Site


class Relay:
    """A listener that passes every connection on to `port`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._limit, self._then, self._passed = 0, lambda: None, 0
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def after(self, count: int, then: Callable[[], None]) -> None:
        """Call `then` when `count` more bytes have passed, either way."""
        self._passed, self._limit, self._then = 0, count, then

    def close(self) -> None:
        # it must have ended: accept() goes on with the descriptor of a closed socket, which may be the next relay's by then
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()  # the server is down
                continue
            for end in (client, server):  # otherwise small packets wait for each other
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(16384):
                target.sendall(block)
                with self._lock:
                    self._passed += len(block)
                    is_due = 0 < self._limit <= self._passed
                    if is_due:
                        self._limit = 0
                if is_due:
                    self._then()
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Remote:
    """A server with a repository for a test: `variables` are the settings with its address and credentials."""

    url: str
    variables: dict[str, str]
    wrong: dict[str, str]  # a wrong credential instead

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = f"secret-{secrets.token_hex(8)}"
        folder.mkdir(exist_ok=True)
        self._port = free_port()
        self.relay = Relay(self._port)
        self._process: subprocess.Popen | None = None
        self.is_frozen = False

    def start(self) -> None:
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environ(),
            )
        for _ in range(2000):
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the server does not listen")

    def kill(self) -> None:
        """Kill the server at once, with all processes that it has started."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    @property
    def shown(self) -> str:
        """The address as messages show it: without the secret."""
        return self.url.replace(self.secret, "***")

    @property
    def is_up(self) -> bool:
        return self._process.poll() is None

    @property
    def process(self) -> int:
        return self._process.pid

    def put(self, repository: Path) -> None:
        """Put a copy of `repository` on the server; its key is cheap."""
        shutil.copytree(repository, self.served, dirs_exist_ok=True)

    def stop(self) -> None:
        self.kill()
        self.relay.close()

    def freeze(self) -> None:
        """Stop the server's processes: it accepts connections, but does not answer."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill_after(self, count: int) -> None:
        """Kill it when `count` more bytes have passed."""
        self.relay.after(count, self.kill)

    def _signal(self, signum: int) -> None:
        if not self.is_up:
            return  # another process may have its ID by now
        # sshd's children begin sessions of their own
        for process in [self._process.pid, *_descendants(self._process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(process, signum)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environ(self) -> dict[str, str]:
        return dict(os.environ)


class Rest(Remote):
    """restic's own protocol, by `rclone serve restic`."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options
        self.served = folder / "served"
        self.served.mkdir()
        self.url = f"rest:http://dodeka:{self.secret}@127.0.0.1:{self.relay.port}/"
        self.variables = {"RESTIC_REPOSITORY": self.url}
        self.wrong = {"RESTIC_REPOSITORY": self.url.replace(self.secret, f"wrong-{self.secret}")}

    def _command(self) -> list[str]:
        listen = f"--addr=127.0.0.1:{self._port}"
        return [
            "rclone",
            "serve",
            "restic",
            listen,
            "--user=dodeka",
            f"--pass={self.secret}",
            *self.options,
            str(self.served),
        ]


class Sftp(Remote):
    """OpenSSH's server, as the user who runs the test. `bin/` has an ssh that reads this test's configuration."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.served = folder / "served"
        self.served.mkdir()
        for name in ("host", "key", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self._port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nPasswordAuthentication no\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        )
        if b"persourcepenalties" in Path("/usr/sbin/sshd").read_bytes():  # from 9.8 on
            # otherwise a client with a wrong key, or a killed one, delays all others: all tests have one address
            with open(folder / "sshd_config", "a") as config:
                config.write("PerSourcePenalties no\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        for name, key in (("bin", "key"), ("wrong", "stranger")):
            (folder / name).mkdir()
            config = folder / name / "config"
            config.write_text(
                f"IdentityFile {folder}/{key}\nIdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking no\n"
                "UserKnownHostsFile /dev/null\nLogLevel ERROR\n"
            )
            ssh = folder / name / "ssh"
            ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {config} "$@"\n')
            ssh.chmod(0o755)
        self.url = f"sftp://{user}@127.0.0.1:{self.relay.port}/{self.served}"
        self.variables = {"RESTIC_REPOSITORY": self.url, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        self.wrong = {**self.variables, "PATH": f"{folder}/wrong:{os.environ['PATH']}"}

    def _command(self) -> list[str]:
        return ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]


class AppendOnly(Sftp):
    """The off-site server of BACKUP.md: our key can only start rclone on it, append-only."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        key = (folder / "key.pub").read_text()
        rclone = f"{shutil.which('rclone')} serve restic --stdio --append-only {self.served}"
        (folder / "authorized_keys").write_text(f'restrict,command="{rclone}" {key}')
        config = folder / "sshd_config"
        config.write_text(config.read_text().replace(f"{folder}/key.pub", f"{folder}/authorized_keys"))
        account, _, _ = self.url.removeprefix("sftp://").rpartition(":")
        self.program = f"ssh -p {self.relay.port} {account}"
        self.url = "rclone:offsite:restic"
        self.variables = {
            "OFFSITE_REPOSITORY": self.url,
            "OFFSITE_OPTIONS": f"rclone.program={self.program}",
            "OFFSITE_RETENTION": "none",
            "PATH": self.variables["PATH"],
        }

    def restic(self, password: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """restic itself, as somebody would run it who has stolen the key and the password."""
        return subprocess.run(
            [RESTIC, f"--option=rclone.program={self.program}", *arguments],
            env={
                **os.environ,
                "PATH": self.variables["PATH"],
                "RESTIC_REPOSITORY": self.url,
                "RESTIC_PASSWORD": password,
                "RESTIC_CACHE_DIR": str(self.folder / "cache"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=6,  # enough for more than one attempt
        )


class S3(Remote):
    """An S3 API, by moto, which checks credentials. Everything is in memory, and lost when it is killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"s3:http://127.0.0.1:{self.relay.port}/bucket/restic"

    def start(self) -> None:
        super().start()
        client = {"region_name": "us-east-1", "endpoint_url": f"http://127.0.0.1:{self._port}"}
        client |= {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        import boto3  # slow, and only S3 needs it

        iam = boto3.client("iam", **client)
        iam.create_user(UserName="dodeka")
        allow = (
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
        )
        iam.put_user_policy(UserName="dodeka", PolicyName="all", PolicyDocument=allow)
        key = iam.create_access_key(UserName="dodeka")["AccessKey"]
        self.secret = key["SecretAccessKey"]
        self.variables = {
            "RESTIC_REPOSITORY": self.url,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }
        self.wrong = {**self.variables, "AWS_SECRET_ACCESS_KEY": f"wrong-{self.secret}"}

    def put(self, repository: Path) -> None:
        import boto3

        store = boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{self._port}",
            aws_access_key_id=self.variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.secret,
        )
        store.create_bucket(Bucket="bucket")
        for file in repository.rglob("*"):
            if file.is_file():
                key = f"restic/{file.relative_to(repository)}"
                store.put_object(Bucket="bucket", Key=key, Body=file.read_bytes())

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]

    def _environ(self) -> dict[str, str]:
        return {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3"}


KINDS = {"rest": Rest, "sftp": Sftp, "s3": S3}

# a script with short time limits: with its own ones the tests would take minutes
IMPATIENT_S = 8
IMPATIENT = """
import runpy, sys
sys.path.insert(0, {bin!r})
from dodeka_db.host import programs
from dodeka_db.restic import server_watch
server_watch.LOOK_S, server_watch.GIVE_UP_S, programs.PATIENCE_S = {look_s}, {patience_s}, 2
sys.argv = [{script!r}, *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""


def impatient(
    site: Site,
    script: str,
    *arguments: str,
    look_s: int = IMPATIENT_S,
    patience_s: int = IMPATIENT_S,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script of the site, with time limits of seconds instead of minutes for a server."""
    path = ROOT / "bin" / f"dodeka-db-{script}.py"
    return subprocess.run(
        [
            sys.executable,
            "-c",
            IMPATIENT.format(bin=str(path.parent), script=str(path), look_s=look_s, patience_s=patience_s),
            *arguments,
        ],
        env={**site.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def execute(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def fill(site: Site) -> None:
    """Give production 12 MB of data that does not compress."""
    execute(
        site.database(),
        "CREATE TABLE photos (photo BLOB)",
        *["INSERT INTO photos VALUES (randomblob(1000000))"] * 12,
    )


def _descendants(process: int) -> list[int]:
    try:
        children = [
            int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []
    return [*children, *(below for child in children for below in _descendants(child))]
