"""Who runs an attempt, and whether that process still lives.

An owner's name consists of the machine's boot id, the PID namespace, the process id
and the process's start time, so that a process that reuses the id is another owner.
"""

from __future__ import annotations

import functools
import os
import pathlib
import socket
import typing as t

Fate = t.Literal["alive", "dead", "unknown", "elsewhere"]

PROC = pathlib.Path("/proc")


def current_owner() -> str:
    """Return this process's name as an owner."""
    return _name(os.getpid())


def fate(owner: str) -> Fate:
    """Tell what became of an owner, as far as this process can see.

    ``unknown`` is a process of this machine whose start time can't be read;
    ``elsewhere`` is one of another machine, boot or PID namespace.
    """
    host, _, process = owner.rpartition(":")
    host, _, pid = host.rpartition(":")
    start = process

    if not pid.isdecimal():
        return "unknown"

    if host != _host():
        return "elsewhere"

    if not _exists(int(pid)):
        return "dead"

    state, started = _stat(int(pid))

    if not started or start == "0":
        return "unknown"

    return "dead" if started != start or state in "ZX" else "alive"


@functools.cache
def _name(pid: int) -> str:
    return f"{_host()}:{pid}:{_stat(pid)[1] or 0}"


@functools.cache
def _host() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat(PROC / 'self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass

    return True


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state and start time in clock ticks, see proc(5)."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return "", ""

    # The command's name stands in parentheses and may contain some itself.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]
