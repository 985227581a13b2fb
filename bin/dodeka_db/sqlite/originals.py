"""What must not be in a masked database: the names, addresses, numbers, dates and secrets of another one, looked for in bytes."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from urllib.parse import unquote

from dodeka_db import packages

# shorter names are looked for as whole words
SHORTEST_PART = 4
# shorter secrets, and shorter runs of digits, are not looked for: they stand everywhere
SHORTEST_SECRET = 8
SHORTEST_NUMBER = 4
DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%d-%m-%Y", "%d/%m/%Y", "%Y%m%d")
# in which a day is looked for
_DAY_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%d-%m-%Y", "%d/%m/%Y", "%d.%m.%Y", "%Y%m%d", "%d%m%Y")
# words of SQLite, of its schema and of JSON, and the domain of made-up addresses
WORDS_OF_THE_FORMAT = (
    *("SQLite format", "sqlite_autoindex_", "CREATE TABLE", "CREATE INDEX", "CREATE UNIQUE INDEX", "STRICT"),
    *("TEXT", "INTEGER", "BLOB", "PRIMARY KEY", "NOT NULL", "WITHOUT ROWID"),
    *("key", "counter", "expiration", "value", "true", "false", "null", "example.org"),
)
# whatever is no letter or digit ends a word; bytes from 0x80 on are parts of letters
_WORD_BYTES = bytes(byte if chr(byte).isalnum() or byte > 127 else 0x20 for byte in range(128)) + bytes(
    range(128, 256)
)
# letters and digits, and the accents that have no letter of their own
A_WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
# letters that no decomposition brings to a plain one
_PLAIN = str.maketrans(
    {"ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "\u0131": "i", "þ": "th", "ð": "d"}
)


def words_of(text: str) -> list[str]:
    """The runs of letters and digits in `text`."""
    return A_WORD.findall(unicodedata.normalize("NFC", text))


def folded(text: str) -> str:
    """`text` in small letters without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).translate(_PLAIN)


def parsed_date(text: str) -> tuple[datetime, str] | None:
    """The date in `text`, and its format; None if it is not a date."""
    for form in DATE_FORMATS:
        try:
            return datetime.strptime(text.strip(), form), form
        except ValueError:
            continue
    return None


class Originals:
    """Originals that can be found again in any letter case, with accents and without, in UTF-8 and as JSON and links escape them."""

    def __init__(self, values: Iterable[tuple[str, str]], kept_words: Iterable[str]) -> None:
        """`values`: how personal each is, a word of data_description.PERSONAL, and the text. SetupError if .venv lacks a package.

        A part of one of `kept_words`, in just these letters, is not taken for an original.
        """
        self._words: dict[bytes, str] = {}
        parts: dict[bytes, str] = {}
        for personal, text in values:
            for part, is_whole_word in _looked_for(personal, text):
                (self._words if is_whole_word else parts).update(dict.fromkeys(_forms(part), personal))
        self._parts, self._personal = list(parts), list(parts.values())
        names = [part for part in parts if part.isalpha()]
        self._without_last, self._without_first = {part[:-1] for part in names}, {part[1:] for part in names}
        self._lengths = range(SHORTEST_PART - 1, max(map(len, names), default=0))
        self._kept = [word.encode() for word in dict.fromkeys(kept_words) if word]
        # nothing but masking needs this package
        self._matcher = packages.load("ahocorasick_rs").BytesAhoCorasick(self._parts)
        self._where_kept = cache(self._where_in_kept_words)

    def parts_in(self, content: bytes) -> Iterator[tuple[int, int, str]]:
        """Begin and end of each original that is a part of anything in `content`, and how personal it is.

        Short originals are left out. A number counts where no digit stands in front of it or behind it.
        """
        small = content.lower()
        found: list[tuple[int, int, int]] = self._matcher.find_matches_as_indexes(small, overlapping=True)
        for index, start, end in found:
            part = self._parts[index]
            if part.isdigit() and (small[start - 1 : start].isdigit() or small[end : end + 1].isdigit()):
                continue
            if not self._is_kept(part, content, start):
                yield start, end, self._personal[index]

    def part_in(self, content: bytes) -> str:
        """How personal the first of the parts_in() is; "" if there is none."""
        return next((personal for _, _, personal in self.parts_in(content)), "")

    def word_in(self, content: bytes) -> str:
        """How personal an original is that stands in `content` as a whole word; "" if there is none. Only short ones, and secrets."""
        small = content.lower()
        for word in self._words.keys() & set(small.translate(_WORD_BYTES).split()):
            whole = re.compile(rb"(?<![0-9a-z\x80-\xff])%s(?![0-9a-z\x80-\xff])" % re.escape(word))
            if not all(self._is_kept(word, content, match.start()) for match in whole.finditer(small)):
                return self._words[word]
        return ""

    def any_in(self, content: bytes) -> str:
        """How personal an original is that stands in `content`, the text of rows: in a word or as one, escaped or not; or ""."""
        found = self.part_in(content) or self.word_in(content)
        if found or (content.isascii() and b"\\u" not in content and b"%" not in content):
            return found
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), content.decode(errors="replace"))
        plain = folded(unquote(text)).encode(errors="replace")
        return self.part_in(plain) or self.word_in(plain)

    def is_begun_by(self, content: bytes) -> bool:
        """Whether the end of `content`, in small letters, is a name without its last letter."""
        return any(content[-length:] in self._without_last for length in self._lengths)

    def is_ended_by(self, content: bytes) -> bool:
        """Whether the beginning of `content`, in small letters, is a name without its first letter."""
        return any(content[:length] in self._without_first for length in self._lengths)

    def _is_kept(self, part: bytes, content: bytes, start: int) -> bool:
        return any(
            start >= offset and content.startswith(word, start - offset)
            for word, offset in self._where_kept(part)
        )

    def _where_in_kept_words(self, part: bytes) -> list[tuple[bytes, int]]:
        """Each of the words that has `part` in it, and where."""
        return [
            (word, match.start())
            for word in self._kept
            for match in re.finditer(rb"(?=%s)" % re.escape(part), word.lower())
        ]


def _looked_for(personal: str, text: str) -> Iterator[tuple[str, bool]]:
    """What of an original is looked for, and whether as a whole word."""
    text = text.strip()
    if personal in ("name", "user ID"):
        # the number of a user ID alone is nobody's name
        for word in words_of(re.sub(r"\A\d+_", "", text) if personal == "user ID" else text):
            if len(word) >= SHORTEST_PART:
                yield word, False
            elif not word.isdigit():
                yield word, True
    elif personal == "secret":
        if len(text) >= SHORTEST_SECRET:
            yield text, text.isascii() and text.isalnum()
    elif len(text) >= SHORTEST_NUMBER:
        yield text, False
        if personal == "date" and (parsed := parsed_date(text)):
            yield from ((parsed[0].strftime(form), False) for form in _DAY_FORMATS)


def _forms(text: str) -> set[bytes]:
    """The bytes that `text` can be in a database, whose letters from A to Z are made small."""
    forms = {folded(text)}
    if not text.isascii():
        for way in ("NFC", "NFD"):
            normal = unicodedata.normalize(way, text)
            for form in (normal.lower(), normal.upper(), normal.capitalize()):
                forms |= {form, json.dumps(form)[1:-1]}
    return {form.encode(errors="replace").lower() for form in forms if form}
