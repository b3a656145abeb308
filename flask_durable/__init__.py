"""Durable HTTP views for Flask."""

from __future__ import annotations

from .access import ConsoleAccess
from .errors import AttemptCrashed
from .errors import CallbackConflict
from .errors import CallbackError
from .errors import CallbackGone
from .errors import ConfigError
from .errors import ControlError
from .errors import DeadlineExceeded
from .errors import DecryptionError
from .errors import DuplicateStepError
from .errors import DurableError
from .errors import ExecutionNotFound
from .errors import IdempotencyError
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .errors import MisplacedStepError
from .errors import NestedStepError
from .errors import NonDeterminismError
from .errors import NonRetryableError
from .errors import ReplayRejected
from .errors import RetryAfterError
from .errors import SchemaError
from .errors import StepError
from .errors import StepInterruptedError
from .errors import StepOutputError
from .errors import StoredValueError
from .errors import WaitTimeoutError
from .extension import FlaskDurable
from .globals import current_execution
from .globals import current_step
from .globals import durable_replay
from .globals import step
from .infos import ExecutionInfo
from .logs import replay_filter
from .retry import Retry
from .signals import execution_cancelled
from .signals import execution_completed
from .signals import execution_failed
from .signals import execution_started
from .signals import execution_suspended
from .signals import step_completed
from .signals import step_failed

__all__ = [
    "AttemptCrashed",
    "CallbackConflict",
    "CallbackError",
    "CallbackGone",
    "ConfigError",
    "ConsoleAccess",
    "ControlError",
    "DeadlineExceeded",
    "DecryptionError",
    "DuplicateStepError",
    "DurableError",
    "ExecutionInfo",
    "ExecutionNotFound",
    "FlaskDurable",
    "IdempotencyError",
    "JournalUnavailable",
    "LeaseLostError",
    "MisplacedStepError",
    "NestedStepError",
    "NonDeterminismError",
    "NonRetryableError",
    "ReplayRejected",
    "Retry",
    "RetryAfterError",
    "SchemaError",
    "StepError",
    "StepInterruptedError",
    "StepOutputError",
    "StoredValueError",
    "WaitTimeoutError",
    "current_execution",
    "current_step",
    "durable_replay",
    "execution_cancelled",
    "execution_completed",
    "execution_failed",
    "execution_started",
    "execution_suspended",
    "replay_filter",
    "step",
    "step_completed",
    "step_failed",
]
