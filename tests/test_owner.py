"""Who runs an attempt, and what became of it."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from flask_durable import owner

from .processes import wait_until

PID = 4711
START = "987654"


@pytest.fixture
def child() -> cabc.Iterator[subprocess.Popen[bytes]]:
    """Run a process that waits for its end."""
    command = [sys.executable, "-c", "input()"]

    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


class Machine:
    """A machine with a /proc folder of its own."""

    def __init__(self, proc: pathlib.Path) -> None:
        self.proc = proc
        self.exists = True
        self.forbidden = False
        (proc / "sys/kernel/random").mkdir(parents=True)
        (proc / "self/ns").mkdir(parents=True)
        (proc / "self/ns/pid").touch()
        self.boot("boot-1")

    def boot(self, boot_id: str) -> None:
        """Name the boot."""
        (self.proc / "sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
        owner._host.cache_clear()
        owner._name.cache_clear()

    def process(self, state: str = "S", start: str = START, name: str = "x") -> None:
        """Have the process run as proc(5) says."""
        folder = self.proc / str(PID)
        folder.mkdir(exist_ok=True)
        rest = " ".join(["1"] * 18)
        (folder / "stat").write_text(f"{PID} ({name}) {state} {rest} {start} 0 0\n")

    def kill(self, pid: int, number: int) -> None:
        """Stand for ``os.kill``."""
        assert (pid, number) == (PID, 0)

        if not self.exists:
            raise ProcessLookupError

        if self.forbidden:
            raise PermissionError


@pytest.fixture
def machine(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> cabc.Iterator[Machine]:
    """Have this process run on another machine."""
    made = Machine(tmp_path)
    monkeypatch.setattr(owner, "PROC", tmp_path)
    monkeypatch.setattr(os, "kill", made.kill)
    yield made
    owner._host.cache_clear()
    owner._name.cache_clear()


def named(start: str = START) -> str:
    """Name the process with our id that began at a given time."""
    return f"{owner._host()}:{PID}:{start}"


def owner_of(pid: int) -> str:
    """Name a process that runs."""
    return f"{owner._host()}:{pid}:{owner._stat(pid)[1]}"


def test_this_process_is_alive() -> None:
    """Its name says which boot, namespace, process and start that is."""
    name = owner.current_owner()
    assert re.fullmatch(rf"[0-9a-f-]{{36}}:\d+:{os.getpid()}:\d+", name)
    assert owner.fate(name) == "alive"


def test_the_name_stays_the_same() -> None:
    """A row is found by it."""
    assert owner.current_owner() == owner.current_owner()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_name_of_its_own() -> None:
    """What its parent runs is not the child's."""
    reader, writer = os.pipe()

    if (pid := os.fork()) == 0:
        os.write(writer, owner.current_owner().encode())
        os._exit(0)

    os.waitpid(pid, 0)
    found = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert f":{pid}:" in found
    assert found != owner.current_owner()


def test_a_child_that_runs_is_alive(child: subprocess.Popen[bytes]) -> None:
    """Also one that only waits."""
    assert owner.fate(owner_of(child.pid)) == "alive"


def test_a_child_that_was_killed_is_dead(child: subprocess.Popen[bytes]) -> None:
    """Its id is free again."""
    name = owner_of(child.pid)
    child.kill()
    child.wait()
    assert owner.fate(name) == "dead"


def test_a_zombie_is_dead(child: subprocess.Popen[bytes]) -> None:
    """It still has an id, since its parent has not asked for its end."""
    name = owner_of(child.pid)
    child.kill()
    wait_until(lambda: owner._stat(child.pid)[0] == "Z")
    assert owner.fate(name) == "dead"


def test_a_process_with_a_reused_id_is_another(
    child: subprocess.Popen[bytes],
) -> None:
    """It began at another time, so the owner is dead."""
    host, pid, start = owner_of(child.pid).rsplit(":", 2)
    assert owner.fate(f"{host}:{pid}:{int(start) - 100}") == "dead"


def test_an_owner_of_another_boot_is_elsewhere() -> None:
    """Whatever process has its id here."""
    _, namespace, rest = owner.current_owner().split(":", 2)
    boot = "00000000-0000-0000-0000-000000000000"
    assert owner.fate(f"{boot}:{namespace}:{rest}") == "elsewhere"


def test_an_owner_of_another_namespace_is_elsewhere() -> None:
    """A container's ids mean nothing outside."""
    boot, _, rest = owner.current_owner().split(":", 2)
    assert owner.fate(f"{boot}:1:{rest}") == "elsewhere"


@pytest.mark.parametrize("state", ["R", "S", "D", "T", "t", "I"])
def test_whoever_runs_sleeps_or_is_stopped_is_alive(
    machine: Machine, state: str
) -> None:
    """A stopped process may go on at any time."""
    machine.process(state)
    assert owner.fate(named()) == "alive"


@pytest.mark.parametrize("state", ["Z", "X"])
def test_whoever_has_ended_is_dead(machine: Machine, state: str) -> None:
    """A zombie, and one that is being taken away."""
    machine.process(state)
    assert owner.fate(named()) == "dead"


@pytest.mark.parametrize("name", ["a b", ") Z 1 (", "((", "a) S 1 1"])
def test_a_commands_name_may_be_anything(machine: Machine, name: str) -> None:
    """Also what looks like the fields behind it."""
    machine.process(name=name)
    assert owner.fate(named()) == "alive"
    assert owner.fate(named("1")) == "dead"


def test_nobody_with_this_id_means_dead(machine: Machine) -> None:
    """The system says so itself."""
    machine.exists = False
    assert owner.fate(named()) == "dead"


def test_a_process_of_another_user_is_alive(machine: Machine) -> None:
    """We may not send it signals, so it exists."""
    machine.process()
    machine.forbidden = True
    assert owner.fate(named()) == "alive"


@pytest.mark.parametrize("forbidden", [False, True])
def test_an_unreadable_process_is_unknown(machine: Machine, forbidden: bool) -> None:
    """It exists, but nobody can say whether it is the same."""
    machine.forbidden = forbidden
    assert owner.fate(named()) == "unknown"


def test_an_owner_that_could_not_read_its_start_is_unknown(machine: Machine) -> None:
    """It may or may not be the process that has its id now."""
    machine.process()
    assert owner.fate(named("0")) == "unknown"


def test_a_process_that_cant_read_its_start_has_a_name(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a start of 0."""
    monkeypatch.setattr(os, "getpid", lambda: PID)
    assert owner.current_owner() == named("0")


def test_a_machine_that_was_booted_again_has_another_name(machine: Machine) -> None:
    """Its processes died with the boot before."""
    machine.process()
    name = named()
    machine.boot("boot-2")
    assert owner.fate(name) == "elsewhere"


def test_without_proc_the_host_has_its_name(
    machine: Machine, tmp_path: pathlib.Path
) -> None:
    """As on macOS: an id that is free is dead, one in use unknown."""
    machine.boot("")
    (tmp_path / "sys/kernel/random/boot_id").unlink()
    assert named() == f"{socket.gethostname()}:{PID}:{START}"
    assert owner.fate(named()) == "unknown"
    machine.exists = False
    assert owner.fate(named()) == "dead"
