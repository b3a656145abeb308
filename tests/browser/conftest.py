"""A browser for the tests that look at pages."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import os
import shutil
import typing as t

import pytest

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


def browser_path() -> str | None:
    """Find the machine's Chromium; the variable ``CHROMIUM`` names another."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def launch() -> cabc.Iterator[Browser]:
    """Run a browser.

    :raises LookupError: if there is none
    """
    path = browser_path()
    if path is None:
        raise LookupError("There is no Chromium: install one, or name it in CHROMIUM.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise LookupError("Playwright is missing: pip install playwright") from None

    # Chromium's sandbox refuses to run as root.
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=[*FLAGS, *sandbox]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def browser() -> cabc.Iterator[Browser]:
    """Run one browser for all tests; without one they are skipped, and fail in CI.

    It ends with this folder, since its event loop runs in the tests' own thread.
    """
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(launch())
        except LookupError as error:
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up(str(error))

        yield browser
