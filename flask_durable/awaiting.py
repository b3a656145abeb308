"""Await what an async function returned, in sync and async views alike."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextvars
import inspect
import typing as t

from .threads import run_in_native_thread

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})


def resolve(value: t.Any) -> t.Any:
    """Return a value, or the result of an awaitable.

    An awaitable runs on an event loop in a thread of its own, since the calling
    thread may be the one that runs an async view's loop.
    """
    if type(value) in _PLAIN or not inspect.isawaitable(value):
        return value

    result: list[t.Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result.extend((context.run(asyncio.run, _await(value)), None))
        except BaseException as error:
            result.extend((None, error))

    run_in_native_thread(run)
    given, error = result

    if error is not None:
        raise error

    return given


async def _await(value: cabc.Awaitable[t.Any]) -> t.Any:
    return await value


def leaves(error: BaseException) -> cabc.Iterator[BaseException]:
    """Yield the exceptions in a group, as task groups raise it, or a single one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
