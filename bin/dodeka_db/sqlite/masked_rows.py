"""The rules of masking: a row with made-up values in the place of what is personal, by deploy/data.toml."""

import json
import re
from collections import Counter
from collections.abc import Sequence

from dodeka_db.data_description import Fields, Kind, Pattern, Table, Text
from dodeka_db.sqlite.made_up_values import MadeUpValues, NotMadeUpError


class NotMaskedError(Exception):
    """Why a row cannot be masked: its form of key, or its field, without any of the content."""


class RowMask:
    """Masks row by row. `replaced` counts the values that were replaced, by how personal they are."""

    def __init__(self, values: MadeUpValues) -> None:
        self.replaced: Counter[str] = Counter()
        self._values = values
        # the row that is being masked, and its sort
        self._pattern: Pattern
        self._row: tuple[str, bytes | str]

    def masked(self, table: Table, key: str, value: bytes | str) -> tuple[str, bytes | str]:
        """The masked key and value; a value stays text or bytes. Raises NotMaskedError, or BackupError as MadeUpValues.of() does.

        A field of a text, and whatever JSON it holds, becomes an empty text. Numbers of JSON stay numbers. What is empty stays empty.
        """
        for pattern in table.patterns:
            if match := pattern.expression.fullmatch(key):
                self._pattern, self._row = pattern, (key, value)
                return self._key(match), self._value(value)
        raise NotMaskedError(f"a key of the form {_form(key)} fits no line of the description")

    def _key(self, match: re.Match[str]) -> str:
        made, group = "", 0
        for part in self._pattern.parts:
            if isinstance(part, Kind):
                group += 1
                text = match[group]
                made += text if part.personal == "no" else self._made_up("key", part.personal, text)
            else:
                made += part
        return made

    def _value(self, value: bytes | str) -> bytes | str:
        shape = self._pattern.value
        try:
            text = value if isinstance(value, str) else value.decode()
            found = json.loads(text) if isinstance(shape, Fields) else text
        except (ValueError, RecursionError) as error:
            raise self._refused("value", "it is not what the description says") from error
        masked = self._masked("value", shape, found)
        made = json.dumps(masked) if isinstance(shape, Fields) else str(masked)
        return made if isinstance(value, str) else made.encode()

    def _masked(self, place: str, shape: Text | Fields, found: object) -> object:
        if isinstance(shape, Text):
            return self._field(place, shape.kinds, found)
        if not isinstance(found, dict):
            raise self._refused(place, "it is not a JSON object")
        masked = {}
        for name, field in found.items():
            if name not in shape.by_name:
                raise self._refused(f"{place}.{name}", "it is not described")
            masked[name] = self._masked(f"{place}.{name}", shape.by_name[name], field)
        return masked

    def _field(self, place: str, kinds: Sequence[Kind], found: object) -> object:
        if found is None or found == "":
            return found
        if not kinds:
            raise self._refused(place, "it is not empty")
        personal = kinds[0].personal if len(kinds) == 1 else self._which(kinds, found)
        if personal == "text":
            self.replaced["text"] += 1
            return ""
        if isinstance(found, dict | list):
            raise self._refused(place, "it is more than one value")
        if personal == "no":
            return found
        if isinstance(found, str):
            return self._made_up(place, personal, found)
        if type(found) is not int or personal not in ("number", "secret", "next user"):
            raise self._refused(place, "it is neither a text nor a number that stands for a person")
        return int(self._made_up(place, "number" if personal == "secret" else personal, str(found)))

    def _which(self, kinds: Sequence[Kind], found: object) -> str:
        """How personal a value is that may be of several kinds: as the first of them whose form it has."""
        there = [kind.personal for kind in kinds]
        if "text" in there:
            return "text"
        return next((one for one in there if self._values.fits(one, str(found))), there[-1])

    def _made_up(self, place: str, personal: str, text: str) -> str:
        self.replaced[personal] += 1
        try:
            return self._values.of(personal, text, self._names)
        except NotMadeUpError as error:
            raise self._refused(place, str(error)) from error

    def _names(self) -> list[str]:
        """The user ID in this row; if it has none, the names."""
        key, value = self._row
        row = self._pattern.read(key, value if isinstance(value, bytes) else value.encode())
        contents = row.contents if row else ()
        for personal in ("user ID", "name"):
            if found := [one.text for one in contents if {kind.personal for kind in one.kinds} == {personal}]:
                return found
        return []

    def _refused(self, place: str, why: str) -> NotMaskedError:
        return NotMaskedError(f"{place} of {self._pattern.key}: {why}")


def _form(key: str) -> str:
    """A key without its content: 'a' for letters, '9' for digits, and the rest as it is."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", key))
