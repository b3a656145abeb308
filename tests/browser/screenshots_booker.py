"""Take the pictures of the Trip Booker that the README and the docs show.

``python -m tests.browser.screenshots_booker``
"""

from __future__ import annotations

import io
import os
import pathlib
import tempfile
import typing as t

from PIL import Image
from playwright.sync_api import sync_playwright

from ..trip_booker import ROOT
from ..trip_booker import TripBooker
from .conftest import browser_path
from .conftest import FLAGS

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = ROOT / "docs" / "_static"

PICTURES = {"trip-booker": (1440, 1128), "trip-booker-phone": (375, 1080)}
"""Each with its width and height."""


def main() -> None:
    """Take all of them, in the middle of a retry."""
    FOLDER.mkdir(exist_ok=True)
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []

    with (
        tempfile.TemporaryDirectory() as folder,
        TripBooker(pathlib.Path(folder), latency=0.6) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=browser_path(), args=[*FLAGS, *sandbox]
        )

        for name, (width, height) in PICTURES.items():
            take(browser, f"{server.url}/", name, width, height)

        browser.close()


def take(browser: Browser, url: str, name: str, width: int, height: int) -> None:
    """Book, and take a picture while the payment waits for its next try."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(url)
    failure = page.get_by_label("What goes wrong").locator("visible=true")
    failure.select_option("bank-outage")
    page.get_by_role("button", name="Book the trip").click()
    page.get_by_text("tries again in 2.").wait_for()
    page.locator("#calls .call").nth(3).wait_for()

    if width < 900:
        page.evaluate("document.querySelector('#ticket').scrollIntoView()")

    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    # A palette makes it small, and nobody sees it.
    picture.quantize(256, kmeans=2).save(FOLDER / f"{name}.png", optimize=True)
    page.close()


if __name__ == "__main__":
    main()
