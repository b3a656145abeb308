"""What happens to an execution, as Server-Sent Events; and step.progress."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import json
import threading
import typing as t

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable import telling
from flask_durable.errors import JournalUnavailable
from flask_durable.progress import Progress
from flask_durable.records import StepRecord
from flask_durable.state import get_state
from flask_durable.store import Store
from flask_durable.watchers import Watchers
from flask_durable.watchers import watchers
from flask_durable.web import stream

from .driving import Drive
from .driving import ThreadedClient
from .processes import wait_until


class Message(t.NamedTuple):
    """An event as an EventSource gives it."""

    event: str
    id: str
    data: dict[str, t.Any]


def parse(text: str) -> list[Message]:
    """Read a stream as the HTML standard says; comments and ``retry`` are left out."""
    found = []

    for block in text.split("\n\n")[:-1]:
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)

        if "data" in fields:
            data = json.loads(fields["data"])
            found.append(Message(fields["event"], fields["id"], data))

    return found


class Source:
    """Follows an execution as an EventSource does."""

    def __init__(self, client: FlaskClient, answer: t.Any) -> None:
        self.client = client
        self.url = answer.json["events_url"]
        self.last = ""
        self.messages: list[Message] = []

    def connect(self) -> t.Any:
        """Read one stream to its end, from where the last one ended."""
        headers = {"Last-Event-ID": self.last} if self.last else {}
        answer = self.client.get(self.url, headers=headers)

        if answer.status_code == 200:
            self.read(answer.text)

        return answer

    def read(self, text: str) -> None:
        """Take what a stream has given."""
        new = parse(text)
        self.messages += new
        self.last = new[-1].id if new else self.last

    def of(self, event: str) -> list[dict[str, t.Any]]:
        """Give the data of the events of one kind."""
        return [message.data for message in self.messages if message.event == event]

    def lines(self) -> list[str]:
        """Give the lines of progress."""
        return [data["message"] for data in self.of("progress")]


def nap(seconds: int) -> None:
    """Sleep for a minute at least."""
    step.sleep("nap", 60 + seconds)


class Shop:
    """An app whose durable view a test gives."""

    def __init__(self, app: Flask, durable: FlaskDurable) -> None:
        self.app = app
        self.client = app.test_client()
        self.work: cabc.Callable[[], t.Any] = str

        @app.post("/work")
        @durable.endpoint(retry=Retry(2, initial=60, jitter=0))
        def view() -> t.Any:
            return self.work() or "done"

    def post(self, work: cabc.Callable[[], t.Any]) -> t.Any:
        """Begin an execution."""
        self.work = work
        return self.client.post("/work", headers={"Prefer": "respond-async"})


@pytest.fixture
def shop(app: Flask, durable: FlaskDurable, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Make an app."""
    monkeypatch.setattr(watchers, "server_threads", None)
    return Shop(app, durable)


def test_a_stream_tells_what_is_and_closes_if_there_is_no_place(
    shop: Shop, drive: Drive
) -> None:
    """The client comes again later, by ``retry``."""
    answer = shop.post(lambda: nap(step.run("first", int)))
    drive.run_due()
    source = Source(shop.client, answer)
    stream = source.connect()
    assert stream.content_type == "text/event-stream; charset=utf-8"
    assert stream.headers["Cache-Control"] == "no-store"
    assert stream.headers["X-Accel-Buffering"] == "no"
    assert stream.text.startswith("retry: 5000\n\n")
    (execution,) = source.of("execution")
    assert execution["status"] == "suspended"
    assert execution["waiting_for"]["step"] == "nap"
    steps = [(one["id"], one["status"]) for one in source.of("step")]
    assert steps == [("first", "completed"), ("nap", "sleeping")]
    assert not source.of("end")


def test_the_end_ends_the_stream(shop: Shop, drive: Drive) -> None:
    """With the links; who comes again after it is told to stay away."""
    answer = shop.post(lambda: step.run("first", int))
    drive.run_due()
    source = Source(shop.client, answer)
    source.connect()
    assert [message.event for message in source.messages] == [
        "execution",
        "step",
        "end",
    ]
    end = source.messages[-1]
    assert (end.id, end.data["status"]) == ("end", "completed")
    assert shop.client.get(end.data["response_url"]).text == "done"
    assert "error_type" not in end.data
    assert source.connect().status_code == 204


