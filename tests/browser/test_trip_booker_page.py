"""The Trip Booker's pages in a real browser, against real servers that die."""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import re
import typing as t

import pytest

from example_trip_booker.failures import FLOWS

from ..trip_booker import TripBooker

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = 375
DESK = 1440
PATIENCE = 30_000
"""Milliseconds that a booking may take."""

BUTTONS = {
    "Trip": "Book the trip",
    "Package": "Book the package",
    "Processing": "Process the data",
}

BAD_ENDS = {
    "bank-down": "402 PAYMENT REQUIRED",
    "no-cars": "409 CONFLICT",
    "bad-data": "502 BAD GATEWAY",
}

PALE = pathlib.Path(__file__).with_name("pale.js").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> cabc.Iterator[TripBooker]:
    """Run the example with two workers, slow enough to be watched."""
    with TripBooker(tmp_path_factory.mktemp("trips"), latency=0.3) as server:
        yield server


class Visit:
    """A person's visit to the page, with a browser whose storage is its own."""

    def __init__(self, browser: Browser, url: str, width: int, scheme: Scheme) -> None:
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.url = url
        self.errors: list[str] = []
        self.page: Page = self.open()

    def open(self, path: str = "") -> Page:
        """Open another page of the same browser."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.note(message.text))
        page.goto(self.url + path)
        return page

    def note(self, message: str) -> None:
        """Remember what the page was not allowed to do."""
        if "Content Security Policy" in message:
            self.errors.append(message)

    def choose(self, flow: str, failure: str, cabin: str = "") -> None:
        """Choose a flow and what goes wrong, with the labels that a person reads."""
        self.page.get_by_role("radio", name=flow).check(force=True)
        self.page.get_by_label("What goes wrong").locator("visible=true").select_option(
            label=failure
        )

        if cabin:
            self.page.get_by_label("Cabin").select_option(cabin)

    def book(self, flow: str, failure: str = "Nothing fails", cabin: str = "") -> None:
        """Choose, and press the button."""
        self.choose(flow, failure, cabin)
        self.page.get_by_role("button", name=BUTTONS[flow]).click()

    def wait_for_answer(self) -> str:
        """Wait for the final response, and give its status line."""
        answer = self.page.locator("#answer-status")
        answer.wait_for(timeout=PATIENCE)
        return answer.inner_text()

    def step(self, name: str) -> str:
        """Read what the page says of a step."""
        row = self.page.get_by_role("list", name="Steps").get_by_role("listitem")
        return row.filter(has_text=name).inner_text()

    def calls(self) -> str:
        """Read the ledger, once it has been told the end."""
        return self.page.get_by_role("list", name="Calls").inner_text()

    def wait_for_call(self, text: str) -> None:
        """Wait until the ledger has it."""
        calls = self.page.get_by_role("list", name="Calls")
        calls.get_by_text(text).first.wait_for(timeout=PATIENCE)

    def current_lines(self) -> list[str]:
        """Give the marked lines of the source."""
        lines = self.page.locator("#source [aria-current=step]:visible")
        return lines.all_inner_texts()

    def decide(self, answer: str, note: str) -> None:
        """Answer on the manager's page, in a window that opens for it."""
        with self.context.expect_page() as opened:
            self.page.get_by_role("link", name="Open the manager's page").click()

        desk = opened.value
        desk.get_by_label("Note").last.fill(note)
        desk.get_by_role("button", name=answer).last.click()
        desk.get_by_text(note).wait_for()
        desk.close()

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


# Everything that can be chosen


@pytest.mark.chaos
@pytest.mark.parametrize(
    "flow", ["trips.book_trip", "trips.book_package", "trips.process"]
)
def test_every_failure(visit: Visitor, flow: str) -> None:
    """All at once, so that each also survives the servers that others kill."""
    visited = visit()
    titles = {"trips.book_trip": "Trip", "trips.book_package": "Package"}
    places: dict[str, str] = {}

    for failure in FLOWS[flow]:
        visited.book(titles.get(flow, "Processing"), failure.title)
        visited.page.wait_for_url("**/#*.*")
        places[failure.name] = visited.page.url
        visited.page.get_by_role("button", name="Book another").click()

    for name, place in places.items():
        visited.page.goto(place)
        assert visited.wait_for_answer() == BAD_ENDS.get(name, "200 OK"), name


