"""The description of the backend's data, deploy/data.toml: what belongs to a member, what is personal, what is of the moment.

The words of the file are explained at its head and in docs/data.md. Whatever needs the name of a table reads it here.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from dodeka_db import safe_open
from dodeka_db.errors import SetupError
from dodeka_db.log import log
from dodeka_db.settings import ROOT

FILE = ROOT / "deploy" / "data.toml"
# how personal a kind can be: "no" and "next user" are not at all; a "text" may be anything that JSON can hold
PERSONAL = ("no", "next user", "user ID", "address", "name", "number", "date", "secret", "text")
# so many characters of a token tell which one it is, and open nothing
SECRET_CHARACTERS = 8
# the share of its rows that a table may lose where nothing else is said
MAY_LOSE = 0.5
_KIND = re.compile(r"<([^<>]*)>")
# in the order in which a message lists them
_WORDS = ("kinds", "members", "tables", "clone")
_NEEDED_WORDS = ("kinds", "members", "tables")
_WORDS_OF_MEMBERS = ("table", "known_by")
_WORDS_OF_A_TABLE = (
    *("moment", "backend", "bring_back", "may_lose", "not_in_clones", "found_by", "tells", "rows"),
)
_WORDS_OF_THE_BACKEND = ("will", "each", "if")
_WORDS_OF_CLONES = ("words", "login")
_WORDS_OF_A_LOGIN = ("table", "role", "password", "value")


@dataclass(frozen=True)
class Kind:
    """What can stand in a key or a value; `personal` is one of PERSONAL."""

    name: str
    personal: str

    @property
    def is_personal(self) -> bool:
        """Whether it tells about a person, or opens something."""
        return self.personal not in ("no", "next user")

    @property
    def is_looked_for(self) -> bool:
        """Whether a masked clone is refused if such a value of its source is in it."""
        return self.is_personal and self.personal != "text"

    def normal(self, text: str) -> str:
        """`text` as two of them are compared: the backend keeps addresses in small letters."""
        return text.strip().lower() if self.personal == "address" else text


@dataclass(frozen=True)
class Text:
    """A value, or a field of one, that is of one of `kinds`; without kinds it is empty."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Fields:
    """A JSON object with these fields."""

    by_name: Mapping[str, "Text | Fields"]


@dataclass(frozen=True)
class Content:
    """What stands at one place of a row: "key", "value", or a field, "value.firstname".

    `text` is what stands there; a number as JSON writes it, JSON where it is more than one value.
    """

    place: str
    kinds: tuple[Kind, ...]
    text: str


@dataclass(frozen=True)
class Row:
    """The contents of a row, and what in it the description does not know, in words without any of the content."""

    contents: tuple[Content, ...]
    unknown: tuple[str, ...] = ()


# a row of no sort that the description knows
UNKNOWN = Row((), ("a key that fits no line of the description",))


@dataclass(frozen=True)
class Pattern:
    """One sort of rows: `key` as the file has it, split into `parts`, which are literal text or a kind; and the value."""

    key: str
    parts: tuple[str | Kind, ...]
    value: Text | Fields

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """What a key of this sort matches, with one group for each kind."""
        return re.compile(
            "".join(re.escape(part) if isinstance(part, str) else "(.+?)" for part in self.parts), re.DOTALL
        )

    @cached_property
    def key_kinds(self) -> tuple[Kind, ...]:
        """The kinds in the key, one for each group of the expression."""
        return tuple(part for part in self.parts if isinstance(part, Kind))

    def read(self, key: str, value: bytes) -> Row | None:
        """The row; None if the key is not of this sort."""
        match = self.expression.fullmatch(key)
        if not match:
            return None
        found_in_key = zip(self.key_kinds, match.groups(), strict=True)
        contents = [Content("key", (kind,), text) for kind, text in found_in_key]
        unknown: list[str] = []
        try:
            text = value.decode()
            found = json.loads(text) if isinstance(self.value, Fields) else text
        except (ValueError, RecursionError):
            return Row(tuple(contents), ("a value that is not what the description says",))
        contents += _contents("value", self.value, found, unknown)
        return Row(tuple(contents), tuple(unknown))

    def places(self) -> Iterator[tuple[str, Kind]]:
        """Each place of such a row with a kind that can stand there."""
        yield from (("key", kind) for kind in self.key_kinds)
        yield from _places("value", self.value)


