"""The shapes of executions, and how each must end whatever is killed."""

from __future__ import annotations

import dataclasses
import typing as t

ROUTES = "/shapes/"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a view does, as far as it shows in the journal and the response.

    :param steps: the steps with a function
    :param tries: how many tries a step takes, if not one
    :param failing: the steps that fail on purpose
    :param sleeps: the steps that only wait
    :param code: status code of the response
    :param ending: status of the execution
    :param shown: the steps in the response, if not all
    """

    steps: tuple[str, ...]
    tries: t.Mapping[str, int] = dataclasses.field(default_factory=dict)
    failing: tuple[str, ...] = ()
    sleeps: tuple[str, ...] = ()
    code: int = 200
    ending: str = "completed"
    shown: tuple[str, ...] = ()

    @property
    def answer(self) -> set[str]:
        """The steps in the response."""
        return set(self.shown or self.steps)


ITEMS = 6

SHAPES = {
    "sequential": Shape(("a", "b", "c", "d", "e")),
    "parallel": Shape(("flight", "inner", "outer", "car", "insurance", "confirm")),
    "map": Shape(
        ("before", *(f"item[{n}]" for n in range(ITEMS)), "after"),
        tries={"item[0]": 2, "item[3]": 2},
    ),
    "sleeping": Shape(("a", "b", "c"), sleeps=("nap", "rest")),
    "retrying": Shape(("a", "pay", "b"), tries={"pay": 3}),
    "later": Shape(("a", "pay", "ship", "b"), tries={"pay": 3, "ship": 2}),
    "crowded": Shape(
        ("flight", "hotel", "early", "late", "confirm"),
        tries={"hotel": 2},
        sleeps=("doze",),
    ),
    "stumbling": Shape(("a", "b")),
    "compensating": Shape(("reserve", "pay", "undo"), failing=("pay",), code=402),
    "refused": Shape(
        ("a", "pay"), failing=("pay",), code=502, ending="failed", shown=("pay",)
    ),
    "exhausted": Shape(
        ("a", "pay"),
        tries={"pay": 2},
        failing=("pay",),
        code=502,
        ending="failed",
        shown=("pay",),
    ),
}
"""By the name of the view; ``app.py`` has the views."""
