"""Traces and metrics for OpenTelemetry: ``flask-durable[otel]``."""

from __future__ import annotations

import collections.abc as cabc

from flask import Flask

try:
    from opentelemetry import metrics
    from opentelemetry import trace
except ImportError as error:
    raise ImportError(
        "flask_durable.otel needs the package opentelemetry-api:"
        ' pip install "flask-durable[otel]".'
    ) from error

from .measures import BUCKETS
from .measures import Labels
from .measures import Measures
from .measures import Metric
from .measures import METRICS
from .spans import KEY
from .spans import Tracer
from .state import get_state
from .traces import NAME


def instrument(
    app: Flask,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Trace and measure an app's executions.

    :param tracer_provider: who makes spans, else OpenTelemetry's global provider
    :param meter_provider: who makes metrics, else the global provider
    :raises RuntimeError: if the app is instrumented already, or is not durable
    """
    state = get_state(app)

    if KEY in app.extensions:
        raise RuntimeError("This app is traced already: call instrument once.")

    tracer = Tracer(app, tracer_provider)
    app.extensions[KEY] = tracer, Measures(app, _recorder(meter_provider))
    state.tracer = tracer


def _recorder(
    provider: metrics.MeterProvider | None,
) -> cabc.Callable[[Metric, Labels, float], None]:
    meter = metrics.get_meter(NAME, meter_provider=provider)
    record: dict[Metric, cabc.Callable[[float, Labels], None]] = {}

    for metric in METRICS:
        name = f"durable.{metric.name}"

        if metric.unit:
            record[metric] = meter.create_histogram(
                name,
                metric.unit,
                metric.text,
                explicit_bucket_boundaries_advisory=BUCKETS,
            ).record
        else:
            record[metric] = meter.create_counter(name, "1", metric.text).add

    return lambda metric, labels, value: record[metric](
        value, {f"durable.{name}": text for name, text in labels.items()}
    )
