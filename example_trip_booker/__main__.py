"""Run the Trip Booker under gunicorn with two workers."""

from __future__ import annotations

import argparse
import collections.abc as cabc
import importlib.util
import os
import pathlib
import secrets
import socket
import sys
import typing as t

FIRST_PORT = 8000
PORTS_TO_TRY = 100
LAST_PORT = 65535


def main(arguments: cabc.Sequence[str] | None = None) -> t.NoReturn:
    """Print the address, then replace this process by gunicorn."""
    options = parse(arguments)
    if importlib.util.find_spec("gunicorn") is None:
        sys.exit("The Trip Booker runs under gunicorn: pip install gunicorn")
    data = options.data.absolute()
    try:
        os.environ.setdefault("FLASK_SECRET_KEY", keep_secret_key(data))
    except OSError as error:
        sys.exit(f"Can't use {data}: {error.strerror}. Choose another --data folder.")
    listener = listen(options.port)
    host, port = listener.getsockname()
    print(
        f"Trip Booker: http://{host}:{port}/  (data in {data}, Ctrl-C stops it)",
        flush=True,
    )
    become_gunicorn(listener, data, options.workers)


def parse(arguments: cabc.Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m example_trip_booker", description=__doc__
    )
    parser.add_argument(
        "--port",
        type=port_number,
        help=f"listen here (default: {FIRST_PORT} or the next free one)",
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        default=pathlib.Path("instance"),
        help="folder for the journal, the approvals and the ledger (default: instance)",
    )
    parser.add_argument(
        "--workers", type=worker_count, default=2, help="server processes (default: 2)"
    )
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    """Read a port number; 0 means any free port."""
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(
            f"{text} is no port. Choose a number from 0 to {LAST_PORT}."
        )
    return int(text)


def worker_count(text: str) -> int:
    """Read how many server processes to run."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text} workers can't serve anything. Choose 1 or more."
        )
    return int(text)


def keep_secret_key(data: pathlib.Path) -> str:
    """Return the key that signs links and replays; it is kept in the data folder."""
    data.mkdir(parents=True, exist_ok=True)
    path = data / "secret_key"
    path.touch(mode=0o600)
    if not path.read_text():
        path.write_text(secrets.token_hex())
    return path.read_text()


def listen(port: int | None) -> socket.socket:
    """Listen on the given port, or on the first free one."""
    candidates = (
        range(FIRST_PORT, FIRST_PORT + PORTS_TO_TRY) if port is None else [port]
    )
    reason = None
    for candidate in candidates:
        try:
            listener = socket.create_server(("127.0.0.1", candidate), backlog=128)
        except OSError as error:
            # The error's own text would repeat the address.
            reason = os.strerror(error.errno) if error.errno else str(error)
            continue
        if port is None and candidate != FIRST_PORT:
            print(f"{FIRST_PORT} is taken, so this is port {candidate}.")
        return listener
    sys.exit(
        f"Can't listen on 127.0.0.1:{candidates[-1]}: {reason}. Choose another --port."
    )


def become_gunicorn(
    listener: socket.socket, data: pathlib.Path, workers: int
) -> t.NoReturn:
    """Replace this process by gunicorn, which inherits the open port."""
    listener.set_inheritable(True)
    options = (
        "--worker-class gthread --threads 8 --log-level warning --no-control-socket"
    )
    command = [
        *[sys.executable, "-m", "gunicorn", "-c", "python:flask_durable.gunicorn"],
        *["--bind", f"fd://{listener.fileno()}", "--workers", f"{workers}"],
        *options.split(),
        f"example_trip_booker:create_app(data={str(data)!r})",
    ]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
