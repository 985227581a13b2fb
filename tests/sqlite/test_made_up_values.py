"""Made-up values: the same for the same original, never an original, and of its form."""

import re
from datetime import date, timedelta

import pytest

from dodeka_db.errors import BackupError
from dodeka_db.sqlite.made_up_values import DATE_DAYS, MadeUpValues, NotMadeUpError
from dodeka_db.sqlite.originals import Originals

KEY = b"a key of a test"


def made_up(*originals: tuple[str, str], key: bytes = KEY, fronts=()) -> MadeUpValues:
    by_personal: dict[str, set[str]] = {}
    for personal, text in originals:
        by_personal.setdefault(personal, set()).add(text)
    return MadeUpValues(key, Originals(originals, ["example.org"]), by_personal, fronts)


def test_the_same_for_the_same_and_another_with_another_key():
    one, again, other = made_up(), made_up(), made_up(key=b"another")
    for personal, text in (
        ("name", "Anna"),
        ("address", "a@b.nl"),
        ("number", "9000012"),
        ("secret", "0a1b" * 8),
    ):
        assert (
            one.of(personal, text)
            == one.of(personal, text)
            == again.of(personal, text)
            != other.of(personal, text)
        )


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Anna", r"[A-Z][a-z]+"),
        ("ANNA", r"[A-Z]+"),
        ("van der", r"[a-z]+ [a-z]+"),
        ("Jan-Willem O'Brien", r"[A-Z][a-z]+-[A-Z][a-z]+ [A-Z][a-z]+'[A-Z][a-z]+"),
        ("-", "-"),
    ],
)
def test_a_name_keeps_its_form(text, form):
    assert re.fullmatch(form, made_up().of("name", text))


def test_names_that_differ_in_letter_case_and_accents_are_one():
    values = made_up()
    assert {values.of("name", name).lower() for name in ("Ren\u00e9", "rene", "REN\u00c9", "Rene\u0301")} == {
        values.of("name", "rene")
    }
    names = [values.of("name", f"name{number}") for number in range(5000)]
    assert len(set(names)) == 5000


def test_no_name_is_an_original_nor_has_one_in_it():
    first = made_up()
    made = [first.of("name", f"name{number}") for number in range(300)]
    originals = [("name", name) for name in made] + [("name", name[:4]) for name in made[:20]]
    values = made_up(*originals)
    for number in range(300):
        name = values.of("name", f"name{number}").lower()
        assert not [text for _, text in originals if text in name]


def test_user_ids_are_given_the_numbers_of_others_and_the_names_of_their_own():
    users = [f"{number}_anna_van voorbeeld{number}" for number in range(200)]
    values = made_up(*(("user ID", user) for user in users))
    made = [values.of("user ID", user) for user in users]
    numbers = [int(one.split("_")[0]) for one in made]
    assert sorted(numbers) == list(range(200)) != numbers
    assert made[7].split("_")[1:] == [values.of("name", "anna"), values.of("name", "van voorbeeld7")]
    assert values.of("user ID", "root") == values.of("name", "root")


def test_addresses_have_the_names_of_their_row_and_are_unique():
    values = made_up()
    made = [
        values.of("address", f"anna{number}@example.com", lambda: ["12_anna_van voorbeeld"])
        for number in range(200)
    ]
    name = [values.of("name", word) for word in ("anna", "van", "voorbeeld")]
    assert made[0] == f"{'.'.join(name)}@example.org" and len(set(made)) == 200
    assert all(set(name) <= set(address.split("@")[0].split(".")) for address in made)
    assert values.of("address", " ANNA0@example.com") == made[0], "once it is known, wherever it stands"
    assert re.fullmatch(r"[a-z]+\.[a-z]+@example\.org", values.of("address", "x@example.com"))


def test_no_original_begins_in_front_of_a_value():
    """`:email` and the address behind it are one run of letters in the file."""
    first = made_up().of("address", "a@b.nl", lambda: ["Anna"])
    original = f"ail{first[:3]}"
    assert original in f":email{made_up(('name', original)).of('address', 'a@b.nl', lambda: ['Anna'])}"
    assert (
        original
        not in f":email{made_up(('name', original), fronts=[':email']).of('address', 'a@b.nl', lambda: ['Anna'])}"
    )


