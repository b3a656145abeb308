"""Settings that are probably mistakes, and the warnings about them."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import os
import typing as t

from .config import Config
from .config import PREFIX

FLASK_PREFIX = "FLASK_"
"""The prefix of the variables that ``app.config.from_prefixed_env`` reads."""

SHORT_RETENTION = 3_600
"""Seconds below which a number was probably meant as days."""


def doubts(values: cabc.Mapping[str, t.Any]) -> list[str]:
    """Return a warning for each setting that is probably a mistake.

    :param values: an app's config
    """
    return unread(values) + _short(values.get("DURABLE_RETENTION"))


def unread(values: cabc.Mapping[str, t.Any]) -> list[str]:
    """Return a warning for each setting that is in the environment only."""
    # In the name of a variable, two underscores reach into a mapping.
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
    # A timedelta has its unit, and 0 is the same in seconds and in days.
    if not isinstance(retention, int | float) or not 0 < retention < SHORT_RETENTION:
        return []

    return [
        f"DURABLE_RETENTION is {retention:g} seconds, after which executions and their"
        " idempotency keys are forgotten: for days write"
        f" timedelta(days={retention:g}), or {retention * 86_400:.0f}."
    ]
