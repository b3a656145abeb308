"""Settings that nobody can have meant so, and what to say of them."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import os
import typing as t

from .config import Config
from .config import PREFIX

FLASK_PREFIX = "FLASK_"
"""With which the variables begin that Flask reads on request."""

SHORT_RETENTION = 3_600
"""Seconds under which a number was rather meant as days."""


def doubts(values: cabc.Mapping[str, t.Any]) -> list[str]:
    """Give a sentence for each setting that is not as it seems.

    :param values: an app's config
    """
    return unread(values) + _short(values.get("DURABLE_RETENTION"))


def unread(values: cabc.Mapping[str, t.Any]) -> list[str]:
    """Give a sentence for each setting that only the environment has."""
    # Two underscores reach into a mapping.
    given = {
        name.removeprefix(FLASK_PREFIX).split("__")[0]
        for name in os.environ
        if name.startswith(FLASK_PREFIX)
    }
    known = [f"{PREFIX}{field.name.upper()}" for field in dataclasses.fields(Config)]
    return [
        f"{FLASK_PREFIX}{key} is set but not read: call app.config.from_prefixed_env()"
        " before FlaskDurable(app)."
        for key in known
        if key in given and key not in values
    ]


def _short(retention: t.Any) -> list[str]:
    # A timedelta says what it is, and nothing is kept for 0 days, either.
    if not isinstance(retention, int | float) or not 0 < retention < SHORT_RETENTION:
        return []

    return [
        f"DURABLE_RETENTION is {retention:g} seconds, after which executions and their"
        " idempotency keys are forgotten: for days write"
        f" timedelta(days={retention:g}), or {retention * 86_400:.0f}."
    ]
