"""Values that can't be encoded, or can't be rebuilt, and what to do about them."""

from __future__ import annotations

import collections
import collections.abc as cabc
import dataclasses
import enum
import typing as t


class Unencodable(TypeError):
    """A value has no encoding.

    :param value: the value, or one inside it
    """

    def __init__(self, value: t.Any) -> None:
        self.name = type(value).__name__
        self.inside: str | None = None
        self._is_enum = isinstance(value, enum.Enum)
        self._is_dataclass = dataclasses.is_dataclass(value)
        self._stand_in = None if self._is_dataclass else _stand_in(value)
        self._is_function = callable(value) and type(value).__module__ == "builtins"
        self._content = _content(value)
        self._has_id = _has_id(value)
        super().__init__(f"{self.name} has no encoding")

    @property
    def what(self) -> str:
        """Name the value, and what it is in."""
        if self.inside is None:
            return _a(self.name)

        return f"{_a(self.inside)} with {_a(self.name)} in it"

    @property
    def advice(self) -> str:
        """Say what a function did, and what it should do instead."""
        register = f", or call durable.register_type({self.name})"

        if self._is_enum:
            return (
                f"returned {self.what}. It ran, but can't be stored: return its .value"
                f"{register}."
            )

        return (
            f"returned {self.what}. It ran, but its result can't be stored:"
            f" {self._instead()}{register if self._is_dataclass else ''}."
        )

    def _instead(self) -> str:
        verb = "return" if self.inside is None else "put in"

        if self._is_function:
            return f"call it, and {verb} what that gives"

        if self._content is not None:
            return f"{verb} {self.name.lower()}.{self._content}"

        if self._stand_in is not None:
            return f"{verb} {self._stand_in} instead"

        if not self._has_id:
            return f"{verb} what the view needs of it in a dict"

        what = f"{self.name.lower()}.id" if self.inside is None else "its id"
        return f"return {what} and load it in the view"


class Undecodable(ValueError):
    """A stored value can't be rebuilt.

    :param name: the name of its type
    :param error: what the type's decoder raised; ``None`` if it is not registered
    """

    def __init__(self, name: str, error: Exception | None = None) -> None:
        if error is None:
            why = (
                f"is not registered: keep durable.register_type({name}) as long as the"
                " journal has values of it."
            )
        else:
            why = f"can't be made again: {type(error).__name__}: {error}"

        super().__init__(f"a value of the type {name}, which {why}")


def _a(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _has_id(value: t.Any) -> bool:
    """Tell whether a value has an id, without reading it: that may run a query."""
    return hasattr(type(value), "id") or "id" in getattr(value, "__dict__", ())


def _content(value: t.Any) -> str | None:
    """Name the method that returns the JSON of a Flask or an HTTP client's response."""
    if hasattr(type(value), "get_json"):
        return "get_json()"

    if hasattr(type(value), "json") and hasattr(value, "status_code"):
        return "json()"

    return None


def _stand_in(value: t.Any) -> str | None:
    """Say what with the same contents can be stored in place of a value."""
    if isinstance(value, (cabc.Iterator, cabc.MappingView, range, collections.deque)):
        return "list(…)"

    if isinstance(value, bytearray | memoryview):
        return "bytes"

    # Named tuples, and rows of a database.
    if isinstance(value, cabc.Sequence):
        return "a tuple"

    is_builtin = type(value).__module__ == "builtins"
    return "text" if is_builtin or isinstance(value, BaseException) else None
