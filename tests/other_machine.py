"""A process that takes itself for another machine's, with an app of its own.

``python -m tests.other_machine URL LEASE`` sweeps a journal until it is ended.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading

from flask import Flask

from flask_durable import current_execution
from flask_durable import FlaskDurable
from flask_durable import owner
from flask_durable import step

owner._host = lambda: "another:machine"  # type: ignore[assignment]


def main(url: str, lease: float) -> None:
    """Serve nobody, and replay what is due."""
    logging.basicConfig(level=logging.INFO)
    app = Flask("tests.test_outage", instance_path=tempfile.mkdtemp())
    app.config.update(
        DURABLE_DATABASE_URL=url, DURABLE_LEASE=lease, SECRET_KEY="outage"
    )
    durable = FlaskDurable(app)

    @app.post("/<name>")
    @durable.endpoint
    def view(name: str) -> str:
        step.run("slow", str)
        step.run("quick", str)
        logging.info("replayed %s", current_execution.id)
        return name

    durable.start_dispatcher(app)
    logging.info("ready")
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
