"""Encryption at rest, by the keys of ``DURABLE_ENCRYPTION_KEYS``.

A value of the journal is stored as it is, or after a mark: encrypted, or, if it
happens to begin with the mark itself, as a plain one that says so. So what was
written before encryption was turned on can be read, and nothing is taken for what
it is not.
"""

from __future__ import annotations

import base64
import collections.abc as cabc
import typing as t

from .errors import ConfigError

if t.TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

MARK = b"\xffFD"
"""No text in UTF-8 begins so, hence no JSON; bodies of requests may."""

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
        """Give what is stored for a value: itself, without a mark and keys."""
        if self._fernet is not None:
            # Fernet's text is a third longer than the bytes that it stands for.
            return SEALED + base64.urlsafe_b64decode(self._fernet.encrypt(value))

        return PLAIN + value if value.startswith(MARK) else value

    def open(self, stored: bytes) -> bytes | None:
        """Give a value from what is stored; nothing if none of the keys fits."""
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
    """Give a key without the blanks around it; what is no key becomes none."""
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    return text.strip() if isinstance(text, str) else ""


def _fernet(keys: cabc.Iterable[str]) -> MultiFernet:
    # Only those who encrypt have the package.
    from cryptography.fernet import Fernet
    from cryptography.fernet import MultiFernet

    return MultiFernet([Fernet(key) for key in keys])
