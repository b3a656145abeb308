"""The settings, read once from ``app.config`` into a frozen object."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import datetime as dt
import difflib
import re
import typing as t
import urllib.parse

import sqlalchemy as sa
from sqlalchemy import exc

from .clock import duration
from .errors import ConfigError
from .retry import Retry
from .vault import check_keys

PREFIX = "DURABLE_"
MEBIBYTE = 1024 * 1024

PREPARE = "prepare_threshold"
"""A parameter that a URL may have for psycopg; libpq does not know it."""

Reader = cabc.Callable[[str, t.Any], t.Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one app; each field is the key ``DURABLE_<FIELD>``.

    Durations are in seconds, sizes in bytes.
    """

    database_url: str | None = None
    redis_url: str | None = None
    queue: str = "durable"
    url_prefix: str = "/durable"
    replay_url: str | None = None
    replay_timeout: float = 30.0
    replay_threads: int = 4
    lease: float = 15.0
    retry: Retry = Retry()
    inline_retry: float = 1.0
    max_wait: float = 20.0
    max_request_bytes: int = 4 * MEBIBYTE
    max_output_bytes: int = 4 * MEBIBYTE
    max_response_bytes: int = 4 * MEBIBYTE
    max_journal_bytes: int = 64 * MEBIBYTE
    retention: float = 7 * 86_400.0
    strict_replay: bool = False
    create_tables: bool = True
    console: bool = False
    encryption_keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @classmethod
    def from_mapping(cls, values: cabc.Mapping[str, t.Any]) -> Config:
        """Read and check every ``DURABLE_`` key of an app's config.

        :raises ConfigError: if a key is unknown or its value is wrong
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        found = {}

        for key, value in values.items():
            if not key.startswith(PREFIX):
                continue

            name = key.removeprefix(PREFIX).lower()

            if name not in fields or key != key.upper():
                raise ConfigError(_unknown(key, fields))

            if value is not None:
                found[name] = _read(name, key, value)

        return cls(**found)


def _read(name: str, key: str, value: t.Any) -> t.Any:
    reader: Reader = _READERS.get(name, _number_of_bytes)
    return reader(key, value)


def _unknown(key: str, names: cabc.Iterable[str]) -> str:
    wanted = key.removeprefix(PREFIX).lower()
    close = difflib.get_close_matches(wanted, names, 1, cutoff=0.7)
    hint = f" Did you mean {PREFIX}{close[0].upper()}?" if close else ""
    return f"{key} is not a setting of flask_durable.{hint}"


def _wrong(key: str, value: t.Any, wanted: str) -> ConfigError:
    return ConfigError(f"{key} must be {wanted}, not {value!r}.")


def _duration(key: str, value: t.Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | dt.timedelta):
        raise _wrong(key, value, "a number of seconds or a timedelta")

    try:
        seconds = duration(value)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None

    if seconds < least:
        raise _wrong(key, value, f"a time of at least {least:g} seconds")

    return seconds


def _lease(key: str, value: t.Any) -> float:
    return _duration(key, value, least=0.5)


def _integer(key: str, value: t.Any, wanted: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(key, value, wanted)

    return value


def _number_of_bytes(key: str, value: t.Any) -> int:
    return _integer(key, value, "a whole number of bytes, at least 1")


def _count(key: str, value: t.Any) -> int:
    return _integer(key, value, "a whole number of at least 1")


def _flag(key: str, value: t.Any) -> bool:
    if not isinstance(value, bool):
        wanted = "true or false"

        # As in JSON, which is how Flask parses environment variables.
        if (meant := str(value).lower()) in {"true", "false"}:
            wanted += f" (write {meant}, in lower case)"

        raise _wrong(key, value, wanted)

    return value


def _retry(key: str, value: t.Any) -> Retry:
    if isinstance(value, Retry):
        return value

    try:
        return Retry(**{str(name).lower(): part for name, part in value.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{key} must be a Retry, or a mapping of its parameters: {error}."
        ) from None


def _database_url(key: str, value: t.Any) -> str:
    try:
        url = sa.make_url(value)
    except (exc.ArgumentError, ValueError):
        raise ConfigError(
            f"{key} is not a database URL, such as sqlite:////var/lib/app.db."
        ) from None

    if url.drivername == "postgresql":
        # Hosting platforms give URLs like this; SQLAlchemy would use another driver.
        url = url.set(drivername="postgresql+psycopg")

    check_database(url)
    return url.render_as_string(hide_password=False)


def check_database(url: sa.URL, setting: str = "DURABLE_DATABASE_URL") -> None:
    """Make sure that the journal can live in a URL's database.

    :param setting: where it is from
    :raises ConfigError: if it can't
    """
    backend = url.get_backend_name()

    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(
            f"The journal can't live in {backend!r}: {setting} takes"
            " SQLite (sqlite:///…) and PostgreSQL (postgresql+psycopg://…)."
        )

    if backend == "postgresql" and url.get_driver_name() != "psycopg":
        raise ConfigError(
            f"The journal can't use {url.get_driver_name()}: write"
            " postgresql+psycopg://…, and pip install 'Flask-Durable[postgres]'."
        )

    try:
        url.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{setting} needs {error.name}, which is not installed:"
            " pip install 'Flask-Durable[postgres]'."
        ) from None

    name = url.database or ":memory:"
    in_memory = ":memory:" in name or "mode=memory" in name

    if backend == "sqlite" and (in_memory or url.query.get("mode") == "memory"):
        raise ConfigError(
            f"{setting} names a SQLite database in memory, which dies"
            " with its connection: name a file, as in sqlite:////var/lib/app.db."
        )

    if PREPARE in url.query:
        prepare_threshold(url)


def prepare_threshold(url: sa.URL) -> int | None:
    """Read after how many uses psycopg is to prepare a statement; ``None`` is never.

    :raises ConfigError: if it is neither a number nor ``none``, or for another driver
    """
    value = url.query[PREPARE]

    if url.get_driver_name() != "psycopg":
        raise ConfigError(
            f"DURABLE_DATABASE_URL has {PREPARE}, which only the driver psycopg knows:"
            " begin the URL with postgresql+psycopg://."
        )

    if value == "none":
        return None

    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)

    raise ConfigError(
        f"DURABLE_DATABASE_URL has {PREPARE}={value!r}: it must be a whole number of"
        " uses after which a statement is prepared, or none, so that none ever is."
    )


def _redis_url(key: str, value: t.Any) -> str:
    wanted = "a Redis URL, such as redis://localhost:6379/0"

    # Redis takes 0.2 s to import, and only those who set this need it.
    from redis.connection import parse_url

    try:
        t.cast(t.Any, parse_url)(value)
    except (AttributeError, TypeError, ValueError) as error:
        # The value may have a password in it.
        reason = f" ({error})" if isinstance(error, ValueError) else ""
        raise ConfigError(f"{key} must be {wanted}{reason}.") from None

    return t.cast(str, value)


def _split_server(url: t.Any) -> urllib.parse.SplitResult | None:
    """Return the parts of a URL, if it can be the URL of a web server."""
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except (AttributeError, TypeError, ValueError):
        return None

    return parts if known else None


def _replay_url(key: str, value: t.Any) -> str:
    wanted = "the address of a server of the app, such as http://127.0.0.1:8000"
    parts = _split_server(value)

    if parts is None:
        # The value may have a password in it.
        raise ConfigError(f"{key} must be {wanted}.")

    if parts.username or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(
            f"{key} must be {wanted}, without a user, path or query: the path"
            " is the one of the captured request."
        )

    return f"{parts.scheme}://{parts.netloc}"


def _replay_timeout(key: str, value: t.Any) -> float:
    return _duration(key, value, least=0.1)


def _queue(key: str, value: t.Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.:-]+", value):
        raise _wrong(key, value, 'a name of letters, digits, "_", ".", ":" and "-"')

    return value


def _url_prefix(key: str, value: t.Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or not value.strip("/"):
        raise _wrong(key, value, 'a path that begins with "/", such as "/durable"')

    # Characters with a meaning in URL rules, or in other parts of a URL.
    if found := re.search(r"[<>?#%\\|\s]", value):
        wanted = f'a path as it stands in a URL, without "{found[0]}"'
        raise _wrong(key, value, wanted)

    return value.rstrip("/")


_READERS: dict[str, Reader] = {
    "database_url": _database_url,
    "redis_url": _redis_url,
    "queue": _queue,
    "replay_url": _replay_url,
    "replay_timeout": _replay_timeout,
    "url_prefix": _url_prefix,
    "replay_threads": _count,
    "lease": _lease,
    "retry": _retry,
    "inline_retry": _duration,
    "max_wait": _duration,
    "retention": _duration,
    "strict_replay": _flag,
    "create_tables": _flag,
    "console": _flag,
    "encryption_keys": check_keys,
}
