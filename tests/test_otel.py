"""Traces and metrics for OpenTelemetry."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import typing as t

import pytest
from flask import abort
from flask import Flask
from flask.testing import FlaskClient
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import Retry
from flask_durable import step
from flask_durable.dispatch_rq import replay_execution
from flask_durable.ids import new_id
from flask_durable.otel import instrument
from flask_durable.recovery import release
from flask_durable.rq_queue import connect
from flask_durable.rq_queue import durable_queue
from flask_durable.rq_queue import RqHands
from flask_durable.spans import Tracer
from flask_durable.state import get_state
from flask_durable.sweeper import Sweeper
from flask_durable.testing import Crashed
from flask_durable.testing import durable_client
from flask_durable.testing import DurableClient
from flask_durable.traces import can_choose_ids
from flask_durable.traces import choose_ids
from flask_durable.traces import find_trace

from .driving import Drive
from .serving import serving

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CLIENT[:-1] + "0"


class Spans:
    """The spans that an app has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[ReadableSpan]:
        """Give all of them, in the order of their ends."""
        return list(self.exporter.get_finished_spans())

    def names(self) -> list[str]:
        """Name all of them."""
        return [span.name for span in self.all()]

    def named(self, name: str) -> list[ReadableSpan]:
        """Give those of a name."""
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Give the only one of a name."""
        (span,) = self.named(name)
        return span

    def traces(self) -> set[int]:
        """Give the ids of their traces."""
        return {span.context.trace_id for span in self.all() if span.context}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Keep the journal in a file."""
    return sqlite_url


@pytest.fixture
def spans() -> Spans:
    """Collect what is exported."""
    return Spans()


@pytest.fixture
def metrics() -> InMemoryMetricReader:
    """Read what is measured."""
    return InMemoryMetricReader()


@pytest.fixture(autouse=True)
def traced(
    app: Flask, durable: FlaskDurable, spans: Spans, metrics: InMemoryMetricReader
) -> cabc.Iterator[None]:
    """Make an app that is traced and measured."""
    meters = MeterProvider([metrics], shutdown_on_exit=False)
    instrument(app, spans.provider, meters)
    app.config["DURABLE_INLINE_RETRY"] = 0

    @app.post("/good")
    @durable.endpoint
    def good() -> str:
        return step.run("first", str, "done")

    @app.post("/nap")
    @durable.endpoint
    def nap() -> str:
        step.run("first", str)
        step.sleep("nap", 60)
        return step.run("last", str, "awake")

    @app.post("/bad")
    @durable.endpoint
    def bad() -> str:
        return step.run("bad", fail, NonRetryableError("no"))

    yield
    spans.provider.shutdown()
    meters.shutdown()


def fail(error: Exception) -> t.NoReturn:
    """Raise an error, in a step."""
    raise error


def parent(span: ReadableSpan) -> int | None:
    """Give the id of a span's parent."""
    return span.parent.span_id if span.parent else None


def own(span: ReadableSpan) -> int:
    """Give the id of a span."""
    assert span.context is not None
    return int(span.context.span_id)


def of(span: ReadableSpan) -> dict[str, t.Any]:
    """Give the attributes of a span."""
    return dict(span.attributes or {})


def test_an_execution_in_one_request(client: FlaskClient, spans: Spans) -> None:
    """A step within an attempt within an execution, which has no parent."""
    client.post("/good")
    called, attempt = spans.one("step first"), spans.one("attempt good")
    root = spans.one("execution good")
    assert parent(called) == own(attempt)
    assert parent(attempt) == own(root)
    assert root.parent is None
    assert len(spans.traces()) == 1


def test_what_spans_say(client: FlaskClient, spans: Spans) -> None:
    """By names that are documented."""
    execution_id = client.post("/good").headers["Durable-Execution"]
    common = {
        "durable.execution.id": execution_id,
        "durable.endpoint": "good",
        "durable.role": "view",
        "durable.attempt": 1,
    }
    called = {
        "durable.step.id": "first",
        "durable.step.kind": "run",
        "durable.step.tries": 1,
    }
    assert of(spans.one("step first")) == common | called
    assert of(spans.one("attempt good")) == common | {"durable.outcome": "completed"}
    assert of(spans.one("execution good")) == common | {"durable.outcome": "completed"}


