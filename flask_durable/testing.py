"""A test client that drives durable executions, without threads or waiting."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import datetime as dt
import types
import typing as t

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from . import clock
from .driving import below_root
from .driving import Driver
from .driving import MAX_REPLAYS
from .faults import Crash
from .faults import Fault
from .faults import Faults
from .faults import InjectedError
from .infos import ExecutionInfo
from .records import Execution
from .recovery import release
from .stalls import check_replays
from .stalls import Crashed
from .stalls import KitError
from .stalls import StillWaiting
from .stalls import TICK
from .stalls import waiting_step
from .state import get_state
from .state import opened_state
from .state import State
from .status import REL
from .status import status_url

__all__ = [
    "Crashed",
    "DurableClient",
    "InjectedError",
    "StillWaiting",
    "KitError",
    "durable_client",
]

MAX_REJECTIONS = 20
"""How often replays may be turned away before a test hears of it."""

MAX_STOPS = 100
"""Most due times at which one move of the clock stops."""

Answer = TestResponse | Crashed | ExecutionInfo | str
"""What names an execution: an answer of it, or its id."""


class DurableClient(FlaskClient):
    """A test client of Flask's, and the hands and the clock of its app.

    Get one from :func:`durable_client`.
    """

    def __init__(self, *args: t.Any, always_replay: bool = False, **options: t.Any):
        super().__init__(*args, **options)
        self._driver = Driver(self.application)
        self._faults = Faults(always_replay)

    def open(self, *args: t.Any, **options: t.Any) -> TestResponse:
        """Send a request, as every verb does.

        :raises Crashed: if a fault killed its attempt
        """
        response = None

        with self._probing() as state:
            try:
                response = super().open(*args, **options)
                return response
            finally:
                # Whatever the response: a killed server would not have sent it.
                crashes = self._bury(state)

                if crashes:
                    raise self._crashed(crashes[-1], response)

    def __enter__(self) -> t.Self:
        super().__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: types.TracebackType | None,
    ) -> None:
        self._faults.planned.clear()
        super().__exit__(exc_type, exc_value, tb)

    def run_until_complete(self, answer: Answer) -> TestResponse:
        """Replay what is due until an execution has ended; give its final response.

        Retries don't wait: the clock is turned to them.

        :param answer: any answer of the execution, the :exc:`Crashed` of its request,
            or its id, as ``durable.start`` gives it
        :raises ExecutionNotFound: if there is none with this id
        :raises StillWaiting: if it waits for something that is not due
        :raises NonDeterminismError: if it failed because a replay differed
        """
        execution_id, url = self._behind(answer)

        with self._probing() as state:
            execution = self._run(state, execution_id)

        check_replays(execution)
        return self.get(below_root(self.application, f"{url}/response"))

    def advance(self, duration: float | dt.timedelta) -> None:
        """Turn the clock of the journal, and replay what is due on the way.

        :param duration: seconds, or a ``timedelta``
        """
        seconds = clock.duration(duration)

        if seconds < 0:
            raise ValueError(f"The clock can't be turned back, by {duration!r}.")

        with self._probing() as state:
            self._replay_due(state)

            for _ in range(MAX_STOPS):
                left = state.upkeep.next_due()

                if left is None or left + TICK >= seconds:
                    break

                stop = max(0.0, left) + TICK
                self._driver.turn(stop)
                seconds -= stop
                self._replay_due(state)

            self._driver.turn(max(0.0, seconds))
            self._replay_due(state)

    def status(self, answer: Answer) -> dict[str, t.Any]:
        """Give the status document of an execution.

        :param answer: as for :meth:`run_until_complete`
        """
        url = self._behind(answer)[1]
        response = self.get(below_root(self.application, url))
        return t.cast("dict[str, t.Any]", response.get_json())

    def fail_step(
        self,
        step: str,
        times: int = 1,
        error: BaseException | type[BaseException] | None = None,
    ) -> None:
        """Have the next tries of a step fail before its function is called.

        :param step: the step's id, as the journal has it: ``"pay"``, ``"pay#2"``
        :param times: how many tries
        :param error: what they raise, else :exc:`InjectedError`
        """
        if error is None:
            error = InjectedError(f'step "{step}" fails, as the test wants it')

        self._faults.planned.append(Fault(step, "before", times, error))

    def crash_before(self, step: str, times: int = 1) -> None:
        """Kill the attempt just before it calls the function of a step."""
        self._faults.planned.append(Fault(step, "before", times))

    def crash_after(self, step: str, times: int = 1) -> None:
        """Kill the attempt when the function of a step has returned.

        Its outcome is not committed: the next attempt calls it again.
        """
        self._faults.planned.append(Fault(step, "after", times))

    @property
    def planned_faults(self) -> list[str]:
        """The faults that have not happened yet."""
        return [str(fault) for fault in self._faults.planned]

    @contextlib.contextmanager
    def _probing(self) -> cabc.Iterator[State]:
        """Make this client's faults the app's probe."""
        state = opened_state(self.application)
        before, state.probe = state.probe, self._faults

        try:
            yield state
        finally:
            state.probe = before

    def _crashed(self, crash: Crash, response: TestResponse | None) -> Crashed:
        link = None if response is None else _status_link(response)

        return Crashed(crash, link or self._link(crash.execution_id))

    def _link(self, execution_id: str) -> str:
        with self.application.test_request_context():
            return status_url(execution_id)

    def _run(self, state: State, execution_id: str) -> Execution:
        for _ in range(MAX_REPLAYS):
            self._replay_due(state)
            execution = state.store.execution(execution_id)

            if execution.ended:
                return execution

            self._turn_to_retry(state, execution)

        raise _endless(execution_id)

    def _replay_due(self, state: State) -> None:
        for _ in range(MAX_REPLAYS):
            self._bury(state)
            state.heartbeat.tick()
            sent = self._driver.run_due()

            if not sent:
                return

            if sent >= MAX_REPLAYS:
                break

        raise _endless(None)

    def _bury(self, state: State) -> list[Crash]:
        """Release the leases of killed attempts, as another process would."""
        crashes = self._faults.take_crashes()
        dead = {(crash.execution_id, crash.attempt) for crash in crashes}

        if dead:
            for held in state.upkeep.held(state.owner):
                if (held.id, held.attempt) in dead:
                    release(state.upkeep, held, state.owner)

        return crashes

    def _turn_to_retry(self, state: State, execution: Execution) -> None:
        """Move the clock to the next try, if that is what an execution waits for."""
        if execution.status == "running":
            raise KitError(
                f"Execution {execution.id} runs in attempt {execution.attempt}, which"
                " this client did not begin: wait for its end."
            )

        step = waiting_step(execution, state.store.journal(execution.id))

        if step is not None and step.kind == "invoke":
            child = state.store.child(execution.id, step.id)
            return self._turn_to_retry(state, child)

        if step is not None:
            raise StillWaiting(execution, step)

        if execution.rejections >= MAX_REJECTIONS:
            raise KitError(
                f"The app turned {execution.rejections} replays of execution"
                f" {execution.id} away before its view: the log has the answers."
            )

        ready_at = execution.ready_at or execution.now
        self._driver.turn(max(0.0, ready_at - execution.now) + TICK)

    def _behind(self, answer: Answer) -> tuple[str, str]:
        """Return the execution behind an answer, and its status URL."""
        if isinstance(answer, Crashed):
            return answer.execution_id, answer.status_url

        if isinstance(answer, ExecutionInfo):
            answer = answer.id

        if isinstance(answer, str):
            found = opened_state(self.application).store.execution(answer)
            return found.id, self._link(found.id)

        if not isinstance(answer, TestResponse):
            raise KitError(
                "Give an answer of the execution, or its id, as durable.start gives it,"
                f" not {answer!r:.80}."
            )

        for response in (answer, *reversed(answer.history)):
            execution_id = response.headers.get("Durable-Execution")
            link = _status_link(response)

            if execution_id and link:
                return execution_id, link

        raise KitError(
            f"There is no execution behind this answer ({answer.status}): put"
            " @durable.endpoint under the route of its view."
        )


def durable_client(
    app: Flask, always_replay: bool = False, **options: t.Any
) -> DurableClient:
    """Give a test client that drives the app's durable executions to their end.

    It is a client of the app's ``test_client_class``. Nothing runs but what it is
    asked for: a test sees each state that an execution passes.

    :param always_replay: end the attempt after each step, so that each view is
        replayed as often as it can be, and raise where a replay differs
    :param options: more for the client, as of ``app.test_client``
    :raises RuntimeError: if the app is not being tested, or not durable
    """
    state = get_state(app)

    if not app.testing or state.dispatcher is not None:
        raise RuntimeError(
            "This app replays in threads of its own, beside the test: set"
            " app.config['TESTING'] = True before its first request."
        )

    base = app.test_client_class or FlaskClient
    cls: t.Any = DurableClient

    if not issubclass(DurableClient, base):
        cls = type("DurableClient", (DurableClient, base), {})

    options.setdefault("use_cookies", True)
    client = cls(app, app.response_class, always_replay=always_replay, **options)
    return t.cast(DurableClient, client)


def _status_link(response: TestResponse) -> str | None:
    for link in response.headers.getlist("Link"):
        if REL in link:
            return link.partition("<")[2].partition(">")[0]

    return None


def _endless(execution_id: str | None) -> KitError:
    which = "The executions" if execution_id is None else f"Execution {execution_id}"
    return KitError(
        f"{which} did not end within {MAX_REPLAYS} replays: the view must ask for the"
        " same step ids in each attempt."
    )
