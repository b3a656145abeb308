"""Programs that tests run beside themselves: start, look inside, stop, kill."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import types
import typing as t

T = t.TypeVar("T")

HOST = "127.0.0.1"

START_TIMEOUT = 30.0
"""Seconds that a program has until it is ready."""

ROOT = pathlib.Path(__file__).parent.parent
"""Where the packages are that programs may import without being installed."""

GUNICORN_HOOKS = "python:flask_durable.gunicorn"

# These would change a program behind its test's back.
FOREIGN = ("FLASK_", "GUNICORN_", "WEB_CONCURRENCY", "PORT")


def wait_until(
    predicate: cabc.Callable[[], T],
    timeout: float = 10.0,
    what: str = "",
    pause: float = 0.02,
) -> T:
    """Look again and again until the predicate gives something true; give it back.

    :param timeout: for how long to look, in seconds
    :param what: what is waited for, for the error's message
    :param pause: seconds between two looks
    :raises TimeoutError: if the time is over
    """
    deadline = time.monotonic() + timeout

    while not (value := predicate()):
        if time.monotonic() > deadline:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise TimeoutError(f"Not so within {timeout:g} s: {name} (now {value!r}).")

        time.sleep(pause)

    return value


def free_port() -> int:
    """Choose a port that nobody listens on.

    Ports that the system gives to outgoing connections (from 32768 on) are left
    out: a client that tries to reach a stopped server there may meet itself.
    """
    while True:
        port = random.randrange(20000, 32768)

        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind((HOST, port))
            return port


def accepts(port: int, host: str = HOST) -> bool:
    """Tell whether somebody listens on a port, of this host by default."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False

    return True


def serves(port: int, host: str = HOST) -> bool:
    """Tell whether an HTTP server answers, without a request to its app.

    A server answers what is no HTTP by itself.
    """
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.sendall(b"?\r\n\r\n")
            return connection.recv(1) != b""
    except OSError:
        return False


class Relative(t.NamedTuple):
    """A running process and where it belongs."""

    pid: int
    parent: int
    group: int


