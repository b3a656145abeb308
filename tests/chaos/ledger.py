"""A file to which many processes append each real call of a step's function."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import json
import os
import pathlib
import time
import typing as t

NAME = "ledger.jsonl"

TAIL = 20_000
"""Bytes at the end of the file that tell what goes on now."""


class Being(t.NamedTuple):
    """A process that can't be taken for a later one with the same id."""

    pid: int
    started: int
    """In clock ticks since the machine's boot, see proc(5)."""


def being(pid: int) -> Being | None:
    """Look up a process, if it lives."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None

    # The name before the last ")" may hold anything.
    return Being(pid, int(text.rpartition(")")[2].split()[19]))


@dataclasses.dataclass
class Call:
    """One real call of a step's function; times are of the machine's clock."""

    execution: str
    step: str
    attempt: int
    tries: int
    nonce: str
    being: Being
    group: int
    """The process group, which is the server's."""
    began: float
    ended: float | None = None
    how: t.Literal["returned", "raised", ""] = ""
    """How it ended; empty if its process never said so."""


class Ledger:
    """The file of one run."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def begin(self, **call: t.Any) -> None:
        """Write down that a function was called by this process."""
        me = being(os.getpid())
        self._write({**call, "being": me, "group": os.getpgrp(), "began": now()})

    def end(self, nonce: str, how: str) -> None:
        """Write down how a call is about to end."""
        self._write({"nonce": nonce, "how": how, "ended": now()})

    def _write(self, line: dict[str, t.Any]) -> None:
        # One write to the end of the file: neither a kill nor others can split it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = os.open(self._path, flags, 0o644)

        try:
            os.write(file, f"{json.dumps(line)}\n".encode())
        finally:
            os.close(file)

    def calls(self) -> list[Call]:
        """Read all calls in the order in which they began."""
        calls = _read(self._path.read_text().splitlines())
        return sorted(calls, key=lambda call: call.began)

    def busy(self) -> list[Being]:
        """Name the processes whose last calls have not ended, as far as it seems."""
        if not self._path.exists():
            return []

        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            # The first line may be half a line.
            lines = file.read().decode().splitlines()[1:]

        return [call.being for call in _read(lines) if not call.how]


def _read(lines: cabc.Iterable[str]) -> cabc.Iterable[Call]:
    """Put lines together; ends without a beginning are left out."""
    calls: dict[str, Call] = {}

    for text in lines:
        line = json.loads(text)

        if "began" in line:
            line["being"] = Being(*line["being"])
            calls[line["nonce"]] = Call(**line)
        elif line["nonce"] in calls:
            call = calls[line["nonce"]]
            call.ended, call.how = line["ended"], line["how"]

    return calls.values()


def now() -> float:
    """Give the time by the clock that all processes of the machine share."""
    return time.monotonic()
