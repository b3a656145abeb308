"""Frozen records that the store takes and returns; times are in seconds."""

from __future__ import annotations

import dataclasses
import json
import traceback
import typing as t

ExecutionStatus = t.Literal[
    "pending", "running", "suspended", "completed", "failed", "cancelled"
]
Role = t.Literal["view", "on_failure"]
"""What an execution runs: its endpoint's view, or the function after a failure."""

AFTER_FAILURE = ""
"""The ``parent_step`` of the function after a failure; no step has an empty id."""

StepStatus = t.Literal[
    "running", "retrying", "sleeping", "waiting", "completed", "failed", "interrupted"
]

ENDED = frozenset({"completed", "failed", "cancelled"})
"""Final statuses of an execution."""

CLAIMABLE = frozenset({"pending", "suspended"})
"""Statuses of an execution whose next attempt may begin."""

OUTCOMES = frozenset({"completed", "failed", "interrupted"})
"""Final statuses of a step; the others are marks."""


MAX_MESSAGE = 2_000
"""Most characters of an exception's message that are kept."""

MAX_TRACEBACK = 20_000
"""Most characters of its traceback that are kept: the last ones."""

MAX_TRIES = 20
"""Most tries of a step whose times and errors are kept: the last ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class RequestRecord:
    """A captured request: its head and the headers to erase, encoded."""

    head: bytes
    secrets: bytes | None
    body: bytes
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class RequestKey:
    """By what a repeated request is recognised: two digests."""

    digest: str
    """Of the client's key and its scope."""
    fingerprint: str
    """Of everything that must be the same in both requests."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    """A captured request to send again, and the state of its execution."""

    app: str
    status: ExecutionStatus
    attempt: int
    rejections: int
    due: bool
    ready_at: float | None
    identity: bytes | None
    request: RequestRecord

    @property
    def is_claimable(self) -> bool:
        """Tell whether an attempt may begin now."""
        return self.due and self.status in CLAIMABLE


@dataclasses.dataclass(frozen=True, slots=True)
class ResponseRecord:
    """A stored response: its encoded head; no body if that was too big."""

    head: bytes
    body: bytes | None


class StepRecord(t.NamedTuple):
    """A line of the journal; a tuple, since each step makes several."""

    id: str
    kind: str
    status: StepStatus
    tries: int
    position: int
    attempt: int
    started_at: float
    finished_at: float | None = None
    wake_at: float | None = None
    error_type: str | None = None
    error: bytes | None = None
    output: bytes | None = None
    topic: str | None = None
    """The topic of the events that it waits for."""
    event: int | None = None
    """The number of the event that it got."""

    @property
    def is_outcome(self) -> bool:
        """Tell whether this is final."""
        return self.status in OUTCOMES

    def completed(self, at: float, output: bytes, error: bytes | None) -> StepRecord:
        """Return the outcome of a step that ran; ``_replace`` would cost more.

        :param error: the tries that failed before, if any did
        """
        id, kind, _, tries, position, attempt, started_at, *_ = self
        done: StepStatus = "completed"
        began = id, kind, done, tries, position, attempt, started_at
        return StepRecord(*began, at, None, None, error, output)


Marked = tuple[StepRecord, str]
"""An outcome, and a nonce that shows whether an earlier write of it was committed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Execution:
    """An execution without its request and response."""

    id: str
    endpoint: str
    status: ExecutionStatus
    attempt: int
    owner: str | None
    ready_at: float | None
    created_at: float
    finished_at: float | None
    crashes: int
    errors: int
    rejections: int
    refusals: int
    error: bytes | None
    now: float
    """The database's clock when this was read."""
    wakes: int = 0
    """How often it was woken so far."""
    role: Role = "view"
    parent_id: str | None = None
    parent_step: str | None = None
    cancel_requested: int = 0
    on_failure: int = 0
    """Whether a function runs after its failure."""
    deadline_at: float | None = None

    @property
    def ended(self) -> bool:
        """Tell whether the execution has ended."""
        return self.status in ENDED


@dataclasses.dataclass(frozen=True, slots=True)
class ReplayRecord:
    """What a replay's ticket must match, and the execution's identity."""

    attempt: int
    status: ExecutionStatus
    identity: bytes | None
    ready_at: float | None
    """Since when an attempt may begin."""

    @property
    def is_claimable(self) -> bool:
        """Tell whether an attempt may begin."""
        return self.status in CLAIMABLE


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """An execution whose ``due_at`` has come, as the sweeper found it."""

    id: str
    status: ExecutionStatus
    attempt: int
    owner: str | None
    ready_at: float
    looks: int
    rejections: int

    @property
    def seen(self) -> tuple[str, int, float]:
        """What must be unchanged for a lease that ran out to be taken over."""
        return self.id, self.attempt, self.ready_at


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A running attempt, as seen by a process that may take it from its owner."""

    id: str
    attempt: int
    ready_at: float
    crashes: int
    progressed: bool
    """Whether this attempt committed an outcome."""


@dataclasses.dataclass(frozen=True, slots=True)
class EndedRow:
    """An execution that ends in the current transaction."""

    id: str
    status: ExecutionStatus
    role: Role
    parent_id: str | None
    parent_step: str | None
    on_failure: int


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An event that was sent."""

    number: int
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """Which events an execution waits for."""

    topic: str
    after: int
    """The number of the last event of the topic that it got."""
    since: float
    """The database's time from which on they are for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leader:
    """The process that sends due executions to the queue that all share."""

    owner: str
    left: float
    """Seconds until another one may take over, by the database's clock."""


Range = tuple[int, int]
"""Positions of steps, the first and the last."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a step or an execution failed, as the journal keeps it."""

    type: str
    message: str
    traceback: str = ""
    http: list[t.Any] | None = None
    """Status, headers and body of an HTTP error's own answer."""
    tries: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)
    """The tries of a step: begin and end, in seconds since the step began, and why it
    failed; the reason is empty for a try that did not."""
    again: list[Range] | None = None
    """Of an execution: the positions at which a resume tries failed steps again."""
    later: list[Range] | None = None
    """Of an execution: the positions of the steps recorded after that failure."""
    apart: bool = False
    """Of an execution: whether its view ended because of something else than that."""

    @classmethod
    def of(cls, error: BaseException, http: list[t.Any] | None = None) -> Failure:
        """Describe an exception."""
        try:
            message = str(error)
        except Exception:
            message = "(its message can't be printed)"

        text = "".join(traceback.format_exception(error))
        short = message[:MAX_MESSAGE]
        return cls(qualified_name(error), short, text[-MAX_TRACEBACK:], http)

    def after(
        self, earlier: Failure | None, begun: float, ended: float, why: str
    ) -> Failure:
        """Add the earlier tries, and the times of the last one."""
        tries = [*(earlier.tries if earlier else ()), (begun, ended, why)]
        return dataclasses.replace(self, tries=tries[-MAX_TRIES:])

    def encode(self) -> bytes:
        """Return the failure as JSON."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Failure:
        """Read a failure from its JSON."""
        return cls(**json.loads(data))


def qualified_name(error: BaseException) -> str:
    """Return the full name of an exception's class, as it is imported."""
    return class_name(type(error))


def class_name(cls: type) -> str:
    """Return the full name of a class, as it is imported."""
    if cls.__module__ == "builtins":
        return cls.__qualname__

    return f"{cls.__module__}.{cls.__qualname__}"
