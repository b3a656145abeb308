"""Attributes that are computed when they are first used."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

T = t.TypeVar("T")


class once(t.Generic[T]):  # noqa: N801 - a decorator, as cached_property
    """Computes an attribute when it is first used, without a lock.

    Before Python 3.12 ``functools.cached_property`` has one lock for all objects. If
    the process forks while another thread computes, the child finds it locked for good.
    Here two threads may compute at once, and one result is kept.
    """

    def __init__(self, compute: cabc.Callable[[t.Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @t.overload
    def __get__(self, instance: None, owner: type) -> once[T]: ...

    @t.overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> once[T] | T:
        if instance is None:
            return self

        value = self._compute(instance)
        return t.cast(T, instance.__dict__.setdefault(self._name, value))
