"""Give a test's repository a key that is cheap to derive.

Every start of restic derives the key with scrypt, tuned to take half a second of a processor; the tests
start it some hundred times. So the master key is sealed again under N=2: the same repository, the same
restic, only a password that would be quick to guess. The format is restic's, described in
https://restic.readthedocs.io/en/stable/100_references.html#keys-encryption-and-mac
"""

import base64
import hashlib
import json
import subprocess
from pathlib import Path


def reseal(repository: Path, password: str) -> None:
    (file,) = (repository / "keys").iterdir()
    key = json.loads(file.read_text())
    salt, sealed = base64.b64decode(key["salt"]), base64.b64decode(key["data"])

    encrypt, mac_k, mac_r = _derive(password, salt, key["N"], key["r"], key["p"])
    nonce, ciphertext, mac = sealed[:16], sealed[16:-16], sealed[-16:]
    assert _poly1305_aes(mac_k, mac_r, nonce, ciphertext) == mac, "the key was not understood"
    master = _aes("aes-256-ctr", encrypt, ciphertext, nonce)

    key.update(N=2, r=1, p=1)
    encrypt, mac_k, mac_r = _derive(password, salt, 2, 1, 1)
    ciphertext = _aes("aes-256-ctr", encrypt, master, nonce)
    mac = _poly1305_aes(mac_k, mac_r, nonce, ciphertext)
    key["data"] = base64.b64encode(nonce + ciphertext + mac).decode()

    content = json.dumps(key).encode()
    file.unlink()
    (file.parent / hashlib.sha256(content).hexdigest()).write_bytes(content)


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> tuple[bytes, bytes, bytes]:
    derived = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2**30, dklen=64)
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
