"""The signals that tell an app what happens to its executions.

The sender is the app. The process that commits a change sends its signal right after
the commit; ``docs/signals.rst`` says what each carries.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

execution_started = _signals.signal("durable-execution-started")
"""Sent when an attempt of an execution has begun: the first, and each later one."""

execution_suspended = _signals.signal("durable-execution-suspended")
"""Sent when an attempt has ended, and another one will follow."""

execution_completed = _signals.signal("durable-execution-completed")
"""Sent when the final response of an execution is stored."""

execution_failed = _signals.signal("durable-execution-failed")
"""Sent when an execution has failed, whichever process found that out."""

execution_cancelled = _signals.signal("durable-execution-cancelled")
"""Sent when an execution has ended because somebody cancelled it."""

step_completed = _signals.signal("durable-step-completed")
"""Sent when the result of a step is stored."""

step_failed = _signals.signal("durable-step-failed")
"""Sent when the failure of a step is stored: it failed for good, or was interrupted."""
