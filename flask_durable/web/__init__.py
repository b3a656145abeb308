"""The routes for watching executions, for callbacks, and for the console."""

from __future__ import annotations

from .routes import make_blueprint as make_blueprint
