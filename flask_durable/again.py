"""Answer a repeated request: an earlier one with its key began the execution."""

from __future__ import annotations

from werkzeug.wrappers import Response

from .answers import final_response
from .answers import link_this_answer
from .answers import promise
from .errors import ExecutionNotFound
from .errors import KeyTaken
from .idempotency import REPLAYED
from .options import Options
from .patience import Patience
from .problems import Problem
from .records import Execution
from .records import RequestKey
from .state import State
from .status import MAX_STEPS
from .status import response_url
from .status import status_url


def answer_again(
    state: State, options: Options, patience: Patience, key: RequestKey, taken: KeyTaken
) -> Response:
    """Return the stored response, or say how the execution is getting on.

    :raises Problem: 422 if the key was used for a different request, 409 if the earlier
        request is still running the first attempt, or its execution was just deleted
    """
    if taken.fingerprint != key.fingerprint:
        raise Problem(
            422,
            "The idempotency key was used before for another request, with a different"
            " method, URL or body.",
        )

    try:
        execution = state.store.execution(taken.execution_id)
    except ExecutionNotFound:
        # It was deleted after its key was found.
        raise Problem(409, "Send the request again.", {"Retry-After": "1"}) from None

    link_this_answer(execution.id)
    execution = patience.hold(state, execution)

    if execution.ended:
        response = final_response(state, execution)
        response.headers[REPLAYED] = "true"
        return response

    if execution.status == "running" and execution.attempt == 1:
        raise _running(execution)

    steps = state.store.newest_steps(execution.id, MAX_STEPS)
    return promise(options, execution, steps)


def _running(execution: Execution) -> Problem:
    return Problem(
        409,
        "A request with this idempotency key is being answered: send it again later.",
        {"Retry-After": "1"},
        execution=execution.id,
        status_url=status_url(execution.id),
        response_url=response_url(execution.id),
    )
