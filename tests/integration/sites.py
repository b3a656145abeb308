"""What tests of running servers look at: the shop's ledger and the journal."""

from __future__ import annotations

import collections.abc as cabc
import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import threading
import typing as t
import uuid

import requests
import sqlalchemy as sa

from flask_durable.sql import db_now
from flask_durable.tables import executions
from flask_durable.tables import leaders
from flask_durable.tables import steps

from ..processes import FlaskRun
from ..processes import Gunicorn
from ..processes import wait_until
from ..processes import WebServer

SHOP = "tests.integration.apps.shop:app"

APPS = pathlib.Path(__file__).parent / "apps"

SECRET_KEY = "tests"

Later = concurrent.futures.Future[requests.Response]


class Called(t.NamedTuple):
    """One real call of a step's function."""

    order: str
    name: str
    pid: int
    at: float
    execution: str


class Journal:
    """The journal of a running server, seen from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)

    def row(self, execution_id: str) -> t.Any:
        """Read an execution's row."""
        query = sa.select(executions, db_now().label("now"))

        with self.engine.connect() as connection:
            found = connection.execute(query.where(executions.c.id == execution_id))
            return found.one()

    def rows(self) -> list[t.Any]:
        """Read all executions, the oldest first."""
        with self.engine.connect() as connection:
            query = sa.select(executions).order_by(executions.c.id)
            return list(connection.execute(query))

    def steps(self, execution_id: str) -> list[t.Any]:
        """Read an execution's steps in their order."""
        query = sa.select(steps).where(steps.c.execution_id == execution_id)

        with self.engine.connect() as connection:
            return list(connection.execute(query.order_by(steps.c.position)))

    def leader(self) -> str | None:
        """Name the process that sweeps for all, where workers share a queue."""
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(leaders.name):
                return None

            return connection.scalar(sa.select(leaders.c.owner))

    def change(self, execution_id: str, **values: t.Any) -> None:
        """Overwrite columns of an execution."""
        update = executions.update().where(executions.c.id == execution_id)

        with self.engine.begin() as connection:
            connection.execute(update.values(values))

    def wake_steps(self, execution_id: str) -> None:
        """Let all sleeps of an execution be over."""
        update = steps.update().where(steps.c.execution_id == execution_id)

        with self.engine.begin() as connection:
            connection.execute(update.values(wake_at=0.0))

    def wait_for(
        self, execution_id: str, status: str = "completed", timeout: float = 15.0
    ) -> t.Any:
        """Wait until an execution has a status, and give its row."""

        def reached() -> bool:
            return bool(self.row(execution_id).status == status)

        try:
            wait_until(reached, timeout, f"execution {execution_id} is {status}")
        except TimeoutError as error:
            error.add_note(f"It is {self.row(execution_id)}")
            raise

        return self.row(execution_id)


class Ledger:
    """What the shop's steps really did, in processes that run in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def called(self, order: str) -> list[Called]:
        """List the calls of step functions for an order."""
        ledger = self.folder / "ledger.jsonl"

        if not ledger.exists():
            return []

        # The last line may be half written.
        text = ledger.read_text().rpartition("\n")[0]
        lines = [Called(**json.loads(line)) for line in text.splitlines()]
        return [line for line in lines if line.order == order]

    def names(self, order: str) -> list[str]:
        """Name the step functions that were called for an order."""
        return [line.name for line in self.called(order)]

    def wait_for_call(self, order: str, name: str, times: int = 1) -> Called:
        """Wait until a step's function is called, and give that call."""

        def made() -> list[Called]:
            found = [line for line in self.called(order) if line.name == name]
            return found if len(found) >= times else []

        what = f"call {times} of {name} for {order} (called: {self.names(order)})"
        return wait_until(made, 15, what)[times - 1]


