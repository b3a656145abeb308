"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import functools
import json
import re
import typing as t

import click

from ..errors import DurableError

F = t.TypeVar("F", bound=cabc.Callable[..., t.Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")

_CONTROLS = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What controls a terminal or the direction of a text, and lone surrogates."""


def printable(text: str, *, lines: bool = False) -> str:
    """Escape what controls a terminal in a text, as Python strings do.

    The text may come from a client.

    :param lines: whether it may have line breaks and tabs
    """
    return _CONTROLS.sub(
        lambda found: (
            found[0]
            if lines and found[0] in "\n\t"
            else found[0].encode("unicode_escape").decode()
        ),
        text,
    )


def reports(*kinds: type[Exception]) -> cabc.Callable[[F], F]:
    """Have a command print errors of these kinds as a sentence, not a traceback."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(*args: t.Any, **kwargs: t.Any) -> t.Any:
            try:
                return command(*args, **kwargs)
            except kinds as error:
                raise click.ClickException(printable(str(error), lines=True)) from None

        return t.cast(F, run)

    return decorate


reports_errors = reports(DurableError, ValueError)
"""For commands whose arguments may be wrong."""


def print_json(value: t.Any) -> None:
    """Print dataclasses and plain values as JSON; times are ISO 8601."""
    click.echo(json.dumps(value, default=_plain, indent=2))


def _plain(value: t.Any) -> t.Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()

    return dataclasses.asdict(value)


def print_table(names: cabc.Sequence[str], rows: cabc.Iterable[t.Any]) -> None:
    """Print rows in columns that are as wide as they need to be."""
    lines = [list(names), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    for number, line in enumerate(lines):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        text = "  ".join(cells).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def local(time: dt.datetime) -> str:
    """Return a time in the local time zone, with its offset from UTC."""
    return time.astimezone().isoformat(" ", "seconds")


def _text(value: t.Any) -> str:
    if value is None:
        return "-"

    if isinstance(value, dt.datetime):
        return local(value)

    return printable(str(value))