def test_one_trace_over_a_suspension(
    client: FlaskClient, drive: Drive, spans: Spans
) -> None:
    """Each attempt is a span of it, and steps are where they ran."""
    drive.finish(client.post("/nap"))
    first, second = spans.named("attempt nap")
    root = spans.one("execution nap")
    assert len(spans.traces()) == 1
    assert {parent(first), parent(second)} == {own(root)}
    assert parent(spans.one("step first")) == own(first)
    assert parent(spans.one("step last")) == own(second)
    assert of(first)["durable.outcome"] == "suspended"
    assert of(first)["durable.suspend.reason"] == "step"
    assert of(second)["durable.queue.delay"] >= 0
    assert of(root)["durable.attempt"] == 2


def test_the_execution_spans_all_of_it(
    client: FlaskClient, drive: Drive, spans: Spans
) -> None:
    """From the first request to the end; so does a sleep that is a part of it."""
    drive.finish(client.post("/nap"))
    root, nap = spans.one("execution nap"), spans.one("step nap")
    assert parent(nap) == own(root)

    for span in (root, nap):
        assert span.start_time is not None and span.end_time is not None
        assert 60 <= (span.end_time - span.start_time) / 1e9 < 100


def test_a_step_is_current_in_its_function(
    app: Flask, durable: FlaskDurable, client: FlaskClient, spans: Spans
) -> None:
    """What instrumented libraries do is beneath it."""
    tracer = spans.provider.get_tracer("requests")

    def call() -> None:
        tracer.start_span("GET").end()

    async def call_async() -> None:
        call()

    @app.post("/calls")
    @durable.endpoint
    def calls() -> str:
        step.run("call", call)
        step.run("async", call_async)
        step.transaction("ledger", lambda connection: call())
        return ""

    client.post("/calls")
    parents = [parent(span) for span in spans.named("GET")]
    names = ("step call", "step async", "step ledger")
    assert parents == [own(spans.one(name)) for name in names]


def test_parallel_branches(
    app: Flask, durable: FlaskDurable, client: FlaskClient, spans: Spans
) -> None:
    """Steps in threads are within the attempt, by one name in a map."""

    @app.post("/many")
    @durable.endpoint
    def many() -> list[str]:
        step.parallel(lambda: step.run("a", str), lambda: step.run("b", str))
        return step.map("item", str, range(3))

    client.post("/many")
    found = [*spans.named("step a"), *spans.named("step b"), *spans.named("step item")]
    assert len(found) == 5
    assert {parent(span) for span in found} == {own(spans.one("attempt many"))}
    ids = {of(span)["durable.step.id"] for span in spans.named("step item")}
    assert ids == {"item[0]", "item[1]", "item[2]"}


def test_tries_are_spans(
    app: Flask, durable: FlaskDurable, drive: Drive, spans: Spans
) -> None:
    """Those that failed have their exceptions."""
    errors: list[Exception] = [ConnectionError("once"), ConnectionError("twice")]

    def flaky() -> str:
        return fail(errors.pop(0)) if errors else "done"

    @app.post("/flaky")
    @durable.endpoint(retry=Retry(initial=60))
    def unsteady() -> str:
        return step.run("flaky", flaky)

    drive.finish(app.test_client().post("/flaky"))
    tries = spans.named("step flaky")
    assert [of(span)["durable.step.tries"] for span in tries] == [1, 2, 3]
    assert [span.status.is_ok for span in tries] == [False, False, True]
    messages = [
        (event.attributes or {})["exception.message"]
        for span in tries
        for event in span.events
    ]
    assert messages == ["once", "twice"]
    assert spans.one("execution unsteady").status.is_ok


def test_a_failed_execution(client: FlaskClient, spans: Spans) -> None:
    """The step, the attempt and the execution show why."""
    assert client.post("/bad").status_code == 500

    for name in ("step bad", "attempt bad", "execution bad"):
        span = spans.one(name)
        assert span.status.status_code is trace.StatusCode.ERROR
        assert [event.name for event in span.events] == ["exception"]

    assert of(spans.one("attempt bad"))["durable.outcome"] == "failed"
    assert of(spans.one("execution bad"))["durable.outcome"] == "failed"