def test_nothing_is_skipped_between_two_streams(shop: Shop, drive: Drive) -> None:
    """Whatever happens in between."""

    def work() -> None:
        step.progress("one")
        step.run("first", int)
        step.sleep("nap", 60)
        step.progress("two", count=2)
        step.run("second", int)
        step.progress("three")

    source = Source(shop.client, shop.post(work))
    source.connect()
    assert [data["status"] for data in source.of("execution")] == ["pending"]
    drive.run_due()
    source.connect()
    assert source.lines() == ["one"]
    drive.advance(61)
    drive.run_due()
    source.connect()
    assert source.lines() == ["one", "two", "three"]
    assert source.of("progress")[1]["data"] == {"count": 2}
    outcomes = {one["id"]: one["status"] for one in source.of("step")}
    assert outcomes == {"first": "completed", "nap": "completed", "second": "completed"}
    assert source.messages[-1].event == "end"


def test_an_outcome_that_is_stored_late_is_not_skipped(
    shop: Shop, drive: Drive
) -> None:
    """An attempt had to wait for a database that was away."""

    def work() -> None:
        step.run("first", int)
        step.sleep("nap", 60)

    answer = shop.post(work)
    drive.run_due()
    source = Source(shop.client, answer)
    source.connect()
    store, execution_id = drive.state.store, answer.json["id"]
    early = (store.journal(execution_id)[0].finished_at or 0.0) - 20
    drive.advance(61)
    assert store.claim(execution_id, 2, "a:1:1", 60.0) is not None
    late = StepRecord("late", "run", "completed", 1, 5, 2, early, early)
    store.record(execution_id, 2, late)
    source.connect()
    assert "late" in [one["id"] for one in source.of("step")]


def test_a_step_that_ended_long_ago_is_not_told_again(shop: Shop, drive: Drive) -> None:
    """To who has heard of it."""

    def work() -> None:
        step.run("first", int)
        step.sleep("nap", 600)
        step.run("second", int)
        step.sleep("nap", 600)

    answer = shop.post(work)
    drive.run_due()
    drive.advance(601)
    drive.run_due()
    source = Source(shop.client, answer)
    source.connect()
    source.connect()
    told = [one["id"] for one in source.of("step")]
    assert (told.count("first"), told.count("second")) == (1, 2)


@pytest.mark.parametrize("last", ["nonsense", "1-x", "-", "9" * 50 + "-" + "9" * 50])
def test_an_id_that_is_not_ours_is_no_error(
    shop: Shop, drive: Drive, last: str
) -> None:
    """The stream begins anew."""
    answer = shop.post(lambda: step.sleep("nap", 60))
    source = Source(shop.client, answer)
    source.last = last
    assert source.connect().status_code == 200
    assert source.of("execution")


def test_an_end_that_is_none_any_more_is_no_end(shop: Shop) -> None:
    """The execution was resumed, say."""
    source = Source(shop.client, shop.post(lambda: step.sleep("nap", 60)))
    source.last = "end"
    assert source.connect().status_code == 200


def test_a_link_that_is_not_ours_gives_404(shop: Shop) -> None:
    """As for the status."""
    answer = shop.client.get("/durable/executions/nobody/events")
    assert answer.status_code == 404


# Streams that stay


@pytest.fixture
def places(shop: Shop) -> Watchers:
    """Give the process's watchers."""
    return watchers


def test_a_stream_tells_what_happens(
    shop: Shop, drive: Drive, places: Watchers
) -> None:
    """As it happens, until the end."""

    def work() -> None:
        step.progress("one")
        step.run("first", int)

    answer = shop.post(work)
    source = Source(ThreadedClient(shop.app), answer)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.connect)
        wait_until(lambda: places._bells, 30, "somebody watches")
        drive.run_due()
        text = reading.result(60).text

    assert text.startswith("retry: 1000\n\n")
    assert source.lines() == ["one"]
    assert source.messages[-1].event == "end"
    assert places._count == 0


