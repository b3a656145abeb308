"""What a page shows of requests, outputs and responses."""

from __future__ import annotations

import json
import typing as t

import pytest

from flask_durable.web.console import redact
from flask_durable.web.console.redact import HIDDEN
from flask_durable.web.console.redact import hide
from flask_durable.web.console.redact import hide_query
from flask_durable.web.console.redact import hide_text
from flask_durable.web.console.redact import is_secret
from flask_durable.web.console.redact import show_body
from flask_durable.web.console.redact import show_headers
from flask_durable.web.console.redact import show_request
from flask_durable.web.console.redact import show_response


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "userPassword",
        "new_password",
        "client_secret",
        "accessToken",
        "X-Api-Key",
        "apikey",
        "Authorization",
        "Set-Cookie",
        "sessionid",
        "card",
        "card_number",
        "cvc",
        "PIN",
        "X-CSRFToken",
        "Stripe-Signature",
        "password1",
        "password_confirmation",
        "passwordConfirm",
        "pass_word",
        "PASSword",
        "passwd2",
        "user[password]",
        "card[number]",
        "credit_card",
        "card_cvc",
        "security_code",
        "account_number",
        "jwt",
        "auth",
        "pincode",
        "mfa_code",
        "recoveryCodes",
        "X-Auth",
        "X-Goog-IAP-JWT-Assertion",
        "db_pass",
        "adminpass",
        "smtpPass",
    ],
)
def test_names_of_secrets(name: str) -> None:
    """However they are written."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "seat",
        "pinned",
        "passenger",
        "discard",
        "keyboard",
        "cards",
        "id",
        "shipping",
        "author_id",
        "authority",
        "compass",
        "discard_number",
        "card_last4",
        "account",
        "country_code",
        "postcode",
        "signal",
        "option",
    ],
)
def test_other_names(name: str) -> None:
    """Are shown."""
    assert not is_secret(name)


def test_secrets_are_hidden_at_any_depth() -> None:
    """Whole, whatever they are; one that is missing is said to be."""
    value = {"a": [{"token": {"b": 1}}, {"password": None}], "seat": "14A"}
    hidden = {"a": [{"token": HIDDEN}, {"password": None}], "seat": "14A"}
    assert hide(value) == hidden


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {"!dict": [["pin", 1], [2, {"jwt": 3}]]},
            [["pin", HIDDEN], [2, {"jwt": HIDDEN}]],
        ),
        ({"!dict": [["pin", 1], 2]}, [["pin", 1], 2]),
    ],
    ids=["ours", "like ours"],
)
def test_items_of_a_dict_with_other_keys(value: t.Any, shown: t.Any) -> None:
    """As the journal has them; a client may send something alike."""
    assert hide(value) == {"!dict": shown}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a":["{\\"pin\\":1}"]}', '{"a": ["{\\"pin\\": \\"[redacted]\\"}"]}'),
        ("{'pin': 1}", HIDDEN),
        ('[{"pin":' * 3000, HIDDEN),
        ('{ "a": 1 }', '{ "a": 1 }'),
        ("{a", "{a"),
        ("/a?x=1&token=y;z#pin=2 =", f"/a?x=1&token={HIDDEN}#pin={HIDDEN} ="),
        ("<https://x/?sig=y>; rel=next", f"<https://x/?sig={HIDDEN}>; rel=next"),
        ("password='a b' c=\"d\"", f'password={HIDDEN} c="d"'),
        ('pin="a&b" pin="c', f"pin={HIDDEN} pin={HIDDEN}"),
        ('{"pin": 1, "a": "\\ud800"}', f'{{"pin": "{HIDDEN}", "a": "\\ud800"}}'),
    ],
)
def test_texts_in_json_and_headers(text: str, shown: str) -> None:
    """They may be JSON themselves, or links."""
    assert hide_text(text) == shown
    assert hide([text]) == [shown]


def test_queries() -> None:
    """By their names, also encoded ones."""
    assert hide_query("a=1&token=x&api%5Fkey=y&flag&secret") == (
        f"a=1&token={HIDDEN}&api%5Fkey={HIDDEN}&flag&secret"
    )
    assert hide_query("a=1;pin=2&b=%7B%22pin%22%3A1%7D&c=%2F%3Fpin%3D1&d=1;2") == (
        f"a={HIDDEN}&b={HIDDEN}&c={HIDDEN}&d=1;2"
    )


def test_headers() -> None:
    """And the queries of links in them."""
    pairs = [("Cookie", "a=b"), ("X", "y"), ("Referer", "https://x/?token=t&b=1")]
    shown = [
        ("Cookie", HIDDEN),
        ("X", "y"),
        ("Referer", f"https://x/?token={HIDDEN}&b=1"),
    ]
    assert show_headers(pairs) == shown


@pytest.mark.parametrize(
    ("body", "kind", "text", "note"),
    [
        (b"", "", "", "no body"),
        (b"hi", "text/plain", "hi", "text/plain, 2 B"),
        (b"\xff\xfe", "image/png", "", "image/png, 2 B, not shown"),
        (
            b'{"a":"\xc3\xa9"}',
            "application/json",
            '{\n  "a": "é"\n}',
            "application/json, 10 B",
        ),
        (b"x=1&pin=2", "application/x-www-form-urlencoded", f"x=1\npin={HIDDEN}", None),
        (
            b"--x\r\n",
            "multipart/form-data; boundary=x",
            "",
            "multipart/form-data, 5 B, not shown",
        ),
        (
            b"[" * 5000,
            "application/json",
            "",
            "application/json, 4.9 KiB, unreadable, not shown",
        ),
        (b'{"a":"\\ud800"}', "", '{\n  "a": "\\ud800"\n}', "JSON, 14 B"),
    ],
)
def test_bodies(body: bytes, kind: str, text: str, note: str | None) -> None:
    """As text where they are, formatted where they are JSON."""
    shown = show_body(body, kind)
    assert shown.text == text
    assert note is None or shown.note == note


@pytest.mark.parametrize(
    "text",
    [
        "<login><password>x</password></login>",
        '<input name="csrf_token" value="x">',
        "user,password,mail\nme,x,y",
        "password: x",
        ')]}\'\n{"password":"x"}',
        'mutation{login(password:"x")}',
    ],
)
def test_a_text_with_a_secrets_name_is_not_shown(text: str) -> None:
    """Nobody knows where it ends."""
    shown = show_body(text.encode(), "text/plain")
    assert shown.text == "" and "it names a secret" in shown.note


def test_a_text_that_speaks_of_secrets_is_shown() -> None:
    """As one does in sentences."""
    text = "Your card was charged. The author forgot his password again."
    assert show_body(text.encode(), "text/plain").text == text


def test_a_long_body_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a letter ends; JSON that is too long to be read is not shown."""
    monkeypatch.setattr(redact, "SHOWN", 10)
    monkeypatch.setattr(redact, "PARSED", 30)
    assert show_body("é".encode() * 50, "text/plain").text == "é" * 10
    assert "its first 10 characters" in show_body(b"x" * 50, "text/plain").note
    body = json.dumps({"password": "hunter2" * 9}).encode()
    assert show_body(body, "application/json").text == ""


def test_a_request() -> None:
    """Its path as people write it, its erased headers by their names."""
    head: dict[str, t.Any] = {
        "environ": {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/caf\xc3\xa9",
            "QUERY_STRING": "token=x",
            "REMOTE_ADDR": "10.0.0.1",
        },
        "entry": None,
        "headers": [["Content-Type", "text/plain"]],
    }
    secrets = json.dumps([["Authorization", "Bearer abc"]]).encode()
    shown = show_request(json.dumps(head).encode(), secrets, b"hi")
    assert (shown.method, shown.target) == ("POST", f"/café?token={HIDDEN}")
    assert shown.headers[-1] == ("Authorization", HIDDEN)
    assert shown.body.text == "hi" and shown.client == "10.0.0.1"


def test_a_response_that_was_too_big() -> None:
    """Is said to be."""
    head = json.dumps({"status": "200 OK", "headers": []}).encode()
    assert "DURABLE_MAX_RESPONSE_BYTES" in show_response(head, None).body.note
