"""Exempts the extension's own routes from an app's protection of its forms."""

from __future__ import annotations

import typing as t

from flask import current_app
from flask import request


def exempt_posts(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
    """Exempt the current route from Flask-WTF's protection, which it can't pass.

    Callbacks are posted by other systems, with a signed link; the console's forms have
    CSRF tokens of their own.
    """
    protection: t.Any = current_app.extensions.get("csrf")
    view = current_app.view_functions.get(endpoint or "")

    if request.method == "POST" and hasattr(protection, "exempt"):
        protection.exempt(view)
