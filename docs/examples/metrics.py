import os

from flask import Flask
from flask import Response
from prometheus_client import CollectorRegistry
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client import generate_latest
from prometheus_client import multiprocess
from prometheus_client import REGISTRY

from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.prometheus import instrument
from flask_durable.prometheus import JournalCollector

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
durable = FlaskDurable(app)
instrument(app)
journal = JournalCollector(app)


@app.get("/metrics")
def metrics():
    registry = CollectorRegistry()
    registry.register(journal)

    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)
    else:
        registry.register(REGISTRY)

    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


@app.post("/orders")
@durable.endpoint
def order():
    return {"number": step.run("reserve", lambda: "A-1")}
