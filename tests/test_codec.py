"""Values to bytes and back."""

from __future__ import annotations

import base64
import collections
import collections.abc as cabc
import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing as t
import uuid
import zoneinfo

import flask
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from flask_durable.codec import Codec
from flask_durable.unstorable import Undecodable
from flask_durable.unstorable import Unencodable

CET = dt.timezone(dt.timedelta(hours=1, minutes=30))

SCALARS: dict[str, t.Any] = {
    "none": None,
    "bool": True,
    "int": 2**80,
    "float": 0.1,
    "text": "Grüße, \x00 ✓ 💺",
    "tuple": (1, (2,)),
    "frozenset": frozenset({1, "a"}),
    "bytes": b"\x00\xff",
    "datetime": dt.datetime(2026, 3, 1, 12, 30, 15, 1, tzinfo=CET),
    "date": dt.date(2026, 3, 1),
    "time": dt.time(23, 59, 59, 999_999, tzinfo=CET),
    "timedelta": dt.timedelta(days=-3, microseconds=7),
    "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal("12.340"),
}
"""One of each type that may stand in a set."""

OTHERS: dict[str, t.Any] = {
    "list": [1, []],
    "set": {1, 2},
    "dict": {"a": 1, "b": {}},
    "dict-of-pairs": {1: 2, (3,): 4},
    "dict-like-a-tag": {"!set": [1]},
}

CONTAINERS: dict[str, cabc.Callable[[t.Any], t.Any]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict-value": lambda value: {"a": value},
    "pairs-value": lambda value: {1: value},
    "tag-like-value": lambda value: {"!": value},
}

HASHED: dict[str, cabc.Callable[[t.Any], t.Any]] = {
    "set": lambda value: {value},
    "frozenset": lambda value: frozenset({value}),
    "dict-key": lambda value: {value: 1},
    "dict-key-of-two": lambda value: {value: 1, "other": 2},
}


def again(value: t.Any) -> t.Any:
    """Encode a value and decode it."""
    codec = Codec()
    return codec.decode(codec.encode(value))


def encode_and_copy(value: t.Any) -> tuple[bytes, t.Any]:
    """Give a value's encoding, and the copy that a view gets in its first attempt."""
    codec = Codec()
    data, plain = codec.encode_both(value)
    return data, codec.copy(data, plain)


def kind(value: t.Any) -> t.Any:
    """Give a value with the types of all that is in it, in an order of its own."""
    name = type(value).__name__

    if isinstance(value, dict):
        return name, [(kind(k), kind(v)) for k, v in value.items()]

    if isinstance(value, set | frozenset):
        return name, sorted((kind(item) for item in value), key=repr)

    if isinstance(value, list | tuple):
        return name, [kind(item) for item in value]

    if isinstance(value, dt.datetime | dt.time):
        # ISO 8601 has no word for the second of two equal hours.
        value = value.replace(fold=0)

    return name, repr(value)


@pytest.mark.parametrize("outer", CONTAINERS)
@pytest.mark.parametrize("inner", [*SCALARS, *OTHERS])
def test_the_copy_is_what_is_decoded_later(inner: str, outer: str) -> None:
    """A view sees in its first attempt what it sees in a replay."""
    value = CONTAINERS[outer]((SCALARS | OTHERS)[inner])
    data, copy = encode_and_copy(value)
    assert data == Codec().encode(value)
    assert kind(copy) == kind(value)


def test_the_copy_shares_nothing_with_the_value() -> None:
    """Who changes the one does not change the other, at any depth."""
    inner = {"seats": [1, 2]}
    value = {"first": inner, "second": inner}
    _, copy = encode_and_copy(value)
    copy["first"]["seats"].append(3)
    inner["seats"].clear()
    assert copy == {"first": {"seats": [1, 2, 3]}, "second": {"seats": [1, 2]}}


@pytest.mark.parametrize("text", ['{"!tuple":[]}', "\ud83d\ude00", "\ud83d", "{"])
def test_a_text_is_its_own_copy(text: str) -> None:
    """Whatever it looks like."""
    data, copy = encode_and_copy([text])
    assert copy == [text] == Codec().decode(data)


def test_the_copy_of_a_subclass_is_of_the_base() -> None:
    """As after a replay."""
    value = collections.Counter("a")
    data, copy = encode_and_copy(value)
    assert type(copy) is dict
    assert copy == Codec().decode(data)


