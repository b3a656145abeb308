"""Signed tokens: links for watchers and tickets for replays."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import typing as t

from flask import Flask
from itsdangerous import BadSignature
from itsdangerous import Signer
from itsdangerous import URLSafeSerializer

from . import clock

TICKET_AGE = 600.0
"""Seconds for which a ticket is valid."""

TICKET_SKEW = 60.0
"""Seconds by which another machine's clock may be behind."""


KEY_TYPES = (str, bytes, bytearray)

EXPIRED = "it has expired"
NOT_OURS = "its signature is not ours"
OTHER_VERSION = "it is of another version"
OTHER_APP = "it is for another app"

FOR_NOW = {
    EXPIRED: "expired",
    NOT_OURS: "foreign",
    OTHER_VERSION: "version",
    OTHER_APP: "app",
}
"""Why a server may refuse a ticket although a later one, or another server, may do; and
what the header of its answer says then."""

WHAT_TO_DO = {
    "expired": (
        "The server says that the ticket has expired: synchronise the machines' clocks,"
        " and give the server enough threads."
    ),
    "foreign": (
        "The server has another SECRET_KEY: give all processes the same one, and put"
        " a new one into SECRET_KEY_FALLBACKS everywhere first."
    ),
    "version": (
        "The server has another version of Flask-Durable: install the same one"
        " everywhere."
    ),
    "app": (
        "DURABLE_REPLAY_URL leads to another app: it must lead to a server of the app"
        " of the same name."
    ),
}
"""What to do if the header says so."""


def sign_link(app: Flask, execution_id: str) -> str:
    """Make the token by which an execution may be watched."""
    return _signer(app, "watch").sign(execution_id).decode()


def read_link(app: Flask, token: str) -> str | None:
    """Return the execution's id, or ``None`` if the token is not ours."""
    try:
        return _signer(app, "watch").unsign(token).decode()
    except (BadSignature, UnicodeDecodeError):
        return None


def sign_callback(app: Flask, execution_id: str, step: str) -> str:
    """Make the token by which a step's callback may be completed."""
    return _serializer(app, "callback").dumps([execution_id, step])


def read_callback(app: Flask, token: str) -> tuple[str, str] | None:
    """Return the execution's id and the step's name, if we signed the token."""
    try:
        execution_id, step = _serializer(app, "callback").loads(token)
    except BadSignature:
        return None

    return execution_id, step


def sign_form(app: Flask, secret: str) -> str:
    """Make a form's token for the browser whose cookie has this secret."""
    return _signer(app, "form").sign(secret).decode()


def check_form(app: Flask, secret: str, token: str) -> bool:
    """Tell whether a form's token was made for the browser with this secret."""
    try:
        signed = _signer(app, "form").unsign(token).decode()
    except (BadSignature, UnicodeDecodeError):
        return False

    return bool(secret) and hmac.compare_digest(signed.encode(), secret.encode())


@dataclasses.dataclass(frozen=True)
class Ticket:
    """The right to begin one attempt of one execution with one request."""

    execution_id: str
    attempt: int
    digest: str
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    """Parts of the WSGI environment to restore, if it goes over HTTP."""


def sign_ticket(app: Flask, ticket: Ticket) -> str:
    """Make the value of the ``Durable-Replay`` header.

    It names this app, because another one may have the same journal and the same key.
    """
    fields = [*dataclasses.astuple(ticket), app.name, clock.now()]
    return _serializer(app, "replay").dumps(fields)


def read_ticket(app: Flask, value: str) -> Ticket | str:
    """Return the ticket, or the reason why it is refused."""
    try:
        *fields, name, made_at = _serializer(app, "replay").loads(value)
        ticket = Ticket(*fields)
    except BadSignature:
        return NOT_OURS
    except (TypeError, ValueError):
        return OTHER_VERSION

    if name != app.name:
        return OTHER_APP

    if not -TICKET_SKEW <= clock.now() - made_at <= TICKET_AGE:
        return EXPIRED

    return ticket


def check_secret_key(app: Flask) -> None:
    """Make sure that the app can sign.

    :raises RuntimeError: if it has no secret key, or not a usable one
    """
    _keys(app)


MAKE_ONE = (
    "Make one with\n\n"
    "    python -c 'import secrets; print(secrets.token_hex())'\n\n"
    "and set it as app.secret_key, the same in every process."
)


def _keys(app: Flask) -> tuple[t.Any, ...]:
    """List the keys, oldest first, as itsdangerous wants them."""
    key: t.Any = app.secret_key
    older: t.Any = app.config.get("SECRET_KEY_FALLBACKS") or ()

    if not key:
        raise RuntimeError(
            "Durable endpoints sign links and replays, and this app has no"
            f" SECRET_KEY. {MAKE_ONE}"
        )

    if not isinstance(key, KEY_TYPES):
        raise RuntimeError(
            f"SECRET_KEY is of type {type(key).__name__}, and must be text or bytes."
            f" {MAKE_ONE}"
        )

    if not isinstance(older, (list, tuple)):
        raise RuntimeError(
            f"SECRET_KEY_FALLBACKS is of type {type(older).__name__}, and must be a"
            """ list of keys, such as FLASK_SECRET_KEY_FALLBACKS='["…"]'."""
        )

    return tuple(map(_key, [*reversed(older), key]))


def _key(key: t.Any) -> str | bytes:
    if not key or not isinstance(key, KEY_TYPES):
        empty = isinstance(key, KEY_TYPES)
        what = "an empty key" if empty else f"a key of type {type(key).__name__}"
        raise RuntimeError(
            f"SECRET_KEY_FALLBACKS has {what}: each must be text or bytes, as"
            " SECRET_KEY is."
        )

    return key if isinstance(key, str) else bytes(key)


def _signer(app: Flask, purpose: str) -> Signer:
    return _signer_of(_keys(app), purpose)


def _serializer(app: Flask, purpose: str) -> URLSafeSerializer:
    return _serializer_of(_keys(app), purpose)


@functools.lru_cache
def _signer_of(keys: tuple[t.Any, ...], purpose: str) -> Signer:
    return Signer(keys, **_options(purpose))


@functools.lru_cache
def _serializer_of(keys: tuple[t.Any, ...], purpose: str) -> URLSafeSerializer:
    options = _options(purpose)
    salt = options.pop("salt")
    return URLSafeSerializer(keys, salt=salt, signer_kwargs=options)


def _options(purpose: str) -> dict[str, t.Any]:
    return {
        "salt": f"flask_durable.{purpose}".encode(),
        "key_derivation": "hmac",
        "digest_method": hashlib.sha256,
    }
