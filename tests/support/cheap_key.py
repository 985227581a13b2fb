"""Make the keys of a test's repository cheap to derive: cheap_key.py REPOSITORY PASSWORD_FILE.

Every start of restic derives a key with scrypt, which takes half a second by design, and one more for each other key that
it tries first; the tests start restic some thousand times. So the master key is sealed again with N=2: repository and restic
are the same, only the password would be quick to guess. The format is restic's, described in
https://restic.readthedocs.io/en/stable/100_references.html#keys-encryption-and-mac
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

CHEAP = {"N": 2, "r": 1, "p": 1}
# for what is measured: half a second, as `restic init` wants it; itself it chooses less where the machine is busy just then
USUAL = {"N": 32768, "r": 8, "p": 8}


def add(repository: Path, password: str, new: str, name: str) -> None:
    """Add a key, as `restic key add` does, which takes three seconds to measure how costly the key may be."""
    for file in (repository / "keys").iterdir():
        key = json.loads(file.read_text())
        if master := _open(key, password):
            created = datetime.now(UTC).isoformat()
            about = {"username": name, "hostname": name, "created": created}
            _write(repository, {**key, **about, **CHEAP}, master, new)
            return
    raise AssertionError("the password opens no key")


def reseal(repository: Path, password: str, cost: Mapping[str, int] = CHEAP) -> None:
    """Make the key that `password` opens one of that `cost`; keys of other passwords, and one that has it already, stay."""
    for file in (repository / "keys").iterdir():
        key = json.loads(file.read_text())
        if cost.items() <= key.items():
            continue
        if master := _open(key, password):
            _write(repository, {**key, **cost}, master, password)
            file.unlink()


def _open(key: dict, password: str) -> bytes | None:
    """The repository's master key; None if `key` has another password."""
    salt, sealed = base64.b64decode(key["salt"]), base64.b64decode(key["data"])
    encrypt, mac_k, mac_r = _derive(password, salt, key)
    nonce, ciphertext, mac = sealed[:16], sealed[16:-16], sealed[-16:]
    return (
        _aes("aes-256-ctr", encrypt, ciphertext, nonce)
        if _poly1305_aes(mac_k, mac_r, nonce, ciphertext) == mac
        else None
    )


def _write(repository: Path, key: dict, master: bytes, password: str) -> None:
    salt, nonce = os.urandom(64), os.urandom(16)
    encrypt, mac_k, mac_r = _derive(password, salt, key)
    ciphertext = _aes("aes-256-ctr", encrypt, master, nonce)
    data = nonce + ciphertext + _poly1305_aes(mac_k, mac_r, nonce, ciphertext)
    text = {"salt": base64.b64encode(salt).decode(), "data": base64.b64encode(data).decode()}
    content = json.dumps({**key, **text}).encode()
    (repository / "keys" / hashlib.sha256(content).hexdigest()).write_bytes(content)


def _derive(password: str, salt: bytes, key: dict) -> tuple[bytes, bytes, bytes]:
    numbers = {name.lower(): key[name] for name in CHEAP}
    derived = hashlib.scrypt(password.encode(), salt=salt, **numbers, maxmem=2**30, dklen=64)
    return derived[:32], derived[32:48], derived[48:]


def _aes(cipher: str, key: bytes, data: bytes, iv: bytes | None = None) -> bytes:
    arguments = ["openssl", "enc", f"-{cipher}", "-K", key.hex(), "-nopad"]
    if iv:
        arguments += ["-iv", iv.hex()]
    return subprocess.run(arguments, input=data, capture_output=True, check=True).stdout


def _poly1305_aes(k: bytes, r: bytes, nonce: bytes, message: bytes) -> bytes:
    # https://cr.yp.to/mac/poly1305-20050329.pdf
    clamped = int.from_bytes(r, "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    accumulator = 0
    for start in range(0, len(message), 16):
        block = int.from_bytes(message[start : start + 16] + b"\1", "little")
        accumulator = (accumulator + block) * clamped % (2**130 - 5)
    pad = int.from_bytes(_aes("aes-128-ecb", k, nonce), "little")
    return ((accumulator + pad) % 2**128).to_bytes(16, "little")


if __name__ == "__main__":
    reseal(Path(sys.argv[1]), Path(sys.argv[2]).read_text().strip())
