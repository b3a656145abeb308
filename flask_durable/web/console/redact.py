"""Captured requests, outputs and responses as they may be shown: without secrets."""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t
import urllib.parse

from ...capture import SECRET_HEADERS
from .wording import compact
from .wording import pretty
from .wording import size

HIDDEN = "[redacted]"

SHOWN = 64 * 1024
"""Most characters of a body that are shown."""

PARSED = 1024 * 1024
"""Most bytes of a body that is parsed as JSON, to be formatted and redacted."""

_WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""The words of a name: those of ``user[newPassword2]`` are user, new and Password."""

_LETTERS = re.compile(
    "password|passwd|passphrase|passwort|secret|token|credential|authori[sz]ation"
    "|cookie|session|csrf|xsrf|signature|accountnumber|creditcard|securitycode"
    "|(?:access|api|encryption|private|signing)key"
)
"""Letters anywhere in a name that make it the name of a secret."""

_WORDS = re.compile(
    "(?:^|_)(?:o?auth|bearer|cv[cv]|hmac|iban|jwt|pwd|saml|sig|ssn"
    "|(?:card|cc)_?(?:code|number|num|no)|pin_?(?:code|number)|pass_?code"
    "|(?:access|backup|fa|login|mfa|recovery|sms|verification)_?codes?)(?:_|$)"
    "|(?:^|_)(?:(?:admin|db|ftp|mail|my|root|smtp|ssh|user)?pass|pin)$|^(?:card|cc|mfa)$|otp(?:_|$)|cardnumber|passcode"
)
"""Whole words that do so, joined by ``_``."""

_PAIR = re.compile(r"(?:^|[?&#;,\s])([^?&#;,\s=]+)=")
"""The name of a parameter in a text, as of a link's query."""

_VALUE = re.compile(r"""(?:"[^"]*"|'[^']*'|[^&#\s<>])*""")

_NAME = re.compile(r"[\w.\-\[\]]+")

_MARKS = frozenset("\"'<>=:,;|/\t")
"""One of these stands next to a name in XML, HTML, YAML, CSV and program text."""


def is_secret(name: str) -> bool:
    """Tell whether a value with this name must not be shown."""
    words = [word.lower() for word in _WORD.findall(name)]
    return (
        _LETTERS.search("".join(words)) is not None
        or _WORDS.search("_".join(words)) is not None
    )


def hide(value: t.Any) -> t.Any:
    """Return a JSON value without its secrets, which are recognised by their names."""
    if isinstance(value, dict):
        if _is_tagged(value):
            return {"!dict": [[*_hide_item(*pair)] for pair in value["!dict"]]}

        return dict(_hide_item(*pair) for pair in value.items())

    if isinstance(value, list):
        return [hide(item) for item in value]

    return hide_text(value) if isinstance(value, str) else value


def _is_tagged(value: dict[str, t.Any]) -> bool:
    """Tell whether this is a dict as the codec stores it if some keys are no strings.

    A client may have sent something that looks like one.
    """
    pairs = value.get("!dict")
    return (
        isinstance(pairs, list)
        and len(value) == 1
        and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    )


def _hide_item(key: t.Any, item: t.Any) -> tuple[t.Any, t.Any]:
    secret = isinstance(key, str) and item is not None and is_secret(key)
    return key, HIDDEN if secret else hide(item)


def hide_text(text: str) -> str:
    """Return a text without its secrets, if it is JSON or has links."""
    if _looks_like_json(text):
        try:
            value = json.loads(text)
            hidden = hide(value)
            return text if hidden == value else compact(hidden)
        except (ValueError, RecursionError):
            if names_secret(text):
                return HIDDEN

    return _hide_pairs(text) if "=" in text else text


def _hide_pairs(text: str) -> str:
    parts = []
    end = 0

    for found in _PAIR.finditer(text):
        name = urllib.parse.unquote_plus(found[1])

        if found.start() >= end and is_secret(name):
            parts += [text[end : found.end()], HIDDEN]
            value = _VALUE.match(text, found.end())
            end = value.end() if value else found.end()

    return "".join([*parts, text[end:]])


def hide_query(query: str) -> str:
    """Return a query, or a form, without its secrets."""
    parts = []

    for part in query.split("&"):
        name, separator, value = part.partition("=")
        value = urllib.parse.unquote_plus(value)
        secret = is_secret(urllib.parse.unquote_plus(name)) or hide_text(value) != value
        parts.append(f"{name}={HIDDEN}" if separator and secret else part)

    return "&".join(parts)


def names_secret(text: str) -> bool:
    """Tell whether a text has a secret's name next to what may be the secret."""
    names = {
        found[0]
        for found in _NAME.finditer(text)
        if text[max(0, found.start() - 1) : found.start()] in _MARKS
        or text[found.end() : found.end() + 9].lstrip(" ")[:1] in _MARKS
    }
    return any(map(is_secret, names))


@dataclasses.dataclass(frozen=True)
class Body:
    """Bytes as a page shows them."""

    text: str
    note: str
    """What the page says about it, such as its type and size."""


def show_body(body: bytes, content_type: str) -> Body:
    """Return a body as text, formatted if it is JSON."""
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
        # It was not parsed, so it may contain secrets.
        why = "too big to be shown" if len(body) > PARSED else "unreadable, not shown"
        return Body("", f"{kind or 'JSON'}, {amount}, {why}")
    elif names_secret(text[:SHOWN]):
        return Body("", f"{kind or 'text'}, {amount}, not shown: it names a secret")

    return _cut(text, f"{kind or 'text'}, {amount}")


def show_output(output: bytes | None) -> Body:
    """Return a step's output as a page shows it."""
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
    """Return headers without their secrets."""
    return [
        (str(name), HIDDEN if _is_hidden(str(name)) else hide_text(value))
        for name, value in headers
    ]


def _is_hidden(name: str) -> bool:
    return name.lower() in SECRET_HEADERS or is_secret(name)


@dataclasses.dataclass(frozen=True)
class ShownRequest:
    """A captured request as a page shows it."""

    method: str
    target: str
    client: str
    headers: list[tuple[str, str]]
    body: Body


def show_request(head: bytes, secrets: bytes | None, body: bytes) -> ShownRequest:
    """Return a captured request as a page shows it."""
    known = json.loads(head)
    environ = known["environ"]
    query = environ.get("QUERY_STRING", "")
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    # By PEP 3333, the path's bytes are decoded as Latin-1.
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
    """Return a stored response as a page shows it."""
    known = json.loads(head)
    headers = show_headers(known["headers"])
    types = [value for name, value in headers if name.lower() == "content-type"]
    too_big = Body("", "over DURABLE_MAX_RESPONSE_BYTES, so that it was not stored")
    shown = too_big if body is None else show_body(body, types[0] if types else "")
    return ShownResponse(str(known["status"]), headers, shown)
