"""Clients that order, look at what became of their orders, and take breaks."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import random
import threading
import typing as t

import requests

from .shapes import ROUTES
from .shapes import SHAPES

TIMEOUT = 90.0
"""Seconds that a client waits for an answer."""

JOIN_TIMEOUT = 2 * TIMEOUT + 10


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a client heard of an order; no code if the connection broke."""

    order: str
    shape: str
    asked: t.Literal["post", "poll", "final"]
    code: int | None
    body: bytes = b""
    link: str | None = None
    """The status link that came with it."""
    execution: str | None = None
    error: str = ""

    @property
    def is_final(self) -> bool:
        """Tell whether this is the response of the view."""
        return self.link is not None and self.code not in (202, 503)


class Client(threading.Thread):
    """Sends orders of random shapes, one after the other, until told to stop.

    :param urls: the servers, any of which is asked
    :param seed: what it does follows from this
    """

    def __init__(self, name: str, urls: cabc.Sequence[str], seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self.answers: list[Answer] = []
        self.failure: BaseException | None = None
        self._urls = urls
        self._random = random.Random(f"{seed}-{name}")
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Send no further order."""
        self._stopped.set()

    def run(self) -> None:
        """Order until stopped."""
        try:
            while not self._stopped.is_set():
                self._order()
                self._look()
                self._stopped.wait(self._random.uniform(0.05, 0.6))
        except BaseException as error:
            self.failure = error

    def _order(self) -> None:
        order = f"{self.name}-{len(self.answers)}"
        shape = self._random.choice(list(SHAPES))
        url = f"{self._random.choice(self._urls)}{ROUTES}{shape}"
        seconds = self._random.choice([0.0, 0.05, 0.1, 0.2, 0.5])
        body = {"order": order, "seconds": seconds}
        self.answers.append(ask(order, shape, "post", url, body))

    def _look(self) -> None:
        """Follow the link of one of the last orders."""
        linked = [a for a in self.answers[-20:] if a.link and a.asked == "post"]

        if linked and self._random.random() < 0.4:
            self.answers.append(follow(self._random.choice(linked), "poll"))


def follow(answer: Answer, asked: t.Literal["poll", "final"]) -> Answer:
    """Ask for the response of an order that a client has a link of."""
    return ask(answer.order, answer.shape, asked, f"{answer.link}/response")


def ask(
    order: str,
    shape: str,
    asked: t.Literal["post", "poll", "final"],
    url: str,
    body: t.Any = None,
) -> Answer:
    """Send a request on a connection of its own."""
    method = "GET" if body is None else "POST"

    with requests.Session() as session:
        session.trust_env = False

        try:
            answer = session.request(method, url, json=body, timeout=TIMEOUT)
        except requests.RequestException as error:
            return Answer(order, shape, asked, None, error=repr(error))

    return Answer(
        order,
        shape,
        asked,
        answer.status_code,
        answer.content,
        answer.links.get("status", {}).get("url"),
        answer.headers.get("Durable-Execution"),
    )
