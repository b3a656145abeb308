"""Captured requests, outputs and responses as they may be shown: without secrets."""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t
import urllib.parse

from ...capture import SECRET_HEADERS
from .wording import pretty
from .wording import size

HIDDEN = "[redacted]"

SHOWN = 64 * 1024
"""Characters of a body that are shown."""

PARSED = 1024 * 1024
"""Bytes of a body up to which it is read as JSON, to be formatted and redacted."""

_SECRET = re.compile(
    r"pass(word|wd|phrase|code)?$|^pwd$|secret|token|api[-_]?key|access[-_]?key"
    r"|private[-_]?key|authorization|cookie|credential|session|csrf|xsrf|signature"
    r"|^(card|cc)([-_]?(number|no|num))?$|cardnumber|^cv[cv]2?$|^iban$|^ssn$|^pin$|otp$",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Tell whether what has this name is not for eyes."""
    return _SECRET.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) is not None


def hide(value: t.Any) -> t.Any:
    """Give a JSON value without the secrets in it, which their names tell."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if is_secret(str(key)) and item is not None else hide(item)
            for key, item in value.items()
        }

    return [hide(item) for item in value] if isinstance(value, list) else value


def hide_query(query: str) -> str:
    """Give a query, or a form, without the secrets in it."""
    parts = []

    for part in query.split("&"):
        name, separator, _ = part.partition("=")
        secret = separator and is_secret(urllib.parse.unquote_plus(name))
        parts.append(f"{name}={HIDDEN}" if secret else part)

    return "&".join(parts)


@dataclasses.dataclass(frozen=True)
class Body:
    """Bytes as a page shows them."""

    text: str
    note: str
    """What must be said about it."""


def show_body(body: bytes, content_type: str) -> Body:
    """Give a body as text, formatted if it is JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    amount = size(len(body))

    if not body:
        return Body("", "no body")

    if kind.startswith("multipart/"):
        return Body("", f"{kind}, {amount}, not shown")

    if len(body) <= PARSED and (shown := _as_json(body)) is not None:
        return _cut(shown, f"{kind or 'JSON'}, {amount}")

    text = _as_text(body[: 4 * SHOWN], len(body) > 4 * SHOWN)

    if text is None:
        return Body("", f"{kind or 'binary'}, {amount}, not shown")

    if kind == "application/x-www-form-urlencoded":
        text = "\n".join(hide_query(text).split("&"))
    elif _looks_like_json(text):
        # Too big to be read through, so that nobody knows what is in it.
        return Body("", f"{kind or 'JSON'}, {amount}, too big to be shown")

    return _cut(text, f"{kind or 'text'}, {amount}")


def show_output(output: bytes | None) -> Body:
    """Give what a step returned."""
    return show_body(output, "") if output is not None else Body("", "nothing stored")


def _looks_like_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[")


def _as_json(body: bytes) -> str | None:
    try:
        return pretty(hide(json.loads(body)))
    except (ValueError, RecursionError):
        return None


def _as_text(body: bytes, is_cut: bool) -> str | None:
    try:
        return body.decode("utf-8", "ignore" if is_cut else "strict")
    except UnicodeDecodeError:
        return None


def _cut(text: str, note: str) -> Body:
    if len(text) <= SHOWN:
        return Body(text, note)

    return Body(text[:SHOWN], f"{note}, its first {SHOWN} characters")


def show_headers(headers: t.Iterable[t.Sequence[str]]) -> list[tuple[str, str]]:
    """Give headers without what is secret."""
    return [
        (str(name), HIDDEN if _is_hidden(str(name)) else _hide_link(str(name), value))
        for name, value in headers
    ]


def _is_hidden(name: str) -> bool:
    return name.lower() in SECRET_HEADERS or is_secret(name)


def _hide_link(name: str, value: str) -> str:
    if name.lower() not in ("referer", "location"):
        return value

    path, separator, query = value.partition("?")
    return f"{path}?{hide_query(query)}" if separator else value


@dataclasses.dataclass(frozen=True)
class ShownRequest:
    """A captured request as a page shows it."""

    method: str
    target: str
    client: str
    headers: list[tuple[str, str]]
    body: Body


def show_request(head: bytes, secrets: bytes | None, body: bytes) -> ShownRequest:
    """Give a captured request."""
    known = json.loads(head)
    environ = known["environ"]
    query = environ.get("QUERY_STRING", "")
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    # As PEP 3333 has it, the path's bytes are taken for Latin-1.
    path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    hidden = [[name, HIDDEN] for name, _ in json.loads(secrets)] if secrets else []
    headers = show_headers([*known["headers"], *hidden])
    types = [value for name, value in headers if name.lower() == "content-type"]
    return ShownRequest(
        method=environ.get("REQUEST_METHOD", ""),
        target=f"{path}?{hide_query(query)}" if query else path,
        client=environ.get("REMOTE_ADDR", ""),
        headers=headers,
        body=show_body(body, types[0] if types else ""),
    )


@dataclasses.dataclass(frozen=True)
class ShownResponse:
    """A stored response as a page shows it."""

    status: str
    headers: list[tuple[str, str]]
    body: Body


def show_response(head: bytes, body: bytes | None) -> ShownResponse:
    """Give a stored response."""
    known = json.loads(head)
    headers = show_headers(known["headers"])
    types = [value for name, value in headers if name.lower() == "content-type"]
    too_big = Body("", "over DURABLE_MAX_RESPONSE_BYTES, so that it was not stored")
    shown = too_big if body is None else show_body(body, types[0] if types else "")
    return ShownResponse(str(known["status"]), headers, shown)
