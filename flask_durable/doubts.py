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


def doubts(values: cabc.Mapping[str, t.Any]) -> list[str]:
    """Give a sentence for each setting that is not as it seems.

    :param values: an app's config
    """
    return [
        f"{FLASK_PREFIX}{key} is set but not read: call app.config.from_prefixed_env()"
        " before FlaskDurable(app)."
        for key in _unread(values)
    ]


def _unread(values: cabc.Mapping[str, t.Any]) -> list[str]:
    """Name the settings that only the environment has."""
    # Two underscores reach into a mapping.
    given = {
        name.removeprefix(FLASK_PREFIX).split("__")[0]
        for name in os.environ
        if name.startswith(FLASK_PREFIX)
    }
    known = [f"{PREFIX}{field.name.upper()}" for field in dataclasses.fields(Config)]
    return [key for key in known if key in given and key not in values]
