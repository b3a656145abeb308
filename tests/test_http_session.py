"""Connections over which requests go out unchanged."""

from __future__ import annotations

import collections.abc as cabc
import os
import pathlib
import threading

import pytest
import requests
from urllib3.util import SKIP_HEADER

from flask_durable.http_session import Session
from flask_durable.http_session import this_session

from .listening import answer
from .listening import Listener
from .listening import then_close

TIMEOUT = (5.0, 20.0)


@pytest.fixture
def listener() -> cabc.Iterator[Listener]:
    """Listen until the test ends."""
    with Listener() as listener:
        yield listener


@pytest.fixture
def session() -> cabc.Iterator[Session]:
    """Make a session of its own."""
    with Session() as session:
        yield session


def fetch(
    session: Session, listener: Listener, target: str = "/", **headers: str
) -> requests.Response:
    """Send a GET request, and read the answer."""
    prepared = requests.Request("GET", listener.url).prepare()
    prepared.headers.clear()
    prepared.headers.update({"User-Agent": SKIP_HEADER, **headers})

    with session.send_exactly(prepared, target, TIMEOUT) as found:
        found.raw.read()
        return found


@pytest.mark.parametrize(
    "target",
    [
        "/a%2fb/../c//d",
        "//host/./%7euser",
        "/?a=%c3%a9&filter[x]=1&b",
        "/caf\xe9?q=\xe9\xff",
        "/a;params;b=1?x#y",
        "/?",
        "*",
        "http://other.example:99/p?q",
    ],
)
def test_a_target_is_sent_as_it_is(
    session: Session, listener: Listener, target: str
) -> None:
    """Byte by byte, though urllib3 would make another one of it."""
    fetch(session, listener, target)
    assert listener.sent[0].line == f"GET {target} HTTP/1.1".encode("latin-1")


def test_the_targets_header_is_never_sent(session: Session, listener: Listener) -> None:
    """It is only how the target gets to the connection."""
    fetch(session, listener)
    assert "durable-target" not in listener.sent[0].names


def test_a_connection_is_kept(session: Session, listener: Listener) -> None:
    """Whatever the targets are."""
    for target in ("/a", "/b?c", "/d"):
        fetch(session, listener, target)

    assert [sent.target for sent in listener.sent] == [b"/a", b"/b?c", b"/d"]
    assert listener.connections == 1


def test_proxies_of_the_environment_are_ignored(
    session: Session, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket is nobody else's business."""
    with Listener() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)

        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        fetch(session, listener)
        assert (len(listener.sent), proxy.connections) == (1, 0)


def test_credentials_of_the_home_folder_are_ignored(
    session: Session,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    """The request had none, or others."""
    file = tmp_path / ".netrc"
    file.write_text("default login ada password hunter2\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(file))
    fetch(session, listener)
    assert "authorization" not in listener.sent[0].names


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 P"])
def test_redirects_are_not_followed(
    session: Session, listener: Listener, status: str
) -> None:
    """They are what the app answered, with their body."""
    listener.replies += [answer(status, b"go there", Location="/login")]
    prepared = requests.Request("GET", listener.url).prepare()

    with session.send_exactly(prepared, "/", TIMEOUT) as found:
        assert found.status_code == int(status[:3])
        assert found.raw.read() == b"go there"

    assert [sent.target for sent in listener.sent] == [b"/"]


@pytest.mark.parametrize("location", ["http://[", "//", "http://a:b/", "\xff"])
def test_a_redirect_to_nowhere_is_an_answer(
    session: Session, listener: Listener, location: str
) -> None:
    """Nobody goes there."""
    listener.replies += [answer("302 Found", Location=location)]
    assert fetch(session, listener).status_code == 302


def test_cookies_are_not_kept(session: Session, listener: Listener) -> None:
    """The next request has those of its own client, or none."""
    listener.replies += [answer(Set_Cookie="session=theirs; Path=/")]
    fetch(session, listener, "/a")
    fetch(session, listener, "/b")
    fetch(session, listener, "/c", Cookie="session=mine")
    assert [sent.header("Cookie") for sent in listener.sent] == [
        None,
        None,
        "session=mine",
    ]


def test_a_server_that_is_not_there_is_an_error(session: Session) -> None:
    """Which says that the connection was refused."""
    listener = Listener()
    listener.close()

    with pytest.raises(requests.ConnectionError, match="refused"):
        fetch(session, listener)


def test_a_connection_that_ends_early_is_an_error(
    session: Session, listener: Listener
) -> None:
    """And is not used again."""
    listener.replies += [then_close(b"HTT")]

    with pytest.raises(requests.ConnectionError):
        fetch(session, listener)

    assert fetch(session, listener).status_code == 200
    assert listener.connections == 2


def test_each_thread_has_its_session() -> None:
    """Sessions are not made to be shared."""
    found = []
    thread = threading.Thread(target=lambda: found.append(this_session()))
    thread.start()
    thread.join()
    assert this_session() is this_session()
    assert found[0] is not this_session()


def test_a_forked_process_has_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent's connections are its parent's."""
    before = this_session()
    monkeypatch.setattr(os, "getpid", os.getppid)
    assert this_session() is not before
