"""The routes for whoever watches an execution."""

from __future__ import annotations

from .routes import make_blueprint as make_blueprint
