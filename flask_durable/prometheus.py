"""Metrics for Prometheus, by ``prometheus-client``: ``flask-durable[prometheus]``."""

from __future__ import annotations

import collections.abc as cabc
import logging
import threading
import typing as t

from flask import Flask

from . import clock
from .measures import BUCKETS
from .measures import Labels
from .measures import Measures
from .measures import Metric
from .measures import METRICS
from .state import get_state
from .state import opened_state

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client import Counter
    from prometheus_client import Histogram
    from prometheus_client import REGISTRY
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "flask_durable.prometheus needs the package prometheus-client:"
        ' pip install "flask-durable[prometheus]".'
    ) from error

logger = logging.getLogger(__name__)

KEY = "durable.prometheus"


def instrument(app: Flask, registry: CollectorRegistry = REGISTRY) -> None:
    """Count what an app's executions and steps do.

    With ``PROMETHEUS_MULTIPROC_DIR`` set, as for gunicorn, the processes count
    together.

    :param registry: where the metrics are registered
    :raises RuntimeError: if the app is instrumented already, or is not durable
    """
    get_state(app)

    if KEY in app.extensions:
        raise RuntimeError(
            "This app's metrics are counted already: call instrument once."
        )

    app.extensions[KEY] = Measures(app, _recorder(_metrics_of(registry)))


def _metrics_of(registry: CollectorRegistry) -> dict[Metric, Counter | Histogram]:
    """Make the metrics in a registry, once: several apps may count in one."""
    found = vars(registry).get(KEY)

    if found is None:
        found = {metric: _make(metric, registry) for metric in METRICS}
        vars(registry)[KEY] = found

    return t.cast("dict[Metric, Counter | Histogram]", found)


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Histogram:
    name = "durable_" + metric.name.replace(".", "_")

    if metric.unit:
        return Histogram(
            f"{name}_seconds",
            metric.text,
            metric.labels,
            registry=registry,
            buckets=BUCKETS,
        )

    return Counter(name, metric.text, metric.labels, registry=registry)


def _recorder(
    metrics: cabc.Mapping[Metric, Counter | Histogram],
) -> cabc.Callable[[Metric, Labels, float], None]:
    def record(metric: Metric, labels: Labels, value: float) -> None:
        found = metrics[metric].labels(**labels)

        if isinstance(found, Counter):
            found.inc(value)
        else:
            found.observe(value)

    return record


class JournalCollector(Collector):
    """Gives what the journal has now: ``registry.register(JournalCollector(app))``.

    It asks the database when it is scraped, so one process of an app is enough.

    :param max_age: seconds for which an answer is given again
    """

    def __init__(self, app: Flask, max_age: float = 10.0) -> None:
        self._app = app
        self._max_age = max_age
        self._lock = threading.Lock()
        self._found: list[GaugeMetricFamily] = []
        self._until = 0.0

    def describe(self) -> list[GaugeMetricFamily]:
        """Name the metrics without asking the database."""
        return list(_families())

    def collect(self) -> list[GaugeMetricFamily]:
        """Count the executions; return nothing if the database is away."""
        with self._lock:
            if clock.boottime() >= self._until:
                self._found = self._look()
                self._until = clock.boottime() + self._max_age

            return self._found

    def _look(self) -> list[GaugeMetricFamily]:
        executions, lateness = _families()

        try:
            control = opened_state(self._app).control

            for endpoint, status, count in control.count():
                executions.add_metric([endpoint, status], count)

            lateness.add_metric([], control.lateness())
        except Exception as error:
            # A scrape has other metrics, too: they must not be lost with these.
            logger.warning("The executions were not counted: %s", error)
            return []

        return [executions, lateness]


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    executions = GaugeMetricFamily(
        "durable_journal_executions",
        "Executions in the journal by now.",
        labels=["endpoint", "status"],
    )
    lateness = GaugeMetricFamily(
        "durable_journal_lateness_seconds",
        "How long the first execution that is due has waited.",
    )
    return executions, lateness
