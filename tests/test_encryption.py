"""Encryption at rest: what is stored, with which keys, and what if one is missing."""

from __future__ import annotations

import collections.abc as cabc
import sys
import typing as t

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from flask import Flask
from flask import request

from flask_durable import DecryptionError
from flask_durable import durable_replay
from flask_durable import FlaskDurable
from flask_durable import step
from flask_durable import StepError
from flask_durable.config import Config
from flask_durable.errors import ConfigError
from flask_durable.replay import replay
from flask_durable.state import get_state
from flask_durable.state import opened_state
from flask_durable.state import State
from flask_durable.tables import executions
from flask_durable.tables import metadata
from flask_durable.tables import steps
from flask_durable.vault import MARK
from flask_durable.vault import PLAIN
from flask_durable.vault import SEALED
from flask_durable.vault import Vault

from .driving import Drive

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))

Work = cabc.Callable[[], t.Any]


class Site:
    """An app in as many generations as a test needs; they share a journal."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self.work: Work = lambda: "done"
        self.apps: list[Flask] = []

    def start(self, *keys: str, name: str = "shop") -> Flask:
        """Make the app with these keys."""
        app = Flask(name)
        app.config.update(
            DURABLE_DATABASE_URL=self.url,
            DURABLE_ENCRYPTION_KEYS=list(keys) or None,
            PROPAGATE_EXCEPTIONS=False,
            SECRET_KEY="tests",
            TESTING=True,
        )
        durable = FlaskDurable(app)
        durable.identity(lambda: {"user": "ada-identity"})

        @app.post("/work")
        @durable.endpoint
        def work() -> t.Any:
            return self.work()

        opened_state(app)
        self.apps.append(app)
        return app

    def cells(self) -> list[t.Any]:
        """Read every value of every table as it is stored."""
        engine = sa.create_engine(self.url)

        with engine.connect() as connection:
            found = [
                bytes(cell) if isinstance(cell, memoryview) else cell
                for table in sa.inspect(engine).get_table_names()
                for row in connection.exec_driver_sql(f"SELECT * FROM {table}")
                for cell in row
            ]

        engine.dispose()
        return found

    def blobs(self) -> list[bytes]:
        """Read the bytes among them."""
        return [cell for cell in self.cells() if isinstance(cell, bytes)]


@pytest.fixture
def site(database_url: str) -> cabc.Iterator[Site]:
    """Give what makes apps; their journals are closed at the end."""
    site = Site(database_url)
    yield site

    for app in site.apps:
        get_state(app).close()


def send(app: Flask, event: str, **options: t.Any) -> bool:
    """Send an event as a view of the app does."""
    durable = FlaskDurable()

    with app.app_context():
        return durable.send_event(event, **options)


def attempts(state: State, answer: t.Any) -> int:
    """Tell how many attempts an execution took."""
    return state.store.execution(answer.headers["Durable-Execution"]).attempt


# What is stored


def everything() -> t.Any:
    """Use every kind of step, and have a secret in all that they leave behind."""

    def fail() -> t.NoReturn:
        raise ValueError("secret-message")

    step.run("run", lambda: "secret-output")
    step.parallel(
        lambda: step.run("left", lambda: "secret-left"),
        lambda: step.run("right", lambda: "secret-right"),
    )
    step.map("each", lambda item: f"secret-{item}", ["first", "second"])
    step.transaction("write", lambda connection: "secret-row")
    callback = step.callback("approve")
    step.run("mail", lambda: callback.token)
    got = [step.wait_for_event("event", "paid"), callback.wait()]

    try:
        step.options(retry=None).run("fail", fail)
    except StepError:
        step.sleep("nap", 60)

    return {"got": got}, 201, {"X-Answer": "secret-header"}


def test_nothing_readable_is_in_the_database(site: Site) -> None:
    """Neither while an execution waits nor when it has ended."""
    app = site.start(NEW)
    site.work = everything
    drive = Drive(app)
    answer = app.test_client().post(
        "/work?q=secret-query",
        json={"card": "secret-body"},
        headers={"X-Token": "secret-custom", "Authorization": "secret-basic"},
    )
    assert answer.status_code == 202
    state = get_state(app)
    execution_id = answer.headers["Durable-Execution"]
    mail = next(x for x in state.store.journal(execution_id) if x.id == "mail")
    token = state.codec.decode(mail.output or b"")
    send(app, "paid", data="secret-event")
    app.test_client().post(f"/durable/callbacks/{token}", json="secret-callback")

    def check() -> None:
        text = b"\n".join(
            cell if isinstance(cell, bytes) else str(cell).encode()
            for cell in site.cells()
        )
        assert execution_id.encode() in text
        assert b"secret" not in text and b"ada-identity" not in text
        assert b"Traceback" not in text and b"work?q=" not in text
        assert all(blob.startswith(SEALED) for blob in site.blobs())

    check()
    final = drive.finish(answer)
    check()
    assert (final.status_code, final.headers["X-Answer"]) == (201, "secret-header")
    assert final.json == {"got": ["secret-event", "secret-callback"]}
    document = drive.status(answer)
    failed = [x for x in document["steps"] if x["error_type"]]
    assert [(x["id"], x["error_type"]) for x in failed] == [("fail", "ValueError")]


def test_all_columns_of_bytes_are_sealed() -> None:
    """There are ten; a new one is sealed by its type, and belongs in the docs."""
    found = [
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, sa.LargeBinary)
    ]
    assert len(found) == 10


def test_a_replay_sees_the_request(site: Site) -> None:
    """Body, headers, cookies and identity, whatever bytes the body is."""
    app = site.start(NEW)

    def work() -> t.Any:
        step.sleep("nap", 60)
        replayed = durable_replay()
        assert replayed is not None
        seen = [request.headers["Authorization"], request.cookies["c"]]
        return [*seen, request.get_data().hex(), replayed.identity]

    site.work = work
    body = bytes(range(256)) + MARK
    client = app.test_client()
    client.set_cookie("c", "cookie")
    headers = {"Authorization": "Bearer x"}
    answer = client.post("/work", data=body, headers=headers)
    final = Drive(app).finish(answer)
    assert final.json == ["Bearer x", "cookie", body.hex(), {"user": "ada-identity"}]


def test_limits_count_plain_bytes(site: Site) -> None:
    """A result that is just small enough is stored, although it grows."""
    site.apps.append(app := Flask("limits"))
    app.config.update(
        DURABLE_DATABASE_URL=site.url,
        DURABLE_ENCRYPTION_KEYS=NEW,
        DURABLE_MAX_OUTPUT_BYTES=12,
        DURABLE_MAX_JOURNAL_BYTES=24,
        DURABLE_MAX_REQUEST_BYTES=12,
        DURABLE_MAX_RESPONSE_BYTES=12,
        SECRET_KEY="tests",
        TESTING=True,
    )
    durable = FlaskDurable(app)

    @app.post("/work")
    @durable.endpoint
    def work() -> str:
        step.run("one", lambda: "x" * 10)
        step.sleep("nap", 60)
        return step.run("two", lambda: "y" * 10) + "yy"

    answer = app.test_client().post("/work", data=b"z" * 12)
    assert Drive(app).finish(answer).text == "y" * 10 + "yy"


def test_the_same_callback_again_changes_nothing(site: Site) -> None:
    """Although the same data is never encrypted to the same bytes."""
    app = site.start(NEW)
    tokens: list[str] = []

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", lambda: tokens.append(callback.token))
        return [callback.wait()]

    site.work = work
    answer = app.test_client().post("/work")
    url = f"/durable/callbacks/{tokens[0]}"
    post = app.test_client().post
    assert [post(url, json=n).status_code for n in (1, 1, 2)] == [204, 204, 409]
    assert Drive(app).finish(answer).json == [1]


def test_a_duplicate_event_is_left_out(site: Site) -> None:
    """By its mark, which is not encrypted."""
    app = site.start(NEW)
    site.work = lambda: [step.wait_for_event("wait", "paid", key="7")]
    answer = app.test_client().post("/work")
    assert send(app, "paid", key="7", data=1, dedup="a")
    assert not send(app, "paid", key="7", data=1, dedup="a")
    assert Drive(app).finish(answer).json == [1]


# Keys that change


def nap() -> t.Any:
    """Have a step before a nap, and one after it."""
    first = step.run("first", lambda: "first")
    step.sleep("nap", 60)
    return [first, step.run("second", lambda: "second"), request.get_data(as_text=True)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (NEW,)),
        ((OLD,), (NEW, OLD)),
        ((OLD,), (OLD, NEW)),
        ((OLD, NEW), (NEW, OLD)),
    ],
)
def test_what_another_key_encrypted_is_read(
    site: Site, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """Executions go on across a change of keys, and old responses stay."""
    site.work = nap
    app = site.start(*before)
    answer = app.test_client().post("/work", data="body")
    site.work = lambda: "old"
    done = app.test_client().post("/work")
    app = site.start(*after)
    site.work = nap
    assert Drive(app).finish(answer).json == ["first", "second", "body"]
    assert Drive(app).finish(done).text == "old"


def test_the_first_key_encrypts(site: Site) -> None:
    """The others need not be there to read it."""
    app = site.start(NEW, OLD)
    answer = app.test_client().post("/work")
    assert Drive(site.start(NEW)).finish(answer).text == "done"


# Keys that are missing


@pytest.fixture(params=[(), (OTHER,)], ids=["off", "other"])
def wrong(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Give keys that don't fit: none, or another one."""
    return t.cast("tuple[str, ...]", request.param)


