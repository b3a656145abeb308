"""Connections to a server of the app, over which requests go out unchanged."""

from __future__ import annotations

import os
import threading
import typing as t

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connection import HTTPSConnection

TARGET = "Durable-Target"
"""Carries the request's target to the connection; it is never sent."""


class _Exact:
    """Sends a request's target as it is.

    urllib3 would normalize escapes in the query and dot segments in the path, which
    makes it another request. The target may also hold bytes that are not ASCII.
    """

    def request(
        self,
        method: str,
        url: str,
        body: t.Any = None,
        headers: t.Any = None,
        **options: t.Any,
    ) -> None:
        headers = dict(headers)
        target = headers.pop(TARGET)
        base = t.cast(t.Any, super())
        base.request(method, target, body, headers, **options)

    def _encode_request(self, request: str) -> bytes:
        # As in http.client, except for the encoding.
        return request.encode("latin-1")


class _Connection(_Exact, HTTPConnection):
    pass


class _SecureConnection(_Exact, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: t.Any = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls: t.Any = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        pools = {"http": _Pool, "https": _SecurePool}
        t.cast(t.Any, self.poolmanager).pool_classes_by_scheme = pools


class Session(requests.Session):
    """Keeps connections open; ignores proxies and credentials of the environment."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def send_exactly(
        self,
        prepared: requests.PreparedRequest,
        target: str,
        timeout: tuple[float, float],
    ) -> requests.Response:
        """Send a request to a target, byte for byte; redirects are not followed.

        :param target: path and query, in Latin-1
        :param timeout: seconds for the connection, and for the answer to begin
        """
        prepared.headers[TARGET] = target
        # Session.send would keep cookies, and read redirects whole.
        adapter = self.get_adapter(t.cast(str, prepared.url))
        return adapter.send(prepared, stream=True, timeout=timeout, verify=True)


class _Local(threading.local):
    session: Session | None = None
    pid = 0


_local = _Local()


def this_session() -> Session:
    """Return this thread's session, a new one after a fork."""
    if _local.session is None or _local.pid != os.getpid():
        _local.session, _local.pid = Session(), os.getpid()

    return _local.session
