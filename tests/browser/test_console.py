"""The console in a real browser, against a real server."""

from __future__ import annotations

import collections.abc as cabc
import pathlib
import re
import typing as t
import urllib.request

import pytest

from ..processes import Gunicorn

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = 375
DESK = 1440
Scheme: t.TypeAlias = t.Literal["light", "dark"]

NEWEST = """words => {
  const box = document.querySelector(".said");
  const above = box.scrollHeight - box.clientHeight - box.scrollTop;
  return box.scrollTop > 0 && above < 2 && box.innerText.trimEnd().endsWith(words);
}"""
"""Whether the newest line of progress says something, and is in sight."""


class Site(Gunicorn):
    """A server of the trips app."""

    def __init__(self, folder: pathlib.Path) -> None:
        env = {
            "FLASK_SECRET_KEY": "tests",
            "FLASK_DURABLE_DATABASE_URL": f"sqlite:///{folder}/journal.db",
        }
        app = "tests.integration.apps.trips:app"
        super().__init__(app, folder, env=env, worker_class="gthread", threads=6)
        self.folder = folder

    def post(self, path: str, body: bytes = b"{}") -> str:
        """Begin an execution that goes on without us, and give its id."""
        headers = {"Prefer": "respond-async", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, method="POST")

        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers["Durable-Execution"])

    def set(self, name: str, there: bool) -> None:
        """Have a file there, or not."""
        path = self.folder / name
        path.touch() if there else path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> cabc.Iterator[Site]:
    """Run the app; what a test holds is let go at the end."""
    with Site(tmp_path_factory.mktemp("console")) as site:
        yield site
        site.set("hold", False)


class Visit:
    """A person's visit to the console."""

    def __init__(self, browser: Browser, site: Site, width: int, scheme: Scheme):
        self.site = site
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.open()

    def _hear(self, message: t.Any) -> None:
        # A violation of the policy, or a file that is not there.
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self, path: str = "") -> None:
        """Go to a page of the console."""
        self.page.goto(f"{self.site.url}/durable/console/{path}")

    def see(self, text: str | re.Pattern[str]) -> None:
        """Wait until a text is to be seen."""
        found = self.page.get_by_text(text).locator("visible=true")
        found.first.wait_for(timeout=15_000)

    def badge(self, status: str) -> None:
        """Wait until the execution's status is this."""
        self.page.locator("h1 .badge", has_text=status).wait_for(timeout=15_000)

    def press(self, name: str) -> None:
        """Press a button, and wait for the page that follows."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=name, exact=True).click()

    def too_wide(self) -> int:
        """Give how many pixels stand out on the right."""
        width = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return int(width)


Visitor = cabc.Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, site: Site) -> cabc.Iterator[Visitor]:
    """Open the console; nothing may be complained of, no policy violated."""
    visits: list[Visit] = []
    site.set("away", False)
    site.set("hold", False)

    def open_console(width: int = DESK, scheme: Scheme = "light") -> Visit:
        visits.append(Visit(browser, site, width, scheme))
        return visits[-1]

    yield open_console

    for visited in visits:
        visited.context.close()
        assert visited.complaints == []


def test_filter_and_open(visit: Visitor, site: Site) -> None:
    """From the list to one execution; the address keeps the filters."""
    site.set("away", True)
    mine = site.post("/refunds")
    visited = visit()
    visited.page.get_by_label("Status").select_option("failed")
    visited.page.get_by_label("Endpoint").select_option("refund")
    visited.page.get_by_role("button", name="Filter").click()
    visited.page.locator(f"#x-{mine}").wait_for()
    assert visited.page.url.endswith("?status=failed&endpoint=refund")
    assert visited.page.get_by_role("row").count() >= 2
    visited.page.locator(f"#x-{mine}").click()
    visited.badge("Failed")
    assert mine in visited.page.url
    visited.see("raise ConnectionError")


def test_a_running_step_is_seen_while_it_runs(visit: Visitor, site: Site) -> None:
    """Without a reload, and then what follows; then it is cancelled."""
    site.set("hold", True)
    mine = site.post("/searches")
    visited = visit()
    visited.open(f"executions/{mine}")
    row = visited.page.locator("li", has=visited.page.get_by_text("search", exact=True))
    row.locator("rect.run").wait_for(state="attached", timeout=15_000)
    visited.badge("Running")
    site.set("hold", False)
    row.locator("rect.done").wait_for(state="attached", timeout=15_000)
    visited.badge("Suspended")
    visited.page.get_by_text("Cancel…").click()
    visited.press("Cancel this execution")
    visited.badge("Cancelled")
    visited.see("Cancelled. If a step is running")


def test_what_is_open_stays_open_while_the_page_lives(
    visit: Visitor, site: Site
) -> None:
    """The focus stays, too."""
    mine = site.post("/trips")
    visited = visit()
    visited.open(f"executions/{mine}")
    step = visited.page.locator("summary", has_text="reserve-flight")
    step.click()
    visited.see('"seat": "14A"')
    visited.badge("Completed")
    assert visited.page.get_by_text('"seat": "14A"').first.is_visible()
    assert visited.page.evaluate("document.activeElement.id") == "summary-0"
    assert visited.page.locator("#announce").inner_text() == "Completed"


def test_the_newest_line_of_progress_is_in_sight(visit: Visitor, site: Site) -> None:
    """When the page opens, when a line comes, but not while older ones are read."""
    site.set("hold", True)
    mine = site.post("/talks")
    visited, reading = visit(), visit()

    for one in (visited, reading):
        one.open(f"executions/{mine}")
        one.page.wait_for_function(NEWEST, arg="line 39")

    reading.page.evaluate("document.querySelector('.said').scrollTop = 0")
    site.set("hold", False)
    visited.page.wait_for_function(NEWEST, arg="the last word")
    reading.page.locator(".said li", has_text="the last word").wait_for()
    assert reading.page.evaluate("document.querySelector('.said').scrollTop") == 0


def test_resume_and_rerun(visit: Visitor, site: Site) -> None:
    """A failed execution goes on, and runs again, whole and from a step."""
    site.set("away", True)
    mine = site.post("/refunds")
    visited = visit()
    visited.open(f"executions/{mine}")
    visited.badge("Failed")
    site.set("away", False)
    visited.press("Resume")
    visited.badge("Completed")
    visited.see('"refund": "re_55a1"')
    visited.press("Rerun")
    visited.see("This is the new execution.")
    visited.badge("Completed")
    assert mine not in visited.page.url
    visited.page.locator("summary", has_text="refund-payment").click()
    visited.press("Rerun from here")
    visited.see("kept from the first run")
    visited.badge("Completed")


def test_the_list_lives(visit: Visitor, site: Site) -> None:
    """What begins appears by itself."""
    visited = visit()
    mine = site.post("/searches")
    visited.page.locator(f"#x-{mine}").wait_for(timeout=15_000)
    assert visited.page.locator("#live").inner_text() == "Live"


def test_the_page_outlives_an_outage(visit: Visitor, site: Site) -> None:
    """It says that the server is away, and goes on by itself."""
    visited = visit()
    visited.page.route("**/console/", lambda route: route.abort())
    visited.see("Server away, trying again")
    visited.page.unroute("**/console/")
    visited.page.locator("#live:not(.away)").wait_for(timeout=15_000)
    # The browser itself tells of the requests that failed.
    assert all("net::ERR_FAILED" in complaint for complaint in visited.complaints)
    visited.complaints.clear()


def test_no_name_runs_as_a_script(visit: Visitor, site: Site) -> None:
    """Neither an endpoint's, a step's, an error's nor an output."""
    mine = site.post("/evil", b"<script>document.title='run'</script>")
    visited = visit()

    for path in ("", f"executions/{mine}", "stats"):
        visited.open(path)
        visited.see("<script>document.title='run'</script>")
        assert visited.page.title() != "run"

    visited.open(f"executions/{mine}")
    visited.page.locator("#summary-0").click()
    visited.see('"html": "<script>document.title=\'run\'</script>"')
    assert visited.page.title() != "run"
    assert visited.page.locator("main script").count() == 0


