"""Made-up values for a masked database: an original always gets the same one, and none is an original."""

import hashlib
import re
import string
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import chain, count, islice

from dodeka_db.errors import BackupError
from dodeka_db.sqlite.originals import A_WORD, Originals, folded, parsed_date, words_of

DOMAIN = "example.org"
# a made-up date is not further from the true one, if one of these days is nobody's
DATE_DAYS = 42
_MAX_TRIES = 1000
_AGAIN = "try again: the next masked copy has others"
# what is in front of the @ has 64 characters at most (RFC 5321, 4.5.3.1.1)
_WORDS_OF_AN_ADDRESS = 4
# after so many tries a value gets longer
_TRIES_A_LENGTH = 20
_USER_ID = re.compile(r"(\d+)_(.+)", re.DOTALL)
# syllables begin with a consonant: so a word goes on with nothing that stands in front of it
_BEGINNINGS = (*"bdfghjklmnprstvwz", "br", "dr", "kl", "kr", "pl", "st", "tr", "vl", "vr", "zw")
_MIDDLES = ("a", "e", "i", "o", "aa", "ee", "oo", "ie", "ei")
_ENDINGS = (
    *("l", "m", "n", "r", "s", "t", "ld", "nd", "rd", "lt", "nt", "rt", "st", "ls", "ns", "rs", "ks", "rk"),
)


def _of_bytes(letters: str) -> bytes:
    return bytes(ord(letters[byte % len(letters)]) for byte in range(256))


# what a secret is made of, and from a byte to a letter of the made-up one; no digit among letters: nothing may look like a number
_ALPHABETS = (
    (frozenset(string.digits), _of_bytes(string.digits)),
    (frozenset(string.hexdigits), _of_bytes("abcdef")),
)
_ANY_LETTER = _of_bytes(string.ascii_lowercase)


class NotMadeUpError(Exception):
    """Why there is no made-up value, in words without any of the original."""


