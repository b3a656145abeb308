"""The library's own HTTP errors, as problem details (RFC 9457)."""

from __future__ import annotations

import http
import json
import typing as t

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response


def problem_response(status: int, detail: str, **members: t.Any) -> Response:
    """Make an ``application/problem+json`` answer.

    :param status: a status code that :class:`http.HTTPStatus` knows
    :param detail: a sentence for the client
    :param members: further members; those that are ``None`` are left out
    """
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    body |= {name: value for name, value in members.items() if value is not None}
    response = Response(
        json.dumps(body) + "\n", status, content_type="application/problem+json"
    )
    response.cache_control.no_store = True
    return response


class Problem(HTTPException):
    """An HTTP error of the library; the app's own handlers may render it."""

    def __init__(
        self,
        code: int,
        detail: str,
        headers: dict[str, str] | None = None,
        **members: t.Any,
    ) -> None:
        response = problem_response(code, detail, **members)
        response.headers.update(headers or {})
        self.code = code
        super().__init__(detail, response)
