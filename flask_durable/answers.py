"""Responses to requests in which the view did not finish: the stored one, or a 202."""

from __future__ import annotations

import collections.abc as cabc
import contextlib

from flask import after_this_request
from flask import current_app
from flask import request
from werkzeug.wrappers import Response

from .capture import stored_response
from .errors import JournalUnavailable
from .options import Options
from .patience import Patience
from .problems import Problem
from .problems import problem_response
from .records import Execution
from .records import StepRecord
from .state import State
from .status import accepted
from .status import link_status
from .status import MAX_STEPS
from .status import prefers_html
from .status import status_url


def final_response(state: State, execution: Execution) -> Response:
    """Make the final response of an execution that has ended.

    :raises Problem: 410 if it was cancelled
    """
    if execution.status == "cancelled":
        raise Problem(410, "The execution was cancelled.", execution=execution.id)

    record = state.store.response(execution.id)

    if record is None:
        detail = "The execution failed without a response."
        response = problem_response(500, detail, execution=execution.id)
    elif record.body is None:
        detail = "The response was too big to store."
        response = problem_response(507, detail, execution=execution.id)
    else:
        response = stored_response(record, record.body)

    return of_app(response)


def of_app(response: Response) -> Response:
    """Convert a response to the app's response class, which decorators may expect."""
    return current_app.response_class.force_type(response)


def later_response(
    state: State,
    options: Options,
    patience: Patience | None,
    execution: Execution,
    steps: cabc.Sequence[StepRecord],
) -> Response:
    """Wait as long as the client will, then return the final response or a promise.

    :param patience: how long the client waits; ``None`` in a replay
    :param execution: the execution, as far as it is known
    :param steps: its steps, likewise
    """
    held = execution if patience is None else patience.hold(state, execution)

    with contextlib.suppress(JournalUnavailable):
        if held.ended:
            return final_response(state, held)

        if held is not execution:
            steps = state.store.newest_steps(held.id, MAX_STEPS)
            execution = held

    return promise(options, execution, steps)


def promise(
    options: Options, execution: Execution, steps: cabc.Sequence[StepRecord]
) -> Response:
    """Make the 202 or 303 which says that the execution goes on later."""
    pending = options.pending
    redirect = pending == "redirect" or (not pending and prefers_html(request))
    return of_app(accepted(execution, steps, redirect))


def link_this_answer(execution_id: str) -> None:
    """Have the response to this request link to an execution, whoever makes it."""
    url = status_url(execution_id)

    def link(response: Response) -> Response:
        link_status(response, execution_id, url)
        return response

    after_this_request(link)