@pytest.mark.parametrize("outer", CONTAINERS)
@pytest.mark.parametrize("inner", [*SCALARS, *OTHERS])
def test_every_type_inside_every_container(inner: str, outer: str) -> None:
    """Value and type of both come back."""
    value = CONTAINERS[outer]((SCALARS | OTHERS)[inner])
    assert again(value) == value
    assert kind(again(value)) == kind(value)


@pytest.mark.parametrize("outer", HASHED)
@pytest.mark.parametrize("inner", SCALARS)
def test_every_hashable_type_inside_every_hashed_container(
    inner: str, outer: str
) -> None:
    """Members of sets and keys of dicts keep value and type."""
    value = HASHED[outer](SCALARS[inner])
    assert again(value) == value
    assert kind(again(value)) == kind(value)


@pytest.mark.parametrize("first", CONTAINERS)
@pytest.mark.parametrize("second", CONTAINERS)
@pytest.mark.parametrize("third", CONTAINERS)
def test_tags_within_tags_within_tags(first: str, second: str, third: str) -> None:
    """Three levels of any containers around a value."""
    value = CONTAINERS[first](CONTAINERS[second](CONTAINERS[third]({b"x", 1})))
    assert kind(again(value)) == kind(value)


@pytest.mark.parametrize(
    "value",
    [
        {"!tuple": [1, 2]},
        {"!dict": [["a", 1]]},
        {"!": None},
        {"!unknown": {"!set": []}},
        {"!a": 1, "!b": 2},
        {("!tuple",): {"!date": "no date"}},
        [{"!decimal": "1"}],
    ],
)
def test_a_dict_that_looks_like_a_tag_stays_a_dict(value: t.Any) -> None:
    """Whoever returns such a thing means it."""
    assert kind(again(value)) == kind(value)


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        -0.0,
        dt.datetime.min,
        dt.datetime.max,
        dt.timedelta.min,
        dt.timedelta.max,
        dt.time(tzinfo=dt.timezone(dt.timedelta(seconds=-1))),
        decimal.Decimal("-0E-10"),
        decimal.Decimal("Infinity"),
        "\udc80",
        {},
        set(),
        (),
    ],
)
def test_values_at_the_rim(value: t.Any) -> None:
    """The least, the greatest, the empty."""
    assert kind(again(value)) == kind(value)


@pytest.mark.parametrize("value", [float("nan"), decimal.Decimal("NaN")])
def test_no_number_stays_no_number(value: t.Any) -> None:
    """It equals nothing, not even itself."""
    assert repr(again(value)) == repr(value)


def test_two_surrogates_in_a_row_are_not_joined() -> None:
    """Two characters of a broken text must not become another one."""
    value = "\ud83d" + "\ude00"
    assert len(again(value)) == 2


def test_the_order_of_keys_is_kept() -> None:
    """Of plain dicts, and of those stored as pairs."""
    assert list(again({"b": 1, "a": 2})) == ["b", "a"]
    assert list(again({2: 1, 1: 2})) == [2, 1]


def test_a_zone_becomes_its_offset_at_that_moment() -> None:
    """The moment and what it prints stay the same; rules for others are gone."""
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    value = dt.datetime(2026, 7, 1, 12, tzinfo=berlin)
    assert again(value) == value
    assert again(value).isoformat() == value.isoformat()
    assert again(value).tzinfo == dt.timezone(dt.timedelta(hours=2))


def test_decoded_values_share_nothing() -> None:
    """Each reader gets a copy of its own."""
    data = Codec().encode({"seats": [1]})
    Codec().decode(data)["seats"].append(2)
    assert Codec().decode(data) == {"seats": [1]}


def test_what_is_stored_is_compact_json() -> None:
    """Other programs can read it."""
    value = {"a": [1, "ü"], "b": (1,)}
    assert Codec().encode(value) == '{"a":[1,"ü"],"b":{"!tuple":[1]}}'.encode()


class Name(str):
    """A text of the app's own."""


class Loud(str):
    """A text that prints another way."""

    def __str__(self) -> str:
        return self.upper()


class Count(int):
    """A number of the app's own."""


class Ratio(float):
    """A ratio of the app's own."""


class Rows(list[int]):
    """A list of the app's own."""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Name("ada"), "ada"),
        (Count(3), 3),
        (Ratio(0.5), 0.5),
        (Rows([1, 2]), [1, 2]),
        (collections.OrderedDict(a=1, b=2), {"a": 1, "b": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({Name("ada"): Count(3)}, {"ada": 3}),
        ([Rows([Count(1)])], [[1]]),
        (Loud("ada"), "ada"),
    ],
)
def test_subclasses_of_jsons_types_are_stored_as_those(
    value: t.Any, plain: t.Any
) -> None:
    """What makes them special is gone, which the decoded copy shows at once."""
    assert kind(again(value)) == kind(plain)


