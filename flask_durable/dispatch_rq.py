"""The RQ dispatcher: due executions go to a queue that workers listen to.

``replay_execution`` is named in jobs on their way, so its import path is a wire format.
"""

from __future__ import annotations

import collections
import collections.abc as cabc
import functools
import logging
import os
import threading
import time
import typing as t

from flask import current_app
from flask import Flask
from flask.cli import ScriptInfo

from . import clock
from .replay import AWAY
from .replay import replay
from .rq_queue import Next
from .rq_queue import RqHands
from .state import get_state
from .state import opened_state
from .state import this_app
from .sweeper import Sweeper
from .threads import start_thread

logger = logging.getLogger(__name__)

AWAY_PAUSE = 1.0
"""Seconds until a job tries again whose journal can't be reached."""


PATIENCE_WITH_OTHERS = 0.1
"""Seconds after which a job's executions that have not begun go to other workers."""


class RqDispatcher:
    """Sends what is due to the queue."""

    def __init__(self, app: Flask) -> None:
        state = get_state(app)
        self._sweeper = Sweeper(state, RqHands(state))

    def start(self) -> None:
        """Start the sweeper."""
        start_thread(self._sweeper.run, "flask_durable.sweeper")

    def wake(self, delay: float) -> None:
        """Hear that an execution becomes due."""
        self._sweeper.wake(delay)

    def stop(self, grace: float) -> None:
        """Send no more."""
        self._sweeper.stop()


class NoDispatcher:
    """Looks for nothing, in processes that only run one job."""

    def start(self) -> None:
        """Do nothing."""

    def wake(self, delay: float) -> None:
        """Leave it to the processes that sweep."""

    def stop(self, grace: float) -> None:
        """Do nothing."""


def replay_execution(
    execution_id: str, attempt: int, rest: cabc.Sequence[cabc.Sequence[t.Any]] = ()
) -> str:
    """Replay an execution: the job that workers run.

    The app is the current one, or, in a plain ``rq worker``, the one that
    ``FLASK_APP`` names.

    :param attempt: the number of the attempt that is to begin
    :param rest: executions to replay after it, and the numbers of their attempts
    :return: what became of it, or of each
    :raises TypeError: if the arguments are no executions and attempts
    """
    executions = [_next(execution_id, attempt), *(_next(*one) for one in rest)]
    app = this_app() if current_app else _load_app()
    opened_state(app).start(NoDispatcher)

    if len(executions) == 1:
        return _replay_and_log(app, execution_id, attempt)

    return _Several(app, executions).replay()


def _next(execution_id: t.Any = None, attempt: t.Any = None, *more: t.Any) -> Next:
    if more or not isinstance(execution_id, str) or type(attempt) is not int:
        raise TypeError(f"No execution: {execution_id!r}, attempt {attempt!r}.")

    return execution_id, attempt


class _Several:
    """Replays the executions of a job, one after the other.

    None waits long for those before it: after ``PATIENCE_WITH_OTHERS`` the rest goes
    to other workers. If this worker dies first, the sweeper sends them again.
    """

    def __init__(self, app: Flask, executions: cabc.Iterable[Next]) -> None:
        self._app = app
        self._left = collections.deque(executions)
        self._handing_on = threading.Lock()

    def replay(self) -> str:
        """Replay them, and say what became of each."""
        outcomes = []
        one = self._take()
        timer = threading.Timer(PATIENCE_WITH_OTHERS, self._hand_on)
        timer.daemon = True

        try:
            timer.start()
        except RuntimeError:
            # No thread can be started: other workers take the rest at once.
            self._hand_on()

        try:
            while one is not None:
                outcomes.append(_replay_and_log(self._app, *one))
                one = self._take()
        finally:
            timer.cancel()
            # The process may end with this job: this waits for the timer's thread.
            self._hand_on()

        return "; ".join(outcomes)

    def _take(self) -> Next | None:
        """Take the next one; no other thread gets the same."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _hand_on(self) -> None:
        """Hand what is left to other workers, ahead of the jobs in the queue."""
        state = get_state(self._app)

        with self._handing_on:
            left = list(iter(self._take, None))

            # A plain worker may not know where Redis is; the sweeper sends them again.
            if left and state.config.redis_url is not None:
                RqHands(state).hand_on(left)


def _replay_and_log(app: Flask, execution_id: str, attempt: int) -> str:
    began = time.monotonic()
    outcome = _replay(app, execution_id, attempt)
    logger.info(
        "Attempt %d of execution %s took %.2f s: it %s.",
        attempt,
        execution_id,
        time.monotonic() - began,
        outcome,
    )
    return outcome


def _replay(app: Flask, execution_id: str, attempt: int) -> str:
    """Replay; while the journal is away, wait with the job in hand.

    Otherwise all jobs in the queue would be taken within a second, in vain, and their
    executions would have to queue up again, behind all others.
    """
    # After that the sweeper sends it again.
    deadline = clock.boottime() + RqHands.patience

    while (outcome := replay(app, execution_id, attempt)) == AWAY:
        if clock.boottime() >= deadline:
            break

        clock.sleep(AWAY_PAUSE)

    return outcome


@functools.cache
def _load_app() -> Flask:
    # ScriptInfo does not read the variable itself: the ``flask`` command does.
    return ScriptInfo(os.environ.get("FLASK_APP")).load_app()
