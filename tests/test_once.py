"""Attributes that are computed at their first use."""

from __future__ import annotations

import threading

from flask_durable.once import once


class Thing:
    """Has an attribute that two threads may compute at once."""

    def __init__(self, parties: int = 1) -> None:
        self.barrier = threading.Barrier(parties)
        self.computed = 0

    @once
    def value(self) -> object:
        """An object of its own each time."""
        self.barrier.wait(10)
        self.computed += 1
        return object()


def test_it_is_computed_once() -> None:
    """And is an attribute like any other from then on."""
    thing = Thing()
    assert thing.value is thing.value
    assert thing.computed == 1
    assert vars(thing)["value"] is thing.value


def test_threads_get_one_value() -> None:
    """Though none waits for another, as a fork could leave it waiting for ever."""
    thing = Thing(parties=2)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(thing.value))
    thread.start()
    found.append(thing.value)
    thread.join()
    assert thing.computed == 2
    assert found == [thing.value, thing.value]


def test_it_describes_itself() -> None:
    """Where it is asked for on the class."""
    assert Thing.value.__doc__ == "An object of its own each time."
