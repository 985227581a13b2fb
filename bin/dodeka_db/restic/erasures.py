"""An erasure: that a member is to stay out of older snapshots. It is a snapshot without a database, and all of it is in its tags.

restic encrypts the tags as it does everything else, copies them, and prints those of all snapshots in one call: so the list of
erasures is read where the snapshots are listed, is as safe as they are, and needs no file and no key of its own.
"""

import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from dodeka_db.settings import ENVIRONMENTS

# the tag of these snapshots, and the name of the file in them
TAG = "erasures"
FILE = "dodeka-erasure"
# of the hash, in hex; enough to tell two members apart
_DIGITS = 32
_KEY_BYTES = 32
Tags = tuple[str, ...]


@dataclass(frozen=True)
class Erasure:
    """A member of `environment`, erased at `time` (aware), by keyed hashes of the names by which rows are found.

    `hashes` are by the name of a kind of deploy/data.toml. `key` is the key of the hashes.
    """

    environment: str
    time: datetime
    key: bytes
    hashes: Mapping[str, frozenset[str]]

    @property
    def tags(self) -> Tags:
        """All of it as restic's tags, sorted. A tag cannot have a comma in it."""
        hashes = [f"hash_{quote(kind, safe='')}_{one}" for kind, held in self.hashes.items() for one in held]
        time = f"erased_{self.time.astimezone(UTC).isoformat()}"
        return tuple(sorted((TAG, f"env_{self.environment}", time, f"key_{self.key.hex()}", *hashes)))


def new_key() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)


def hashed(key: bytes, kind: str, text: str) -> str:
    """The hash of a normal `text` of that kind (HMAC-SHA-256, cut short)."""
    return hmac.digest(key, f"{kind}\0{text}".encode(errors="surrogatepass"), "sha256").hex()[:_DIGITS]


def of_names(environment: str, time: datetime, key: bytes, names: Iterable[tuple[str, str]]) -> Erasure:
    """The erasure of the member with these names, each a kind and a normal text."""
    hashes: dict[str, set[str]] = {}
    for kind, text in names:
        hashes.setdefault(kind, set()).add(hashed(key, kind, text))
    return Erasure(environment, time, key, {kind: frozenset(held) for kind, held in hashes.items()})


def from_tags(tags: Iterable[str]) -> Erasure:
    """The erasure in the tags of a snapshot. Raises ValueError if it is not a whole one."""
    found: dict[str, list[str]] = {}
    for tag in tags:
        word, _, value = tag.partition("_")
        found.setdefault(word, []).append(value)
    hashes: dict[str, set[str]] = {}
    for one in found.get("hash", ()):
        kind, _, digits = one.rpartition("_")
        if len(bytes.fromhex(digits)) * 2 != _DIGITS:
            raise ValueError(one)
        hashes.setdefault(unquote(kind), set()).add(digits)
    held = [found.get(word, []) for word in ("env", "erased", "key")]
    if [len(values) for values in held] != [1, 1, 1]:
        raise ValueError(held)
    environment, time, key = (values[0] for values in held)
    when = datetime.fromisoformat(time)
    if environment not in ENVIRONMENTS or when.tzinfo is None or not hashes or not key:
        raise ValueError(environment)
    return Erasure(
        environment, when, bytes.fromhex(key), {kind: frozenset(held) for kind, held in hashes.items()}
    )
