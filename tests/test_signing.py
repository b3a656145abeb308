"""Links for watchers and tickets for replays."""

from __future__ import annotations

import collections.abc as cabc
import typing as t

import pytest
from flask import Flask
from itsdangerous import URLSafeSerializer

from flask_durable import clock
from flask_durable.ids import new_id
from flask_durable.signing import check_secret_key
from flask_durable.signing import read_link
from flask_durable.signing import read_ticket
from flask_durable.signing import sign_link
from flask_durable.signing import sign_ticket
from flask_durable.signing import Ticket
from flask_durable.signing import TICKET_AGE
from flask_durable.signing import TICKET_SKEW

ID = new_id()
TICKET = Ticket(ID, 2, "digest")
NOT_OURS = "its signature is not ours"


def make_app(key: str | None = "key", *fallbacks: str) -> Flask:
    """Make an app with these keys."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY=key, SECRET_KEY_FALLBACKS=list(fallbacks))
    return app


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> cabc.Callable[[float], None]:
    """Give what sets the clock to so many seconds from now."""
    start = clock.now()
    monkeypatch.setattr(clock, "now", lambda: start)
    return lambda seconds: monkeypatch.setattr(clock, "now", lambda: start + seconds)


def test_a_key_may_be_bytes_of_any_kind() -> None:
    """Some apps have it so."""
    other = make_app(None)
    other.config["SECRET_KEY"] = bytearray(b"key")
    assert read_link(other, sign_link(make_app(), ID)) == ID


def test_a_link_names_its_execution() -> None:
    """Whoever made it."""
    assert read_link(make_app(), sign_link(make_app(), ID)) == ID


def test_a_link_fits_in_a_path() -> None:
    """Without a character that is quoted."""
    assert set(sign_link(make_app(), ID)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
    )


@pytest.mark.parametrize(
    "token",
    ["", ".", ID, f"{ID}.", f"{ID}.AAAA", "é", "\x00.\x00"],
    ids=map(str, range(7)),
)
def test_what_was_never_a_link_is_none(token: str) -> None:
    """Whatever is asked for."""
    assert read_link(make_app(), token) is None


def test_a_link_to_another_execution_cant_be_made() -> None:
    """Its signature is for its own id."""
    signature = sign_link(make_app(), ID).partition(".")[2]
    assert read_link(make_app(), f"{new_id()}.{signature}") is None


def test_a_link_of_another_key_is_none() -> None:
    """Such as that of another app."""
    assert read_link(make_app("other"), sign_link(make_app(), ID)) is None


@pytest.mark.parametrize("key", ["old", "older"])
def test_a_link_of_a_fallback_key_is_good(key: str) -> None:
    """Any of them."""
    app = make_app("new", "old", "older")
    assert read_link(app, sign_link(make_app(key), ID)) == ID


def test_links_are_signed_with_the_new_key() -> None:
    """A fallback only verifies."""
    token = sign_link(make_app("new", "old", "older"), ID)
    assert read_link(make_app("new"), token) == ID
    assert read_link(make_app("old"), token) is None
    assert read_link(make_app("older"), token) is None


def test_a_link_does_not_age(turn: cabc.Callable[[float], None]) -> None:
    """An execution may sleep for a year."""
    token = sign_link(make_app(), ID)
    turn(366 * 86400)
    assert read_link(make_app(), token) == ID


def test_a_ticket_is_read_as_it_was_signed() -> None:
    """Execution, attempt and digest."""
    assert read_ticket(make_app(), sign_ticket(make_app(), TICKET)) == TICKET


def test_a_ticket_is_a_headers_value() -> None:
    """ASCII, on one line."""
    value = sign_ticket(make_app(), TICKET)
    assert value.isascii() and value.isprintable() and " " not in value


@pytest.mark.parametrize("age", [0, 1, TICKET_AGE, -TICKET_SKEW])
def test_a_ticket_is_good_for_a_while(
    turn: cabc.Callable[[float], None], age: float
) -> None:
    """Ten minutes, and for machines whose clock is a little behind."""
    value = sign_ticket(make_app(), TICKET)
    turn(age)
    assert read_ticket(make_app(), value) == TICKET


@pytest.mark.parametrize("age", [TICKET_AGE + 1, 86400, -TICKET_SKEW - 1, -86400])
def test_a_ticket_expires(turn: cabc.Callable[[float], None], age: float) -> None:
    """And one from the future is none."""
    value = sign_ticket(make_app(), TICKET)
    turn(age)
    assert read_ticket(make_app(), value) == "it has expired"


@pytest.mark.parametrize("value", ["", "rubbish", "a.b", "é", "\x00", "." * 99])
def test_what_was_never_a_ticket_is_refused(value: str) -> None:
    """Whatever the header holds."""
    assert read_ticket(make_app(), value) == NOT_OURS


def test_a_ticket_that_was_changed_is_refused() -> None:
    """Each character counts."""
    value = sign_ticket(make_app(), TICKET)

    for place in range(0, len(value) - 1, 7):
        other = "A" if value[place] != "A" else "B"
        forged = value[:place] + other + value[place + 1 :]
        assert read_ticket(make_app(), forged) == NOT_OURS


def test_a_ticket_of_another_key_is_refused() -> None:
    """Such as that of another app."""
    assert read_ticket(make_app("other"), sign_ticket(make_app(), TICKET)) == NOT_OURS


def test_a_ticket_of_a_fallback_key_is_good() -> None:
    """Keys are changed while executions wait."""
    app = make_app("new", "old")
    assert read_ticket(app, sign_ticket(make_app("old"), TICKET)) == TICKET
    assert read_ticket(make_app("old"), sign_ticket(app, TICKET)) == NOT_OURS


def test_a_link_is_no_ticket() -> None:
    """Whoever watches can't replay."""
    assert read_ticket(make_app(), sign_link(make_app(), ID)) == NOT_OURS


