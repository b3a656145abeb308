"""HTTP errors that steps raise, as the journal keeps them.

An ``abort()`` in a step is the step's outcome: each later attempt raises it
again, the same class with the same answer.
"""

from __future__ import annotations

import json
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
    plain = {k: v for k, v in vars(error).items() if _is_plain(v)}
    about = error.description
    plain |= {"description": about if _is_plain(about) else str(about)}
    plain.pop("response", None)
    return [error.code, plain, [response.status, headers, body]]


def http_error(failure: Failure) -> HTTPException:
    """Make the error again."""
    code, values, parts = t.cast("list[t.Any]", failure.http)
    status, headers, body = parts
    cls = _class_of(failure.type) or default_exceptions.get(code, HTTPException)
    # The classes' own parameters differ; the answer holds what came of them.
    error = cls.__new__(cls)
    response = Response(body.encode("latin-1"), status, headers)
    HTTPException.__init__(error, values.pop("description"), response)
    vars(error).update(values)
    error.code = code
    return error


def _is_plain(value: t.Any) -> bool:
    """Tell whether JSON gives the same value back."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _class_of(name: str) -> type[HTTPException] | None:
    """Find a class by its qualified name, if its module is loaded."""
    module, _, rest = name.rpartition(".")

    while module and module not in sys.modules:
        module, _, outer = module.rpartition(".")
        rest = f"{outer}.{rest}"

    found: t.Any = sys.modules.get(module)

    for attribute in rest.split("."):
        found = getattr(found, attribute, None)

    if isinstance(found, type) and issubclass(found, HTTPException):
        return found

    return None