class Site(Ledger):
    """A running server, its journal, and what its steps really did."""

    def __init__(self, server: WebServer, journal: Journal) -> None:
        super().__init__(server.cwd)
        self.server = server
        self.journal = journal

    def post(
        self,
        path: str,
        order: str = "",
        headers: cabc.Mapping[str, str] | None = None,
        **query: t.Any,
    ) -> requests.Response:
        """Send a request with an order's name, and wait for its answer."""
        url = f"{self.server.url}{path}"

        with requests.Session() as session:
            session.trust_env = False
            return session.post(
                url, params={"order": order, **query}, headers=headers, timeout=30
            )

    def get(self, path: str) -> requests.Response:
        """Fetch a page; an absolute URL is fine."""
        url = path if path.startswith("http") else f"{self.server.url}{path}"

        with requests.Session() as session:
            session.trust_env = False
            return session.get(url, timeout=30)

    def post_in_background(self, path: str, order: str, **query: t.Any) -> Later:
        """Send a request whose answer may come late, or never."""
        later: Later = concurrent.futures.Future()

        def send() -> None:
            try:
                later.set_result(self.post(path, order, **query))
            except BaseException as error:
                later.set_exception(error)

        threading.Thread(target=send, daemon=True).start()
        return later


class Shop(Site):
    """The shop under gunicorn."""

    def __init__(self, server: Gunicorn, journal: Journal) -> None:
        super().__init__(server, journal)
        self.gunicorn = server

    @property
    def runs(self) -> bool:
        """Tell whether the server was started and not stopped."""
        try:
            return not self.gunicorn.ended()
        except RuntimeError:
            return False

    def settle(self) -> None:
        """Start the server if need be, and wait until each worker has answered."""
        if not self.runs:
            self.gunicorn.start()

        wait_until(self._all_answer, 20, "each worker answers")

    def _all_answer(self) -> bool:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = pool.map(self.get, ["/pid"] * 4)
            self._seen = getattr(self, "_seen", set()) | {int(a.text) for a in answers}

        workers = set(self.gunicorn.worker_pids())
        return len(workers) >= self.gunicorn.workers and workers <= self._seen


@contextlib.contextmanager
def shop(
    folder: pathlib.Path,
    database_url: str,
    env: cabc.Mapping[str, str] | None = None,
    **options: t.Any,
) -> cabc.Iterator[Shop]:
    """Run the shop under gunicorn, two workers by default.

    :param options: as for :class:`Gunicorn`
    """
    settings = {
        "FLASK_DURABLE_DATABASE_URL": database_url,
        "FLASK_SECRET_KEY": SECRET_KEY,
        **(env or {}),
    }
    server = Gunicorn(SHOP, folder, **{"env": settings, "workers": 2, **options})
    made = Shop(server, Journal(database_url))

    try:
        made.settle()
        yield made
    finally:
        if made.runs:
            server.kill()


class FirstSite(Site):
    """The beginner's app under ``flask run``, in a folder of its own."""

    def __init__(self, server: FlaskRun) -> None:
        journal = server.cwd / "instance" / "durable.sqlite3"
        super().__init__(server, Journal(f"sqlite:///{journal}"))
        self.source = server.cwd / "app.py"

    def edit(self, old: str, new: str) -> None:
        """Change the app's code, as a person does in an editor."""
        text = self.source.read_text()
        assert old in text
        self.source.write_text(text.replace(old, new))

    def said(self, order: str) -> list[str]:
        """List the words that steps said for an order."""
        file = self.folder / "said.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split()[1] for line in lines if line.startswith(f"{order} ")]

    def wait_for_word(self, order: str, word: str, times: int = 1) -> None:
        """Wait until a step says a word."""

        def spoken() -> bool:
            return self.said(order).count(word) >= times

        wait_until(spoken, 15, f"{word} for {order} (said: {self.said(order)})")

    def only_row(self) -> t.Any:
        """Read the only execution there is."""
        (row,) = self.journal.rows()
        return row


def copy_app(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Copy an app into a test's folder, where the test may change it."""
    return pathlib.Path(shutil.copy(APPS / f"{name}.py", folder / "app.py"))


def new_order() -> str:
    """Make a name by which a test finds what it caused."""
    return uuid.uuid4().hex[:8]