def test_a_multidict_loses_no_value_in_silence() -> None:
    """``request.form`` has two values for a name: they are stored, or refused."""
    value = MultiDict([("seat", "1A"), ("seat", "1B")])

    try:
        found = again(value)
    except Unencodable:
        return

    assert "1B" in str(found)


class Colour(enum.Enum):
    """An enumeration."""

    RED = 1


class Size(enum.IntEnum):
    """An enumeration that is a number."""

    SMALL = 1


class Day(enum.StrEnum):
    """An enumeration that is a text."""

    MONDAY = "monday"


class Invoice:
    """A class of the app's own."""

    def __init__(self) -> None:
        self.id = 7


class Parcel:
    """One that has no id."""

    def track(self) -> None:
        """Do nothing."""


class Point(t.NamedTuple):
    """A tuple of the app's own."""

    x: int


class Pair(t.NamedTuple):
    """A named tuple."""

    one: int
    other: int


@dataclasses.dataclass
class Seat:
    """A dataclass."""

    row: int


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Size.SMALL,
        Day.MONDAY,
        Invoice(),
        Invoice,
        Point(1),
        Seat(1),
        1j,
        bytearray(b"x"),
        memoryview(b"x"),
        range(3),
        len,
        iter([]),
        ValueError("no"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_the_same_is_refused(value: t.Any) -> None:
    """Anywhere, and with its name."""
    for outer in (value, [value], {"a": {1: (value,)}}):
        with pytest.raises(Unencodable, match=f"^{type(value).__name__} has no enc"):
            Codec().encode(outer)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (
            Invoice(),
            "returned an Invoice. It ran, but its result can't be stored:"
            " return invoice.id and load it in the view.",
        ),
        (
            Seat(1),
            "returned a Seat. It ran, but its result can't be stored: return what the"
            " view needs of it in a dict, or call durable.register_type(Seat).",
        ),
        (
            Colour.RED,
            "returned a Colour. It ran, but can't be stored: return its .value, or call"
            " durable.register_type(Colour).",
        ),
        (
            [Invoice()],
            "returned a list with an Invoice in it. It ran, but its result can't be"
            " stored: return its id and load it in the view.",
        ),
        (
            {"a": [{1: (Seat(1),)}]},
            "returned a dict with a Seat in it. It ran, but its result can't be"
            " stored: put in what the view needs of it in a dict, or call"
            " durable.register_type(Seat).",
        ),
        (
            Parcel(),
            "returned a Parcel. It ran, but its result can't be stored: return what the"
            " view needs of it in a dict.",
        ),
        (
            [Parcel()],
            "returned a list with a Parcel in it. It ran, but its result can't be"
            " stored: put in what the view needs of it in a dict.",
        ),
        (
            flask.Response("{}"),
            "returned a Response. It ran, but its result can't be stored: return"
            " response.get_json().",
        ),
        (
            {"a": requests.Response()},
            "returned a dict with a Response in it. It ran, but its result can't be"
            " stored: put in response.json().",
        ),
        (
            Parcel.track,
            "returned a function. It ran, but its result can't be stored: call it, and"
            " return what that gives.",
        ),
        (
            collections.OrderedDict(a=Invoice()),
            "returned an OrderedDict with an Invoice in it. It ran, but its result"
            " can't be stored: return its id and load it in the view.",
        ),
        (
            [range(3)],
            "returned a list with a range in it. It ran, but its result can't be"
            " stored: put in list(…) instead.",
        ),
    ],
)
def test_the_advice_says_what_to_return_instead(value: t.Any, advice: str) -> None:
    """The thing's name, where it was, and what to do."""
    with pytest.raises(Unencodable) as caught:
        Codec().encode(value)

    assert caught.value.advice == advice