def test_a_ticket_is_no_link() -> None:
    """Each purpose has a salt of its own."""
    assert read_link(make_app(), sign_ticket(make_app(), TICKET)) is None


def test_what_the_app_signs_is_no_ticket() -> None:
    """Its own serializer has the same key, and another salt."""
    values = [ID, 2, "digest", clock.now()]
    value = URLSafeSerializer("key").dumps(values)
    assert read_ticket(make_app(), t_str(value)) == NOT_OURS


def t_str(value: str | bytes) -> str:
    """Give a signed value as text."""
    return value if isinstance(value, str) else value.decode()


@pytest.mark.parametrize("key", [12345, True, 1.5, ["key"], {"key": "x"}])
def test_a_key_that_is_neither_text_nor_bytes_is_refused(key: t.Any) -> None:
    """From the environment, digits come as a number, of which zeros would be made."""
    app = make_app()
    app.config["SECRET_KEY"] = key
    name = type(key).__name__

    for call in (lambda: check_secret_key(app), lambda: sign_link(app, ID)):
        with pytest.raises(RuntimeError, match=f"SECRET_KEY is of type {name},"):
            call()


@pytest.mark.parametrize("key", ["", b"", None, 7])
def test_a_fallback_that_is_no_key_is_refused(key: t.Any) -> None:
    """An empty one would let anybody sign."""
    app = make_app("new", "old", key)

    with pytest.raises(RuntimeError, match="SECRET_KEY_FALLBACKS has an? .*: each"):
        read_link(app, "x.y")


@pytest.mark.parametrize("fallbacks", ["old", b"old", {"old": 1}, 7])
def test_fallbacks_that_are_no_list_are_refused(fallbacks: t.Any) -> None:
    """Each character of a text would be a key; the error shows how to write a list."""
    app = make_app()
    app.config["SECRET_KEY_FALLBACKS"] = fallbacks

    with pytest.raises(RuntimeError, match="is of type .*, and must be a list") as told:
        check_secret_key(app)

    assert "old" not in str(told.value)
    assert """FLASK_SECRET_KEY_FALLBACKS='["…"]'""" in str(told.value)


@pytest.mark.parametrize("fallbacks", [None, [], (), ("old",), [bytearray(b"old")]])
def test_fallbacks_may_be_a_list_or_a_tuple(fallbacks: t.Any) -> None:
    """Or none at all."""
    app = make_app()
    app.config["SECRET_KEY_FALLBACKS"] = fallbacks
    assert read_link(app, sign_link(app, ID)) == ID


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_nothing_is_signed(key: str | None) -> None:
    """The error has the command that makes one."""
    app = make_app(key, "old")

    for call in (
        lambda: check_secret_key(app),
        lambda: sign_link(app, ID),
        lambda: sign_ticket(app, TICKET),
    ):
        with pytest.raises(RuntimeError, match="SECRET_KEY.*(?s:.*)secrets.token_hex"):
            call()
