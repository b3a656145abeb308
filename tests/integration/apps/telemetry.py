"""An app that is traced and measured, in several processes, one of which dies."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import typing as t

from flask import Flask
from flask import Response
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from flask_durable import FlaskDurable
from flask_durable import otel
from flask_durable import prometheus
from flask_durable import step

SPANS = pathlib.Path("spans.jsonl")
DEAD = pathlib.Path("dead")


class FileExporter(SpanExporter):
    """Appends spans to a file that all processes share."""

    def export(self, spans: t.Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a line for each."""
        with SPANS.open("a") as file:
            for span in spans:
                line = {
                    "name": span.name,
                    "pid": os.getpid(),
                    "trace": span.context and span.context.trace_id,
                    "id": span.context and span.context.span_id,
                    "parent": span.parent and span.parent.span_id,
                }
                file.write(json.dumps(line) + "\n")

        return SpanExportResult.SUCCESS


app = Flask("telemetry", instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
durable = FlaskDurable(app)
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
otel.instrument(app, provider)
prometheus.instrument(app)


def die_once() -> int:
    """Be killed in the first try."""
    if not DEAD.exists():
        DEAD.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    return os.getpid()


@app.post("/order")
@durable.endpoint
def order() -> dict[str, int]:
    """Lose the process between two steps."""
    return {"first": step.run("first", os.getpid), "last": step.run("last", die_once)}


@app.get("/metrics")
def metrics() -> Response:
    """Give what all processes counted."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), content_type="text/plain")