@pytest.mark.parametrize(
    ("value", "stand_in"),
    [
        ((n for n in "ab"), "list(…)"),
        (map(int, "12"), "list(…)"),
        ({}.keys(), "list(…)"),
        (range(3), "list(…)"),
        (collections.deque(), "list(…)"),
        (Pair(1, 2), "a tuple"),
        (bytearray(b"x"), "bytes"),
        (1j, "text"),
        (KeyError("x"), "text"),
        (object(), "text"),
    ],
)
def test_the_advice_speaks_of_ids_where_there_may_be_one(
    value: t.Any, stand_in: str
) -> None:
    """For others it says what has the same in it."""
    with pytest.raises(Unencodable) as caught:
        Codec().encode(value)

    assert caught.value.advice.endswith(f"can't be stored: return {stand_in} instead.")


def test_a_registered_type_is_encoded_wherever_it_stands() -> None:
    """Its parts may be of any type that has an encoding."""
    codec = Codec()
    codec.register(Point, lambda p: [(p.x,)], lambda p: Point(p[0][0]))
    value = {Point(1): [Point(2)], 3: {Point(4)}}
    assert kind(codec.decode(codec.encode(value))) == kind(value)


def test_a_registered_type_is_this_codecs_alone() -> None:
    """Apps don't share their types."""
    Codec().register(Point, list, tuple)

    with pytest.raises(Unencodable, match="Point"):
        Codec().encode(Point(1))


@dataclasses.dataclass(frozen=True)
class Leg:
    """A dataclass with others in it."""

    start: Point
    stops: tuple[Point, ...] = ()
    length: float = dataclasses.field(default=1.5, init=False)


class Color(enum.Enum):
    """An enumeration."""

    RED = "red"
    BLUE = 2


class Rights(enum.Flag):
    """Flags that may stand together."""

    READ = 1
    WRITE = 2


def test_dataclasses_and_enums_need_no_functions() -> None:
    """Nor do others inside of them, if they are registered."""
    codec = Codec()
    codec.register(Point, lambda p: p.x, Point)

    for cls in (Leg, Color, Rights):
        codec.register(cls)

    value = [Leg(Point(1), (Point(2),)), Color.RED, Color.BLUE]
    value = [*value, Rights.READ | Rights.WRITE]
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("functions", [(), (list,), (None, list)])
def test_other_classes_need_both_functions(functions: tuple[t.Any, ...]) -> None:
    """One without the other is a mistake as well."""
    with pytest.raises(TypeError, match="Point needs two functions"):
        Codec().register(Point, *functions)


def test_two_classes_of_one_name_are_refused() -> None:
    """The journal could not tell them apart; the same one may come again."""
    codec = Codec()
    codec.register(Color)
    codec.register(Color)
    other = type("Color", (), {})

    with pytest.raises(ValueError, match="a type called Color already"):
        codec.register(other, str, str)


def test_a_value_of_no_registered_type_is_not_made_up() -> None:
    """However deep it stands, the error names the type."""
    codec = Codec()
    codec.register(Color)
    data = codec.encode([{"color": (Color.RED,)}])

    with pytest.raises(Undecodable, match=r"type Color, .*keep .*register_type\(Color"):
        Codec().decode(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"!Leg":{"end":1}}', "type Leg, which can't be made again: TypeEr.*end"),
        (b'{"!date":"x"}', "type date, which can't be made again: ValueError: "),
    ],
)
def test_what_a_type_raises_is_told_with_its_name(data: bytes, message: str) -> None:
    """Such as that of a dataclass whose fields are others by now."""
    codec = Codec()
    codec.register(Leg)

    with pytest.raises(Undecodable, match=message):
        codec.decode(data)


def test_bytes_are_base64_for_other_readers() -> None:
    """As everybody can decode them."""
    stored = json.loads(Codec().encode(b"\xff\x00"))
    assert base64.b64decode(stored["!bytes"]) == b"\xff\x00"


offsets = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))
zones = st.none() | st.builds(dt.timezone, offsets)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["!", "!set", "!dict"])
    | st.binary()
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
)
hashables = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3)
    ),
    max_leaves=4,
)
values = st.recursive(
    hashables | st.sets(hashables, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | hashables, inner, max_size=3)
        | st.dictionaries(st.text("!dset", max_size=4), inner, max_size=1)
    ),
    max_leaves=10,
)


@given(values)
def test_whatever_is_encoded_is_decoded_to_the_same(value: t.Any) -> None:
    """For values of any shape."""
    assert again(value) == value
    assert kind(again(value)) == kind(value)


def test_what_follows_a_value_is_no_part_of_it() -> None:
    """A journal that was written by hand, say."""
    with pytest.raises(ValueError, match="more after an encoded value") as caught:
        Codec().decode(b'1 "hunter2"')

    assert "hunter2" not in str(caught.value)
