"""Sends requests to a server, one after the other in each of some threads.

``python -m tests.benchmarks.client URL CLIENTS SECONDS`` prints each request's
duration in seconds, in a JSON list; a process of its own, so that it shares no lock
with who measures.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import urllib.parse


def send(url: str, until: float, durations: list[float]) -> None:
    """Send requests by one connection until a time is reached."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    while (began := time.perf_counter()) < until:
        connection.request("POST", parts.path, b"{}", {"Content-Type": "text/json"})
        answer = connection.getresponse()
        body = answer.read()
        durations.append(time.perf_counter() - began)

        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {body!r}")

        if answer.will_close:
            connection.close()

    connection.close()


def main(url: str, clients: int, seconds: float) -> None:
    """Print the durations."""
    durations: list[float] = []
    until = time.perf_counter() + seconds
    arguments = (url, until, durations)
    threads = [threading.Thread(target=send, args=arguments) for _ in range(clients)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    print(json.dumps(durations))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
