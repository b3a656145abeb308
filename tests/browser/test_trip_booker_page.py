"""The Trip Booker's page in a real browser, against real servers that die."""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import re
import typing as t

import pytest

from ..trip_booker import TripBooker

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = 375
DESK = 1440
PATIENCE = 20_000
"""Milliseconds that a booking may take."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> cabc.Iterator[TripBooker]:
    """Run the example with two workers, slow enough to be watched."""
    with TripBooker(tmp_path_factory.mktemp("trips"), latency=0.3) as server:
        yield server


class Visit:
    """A person's visit to the page."""

    def __init__(self, browser: Browser, url: str, width: int, scheme: Scheme) -> None:
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def book(self, flow: str, failure: str, button: str) -> None:
        """Choose a flow and what goes wrong, with the labels that a person reads."""
        self.page.get_by_role("radio", name=flow).check(force=True)
        self.page.get_by_label("What goes wrong").locator("visible=true").select_option(
            label=failure
        )
        self.page.get_by_role("button", name=button).click()

    def wait_for_answer(self) -> str:
        """Wait for the final response, and give its status line."""
        answer = self.page.locator("#answer-status")
        answer.wait_for(timeout=PATIENCE)
        return answer.inner_text()

    def step(self, name: str) -> str:
        """Read what the page says of a step."""
        row = self.page.get_by_role("list", name="Steps").get_by_role("listitem")
        return row.filter(has_text=name).inner_text()

    def too_wide(self) -> int:
        """Give how many pixels stand out on the right."""
        width = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return int(width)


Scheme: t.TypeAlias = t.Literal["light", "dark"]
Visitor = cabc.Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, server: TripBooker) -> cabc.Iterator[Visitor]:
    """Open the page; no script may fail on it."""
    visits: list[Visit] = []

    def open_page(
        fragment: str = "", width: int = DESK, scheme: Scheme = "light"
    ) -> Visit:
        visits.append(Visit(browser, f"{server.url}/{fragment}", width, scheme))
        return visits[-1]

    yield open_page
    for visited in visits:
        visited.context.close()
        assert visited.errors == []


@pytest.mark.chaos
def test_killed_after_the_payment(visit: Visitor) -> None:
    """The page loses its server, and sees the booking complete by itself."""
    visited = visit()
    visited.book(
        "Trip", "The server is killed after the payment (SIGKILL)", "Book the trip"
    )
    assert visited.wait_for_answer() == "200 OK"
    assert visited.page.locator("#status").inner_text() == "completed"
    assert visited.page.locator("#attempt").inner_text() == "2"
    assert "bank.charge called once, charged once" in visited.step("process-payment")
    assert "mailer.confirm called once, sent once" in visited.step("confirm-booking")
    calls = visited.page.get_by_role("list", name="Calls").inner_text()
    assert "SIGKILL after process-payment" in calls
    assert len(set(re.findall(r"pid \d+", calls))) == 2
    assert '"success": true' in visited.page.locator("#answer-body").inner_text()


@pytest.mark.chaos
def test_killed_during_the_payment(visit: Visitor) -> None:
    """The page tells calls from charges."""
    visited = visit()
    visited.book(
        "Trip", "The server is killed during the payment (SIGKILL)", "Book the trip"
    )
    assert visited.wait_for_answer() == "200 OK"
    assert "bank.charge called twice, charged once" in visited.step("process-payment")


def test_retry_counts_down(visit: Visitor) -> None:
    """A suspended booking shows what it waits for, and the answer 202."""
    visited = visit()
    visited.book("Package", "The hotel is down twice", "Book the package")
    visited.page.get_by_text(re.compile(r"tries again in [0-3]\.\d s")).wait_for()
    assert visited.page.locator("#status").inner_text() == "suspended"
    assert "answered 202" in visited.page.locator("#request").inner_text()
    assert "retrying, 2 tries" in visited.step("book-hotel")
    assert visited.wait_for_answer() == "200 OK"
    assert "completed, 3 tries" in visited.step("book-hotel")


def test_page_outlives_a_restart(browser: Browser, tmp_path: pathlib.Path) -> None:
    """While all servers are away the page says so, and then goes on by itself."""
    with TripBooker(tmp_path) as server:
        visited = Visit(browser, server.url, DESK, "light")
        visited.book("Trip", "The bank is down twice", "Book the trip")
        visited.page.get_by_text("suspended").wait_for()
        server.stop()
        away = visited.page.get_by_text("the server is away; this page keeps asking")
        away.wait_for()
        assert "waits for the server" in visited.step("process-payment")
        server.start()
        assert visited.wait_for_answer() == "200 OK"
        assert "called 3 times, charged once" in visited.step("process-payment")
        visited.context.close()
        assert visited.errors == []


