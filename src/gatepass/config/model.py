"""The configuration as one tree of frozen values: what may be written, its defaults and its units.

Every class is one block of the file. Unknown members are errors. Fields that hold a
secret have the type `Secret`; `references.py` says how `${ENV}` and `${file:…}` become one.

`store`: what gatepass processes share, so that they are one towards an issuer.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from gatepass.config.access import Access, Profile
from gatepass.config.block import BASE_PATH, MIB, Block, Bytes, Name, Seconds, SecretText, is_loopback
from gatepass.config.credential.base import checked_extra
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.network import TlsFiles
from gatepass.config.routes import Model, OperationName, OperationRoute
from gatepass.config.upstream import UpstreamConfig
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


OTHER_DESCRIPTORS = 64
"""For the listening socket, token endpoints, the store, the log and the pages of workers."""


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError("expects an address or a network, such as 10.0.0.7 or 10.0.0.0/8, without host bits") from None
    return text


IpNetwork = Annotated[str, AfterValidator(_network)]


class ServerConfig(Block):
    host: str = "127.0.0.1"
    """The address to listen on. Anything wider than loopback wants keys under `access`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 picks a free one and says which."""
    base_path: Annotated[str, Field(pattern=BASE_PATH)] = ""
    """A prefix in front of every path, such as `/llm`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve on one socket; they share tokens, see `store`."""
    trusted_proxies: list[IpNetwork] = []
    """Addresses and networks of proxies whose X-Forwarded-For names the client, for limits per address."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which gatepass serves on while /readyz is red, for balancers that poll it."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running streams may go on after SIGTERM and `drain_delay_s`."""


class Limits(Block):
    body_bytes: Bytes = 32 * MIB
    """The largest request body."""
    upload_bytes: Bytes = 512 * MIB
    """The largest multipart form, which passes through and is not held."""
    reply_bytes: Bytes = 64 * MIB
    """The largest plain reply of an upstream; it is held whole to be judged."""
    held_bytes: Bytes = 512 * MIB
    """Request bodies and whole replies in memory, in total; a request whose body does not fit is 503 `overloaded`."""
    event_bytes: Bytes = 32 * MIB
    """The largest single event of a stream; also as much as an upstream may send between two without an event."""
    connections: Annotated[int, Field(gt=0)] = 4000
    """Requests under way at once; one more is 503 `overloaded`, unless it is its caller's only one."""
    unauthenticated_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections without an authenticated request, beside `connections`; None: a quarter of `connections`."""
    receive_s: Seconds = 20.0
    """Seconds that a client may take to send its head, and again its body."""
    upload_bytes_per_s: Bytes = 1024
    """The least bytes a second, on average, at which a client may send a form; receive_s come on top."""
    send_stall_s: Seconds = 300.0
    """Seconds for which a client may take nothing of what is written to it."""

    @property
    def unauthenticated(self) -> int:
        """How many connections are kept for clients that have not authenticated."""
        return self.unauthenticated_connections or max(1, self.connections // 4)


class Log(Block):
    format: Literal["json", "text"] = "json"
    """One JSON object per line, or text for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least weight of what is logged."""
    bodies: bool = False
    """Log request and reply bodies, masked and cut at 2,000 characters. For hunting a fault only."""


class Config(Block):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    """Where gatepass listens and how it stops."""
    limits: Limits = Limits()
    """Bounds on what one client or upstream may take."""
    credentials: dict[Name, AnyCredential] = {}
    """Where tokens come from, by name."""
    upstreams: Annotated[dict[Name, UpstreamConfig], Field(min_length=1)]
    """The servers behind gatepass, by name; at least one."""
    operations: dict[OperationName, OperationRoute] = {}
    """What is different for one operation, and where models go in it that no entry of `models` names."""
    models: dict[str, Model] = {}
    """Public model names or globs. An exact name beats the longest glob, which beats `*`."""
    profiles: dict[Name, Profile] = {}
    """What clients need beyond the plain API, by name."""
    access: Access = Access()
    """Who may come in."""
    store: StoreSettings | None = None
    """A server through which independent gatepass processes share; None: each for itself."""
    log: Log = Log()
    """What is written about each request."""

    @property
    def descriptors(self) -> int:
        """The most file descriptors that one process needs: clients, upstreams, and OTHER_DESCRIPTORS."""
        limits, callers = self.limits, self.access.callers
        upstream = sum(upstream.max_connections or limits.connections for upstream in self.upstreams.values())
        requests = limits.connections + callers
        return requests + limits.unauthenticated + min(requests, upstream) + OTHER_DESCRIPTORS
