"""The signals by which an app hears how its executions fare.

The sender is the app. Each is sent by the process that committed what it tells, right
after that; ``docs/signals.rst`` has what each carries.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

execution_started = _signals.signal("durable-execution-started")
"""Sent when an attempt of an execution has begun: the first, and each later one."""

execution_suspended = _signals.signal("durable-execution-suspended")
"""Sent when an attempt has ended, and another one is to follow."""

execution_completed = _signals.signal("durable-execution-completed")
"""Sent when the final response of an execution is stored."""

execution_failed = _signals.signal("durable-execution-failed")
"""Sent when an execution has failed, whoever found that out."""

execution_cancelled = _signals.signal("durable-execution-cancelled")
"""Sent when an execution has ended because somebody cancelled it."""

step_completed = _signals.signal("durable-step-completed")
"""Sent when the result of a step is stored."""

step_failed = _signals.signal("durable-step-failed")
"""Sent when it is stored that a step failed for good, or was interrupted."""
