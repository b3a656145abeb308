"""Encryption at rest, by the keys of ``DURABLE_ENCRYPTION_KEYS``.

An encrypted value is stored after a mark, a plain one as it is. Only if a plain one
happens to begin with the mark itself, it is stored after a mark that says that it is
plain. So values from before encryption was turned on stay readable, and no plain value
is taken for an encrypted one.
"""

from __future__ import annotations

import base64
import collections.abc as cabc
import typing as t

from .errors import ConfigError

if t.TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

MARK = b"\xffFD"
"""No UTF-8 text begins like this, so no JSON does; bodies of requests may."""

PLAIN = MARK + b"0"
SEALED = MARK + b"1"

MAKE_KEY = (
    "python -c 'from cryptography.fernet import Fernet;"
    " print(Fernet.generate_key().decode())'"
)
"""The command that makes a key."""


class Vault:
    """Encrypts what is stored with the first of some keys; any of them decrypts.

    :param keys: Fernet keys; without any, values are stored as they are
    """

    def __init__(self, keys: cabc.Sequence[str] = ()) -> None:
        self.locked = bool(keys)
        self._fernet = _fernet(keys) if keys else None

    def seal(self, value: bytes) -> bytes:
        """Return the bytes to store for a value."""
        if self._fernet is not None:
            # As bytes: Fernet's base64 text is a third longer.
            return SEALED + base64.urlsafe_b64decode(self._fernet.encrypt(value))

        return PLAIN + value if value.startswith(MARK) else value

    def open(self, stored: bytes) -> bytes | None:
        """Return the value of stored bytes, or ``None`` if none of the keys fits."""
        if not stored.startswith(MARK):
            return stored

        if stored.startswith(PLAIN):
            return stored[len(PLAIN) :]

        if self._fernet is None:
            return None

        from cryptography.fernet import InvalidToken

        try:
            token = base64.urlsafe_b64encode(stored[len(SEALED) :])
            return self._fernet.decrypt(token)
        except InvalidToken:
            return None


def check_keys(name: str, value: t.Any) -> tuple[str, ...]:
    """Read the keys of a setting: a list, or text with commas between them.

    :param name: the setting's name; no message shows its value
    :raises ConfigError: if they are no keys, or encryption is not installed
    """
    if isinstance(value, str):
        value = value.split(",")

    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(
            f"{name} must be a list of Fernet keys, newest first, or None to turn"
            f" encryption off. Make a key with: {MAKE_KEY}"
        )

    keys = tuple(_text(key) for key in value)

    for number, key in enumerate(keys, 1):
        try:
            _fernet([key])
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{name} needs {error.name}, which is not installed:"
                " pip install 'Flask-Durable[crypto]'."
            ) from None
        except ValueError:
            raise ConfigError(
                f"{name}: key {number} of {len(keys)} is no Fernet key, which is 32"
                f" bytes in URL-safe base64. Make one with: {MAKE_KEY}"
            ) from None

    return keys


def _text(key: t.Any) -> str:
    """Return a key as text without surrounding blanks; empty if it is no text."""
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    return text.strip() if isinstance(text, str) else ""


def _fernet(keys: cabc.Iterable[str]) -> MultiFernet:
    # The package is installed only where encryption is used.
    from cryptography.fernet import Fernet
    from cryptography.fernet import MultiFernet

    return MultiFernet([Fernet(key) for key in keys])
