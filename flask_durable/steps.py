"""The methods of ``step``, which views call."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import functools
import itertools
import typing as t

import sqlalchemy as sa

from .callbacks import Callback
from .checks import check_branches
from .checks import check_duration
from .checks import check_every
from .checks import check_function
from .checks import check_id
from .checks import check_mappings
from .checks import check_until
from .checks import check_workers
from .errors import MisplacedStepError
from .invokes import run_invoke
from .outbox import Outbox
from .parallel import results_of
from .parallel import run_branches
from .polls import run_poll
from .retry import check_retry
from .retry import Retry
from .scope import current_scope
from .scope import Scope
from .sleeps import run_sleep
from .telling import tell
from .transactions import run_transaction
from .tries import run_step
from .waits import check_event
from .waits import check_timeout
from .waits import EVENT
from .waits import event_topic
from .waits import Timeout
from .waits import Waiting

P = t.ParamSpec("P")
T = t.TypeVar("T")
Item = t.TypeVar("Item")

OUTSIDE = (
    "Steps run inside of a durable endpoint: put `@durable.endpoint` under the route"
    " of the view that calls this. (In a thread of your own there is no current"
    " execution; use step.parallel or step.map instead.)"
)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of whichever execution is running where a method is called."""

    _retry: Retry | None = None
    _at_most_once: bool = False

    @t.overload
    def run(
        self,
        id: str,
        fn: cabc.Callable[P, cabc.Coroutine[t.Any, t.Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @t.overload
    def run(
        self, id: str, fn: cabc.Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    def run(
        self,
        id: str,
        fn: cabc.Callable[..., t.Any],
        /,
        *args: t.Any,
        **kwargs: t.Any,
    ) -> t.Any:
        """Run a function once, commit what it returns, and give that back.

        In later attempts the committed value is returned without a call.

        :param id: the step's name in this execution, 1 to 200 characters; the same
            id again in one attempt becomes ``id#2``, ``id#3`` …
        :param fn: the function; an ``async`` one runs on an event loop of its own
        :raises StepError: if its tries are used up
        :raises StepOutputError: if its result can't be stored
        """
        check_id(id)
        check_function(id, fn, "run")
        scope = get_scope()
        retry = self._retry or scope.attempt.retry
        call = functools.partial(fn, *args, **kwargs)
        return run_step(scope, id, call, retry, self._at_most_once)

    def options(
        self, *, retry: Retry | None = None, at_most_once: bool = False
    ) -> Steps:
        """Give the same methods with other options.

        :param retry: when a failed step is tried again
        :param at_most_once: never call a function again that may have run: it is
            not retried, and if its process dies meanwhile,
            :class:`StepInterruptedError` is raised
        """
        check_retry(retry)

        if at_most_once and retry is not None:
            raise TypeError(
                "A step that runs at most once is not tried again: leave out retry."
            )

        return Steps(retry or self._retry, at_most_once or self._at_most_once)

    def transaction(
        self,
        id: str,
        fn: cabc.Callable[t.Concatenate[sa.Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a function in the transaction that records the step: exactly once.

        What it writes to the journal's database through its connection is committed
        with the step's record, or not at all. It must be short: SQLite lets nobody
        else write meanwhile.

        :param id: as for :meth:`run`
        :param fn: gets the connection first; it must not end the transaction
        :raises StepError: if its tries are used up; each was rolled back
        :raises StepOutputError: if its result can't be stored; it was rolled back
        """
        check_id(id)
        check_function(id, fn, "transaction")

        if self._at_most_once:
            raise TypeError(
                "step.transaction is exactly once already: leave out at_most_once."
            )

        scope = get_scope()

        def bind(connection: sa.Connection) -> cabc.Callable[[], t.Any]:
            return functools.partial(fn, connection, *args, **kwargs)

        retry = self._retry or scope.attempt.retry
        return t.cast(T, run_transaction(scope, id, bind, retry))

    def parallel(
        self,
        *branches: cabc.Callable[[], t.Any],
        max_workers: int = 16,
        return_exceptions: bool = False,
    ) -> tuple[t.Any, ...]:
        """Run functions without arguments in parallel; give their results in order.

        Each has its own Flask context and may call any steps. Every branch is
        finished and recorded before an error or a suspension leaves the call.

        :param max_workers: how many branches run at a time, at most
        :param return_exceptions: give exceptions in their places instead of
            raising the first
        """
        check_branches(branches)
        check_workers(max_workers)
        ended = run_branches(get_scope(), branches, max_workers)
        return tuple(results_of(ended, return_exceptions))

    def map(
        self,
        id: str,
        fn: cabc.Callable[[Item], t.Any],
        items: cabc.Iterable[Item],
        /,
        *,
        max_workers: int = 16,
        return_exceptions: bool = False,
    ) -> list[t.Any]:
        """Run a function for all items in parallel, as steps ``id[0]``, ``id[1]`` …

        :param max_workers: how many steps run at a time, at most
        :param return_exceptions: give exceptions in their places instead of
            raising the first
        """
        check_id(id)
        check_function(id, fn, "map")
        check_workers(max_workers)
        scope = get_scope()
        retry = self._retry or scope.attempt.retry
        once = self._at_most_once
        # At-most-once steps must not wait for their commit, nor must those of tests.
        at_once = once or scope.attempt.state.probe is not None
        outbox = None if at_once else Outbox(scope.attempt)

        def branch(index: int, item: Item) -> cabc.Callable[[], t.Any]:
            call = functools.partial(fn, item)
            name = f"{id}[{index}]"
            return lambda: run_step(get_scope(), name, call, retry, once)

        branches = list(itertools.starmap(branch, enumerate(items)))
        ended = run_branches(scope, branches, max_workers, outbox)
        return results_of(ended, return_exceptions)

    def sleep(self, id: str, duration: float | dt.timedelta, /) -> None:
        """Go on after a while; meanwhile no thread is held.

        :param duration: seconds, or a ``timedelta``
        """
        check_id(id)
        seconds = check_duration(id, duration, "sleep")
        scope = get_scope()
        run_sleep(scope, id, lambda: scope.attempt.now() + seconds)

    def sleep_until(self, id: str, when: dt.datetime, /) -> None:
        """Go on at a given time; until then no thread is held.

        :param when: a ``datetime`` with a time zone
        """
        check_id(id)
        until = check_until(id, when)
        run_sleep(get_scope(), id, lambda: until)

    def wait_for_event(
        self, id: str, event: str, /, *, key: str | None = None, timeout: Timeout = None
    ) -> t.Any:
        """Go on when an event is sent, and give its data; no thread is held.

        An event that was sent since the execution began is not missed. A second wait
        for the same event and key gets the next one.

        :param event: the name under which ``durable.send_event`` sends it
        :param key: distinguishes it from other events with the name, such as an
            order's number
        :param timeout: how long to wait, in seconds or as a ``timedelta``, from the
            moment when the view first came here
        :raises WaitTimeoutError: if it did not come in time
        """
        check_id(id)
        check_event(event, key)
        seconds = check_timeout(id, timeout)
        scope = get_scope()
        topic = event_topic(scope.attempt.state.store.app, event, key)
        name, found = scope.enter(id, EVENT)
        return Waiting(scope, name, found, EVENT, topic, seconds).result()

    def invoke(
        self,
        id: str,
        endpoint: str,
        /,
        *,
        values: cabc.Mapping[str, t.Any] | None = None,
        query: cabc.Mapping[str, t.Any] | None = None,
        json: t.Any = None,
        headers: cabc.Mapping[str, str] | None = None,
    ) -> t.Any:
        """Run another durable endpoint as a child execution, and give its JSON back.

        No thread is held meanwhile. A child is cancelled with its parent.

        :param endpoint: a durable endpoint, as for ``url_for``
        :param values: the variables of its rule, as for ``url_for``
        :param query: the query's parameters
        :param json: the JSON body
        :param headers: further headers
        :raises StepError: if the child failed, or answered with an error's status or
            without JSON
        :raises ValueError: if there is no such endpoint, it is not durable, or the
            body is over its limit
        """
        check_id(id)
        check_mappings(values=values, query=query, headers=headers)
        return run_invoke(get_scope(), id, endpoint, values, query, json, headers)

    def callback(self, id: str, /) -> Callback:
        """Make a link for one answer from somebody else; wait for it later."""
        check_id(id)
        scope = get_scope()
        return Callback(scope, scope.name(id))

    def poll(
        self,
        id: str,
        check: cabc.Callable[..., t.Any],
        /,
        *args: t.Any,
        every: float | dt.timedelta = 5.0,
        timeout: Timeout = None,
    ) -> t.Any:
        """Call a function until its result is true, and give that result back.

        No thread is held between the calls.

        :param every: the time between two calls, in seconds or as a ``timedelta``
        :param timeout: how long to go on, from the first call
        :raises WaitTimeoutError: if no result was true in that time
        :raises StepError: if so many calls in a row failed that no try is left
        """
        check_id(id)
        check_function(id, check, "poll")

        if self._at_most_once:
            raise TypeError(
                "step.poll calls its function again and again: leave out at_most_once."
            )

        pause = check_every(id, every)
        seconds = check_timeout(id, timeout)
        scope = get_scope()
        retry = self._retry or scope.attempt.retry
        call = functools.partial(check, *args)
        return run_poll(scope, id, call, retry, pause, seconds)

    def progress(self, message: str, /, **data: t.Any) -> None:
        """Report progress to those who watch the execution.

        It may be called in the view, in branches and in step functions. It is not a
        step, and never fails: a message that can't be stored is logged.

        :param message: a line for people
        :param data: values for programs, as JSON has them
        """
        tell(get_scope(), message, data)


def get_scope() -> Scope:
    """Return the scope of the view or the branch that is running here.

    :raises MisplacedStepError: outside of a durable endpoint
    """
    scope = current_scope.get()

    if scope is None:
        raise MisplacedStepError(OUTSIDE)

    return scope
