"""The database goes away while attempts run."""

from __future__ import annotations

import collections
import collections.abc as cabc
import concurrent.futures
import pathlib
import subprocess
import sys
import threading

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flask_durable import FlaskDurable
from flask_durable import Retry
from flask_durable import step
from flask_durable.state import get_state

from . import servers
from .processes import Process
from .processes import wait_until

LEASE = 1.0


@pytest.fixture
def server() -> cabc.Iterator[servers.Postgres]:
    """Run a PostgreSQL server that this test may stop."""
    with servers.postgres(fsync=True) as server:
        yield server


class Trial:
    """An app whose step holds until it is told to go on."""

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.app = Flask(__name__, instance_path=str(folder))
        self.app.config.update(
            DURABLE_DATABASE_URL=url, DURABLE_LEASE=LEASE, SECRET_KEY="outage"
        )
        durable = FlaskDurable(self.app)

        def slow(name: str) -> str:
            self.calls[name] += 1
            self.inside.release()
            assert self.go_on.wait(60)
            return name

        def quick(name: str) -> str:
            self.calls[f"{name} after"] += 1
            return name

        @self.app.post("/<name>")
        @durable.endpoint(retry=Retry(1))
        def view(name: str) -> str:
            step.run("slow", slow, name)
            return str(step.run("quick", quick, name))

    def request(self, name: str) -> TestResponse:
        """Send a request."""
        return self.app.test_client().post(f"/{name}")

    def cut_off(self) -> None:
        """Renew no lease, and look for nothing: its journal is out of reach."""
        state = get_state(self.app)
        assert state.dispatcher is not None
        state.dispatcher.stop(0)
        state.heartbeat._stopped = True

    def close(self) -> None:
        """End the threads."""
        get_state(self.app).close()


@pytest.mark.slow
def test_an_outage_longer_than_a_lease_repeats_nothing(
    server: servers.Postgres, tmp_path: pathlib.Path
) -> None:
    """Ten attempts are in a step: each is called once, whoever watches.

    A second process that takes itself for another machine, and so knows of the
    owners only by their leases, sweeps the same database all the while.
    """
    with server.database() as url:
        trial = Trial(url, tmp_path)
        names = [f"trip{number}" for number in range(10)]

        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            answers = [pool.submit(trial.request, name) for name in names]

            for _ in names:
                assert trial.inside.acquire(timeout=30)

            with other_machine(url, tmp_path) as other:
                server.stop("immediate")
                outage = threading.Event()
                outage.wait(3 * LEASE)
                server.start()
                # As long as a takeover would need: two looks and a sweep.
                outage.wait(LEASE + LEASE / 3 + 1 + 2)
                trial.go_on.set()
                assert [a.result(60).status_code for a in answers] == [200] * 10
                assert "lost its process" not in other.log()

        wanted = dict.fromkeys([*names, *(f"{name} after" for name in names)], 1)
        assert dict(trial.calls) == wanted
        trial.close()


@pytest.mark.slow
def test_an_outcome_is_committed_when_the_database_is_back(
    server: servers.Postgres, tmp_path: pathlib.Path
) -> None:
    """The step returns while the database is away: its call waits."""
    with server.database() as url:
        trial = Trial(url, tmp_path)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(trial.request, "trip")
            assert trial.inside.acquire(timeout=30)
            server.stop("immediate")
            trial.go_on.set()
            assert concurrent.futures.wait([answer], 2 * LEASE).not_done
            server.start()
            assert answer.result(40).status_code == 200

        assert trial.calls == {"trip": 1, "trip after": 1}
        trial.close()


@pytest.mark.slow
def test_a_new_request_during_an_outage_is_turned_away(
    server: servers.Postgres, tmp_path: pathlib.Path
) -> None:
    """503 with Retry-After, without a word of the inside; then all is well."""
    with server.database() as url:
        trial = Trial(url, tmp_path)
        trial.go_on.set()
        assert trial.request("before").status_code == 200
        server.stop("immediate")
        answer = trial.request("during")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.mimetype == "application/problem+json"
        assert str(server.port) not in answer.text
        assert "during" not in trial.calls
        server.start()
        assert trial.request("after").status_code == 200
        trial.close()


@pytest.mark.slow
def test_a_lost_machine_is_noticed_by_its_lease(
    server: servers.Postgres, tmp_path: pathlib.Path
) -> None:
    """Another machine takes over, and the late writes are refused."""
    with server.database() as url:
        trial = Trial(url, tmp_path)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(trial.request, "trip")
            assert trial.inside.acquire(timeout=30)
            trial.cut_off()
            limit = LEASE * 4 / 3 + 2

            with other_machine(url, tmp_path) as other:
                wait_until(lambda: "lost its process" in other.log(), limit + 8)
                wait_until(lambda: "replayed" in other.log(), 10)
                trial.go_on.set()
                assert answer.result(30).status_code in {200, 202}

            assert "trip after" not in trial.calls
        trial.close()


@pytest.mark.slow
def test_an_outage_in_the_middle_of_a_map_repeats_nothing(
    server: servers.Postgres, tmp_path: pathlib.Path
) -> None:
    """What waited for its commit is committed when the database is back."""
    calls: collections.Counter[int] = collections.Counter()
    enough = threading.Event()
    away = threading.Event()

    def call(number: int) -> int:
        calls[number] += 1

        if len(calls) == 300:
            enough.set()
            # The others go on until so many outcomes wait as may.
            assert away.wait(60)

        return number

    with server.database() as url:
        app = Flask(__name__, instance_path=str(tmp_path))
        app.config.update(DURABLE_DATABASE_URL=url, SECRET_KEY="outage")
        durable = FlaskDurable(app)

        @app.post("/")
        @durable.endpoint(retry=Retry(1))
        def view() -> list[int]:
            return step.map("call", call, range(1000))

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(app.test_client().post, "/")
            assert enough.wait(60)
            server.stop("immediate")
            away.set()
            assert not answer.done()
            server.start()
            assert answer.result(90).json == list(range(1000))

        assert calls == collections.Counter(range(1000))
        store = get_state(app).store
        journal = store.journal(answer.result().headers["Durable-Execution"])
        assert [line.status for line in journal] == ["completed"] * 1000
        get_state(app).close()


def other_machine(url: str, folder: pathlib.Path) -> Process:
    """Make a process that takes itself for another machine's."""
    program = [sys.executable, "-m", "tests.other_machine", url, str(LEASE)]

    class OtherMachine(Process):
        def ready(self) -> bool:
            return "ready" in self.log()

    return OtherMachine(program, folder)


def test_the_other_machine_is_another(tmp_path: pathlib.Path) -> None:
    """It does not see this process's owners, whatever /proc says."""
    from flask_durable.owner import current_owner

    code = (
        "import sys, tests.other_machine, flask_durable.owner as owner;"
        "print(owner.fate(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, current_owner()],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "elsewhere", done.stderr
