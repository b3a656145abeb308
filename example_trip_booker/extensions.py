"""The app's extensions; ``create_app`` ties them to an app."""

from __future__ import annotations

from flask_durable import FlaskDurable

durable = FlaskDurable()
