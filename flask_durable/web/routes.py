"""The routes behind signed links: status, response, events and callbacks."""

from __future__ import annotations

import json
import typing as t

from flask import Blueprint
from flask import current_app
from flask import render_template
from flask import request
from werkzeug.wrappers import Response

from ..answers import final_response
from ..callbacks import complete
from ..callbacks import DataTooBig
from ..errors import CallbackConflict
from ..errors import CallbackGone
from ..errors import ExecutionNotFound
from ..errors import JournalUnavailable
from ..patience import Patience
from ..problems import Problem
from ..problems import problem_response
from ..records import Execution
from ..signing import read_callback
from ..signing import read_link
from ..state import get_state
from ..state import State
from ..state import this_app
from ..status import document_response
from ..status import link_status
from ..status import MAX_STEPS
from ..status import prefers_html
from ..status import retry_after
from ..status import status_url
from .console import add_console
from .guard import exempt_posts
from .stream import stream_response

TOO_DEEP = "The JSON has too many levels to be stored."


def make_blueprint(prefix: str, host_matching: bool) -> Blueprint:
    """Make the routes under a URL prefix.

    :param host_matching: whether the app's rules name hosts; then the routes
        exist on every host, and links lead to the request's own
    """
    blueprint = Blueprint(
        "durable", __name__, url_prefix=prefix, template_folder="templates"
    )
    host = "<durable_host>" if host_matching else None
    rule = "/executions/<token>"
    blueprint.add_url_rule(rule, "status", status, host=host)
    blueprint.add_url_rule(f"{rule}/response", "response", response, host=host)
    blueprint.add_url_rule(f"{rule}/events", "events", events, host=host)
    blueprint.add_url_rule(
        "/callbacks/<token>", "callback", callback, methods=["POST"], host=host
    )
    blueprint.add_url_rule("/callbacks/<token>", "no_page", no_page, host=host)
    add_console(blueprint, host)
    blueprint.url_value_preprocessor(exempt_posts)
    blueprint.register_error_handler(JournalUnavailable, _unavailable)

    if host_matching:
        blueprint.app_url_defaults(_add_host)
        blueprint.url_value_preprocessor(_drop_host)

    return blueprint


def _add_host(endpoint: str, values: dict[str, t.Any]) -> None:
    if endpoint.startswith("durable."):
        values.setdefault("durable_host", request.host)


def _drop_host(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
    if values is not None:
        values.pop("durable_host", None)


def status(token: str) -> Response:
    """Answer with the status document."""
    state, execution = _find(token)
    return _document(state, execution, 200)


def response(token: str) -> Response:
    """Answer with the final response, or with 202 while there is none."""
    state, execution = _find(token)
    limit = state.config.max_wait
    execution = Patience(request, limit, request.args.get("wait")).hold(
        state, execution
    )

    if not execution.ended:
        return _pending(state, execution)

    return _named(_not_stored(final_response(state, execution)), execution)


def events(token: str) -> Response:
    """Answer with a stream of what happens."""
    state, execution = _find(token)
    return _named(_not_stored(stream_response(state, execution)), execution)


def callback(token: str) -> Response:
    """Hand the JSON of the request to a callback."""
    app = this_app()
    state = get_state(app)
    limit = state.config.max_output_bytes
    unknown = Problem(404, "There is no callback behind this link.")

    # Without a valid link the body is not even read.
    if read_callback(app, token) is None:
        raise unknown

    too_big = Problem(413, f"The data is over the limit of {limit} bytes.")

    if (request.content_length or 0) > limit:
        raise too_big

    request.max_content_length = limit
    data = _json()

    try:
        complete(state, token, data)
    except ExecutionNotFound:
        raise unknown from None
    except CallbackConflict:
        raise Problem(409, "The callback was completed with other data.") from None
    except CallbackGone:
        raise Problem(410, "The callback's time is over.") from None
    except DataTooBig:
        # As the journal encodes it, it may be a little longer than as it was sent.
        raise too_big from None
    except RecursionError:
        raise Problem(400, TOO_DEEP) from None

    return _not_stored(Response(status=204))


def no_page(token: str) -> t.NoReturn:
    """Explain the link of a callback to people who open it in a browser."""
    detail = (
        "This link takes a POST of JSON, as systems send it. For people, make a page of"
        " your own with the callback's .token."
    )
    raise Problem(405, detail, {"Allow": "POST"})


def _json() -> t.Any:
    try:
        return json.loads(request.get_data())
    except ValueError:
        raise Problem(400, "A callback takes JSON.") from None
    except RecursionError:
        raise Problem(400, TOO_DEEP) from None


def _find(token: str) -> tuple[State, Execution]:
    app = this_app()
    state = get_state(app)
    execution_id = read_link(app, token)

    try:
        if execution_id is not None:
            return state, state.store.execution(execution_id)
    except ExecutionNotFound:
        pass

    raise Problem(404, "There is no execution behind this link.")


def _document(state: State, execution: Execution, code: int) -> Response:
    steps = state.store.newest_steps(execution.id, MAX_STEPS)
    return document_response(execution, steps, code)


def _pending(state: State, execution: Execution) -> Response:
    wait = retry_after(execution)

    if prefers_html(request):
        page = render_template(
            "flask_durable/pending.html", execution=execution, wait=min(wait, 5)
        )
        answer = Response(page, 202, content_type="text/html; charset=utf-8")
    else:
        answer = _document(state, execution, 202)

    answer.headers["Retry-After"] = str(wait)
    return _not_stored(answer)


def _named(answer: Response, execution: Execution) -> Response:
    link_status(answer, execution.id, status_url(execution.id))
    return answer


def _not_stored(answer: Response) -> Response:
    """Keep caches from storing what only those with the link may see."""
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _unavailable(error: JournalUnavailable) -> Response:
    current_app.logger.error("%s", error)
    answer = problem_response(503, error.public)
    answer.headers["Retry-After"] = "5"
    return answer
