"""`Config`: the whole configuration as one tree of frozen pydantic models, with `server`, `limits`, `store` and `log`.

Each class is one block of the file, and an unknown member is an error. The string below a field is its description in
`gatepass schema`. Fields that hold a secret have the type `Secret`.
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
    """Return `text`; raise ValueError, which does not quote it, if it is not a store URL."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port is malformed") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password: put them into store.username and store.password")
    is_complete = parts.scheme in SCHEMES and parts.hostname and port != 0 and _DATABASE.fullmatch(parts.path)
    if not is_complete or parts.query or parts.fragment or any(not "!" <= c <= "~" for c in text):
        raise ValueError("expects valkey://host:6379/0, with TLS valkeys://host:6379/0 (redis:// and rediss:// too)")
    return text


class StoreSettings(Block):
    """A Valkey or Redis server that several gatepass processes share."""

    url: Annotated[str, AfterValidator(checked_store_url)]
    """`valkey://host:6379/0`, or with TLS `valkeys://…`; `redis://` and `rediss://` are synonyms."""
    encryption_key: SecretText
    """The key that encrypts everything in the store, at least 32 characters. All sharing processes need the same."""
    previous_encryption_key: SecretText | None = None
    """A second key that gatepass reads with and does not write with, for the rotation of `encryption_key`."""
    username: str | None = None
    """The user name for the store; None: the server's default user."""
    password: SecretText | None = None
    """The password of the user, best as a reference."""
    key_prefix: Annotated[str, Field(pattern=KEY_PREFIX)] = "gatepass:"
    """The prefix of all key names in the store."""
    timeout_s: Annotated[Seconds, Field(le=5.0)] = 0.25
    """Seconds for one request to the store; after that gatepass continues without the store."""
    network: TlsFiles = TlsFiles()
    """TLS files for the connection to the store. A proxy is not supported."""
    allow_plain_tcp: bool = False
    """Allow sending the password without TLS beyond loopback, where others can read it."""

    @field_validator("url")
    @classmethod
    def _extra_is_installed(cls, url: str) -> str:
        for module in ("valkey", "cryptography"):
            checked_extra(module, "valkey", "a shared store")
        return url

    @field_validator("encryption_key", "previous_encryption_key")
    @classmethod
    def _long_enough(cls, key: Secret | None) -> Secret | None:
        if key is not None and len(key.reveal()) < SHORTEST_KEY_CHARS:
            raise ValueError(f"is shorter than {SHORTEST_KEY_CHARS} characters: create one with `openssl rand -hex 32`")
        return key

    @model_validator(mode="after")
    def _consistent(self) -> StoreSettings:
        if self.username is not None and self.password is None:
            raise ValueError("username needs password next to it")
        if self.network != TlsFiles() and not self.tls:
            raise ValueError("network names TLS files, but url does not use TLS: write valkeys://")
        if self.password is not None and not (self.tls or self.allow_plain_tcp or is_loopback(self.host)):
            raise ValueError(
                "would send the password over plain TCP to another machine: write valkeys://, or set allow_plain_tcp"
            )
        return self

    @property
    def encryption_keys(self) -> list[Secret]:
        """The keys to read with. The first one is the key to write with."""
        keys = {key.reveal(): key for key in (self.encryption_key, self.previous_encryption_key) if key is not None}
        return list(keys.values())

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
"""File descriptors for the listening socket, token endpoints, the store, the log and the pages of workers."""


def _checked_network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError("expects an address or a network, such as 10.0.0.7 or 10.0.0.0/8, without host bits") from None
    return text


IpNetwork = Annotated[str, AfterValidator(_checked_network)]


class ServerConfig(Block):
    host: str = "127.0.0.1"
    """The address to listen on. Any other than loopback requires keys under `access`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 picks a free port and logs it."""
    base_path: Annotated[str, Field(pattern=BASE_PATH)] = ""
    """A prefix of every path, such as `/llm`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve one socket. They share tokens; see `store`."""
    trusted_proxies: list[IpNetwork] = []
    """Addresses and networks of proxies whose X-Forwarded-For names the client, for limits per address."""
    control_socket: Annotated[str, Field(min_length=1)] = "auto"
    """The Unix socket for commands such as `gatepass reload`: a path, `auto` or `off`."""
    watch: bool = False
    """Reload the configuration when its file, or a file that it references, changes."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which gatepass still accepts requests while /readyz returns 503. For load balancers that
    poll /readyz."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running streams may continue after SIGTERM and `drain_delay_s`."""


class Limits(Block):
    body_bytes: Bytes = 32 * MIB
    """The largest request body, in bytes."""
    upload_bytes: Bytes = 512 * MIB
    """The largest multipart form, in bytes. It passes through and is not kept in memory."""
    reply_bytes: Bytes = 64 * MIB
    """The largest plain reply of an upstream, in bytes. gatepass reads it whole before it relays it."""
    held_bytes: Bytes = 512 * MIB
    """The most bytes of request bodies and whole replies in memory; a request that does not fit gets 503
    `overloaded`."""
    event_bytes: Bytes = 32 * MIB
    """The largest single event of a stream, in bytes; also the most bytes between two events."""
    connections: Annotated[int, Field(gt=0)] = 4000
    """The most requests in progress; one more gets 503 `overloaded`, unless its caller has no other in progress."""
    unauthenticated_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections without an authenticated request, in addition to `connections`. None: a quarter of `connections`."""
    receive_s: Seconds = 20.0
    """Seconds that a client may take to send the head of a request, and again for the body."""
    upload_bytes_per_s: Bytes = 1024
    """The least average bytes per second at which a client may send a form, after the first `receive_s` seconds."""
    send_stall_s: Seconds = 300.0
    """Seconds that a client may receive nothing of a reply before gatepass closes its connection."""

    @property
    def unauthenticated(self) -> int:
        """The number of connections for clients that have not authenticated."""
        return self.unauthenticated_connections or max(1, self.connections // 4)


class Log(Block):
    format: Literal["json", "text"] = "json"
    """One JSON object per line, or text for reading in a terminal."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""
    bodies: bool = False
    """Log request and reply bodies, redacted and cut at 2,000 characters. Only for debugging: bodies hold private
    data."""


class Config(Block):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    """Where gatepass listens and how it stops."""
    limits: Limits = Limits()
    """Limits of sizes, times and connections for clients and upstreams."""
    credentials: dict[Name, AnyCredential] = {}
    """Token sources, by name."""
    upstreams: Annotated[dict[Name, UpstreamConfig], Field(min_length=1)]
    """The servers behind gatepass, by name; at least one."""
    operations: dict[OperationName, OperationRoute] = {}
    """Settings of one operation, and its upstream for models that no entry of `models` names."""
    models: dict[str, Model] = {}
    """Public model names or globs. An exact name wins over the longest glob, which wins over `*`."""
    profiles: dict[Name, Profile] = {}
    """Changes of requests and replies for kinds of clients, by name."""
    access: Access = Access()
    """API keys of the callers."""
    store: StoreSettings | None = None
    """A server with state that independent gatepass processes share. None: each process has its own state."""
    log: Log = Log()
    """Format and level of the log."""

    @property
    def descriptors(self) -> int:
        """The most file descriptors that one process needs."""
        limits, callers = self.limits, self.access.callers
        upstream = sum(upstream.max_connections or limits.connections for upstream in self.upstreams.values())
        requests = limits.connections + callers
        return requests + limits.unauthenticated + min(requests, upstream) + OTHER_DESCRIPTORS