def test_an_execution_whose_request_is_unreadable_is_put_off(
    site: Site, wrong: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried, and it goes on when the key is back."""
    site.work = nap
    answer = site.start(OLD).test_client().post("/work", data="body")
    app = site.start(*wrong)
    drive = Drive(app)
    execution_id = answer.headers["Durable-Execution"]

    for _ in range(3):
        drive.advance(61)
        assert drive.run_due() == 1
        assert drive.run_due() == 0
        left = drive.state.upkeep.next_due()
        assert left is not None and 50 < left <= 60

    document = drive.status(answer)
    assert (document["status"], document["attempt"]) == ("suspended", 1)
    assert drive.state.store.execution(execution_id).refusals == 0
    assert f"The request of execution {execution_id} can't be decr" in caplog.text
    says = "none of DURABLE_ENC" if wrong else "DURABLE_ENCRYPTION_KEYS is not set"
    assert says in caplog.text
    back = Drive(site.start(NEW, OLD))
    assert back.finish(answer).json == ["first", "second", "body"]
    assert attempts(back.state, answer) == 2


def test_an_execution_whose_steps_are_unreadable_is_put_off(
    site: Site, wrong: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """As when only some processes have a new key; the attempt ends at once."""
    site.work = nap
    first = site.start(*wrong)
    answer = first.test_client().post("/work", data="body")
    execution_id = answer.headers["Durable-Execution"]
    seal_steps(site)
    drive = Drive(first)

    for attempt in (2, 3):
        drive.advance(61)
        drive.run_due()
        document = drive.status(answer)
        assert (document["status"], document["attempt"]) == ("suspended", attempt)
        assert document["error_type"] == "flask_durable.errors.DecryptionError"
        assert drive.run_due() == 0

    where = f'The output of step "first" of execution {execution_id} can\'t be'
    assert where in caplog.text
    back = Drive(site.start(OLD, *wrong))
    assert back.finish(answer).json == ["first", "second", "body"]


def seal_steps(site: Site) -> None:
    """Store what the first step gave as a process with the old key does."""
    engine = sa.create_engine(site.url)
    sealed = Vault([OLD]).seal(b'"first"')

    with engine.begin() as connection:
        first = steps.update().where(steps.c.id == "first")
        connection.execute(first.values(output=sealed))

    engine.dispose()


def test_an_unreadable_event_is_waited_for_on(
    site: Site, wrong: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The wait neither fails nor runs out, in a branch as well."""

    def work() -> t.Any:
        branches = [
            lambda: step.wait_for_event("wait", "paid", timeout=90),
            lambda: step.run("beside", lambda: "done"),
        ]
        return list(step.parallel(*branches))

    site.work = work
    app = site.start(*wrong)
    answer = app.test_client().post("/work")
    send(site.start(OLD), "paid", data="event")
    drive = Drive(app)

    for _ in range(3):
        assert drive.run_due() == 1
        assert drive.run_due() == 0
        drive.advance(61)

    assert drive.status(answer)["status"] == "suspended"
    assert "goes on waiting: The data of an event of " in caplog.text
    back = Drive(site.start(OLD, *wrong))
    assert back.finish(answer).json == ["event", "done"]


def test_an_event_before_an_unreadable_wait(site: Site, wrong: tuple[str, ...]) -> None:
    """The first look at it puts the execution off, with a mark."""

    def work() -> t.Any:
        send(old, "paid", data="event")
        return step.wait_for_event("wait", "paid")

    old = site.start(OLD)
    site.work = work
    app = site.start(*wrong)
    answer = app.test_client().post("/work")
    assert answer.status_code == 202
    drive = Drive(app)
    assert drive.status(answer)["waiting_for"]["step"] == "wait"
    assert drive.run_due() == 0
    assert Drive(site.start(OLD, *wrong)).finish(answer).text == "event"


def test_an_unreadable_callback_is_no_conflict(
    site: Site, wrong: tuple[str, ...]
) -> None:
    """Nobody knows whether the data is the same: try later."""
    tokens: list[str] = []

    def work() -> t.Any:
        callback = step.callback("approve")
        step.run("mail", lambda: tokens.append(callback.token))
        return [callback.wait()]

    site.work = work
    old = site.start(OLD)
    answer = old.test_client().post("/work")
    url = f"/durable/callbacks/{tokens[0]}"
    assert old.test_client().post(url, json=1).status_code == 204
    refused = site.start(*wrong).test_client().post(url, json=1)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert "can't be decrypted" in t.cast("dict[str, str]", refused.json)["detail"]
    assert Drive(old).finish(answer).json == [1]


def test_an_unreadable_identity_puts_off(site: Site, wrong: tuple[str, ...]) -> None:
    """The replay is answered 503 before its hooks."""
    site.work = nap
    app = site.start(*wrong)
    answer = app.test_client().post("/work", data="body")
    engine = sa.create_engine(site.url)

    with engine.begin() as connection:
        sealed = Vault([OLD]).seal(b'{"user":"ada-identity"}')
        connection.execute(executions.update().values(identity=sealed))

    engine.dispose()
    drive = Drive(app)

    for _ in range(3):
        drive.advance(61)
        drive.run_due()

    execution = drive.state.store.execution(answer.headers["Durable-Execution"])
    assert (execution.attempt, execution.refusals) == (1, 0)
    assert Drive(site.start(OLD, *wrong)).finish(answer).status_code == 200


def test_an_unreadable_response_is_503(site: Site, wrong: tuple[str, ...]) -> None:
    """The status can be read all the same."""
    answer = site.start(OLD).test_client().post("/work")
    drive = Drive(site.start(*wrong))
    document = drive.status(answer)
    assert document["status"] == "completed"
    refused = drive.app.test_client().get(document["response_url"])
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.mimetype == "application/problem+json"


def test_an_unreadable_error_hides_nothing_else(
    site: Site, wrong: tuple[str, ...]
) -> None:
    """The status document has all but the error's type."""

    def fail() -> t.NoReturn:
        raise LookupError("secret")

    site.work = fail
    answer = site.start(OLD).test_client().post("/work")
    document = Drive(site.start(*wrong)).status(answer)
    assert document["status"] == "failed"
    assert document["error_type"] == "flask_durable.errors.DecryptionError"
    document = Drive(site.start(OLD)).status(answer)
    assert document["error_type"] == "LookupError"


def test_an_execution_of_another_app_is_left_to_it(site: Site) -> None:
    """Its keys need not be ours."""
    site.work = nap
    app = site.start(OLD)
    answer = app.test_client().post("/work")
    drive = Drive(app)
    drive.advance(61)
    app = site.start(OTHER, name="bank")
    due = drive.state.upkeep.next_due()
    execution_id = answer.headers["Durable-Execution"]
    assert replay(app, execution_id, 2).startswith("is passed over")
    assert due is not None and due <= 0
    assert drive.run_due() == 1


def test_the_error_is_a_class_of_its_own(site: Site) -> None:
    """Those who handle a journal that can't be used handle it, too."""
    answer = site.start(OLD).test_client().post("/work")
    app = site.start(NEW)
    execution_id = answer.headers["Durable-Execution"]

    with pytest.raises(DecryptionError, match=rf"response of execution {execution_id}"):
        get_state(app).store.response(execution_id)


# The mark


BODIES = [
    b"",
    b"{}",
    MARK,
    MARK + b"1",
    MARK + b"9x",
    PLAIN,
    SEALED + b"x" * 99,
    b"\xff",
]


@pytest.mark.parametrize("keys", [(), (OLD,)])
@pytest.mark.parametrize("value", BODIES)
def test_a_value_round_trips(value: bytes, keys: tuple[str, ...]) -> None:
    """Also one that begins with the mark, and once keys are there."""
    stored = Vault(keys).seal(value)
    assert Vault(keys).open(stored) == value
    assert Vault([NEW, OLD]).open(stored) == value


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff\xfe", MARK[:2]])
def test_without_keys_values_stay_as_they_are(value: bytes) -> None:
    """As they were before there was encryption."""
    assert Vault().seal(value) is value
    assert Vault().open(value) is value


@pytest.mark.parametrize("keys", [(), (OTHER,)])
def test_what_no_key_fits_is_not_given(keys: tuple[str, ...]) -> None:
    """Nor what was damaged or cut off."""
    stored = Vault([OLD]).seal(b"value")
    assert Vault(keys).open(stored) is None
    damaged = bytearray(stored)
    damaged[20] ^= 1

    for bad in (bytes(damaged), stored[:-1], stored[:4], MARK, MARK + b"2"):
        assert Vault([OLD]).open(bad) is None


def test_the_same_value_is_never_stored_alike() -> None:
    """So nobody sees which values are the same."""
    vault = Vault([OLD])
    assert vault.seal(b"value") != vault.seal(b"value")


@pytest.mark.parametrize("body", [MARK, SEALED + b"x" * 99, PLAIN])
def test_a_body_that_begins_with_the_mark_comes_back(site: Site, body: bytes) -> None:
    """Written without keys, read with them; the answer as well."""

    def work() -> bytes:
        step.sleep("nap", 60)
        return request.get_data()

    site.work = work
    answer = site.start().test_client().post("/work", data=body)
    assert Drive(site.start(NEW)).finish(answer).data == body
    done = site.start().test_client().post("/work", data=body)
    assert Drive(site.apps[0]).finish(done).data == body
    assert Drive(site.apps[1]).finish(done).data == body


# Settings


@pytest.mark.parametrize(
    "value",
    [
        [OLD, NEW],
        (OLD, NEW),
        f"{OLD},{NEW}",
        f" {OLD} , {NEW}\n",
        [OLD.encode(), NEW.encode()],
    ],
    ids=["list", "tuple", "text", "blanks", "bytes"],
)
def test_keys_are_a_list_or_text_with_commas(value: t.Any) -> None:
    """As the environment gives them."""
    config = Config.from_mapping({"DURABLE_ENCRYPTION_KEYS": value})
    assert config.encryption_keys == (OLD, NEW)
    assert OLD not in repr(config)


def test_none_turns_encryption_off() -> None:
    """It is the default, too."""
    config = Config.from_mapping({"DURABLE_ENCRYPTION_KEYS": None})
    assert config == Config() and not Vault(config.encryption_keys).locked


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a list of Fernet keys, newest first, or None"),
        (5, "must be a list of Fernet keys"),
        ({OLD: 1}, "must be a list of Fernet keys"),
        ("", "key 1 of 1 is no Fernet key"),
        (f"{OLD},", "key 2 of 2 is no Fernet key"),
        ([OLD, OLD[:-5]], "key 2 of 2 is no Fernet key"),
        ([OLD, "hunter2"], "key 2 of 2 is no Fernet key"),
        ([None], "key 1 of 1 is no Fernet key"),
        (["schlüssel"], "key 1 of 1 is no Fernet key"),
    ],
    ids=map(str, range(9)),
)
def test_wrong_keys_are_refused(value: t.Any, message: str) -> None:
    """With the setting and the command that makes a key, and without the value."""
    app = Flask(__name__)
    app.config["DURABLE_ENCRYPTION_KEYS"] = value

    with pytest.raises(ConfigError, match=f"^DURABLE_ENC.*{message}") as caught:
        FlaskDurable(app)

    assert "python -c 'from cryptography.fernet import" in str(caught.value)
    assert OLD[:9] not in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only those who encrypt need it."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    assert Config.from_mapping({}) == Config()

    with pytest.raises(ConfigError, match="pip install 'Flask-Durable.crypto.'"):
        Config.from_mapping({"DURABLE_ENCRYPTION_KEYS": [OLD]})
