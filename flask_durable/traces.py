"""Which trace an execution belongs to, and how its own span gets its id."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import contextvars
import hashlib
import typing as t
import uuid

from opentelemetry import propagate
from opentelemetry import trace
from opentelemetry.context import Context

NAME = "flask_durable"

EMPTY = Context()


class Trace(t.NamedTuple):
    """Where an execution's spans belong, the same in every attempt and process."""

    client: Context
    """The trace context of the client's request; empty if it has none."""
    root: trace.SpanContext
    """The span of the execution itself, which is made when it has ended."""

    @property
    def context(self) -> Context:
        """The parent context of the spans within the execution."""
        return trace.set_span_in_context(trace.NonRecordingSpan(self.root), EMPTY)


def find_trace(
    tracer: trace.Tracer, execution_id: str, headers: cabc.Mapping[str, str]
) -> Trace:
    """Find an execution's trace: its client's, else one that is derived from its id.

    :param headers: those of the captured request
    """
    carrier = {name.lower(): value for name, value in headers.items()}
    client = propagate.extract(carrier, EMPTY)
    found = trace.get_current_span(client).get_span_context()
    # Not the id itself: samplers expect random bits, and a part of it is not random.
    digest = hashlib.blake2b(
        uuid.UUID(execution_id).bytes, digest_size=24, person=NAME.encode()
    ).digest()
    span_id = int.from_bytes(digest[16:])

    if found.is_valid:
        return Trace(client, _root(found.trace_id, span_id, found.trace_flags))

    trace_id = int.from_bytes(digest[:16])
    return Trace(EMPTY, _root(trace_id, span_id, _flags(tracer, trace_id)))


def _root(trace_id: int, span_id: int, flags: int) -> trace.SpanContext:
    return trace.SpanContext(trace_id, span_id, True, trace.TraceFlags(flags))


def _flags(tracer: trace.Tracer, trace_id: int) -> int:
    """Ask the SDK's sampler, by the trace's id, once for all of its spans."""
    sampler: t.Any = getattr(tracer, "sampler", None)
    kind = trace.SpanKind.INTERNAL

    if sampler is None:
        return trace.TraceFlags.SAMPLED

    result = sampler.should_sample(EMPTY, trace_id, "execution", kind, {}, ())
    sampled = result.decision.is_sampled()
    return trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT


_chosen: contextvars.ContextVar[trace.SpanContext | None] = contextvars.ContextVar(
    "flask_durable.otel", default=None
)


class ChosenIds:
    """Wraps the SDK's id generator, so that a span can get chosen ids.

    The SDK makes a tracer for each library, so those of others are not touched.
    """

    def __init__(self, ids: t.Any) -> None:
        self._ids = ids

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        chosen = _chosen.get()
        return chosen.span_id if chosen else self._ids.generate_span_id()

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        chosen = _chosen.get()
        return chosen.trace_id if chosen else self._ids.generate_trace_id()

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._ids, name)


def choose_ids(tracer: t.Any) -> None:
    """Let a tracer make spans with chosen ids, if it is the SDK's."""
    ids = getattr(tracer, "id_generator", None)

    if ids is not None and not isinstance(ids, ChosenIds):
        tracer.id_generator = ChosenIds(ids)


def can_choose_ids(tracer: trace.Tracer) -> bool:
    """Tell whether a tracer can make spans with chosen ids."""
    return isinstance(getattr(tracer, "id_generator", None), ChosenIds)


@contextlib.contextmanager
def chosen_ids(context: trace.SpanContext) -> cabc.Iterator[None]:
    """Give these ids to the span that is started within the ``with`` block."""
    token = _chosen.set(context)

    try:
        yield
    finally:
        _chosen.reset(token)