@pytest.mark.chaos
def test_killed_after_the_payment(visit: Visitor) -> None:
    """The page loses its server, and sees the booking complete by itself."""
    visited = visit()
    visited.book("Trip", "The server is killed after the payment (SIGKILL)")
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert visited.page.locator("#status").inner_text() == "completed"
    assert visited.page.locator("#attempt").inner_text() == "2"
    assert "bank.charge called once, charged once" in visited.step("process-payment")
    assert "mailer.confirm called once, sent once" in visited.step("confirm-booking")
    assert "SIGKILL before confirm-booking" in visited.calls()
    assert len(set(re.findall(r"pid \d+", visited.calls()))) == 2
    assert '"success": true' in visited.page.locator("#answer-body").inner_text()


@pytest.mark.chaos
def test_killed_during_the_payment(visit: Visitor) -> None:
    """The page tells calls from charges."""
    visited = visit()
    visited.book("Trip", "The server is killed during the payment (SIGKILL)")
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert "bank.charge called twice, charged once" in visited.step("process-payment")


@pytest.mark.chaos
def test_killed_by_the_button(visit: Visitor) -> None:
    """A click kills the server at work; another goes on where it was."""
    visited = visit()
    visited.book("Trip", "The airline takes its time")
    visited.page.get_by_text("no answer yet (2 of 12)").wait_for()
    visited.page.get_by_role("button", name="Kill the server now").click()
    visited.wait_for_call("SIGKILL by your click")
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert int(visited.page.locator("#attempt").inner_text()) >= 2
    assert "called once" in visited.step("search-availability")
    assert "called twice, reserved once" in visited.step("reserve-flight")
    assert visited.page.locator("#servers .killed").count() == 1
    assert visited.page.get_by_role("button", name="Kill the server now").is_hidden()


def test_a_step_of_ones_choice(visit: Visitor) -> None:
    """Which step fails, and how often, can be chosen."""
    visited = visit()
    visited.choose("Trip", "A step of your choice fails…")
    visited.page.locator("select[name=step]:visible").select_option("confirm-booking")
    visited.page.locator("select[name=times]:visible").select_option("once")
    visited.page.get_by_role("button", name="Book the trip").click()
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert "done, 2 tries" in visited.step("confirm-booking")
    assert "called once" in visited.step("process-payment")


# What the page shows meanwhile


def test_retry_counts_down(visit: Visitor) -> None:
    """A suspended booking shows what it waits for, where in the source, and why."""
    visited = visit()
    visited.book("Package", "The hotel is down twice")
    visited.page.get_by_text(re.compile(r"tries again in [0-3]\.\d s")).wait_for()
    assert visited.page.locator("#status").inner_text() == "suspended"
    assert "answered 202" in visited.page.locator("#request").inner_text()
    assert "retrying, 2 tries" in visited.step("book-hotel")
    visited.page.get_by_text("ConnectionError: the hotel is down").first.wait_for()
    assert [line for line in visited.current_lines() if '"book-hotel"' in line]
    assert visited.wait_for_answer() == "200 OK"
    assert "done, 3 tries" in visited.step("book-hotel")
    assert visited.current_lines() == []


def test_progress_shows_in_its_step(visit: Visitor) -> None:
    """Each step has its own lines."""
    visited = visit()
    visited.book("Trip")
    assert visited.wait_for_answer() == "200 OK"
    assert "asking for economy seats from NYC to LAX" in visited.step("search")
    assert "is held as" in visited.step("reserve-flight")
    assert "is paid" in visited.step("process-payment")


def test_changes_are_announced(visit: Visitor) -> None:
    """Who doesn't see the timeline hears how it ends."""
    visited = visit()
    visited.book("Trip")
    live = visited.page.locator("#announce[aria-live=polite]")
    live.get_by_text("The final response is 200.").wait_for(timeout=PATIENCE)


def test_without_a_stream(visit: Visitor) -> None:
    """Where there are no events the page asks for the status."""
    visited = visit()
    visited.page.route("**/events", lambda route: route.abort())
    visited.book("Trip", "The bank is down twice")
    visited.page.get_by_text(re.compile(r"tries again in [0-3]\.\d s")).wait_for()
    assert visited.wait_for_answer() == "200 OK"