def test_an_http_error_is_an_answer(
    app: Flask, durable: FlaskDurable, client: FlaskClient, spans: Spans
) -> None:
    """The execution has not failed by it."""

    @app.post("/missing")
    @durable.endpoint
    def missing() -> t.NoReturn:
        abort(404)

    client.post("/missing")
    assert spans.one("attempt missing").status.is_ok
    assert of(spans.one("attempt missing"))["durable.outcome"] == "completed"
    assert spans.one("execution missing").status.is_ok


def test_a_view_that_raises_is_tried_again(
    app: Flask, durable: FlaskDurable, client: FlaskClient, spans: Spans
) -> None:
    """Its attempt shows the error, though the execution goes on."""

    @app.post("/odd")
    @durable.endpoint
    def odd() -> t.NoReturn:
        step.run("first", str)
        raise OSError("odd")

    assert client.post("/odd").status_code == 202
    attempt = spans.one("attempt odd")
    assert not attempt.status.is_ok
    assert of(attempt)["durable.outcome"] == "suspended"
    assert of(attempt)["durable.suspend.reason"] == "error"


def test_a_wait_that_times_out(
    app: Flask, durable: FlaskDurable, drive: Drive, spans: Spans
) -> None:
    """It is an error of the step."""

    @app.post("/wait")
    @durable.endpoint
    def wait() -> str:
        step.wait_for_event("wait", "paid", timeout=60)
        return "never"

    drive.finish(app.test_client().post("/wait"))
    assert "WaitTimeoutError" in (spans.one("step wait").status.description or "")


# The client's trace


def test_the_clients_trace_goes_on(
    client: FlaskClient, drive: Drive, spans: Spans
) -> None:
    """In every attempt: its header is a part of the captured request."""
    drive.finish(client.post("/nap", headers={"traceparent": CLIENT}))
    assert spans.traces() == {int(CLIENT.split("-")[1], 16)}
    root = spans.one("execution nap")
    assert parent(root) == int(CLIENT.split("-")[2], 16)
    assert {parent(span) for span in spans.named("attempt nap")} == {own(root)}


def test_a_client_that_is_not_sampled(client: FlaskClient, spans: Spans) -> None:
    """Its choice is kept."""
    client.post("/good", headers={"traceparent": UNSAMPLED})
    assert spans.all() == []


def test_the_servers_span_is_linked(client: FlaskClient, spans: Spans) -> None:
    """An instrumented Flask has a span for each request, also of a replay."""
    tracer = spans.provider.get_tracer("flask")

    with tracer.start_as_current_span("POST /good"):
        client.post("/good")

    server, attempt = spans.one("POST /good"), spans.one("attempt good")
    assert [link.context.span_id for link in attempt.links] == [own(server)]
    root = own(spans.one("execution good"))
    assert [link.context.span_id for link in server.links] == [root]
    id_ = of(attempt)["durable.execution.id"]
    assert of(server)["durable.execution.id"] == id_


def test_a_child_is_in_the_trace_of_its_parent(
    app: Flask, durable: FlaskDurable, drive: Drive, spans: Spans
) -> None:
    """Beneath the attempt that began it."""

    @app.post("/parent")
    @durable.endpoint
    def outer() -> dict[str, t.Any]:
        return {"child": step.invoke("child", "inner")}

    @app.post("/inner")
    @durable.endpoint
    def inner() -> dict[str, str]:
        return {"is": "inner"}

    drive.finish(app.test_client().post("/parent"))
    assert len(spans.traces()) == 1
    first = spans.named("attempt outer")[0]
    child = spans.one("execution inner")
    assert parent(child) == own(first)
    assert of(child)["durable.parent.id"] == of(first)["durable.execution.id"]


def test_an_execution_without_a_client(
    app: Flask, durable: FlaskDurable, drive: Drive, spans: Spans
) -> None:
    """It belongs to what began it."""
    tracer = spans.provider.get_tracer("script")

    with app.app_context(), tracer.start_as_current_span("script"):
        durable.start("good")

    drive.run_due()
    assert parent(spans.one("execution good")) == own(spans.one("script"))


# Ends that no attempt commits


