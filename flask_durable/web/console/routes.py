"""The console's routes."""

from __future__ import annotations

import collections.abc as cabc
import functools
import typing as t

from flask import abort
from flask import Blueprint
from flask import redirect
from flask import request
from flask import url_for
from werkzeug.wrappers import Response

from ...errors import ControlError
from ...errors import DecryptionError
from ...errors import ExecutionNotFound
from ...operations import Operations
from ...state import opened_state
from ...state import this_app
from . import pages
from .executions import Asked
from .executions import execution_page
from .executions import list_page
from .executions import stats_page
from .executions import step_page
from .guard import check_access
from .guard import Forms
from .guard import secure

Page = cabc.Callable[..., Response]

ONE = "/console/executions/<execution_id>"

operations = Operations()


def add_console(blueprint: Blueprint, host: str | None) -> None:
    """Add the console's routes to those of the extension."""
    rules: list[tuple[str, str, Page, str]] = [
        ("/console/", "console", executions, "GET"),
        ("/console/stats", "console_stats", stats, "GET"),
        (ONE, "console_execution", execution, "GET"),
        (f"{ONE}/step", "console_step", one_step, "GET"),
        (f"{ONE}/cancel", "console_cancel", cancel, "POST"),
        (f"{ONE}/resume", "console_resume", resume, "POST"),
        (f"{ONE}/rerun", "console_rerun", rerun, "POST"),
        ("/console/files/<name>", "console_file", file, "GET"),
    ]

    for rule, name, view, method in rules:
        blueprint.add_url_rule(rule, name, view, methods=[method], host=host)


def page(view: cabc.Callable[..., Response]) -> Page:
    """Make a view a page of the console, with its access check and headers."""

    @functools.wraps(view)
    def guarded(**values: t.Any) -> Response:
        app = this_app()
        state = opened_state(app)
        asked = Asked(state, check_access(app, state), Forms(app))

        try:
            _check_text(*values.values(), request.args.get("name", ""))
            answer = view(asked, **values)
        except ExecutionNotFound:
            answer = _message(
                404,
                "Not found",
                "It was deleted after its time, or the address is incomplete.",
            )
        except DecryptionError as error:
            answer = _message(409, "It can't be read", str(error))

        asked.forms.mark(answer)
        return secure(answer)

    return guarded


def _check_text(*texts: str) -> None:
    """Answer 404 for names that no database can contain."""
    if any("\0" in text for text in texts):
        raise ExecutionNotFound("There is nothing with a zero byte in its name.")


def action(view: cabc.Callable[..., Response]) -> Page:
    """Make a view the action of a button, for those who may act."""

    @page
    @functools.wraps(view)
    def checked(asked: Asked, execution_id: str) -> Response:
        if not asked.access.act:
            return _message(403, "Not allowed", "You may look, but not act.")

        if not asked.forms.is_ours():
            return _message(
                403,
                "The form is too old",
                "Nothing was done. Go back, reload the page and try again.",
            )

        try:
            return view(asked, execution_id)
        except ControlError as error:
            return execution_page(asked, execution_id, problem=str(error))

    return checked


def _message(code: int, title: str, text: str) -> Response:
    return pages.render("message.html", code, title=title, text=text, here="")


def _go(execution_id: str, done: str) -> Response:
    name = "durable.console_execution"
    return redirect(url_for(name, execution_id=execution_id, done=done), 303)


@page
def executions(asked: Asked) -> Response:
    """List executions."""
    return list_page(asked)


@page
def stats(asked: Asked) -> Response:
    """Count executions over time."""
    return stats_page(asked)


@page
def execution(asked: Asked, execution_id: str) -> Response:
    """Show one execution."""
    return execution_page(asked, execution_id)


@page
def one_step(asked: Asked, execution_id: str) -> Response:
    """Show what one step returned."""
    return step_page(asked, execution_id)


@action
def cancel(asked: Asked, execution_id: str) -> Response:
    """Cancel an execution."""
    operations.cancel(execution_id)
    return _go(execution_id, "cancel")


@action
def resume(asked: Asked, execution_id: str) -> Response:
    """Resume a failed execution."""
    operations.resume(execution_id, force=bool(request.form.get("force")))
    return _go(execution_id, "resume")


@action
def rerun(asked: Asked, execution_id: str) -> Response:
    """Begin a new execution with the same request."""
    step = request.form.get("from_step") or None
    return _go(operations.rerun(execution_id, from_step=step), "rerun")


def file(name: str) -> Response:
    """Answer with one of the files that the pages load."""
    app = this_app()
    check_access(app, opened_state(app))

    if name not in pages.TYPES:
        abort(404)

    answer = secure(Response(pages.file(name), content_type=pages.TYPES[name]))

    if request.args.get("v") == pages.file_version(name):
        answer.headers["Cache-Control"] = "private, max-age=31536000, immutable"

    return answer
