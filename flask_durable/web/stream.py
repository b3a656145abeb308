"""What happens to an execution, as Server-Sent Events.

The format is that of the HTML standard, section 9.2. The id of an event says how far
its reader is: the number of the last progress message, and when the last step ended.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import json
import logging
import threading
import typing as t

from flask import request
from werkzeug.wrappers import Response

from .. import clock
from ..errors import DurableError
from ..patience import FIRST_PAUSE
from ..patience import LONGEST_PAUSE
from ..records import Event
from ..records import Execution
from ..records import StepRecord
from ..state import State
from ..status import describe_execution
from ..status import describe_step
from ..status import response_url
from ..status import status_url
from ..watchers import watchers

logger = logging.getLogger(__name__)

LENGTH = 20.0
"""Seconds until a stream closes; the client then reconnects and goes on."""

RETRY = 1.0
"""Seconds until the client reconnects."""

RETRY_FULL = 5.0
"""The same if too many requests watch, so that it only got the events so far."""

KEEP_ALIVE = 5.0
"""Longest silence of a stream, in seconds."""

OVERLAP = 60.0
"""Seconds by which a step's outcome may be stored after its time, because attempts
wait out an outage of the database. An outcome is sent again for so long."""

END = "end"
"""The id of the last event."""


def stream_response(state: State, execution: Execution) -> Response:
    """Make a stream of events, which goes on after ``Last-Event-ID``."""
    last = request.headers.get("Last-Event-ID", "")

    if last == END and execution.ended:
        # After this answer a browser's EventSource does not reconnect.
        return Response(status=204)

    enters = state.config.max_wait > 0 and watchers.enter(request.environ)
    links = {
        "status_url": status_url(execution.id),
        "response_url": response_url(execution.id),
    }
    place = contextlib.ExitStack()

    if enters:
        place.callback(watchers.leave)

    stream = Stream(state, execution.id, links, last)
    response = Response(
        stream.events(LENGTH if enters else 0.0, place),
        content_type="text/event-stream; charset=utf-8",
    )
    # The stream may be closed before it has begun.
    response.call_on_close(place.close)
    # nginx would hold events back until its buffer is full.
    response.headers["X-Accel-Buffering"] = "no"
    return response


class Stream:
    """The events of one execution for one reader.

    :param links: the links that the last event has
    :param last: the id of the last event that the reader got
    """

    def __init__(
        self, state: State, execution_id: str, links: dict[str, str], last: str
    ) -> None:
        self._state = state
        self._id = execution_id
        self._links = links
        self._number, self._finished_at = _read_id(last)
        self._execution: dict[str, t.Any] = {}
        self._steps: dict[str, dict[str, t.Any]] = {}
        self._ended = False

    def events(self, seconds: float, place: contextlib.ExitStack) -> cabc.Iterator[str]:
        """Yield events as they happen; no database connection is held in between.

        :param seconds: for how long; 0 for only what there is now
        :param place: the watcher's place, which is freed at the end
        """
        retry = RETRY if seconds else RETRY_FULL
        yield f"retry: {retry * 1000:.0f}\n\n"

        try:
            with place, watchers.expect(self._id) as bell:
                yield from self._follow(bell, clock.boottime() + seconds)
        except DurableError as error:
            # The reader reconnects and goes on.
            logger.warning("A stream of execution %s ends: %s", self._id, error)

    def _follow(self, bell: threading.Event, until: float) -> cabc.Iterator[str]:
        yield from self._look()
        pause, quiet = FIRST_PAUSE, 0.0

        while not self._ended and (left := until - clock.boottime()) > 0:
            bell.wait(min(pause, left))
            bell.clear()
            quiet += pause
            pause = min(LONGEST_PAUSE, pause * 1.5)

            for event in self._look():
                pause, quiet = FIRST_PAUSE, 0.0
                yield event

            if quiet > KEEP_ALIVE:
                quiet = 0.0
                yield ": nothing new\n\n"

    def _look(self) -> cabc.Iterator[str]:
        # The execution first: if it has ended, all that came before is read now.
        execution = self._state.store.execution(self._id)
        progress = self._state.progress
        steps = progress.changed_steps(self._id, self._finished_at - OVERLAP)
        yield from self._of_execution(execution, steps)

        for step in steps:
            yield from self._of_step(step)

        while lines := progress.lines(self._id, self._number):
            yield from map(self._of_line, lines)

        if execution.ended:
            self._ended = True
            data = {"id": self._id, "status": execution.status, **self._links}
            yield _event("end", END, data)

    def _of_execution(
        self, execution: Execution, steps: cabc.Sequence[StepRecord]
    ) -> cabc.Iterator[str]:
        data = describe_execution(execution, steps)

        if data != self._execution:
            self._execution = data
            yield _event("execution", self._cursor(), data)

    def _of_step(self, step: StepRecord) -> cabc.Iterator[str]:
        data = describe_step(step)
        self._finished_at = max(self._finished_at, step.finished_at or 0.0)

        if data != self._steps.get(step.id):
            self._steps[step.id] = data
            yield _event("step", self._cursor(), data)

    def _of_line(self, line: Event) -> str:
        self._number = line.number
        return _event("progress", self._cursor(), json.loads(line.data))

    def _cursor(self) -> str:
        return f"{self._number}-{int(self._finished_at * 1000)}"


def _event(name: str, id: str, data: t.Any) -> str:
    return f"event: {name}\nid: {id}\ndata: {json.dumps(data)}\n\n"


def _read_id(last: str) -> tuple[int, float]:
    """Read how far a reader is; one with an id that is not ours starts anew."""
    number, _, finished = last.partition("-")

    if not (number.isdecimal() and finished.isdecimal()):
        return 0, 0.0

    # No database has higher numbers.
    return min(int(number[:19]), 2**63 - 1), int(finished[:15]) / 1000
