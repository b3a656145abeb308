"""The spans of executions, their attempts and their steps."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import functools
import logging
import typing as t

from flask import Flask
from flask import has_request_context
from flask import request
from opentelemetry import propagate
from opentelemetry import trace
from werkzeug.exceptions import HTTPException

from .capture import request_environ
from .infos import ExecutionInfo
from .infos import StepInfo
from .names import plain_name
from .notices import queue_delay
from .problems import Problem
from .records import Execution
from .records import StepRecord
from .signals import execution_cancelled
from .signals import execution_completed
from .signals import execution_failed
from .signals import execution_suspended
from .signals import step_completed
from .signals import step_failed
from .state import get_state
from .traces import can_choose_ids
from .traces import choose_ids
from .traces import chosen_ids
from .traces import find_trace
from .traces import NAME
from .traces import Trace

logger = logging.getLogger(__name__)

KEY = "durable.otel"

ID = "durable.execution.id"
OUTCOME = "durable.outcome"
REASON = "durable.suspend.reason"
DELAY = "durable.queue.delay"

CALLED = frozenset({"run", "transaction", "poll"})
"""Kinds of steps that call a function; the others only wait."""

Attributes = dict[str, str | int | float]


class Live(t.NamedTuple):
    """The attempt that the current request runs."""

    execution_id: str
    attempt: int
    trace: Trace
    span: trace.Span


class Tracer:
    """Makes the spans of an app."""

    def __init__(self, app: Flask, provider: trace.TracerProvider | None) -> None:
        self._provider = provider
        self._found: trace.Tracer | None = None
        execution_suspended.connect(self._suspended, app)

        for signal in (execution_completed, execution_failed, execution_cancelled):
            signal.connect(self._ended, app)

        for signal in (step_completed, step_failed):
            signal.connect(self._step_ended, app)

    @contextlib.contextmanager
    def attempt(
        self, execution: Execution, due_at: float | None
    ) -> cabc.Iterator[None]:
        """Make an attempt's span, current while its view runs."""
        with _current(lambda: self._start_attempt(execution, due_at)) as span:
            try:
                yield
            except Problem:
                # An answer of the library: the outcome is unknown.
                raise
            except HTTPException:
                span.set_attribute(OUTCOME, "completed")
                raise
            except Exception as error:
                span.set_attribute(OUTCOME, "failed")
                span.record_exception(error)
                span.set_status(_error(f"{type(error).__name__}: {error}"))
                raise

    def _start_attempt(self, execution: Execution, due_at: float | None) -> trace.Span:
        here = self._trace(execution.id, dict(request.headers))
        server = trace.get_current_span()
        delay = queue_delay(execution, due_at)
        # That holds until another outcome is committed.
        attributes = _of_info(execution) | {OUTCOME: "lost"}
        span = self._tracer.start_span(
            f"attempt {execution.endpoint}",
            here.context,
            attributes=attributes | ({} if delay is None else {DELAY: delay}),
            links=_links(server),
        )
        request.environ[KEY] = Live(execution.id, execution.attempt, here, span)
        server.set_attribute(ID, execution.id)
        server.add_link(here.root)
        return span

    @contextlib.contextmanager
    def call(self, execution: Execution, step: StepRecord) -> cabc.Iterator[None]:
        """Make a span of a try of a step, current while its function runs."""
        name = f"step {plain_name(step.id)}"
        attributes = _of_info(execution) | _of_step(step)
        start = functools.partial(self._tracer.start_span, name, attributes=attributes)

        with _current(start) as span:
            try:
                yield
            except Exception as error:
                span.record_exception(error)
                span.set_status(_error(f"{type(error).__name__}: {error}"))
                raise

    def headers(self) -> dict[str, str]:
        """Return the headers that make a new execution a part of the current trace."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    def _suspended(self, app: Flask, execution: ExecutionInfo, reason: str) -> None:
        if (live := _live(execution)) is not None:
            live.span.set_attributes({OUTCOME: "suspended", REASON: reason})

            if reason == "error":
                _fail(live.span, execution)
        elif reason == "crash":
            self._recovered(app, execution)

    def _recovered(self, app: Flask, execution: ExecutionInfo) -> None:
        """Make a span for an attempt whose own was lost with its process."""
        span = self._tracer.start_span(
            f"recovery {execution.endpoint}",
            self._trace(execution.id, _stored_headers(app, execution.id)).context,
            attributes=_of_info(execution),
        )
        span.set_status(_error("The attempt lost its process."))
        span.end()

    def _ended(self, app: Flask, execution: ExecutionInfo, duration: float) -> None:
        if (live := _live(execution)) is not None:
            here = live.trace

            if live.span.is_recording():
                live.span.set_attribute(OUTCOME, execution.status)
        else:
            here = self._trace(execution.id, _stored_headers(app, execution.id))

        self._end_root(here, execution, duration)

    def _end_root(self, here: Trace, execution: ExecutionInfo, duration: float) -> None:
        tracer = self._tracer

        if not can_choose_ids(tracer):
            # Not the SDK's: the span can't get the id that its children refer to.
            return

        start = execution.created_at.timestamp()
        attributes = _of_info(execution) | {OUTCOME: execution.status}

        with chosen_ids(here.root):
            span = tracer.start_span(
                f"execution {execution.endpoint}",
                here.client,
                attributes=attributes,
                start_time=_nanoseconds(start),
            )

        if execution.status == "failed":
            _fail(span, execution)

        span.end(_nanoseconds(start + duration))

    def _step_ended(
        self, app: Flask, execution: ExecutionInfo, step: StepInfo, duration: float
    ) -> None:
        """Make the span of a step that calls no function, when it has ended.

        Such a step outlasts attempts, so its span belongs to the execution.
        """
        live = _live(execution)

        if live is None or (step.kind in CALLED and step.status != "interrupted"):
            return

        start = step.started_at.timestamp()
        span = self._tracer.start_span(
            f"step {plain_name(step.id)}",
            live.trace.context,
            attributes=_of_info(execution) | _of_step(step),
            start_time=_nanoseconds(start),
        )

        if step.status != "completed":
            span.set_status(_error(step.error_type or step.status))

        span.end(_nanoseconds(start + duration))

    def _trace(self, execution_id: str, headers: cabc.Mapping[str, str]) -> Trace:
        return find_trace(self._tracer, execution_id, headers)

    @property
    def _tracer(self) -> trace.Tracer:
        if self._found is not None:
            return self._found

        tracer: t.Any = trace.get_tracer(NAME, tracer_provider=self._provider)

        if isinstance(tracer, trace.ProxyTracer):
            # The application sets its provider later.
            return tracer

        choose_ids(tracer)
        self._found = tracer
        return t.cast(trace.Tracer, tracer)


@contextlib.contextmanager
def _current(start: cabc.Callable[[], trace.Span]) -> cabc.Iterator[trace.Span]:
    """Make a span current, and end it; errors of the tracing itself are only logged.

    A step that has run must not be run again because an exporter fails.
    """
    span: trace.Span = trace.INVALID_SPAN

    with contextlib.ExitStack() as stack:
        with _logged():
            span = start()
            stack.enter_context(trace.use_span(span, False, False, False))

        try:
            yield span
        finally:
            with _logged():
                span.end()


@contextlib.contextmanager
def _logged() -> cabc.Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("A span could not be made.")


def _live(execution: ExecutionInfo) -> Live | None:
    """Return the attempt of the current request, if it is of this execution."""
    live = request.environ.get(KEY) if has_request_context() else None

    if isinstance(live, Live) and live.execution_id == execution.id:
        return live if live.attempt == execution.attempt else None

    return None


def _stored_headers(app: Flask, execution_id: str) -> dict[str, str]:
    """Read the headers of a request that is not the current one."""
    try:
        record = get_state(app).store.outgoing(execution_id).request
        environ = request_environ(record)
    except Exception as error:
        logger.warning("The trace of execution %s is a guess: %s", execution_id, error)
        return {}

    return {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }


def _of_info(execution: Execution | ExecutionInfo) -> Attributes:
    attributes: Attributes = {
        ID: execution.id,
        "durable.endpoint": execution.endpoint,
        "durable.role": execution.role,
        "durable.attempt": execution.attempt,
    }

    if execution.parent_id is not None:
        attributes["durable.parent.id"] = execution.parent_id

    return attributes


def _of_step(step: StepRecord | StepInfo) -> Attributes:
    return {
        "durable.step.id": step.id,
        "durable.step.kind": step.kind,
        "durable.step.tries": step.tries,
    }


def _links(span: trace.Span) -> list[trace.Link]:
    context = span.get_span_context()
    return [trace.Link(context)] if context.is_valid else []


def _fail(span: trace.Span, execution: ExecutionInfo) -> None:
    """Note in a span why an execution, or one attempt, failed."""
    name, message = execution.error_type or "", execution.error_message or ""
    event = {"exception.type": name, "exception.message": message}
    span.add_event("exception", event)
    span.set_status(_error(f"{name}: {message}"))


def _error(text: str) -> trace.Status:
    return trace.Status(trace.StatusCode.ERROR, text)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
