"""The only place where ids are made."""

from __future__ import annotations

import itertools
import os
import secrets
import time
import uuid


def new_id() -> str:
    """Make an execution's id: a UUID of version 7 (RFC 9562, section 5.7).

    Ids that a process makes one after the other sort in that order, those of several
    processes to the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000 & (2**48 - 1)
    # Section 6.2, method 1. Threads share the counter, which needs no lock.
    order = next(_order) & (2**32 - 1)
    high = milliseconds << 16 | 0x7 << 12 | order >> 20
    low = 0x2 << 62 | (order & (2**20 - 1)) << 42 | secrets.randbits(42)
    return str(uuid.UUID(int=high << 64 | low))


def is_id(text: str) -> bool:
    """Tell whether this may be an execution's id."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def first_id(moment: float) -> str:
    """Return a prefix that sorts before the ids made at a time, after earlier ones.

    :param moment: in seconds since the epoch
    """
    milliseconds = min(max(0, int(moment * 1000)), 2**48 - 1)
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}"


def new_nonce() -> str:
    """Make a mark, by which a write is recognised when it is read back.

    Its random part is made once in a process: to ask the system each time would
    release the interpreter's lock, for which this thread would then have to wait.
    """
    # With the pid, since a server may fork without Python's hooks.
    return f"{_process}-{os.getpid():x}-{next(_numbers):x}"


def idempotency_key(execution: str, step: str) -> str:
    """Derive the key that each try of one step of one execution shares."""
    return str(uuid.uuid5(uuid.UUID(execution), step))


_numbers = itertools.count()
_order: itertools.count[int]
_process = ""


def _begin_process() -> None:
    global _order, _process
    # At random, since a forked child may make an id in the same millisecond.
    _order = itertools.count(secrets.randbits(31))
    _process = secrets.token_hex(8)


_begin_process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_process)
