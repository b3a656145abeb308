"""A server that notes what it is sent, byte by byte, and answers as it is told."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import socket
import struct
import threading
import types
import typing as t

from .processes import HOST

Reply = bytes | cabc.Callable[[socket.socket], object]
"""Bytes, after which the connection is kept, or what is done to it before it ends."""

PATIENCE = 20.0
"""Seconds after which a connection without a word is given up."""


class Sent(t.NamedTuple):
    """A request as it came over the wire."""

    line: bytes
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def target(self) -> bytes:
        """The request's target."""
        return self.line.split(b" ", 1)[1].rpartition(b" ")[0]

    @property
    def names(self) -> list[str]:
        """The headers' names, in lower case."""
        return sorted(name.lower() for name, _ in self.headers)

    def header(self, name: str) -> str | None:
        """Give the value of a header that may be there once."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, found
        return found[0] if found else None


def answer(status: str = "200 OK", body: bytes = b"ok", **headers: str) -> bytes:
    """Make an answer; underscores in headers' names are hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def then_close(data: bytes) -> Reply:
    """Send something and end the connection."""
    return lambda connection: connection.sendall(data)


def reset(connection: socket.socket) -> None:
    """Break the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Listener:
    """Listens on a free port; each reply is for one request, then it says ok."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[Sent] = []
        self.connections = 0
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._socket = socket.create_server((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self, connection: socket.socket) -> None:
        """Say nothing (more) for as long as the test lasts."""
        self.closing.wait(PATIENCE)

    def dribble(self, connection: socket.socket) -> None:
        """Begin to answer, and never come to the end."""
        connection.sendall(answer(body=b"x" * 99)[:-90])
        self.hang(connection)

    def hang_up(self) -> None:
        """End the connections that are kept."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Listen no more."""
        self.closing.set()
        # A blocked accept would go on to hold the port.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

        self._socket.close()
        self.hang_up()

    def __enter__(self) -> t.Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return

            connection.settimeout(PATIENCE)
            self.connections += 1
            self._open.add(connection)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            with connection.makefile("rb") as file:
                while (sent := _read(file)) is not None:
                    self.sent.append(sent)
                    reply = self.replies.pop(0) if self.replies else answer()

                    if not isinstance(reply, bytes):
                        reply(connection)
                        break

                    connection.sendall(reply)

        self._open.discard(connection)


def _read(file: t.BinaryIO) -> Sent | None:
    line = file.readline().rstrip(b"\r\n")

    if not line:
        return None

    headers = []

    while part := file.readline().rstrip(b"\r\n"):
        name, _, value = part.decode("latin-1").partition(":")
        headers.append((name, value.strip()))

    sent = Sent(line, headers, b"")
    return sent._replace(body=file.read(int(sent.header("Content-Length") or 0)))
