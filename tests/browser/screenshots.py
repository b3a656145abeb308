"""The pictures of the console in the docs: ``python -m tests.browser.screenshots``."""

from __future__ import annotations

import pathlib
import random
import tempfile
import time
import typing as t

import sqlalchemy as sa

from flask_durable.clock import now
from flask_durable.ids import first_id

from ..processes import wait_until
from .conftest import launch
from .test_console import DESK
from .test_console import PHONE
from .test_console import Scheme
from .test_console import Site
from .test_console import Visit

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = pathlib.Path(__file__).parent.parent.parent / "docs" / "_static"

PAST = 1_500
"""Executions of the last hour, copied from those that were really run."""


class Journal:
    """The journal of the site, whose executions are given a past."""

    def __init__(self, site: Site) -> None:
        self._engine = sa.create_engine(f"sqlite:///{site.folder}/journal.db")
        self._random = random.Random(7)

    def status(self, execution_id: str) -> str:
        """Read an execution's status."""
        with self._engine.connect() as connection:
            text = sa.text("SELECT status FROM durable_executions WHERE id = :id")
            return str(connection.scalar(text, {"id": execution_id}))

    def fill(self, ids: list[str]) -> None:
        """Copy executions into the last hour, more and more of them."""
        with self._engine.begin() as connection:
            names = sa.inspect(connection).get_columns("durable_executions")
            kept = [c["name"] for c in names if c["name"] not in CHANGED]
            text = sa.text(COPY.format(columns=", ".join(kept)))

            for _ in range(PAST):
                connection.execute(text, self._past(ids))

    def _past(self, ids: list[str]) -> dict[str, t.Any]:
        weights = [60, 30, 6][: len(ids)]
        (source,) = self._random.choices(ids, weights)
        passed = 60 + 3500 * self._random.betavariate(1.1, 1.6)
        moment = now() - passed
        digits = self._random.randrange(4096), self._random.randrange(2**48)
        tail = "-7{:03x}-8000-{:012x}".format(*digits)
        lasted = 1 + 5 * self._random.random()
        return {"of": source, "id": first_id(moment) + tail, "at": moment, "to": lasted}

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()


CHANGED = ("id", "created_at", "finished_at", "history")

COPY = """
INSERT INTO durable_executions ({columns}, id, created_at, finished_at)
SELECT {columns}, :id, :at, :at + :to FROM durable_executions WHERE id = :of
"""


def picture(browser: Browser, site: Site, name: str, path: str, **view: t.Any) -> None:
    """Take one picture, in light or dark, and say how big it is."""
    width: int = view.get("width", DESK)
    scheme: Scheme = view.get("scheme", "light")
    visit = Visit(browser, site, width, scheme)
    visit.page.set_viewport_size({"width": width, "height": view["height"]})
    visit.open(path)

    for opened in view.get("opened", ()):
        visit.page.locator("summary", has_text=opened).first.click()

    visit.page.wait_for_timeout(1000)
    target = FOLDER / f"{name}.png"
    visit.page.screenshot(path=target)
    visit.context.close()
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


def run(site: Site, journal: Journal) -> str:
    """Run what the pictures show, and give the trip that they show from near."""
    done = [site.post("/trips", b'{"from": "NYC", "to": "LAX", "card_number": "4242"}')]
    wait_until(lambda: journal.status(done[0]) == "completed", 60)
    site.set("away", False)
    done.append(site.post("/refunds"))
    wait_until(lambda: journal.status(done[1]) == "completed", 60)
    site.set("away", True)
    done.append(site.post("/refunds"))
    wait_until(lambda: journal.status(done[2]) == "failed", 60)
    journal.fill(done)
    site.set("away", False)
    site.post("/searches")
    trip = site.post("/trips", b'{"from": "NYC", "to": "LAX", "card_number": "4242"}')
    wait_until(lambda: journal.status(trip) == "completed", 60)
    site.set("away", True)
    failed = site.post("/refunds")
    wait_until(lambda: journal.status(failed) == "failed", 60)
    site.set("hold", True)
    site.post("/searches")
    site.set("away", False)
    site.post("/trips")
    time.sleep(1)
    return trip


def main() -> None:
    """Take all pictures."""
    FOLDER.mkdir(exist_ok=True)

    with tempfile.TemporaryDirectory() as folder, Site(pathlib.Path(folder)) as site:
        # The first request makes the tables.
        site.post("/searches")
        journal = Journal(site)
        trip = run(site, journal)

        with launch() as browser:
            for scheme in ("light", "dark"):
                end = "" if scheme == "light" else "-dark"
                look: dict[str, t.Any] = {"scheme": scheme}
                list_, one = f"console-list{end}", f"console-execution{end}"
                picture(browser, site, list_, "", height=860, **look)
                path = f"executions/{trip}"
                opened = ["reserve-flight"]
                picture(browser, site, one, path, height=1150, opened=opened, **look)
                stats = f"console-activity{end}"
                picture(browser, site, stats, "stats", height=700, **look)

            phone: dict[str, t.Any] = {"width": PHONE, "height": 812}
            picture(browser, site, "console-phone", path, **phone)

        site.set("hold", False)
        journal.close()


if __name__ == "__main__":
    main()
