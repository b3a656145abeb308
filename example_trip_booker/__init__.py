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
from flask import Response
from flask.json.provider import DefaultJSONProvider

from flask_durable import StepError

from . import bookings
from . import ledger
from .database import create_tables
from .trips import durable
from .trips import trips

__all__ = ["create_app"]

SECONDS_A_CALL = 0.6
"""How long a provider takes to answer, so that a person can watch the steps."""


def create_app(
    config: cabc.Mapping[str, t.Any] | None = None,
    *,
    data: str | pathlib.Path = "instance",
) -> Flask:
    """Build the app.

    :param config: settings that go before those of the environment (``FLASK_…``).
    :param data: the folder for the journal, the bookings and the ledger.
    """
    app = Flask(__name__, instance_path=str(pathlib.Path(data).absolute()))
    app.config["TRIP_BOOKER_LATENCY"] = SECONDS_A_CALL
    app.config.from_prefixed_env()
    app.config.from_mapping(config)

    t.cast(DefaultJSONProvider, app.json).sort_keys = False
    durable.init_app(app)
    app.register_blueprint(trips)
    app.register_blueprint(bookings.pages)
    app.register_error_handler(StepError, answer_failed_step)
    app.after_request(allow_own_files_only)
    with app.app_context():
        create_tables("bookings", bookings.TABLES)
        create_tables("ledger", ledger.TABLES)
    return app


def answer_failed_step(error: StepError) -> tuple[Response, int]:
    """Say which step could not be done, where a view has nothing better to say."""
    return jsonify(success=False, step=error.step, error=error.error_message), 502


def allow_own_files_only(response: Response) -> Response:
    """Let the page load nothing that the app doesn't serve."""
    response.headers.setdefault("Content-Security-Policy", "default-src 'self'")
    return response
