"""The settings."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t

import pytest

from flask_durable.config import Config
from flask_durable.errors import ConfigError
from flask_durable.retry import Retry

SIZES = ["REQUEST", "OUTPUT", "RESPONSE", "JOURNAL"]

NO_REDIS: list[t.Any] = [
    "",
    "localhost:6379",
    "http://h",
    "redis://h:x",
    "redis//h",
    5,
]

NO_QUEUE: list[t.Any] = ["", "a b", "a/b", "a\n", 5]

NO_SERVER: list[t.Any] = [
    "",
    "127.0.0.1:8000",
    "ftp://h",
    "http://",
    "http:///x",
    "http://[",
    "http://h:x",
    "http://h:0",
    5,
]

NO_PATH = ["http://h/shop", "http://h/?a", "http://h?a", "http://h#a", "http://u:p@h"]


def read(**values: t.Any) -> Config:
    """Read settings, given without their prefix."""
    return Config.from_mapping(
        {f"DURABLE_{key}": value for key, value in values.items()}
    )


def test_without_settings_there_are_defaults() -> None:
    """Those that the contract names."""
    config = Config.from_mapping({})
    assert config.database_url is None
    assert (config.lease, config.inline_retry, config.replay_threads) == (15, 1, 4)
    assert config.retry == Retry()
    assert (config.redis_url, config.replay_url) == (None, None)
    assert (config.queue, config.replay_timeout) == ("durable", 30)
    assert config.create_tables and not config.strict_replay
    assert config.max_journal_bytes == 16 * config.max_output_bytes == 64 * 2**20


def test_a_setting_that_is_none_is_not_set() -> None:
    """As a factory may pass on what it has not."""
    assert read(LEASE=None, DATABASE_URL=None, RETRY=None) == Config()


def test_others_settings_are_left_alone() -> None:
    """Flask's, and those of other extensions, even with a similar name."""
    others = {"SECRET_KEY": "x", "DEBUG": 1, "DURABLES": 2, "durable_lease": 3}
    assert Config.from_mapping(others) == Config()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("DURABLE_LEASES", "Did you mean DURABLE_LEASE[?]"),
        ("DURABLE_lease", "Did you mean DURABLE_LEASE[?]"),
        ("DURABLE_MAX_BYTES", "Did you mean DURABLE_MAX_[A-Z]+_BYTES[?]"),
        (
            "DURABLE_KKKKKKKKKKKKKKKKKKKKKKKKK",
            "KKK is not a setting of flask_durable[.]$",
        ),
        ("DURABLE_", "DURABLE_ is not a setting"),
    ],
)
def test_an_unknown_key_is_refused(key: str, message: str) -> None:
    """With the one that was meant, if it can be guessed."""
    with pytest.raises(ConfigError, match=message):
        Config.from_mapping({key: 1})


@pytest.mark.parametrize("key", ["LEASE", "INLINE_RETRY", "REPLAY_TIMEOUT"])
@pytest.mark.parametrize("value", [20, 20.0, dt.timedelta(seconds=20)])
def test_a_time_is_seconds_or_a_timedelta(key: str, value: t.Any) -> None:
    """Both become a number."""
    assert getattr(read(**{key: value}), key.lower()) == 20.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LEASE", "15", "a number of seconds or a timedelta, not '15'"),
        ("LEASE", True, "a number of seconds or a timedelta, not True"),
        ("LEASE", 0.4, "a time of at least 0.5 seconds, not 0.4"),
        ("LEASE", dt.timedelta(milliseconds=1), "a time of at least 0.5 seconds"),
        ("LEASE", float("nan"), "at most a hundred years"),
        ("INLINE_RETRY", -1, "a time of at least 0 seconds"),
        ("INLINE_RETRY", float("inf"), "at most a hundred years"),
        ("REPLAY_THREADS", 0, "a whole number of at least 1, not 0"),
        ("REPLAY_THREADS", 1.0, "a whole number of at least 1, not 1.0"),
        ("STRICT_REPLAY", 1, "true or false, not 1"),
        ("STRICT_REPLAY", "yes", "true or false, not 'yes'"),
        ("CREATE_TABLES", 0, "true or false, not 0"),
        ("CREATE_TABLES", "False", r"\(write false, in lower case\), not 'False'"),
        ("CONSOLE", "True", r"\(write true, in lower case\), not 'True'"),
        ("RETRY", 5, "a Retry, or a mapping of its parameters"),
        ("RETRY", {"attempts": 5}, "unexpected keyword argument 'attempts'"),
        ("RETRY", {"jitter": 2}, "jitter must be a share from 0 to 1"),
        ("URL_PREFIX", "durable", 'a path that begins with "/"'),
        ("URL_PREFIX", "/", 'a path that begins with "/"'),
        ("URL_PREFIX", "//", 'a path that begins with "/"'),
        ("URL_PREFIX", 5, 'a path that begins with "/"'),
        *[("URL_PREFIX", f"/d{c}", f'in a URL, without "{c}"') for c in "<>#% "],
        ("URL_PREFIX", "/d?x", 'a path as it stands in a URL, without "[?]"'),
        *[("REDIS_URL", v, "must be a Redis URL, such as redis://") for v in NO_REDIS],
        *[("QUEUE", v, 'a name of letters, digits, "_", ".",') for v in NO_QUEUE],
        *[("REPLAY_URL", v, "must be the address of a server") for v in NO_SERVER],
        *[("REPLAY_URL", v, "without a user, path or query") for v in NO_PATH],
        ("REPLAY_TIMEOUT", 0, "a time of at least 0.1 seconds, not 0"),
        ("REPLAY_TIMEOUT", "30", "a number of seconds or a timedelta, not '30'"),
        ("REPLAY_TIMEOUT", float("inf"), "at most a hundred years"),
        ("DATABASE_URL", "", "is not a database URL"),
        ("DATABASE_URL", "journal.db", "is not a database URL"),
        ("DATABASE_URL", 5, "is not a database URL"),
        ("DATABASE_URL", "postgresql://ada@host:port/db", "is not a database URL"),
        *[(f"MAX_{n}_BYTES", 0, "a whole number of bytes, at least 1") for n in SIZES],
        *[(f"MAX_{n}_BYTES", 1e6, "a whole number of bytes") for n in SIZES],
        *[(f"MAX_{n}_BYTES", True, "a whole number of bytes") for n in SIZES],
    ],
)
def test_a_wrong_value_is_refused(key: str, value: t.Any, message: str) -> None:
    """The message has the key and what it takes."""
    with pytest.raises(ConfigError, match=f"^DURABLE_{key}.*{message}"):
        read(**{key: value})


