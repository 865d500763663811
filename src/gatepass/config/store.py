"""`store`: what gatepass processes share, so that they are one towards an issuer."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from gatepass.config.block import Block, Seconds, SecretText
from gatepass.config.credential.base import checked_extra
from gatepass.config.network import TlsFiles
from gatepass.config.url import is_loopback
from gatepass.types import Secret

SCHEMES = ("valkey", "valkeys", "redis", "rediss")
OVER_TLS = ("valkeys", "rediss")
SHORTEST_KEY_CHARS = 32
KEY_PREFIX = r"^[!-~]{0,64}$"
_DATABASE = re.compile(r"/?|/[0-9]{1,4}")
_DEFAULT_PORT = 6379


def checked_store_url(text: str) -> str:
    """`text` itself; raises ValueError where it is none of the forms of `Store.url`. It is never quoted."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port is malformed") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password: put them into store.username and store.password")
    whole = parts.scheme in SCHEMES and parts.hostname and port != 0 and _DATABASE.fullmatch(parts.path)
    if not whole or parts.query or parts.fragment or any(not "!" <= c <= "~" for c in text):
        raise ValueError("expects valkey://host:6379/0, with TLS valkeys://host:6379/0 (redis:// and rediss:// too)")
    return text


class StoreSettings(Block):
    """A Valkey or Redis server that several gatepass processes use."""

    url: Annotated[str, AfterValidator(checked_store_url)]
    """`valkey://host:6379/0`, or with TLS `valkeys://…`; `redis://` and `rediss://` say the same."""
    encryption_key: SecretText
    """What all that lies in the store is encrypted with, at least 32 characters; the same for all who share."""
    username: str | None = None
    """The user to sign in as; None is the server's default user."""
    password: SecretText | None = None
    """Its password, best by reference."""
    key_prefix: Annotated[str, Field(pattern=KEY_PREFIX)] = "gatepass:"
    """What the names of all keys in the store begin with."""
    timeout_s: Annotated[Seconds, Field(le=5.0)] = 0.25
    """Seconds for one request of the store; then gatepass goes on without it."""
    network: TlsFiles = TlsFiles()
    """The files of TLS alone: no HTTP proxy leads to a store."""
    allow_plain_tcp: bool = False
    """Send the password without TLS beyond loopback."""

    @field_validator("url")
    @classmethod
    def _installed(cls, url: str) -> str:
        for module in ("valkey", "cryptography"):
            checked_extra(module, "valkey", "a shared store")
        return url

    @field_validator("encryption_key")
    @classmethod
    def _long_enough(cls, key: Secret) -> Secret:
        if len(key.reveal()) < SHORTEST_KEY_CHARS:
            raise ValueError(f"is shorter than {SHORTEST_KEY_CHARS} characters: `openssl rand -hex 32` makes one")
        return key

    @model_validator(mode="after")
    def _fits_together(self) -> StoreSettings:
        if self.username is not None and self.password is None:
            raise ValueError("username needs password beside it")
        if self.network != TlsFiles() and not self.tls:
            raise ValueError("network holds files of TLS, and url has none: write valkeys://")
        if self.password is not None and not (self.tls or self.allow_plain_tcp or is_loopback(self.host)):
            raise ValueError(
                "would send the password over plain TCP to another machine: write valkeys://, or set allow_plain_tcp"
            )
        return self

    @property
    def tls(self) -> bool:
        return urlsplit(self.url).scheme in OVER_TLS

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or _DEFAULT_PORT

    @property
    def database(self) -> int:
        return int(urlsplit(self.url).path.strip("/") or 0)
