"""The console as a test reads it: addresses, pages, forms."""

from __future__ import annotations

import html
import re
import typing as t

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

LIST = "/durable/console/"


def address(execution_id: str, action: str = "") -> str:
    """Give where an execution's page is, or what one of its buttons posts to."""
    return f"{LIST}executions/{execution_id}" + (f"/{action}" if action else "")


def text(page: TestResponse) -> str:
    """Give what a page says, without its markup."""
    bare = re.sub(r"<script.*?</script>|<[^>]*>", " ", page.text, flags=re.DOTALL)
    return " ".join(html.unescape(bare).split())


def token(page: TestResponse) -> str:
    """Give what the page's forms send."""
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def ids(page: TestResponse) -> list[str]:
    """List the executions on a page of the list."""
    return re.findall(r'id="x-([^"]+)"', page.text)


def press(
    client: FlaskClient, execution_id: str, action: str, **form: t.Any
) -> TestResponse:
    """Open an execution's page and press one of its buttons."""
    form = {"token": token(client.get(address(execution_id))), **form}
    return client.post(address(execution_id, action), data=form)
