"""Two processes that do something at the same instant, round by round.

``python -m tests.racers URL FOLDER NUMBER`` is one of them: it reads a race as a line
of JSON, runs its rounds together with its rival, and prints what came of them.
"""

from __future__ import annotations

import collections.abc as cabc
import json
import mmap
import os
import pathlib
import subprocess
import sys
import time
import traceback
import types
import typing as t

from flask import Flask

from flask_durable import ControlError
from flask_durable import current_execution
from flask_durable import ExecutionInfo
from flask_durable import ExecutionNotFound
from flask_durable import FlaskDurable
from flask_durable import NonRetryableError
from flask_durable import step
from flask_durable import WaitTimeoutError
from flask_durable.driving import Driver
from flask_durable.replay import replay
from flask_durable.signing import sign_callback
from flask_durable.state import opened_state

from .processes import ROOT

WORD = 8
"""Bytes of a racer's place on the starting line."""

PATIENCE = 30.0
"""Seconds for which a racer waits for its rival."""

SPREAD = 12
"""Rounds after which the head start of one of them begins anew."""

HEAD_START = 0.0004
"""Seconds by which it grows from round to round, so that they meet everywhere."""


class Line:
    """The starting line: whoever comes waits until both are there."""

    def __init__(self, folder: pathlib.Path, number: int) -> None:
        path = folder / "line"

        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 2 * WORD)

        self.number = number
        self.round = 0

    def meet(self) -> None:
        """Go on at the same instant as the rival, or a little later."""
        self.round += 1
        self._put()
        deadline = time.monotonic() + PATIENCE

        while self._rival() < self.round:
            if time.monotonic() > deadline:
                raise TimeoutError("The rival does not come.")

            time.sleep(0)

        lag = self.round % (2 * SPREAD) - SPREAD

        if lag and (lag > 0) == bool(self.number):
            until = time.monotonic() + abs(lag) * HEAD_START

            while time.monotonic() < until:
                pass

    def _put(self) -> None:
        at = self.number * WORD
        self._map[at : at + WORD] = self.round.to_bytes(WORD, "little")

    def _rival(self) -> int:
        at = (1 - self.number) * WORD
        return int.from_bytes(self._map[at : at + WORD], "little")


class Track:
    """An app whose views meet somebody, and what may be done to them.

    :param meet: what views call where something is to happen beside them
    """

    def __init__(
        self, url: str, folder: pathlib.Path, meet: cabc.Callable[[], None]
    ) -> None:
        self.url = url
        self.folder = folder
        self.app = Flask("tests.racers", instance_path=str(folder))
        self.app.config.update(
            DURABLE_DATABASE_URL=url, SECRET_KEY="races", TESTING=True
        )
        self.durable = FlaskDurable(self.app)
        self.meet = meet
        self.awaited = False
        """Whether the next view that comes to the line is part of a race."""
        self._calls = folder / "calls"
        self._make_views()

    def call(self, name: str) -> str:
        """Write a call down, whichever process makes it."""
        with self._calls.open("a") as file:
            file.write(f"{current_execution.id} {name}\n")

        return name

    def come_to_line(self) -> None:
        """Meet the rival, once in a race."""
        if self.awaited:
            self.awaited = False
            self.meet()

    def calls(self) -> list[str]:
        """List all calls, and forget them."""
        found = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return found

    def _make_views(self) -> None:
        durable, views = self.durable, Views(self)

        for name in ("event", "callback", "timed", "sleeper", "quick", "broken"):
            view = durable.endpoint(on_failure=self._after)(getattr(views, name))
            self.app.add_url_rule(f"/{name}/<key>", name, view, methods=["POST"])

        for name in ("steady", "parent", "child"):
            view = durable.endpoint(getattr(views, name))
            self.app.add_url_rule(f"/{name}/<key>", name, view, methods=["POST"])

    def _after(self, failed: ExecutionInfo) -> None:
        step.run("after", self.call, f"after {failed.status}")


class Views:
    """The durable views of a track."""

    def __init__(self, track: Track) -> None:
        self._track = track

    def event(self, key: str) -> t.Any:
        """Begin to wait for an event while it is sent."""
        self._track.come_to_line()
        return [step.wait_for_event("wait", "raced", key=key)]

    def callback(self, key: str) -> t.Any:
        """Begin to wait for a callback while it is completed."""
        made = step.callback("ask")
        self._track.come_to_line()
        return [made.wait()]

    def timed(self, key: str) -> t.Any:
        """See a callback's time run out while it is completed."""
        made = step.callback("ask")
        self._track.come_to_line()

        try:
            return [made.wait(timeout=60)]
        except WaitTimeoutError:
            return ["late"]

    def sleeper(self, key: str) -> t.Any:
        """Suspend while something happens."""
        self._track.come_to_line()
        step.sleep("nap", 60)
        return [step.run("work", self._track.call, "work")]

    def quick(self, key: str) -> t.Any:
        """End while something happens."""
        step.run("work", self._track.call, "work")
        self._track.come_to_line()
        return ["done"]

    def broken(self, key: str) -> t.Any:
        """Fail at first."""
        return [step.run("pay", self._pay)]

    def _pay(self) -> str:
        if current_execution.attempt == 1:
            raise NonRetryableError("no")

        return self._track.call("pay")

    def steady(self, key: str) -> t.Any:
        """Work, sleep, work."""
        step.run("first", self._track.call, "first")
        step.sleep("nap", 60)
        return [step.run("second", self._track.call, "second")]

    def parent(self, key: str) -> t.Any:
        """Have two children at once."""
        found = step.parallel(
            lambda: step.invoke("a", "child", values={"key": f"{key}a"}),
            lambda: step.invoke("b", "child", values={"key": f"{key}b"}),
        )
        return [step.run("sum", self._track.call, "sum"), *found]

    def child(self, key: str) -> t.Any:
        """Give the key back."""
        return [step.run("work", self._track.call, key)]


