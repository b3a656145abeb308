"""An app whose view shows what it sees, in its first attempt and in a replay."""

from __future__ import annotations

import os
import time
import typing as t

from flask import Flask
from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_durable import FlaskDurable
from flask_durable import step

METHODS = ["DELETE", "GET", "M-SEARCH", "PATCH", "POST", "PURGE", "PUT"]

app = Flask("mirror", instance_path=os.path.join(os.getcwd(), "instance"))
app.config.from_prefixed_env()
durable = FlaskDurable(app)

if os.environ.get("MIRROR_PROXIED"):
    wsgi_app = ProxyFix(app.wsgi_app, x_host=1, x_port=1, x_prefix=1)
    app.wsgi_app = wsgi_app  # type: ignore[method-assign]


def look() -> dict[str, t.Any]:
    """Show all that a request is to a view."""
    seen = {k: v for k, v in request.environ.items() if isinstance(v, str)}
    return {**seen, "url": request.url, "body": request.get_data().hex()}


@app.route("/", defaults={"rest": ""}, methods=METHODS)
@app.route("/<path:rest>", methods=METHODS)
@durable.endpoint(pending="accepted")
def mirror(rest: str) -> dict[str, t.Any]:
    """Look, sleep, and look again; the second time it takes as long as asked for."""
    first = step.run("first", look)
    step.sleep("nap", 0.05)
    step.run("slow", time.sleep, float(request.args.get("seconds", "0")))
    return {"first": first, "now": look()}
