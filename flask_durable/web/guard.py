"""What else protects an app's forms must let the extension's own routes be."""

from __future__ import annotations

import typing as t

from flask import current_app
from flask import request


def exempt_posts(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
    """Leave the current route out of Flask-WTF's protection, which it can't pass.

    Callbacks are posted by systems with a signed link; the console's forms have a
    protection of their own.
    """
    protection: t.Any = current_app.extensions.get("csrf")
    view = current_app.view_functions.get(endpoint or "")

    if request.method == "POST" and hasattr(protection, "exempt"):
        protection.exempt(view)
