"""The Trip Booker: an app that books trips while its servers are killed.

Start reading in ``trips.py``, which holds the three durable views.
``python -m example_trip_booker`` runs it.
"""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import typing as t

from flask import Flask
from flask import jsonify
from flask import request
from flask import Response
from flask.json.provider import DefaultJSONProvider

from flask_durable import StepError

from . import ledger
from . import manager
from . import pages
from . import trips
from .database import create_tables
from .extensions import durable

__all__ = ["create_app"]

SECONDS_A_CALL = 0.6
"""How long a provider takes to answer, so that a person can watch the steps."""


OWN_PAGES = (pages.pages.name, manager.pages.name)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_app(
    config: cabc.Mapping[str, t.Any] | None = None,
    *,
    data: str | pathlib.Path = "instance",
) -> Flask:
    """Create the app.

    :param config: settings that override those of the environment (``FLASK_…``).
    :param data: the folder for the journal, the approvals and the ledger.
    """
    app = Flask(__name__, instance_path=str(pathlib.Path(data).absolute()))
    app.config["TRIP_BOOKER_LATENCY"] = SECONDS_A_CALL
    app.config.from_prefixed_env()
    app.config.from_mapping(config)

    t.cast(DefaultJSONProvider, app.json).sort_keys = False
    durable.init_app(app)
    app.register_blueprint(trips.trips)
    app.register_blueprint(pages.pages)
    app.register_blueprint(manager.pages)
    app.register_error_handler(StepError, answer_failed_step)
    app.after_request(allow_own_files_only)
    with app.app_context():
        create_tables("approvals", manager.TABLES)
        create_tables("ledger", ledger.TABLES)
    return app


def answer_failed_step(error: StepError) -> tuple[Response, int]:
    """Answer with the failed step and its error, if the view did not catch it."""
    return jsonify(success=False, **trips.reason(error)), 502


def allow_own_files_only(response: Response) -> Response:
    """Let the app's pages load only its own files, and let no other site frame them."""
    if request.blueprint in OWN_PAGES:
        response.headers["Content-Security-Policy"] = POLICY

    return response
