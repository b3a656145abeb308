"""Machines that are namespaces of this one: a network card and process ids each.

They stand around a switch, at which the tests and their databases are. ``ip`` and
``unshare`` make them; that needs root on Linux.
"""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

from .processes import wait_until

SWITCH = "10.77.0.1"
"""The address of the tests and of what both machines reach."""

CLONE_NEWNET = 0x40000000

HOME = pathlib.Path("/proc/thread-self/ns/net")

NAMED = pathlib.Path("/run/netns")
"""Where ``ip netns`` keeps namespaces."""

PORT = ("link", "set", "dev")

OWN_PROCESSES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


class Machine:
    """A namespace with one network card, whose cable can be pulled."""

    def __init__(self, name: str, address: str, switch: str) -> None:
        self.name = name
        self.address = address
        self._space = f"{switch}-{name}"
        self._switch = switch

    def command(self, command: cabc.Sequence[str]) -> list[str]:
        """Give the command that runs another one there, with process ids of its own."""
        return ["ip", "netns", "exec", self._space, *OWN_PROCESSES, *command]

    def cut_off(self) -> None:
        """Pull the cable out of the switch."""
        _ip(self._switch, "link", "set", "dev", self.name, "down")

    def connect(self) -> None:
        """Plug the cable in again, and let everything through."""
        _ip(self._switch, "link", "set", "dev", self.name, "up")
        # The kernel may notice the cable a moment later, and refuses it until then.
        wait_until(lambda: self._try_port("3"), what="the switch notices the cable")

    def silence(self) -> None:
        """Lose what the machine sends or is sent; nobody is told."""
        self._port("0")

    def _try_port(self, state: str) -> bool:
        try:
            self._port(state)
        except subprocess.CalledProcessError:
            return False

        return True

    def _port(self, state: str) -> None:
        # See bridge(8); `ip` would set the port's state, and the switch set it back.
        _run("bridge", "-netns", self._switch, *PORT, self.name, "state", state)

    @contextlib.contextmanager
    def plugged_in(self) -> cabc.Iterator[None]:
        """Be there, at the switch."""
        with _namespace(self._space):
            peer = ["type", "veth", "peer", "name", "card", "netns", self._space]
            _ip(self._switch, "link", "add", "name", self.name, *peer)
            _ip(self._switch, "link", "set", "dev", self.name, "master", "switch", "up")
            _ip(self._space, "address", "add", f"{self.address}/24", "dev", "card")
            _ip(self._space, "link", "set", "card", "up")
            yield


@contextlib.contextmanager
def network(*names: str) -> cabc.Iterator[list[Machine]]:
    """Make machines around a switch, and be at the switch meanwhile.

    That holds for this thread, and for the threads and programs that it starts.
    """
    switch = f"durable-{os.getpid()}"
    machines = [
        Machine(name, f"10.77.0.{number}", switch)
        for number, name in enumerate(names, start=2)
    ]

    with contextlib.ExitStack() as stack:
        stack.enter_context(_namespace(switch))
        _ip(switch, "link", "add", "name", "switch", "type", "bridge")
        _ip(switch, "address", "add", f"{SWITCH}/24", "dev", "switch")
        _ip(switch, "link", "set", "switch", "up")

        for machine in machines:
            stack.enter_context(machine.plugged_in())

        stack.enter_context(_inside(switch))
        yield machines


def reason_against() -> str | None:
    """Tell why there can be no machines here."""
    if sys.platform != "linux":
        return "Network namespaces are Linux's."

    if os.geteuid() != 0:
        return "Only root may make network namespaces."

    if missing := [
        name for name in ("ip", "bridge", "unshare") if not shutil.which(name)
    ]:
        return f"There is no {missing[0]}: install iproute2 and util-linux."

    try:
        with network("probe") as (machine,):
            subprocess.run(machine.command(["true"]), check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        return f"Namespaces can't be made here: {error.stderr.decode().strip()}"

    return None


@contextlib.contextmanager
def _namespace(name: str) -> cabc.Iterator[None]:
    _run("ip", "netns", "add", name)

    try:
        _ip(name, "link", "set", "lo", "up")
        yield
    finally:
        _run("ip", "netns", "delete", name)


@contextlib.contextmanager
def _inside(name: str) -> cabc.Iterator[None]:
    with HOME.open() as home, (NAMED / name).open() as there:
        _enter(there.fileno())

        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    # os.setns is new in Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)

    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this network can't be entered")


def _ip(namespace: str, *arguments: str) -> None:
    _run("ip", "-netns", namespace, *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