def test_a_cancelled_execution(
    app: Flask, client: FlaskClient, durable: FlaskDurable, spans: Spans
) -> None:
    """The trace is found again, from the captured request."""
    answer = client.post("/nap", headers={"traceparent": CLIENT})

    with app.test_request_context():
        durable.cancel(answer.headers["Durable-Execution"])

    root = spans.one("execution nap")
    assert of(root)["durable.outcome"] == "cancelled"
    assert len(spans.traces()) == 1
    assert parent(spans.one("attempt nap")) == own(root)


def test_an_execution_that_is_given_up(
    app: Flask, client: FlaskClient, drive: Drive, spans: Spans
) -> None:
    """The sweeper ends its trace."""
    client.post("/nap")
    state = drive.state
    drive.advance(100)
    id_ = of(spans.one("attempt nap"))["durable.execution.id"]
    assert state.store.claim(id_, 2, state.owner, 60.0) is not None
    (held,) = state.upkeep.held(state.owner)
    doomed = held.__class__(held.id, held.attempt, held.ready_at, 9, False)
    assert release(state.upkeep, doomed, state.owner)
    assert not spans.one("execution nap").status.is_ok
    assert len(spans.traces()) == 1


@pytest.fixture
def kit(app: Flask) -> DurableClient:
    """Give the kit's client."""
    return durable_client(app)


def test_one_trace_over_a_crash(kit: DurableClient, spans: Spans) -> None:
    """The lost attempt's place is taken by a span of its recovery."""
    kit.crash_before("first")

    with pytest.raises(Crashed) as crashed:
        kit.post("/good")

    kit.run_until_complete(crashed.value)
    root = spans.one("execution good")
    recovery = spans.one("recovery good")
    assert parent(recovery) == own(root)
    assert not recovery.status.is_ok
    outcomes = [of(span)["durable.outcome"] for span in spans.named("attempt good")]
    assert outcomes == ["lost", "completed"]
    assert len(spans.traces()) == 1


# Ways of a replay


def configure(app: Flask, **settings: t.Any) -> None:
    """Change settings of an app that is set up."""
    state = get_state(app)
    state.config = dataclasses.replace(state.config, **settings)


def test_one_trace_over_the_queue(
    app: Flask, client: FlaskClient, drive: Drive, spans: Spans, redis_url: str
) -> None:
    """What a worker takes from Redis is an id alone, and that is enough."""
    configure(app, redis_url=redis_url)
    client.post("/nap")
    drive.advance(61)
    sweeper = Sweeper(drive.state, RqHands(drive.state))
    sweeper.look()

    with app.app_context(), connect(redis_url) as connection:
        (job,) = durable_queue("durable", connection).jobs
        replay_execution(*job.args)

    assert len(spans.named("attempt nap")) == 2
    assert len(spans.named("execution nap")) == 1
    assert len(spans.traces()) == 1


def test_a_hop_that_is_traced_itself(
    app: Flask, client: FlaskClient, drive: Drive, spans: Spans
) -> None:
    """Instrumented libraries write a header of their own; the client's counts."""

    def hop(environ: dict[str, t.Any], start_response: t.Any) -> t.Any:
        environ["HTTP_TRACEPARENT"] = CLIENT.replace("0af7", "ffff")
        return app(environ, start_response)

    client.post("/nap", headers={"traceparent": CLIENT})
    drive.advance(61)

    with serving(hop) as url:
        configure(app, replay_url=url)
        drive.run_due()

    assert len(spans.named("attempt nap")) == 2
    assert spans.traces() == {int(CLIENT.split("-")[1], 16)}


# Ids and samples


def test_the_trace_is_the_same_in_every_process(spans: Spans) -> None:
    """It is derived from the execution's id alone."""
    id_ = "01936f5e-0000-7000-8000-000000000000"
    found = find_trace(spans.provider.get_tracer("any"), id_, {})
    assert f"{found.root.trace_id:032x}" == "846b7226abc8dea28c3ed8cb3c62badd"
    assert f"{found.root.span_id:016x}" == "71da1d2b1bcda472"