def test_a_database_url_without_a_driver_is_taken() -> None:
    """As platforms hand it out."""
    found = read(DATABASE_URL="postgresql://ada@host/db").database_url
    assert found == "postgresql+psycopg://ada@host/db"


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("DATABASE_URL", "ada:hunter2@host/db"),
        ("REDIS_URL", "ada:hunter2@host/0"),
        ("REDIS_URL", "reddis://:hunter2@host/0"),
        ("REDIS_URL", "redis://:hunter2@host:port/0"),
        ("REPLAY_URL", "http://ada:hunter2@host"),
        ("REPLAY_URL", "htp://ada:hunter2@host"),
    ],
)
def test_a_wrong_url_is_not_shown(key: str, url: str) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigError, match=f"^DURABLE_{key}") as caught:
        read(**{key: url})

    assert "hunter2" not in str(caught.value)


def test_a_url_keeps_its_password() -> None:
    """The journal needs it."""
    url = "postgresql+psycopg://ada:hunter2@host/db"
    assert read(DATABASE_URL=url).database_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:hunter2@localhost:6379/0",
        "rediss://ada:hunter2@cache.example:6380/1?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_a_redis_url_is_kept(url: str) -> None:
    """As redis-py reads it."""
    assert read(REDIS_URL=url).redis_url == url


@pytest.mark.parametrize("name", ["durable", "trips-2", "a.b:c", "Übung"])
def test_a_queue_has_a_name(name: str) -> None:
    """RQ makes keys of it."""
    assert read(QUEUE=name).queue == name


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://app.internal", "https://app.internal"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("HTTP://web", "http://web"),
    ],
)
def test_a_replay_url_is_a_server(url: str, kept: str) -> None:
    """The path is the captured request's."""
    assert read(REPLAY_URL=url).replay_url == kept


def test_a_retry_may_be_a_mapping() -> None:
    """As the environment gives it, in JSON."""
    wanted = Retry(3, initial=2)
    assert read(RETRY={"max_attempts": 3, "initial": 2}).retry == wanted
    assert read(RETRY=wanted).retry is wanted


PSYCOPG = "postgresql+psycopg://ada@host/db"


@pytest.mark.parametrize("value", ["none", "0", "5", "100"])
def test_a_url_may_say_when_statements_are_prepared(value: str) -> None:
    """Never, or after so many uses."""
    url = f"{PSYCOPG}?prepare_threshold={value}"
    assert read(DATABASE_URL=url).database_url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"{PSYCOPG}?prepare_threshold=off", "'off'.*a whole number of uses .*none"),
        (f"{PSYCOPG}?prepare_threshold=None", "'None'.* or none, so that none"),
        (f"{PSYCOPG}?prepare_threshold=-1", "'-1'.*a whole number"),
        (f"{PSYCOPG}?prepare_threshold=1.5", "'1.5'.*a whole number"),
        (f"{PSYCOPG}?prepare_threshold=1&prepare_threshold=2", "'1', '2'.*a whole"),
        ("sqlite:////x.db?prepare_threshold=none", "only the driver psycopg knows"),
    ],
)
def test_a_wrong_time_to_prepare_is_refused(url: str, message: str) -> None:
    """With what is taken."""
    with pytest.raises(ConfigError, match=f"^DURABLE_DATABASE_URL has .*{message}"):
        read(DATABASE_URL=url)


def test_a_prefix_loses_its_last_slash() -> None:
    """Routes add their own."""
    assert read(URL_PREFIX="/ops/durable/").url_prefix == "/ops/durable"


def test_settings_are_frozen() -> None:
    """They are read once."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(Config(), "lease", 1)  # noqa: B010
