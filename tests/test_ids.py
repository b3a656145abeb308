"""Ids, nonces and keys."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
import typing as t
import uuid

import pytest

from flask_durable.ids import idempotency_key
from flask_durable.ids import new_id
from flask_durable.ids import new_nonce

from .crash_lab import in_child


def test_an_id_is_a_uuid_of_version_7() -> None:
    """With the variant of RFC 9562, whatever bits chance gives."""
    for _ in range(200):
        made = uuid.UUID(new_id())
        assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_an_id_begins_with_its_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 48 bits are the time."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_772_368_215_123_999_999)
    assert uuid.UUID(new_id()).int >> 80 == 1_772_368_215_123


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one made a millisecond later is the greater one, as text too."""
    moments = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    made = [new_id() for _ in range(1000)]
    assert made == sorted(made)


def test_ids_of_one_moment_sort_as_they_were_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many a process makes in it, each is greater than the one before."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    made = [new_id() for _ in range(1000)]
    assert made == sorted(set(made))
    assert {uuid.UUID(id).int >> 80 for id in made} == {10**12}


def test_ids_sort_beside_a_thread_that_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has looked at the clock, and another one makes ids before it goes on."""
    made: list[str] = []
    moments = iter([10**18, 10**18 + 10**6] * 20)

    def look() -> int:
        moment = next(moments)

        if moment == 10**18:
            made.append(new_id())

        return moment

    for _ in range(20):
        monkeypatch.setattr(time, "time_ns", look)
        new_id()
        monkeypatch.setattr(time, "time_ns", lambda: 10**18 + 10**6)
        made.append(new_id())

    assert made == sorted(made)


def test_a_clock_that_is_set_back_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists by time find an id by its first bits."""
    moments = iter([2 * 10**18, 10**18])
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    assert [uuid.UUID(new_id()).int >> 80 for _ in range(2)] == [2 * 10**12, 10**12]


def test_ids_of_a_forked_child_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Although it goes on from the same one, in the same millisecond."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    file = tmp_path / "ids"

    def make() -> str:
        return "\n".join(new_id() for _ in range(100))

    new_id()
    assert in_child(lambda: t.cast(None, file.write_text(make()))) == 0
    made = f"{file.read_text()}\n{make()}".split()
    assert (len(made), len(set(made))) == (200, 200)


def test_nonces_differ() -> None:
    """Within a process, and from those of others."""
    made = [new_nonce() for _ in range(1000)]
    command = "from flask_durable.ids import new_nonce; print(new_nonce())"
    other = subprocess.check_output([sys.executable, "-c", command], text=True).strip()
    assert len({*made, other}) == 1001


def test_nonces_of_a_forked_child_differ(tmp_path: pathlib.Path) -> None:
    """It has the parent's count, but another beginning."""
    file = tmp_path / "nonce"
    assert in_child(lambda: t.cast(None, file.write_text(new_nonce()))) == 0
    process, pid, _ = file.read_text().split("-")
    mine = new_nonce().split("-")
    assert process != mine[0]
    assert pid != mine[1]


def test_a_steps_key_is_the_same_each_time() -> None:
    """In each try, in each process, in each version of Python."""
    execution = "0198c0de-0000-7000-8000-000000000001"
    wanted = str(uuid.uuid5(uuid.UUID(execution), "pay ✓"))
    assert idempotency_key(execution, "pay ✓") == wanted


def test_keys_of_other_steps_and_executions_differ() -> None:
    """No two of them are one payment."""
    one, other = new_id(), new_id()
    keys = {idempotency_key(id_, s) for id_ in (one, other) for s in ("pay", "pay#2")}
    assert len(keys) == 4