def test_samplers_meet_chance(spans: Spans) -> None:
    """Half of a UUID of version 7 is none: a sampler of ids would see that."""
    sampler = TraceIdRatioBased(0.25)
    tracer = spans.provider.get_tracer("any")
    ids = [find_trace(tracer, new_id(), {}).root.trace_id for _ in range(2000)]
    decisions = [sampler.should_sample(None, id_, "").decision for id_ in ids]
    kept = sum(each is Decision.RECORD_AND_SAMPLE for each in decisions)
    assert 350 < kept < 650


def test_an_execution_is_sampled_as_a_whole(
    app: Flask, client: FlaskClient, drive: Drive
) -> None:
    """All of its spans, or none, in every attempt."""
    spans = Spans()
    spans.provider.sampler = ParentBased(TraceIdRatioBased(0.5))
    tracer = Tracer(app, spans.provider)
    get_state(app).tracer = tracer

    for _ in range(12):
        drive.finish(client.post("/nap"))

    counts = {spans.names().count("execution nap")}
    counts.add(spans.names().count("attempt nap") // 2)
    counts.add(spans.names().count("step first"))
    assert len(counts) == 1


def test_other_libraries_keep_their_ids(spans: Spans) -> None:
    """Only our own tracer makes spans of chosen ids."""
    ours, other = (spans.provider.get_tracer(n) for n in ("flask_durable", "other"))
    choose_ids(ours)
    assert (can_choose_ids(ours), can_choose_ids(other)) == (True, False)


class Broken(SpanProcessor):
    """Fails at every span."""

    def on_start(self, span: t.Any, parent_context: t.Any = None) -> t.NoReturn:
        """Fail."""
        raise ValueError("broken at the start")

    def on_end(self, span: t.Any) -> t.NoReturn:
        """Fail."""
        raise ValueError("broken at the end")


class BrokenAtEnd(Broken):
    """Fails when a span ends."""

    def on_start(self, span: t.Any, parent_context: t.Any = None) -> None:  # type: ignore[override]
        """Let it begin."""


@pytest.mark.parametrize("broken", [Broken, BrokenAtEnd])
def test_broken_spans_change_nothing(
    app: Flask,
    client: FlaskClient,
    durable: FlaskDurable,
    spans: Spans,
    caplog: pytest.LogCaptureFixture,
    broken: type[Broken],
) -> None:
    """Above all no step runs twice."""
    calls: list[str] = []

    @app.post("/counted")
    @durable.endpoint
    def counted() -> str:
        step.run("count", lambda: calls.append("once"))
        return "done"

    spans.provider.add_span_processor(broken())
    assert client.post("/counted").text == "done"
    assert calls == ["once"]
    assert "A span could not be made." in caplog.text


# Setting up


def test_an_app_is_instrumented_once(app: Flask) -> None:
    """Spans would be made twice."""
    with pytest.raises(RuntimeError, match="call instrument once"):
        instrument(app)


def test_without_a_provider_nothing_happens(sqlite_url: str) -> None:
    """The API alone makes no spans."""
    app = Flask("bare")
    app.config.update(DURABLE_DATABASE_URL=sqlite_url, SECRET_KEY="x", TESTING=True)
    durable = FlaskDurable(app)
    instrument(app)

    @app.post("/")
    @durable.endpoint
    def view() -> str:
        return step.run("first", str, "done")

    assert app.test_client().post("/").text == "done"
    app.extensions["durable"].close()


def measured(reader: InMemoryMetricReader) -> dict[str, list[t.Any]]:
    """Read the points of each metric."""
    data = reader.get_metrics_data()
    assert data is not None
    scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics]
    return {
        metric.name: list(metric.data.data_points)
        for scope in scopes
        for metric in scope.metrics
    }


def test_metrics(
    client: FlaskClient, drive: Drive, metrics: InMemoryMetricReader
) -> None:
    """The same as Prometheus has, by names with dots."""
    drive.finish(client.post("/nap"))
    found = measured(metrics)
    (ended,) = found["durable.executions"]
    labels = {"durable.endpoint": "nap", "durable.role": "view"}
    assert ended.attributes == labels | {"durable.outcome": "completed"}
    assert ended.value == 1
    (duration,) = found["durable.execution.duration"]
    assert duration.sum >= 60
    assert duration.explicit_bounds[0] == 0.005
    assert {point.attributes["durable.step"] for point in found["durable.steps"]} == {
        "first",
        "nap",
        "last",
    }