class MadeUpValues:
    """Made-up values by a key; by another key they are others.

    Two originals never get the same value, apart from dates. Names that differ in letter case or accents are one original, and so
    are addresses that differ in letter case.
    """

    def __init__(
        self,
        key: bytes,
        originals: Originals,
        by_personal: Mapping[str, Collection[str]],
        fronts: Iterable[str] = (),
    ) -> None:
        """`key`: up to 64 bytes. `by_personal`: the same originals, those too that are too short to be looked for.

        `fronts` are texts that can stand right in front of a value in the file: nothing that goes from one into the other may
        look like an original.
        """
        self._key, self._originals = key, originals
        self._fronts = [front.encode() for front in dict.fromkeys(("", *fronts, DOMAIN))]
        self._known: dict[tuple[str, str], str] = {}
        self._taken: set[tuple[str, str]] = set()
        self._by_personal = by_personal
        numbers = {match[1] for one in by_personal.get("user ID", ()) if (match := _USER_ID.fullmatch(one))}
        given = self._numbers_to_give(numbers)
        shuffled = sorted(given, key=lambda number: self._digest("number of a user", number, 0))
        self._user_numbers = dict(zip(sorted(numbers), shuffled, strict=True))
        parsed = (parsed_date(one) for one in by_personal.get("date", ()))
        self._days = {moment.toordinal() for moment, _ in filter(None, parsed)}

    def fits(self, personal: str, text: str) -> bool:
        """Whether `text` can be a value that is `personal` in this way, by its form."""
        match personal:
            case "user ID":
                return bool(_USER_ID.fullmatch(text))
            case "address":
                return "@" in text
            case "number" | "next user":
                return _is_number(text)
            case "date":
                return parsed_date(text) is not None
        return True

    def of(self, personal: str, text: str, names: Callable[[], Sequence[str]] = tuple) -> str:
        """What stands for `text`, which is not empty, and `personal` in that way (a word of data_description.PERSONAL, not "no").

        An address is made of what stands for the `names`, names or user IDs, if there are any. The number of the next user stays,
        if it is nobody's, and higher than every made-up one. Raises NotMadeUpError if `text` is not a number or a date.
        Raises BackupError if every value that was tried is an original.
        """
        known = self._known.get((personal, text))
        if known is None:
            known = self._known[personal, text] = self._made(personal, text, names)
        return known

    def _made(self, personal: str, text: str, names: Callable[[], Sequence[str]]) -> str:
        match personal:
            case "name":
                return A_WORD.sub(lambda match: self._word(match[0]), unicodedata.normalize("NFC", text))
            case "user ID":
                return self._user_id(text)
            case "address":
                return self._address(text, names)
            case "number":
                return self._number(text)
            case "date":
                return self._date(text)
            case "next user":
                return self._next_user(text)
        return self._secret(text)

    def _word(self, word: str) -> str:
        is_short = len(word) < 4

        def candidate(digest: int, attempt: int) -> str:
            made = ""
            for _ in range((1 if is_short else 2) + attempt // _TRIES_A_LENGTH):
                for letters in (_BEGINNINGS, _MIDDLES):
                    digest, at = divmod(digest, len(letters))
                    made += letters[at]
            return made + _ENDINGS[digest % len(_ENDINGS)]

        made = self._chosen("word", folded(word), candidate)
        if word.isupper() and len(word) > 1:
            return made.upper()
        return made.capitalize() if word[0].isupper() else made

    def _user_id(self, text: str) -> str:
        match = _USER_ID.fullmatch(text)
        if not match:  # words alone, of which no two become one
            return self.of("name", text)
        return f"{self._user_numbers[match[1]]}_{self.of('name', match[2])}"

    def _numbers_to_give(self, numbers: Collection[str]) -> list[str]:
        """As many numbers of users as `numbers`: the same, since none of them is as high as the next new one.

        But a number that is also somebody's in another way would be found as that: in its place there is the lowest one that
        is nobody's.
        """
        given = [number for number in numbers if self._is_nobodys(number)]
        others = (text for text in map(str, count()) if text not in numbers and self._is_nobodys(text))
        return given + list(islice(others, len(numbers) - len(given)))

    def _next_user(self, text: str) -> str:
        _check_number(text)
        lowest = max(int(text), *(int(number) + 1 for number in self._user_numbers.values()), 0)
        return next(number for number in map(str, count(lowest)) if self._is_nobodys(number))

    def _is_nobodys(self, number: str) -> bool:
        return not self._originals.part_in(number.encode())

    def _address(self, text: str, names: Callable[[], Sequence[str]]) -> str:
        normal = text.strip().lower()
        known = self._known.get(("address", normal))
        if known is not None:
            return known
        of_names = [_USER_ID.sub(r"\2", name) for name in names()]
        words = [word for name in of_names for word in words_of(self.of("name", name).lower())]
        words = words[:_WORDS_OF_AN_ADDRESS] or [
            self._word(f"{part} of {normal}") for part in ("first", "last")
        ]

        def candidate(digest: int, attempt: int) -> str:
            # two members of one name are told apart by a number
            number = [str(digest % 10 ** (2 + attempt // 2))] if attempt else []
            local = [*words, *number] if attempt % 2 == 0 else [*number, *words]
            return f"{'.'.join(local)}@{DOMAIN}"

        return self._chosen("address", normal, candidate)

    def _number(self, text: str) -> str:
        _check_number(text)

        def candidate(digest: int, attempt: int) -> str:
            lowest = 10 ** (len(text) - 1 + attempt // _TRIES_A_LENGTH)
            return str(lowest + digest % (9 * lowest))

        return self._chosen("number", text, candidate)

    def _date(self, text: str) -> str:
        parsed = parsed_date(text)
        if not parsed:
            raise NotMadeUpError("it is not a date")
        moment, form = parsed
        for day in self._free_days(moment.date(), self._digest("date", str(moment.date()), 0)):
            made = datetime.combine(day, moment.time()).strftime(form)
            if not self._originals.any_in(made.encode()):
                return made
        raise BackupError("no made-up date was found: every day is the date of somebody", _AGAIN)

    def _free_days(self, true: date, digest: int) -> Iterator[date]:
        """The days that are nobody's: those near the `true` one, in an order of their own, and then further and further away."""
        # nobody is born tomorrow
        last = (date.today() if true <= date.today() else date.max).toordinal()
        first = true.toordinal()
        near = list(range(first - DATE_DAYS, first + DATE_DAYS + 1))
        start = digest % len(near)
        further = (
            first + sign * days for days in range(DATE_DAYS + 1, date.max.toordinal()) for sign in (-1, 1)
        )
        for day in chain(near[start:], near[:start], further):
            if 0 < day <= last and day not in self._days:
                yield date.fromordinal(day)

    def _secret(self, text: str) -> str:
        table = next((table for letters, table in _ALPHABETS if letters.issuperset(text)), _ANY_LETTER)

        def candidate(digest: int, attempt: int) -> str:
            length = len(text) + attempt // _TRIES_A_LENGTH
            return hashlib.shake_256(digest.to_bytes(64)).digest(length).translate(table).decode()

        return self._chosen("secret", text, candidate)

    def _chosen(self, personal: str, normal: str, candidate: Callable[[int, int], str]) -> str:
        """The made-up value that `normal` has, or gets now: the first candidate that is nobody's."""
        known = self._known.get((personal, normal))
        if known is not None:
            return known
        for attempt in range(_MAX_TRIES):
            made = candidate(self._digest(personal, normal, attempt), attempt)
            is_taken = (personal, made) in self._taken or made in self._by_personal.get(personal, ())
            if not is_taken and not self._is_somebodys(made, personal):
                self._taken.add((personal, made))
                self._known[personal, normal] = made
                return made
        what = f"each of {_MAX_TRIES} looks like somebody's"
        raise BackupError(f"no made-up value ({personal}) was found: {what}", _AGAIN)

    def _is_somebodys(self, made: str, personal: str) -> bool:
        """Whether it looks like an original, alone or with what can stand beside it in the file.

        In front of a value and behind it SQLite writes its length, which can be a letter: behind a word, which ends a user ID; in
        front of an address; on both sides of a secret. What is one long word has no short original in it.
        """
        content = made.encode()
        return bool(
            self._originals.part_in(b" ".join(front + content for front in self._fronts))
            or (personal in ("word", "address") and self._originals.word_in(content))
            or (personal in ("word", "secret") and self._originals.is_begun_by(content))
            or (personal in ("address", "secret") and self._originals.is_ended_by(content))
        )

    def _digest(self, personal: str, text: str, attempt: int) -> int:
        said = f"{personal}\0{attempt}\0{text}".encode(errors="surrogatepass")
        return int.from_bytes(hashlib.blake2b(said, key=self._key).digest(), "big")


def _check_number(text: str) -> None:
    if not _is_number(text):
        raise NotMadeUpError("it is not a number of digits alone")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