@dataclass(frozen=True)
class Action:
    """What the backend does with the rows of a table: it `will` "send" `each` "mail" whose fields have the texts of `condition`."""

    will: str
    each: str
    condition: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table: its sorts of rows, by which kinds a row is found for a member, and which kinds such a row tells.

    `may_lose`: the share of its rows, 0 to 1, that it may lose from one run to the next without anybody being told.
    `can_come_back`: whether single rows that are missing may be brought back; never those of the moment.
    `action` is what the backend does with its rows by itself, if it does anything. `not_in_clones`: sorts of rows that a clone
    does without, as it does without all rows of the moment.
    """

    name: str
    patterns: tuple[Pattern, ...]
    is_of_the_moment: bool = False
    action: Action | None = None
    can_come_back: bool = True
    may_lose: float = MAY_LOSE
    found_by: tuple[Kind, ...] = ()
    tells: tuple[Kind, ...] = ()
    not_in_clones: tuple[Pattern, ...] = ()

    @property
    def is_of_members(self) -> bool:
        """Whether its rows belong to members, and not just for the moment."""
        return bool(self.found_by) and not self.is_of_the_moment

    def read(self, key: str, value: bytes) -> Row:
        """The row by the first pattern that its key fits."""
        for pattern in self.patterns:
            if row := pattern.read(key, value):
                return row
        return UNKNOWN

    def is_left_out_of_clones(self, key: str) -> bool:
        """Whether a clone does without the row with this key."""
        if self.is_of_the_moment:
            return True
        first = next((pattern for pattern in self.patterns if pattern.expression.fullmatch(key)), None)
        return first in self.not_in_clones

    def is_acted_on(self, key: str, value: bytes) -> bool:
        """Whether the backend acts on this row by itself, if the row has not expired."""
        if not self.action or not self.action.condition:
            return bool(self.action)
        held = {one.place: one.text for one in self.read(key, value).contents}
        return all(held.get(f"value.{field}") == text for field, text in self.action.condition.items())

    def personal(self) -> Iterator[tuple[str, str, Kind]]:
        """What is personal in the table: the key of the sort of rows, the place in the row, the kind."""
        for pattern in self.patterns:
            yield from ((pattern.key, place, kind) for place, kind in pattern.places() if kind.is_personal)


@dataclass(frozen=True)
class Login:
    """The password that one user of each role gets in a masked clone: `value`, JSON, in a row of the sort `password` of `table`.

    The key of a row of the sort `role` names a user and a role that the user has.
    """

    table: Table
    role: Pattern
    password: Pattern
    value: str


@dataclass(frozen=True)
class DataDescription:
    """The whole file: `members` has one row for each member, who is known by `known_by`.

    `kept_words` may stand in a masked clone although somebody is called so. `login` is None if masked clones have none.
    """

    file: Path
    kinds: Mapping[str, Kind]
    tables: Mapping[str, Table]
    members: Table
    known_by: Kind
    kept_words: tuple[str, ...] = ()
    login: Login | None = None

    def named(self, table: str) -> Table | None:
        """The table that SQLite, and so the backend, finds by this name, in whatever letter case; None if there is none."""
        return self._by_small_name.get(table.lower())

    def count_of_members(self, rows: Mapping[str, int | None]) -> int | None:
        """The number of members by the `rows` of each table of a database; None if it is not known."""
        return next((count for name, count in rows.items() if self.named(name) == self.members), None)

    def shown_key(self, table: str, key: str) -> str:
        """The key of a row of `table` for a message: of one that opens something, only its beginning."""
        return f"{key[:SECRET_CHARACTERS]}..." if self.named(table) in self._with_secret_keys else key

    @cached_property
    def _by_small_name(self) -> Mapping[str, Table]:
        return {name.lower(): table for name, table in self.tables.items()}

    @cached_property
    def _with_secret_keys(self) -> list[Table]:
        return [
            table
            for table in self.tables.values()
            for pattern in table.patterns
            if any(place == "key" and kind.personal == "secret" for place, kind in pattern.places())
        ]


def read(file: Path = FILE) -> DataDescription:
    """The description in `file`. Raises SetupError, in words that name the table and the word, if something is wrong in it."""
    try:
        with open(file, "rb", opener=safe_open.regular) as opened:
            content = opened.read()
    except OSError as error:
        raise SetupError(
            f"data description {file} cannot be read: {error.strerror}", f"look with: ls -l {file}"
        ) from error
    return _parsed(file, content)


def read_or_warn(what: str) -> DataDescription | None:
    """The description; None, with the warning `what`, in which %s stands for the mistake, if there is one in the file."""
    try:
        return read()
    except SetupError as error:
        log.warning(what, error)
        return None


@lru_cache(maxsize=1)  # one run asks several times
def _parsed(file: Path, content: bytes) -> DataDescription:
    at = _Place(file)
    try:
        found = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise at.wrong(f"this is not TOML: {error}") from error
    at.check_words(found, _WORDS, needed=_NEEDED_WORDS)
    kinds = {}
    at_kinds, at_members = at.of("kinds"), at.of("members")
    for name, personal in at_kinds.table(found["kinds"]).items():
        if personal not in PERSONAL:
            raise at_kinds.of(name).wrong(f"it must be one of: {', '.join(PERSONAL)}")
        kinds[name] = Kind(name, personal)
    tables = {
        name: _table(_Place(file, name), words, kinds)
        for name, words in at.of("tables").table(found["tables"]).items()
    }
    members = at_members.table(found["members"])
    at_members.check_words(members, _WORDS_OF_MEMBERS, needed=_WORDS_OF_MEMBERS)
    (known_by,) = at_members.of("known_by").kinds([members["known_by"]], kinds)
    name = at_members.of("table").text(members["table"])
    if name not in tables:
        raise at_members.of("table").wrong(f"there is no [tables.{name}]")
    _check_that_all_are_told(file, tables, known_by)
    at_clone = at.of("clone")
    clone = at_clone.table(found.get("clone", {}))
    at_clone.check_words(clone, _WORDS_OF_CLONES, needed=())
    words = at_clone.of("words").texts(clone.get("words", []))
    login = _login(at_clone.of("login"), clone["login"], tables) if "login" in clone else None
    return DataDescription(file, kinds, tables, tables[name], known_by, words, login)


@dataclass(frozen=True)
class _Place:
    """Where in the file: in a table, at a word."""

    file: Path
    in_table: str = ""
    word: str = ""

    def of(self, *words: str) -> "_Place":
        return _Place(self.file, self.in_table, ".".join(filter(None, (self.word, *words))))

    def wrong(self, what: str) -> SetupError:
        table = f", table {self.in_table}" if self.in_table else ""
        word = f", '{self.word}'" if self.word else ""
        return SetupError(f"data description {self.file}{table}{word}: {what}", "correct it there")

    def check_words(
        self, found: Mapping[str, object], known: tuple[str, ...], needed: tuple[str, ...]
    ) -> None:
        for word in found:
            if word not in known:
                raise self.of(word).wrong(f"it is none of the words that can stand here: {', '.join(known)}")
        for word in needed:
            if word not in found:
                raise self.of(word).wrong("it is missing")

    def table(self, found: object) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self.wrong("it must be a table of TOML, [name] or { name = ... }")
        return found

    def text(self, found: object) -> str:
        if not isinstance(found, str):
            raise self.wrong("it must be a text in quotes")
        return found

    def texts(self, found: object) -> tuple[str, ...]:
        if not isinstance(found, list):
            raise self.wrong('it must be a list of texts in quotes, ["member"]')
        return tuple(self.text(one) for one in found)

    def kinds(self, found: object, kinds: Mapping[str, Kind]) -> tuple[Kind, ...]:
        if not isinstance(found, list):
            raise self.wrong('it must be a list of kinds, ["email"]')
        return tuple(self.kind(self.text(name), kinds) for name in found)

    def kind(self, name: str, kinds: Mapping[str, Kind]) -> Kind:
        if name not in kinds:
            raise self.wrong(f"<{name}> is not described in [kinds]")
        return kinds[name]


def _table(at: _Place, found: object, kinds: Mapping[str, Kind]) -> Table:
    words = at.table(found)
    at.check_words(words, _WORDS_OF_A_TABLE, needed=("rows",))
    switches = {"moment": False, "bring_back": True, **words}
    for word in ("moment", "bring_back"):
        if not isinstance(switches[word], bool):
            raise at.of(word).wrong("it must be true or false")
    rows = at.of("rows").table(words["rows"])
    if not rows:
        raise at.of("rows").wrong("it describes no row")
    patterns = tuple(
        Pattern(key, _parts(at.of("rows", key), key, kinds), _shape(at.of("rows", key), value, kinds))
        for key, value in rows.items()
    )
    action = _action(at.of("backend"), words["backend"], patterns) if "backend" in words else None
    is_of_the_moment = switches["moment"]
    if action and not is_of_the_moment:
        raise at.of("backend").wrong("only a table with moment = true can have it")
    there = {kind for pattern in patterns for _, kind in pattern.places()}
    lists = {}
    for word in ("found_by", "tells"):
        lists[word] = at.of(word).kinds(words.get(word, []), kinds)
        for kind in lists[word]:
            if kind not in there:
                raise at.of(word).wrong(f"no row of the table has a <{kind.name}>")
    if lists["tells"] and not lists["found_by"]:
        raise at.of("tells").wrong("without found_by no row belongs to a member")
    can_come_back = switches["bring_back"] and not is_of_the_moment
    not_in_clones = _sorts(at.of("not_in_clones"), words.get("not_in_clones", []), patterns)
    if not_in_clones and is_of_the_moment:
        raise at.of("not_in_clones").wrong("clones have no row of a table with moment = true")
    may_lose = words.get("may_lose", MAY_LOSE)
    if isinstance(may_lose, bool) or not isinstance(may_lose, int | float) or not 0 <= may_lose <= 1:
        raise at.of("may_lose").wrong("it must be a share of the rows, from 0 to 1")
    return Table(
        *(at.in_table, patterns, is_of_the_moment, action, can_come_back, may_lose),
        *(lists["found_by"], lists["tells"], not_in_clones),
    )


def _sorts(at: _Place, found: object, patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    if not isinstance(found, list):
        raise at.wrong('it must be a list of keys of rows, ["<user>:email"]')
    by_key = {pattern.key: pattern for pattern in patterns}
    for key in map(at.text, found):
        if key not in by_key:
            raise at.wrong(f"no line of rows has the key {key}")
    return tuple(by_key[key] for key in found)


def _action(at: _Place, found: object, patterns: Sequence[Pattern]) -> Action:
    words = at.table(found)
    at.check_words(words, _WORDS_OF_THE_BACKEND, needed=("will", "each"))
    at_if = at.of("if")
    condition = {
        field: at_if.of(field).text(text) for field, text in at_if.table(words.get("if", {})).items()
    }
    places = {place for pattern in patterns for place, _ in pattern.places()}
    for field in condition:
        if f"value.{field}" not in places:
            raise at_if.of(field).wrong("no row of the table has this field")
    return Action(at.of("will").text(words["will"]), at.of("each").text(words["each"]), condition)


def _login(at: _Place, found: object, tables: Mapping[str, Table]) -> Login | None:
    words = at.table(found)
    at.check_words(words, _WORDS_OF_A_LOGIN, needed=_WORDS_OF_A_LOGIN)
    name = at.of("table").text(words["table"])
    if name not in tables:
        raise at.of("table").wrong(f"there is no [tables.{name}]")
    sorts = {}
    for word, kinds in (("role", ["no", "user ID"]), ("password", ["user ID"])):
        key = at.of(word).text(words[word])
        found_patterns = [pattern for pattern in tables[name].patterns if pattern.key == key]
        if not found_patterns:
            raise at.of(word).wrong(f"[tables.{name}] has no such row")
        (sorts[word],) = found_patterns
        if sorted(kind.personal for kind in sorts[word].key_kinds) != kinds:
            what = "one user ID and one kind that is not personal" if word == "role" else "one user ID"
            raise at.of(word).wrong(f"its key must have {what}")
    value = at.of("value").text(words["value"])
    if not value:
        return None
    unknown: list[str] = []
    try:
        for _ in _contents("value", sorts["password"].value, json.loads(value), unknown):
            pass
    except (ValueError, RecursionError) as error:
        raise at.of("value").wrong("it must be JSON") from error
    if unknown:
        raise at.of("value").wrong(unknown[0])
    return Login(tables[name], sorts["role"], sorts["password"], value)


def _parts(at: _Place, key: str, kinds: Mapping[str, Kind]) -> tuple[str | Kind, ...]:
    parts: list[str | Kind] = []
    for number, piece in enumerate(_KIND.split(key)):
        if number % 2:
            if parts and isinstance(parts[-1], Kind):
                raise at.wrong("nothing stands between two kinds, so nobody knows where one ends")
            parts.append(at.kind(piece, kinds))
        elif "<" in piece or ">" in piece:
            raise at.wrong("a kind is written <kind>")
        elif piece:
            parts.append(piece)
    return tuple(parts)


def _shape(at: _Place, found: object, kinds: Mapping[str, Kind]) -> Text | Fields:
    if isinstance(found, dict):
        return Fields({name: _shape(at.of(name), field, kinds) for name, field in found.items()})
    if found == "":
        return Text(())
    names = found if isinstance(found, list) and found else [found]
    matches = [_KIND.fullmatch(name) if isinstance(name, str) else None for name in names]
    if not all(matches):
        raise at.wrong('it must be "", "<kind>", a list of kinds or fields in braces')
    return Text(tuple(at.kind(match[1], kinds) for match in matches if match))


def _check_that_all_are_told(file: Path, tables: Mapping[str, Table], known_by: Kind) -> None:
    """Raise SetupError if rows would never be found, since no other row tells what they are found by."""
    told = {known_by}.union(*(table.tells for table in tables.values()))
    for table in tables.values():
        for kind in table.found_by:
            if kind not in told:
                raise _Place(file, table.name, "found_by").wrong(f"no table tells a <{kind.name}>")


def _contents(place: str, shape: Text | Fields, found: object, unknown: list[str]) -> Iterator[Content]:
    if isinstance(shape, Fields):
        if not isinstance(found, dict):
            unknown.append(f"{place}: no JSON object")
            return
        for name, value in found.items():
            if name in shape.by_name:
                yield from _contents(f"{place}.{name}", shape.by_name[name], value, unknown)
            else:
                unknown.append(f"{place}.{name}: a field that is not described")
    elif isinstance(found, dict | list) and not any(kind.personal == "text" for kind in shape.kinds):
        unknown.append(f"{place}: more than one value")
    elif found not in ("", None) and not shape.kinds:
        unknown.append(f"{place}: not empty")
    elif found not in ("", None):
        yield Content(place, shape.kinds, found if isinstance(found, str) else json.dumps(found))


def _places(place: str, shape: Text | Fields) -> Iterator[tuple[str, Kind]]:
    if isinstance(shape, Text):
        yield from ((place, kind) for kind in shape.kinds)
    else:
        for name, field in shape.by_name.items():
            yield from _places(f"{place}.{name}", field)
