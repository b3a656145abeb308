"""``step.progress``: messages for those who watch an execution."""

from __future__ import annotations

import json
import logging
import typing as t

from .scope import running_step
from .scope import Scope

logger = logging.getLogger(__name__)

MAX_BYTES = 16_384
"""Most bytes of an encoded message."""


def tell(scope: Scope, message: str, data: dict[str, t.Any]) -> None:
    """Store a message for those who watch; a failure is only logged.

    While a view goes again through completed steps, nothing is stored: it has been.
    """
    attempt = scope.attempt
    running = running_step.get()

    if running is None and attempt.walks_again:
        return

    step = None if running is None else running.id

    try:
        line = json.dumps({"message": str(message), "data": data, "step": step})

        if len(line) > MAX_BYTES:
            raise ValueError(f"it has {len(line)} bytes, more than {MAX_BYTES}")

        attempt.state.progress.say(attempt.id, line.encode())
    except Exception as error:
        logger.warning(
            "A progress message of execution %s was dropped: %s.", attempt.id, error
        )