def running() -> cabc.Iterator[Relative]:
    """Walk over all running processes; zombies are left out."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            stat = pathlib.Path("/proc", name, "stat").read_text()
        except OSError:
            continue

        # The name before the last ")" may hold anything.
        state, parent, group = stat.rpartition(")")[2].split()[:3]

        if state not in "ZX":
            yield Relative(int(name), int(parent), int(group))


class Process:
    """A program in a process group of its own, with its output in a file."""

    def __init__(
        self,
        command: cabc.Sequence[str | os.PathLike[str]],
        cwd: pathlib.Path,
        env: cabc.Mapping[str, str] | None = None,
    ) -> None:
        self.command = [os.fspath(part) for part in command]
        self.cwd = cwd
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.env |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        self.log_path = cwd / f"{type(self).__name__.lower()}-{id(self):x}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the program's first process, which is its group's id too."""
        if self._process is None:
            raise RuntimeError(f"{self.command} does not run.")

        return self._process.pid

    def ready(self) -> bool:
        """Tell whether the program does its work yet."""
        return True

    def start(self) -> t.Self:
        """Run the program, and wait until it is ready."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

        try:
            wait_until(self._ready_or_ended, START_TIMEOUT, "the program is ready")
        except BaseException as error:
            self.kill()
            error.add_note(f"{self.command} wrote:\n{self.log()}")
            raise

        return self

    def stop(self, timeout: float = 15.0) -> int:
        """Ask the program to end, kill what is left of it, and give its exit code.

        :param timeout: how long it may take to end by itself, in seconds
        """
        os.kill(self.pid, signal.SIGTERM)

        with contextlib.suppress(TimeoutError):
            wait_until(self.ended, timeout)

        return self.kill()

    def kill(self) -> int:
        """Kill the whole group at once, as a power cut does; give the exit code."""
        group = self.pid
        os.killpg(group, signal.SIGKILL)
        wait_until(lambda: not any(p.group == group for p in running()), 10)
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        return code

    def ended(self) -> bool:
        """Tell whether the first process has ended by itself.

        It is left as a zombie, so that its id stays taken until the group is gone.
        """
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def children(self) -> list[int]:
        """List the ids of the processes that the first process started."""
        return [process.pid for process in running() if process.parent == self.pid]

    def log(self) -> str:
        """Read everything that the program has written."""
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> t.Self:
        return self if self._process else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"{self.command} wrote:\n{self.log()}")

        if self._process is not None:
            self.stop()

    def _ready_or_ended(self) -> bool:
        if self.ended():
            raise RuntimeError(f"{self.command} ended before it was ready.")

        return self.ready()


class WebServer(Process):
    """A program that serves HTTP on a free port, the same one at each start."""

    def __init__(
        self,
        module: str,
        arguments: cabc.Sequence[str],
        cwd: pathlib.Path,
        env: cabc.Mapping[str, str] | None,
        port: int | None,
        host: str = HOST,
    ) -> None:
        self.host = host
        self.port = port or free_port()
        self.url = f"http://{host}:{self.port}"
        filled = [argument.format(port=self.port) for argument in arguments]
        super().__init__([sys.executable, "-m", module, *filled], cwd, env)

    def ready(self) -> bool:
        """Tell whether the server has loaded its app, and answers."""
        return serves(self.port, self.host)


class Gunicorn(WebServer):
    """A gunicorn that serves an app module of the folder ``cwd``.

    :param config: gunicorn's configuration; the extension's hooks by default
    :param port: a port known before, as ``DURABLE_REPLAY_URL`` needs it
    :param host: the address that it listens on
    """

    def __init__(
        self,
        app_module: str,
        cwd: pathlib.Path,
        *,
        workers: int = 1,
        worker_class: str = "sync",
        threads: int = 1,
        preload: bool = False,
        env: cabc.Mapping[str, str] | None = None,
        config: str | None = GUNICORN_HOOKS,
        port: int | None = None,
        host: str = HOST,
    ) -> None:
        self.workers = workers
        arguments = [
            f"--bind={host}:{{port}}",
            f"--workers={workers}",
            f"--worker-class={worker_class}",
            f"--threads={threads}",
            "--no-control-socket",
            *(["--preload"] if preload else []),
            *([f"--config={config}"] if config else []),
            app_module,
        ]
        super().__init__("gunicorn", arguments, cwd, env, port, host)

    @property
    def master_pid(self) -> int:
        """The id of the process that looks after the workers."""
        return self.pid

    def worker_pids(self) -> list[int]:
        """List the ids of the workers that run."""
        return self.children()

    def ready(self) -> bool:
        """Tell whether all workers are there."""
        return len(self.worker_pids()) >= self.workers and super().ready()

    def kill_worker(self, pid: int) -> None:
        """Kill a worker, and wait until it is gone."""
        if pid not in self.worker_pids():
            raise ValueError(f"{pid} is no worker of this gunicorn.")

        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.worker_pids(), 10, f"worker {pid} is gone")


class FlaskRun(WebServer):
    """Flask's development server for an app module of the folder ``cwd``."""

    def __init__(
        self,
        app_module: str,
        cwd: pathlib.Path,
        *,
        debug: bool = False,
        reloader: bool = False,
        env: cabc.Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        arguments = [
            f"--app={app_module}",
            "run",
            f"--host={HOST}",
            "--port={port}",
            "--debug" if debug else "--no-debug",
            "--reload" if reloader else "--no-reload",
        ]
        super().__init__("flask", arguments, cwd, env, port)


class Worker(Process):
    """``flask durable worker`` for an app module of the folder ``cwd``."""

    def __init__(
        self,
        app_module: str,
        cwd: pathlib.Path,
        *,
        processes: int = 1,
        env: cabc.Mapping[str, str] | None = None,
        options: cabc.Sequence[str] = (),
    ) -> None:
        self.processes = processes
        command = ["flask", f"--app={app_module}", "durable", "worker"]
        count = f"--processes={processes}"
        super().__init__([sys.executable, "-m", *command, count, *options], cwd, env)

    def ready(self) -> bool:
        """Tell whether all children have loaded the app."""
        return self.log().count("is ready.") >= self.processes

    def kill_child(self, pid: int) -> None:
        """Kill a child, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.children(), 10, f"child {pid} is gone")
