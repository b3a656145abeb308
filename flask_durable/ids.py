"""The one maker of ids."""

from __future__ import annotations

import itertools
import os
import secrets
import time
import uuid


def new_id() -> str:
    """Make an execution's id: a UUID of version 7 (RFC 9562, section 5.7).

    Ids of later executions sort after those of earlier ones, to the
    millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def is_id(text: str) -> bool:
    """Tell whether this may be an execution's id."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def first_id(moment: float) -> str:
    """Give what sorts before the ids made at a time, and after the earlier ones.

    :param moment: in seconds since the epoch
    """
    milliseconds = min(max(0, int(moment * 1000)), 2**48 - 1)
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}"


def new_nonce() -> str:
    """Make the mark by which a write knows itself again.

    It is random by process: to ask the system each time would let go of the
    interpreter, which threads then wait for.
    """
    # A server may fork without Python's hooks.
    return f"{_process}-{os.getpid():x}-{next(_numbers):x}"


def idempotency_key(execution: str, step: str) -> str:
    """Derive the key that each try of one step of one execution shares."""
    return str(uuid.uuid5(uuid.UUID(execution), step))


_numbers = itertools.count()
_process = ""


def _begin_process() -> None:
    global _process
    _process = secrets.token_hex(8)


_begin_process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_process)