def test_a_stream_closes_after_a_while(
    shop: Shop, places: Watchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment shows meanwhile that somebody is there."""
    monkeypatch.setattr(stream, "LENGTH", 0.6)
    monkeypatch.setattr(stream, "KEEP_ALIVE", 0.1)
    answer = shop.post(lambda: step.sleep("nap", 60))
    source = Source(ThreadedClient(shop.app), answer)
    text = source.connect().text
    assert ": nothing new\n\n" in text
    assert [message.event for message in source.messages] == ["execution"]
    assert places._count == 0


def test_a_stream_that_nobody_reads_gives_its_place_back(
    shop: Shop, places: Watchers
) -> None:
    """The client went away before the first byte."""
    answer = shop.post(lambda: step.sleep("nap", 60))
    client = ThreadedClient(shop.app)
    response = client.get(answer.json["events_url"], buffered=False)
    assert places._count == 1
    response.close()
    assert places._count == 0


def test_a_stream_ends_if_the_journal_is_away(
    shop: Shop, places: Watchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client comes again."""
    answer = shop.post(lambda: step.sleep("nap", 60))

    def away(self: Progress, *args: t.Any) -> None:
        raise JournalUnavailable("away")

    monkeypatch.setattr(Progress, "changed_steps", away)
    source = Source(ThreadedClient(shop.app), answer)
    assert source.connect().text == "retry: 1000\n\n"
    assert places._count == 0


# step.progress


def lines(state: t.Any, answer: t.Any) -> list[dict[str, t.Any]]:
    """Read an execution's lines."""
    return [
        json.loads(line.data) for line in state.progress.lines(answer.json["id"], 0)
    ]


def test_progress_comes_from_anywhere(shop: Shop, drive: Drive) -> None:
    """The view, its branches, and the functions of steps, also async ones."""

    async def later() -> None:
        step.progress("async")

    def work() -> None:
        step.progress("view", percent=10)
        step.run("first", lambda: step.progress("function"))
        step.run("second", later)
        step.parallel(lambda: step.progress("branch"))

    answer = shop.post(work)
    drive.run_due()
    assert lines(drive.state, answer) == [
        {"message": "view", "data": {"percent": 10}, "step": None},
        {"message": "function", "data": {}, "step": "first"},
        {"message": "async", "data": {}, "step": "second"},
        {"message": "branch", "data": {}, "step": None},
    ]


def test_progress_is_not_journaled(shop: Shop, drive: Drive) -> None:
    """A view may say more or less in a replay."""

    def work() -> None:
        step.progress("walks")
        step.run("first", int)
        step.sleep("nap", 60)
        step.progress("goes on")

    answer = shop.post(work)
    drive.run_due()
    drive.advance(61)
    drive.run_due()
    assert [step["id"] for step in drive.status(answer)["steps"]] == ["first", "nap"]
    said = [line["message"] for line in lines(drive.state, answer)]
    assert said == ["walks", "goes on"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"what": object()}, "not JSON serializable"),
        ({"what": "x" * telling.MAX_BYTES}, "bytes, more than 16384"),
    ],
)
def test_progress_that_can_not_be_stored_is_logged(
    shop: Shop,
    drive: Drive,
    caplog: pytest.LogCaptureFixture,
    data: dict[str, t.Any],
    reason: str,
) -> None:
    """The view goes on."""
    answer = shop.post(lambda: step.progress("hello", **data))
    drive.run_due()
    assert drive.status(answer)["status"] == "completed"
    assert not lines(drive.state, answer)
    assert "A progress message" in caplog.text and reason in caplog.text


def test_progress_without_a_journal_is_logged(
    shop: Shop,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The view goes on."""

    def away(self: Progress, *args: t.Any) -> None:
        raise JournalUnavailable("away")

    monkeypatch.setattr(Progress, "say", away)
    answer = shop.post(lambda: step.progress("hello"))
    drive.run_due()
    assert drive.status(answer)["status"] == "completed"
    assert "was dropped: away" in caplog.text


def test_progress_outside_of_an_execution_is_a_mistake(shop: Shop) -> None:
    """As every verb is."""
    with pytest.raises(RuntimeError, match="put `@durable.endpoint` under the route"):
        step.progress("hello")


def test_progress_wakes_nobody(shop: Shop, drive: Drive) -> None:
    """It is no event."""
    answer = shop.post(lambda: step.wait_for_event("wait", "paid"))
    drive.run_due()
    get_state(shop.app).progress.say(answer.json["id"], b"{}")
    assert drive.run_due() == 0


def test_lines_are_read_in_the_order_of_their_commits(shop: Shop, drive: Drive) -> None:
    """Who has read one misses none with a smaller number."""
    answer = shop.post(str)
    execution_id = answer.json["id"]
    progress = get_state(shop.app).progress
    stop = threading.Event()
    read: list[int] = []

    def follow() -> None:
        while not stop.is_set():
            after = read[-1] if read else 0
            read.extend(line.number for line in progress.lines(execution_id, after))

    def say(number: int) -> None:
        for _ in range(20):
            progress.say(execution_id, b"{}")

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        reader = pool.submit(follow)
        list(pool.map(say, range(5)))
        stop.set()
        reader.result(60)

    after = read[-1] if read else 0
    read.extend(line.number for line in progress.lines(execution_id, after))
    everything = [line.number for line in progress.lines(execution_id, 0)]
    assert len(everything) == 100
    assert read == everything


def test_a_line_whose_answer_was_lost_is_stored_once(
    shop: Shop, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a mark of its own."""
    answer = shop.post(str)
    state = get_state(shop.app)
    marks = iter(["one", "one", "two"])
    monkeypatch.setattr("flask_durable.progress.new_nonce", lambda: next(marks))

    for _ in range(3):
        state.progress.say(answer.json["id"], b"{}")

    assert len(lines(state, answer)) == 2
    assert isinstance(state.store, Store)