def test_page_outlives_a_restart(browser: Browser, tmp_path: pathlib.Path) -> None:
    """While all servers are away the page says so, and then goes on by itself."""
    with TripBooker(tmp_path) as server:
        visited = Visit(browser, f"{server.url}/", DESK, "light")
        visited.book("Trip", "The bank is down twice")
        visited.page.get_by_text("suspended").wait_for()
        server.kill()
        visited.page.get_by_text("No server answers.").wait_for(timeout=PATIENCE)
        visited.page.get_by_text("waits for a server").wait_for()
        assert "done" in visited.step("reserve-flight")
        server.start()
        assert visited.wait_for_answer() == "200 OK"
        visited.wait_for_call("sent")
        assert "called 3 times, charged once" in visited.step("process-payment")
        visited.page.locator("#offline").wait_for(state="hidden")
        visited.context.close()
        assert visited.errors == []


# The manager


def test_manager_approves(visit: Visitor) -> None:
    """The page waits with the view, and goes on with the manager's answer."""
    visited = visit()
    visited.book("Trip", cabin="business")
    visited.page.get_by_text(re.compile(r"declined in 2:\d\d unless")).wait_for()
    assert "approval.wait" in visited.current_lines()[0]
    visited.decide("Approve", "Enjoy.")
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("charged")


def test_manager_declines(visit: Visitor) -> None:
    """A no releases the seat, and its note is in the answer."""
    visited = visit()
    visited.book("Trip", cabin="business")
    visited.decide("Decline", "Too dear for us.")
    assert visited.wait_for_answer() == "402 PAYMENT REQUIRED"
    visited.wait_for_call("released")
    assert "Too dear for us." in visited.page.locator("#answer-body").inner_text()
    assert "released once" in visited.step("release-flight")
    assert "not needed" in visited.step("process-payment")


def test_desk_fills_by_itself(visit: Visitor) -> None:
    """What comes in shows without a reload, unless somebody writes."""
    visited = visit()
    desk = visited.open("manager/")
    visited.page.get_by_label("From").fill("First")
    visited.book("Trip", cabin="business")
    desk.get_by_text("First").wait_for()
    desk.get_by_label("Note").last.fill("I think")
    visited.page.get_by_label("From").fill("Second")
    visited.book("Trip", cabin="business")
    visited.page.get_by_role("link", name="Open the manager's page").wait_for()
    desk.wait_for_timeout(2500)
    assert desk.get_by_label("Note").last.input_value() == "I think"
    desk.get_by_label("Note").last.fill("")
    desk.get_by_label("Note").last.blur()
    desk.get_by_text("Second").wait_for()


# Nothing is lost, nothing is booked twice


def test_reload_in_the_middle(visit: Visitor) -> None:
    """The page comes back to the booking under way."""
    visited = visit()
    visited.book("Trip", "The bank is down twice")
    visited.page.get_by_text("suspended").wait_for()
    visited.page.reload()
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert "called once, reserved once" in visited.step("reserve-flight")
    assert "charging" in visited.step("process-payment")