class Racer:
    """What one process does in a round. Each action gives what can be told of it."""

    def __init__(self, track: Track) -> None:
        self._track = track
        self._app = track.app
        self._durable = track.durable
        opened_state(track.app)

    def replay(self, execution_id: str, attempt: int) -> t.Any:
        """Run an attempt, whose view comes to the line itself."""
        self._track.awaited = True
        return replay(self._app, execution_id, attempt)

    def claim(self, execution_id: str, attempt: int) -> t.Any:
        """Run an attempt from the line on."""
        self._track.meet()
        return replay(self._app, execution_id, attempt)

    def send(self, key: str, dedup: str | None = None) -> t.Any:
        """Send an event."""
        self._track.meet()
        return self._durable.send_event("raced", key=key, data=key, dedup=dedup)

    def complete(self, execution_id: str, data: t.Any) -> t.Any:
        """POST to a callback's link."""
        token = sign_callback(self._app, execution_id, "ask")
        self._track.meet()
        url = f"/durable/callbacks/{token}"
        return self._app.test_client().post(url, json=data).status_code

    def start(self, endpoint: str, key: str) -> t.Any:
        """Begin an execution as cron does."""
        arguments = ["durable", "start", endpoint, "--value", "key=x", "--key", key]
        runner = self._app.test_cli_runner()
        self._track.meet()
        done = runner.invoke(args=arguments)
        return done.output.strip()

    def cancel(self, execution_id: str) -> t.Any:
        """Cancel an execution."""
        self._track.meet()
        return self._try(self._durable.cancel, execution_id)

    def resume(self, execution_id: str) -> t.Any:
        """Resume an execution."""
        self._track.meet()
        return self._try(self._durable.resume, execution_id)

    def rerun(self, execution_id: str) -> t.Any:
        """Run an execution's request once more."""
        self._track.meet()
        return self._try(self._durable.rerun, execution_id)

    def purge(self, times: int = 1) -> t.Any:
        """Delete all that has ended, again and again, and count."""
        self._track.meet()
        return sum(self._durable.purge(0) for _ in range(times))

    def run_due(self) -> t.Any:
        """Sweep and dispatch what is due, with no pause before others do so, too."""
        self._track.meet()
        return Driver(self._app).run_due()

    def _try(self, verb: cabc.Callable[[str], t.Any], execution_id: str) -> t.Any:
        try:
            return verb(execution_id) or "done"
        except (ControlError, ExecutionNotFound):
            return "refused"

    def serve(self, lines: cabc.Iterable[str]) -> None:
        """Run races until there are no more."""
        for line in lines:
            action, rounds = json.loads(line)
            act = getattr(self, action)

            with self._app.app_context():
                results = [act(*arguments) for arguments in rounds]

            print(json.dumps(results), flush=True)


class Race:
    """A pair of racers, seen from outside."""

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        (folder / "line").write_bytes(bytes(2 * WORD))
        self._log = (folder / "racers.log").open("w+")
        self._racers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.racers", url, str(folder), str(number)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
            for number in range(2)
        ]

    def run(self, *sides: tuple[str, cabc.Sequence[tuple[t.Any, ...]]]) -> t.Any:
        """Have both do an action each, round by round.

        :param sides: for each its action, and the arguments of each round
        :return: what came of each round, as a pair
        """
        for racer, side in zip(self._racers, sides, strict=True):
            print(json.dumps(side), file=racer.stdin, flush=True)

        lines = [t.cast(t.IO[str], racer.stdout).readline() for racer in self._racers]
        self._log.seek(0)
        assert all(lines), self._log.read()
        return list(zip(*map(json.loads, lines), strict=True))

    def __enter__(self) -> t.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        for racer in self._racers:
            racer.kill()
            racer.wait()

            for stream in (racer.stdin, racer.stdout):
                assert stream is not None
                stream.close()

        self._log.close()


def create_app() -> Flask:
    """Make the app for ``flask --app tests.racers``."""
    url, folder = os.environ["RACE_URL"], pathlib.Path(os.environ["RACE_FOLDER"])
    return Track(url, folder, lambda: None).app


def main(url: str, folder: pathlib.Path, number: int) -> None:
    """Be a racer."""
    line = Line(folder, number)

    try:
        Racer(Track(url, folder, line.meet)).serve(sys.stdin)
    except BaseException:
        traceback.print_exc()
        # The rival must not wait for one that will never come.
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
