"""What the console's pages show."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from flask import request
from werkzeug.wrappers import Response

from ... import clock
from ... import history
from ...access import ConsoleAccess
from ...errors import DecryptionError
from ...listing import Head
from ...listing import Page
from ...listing_sql import MAX_STEPS
from ...options import options_of
from ...records import AFTER_FAILURE
from ...records import Execution
from ...records import Failure
from ...state import State
from ...state import this_app
from . import chart
from .guard import Forms
from .pages import list_url
from .pages import render
from .query import Question
from .query import read_question
from .query import read_window
from .query import STATUSES
from .query import WINDOWS
from .redact import Body
from .redact import show_output
from .redact import show_request
from .redact import show_response
from .waterfall import Drawing

ROWS = 50
"""Most executions on a page."""

LINES = 100
"""Most progress messages on a page."""

DONE = {
    "cancel": "Cancelled. If a step is running, its outcome is recorded first.",
    "resume": "Resumed. It goes on where it failed.",
    "rerun": "This is the new execution.",
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request for a page, and what its user may see and do."""

    state: State
    access: ConsoleAccess
    forms: Forms

    @property
    def is_part(self) -> bool:
        """Tell whether the page's script asks for only the part that changes."""
        return request.headers.get("Durable-Console") == "part"

    def page(self, name: str, code: int = 200, **values: t.Any) -> Response:
        """Render a page, or the part of it that changes.

        :param name: its template; the part's begins with an underscore
        """
        template = f"_{name}" if self.is_part else name
        common = {"access": self.access, "token": self.forms.token}
        return render(template, code, **common, **values)


def list_page(asked: Asked) -> Response:
    """List executions by the filters of the address."""
    now = clock.now()
    question = read_question(request.args, now)
    found = Page([], None)

    if not question.problem:
        found = asked.state.listing.page(question.filters, ROWS)

    return asked.page(
        "list.html",
        400 if question.problem else 200,
        here="list",
        now=now,
        question=question,
        page=found,
        failures=_failures(found),
        older=_address(question, found.next) if found.next else None,
        newest=_address(question, None),
        endpoints=_endpoints(question.values.get("endpoint")),
        statuses=STATUSES,
        windows=WINDOWS,
    )


def _failures(found: Page) -> dict[str, Failure]:
    known = {}

    for row in found.rows:
        if row.execution.error is not None:
            known[row.execution.id] = Failure.decode(row.execution.error)

    return known


def _address(question: Question, before: str | None) -> str:
    return list_url(**{**question.values, "before": before})


def _endpoints(asked_for: str | None) -> list[str]:
    """Name the durable endpoints of the app, and the one that was asked for."""
    app = this_app()
    found = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if options_of(app, rule.endpoint, method) is not None
    }
    return sorted(found | ({asked_for} if asked_for else set()))


def execution_page(asked: Asked, execution_id: str, problem: str = "") -> Response:
    """Show one execution.

    :param problem: why a button did nothing
    """
    listing = asked.state.listing
    head = listing.head(execution_id)
    execution = head.execution
    children = listing.children(execution_id)
    drawing = Drawing(
        execution,
        _spans(head),
        listing.steps(execution_id),
        _tries(asked, execution_id),
        {child.step: child.id for child in children},
    )
    return asked.page(
        "execution.html",
        409 if problem else 200,
        here="execution",
        execution=execution,
        now=execution.now,
        took=(execution.finished_at or execution.now) - execution.created_at,
        failure=Failure.decode(execution.error) if execution.error else None,
        drawing=drawing.draw(),
        most_steps=MAX_STEPS,
        after=next((c.id for c in children if c.step == AFTER_FAILURE), None),
        request=None if asked.is_part else _request(asked, execution_id),
        progress=_progress(asked, execution_id),
        response=_response(asked, execution),
        problem=problem,
        can_force="--force" in problem,
        done=DONE.get(request.args.get("done", "")),
    )


def _tries(asked: Asked, execution_id: str) -> dict[str, Failure]:
    """Return how steps failed, if that can be decrypted."""
    try:
        failed = asked.state.listing.failures(execution_id)
    except DecryptionError:
        return {}

    return {name: Failure.decode(error) for name, error in failed.items()}


def _progress(asked: Asked, execution_id: str) -> list[dict[str, t.Any]]:
    """Return the newest progress messages, if the user may see them."""
    if not asked.access.data:
        return []

    try:
        lines = asked.state.progress.newest(execution_id, LINES)
    except DecryptionError:
        return []

    return [json.loads(line.data) for line in lines]


def _spans(head: Head) -> list[history.Span]:
    execution = head.execution
    finished = execution.finished_at
    lasted = None if finished is None else finished - execution.created_at
    return history.read(head.history, execution.attempt, lasted)


def _request(asked: Asked, execution_id: str) -> t.Any:
    """Return the captured request, if the user may see it and it can be decrypted."""
    if not asked.access.data:
        return None

    try:
        return show_request(*asked.state.listing.request(execution_id))
    except DecryptionError as error:
        return str(error)


def _response(asked: Asked, execution: Execution) -> t.Any:
    if not asked.access.data or not execution.ended:
        return None

    try:
        record = asked.state.store.response(execution.id)
    except DecryptionError as error:
        return str(error)

    return record and show_response(record.head, record.body)


def step_page(asked: Asked, execution_id: str) -> Response:
    """Show what one step returned, and how it failed."""
    head = asked.state.listing.head(execution_id)
    name = request.args.get("name", "")
    step, error, output = asked.state.listing.step(execution_id, name)
    data = asked.access.data
    return asked.page(
        "step.html",
        here="execution",
        execution=head.execution,
        now=head.execution.now,
        step=step,
        failure=Failure.decode(error) if error and data else None,
        output=show_output(output) if data else Body("", ""),
    )


def stats_page(asked: Asked) -> Response:
    """Count executions by endpoint over time."""
    name = read_window(request.args)
    words, seconds = WINDOWS[name]
    now = clock.now()
    since = now - seconds
    counts, is_cut = asked.state.listing.counts(since, seconds / chart.BUCKETS)
    return asked.page(
        "stats.html",
        here="stats",
        now=now,
        since=since,
        window=name,
        windows=WINDOWS,
        words_of_window=words,
        total=chart.count_up("All endpoints", counts, seconds),
        endpoints=chart.by_endpoint(counts, seconds),
        is_cut=is_cut,
    )
