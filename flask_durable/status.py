"""What watchers are told: links, the status document, ``202 Accepted``."""

from __future__ import annotations

import collections.abc as cabc
import json
import math
import typing as t

from flask import Request
from flask import url_for
from werkzeug.wrappers import Response

from . import clock
from .records import Execution
from .records import Failure
from .records import StepRecord
from .signing import sign_link
from .state import get_state
from .state import this_app

MAX_STEPS = 100
"""Steps in a status document, the newest ones."""

BROWSER_WAIT = 5.0
"""Seconds that a browser waits for the final response before it shows a page."""

REL = 'rel="status"'

_WAITS = {"sleeping", "retrying", "waiting"}


def status_url(execution_id: str) -> str:
    """Return the absolute link to an execution's status document."""
    return _url("status", execution_id)


def response_url(execution_id: str, wait: float = 0.0) -> str:
    """Return the absolute link to an execution's final response.

    :param wait: seconds that a request of this link waits for the response
    """
    query = {"wait": f"{wait:g}"} if wait else {}
    return _url("response", execution_id, **query)


def events_url(execution_id: str) -> str:
    """Return the absolute link to the events of an execution."""
    return _url("events", execution_id)


def _url(view: str, execution_id: str, **query: str) -> str:
    token = sign_link(this_app(), execution_id)
    return url_for(f"durable.{view}", token=token, _external=True, **query)


def describe_execution(
    execution: Execution, steps: cabc.Sequence[StepRecord]
) -> dict[str, t.Any]:
    """Describe an execution itself, without its links and steps."""
    return {
        "id": execution.id,
        "endpoint": execution.endpoint,
        "status": execution.status,
        "attempt": execution.attempt,
        "created_at": clock.isoformat(execution.created_at),
        "finished_at": clock.isoformat(execution.finished_at),
        "error_type": error_type(execution),
        "waiting_for": waiting_for(execution, steps),
    }


def status_document(
    execution: Execution, steps: cabc.Sequence[StepRecord]
) -> dict[str, t.Any]:
    """Describe an execution for those who have its link, without any outputs."""
    return {
        **describe_execution(execution, steps),
        "status_url": status_url(execution.id),
        "response_url": response_url(execution.id),
        "events_url": events_url(execution.id),
        "steps": [describe_step(step) for step in steps[-MAX_STEPS:]],
    }


def error_type(execution: Execution) -> str | None:
    """Name the error with which an execution failed, or its last attempt."""
    return None if execution.error is None else Failure.decode(execution.error).type


def describe_step(step: StepRecord) -> dict[str, t.Any]:
    """Describe a step, without its output."""
    return {
        "id": step.id,
        "kind": step.kind,
        "status": step.status,
        "tries": step.tries,
        "started_at": clock.isoformat(step.started_at),
        "finished_at": clock.isoformat(step.finished_at),
        "error_type": step.error_type,
    }


def waiting_for(
    execution: Execution, steps: cabc.Sequence[StepRecord]
) -> dict[str, t.Any] | None:
    """Tell what a suspended execution waits for.

    :param steps: its steps, at least those without an outcome
    """
    if execution.status != "suspended":
        return None

    waiting = [step for step in steps if step.status in _WAITS]

    if not waiting:
        until = clock.isoformat(execution.ready_at)
        return {"kind": "retry", "step": None, "until": until}

    first = min(waiting, key=lambda step: step.wake_at or math.inf)
    # At its deadline the execution is woken, and fails.
    ends = [end for end in (first.wake_at, execution.deadline_at) if end is not None]
    return {
        "kind": "retry" if first.status == "retrying" else first.kind,
        "step": first.id,
        "until": clock.isoformat(min(ends, default=None)),
    }


def accepted(
    execution: Execution, steps: cabc.Sequence[StepRecord], redirect: bool
) -> Response:
    """Answer that the execution goes on later.

    :param redirect: send a browser to the final response instead
    """
    if redirect:
        response = Response(status=303)
        response.cache_control.no_store = True
        wait = min(BROWSER_WAIT, get_state(this_app()).config.max_wait)
        response.location = response_url(execution.id, wait)
    else:
        response = document_response(execution, steps, 202)
        response.location = status_url(execution.id)
        response.headers["Retry-After"] = str(retry_after(execution))

    return response


def document_response(
    execution: Execution, steps: cabc.Sequence[StepRecord], status: int = 200
) -> Response:
    """Make an answer of the status document."""
    body = json.dumps(status_document(execution, steps), indent=2)
    response = Response(body + "\n", status, content_type="application/json")
    response.cache_control.no_store = True
    return response


def link_status(response: Response, execution_id: str, url: str) -> None:
    """Name an answer's execution, and link to its status."""
    # An app may return the same response object again and again.
    links = [x for x in response.headers.getlist("Link") if REL not in x]
    response.headers.setlist("Link", [*links, f"<{url}>; {REL}"])
    response.headers["Durable-Execution"] = execution_id


def retry_after(execution: Execution) -> int:
    """Return after how many whole seconds a client should look again."""
    if execution.status != "suspended":
        return 1

    left = (execution.ready_at or execution.now) - execution.now
    return max(1, math.ceil(left))


def prefers_html(request: Request) -> bool:
    """Tell whether the client wants HTML more than JSON, as browsers do."""
    accept = request.accept_mimetypes
    return accept["text/html"] > accept["application/json"]
