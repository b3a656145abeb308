from flask import Flask
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable.otel import instrument

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
durable = FlaskDurable(app)
instrument(app)


@app.post("/orders")
@durable.endpoint
def order():
    number = step.run("reserve", lambda: "A-1")
    step.sleep("cool-off", 60)
    return {"number": number, "shipped": step.run("ship", lambda: True)}
