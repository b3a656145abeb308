"""Values to bytes and back: JSON, with a tag for each type that JSON lacks.

A tagged value is an object with a single key that begins with ``!``. Nothing
is ever unpickled, so somebody who can write to the journal still can't run code.
"""

from __future__ import annotations

import base64
import collections.abc as cabc
import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing as t
import uuid

from werkzeug.exceptions import HTTPException

from .unstorable import Undecodable
from .unstorable import Unencodable

_TAGGED = b'{"!'
"""How a tagged value begins in JSON; a string may contain that, too."""


def _chunks_maker() -> cabc.Callable[[t.Any, int], cabc.Iterable[str]]:
    """Return a function that makes JSON in chunks, without looking for cycles."""
    encoder: t.Any = json.encoder
    plain = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

    # JSONEncoder makes a new C encoder for each value, at three times the cost.
    if encoder.c_make_encoder is None:
        return lambda value, _: plain.iterencode(value)

    quote = encoder.encode_basestring
    options = (None, plain.default, quote, None, ":", ",", False, False, True)
    return t.cast("cabc.Callable[..., t.Any]", encoder.c_make_encoder(*options))


_chunks = _chunks_maker()


@dataclasses.dataclass(frozen=True)
class Tag:
    """How values of one type become JSON, and are made from it again."""

    name: str
    encode: cabc.Callable[[t.Any], t.Any]
    decode: cabc.Callable[[t.Any], t.Any]


class Codec:
    """Encodes what steps return, and decodes it."""

    def __init__(self) -> None:
        self._by_type = dict(_TAGS)
        self._by_name = {tag.name: tag for tag in _TAGS.values()}
        self._by_name["!dict"] = Tag("!dict", list, _decode_pairs)
        # json.loads would make a new decoder for each value.
        self._from_text = json.JSONDecoder(object_hook=self._from_object).raw_decode

    def register(
        self,
        cls: type,
        encode: cabc.Callable[[t.Any], t.Any] | None = None,
        decode: cabc.Callable[[t.Any], t.Any] | None = None,
    ) -> None:
        """Register a type, or replace its registration.

        :param encode: turns an object into a value that can be encoded; dataclasses
            and Enums need none
        :param decode: makes the object from that value again
        :raises TypeError: if it needs functions, or has one without the other
        :raises ValueError: if another type has this name, or it is one of JSON's own
        """
        if not isinstance(cls, type):
            raise TypeError(f"register_type takes a class, not {cls!r:.80}.")

        if cls in _PLAIN or cls in (dict, list):
            raise ValueError(
                f"{cls.__name__} is a type of JSON's own, which is stored as it is:"
                " register a class of yours."
            )

        name = f"!{cls.__qualname__}"
        other = self._by_name.get(name)

        if other is not None and other is not self._by_type.get(cls):
            raise ValueError(
                f"There is a type called {cls.__qualname__} already: the journal could"
                " not tell them apart."
            )

        tag = Tag(name, *_functions(cls, encode, decode))
        self._by_type[cls] = self._by_name[name] = tag

    def encode(self, value: t.Any) -> bytes:
        """Encode a value.

        :raises Unencodable: if the value, or one inside it, has no encoding
        """
        data, _ = self.encode_both(value)
        return data

    def encode_for(self, subject: str, value: t.Any) -> bytes:
        """Encode a value that no step returned.

        :param subject: what the value is, for the message
        :raises TypeError: if it has no encoding
        """
        try:
            return self.encode(value)
        except Unencodable as error:
            raise TypeError(
                f"{subject} can't be {error.what}: what a step may return can be"
                " stored, such as texts, numbers, lists, dicts and dates, and objects"
                " of the classes that durable.register_type was given."
            ) from None

    def encode_both(self, value: t.Any) -> tuple[bytes, t.Any]:
        """Encode a value; also return what :meth:`copy` needs in addition.

        Of a registered type's functions only ``encode`` is called.

        :raises Unencodable: if the value, or one inside it, has no encoding
        """
        try:
            plain = self._to_json(value)
        except Unencodable as error:
            name = type(value).__name__
            error.inside = name if name != error.name else None
            raise

        return "".join(_chunks(plain, 0)).encode("utf-8", "surrogatepass"), plain

    def copy(self, data: bytes, plain: t.Any) -> t.Any:
        """Return a decoded copy; if there are no tags, ``plain`` is one already."""
        return self.decode(data) if _TAGGED in data else plain

    def decode(self, data: bytes) -> t.Any:
        """Make a new copy of an encoded value.

        An HTTP error that a registered type's function raises is let through.

        :raises Undecodable: if a type in it is not registered, or its function raises
        :raises ValueError: if the data is not an encoded value
        """
        text = data.decode("utf-8", "surrogatepass")
        value, end = self._from_text(text)

        if end != len(text):
            # The data is not shown: it may be a secret.
            raise ValueError("There is more after an encoded value.")

        return value

    def _to_json(self, value: t.Any) -> t.Any:
        cls = type(value)

        if cls in _PLAIN:
            return value

        if cls is list:
            if _PLAIN.issuperset(map(type, value)):
                return value.copy()

            return [self._to_json(item) for item in value]

        if cls is dict:
            return self._encode_dict(value)

        if tag := self._by_type.get(cls):
            return {tag.name: self._to_json(tag.encode(value))}

        return self._to_json(_as_base(value))

    def _encode_dict(self, value: dict[t.Any, t.Any]) -> t.Any:
        tagged = len(value) == 1 and str(next(iter(value))).startswith("!")

        if tagged or not _STRINGS.issuperset(map(type, value)):
            pairs = [[self._to_json(k), self._to_json(v)] for k, v in value.items()]
            return {"!dict": pairs}

        if _PLAIN.issuperset(map(type, value.values())):
            return value.copy()

        return {key: self._to_json(item) for key, item in value.items()}

    def _from_object(self, value: dict[str, t.Any]) -> t.Any:
        if len(value) != 1:
            return value

        ((name, inner),) = value.items()
        tag = self._by_name.get(name)

        if tag is None:
            # A user's own dict with such a key is stored as pairs, tagged "!dict".
            if name.startswith("!"):
                raise Undecodable(name[1:])

            return value

        try:
            return tag.decode(inner)
        except HTTPException:
            raise
        except Exception as error:
            raise Undecodable(tag.name[1:], error) from error