def test_keyboard_alone(visit: Visitor, site: Site) -> None:
    """From the top of the list to a step's output, and out of a question again."""
    mine = site.post("/searches")
    visited = visit()
    visited.page.locator(f"#x-{mine}").wait_for()
    keyboard = visited.page.keyboard
    keyboard.press("Tab")
    assert visited.page.evaluate("document.activeElement.className") == "skip"
    keyboard.press("Enter")
    focused = "document.activeElement.id"

    for _ in range(30):
        keyboard.press("Tab")

        if visited.page.evaluate(focused) == f"x-{mine}":
            break

    keyboard.press("Enter")
    visited.badge("Suspended")

    for _ in range(30):
        keyboard.press("Tab")

        if visited.page.evaluate(focused) == "do-cancel":
            break

    keyboard.press("Enter")
    visited.page.get_by_role("button", name="Cancel this execution").wait_for()
    keyboard.press("Escape")
    visited.page.get_by_role("button", name="Cancel this execution").wait_for(
        state="hidden"
    )
    assert visited.page.evaluate(focused) == "do-cancel"


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_out(
    visit: Visitor, site: Site, width: int, scheme: Scheme
) -> None:
    """Each page fits a telephone and a desk; everything can be read."""
    mine = site.post("/trips")
    evil = site.post("/evil", b"x" * 500)
    visited = visit(width, scheme)

    for path in ("", f"executions/{mine}", f"executions/{evil}", "stats", "?id=zz"):
        visited.open(path)
        visited.page.locator("h1").wait_for()
        assert visited.too_wide() == 0
        assert visited.page.evaluate(FAINT) == []

    # The last one is answered 400, which the browser tells of.
    visited.complaints.clear()


FAINT = """
() => {
  const curve = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const part = v => curve(v / 255);
  const light = c => .2126 * part(c[0]) + .7152 * part(c[1]) + .0722 * part(c[2]);
  const read = text => text.match(/[\\d.]+/g).map(Number);
  const back = element => {
    for (; element; element = element.parentElement) {
      const color = read(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility()) continue;
    if (element.closest(".hidden, svg, option")) continue;
    const pair = [light(read(getComputedStyle(element).color)), light(back(element))];
    const ratio = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (ratio < 4.5) found.push([element.outerHTML.slice(0, 120), ratio]);
  }
  return found;
}
"""
"""Finds text whose contrast is under the 4.5:1 of WCAG AA."""
