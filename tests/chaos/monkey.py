"""A monkey that kills processes and stops databases, by a seed."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import random
import signal
import time

from ..processes import Process
from ..processes import running
from ..processes import wait_until
from ..processes import Worker
from ..servers import StopMode
from .ledger import being
from .ledger import now
from .outages import Down
from .outages import is_gone
from .outages import Kill
from .outages import Outage
from .outages import start
from .site import end
from .site import runs
from .site import Site

PACE = (0.3, 3.0)
"""Seconds between two blows, least and most."""

LOOK = 0.02
"""Seconds between two looks at what is to be brought back."""


class Monkey:
    """Strikes again and again, one blow after the other.

    The blows are dealt from a shuffled deck, so that each kind has its turn.

    :param say: takes each line of the log
    """

    def __init__(
        self, site: Site, seed: int, say: cabc.Callable[[str], None] = print
    ) -> None:
        self.seed = seed
        self.kills: list[Kill] = []
        self.outages: list[Outage] = []
        self.log: list[str] = []
        self.troubles: list[str] = []
        """What ended without the monkey's doing."""
        self._site = site
        self._say = say
        self._random = random.Random(seed)
        self._began = now()
        self._down: dict[str, Down] = {}
        self._deck: list[cabc.Callable[[], None]] = []
        self._processes: dict[str, Process] = {"redis": site.redis}

        for number, (web, worker) in enumerate(
            zip(site.webs, site.workers, strict=True), 1
        ):
            self._processes |= {f"web {number}": web, f"worker {number}": worker}

    def run(self, seconds: float) -> None:
        """Strike for so many seconds, then bring back everything."""
        self._began = now()
        self._note(f"seed {self.seed}, at {time.strftime('%H:%M:%S')}")

        try:
            while now() < self._began + seconds:
                self._deal()()
                self._wait(self._random.uniform(*PACE))

            while self._down:
                self._bring_back(float("inf"))
                time.sleep(LOOK)
        finally:
            # Nothing may be started any more when all is put away.
            for down in self._down.values():
                if down.is_alive():
                    down.join()

        self._note("all is back")

    def _deal(self) -> cabc.Callable[[], None]:
        if not self._deck:
            self._deck = [
                *[self._kill_web_worker] * 2,
                *[self._kill_busy_web_worker] * 3,
                self._kill_web,
                *[self._kill_worker_child] * 2,
                self._kill_worker,
                self._kill_supervisor,
                self._stop_redis,
                self._flush_redis,
                self._freeze_redis,
                self._stop_postgres,
                self._crash_postgres,
                self._kill_in_outage,
            ]
            self._random.shuffle(self._deck)

        return self._deck.pop()

    def _wait(self, seconds: float) -> None:
        """Let time pass: the pauses between blows are the monkey's own clock."""
        until = now() + seconds

        while (left := until - now()) > 0:
            self._bring_back(now())
            self._look_around()
            time.sleep(min(LOOK, left))

    def _bring_back(self, until: float) -> None:
        for name, down in list(self._down.items()):
            if down.is_back:
                del self._down[name]
                self.outages.append(Outage(down.kind, down.since, now()))
                self._note(f"{name} is back")

                if down.failure is not None:
                    self.troubles.append(f"{name} did not start: {down.failure!r}")
            elif down.until <= until and not down.is_alive():
                down.start()

    def _look_around(self) -> None:
        """Notice what has ended by itself, and start it again."""
        for name, process in self._processes.items():
            if name not in self._down and not runs(process):
                self.troubles.append(f"{name} ended by itself at {self._clock()}")
                self._leave_down(f"{name} ended", name, 0.0, process)

    # Blows

    def _kill_web_worker(self) -> None:
        name = self._choose("web")

        if name is not None:
            self._kill_one("web: worker", self._processes[name].children())

    def _kill_busy_web_worker(self) -> None:
        """Kill a process while it runs a step's function."""
        webs = [web for web in self._site.webs if runs(web)]
        pids = {pid for web in webs for pid in web.children()}
        busy = pids & {one.pid for one in self._site.ledger.busy()}
        self._kill_one("web: busy worker", list(busy or pids))

    def _kill_in_outage(self) -> None:
        """Kill a process that can't commit what its steps gave."""
        self._stop_postgres()
        self._wait(self._random.uniform(0.3, 1.0))
        self._kill_busy_web_worker()

    def _kill_worker_child(self) -> None:
        name = self._choose("worker")

        if name is not None:
            self._kill_one("worker: child", self._processes[name].children())

    def _kill_web(self) -> None:
        self._kill_group("web")

    def _kill_worker(self) -> None:
        self._kill_group("worker")

    def _kill_supervisor(self) -> None:
        """Kill the supervisor alone; its children notice and end by themselves."""
        name = self._choose_whole("worker")

        if name is not None:
            process = self._processes[name]
            children = process.children()
            self._kill_one("worker: supervisor", [process.pid])
            seconds = self._random.uniform(4.0, 8.0)
            self._leave_down("worker: supervisor", name, seconds, process)
            self._note(f"its children are {children}")

    def _stop_redis(self) -> None:
        if self._choose("redis"):
            redis = self._site.redis
            since = now()
            redis.kill()
            self._note("redis is stopped, and all in it is lost")
            self._leave_down("redis: stopped", "redis", self._pause(), redis, since)

    def _flush_redis(self) -> None:
        if self._choose("redis"):
            self._site.redis.clear()
            self.outages.append(Outage("redis: flushed", now(), now()))
            self._note("redis is flushed")

    def _freeze_redis(self) -> None:
        """Have Redis accept connections and answer nothing."""
        if self._choose("redis"):
            redis = self._site.redis
            os.kill(redis.pid, signal.SIGSTOP)
            self._note("redis is frozen")
            until = now() + self._random.uniform(1.0, 7.0)

            def thaw() -> None:
                os.kill(redis.pid, signal.SIGCONT)

            self._down["redis"] = Down("redis: frozen", now(), until, thaw)

    def _stop_postgres(self) -> None:
        self._end_postgres("fast")

    def _crash_postgres(self) -> None:
        self._end_postgres("immediate")

    def _end_postgres(self, mode: StopMode) -> None:
        if "postgres" not in self._down:
            since = now()
            self._note(f"postgres is stopped ({mode})")
            self._site.postgres.stop(mode)
            until = now() + self._pause()
            back = self._site.postgres.start
            self._down["postgres"] = Down(f"postgres: {mode}", since, until, back)

    # What blows have in common

    def _pause(self) -> float:
        return self._random.uniform(0.1, 4.0)

    def _choose(self, kind: str) -> str | None:
        """Choose a program of a kind that is not down."""
        names = [
            name
            for name in self._processes
            if name.startswith(kind) and name not in self._down
        ]
        return self._random.choice(names) if names else None

    def _choose_whole(self, kind: str) -> str | None:
        """Choose a program to be killed as a whole, unless another one still is.

        Else, on a slow machine, nothing would ever be done.
        """
        one_is_down = any(name.startswith(kind) for name in self._down)
        return None if one_is_down else self._choose(kind)

    def _kill_one(self, kind: str, pids: list[int]) -> None:
        pid = self._random.choice(pids) if pids else 0
        victim = being(pid)

        if not pids or victim is None:
            return

        before = now()

        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

        wait_until(lambda: is_gone(victim), 10, f"{kind} {pid} is gone")
        self.kills.append(Kill(kind, before, now(), victim))
        self._note(f"{kind} {pid} is killed")

    def _kill_group(self, kind: str) -> None:
        name = self._choose_whole(kind)

        if name is not None:
            process = self._processes[name]
            group = process.pid
            before = now()
            process.kill()
            self.kills.append(Kill(f"{kind}: all", before, now(), group=group))
            self._note(f"{name} is killed with all its processes ({group})")
            self._leave_down(f"{kind}: all", name, self._pause(), process, before)

    def _leave_down(
        self,
        kind: str,
        name: str,
        seconds: float,
        process: Process,
        since: float | None = None,
    ) -> None:
        def back() -> None:
            if isinstance(process, Worker):
                self._note_orphans(name, process)

            end(process)
            start(process)

        since = now() if since is None else since
        self._down[name] = Down(kind, since, now() + seconds, back)

    def _note_orphans(self, name: str, worker: Worker) -> None:
        with contextlib.suppress(RuntimeError):
            left = [one.pid for one in running() if one.group == worker.pid]

            if left:
                self._note(f"{name}: its processes {left} go on, and are killed")

    def _clock(self) -> str:
        return f"{now() - self._began:7.2f} s"

    def _note(self, line: str) -> None:
        line = f"{self._clock()}  {line}"
        self.log.append(line)
        self._say(line)
