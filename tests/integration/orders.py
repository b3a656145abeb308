"""Executions of the shop that are due, without a server that began them."""

from __future__ import annotations

import typing as t
import urllib.parse

from flask import Request
from werkzeug.test import create_environ

from flask_durable.capture import capture_request
from flask_durable.database import Database
from flask_durable.ids import new_id
from flask_durable.rq_queue import connect
from flask_durable.rq_queue import durable_queue
from flask_durable.rq_queue import JOB
from flask_durable.store import Store

from ..processes import HOST

DAY = 86_400.0

LIMIT = 10_000


def place(
    url: str,
    path: str,
    order: str,
    *,
    app: str = "shop",
    ready_in: float = -1.0,
    **q: t.Any,
) -> str:
    """Store an execution whose first attempt suspended, and give its id.

    :param ready_in: seconds until it is due; for what is due in a day nobody looks
    :param q: the request's query, beside the order
    """
    query = urllib.parse.urlencode({"order": order, **q})
    target = f"{path}?{query}"
    environ = create_environ(target, f"http://{HOST}/", method="POST")
    request = capture_request(Request(environ), LIMIT)
    database = Database.open(url)

    try:
        store = Store(database, app)
        id = new_id()
        now = store.begin(id, path.strip("/"), "nobody:1:7:7", 15.0, request, None)
        store.suspend(id, 1, now + ready_in)
    finally:
        database.close()

    return id


def enqueue(redis_url: str, id: str, queue: str = "durable", attempt: int = 2) -> str:
    """Put a job for an execution on a queue, and give its id."""
    with connect(redis_url) as client:
        jobs = durable_queue(queue, client)
        job = jobs.enqueue_call(JOB, args=(id, attempt), timeout=-1)
        return str(job.id)
