"""HTTP errors that steps raise, as the journal keeps them.

An ``abort()`` in a step is the step's outcome: each later attempt raises it
again, the same class with the same answer.
"""

from __future__ import annotations

import json
import sys
import typing as t

from werkzeug.datastructures import Headers
from werkzeug.exceptions import default_exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from .codec import Codec
from .records import Failure

IN_THE_ANSWER = ("code", "response", "www_authenticate")
"""Attributes that are not stored separately: the stored answer has them."""

UTF_8 = ("utf-8", "surrogatepass")


def http_parts(
    error: HTTPException, codec: Codec
) -> tuple[list[t.Any], dict[str, t.Any]]:
    """Describe an error: its code, its attributes, and its whole answer.

    :return: that, and the attributes that can't be stored
    """
    response = error.get_response()
    body = response.get_data().decode("latin-1")
    headers = [list(item) for item in response.headers.items()]
    given = {k: v for k, v in vars(error).items() if k not in IN_THE_ANSWER}
    texts = {name: _encoded(codec, value) for name, value in given.items()}
    about = error.description
    texts["description"] = _encoded(codec, about) or _encoded(codec, str(about))
    left_out = {name: given[name] for name, text in texts.items() if text is None}
    stored = {name: text for name, text in texts.items() if text is not None}
    return [error.code, stored, [response.status, headers, body]], left_out


def http_error(failure: Failure, codec: Codec) -> HTTPException:
    """Make the error again.

    :raises Undecodable: if a type among its attributes is not registered any more
    """
    code, texts, parts = t.cast("list[t.Any]", failure.http)
    values = {k: codec.decode(v.encode(*UTF_8)) for k, v in texts.items()}
    status, headers, body = parts
    cls = _class_of(failure.type) or default_exceptions.get(code, HTTPException)
    # Without the class's own __init__, whose parameters may be any; their effect is in
    # the stored answer.
    error = cls.__new__(cls)
    response = same_response(body.encode("latin-1"), status, headers)
    HTTPException.__init__(error, values.pop("description"), response)
    vars(error).update(values)
    error.code = code
    return error


def same_response(body: bytes, status: str, headers: list[tuple[str, str]]) -> Response:
    """Make a response again: werkzeug would add a type to one that had none."""
    response = Response(body, status, headers)

    if "Content-Type" not in Headers(headers):
        del response.headers["Content-Type"]

    return response


def _encoded(codec: Codec, value: t.Any) -> str | None:
    """Encode an attribute, if that can be."""
    try:
        return codec.encode(value).decode(*UTF_8)
    except Exception:
        # A registered type's function may raise anything; it must not replace the
        # error itself. A number that is an Enum's, such as HTTPStatus, is kept.
        return json.dumps(value) if isinstance(value, int | str) else None


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
