"""Who may use the console, and what its answers and forms carry for safety."""

from __future__ import annotations

import ipaddress
import secrets

from flask import abort
from flask import Flask
from flask import request
from flask import url_for
from werkzeug.wrappers import Response

from ...access import ConsoleAccess
from ...signing import check_form
from ...signing import sign_form
from ...state import State

COOKIE = "durable_console"
FIELD = "token"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing in a page runs or loads but the console's own files."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}

PROXIES = frozenset({"forwarded", "true-client-ip", "via", "x-client-ip", "x-real-ip"})
"""Headers that proxies add; also those that begin with one of the following."""

PROXIES_BEGIN = ("cf-", "x-forwarded")


def check_access(app: Flask, state: State) -> ConsoleAccess:
    """Return what the current request may see and do; answer 404 if that is nothing."""
    decide = state.hooks.console_auth

    if decide is not None:
        access = ConsoleAccess.of(app.ensure_sync(decide)(request))
    else:
        allowed = state.config.console and app.debug and is_local()
        access = ConsoleAccess.of(allowed)

    if not access.view:
        abort(404)

    return access


def is_local() -> bool:
    """Tell whether the request comes from this machine's own user.

    A proxy on this machine does not count, as far as its headers reveal it; nor does a
    request for a foreign host name that was made to lead here (DNS rebinding).
    """
    if any(map(_is_of_proxy, request.headers.keys())):
        return False

    host = (request.host or "").rpartition("@")[2]
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    named = name == "localhost" or name.endswith(".localhost")
    return _is_loopback(request.remote_addr) and (named or _is_loopback(name))


def _is_of_proxy(header: str) -> bool:
    name = header.lower()
    return name in PROXIES or name.startswith(PROXIES_BEGIN)


def _is_loopback(text: str | None) -> bool:
    try:
        address = ipaddress.ip_address((text or "").strip("[]"))
    except ValueError:
        return False

    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class Forms:
    """The CSRF tokens of the console's forms.

    They are independent of the app's own protection and sessions: the browser has a
    cookie with a secret, and each form contains the same secret, signed.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._secret = request.cookies.get(COOKIE, "")
        self._is_new = not 20 <= len(self._secret) <= 80

        if self._is_new:
            self._secret = secrets.token_urlsafe(24)

    @property
    def token(self) -> str:
        """The token that a form of this answer sends back."""
        return sign_form(self._app, self._secret)

    def is_ours(self) -> bool:
        """Tell whether the current request was sent by one of our pages."""
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        token = request.form.get(FIELD, "")
        ours = not self._is_new and check_form(self._app, self._secret, token)
        return ours and site == "same-origin"

    def mark(self, answer: Response) -> None:
        """Give the browser its secret, if it has none."""
        if self._is_new:
            answer.set_cookie(
                COOKIE,
                self._secret,
                path=url_for("durable.console"),
                secure=request.is_secure,
                httponly=True,
                samesite="Lax",
            )


def secure(answer: Response) -> Response:
    """Add the headers that each answer of the console has."""
    answer.headers.update(HEADERS)
    return answer