def test_reload_before_the_answer(visit: Visitor) -> None:
    """A request whose answer nobody read is sent again, with the same key."""
    visited = visit()
    keys: list[str] = []

    def lose(route: t.Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.fetch()  # It does arrive.
        route.abort()

    visited.page.route("**/api/**", lose)
    visited.book("Trip")
    visited.page.get_by_text("sent again, with the same key").wait_for()
    visited.page.unroute("**/api/**")
    visited.page.reload()
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert len(set(keys)) == 1
    assert keys[0] in f'"{visited.page.locator("#key").inner_text()}"'
    assert "called once, charged once" in visited.step("process-payment")


def test_double_click_books_once(visit: Visitor) -> None:
    """Two requests go out with one key, and there is one booking."""
    visited = visit()
    visited.choose("Trip", "Nothing fails")
    visited.page.get_by_role("button", name="Book the trip").dblclick()
    visited.page.get_by_text("sent 2 times with one key, booked once").wait_for()
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert visited.page.locator("#calls .call").count() == 4
    assert visited.page.locator("#recent a").count() == 1


def test_book_another(visit: Visitor) -> None:
    """Who wants the same trip again gets another one."""
    visited = visit()

    for _ in range(2):
        visited.book("Trip", "The bank is down twice")
        visited.page.wait_for_url("**/#*.*")
        visited.page.get_by_role("button", name="Book another").click()

    places = visited.page.locator("#recent a").evaluate_all(
        "all => all.map(a => a.href)"
    )
    assert len(set(places)) == 2


def test_closed_page_opened_later(visit: Visitor) -> None:
    """The booking goes on without its page, which finds the end later."""
    visited = visit()
    visited.book("Package", "The hotel asks to be called again in 4 seconds")
    visited.page.get_by_text("suspended").wait_for()
    visited.page.close()
    visited.page = visited.open()
    visited.page.get_by_role("link", name="FD 101").click()
    assert visited.wait_for_answer() == "200 OK"
    assert "asking Harbour Inn for a room" in visited.step("book-hotel")


def test_bookings_have_an_address(visit: Visitor) -> None:
    """A booking's address shows it again, also in another browser."""
    visited = visit()
    visited.book("Processing", "The data can't be processed")
    assert visited.wait_for_answer() == "502 BAD GATEWAY"
    fragment = "#" + visited.page.url.partition("#")[2]
    other = visit(fragment)
    assert other.wait_for_answer() == "502 BAD GATEWAY"
    assert other.page.locator("#status").inner_text() == "failed"
    assert "not reached" in other.step("notify")
    assert "user-42 is a gold customer" in other.step("enrich-data")


@pytest.mark.parametrize("fragment", ["#never-sent", "#a/b", "#%"])
def test_address_that_nobody_knows(visit: Visitor, fragment: str) -> None:
    """A name that leads nowhere is said to be unknown, and asked for no more."""
    visited = visit(fragment)
    visited.page.get_by_text("no such booking").wait_for()
    asked: list[str] = []
    visited.page.on("request", lambda request: asked.append(request.url))
    visited.page.wait_for_timeout(1500)
    assert asked == []


def test_request_that_is_refused(visit: Visitor) -> None:
    """A request that the server won't have is not sent for ever."""
    visited = visit()
    visited.page.route("**/api/**", lambda route: route.fulfill(status=400, body="{}"))
    visited.book("Trip")
    visited.page.get_by_text("refused with 400").first.wait_for()
    assert visited.page.locator("#status").get_attribute("data-status") == "failed"


def test_booking_that_ends_badly(visit: Visitor) -> None:
    """An answer of 409 is no success, though the view came to its end."""
    visited = visit()
    visited.book("Package", "The car rental has no cars left")
    assert visited.wait_for_answer() == "409 CONFLICT"
    pill = visited.page.locator("#status")
    assert pill.inner_text() == "answered 409"
    assert pill.get_attribute("data-status") == "refused"


def test_way_back(visit: Visitor) -> None:
    """The browser's own button leads back to the page as it was before."""
    visited = visit()
    visited.book("Processing", "The registry times out once")
    assert visited.wait_for_answer() == "200 OK"
    visited.page.go_back()
    visited.page.get_by_text("Try this first").wait_for()
    assert visited.page.locator("#ticket").is_hidden()
    visited.page.get_by_role("link", name="user-42").click()
    assert visited.wait_for_answer() == "200 OK"


# Everybody can use it


def test_input_is_text(visit: Visitor) -> None:
    """What a visitor enters is shown as text and never run."""
    visited = visit()
    visited.page.get_by_label("From").fill("<img src=x onerror=a()>")
    visited.book("Trip", cabin="business")
    visited.decide("Approve", "<img src=y>")
    assert visited.wait_for_answer() == "200 OK"
    assert "<img src=x" in visited.page.locator("#answer-body").inner_text()
    assert visited.page.locator("main img").count() == 0
    assert visited.too_wide() == 0


def test_keyboard_alone(visit: Visitor) -> None:
    """A package can be booked without a mouse."""
    visited = visit()
    visited.page.get_by_role("radio", name="Trip").focus()
    keyboard = visited.page.keyboard
    for key in ("ArrowRight", "Tab", "Tab", "Tab", "Tab", "Tab", "Enter"):
        keyboard.press(key)
    assert visited.wait_for_answer() == "200 OK"
    visited.wait_for_call("sent")
    assert "called once" in visited.step("book-hotel")


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_can_be_read(visit: Visitor, width: int, scheme: Scheme) -> None:
    """Nothing stands out, nothing is pale: before, amid and after a booking."""
    visited = visit(width=width, scheme=scheme)

    def check() -> None:
        assert visited.too_wide() == 0
        assert visited.page.evaluate(PALE) == []

    check()
    visited.book("Trip", "The bank is down twice", cabin="business")
    visited.page.get_by_text("declined in").wait_for()
    check()
    visited.decide("Approve", f"{scheme} {width}")
    visited.page.get_by_text("ConnectionError: the bank is down").first.wait_for()
    check()
    assert visited.wait_for_answer() == "200 OK"
    check()
    visited.page.get_by_role("link", name="Manager").click()
    visited.page.get_by_text(f"{scheme} {width}").wait_for()
    check()
