"""One request of a durable endpoint, from its view to its answer."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import dataclasses
import logging
import math
import typing as t

from flask import after_this_request
from flask import current_app
from flask import g
from flask import request
from flask import session
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from .answers import final_response
from .answers import later_response
from .answers import of_app
from .attempt import Attempt
from .awaiting import leaves
from .capture import capture_response
from .ending import Ending
from .ending import Outcome
from .errors import Cancelled
from .errors import FINAL
from .errors import JournalLostError
from .errors import JournalUnavailable
from .errors import LeaseLostError
from .errors import NonDeterminismError
from .errors import Suspended
from .options import Options
from .patience import Patience
from .problems import Problem
from .problems import problem_response
from .records import Execution
from .records import Failure
from .records import ResponseRecord
from .scope import current_scope
from .scope import running_step
from .scope import Scope
from .sending import INSIDE
from .state import State
from .status import link_status

logger = logging.getLogger(__name__)

KEY = "flask_durable.call"

View = cabc.Callable[..., t.Any]


class Call:
    """Runs the view for one attempt and commits how it ended.

    :param patience: how long its client waits for the end; ``None`` in a replay
    """

    def __init__(
        self,
        state: State,
        options: Options,
        attempt: Attempt,
        patience: Patience | None = None,
    ) -> None:
        self._state = state
        self._options = options
        self._attempt = attempt
        self._root = Scope(attempt)
        self._patience = patience
        self._outcome: Outcome | None = None
        self._ending = Ending(state, attempt, request.environ.get(INSIDE))
        self._in_view = False
        self._permanent = False
        self._g = t.cast(t.Any, g)._get_current_object()
        request.environ[KEY] = self
        # Or each copy of the request context would close the files when it ends.
        t.cast(t.Any, request).close = _keep_open
        after_this_request(self._deliver)

    def runs(self, attempt: Attempt) -> bool:
        """Tell whether this is the call of an attempt."""
        return self._attempt is attempt

    def run(self, view: View, args: t.Any, kwargs: t.Any) -> t.Any:
        """Run the view and return its response, the stored one, or a promise."""
        self._in_view = True

        try:
            return self._run(view, args, kwargs)
        except LeaseLostError as error:
            return self._lost(error)
        except Exception:
            raise
        except BaseException as error:
            if self._outcome is None:
                self._ending.leave(error)

            raise
        finally:
            self._in_view = False

    def _run(self, view: View, args: t.Any, kwargs: t.Any) -> t.Any:
        root = self._root

        if self._attempt.cancelled:
            return self._cancelled()

        try:
            with self._active():
                value = current_app.ensure_sync(view)(*args, **kwargs)
                response = self._make_response(value)

                if self._ending.is_forked:
                    return response

                if self._attempt.stopped:
                    return self._cancelled()

                if root.suspended is None:
                    self._attempt.closed = True
                    return self._complete(response)
        except Suspended:
            pass
        except Cancelled:
            return self._cancelled()
        except (Exception, BaseExceptionGroup, asyncio.CancelledError) as error:
            if self._ending.is_forked:
                raise

            self._look_into(error)

            if root.suspended is None:
                return self._failed(error)

        return self._suspend()

    def _look_into(self, error: BaseException) -> None:
        """Raise what ends the attempt, if the view raised it within a group."""
        for inner in leaves(error):
            if isinstance(inner, LeaseLostError):
                raise inner

        # A BaseExceptionGroup contains an exit, or the suspension of a step.
        is_exit = not isinstance(error, Exception | asyncio.CancelledError)

        if is_exit and self._root.suspended is None:
            raise error

    def _make_response(self, value: t.Any) -> Response:
        try:
            return current_app.make_response(value)
        except TypeError:
            # Such as a forgotten return: another attempt would end the same way.
            self._permanent = True
            raise

    @contextlib.contextmanager
    def _active(self) -> cabc.Iterator[None]:
        scope = current_scope.set(self._root)
        step = running_step.set(None)

        try:
            yield
        finally:
            self._attempt.closed = True
            running_step.reset(step)
            current_scope.reset(scope)

    def _complete(self, response: Response) -> Response:
        self._attempt.check_unasked()
        record = self._capture(response)
        self._ending.finish("completed", record)
        return response

    def _failed(self, error: BaseException) -> Response:
        """Schedule another attempt, or leave the error to Flask."""
        self._attempt.ensure_process(error)

        if isinstance(error, HTTPException):
            try:
                self._attempt.check_unasked()
            except NonDeterminismError as differs:
                error = differs
            else:
                self._outcome = Outcome("completed")
                raise error

        failure = self._root.failure(error).encode()
        errors = self._attempt.execution.errors + 1

        if not self._goes_on(error, errors):
            self._outcome = Outcome("failed", failure)
            raise error

        delay = self._attempt.retry.delay(error, errors)
        logger.warning(
            "Attempt %d of execution %s raised outside of its steps, and is followed"
            " by another in %.1f s.",
            self._attempt.attempt,
            self._attempt.id,
            delay,
            exc_info=error,
        )
        wake_at = self._attempt.now() + delay
        self._root.suspended = Suspended(wake_at)
        return self._suspend(errors, failure)

    def _cancelled(self) -> Response:
        """End an execution that was cancelled, its children first."""
        attempt = self._attempt
        self._state.control.cancel_children(attempt.id)
        error = Cancelled(f"Execution {attempt.id} was cancelled.")
        self._ending.finish("cancelled", None, Failure.of(error).encode())
        detail = "The execution was cancelled."
        return of_app(problem_response(410, detail, execution=attempt.id))

    def _goes_on(self, error: BaseException, errors: int) -> bool:
        # A group is final if one of its exceptions is.
        if any(isinstance(one, (HTTPException, *FINAL)) for one in leaves(error)):
            return False

        if self._permanent or self._attempt.debug or self._attempt.is_late:
            return False

        return bool(self._attempt.steps) and self._attempt.retry.allows(error, errors)

    def _suspend(self, errors: int = 0, failure: bytes | None = None) -> Response:
        attempt = self._attempt
        root = self._root
        assert root.suspended is not None
        deadline = attempt.execution.deadline_at
        wake_at = min(
            root.suspended.wake_at, math.inf if deadline is None else deadline
        )
        ready_at = None if math.isinf(wake_at) else wake_at
        self._ending.suspend(wake_at, root.mark, errors, failure)
        now = attempt.now()
        execution = dataclasses.replace(
            attempt.execution,
            status="suspended",
            ready_at=ready_at,
            now=now,
            error=failure,
        )
        return self._accepted(execution)

    def _accepted(self, execution: Execution) -> Response:
        steps = sorted(self._attempt.steps.values(), key=lambda step: step.position)
        options, patience = self._options, self._patience
        return later_response(self._state, options, patience, execution, steps)

    def _lost(self, error: LeaseLostError) -> Response:
        """Make the response for an attempt that may no longer write."""
        logger.warning("%s", error)

        if isinstance(error, JournalLostError):
            self._ending.abandon(crashed=False)
            raise self._unknown()

        self._ending.end()

        try:
            execution = self._state.store.execution(self._attempt.id)

            if execution.ended:
                return final_response(self._state, execution)
        except JournalUnavailable as unavailable:
            raise self._unknown() from unavailable

        return self._accepted(execution)

    def _unknown(self) -> Problem:
        return Problem(
            503,
            "The journal could not be reached: the outcome is unknown, and the"
            " execution goes on when the journal is back.",
            {"Retry-After": "5"},
            execution=self._attempt.id,
        )

    def _deliver(self, response: Response) -> Response:
        """Commit the response that Flask made of an error, before it is sent."""
        if self._outcome is not None and not self._ending.done:
            try:
                self._finish_with_error(response)
            except LeaseLostError as error:
                response = self._lost_response(error)

        self._warn_of_session()
        link_status(response, self._attempt.id, self._attempt.status_url)
        return response

    def _finish_with_error(self, response: Response | None) -> None:
        assert self._outcome is not None
        record = None if response is None else self._capture(response)
        self._ending.finish(self._outcome.status, record, self._outcome.error)

    def _lost_response(self, error: LeaseLostError) -> Response:
        try:
            return self._lost(error)
        except Problem as problem:
            return problem.get_response()

    def tear_down(self) -> None:
        """End an attempt whose error Flask made no response of, as in debug mode.

        Do nothing for copies of the request context, in threads that the view
        started: they have a ``g`` of their own, or end before the view.
        """
        if self._in_view or t.cast(t.Any, g)._get_current_object() is not self._g:
            return

        t.cast(t.Any, request).__dict__.pop("close", None)

        if self._ending.done or self._ending.is_forked:
            return

        if self._outcome is None:
            self._ending.abandon()
            return

        try:
            self._finish_with_error(None)
        except LeaseLostError as error:
            logger.warning("%s", error)
            self._ending.abandon()

    def _capture(self, response: Response) -> ResponseRecord:
        limit = self._state.config.max_response_bytes
        return capture_response(response, lambda: request.url, limit)

    def _warn_of_session(self) -> None:
        if self._attempt.attempt > 1 and session and session.modified:
            logger.warning(
                "The session was changed in attempt %d of execution %s, whose answer"
                " may never reach the client: change it only in the first attempt,"
                " where durable_replay() is None.",
                self._attempt.attempt,
                self._attempt.id,
            )


def _keep_open() -> None:
    """Stand in for ``request.close`` until the request's own context ends."""
