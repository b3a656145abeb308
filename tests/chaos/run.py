"""A run: clients order, the monkey strikes, all settles, and everything is checked."""

from __future__ import annotations

import collections.abc as cabc
import pathlib

from flask_durable.store import OUTAGE_PATIENCE

from ..processes import wait_until
from .checks import Evidence
from .clients import Answer
from .clients import Client
from .clients import follow
from .clients import JOIN_TIMEOUT
from .journal import Journal
from .ledger import now
from .monkey import Monkey
from .report import Report
from .site import running_site
from .site import Site

CLIENTS = 6

LONGEST_OUTAGE = OUTAGE_PATIENCE - 5.0
"""Seconds for which PostgreSQL may be away; connections take their time, too."""

SETTLE_TIMEOUT = 90.0
"""Seconds from the monkey's end until every execution has ended."""


def run(
    folder: pathlib.Path,
    seconds: float,
    seed: int,
    say: cabc.Callable[[str], None] = print,
) -> Report:
    """Run the whole and give its report.

    :param folder: where the ledger and the programs' logs are
    :param seconds: how long the monkey strikes
    """
    with running_site(folder) as site:
        monkey = Monkey(site, seed, say)
        answers, troubles = _order_under_blows(site, monkey, seconds)
        began = now()
        troubles += _settle(site)
        settled = now() - began
        linked = [answer for answer in answers if answer.link]
        answers += [follow(a, "final") for a in linked if a.asked == "post"]
        evidence = Evidence(
            Journal(site.url).executions(),
            site.ledger.calls(),
            monkey.kills,
            answers,
            [*troubles, *monkey.troubles, *_long_outages(monkey)],
        )
        return Report(seconds, settled, evidence, monkey)


def _order_under_blows(
    site: Site, monkey: Monkey, seconds: float
) -> tuple[list[Answer], list[str]]:
    """Have clients order while the monkey strikes."""
    clients = [
        Client(f"client-{number}", site.web_urls, str(monkey.seed))
        for number in range(1, CLIENTS + 1)
    ]

    for client in clients:
        client.start()

    try:
        monkey.run(seconds)
    finally:
        for client in clients:
            client.stop()

    for client in clients:
        client.join(JOIN_TIMEOUT)

    troubles = [f"{one.name} waits for ever" for one in clients if one.is_alive()]
    troubles += [f"{c.name} raised {c.failure!r}" for c in clients if c.failure]
    return [answer for client in clients for answer in client.answers], troubles


def _long_outages(monkey: Monkey) -> cabc.Iterator[str]:
    """Complain of a run that proves nothing: writes may give up in it."""
    for outage in monkey.outages:
        seconds = outage.ended - outage.began

        if outage.kind.startswith("postgres") and seconds > LONGEST_OUTAGE:
            yield f"postgres was away for {seconds:.1f} s, longer than a write waits"


def _settle(site: Site) -> list[str]:
    """Wait until every execution has ended."""
    journal = Journal(site.url)

    try:
        what = "every execution has ended"
        wait_until(lambda: journal.unfinished() == 0, SETTLE_TIMEOUT, what)
    except TimeoutError:
        return [f"{journal.unfinished()} executions had not ended"]

    return []