def test_bookings_have_an_address(visit: Visitor) -> None:
    """A booking's address shows it again, also in another browser."""
    visited = visit()
    visited.book("Processing", "The data can't be processed", "Process the data")
    assert visited.wait_for_answer() == "502 BAD GATEWAY"
    fragment = "#" + visited.page.url.partition("#")[2]
    other = visit(fragment)
    assert other.wait_for_answer() == "502 BAD GATEWAY"
    assert other.page.locator("#status").inner_text() == "failed"
    assert "not reached" in other.step("notify")


@pytest.mark.parametrize("fragment", ["#never-sent", "#a/b", "#%"])
def test_address_that_nobody_knows(visit: Visitor, fragment: str) -> None:
    """A reference that leads nowhere is said to be unknown, and asked for no more."""
    visited = visit(fragment)
    visited.page.get_by_text("looking…").wait_for()
    visited.page.get_by_text("No such booking.").wait_for()
    assert visited.page.get_by_text("Choose a failure and book.").is_visible()
    asked: list[str] = []
    visited.page.on("request", lambda request: asked.append(request.url))
    visited.page.wait_for_timeout(1000)
    assert asked == []


def test_sending(visit: Visitor) -> None:
    """Until the server has heard of it, a booking is being sent, however long."""
    visited = visit()
    visited.page.route("**/api/**", lambda route: None)
    visited.book("Trip", "Nothing fails", "Book the trip")
    visited.page.get_by_text("sending…").wait_for()
    visited.page.wait_for_timeout(6000)
    assert visited.page.locator("#status").inner_text() == "sending…"


def test_request_that_is_lost(visit: Visitor) -> None:
    """A request that never arrived leaves no booking, and the page says so."""
    visited = visit()
    visited.page.route("**/api/**", lambda route: route.abort())
    visited.book("Trip", "Nothing fails", "Book the trip")
    visited.page.get_by_text("No such booking.").wait_for()
    assert "the connection broke" in visited.page.locator("#request").inner_text()


def test_booking_that_ends_badly(visit: Visitor) -> None:
    """An answer of 409 is no success, though the view came to its end."""
    visited = visit()
    visited.book("Package", "The car rental has no cars left", "Book the package")
    assert visited.wait_for_answer() == "409 CONFLICT"
    pill = visited.page.locator("#status")
    assert pill.inner_text() == "answered 409"
    assert pill.get_attribute("data-status") == "refused"


def test_last_bookings_are_links(visit: Visitor) -> None:
    """The page lists what was booked, and the way back leads to the list again."""
    visited = visit()
    visited.book("Processing", "The registry times out once", "Process the data")
    assert visited.wait_for_answer() == "200 OK"
    other = visit()
    link = other.page.get_by_role("link").first
    assert link.inner_text() == "Processing: The registry times out once"
    link.click()
    assert other.wait_for_answer() == "200 OK"
    other.page.go_back()
    link.wait_for()
    assert other.page.locator("#status").is_hidden()


def test_input_is_text(visit: Visitor) -> None:
    """What a visitor enters is shown as text and never run."""
    visited = visit()
    visited.page.get_by_label("From").fill("<img src=x onerror=a()>")
    visited.book("Trip", "Nothing fails", "Book the trip")
    assert visited.wait_for_answer() == "200 OK"
    assert "<img src=x" in visited.page.locator("#answer-body").inner_text()
    assert visited.page.locator("main img").count() == 0


def test_keyboard_alone(visit: Visitor) -> None:
    """A package can be booked without a mouse."""
    visited = visit()
    keyboard = visited.page.keyboard
    for key in ("Tab", "ArrowRight", "Tab", "Tab", "Tab", "Tab", "Tab", "Enter"):
        keyboard.press(key)
    assert visited.wait_for_answer() == "200 OK"
    assert "called once" in visited.step("book-hotel")


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_out(
    visit: Visitor, width: int, scheme: Scheme, tmp_path: pathlib.Path
) -> None:
    """The page fits a telephone and a desk, before, amid and after a booking."""
    visited = visit(width=width, scheme=scheme)
    assert visited.too_wide() == 0
    visited.book("Trip", "The seat lock times out once", "Book the trip")
    visited.page.get_by_text("TimeoutError: the seat lock timed out").wait_for()
    assert visited.too_wide() == 0
    assert visited.wait_for_answer() == "200 OK"
    assert visited.too_wide() == 0