def test_no_letter_beside_a_value_makes_an_original():
    """SQLite writes the length of a row behind the row in front of it: the length can be the letter A."""
    word = made_up().of("name", "anna")
    assert made_up(("name", f"{word[-4:]}a")).of("name", "anna") != word
    secret = made_up().of("secret", "0a1b2c3d")
    assert made_up(("name", f"{secret[-3:]}k")).of("secret", "0a1b2c3d") != secret
    assert made_up(("name", f"k{secret[:3]}")).of("secret", "0a1b2c3d") != secret


def test_numbers_are_unique_have_as_many_digits_and_are_nobody_s():
    originals = [("number", str(number)) for number in range(1000, 5000)]
    values = made_up(*originals)
    made = [values.of("number", text) for _, text in originals]
    assert len(set(made)) == len(made) and not set(made) & {text for _, text in originals}
    assert {len(one) for one in made[:100]} == {4}
    assert {len(one) for one in made} == {4, 5}, "longer ones when there are no others"
    assert len(values.of("number", "0012345")) == 7


@pytest.mark.parametrize(
    "text", ["2001-04-30", "30-04-2001", "30/04/2001", "20010430", "2001-04-30T12:30:00"]
)
def test_dates_are_near_and_nobody_s_and_keep_their_form(text):
    true = date(2001, 4, 30)
    taken = [
        ("date", str(true + timedelta(days)))
        for days in range(-DATE_DAYS, DATE_DAYS + 1)
        if days not in (-3, 9)
    ]
    of_one = {made_up(*taken, key=bytes([key])).of("date", text) for key in range(40)}
    either = {
        "2001-04-27": 1,
        "2001-05-09": 1,
        "27-04-2001": 1,
        "09-05-2001": 1,
        "27/04/2001": 1,
        "09/05/2001": 1,
    }
    either |= {"20010427": 1, "20010509": 1, "2001-04-27T12:30:00": 1, "2001-05-09T12:30:00": 1}
    assert len(of_one) == 2 and of_one <= either.keys()


def test_dates_where_every_day_near_is_somebody_s():
    true = date(2001, 4, 30)
    taken = [("date", str(true + timedelta(days))) for days in range(-100, 101)]
    assert made_up(*taken).of("date", "2001-04-30") in ("2001-01-19", "2001-08-09")


def test_nobody_is_born_tomorrow():
    today = date.today()
    made = {made_up(("date", str(today)), key=bytes([key])).of("date", str(today)) for key in range(60)}
    assert len(made) > 20 and max(made) < str(today)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0a1b2c3d" * 8, "[a-f]{64}"),
        ("ABCDEF0123456789", "[a-f]{16}"),
        ("12345678", r"\d{8}"),
        ("x" * 300, "[a-z]{300}"),
    ],
)
def test_secrets_keep_their_length_and_letters(text, form):
    assert re.fullmatch(form, made_up().of("secret", text))


@pytest.mark.parametrize(
    ("personal", "text"),
    [("number", "NL12"), ("number", "\u0661\u0662"), ("date", "spring"), ("date", "2001-02-30")],
)
def test_what_is_not_what_its_kind_says(personal, text):
    with pytest.raises(NotMadeUpError) as raised:
        made_up().of(personal, text)
    assert text not in str(raised.value)


def test_when_nothing_else_is_left(monkeypatch):
    monkeypatch.setattr(Originals, "part_in", lambda self, content: "name")
    with pytest.raises(BackupError, match="no made-up value \\(number\\) was found"):
        made_up().of("number", "9000012")


def test_a_user_s_number_that_is_a_member_s_is_not_given_to_another_user():
    users = [f"{number}_anna_voorbeeld{number}" for number in range(995, 1005)]
    values = made_up(*(("user ID", user) for user in users), ("number", "1000"), ("number", "1004"))
    numbers = {values.of("user ID", user).split("_")[0] for user in users}
    assert numbers == {*map(str, range(995, 1005))} - {"1000", "1004"} | {"0", "1"}
    assert values.of("next user", "1004") == "1005" and values.of("next user", "1009") == "1009"
    assert values.of("next user", "3") == "1005"


def test_a_short_original_is_not_made_up():
    """Numbers of two digits are not looked for."""
    originals = [str(number) for number in range(10, 70)]
    values = made_up(*(("number", number) for number in originals))
    assert not {values.of("number", number) for number in originals} & set(originals)