def _functions(cls: type, encode: t.Any, decode: t.Any) -> tuple[t.Any, t.Any]:
    if callable(encode) and callable(decode):
        return encode, decode

    if encode is None and decode is None:
        if issubclass(cls, enum.Enum):
            return (lambda member: member.value), cls

        if dataclasses.is_dataclass(cls):
            names = [field.name for field in dataclasses.fields(cls) if field.init]
            return _Fields(names), lambda values: cls(**values)

    raise TypeError(
        f"{cls.__qualname__} needs two functions: register_type({cls.__qualname__},"
        " encode, decode). Dataclasses and Enums need none."
    )


@dataclasses.dataclass(frozen=True)
class _Fields:
    """Reads a dataclass's fields as they are: they may be of registered types, too."""

    names: list[str]

    def __call__(self, value: t.Any) -> dict[str, t.Any]:
        return {name: getattr(value, name) for name in self.names}


def _as_base(value: t.Any) -> t.Any:
    """Convert an object of a subclass of a JSON type to that type."""
    if not isinstance(value, enum.Enum):
        for base, convert in _BASES.items():
            if isinstance(value, base):
                return convert(value)

    raise Unencodable(value)


def _decode_pairs(pairs: list[list[t.Any]]) -> dict[t.Any, t.Any]:
    return {key: item for key, item in pairs}


def _decode_delta(parts: list[int]) -> dt.timedelta:
    days, seconds, microseconds = parts
    return dt.timedelta(days, seconds, microseconds)


# By the base's own methods: of a MultiDict, dict() gives the first values only.
_BASES: dict[type, cabc.Callable[[t.Any], t.Any]] = {
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list(list.__iter__(value)),
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}
_PLAIN = frozenset({type(None), bool, int, float, str})
_STRINGS = frozenset({str})

_TAGS: dict[type, Tag] = {
    tuple: Tag("!tuple", list, tuple),
    set: Tag("!set", list, set),
    frozenset: Tag("!frozenset", list, frozenset),
    bytes: Tag(
        "!bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode
    ),
    dt.datetime: Tag("!datetime", dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.date: Tag("!date", dt.date.isoformat, dt.date.fromisoformat),
    dt.time: Tag("!time", dt.time.isoformat, dt.time.fromisoformat),
    dt.timedelta: Tag(
        "!timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        _decode_delta,
    ),
    uuid.UUID: Tag("!uuid", str, uuid.UUID),
    decimal.Decimal: Tag("!decimal", str, decimal.Decimal),
}
