"""HTTP errors that steps raise, as the journal keeps them.

An ``abort()`` in a step is the step's outcome: each later attempt raises it
again, the same class with the same answer.
"""

from __future__ import annotations

import sys
import typing as t

from werkzeug.exceptions import default_exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from .records import Failure


def http_parts(error: HTTPException) -> list[t.Any]:
    """Describe an error: its code, its description, and its whole answer."""
    response = error.get_response()
    body = response.get_data().decode("latin-1")
    headers = [list(item) for item in response.headers.items()]
    description = error.description

    if description is not None and not isinstance(description, str):
        description = str(description)

    return [error.code, description, [response.status, headers, body]]


def http_error(failure: Failure) -> HTTPException:
    """Make the error again."""
    code, description, parts = t.cast("list[t.Any]", failure.http)
    status, headers, body = parts
    cls = _class_of(failure.type) or default_exceptions.get(code, HTTPException)
    # The classes' own parameters differ; the answer holds what came of them.
    error = cls.__new__(cls)
    response = Response(body.encode("latin-1"), status, headers)
    HTTPException.__init__(error, description, response)
    error.code = code
    return error


def _class_of(name: str) -> type[HTTPException] | None:
    """Find a class by its qualified name, if its module is loaded."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)

    if isinstance(found, type) and issubclass(found, HTTPException):
        return found

    return None
