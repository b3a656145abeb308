"""Async functions from sync and async callers."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from flask_durable.awaiting import resolve

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


async def give(value: str) -> str:
    """Give a value after a turn of the loop."""
    await asyncio.sleep(0)
    return value


def test_a_plain_value_is_given_back() -> None:
    """The same object, without a thread."""
    value = ["plain"]
    assert resolve(value) is value


def test_a_coroutine_is_run() -> None:
    """Its result is given."""
    assert resolve(give("seat")) == "seat"


def test_any_awaitable_is_run() -> None:
    """Not only coroutines."""

    class Later:
        def __await__(self) -> object:
            return give("later").__await__()

    assert resolve(Later()) == "later"


def test_it_runs_beside_a_loop_that_is_running() -> None:
    """An async view calls the verbs as plain functions."""

    async def view() -> str:
        value: str = resolve(give("inner"))
        return value

    assert asyncio.run(view()) == "inner"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_what_it_raises_is_raised(error: BaseException) -> None:
    """The very error, also one that is no Exception."""

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        resolve(fail())

    assert caught.value is error


def test_it_sees_the_callers_context() -> None:
    """Such as the running step and the request."""

    async def ask() -> str:
        return user.get()

    token = user.set("ada")
    assert resolve(ask()) == "ada"
    user.reset(token)


def test_its_own_changes_stay_with_it() -> None:
    """It has a copy of the context."""

    async def change() -> None:
        user.set("bob")

    resolve(change())
    assert user.get() == "nobody"


def test_it_runs_in_a_thread_of_its_own() -> None:
    """Which has ended when the value is there."""

    async def name() -> str:
        return threading.current_thread().name

    assert resolve(name()) == "flask_durable.async"
    assert "flask_durable.async" not in [one.name for one in threading.enumerate()]
