"""A laboratory that kills a process at each statement and has another recover.

It is run as a program, since it forks: ``python -m tests.crash_lab URL FOLDER
SHAPE`` prints a line of JSON for each kill.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import json
import os
import pathlib
import signal
import sys
import traceback
import typing as t

from flask import Flask
from sqlalchemy import event

from flask_durable import current_step
from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable.state import get_state
from flask_durable.tables import executions
from flask_durable.tables import steps

from .driving import Drive
from .processes import wait_until

SHAPES = {"straight": "/straight", "suspended": "/suspended"}
STEPS = ("a", "b", "c", "d")


@dataclasses.dataclass
class Report:
    """What came of one kill."""

    when: str
    statement: int
    killed: bool
    text: str
    status: str | None
    done_before: list[str]
    calls: dict[str, int]


class Laboratory:
    """Runs the same request again and again, killed at another statement."""

    def __init__(self, url: str, folder: pathlib.Path, shape: str) -> None:
        self.url = url
        self.folder = folder
        self.shape = shape

    def run(self) -> cabc.Iterator[Report]:
        """Kill before and after every statement."""
        in_child(self._make_tables)

        for when in ("before", "after"):
            number = 1

            while (report := self._kill_at(when, number)).killed:
                yield report
                number += 1

    def _kill_at(self, when: str, number: int) -> Report:
        for name in ("calls", "text", "before", "end"):
            (self.folder / name).unlink(missing_ok=True)

        status = in_child(lambda: self._request(when, number))
        in_child(self._look_at_journal)
        in_child(self._recover)
        end = json.loads(self._read("end"))
        calls = self._read("calls").split()
        return Report(
            when=when,
            statement=number,
            killed=os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            text=self._read("text"),
            status=end,
            done_before=json.loads(self._read("before")),
            calls={name: calls.count(name) for name in STEPS},
        )

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def _app(self, **config: t.Any) -> tuple[Flask, Drive]:
        app = Flask(__name__, instance_path=str(self.folder))
        app.config.update(
            DURABLE_DATABASE_URL=self.url,
            DURABLE_INLINE_RETRY=0,
            DURABLE_RETRY=Retry(initial=0.05, jitter=0),
            SECRET_KEY="laboratory",
            **config,
        )
        durable = FlaskDurable(app)

        def call(name: str, fails: bool = False) -> str:
            with (self.folder / "calls").open("a") as ledger:
                ledger.write(f"{name}\n")

            if fails and current_step.attempt == 1:
                raise ConnectionError("once")

            return name

        @app.post("/straight")
        @durable.endpoint
        def straight() -> list[str]:
            return [step.run(name, call, name) for name in STEPS]

        @app.post("/suspended")
        @durable.endpoint
        def suspended() -> list[str]:
            first = step.run("a", call, "a")
            second = step.run("b", call, "b", fails=True)
            step.sleep("nap", 0.05)
            return [first, second, step.run("c", call, "c"), step.run("d", call, "d")]

        return app, Drive(app)

    def _make_tables(self) -> None:
        app, drive = self._app(TESTING=True)
        app.test_client().get("/")
        drive.state.store.check()

    def _request(self, when: str, number: int) -> None:
        app, drive = self._app(TESTING=True)
        app.test_client().get("/")
        database = drive.state.store.database
        drive.state.store.check()
        seen = 0

        def count(*arguments: t.Any) -> None:
            nonlocal seen
            seen += 1

            if seen == number:
                (self.folder / "text").write_text(arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(database.engine, f"{when}_cursor_execute", count)
        answer = app.test_client().post(SHAPES[self.shape])

        if answer.status_code == 202:
            for _ in ("retry", "nap"):
                drive.advance(1.0)
                drive.run_due()

    def _look_at_journal(self) -> None:
        """Write down which steps were done when the process was killed."""
        app, drive = self._app(TESTING=True)
        app.test_client().get("/")
        rows = drive.state.store.ask(_statement(drive, "newest"))
        journal = drive.state.store.journal(rows[0][0]) if rows else []
        done = [line.id for line in journal if line.status == "completed"]
        (self.folder / "before").write_text(json.dumps(done))

    def _recover(self) -> None:
        """Be the process that comes after: its dispatcher does the rest."""
        app, drive = self._app()
        app.test_client().get("/")
        state = get_state(app)
        store = state.store
        newest = _statement(drive, "newest")

        def ended() -> bool:
            rows = store.ask(newest)
            return not rows or rows[0][1] in {"completed", "failed", "cancelled"}

        try:
            wait_until(ended, 20, "the execution has ended")
        finally:
            rows = store.ask(newest)
            status = rows[0][1] if rows else None
            (self.folder / "end").write_text(json.dumps(status))
            store.ask(_statement(drive, "clear_steps"))
            store.ask(_statement(drive, "clear"))


def _statement(drive: Drive, name: str) -> t.Any:
    clause = {
        "newest": executions.select().with_only_columns(
            executions.c.id, executions.c.status
        ),
        "clear": executions.delete().returning(executions.c.id),
        "clear_steps": steps.delete().returning(steps.c.id),
    }[name]
    return drive.state.store.database.prepare(clause)


def in_child(work: cabc.Callable[[], None]) -> int:
    """Run something in a fork, and give how that ended."""
    child = os.fork()

    if child:
        return os.waitpid(child, 0)[1]

    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    url, folder, shape = sys.argv[1:]

    for report in Laboratory(url, pathlib.Path(folder), shape).run():
        print(json.dumps(dataclasses.asdict(report)), flush=True)
