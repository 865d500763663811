"""`Config`: the whole configuration as one tree of frozen pydantic models, with `server`, `limits`, `store`, `log` and
`tracing`.

Each class is one block of the file, and an unknown member is an error. The string below a field is its description in
`gatepass check --schema`. Fields that hold a secret have the type `Secret`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from gatepass.config.access import Access, JwtIssuer
from gatepass.config.block import (
    BASE_PATH,
    MIB,
    BaseUrl,
    Block,
    Bytes,
    CorsOrigin,
    Name,
    SecretText,
    crosses_network_in_plain,
    is_loopback,
    plain,
)
from gatepass.config.credential.base import Credential, checked_extra
from gatepass.config.credential.kinds import LOCAL_KINDS, AnyCredential
from gatepass.config.document import SettingPath, SettingPattern, lookup, matches, with_value
from gatepass.config.network import DefaultNetwork, TlsFiles
from gatepass.config.routes import Model, OperationName, OperationRoute
from gatepass.config.upstream import McpServer, UpstreamConfig

SCHEMES = ("valkey", "valkeys", "redis", "rediss")
OVER_TLS = ("valkeys", "rediss")
SHORTEST_KEY_CHARS = 32
_DATABASE = re.compile(r"/?|/[0-9]{1,4}")
_DEFAULT_PORT = 6379  # of Redis, which Valkey kept


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
    """`valkey://host:6379/0`, or with TLS `valkeys://…`; `redis://` and `rediss://` are synonyms. The number is the
    database. gatepass supports one server, or a proxy in front of several; it does not support clusters and
    Sentinel.

    Example: valkeys://cache.corp.example:6379/0
    """
    encryption_key: SecretText
    """The key that encrypts everything in the store, at least 32 characters. All sharing processes need the same.
    gatepass reads it at the start. Create one with `openssl rand -hex 32`.

    Example: ${file:/run/secrets/store}

    Danger: Write a reference. Anyone with the key who can read the store has the tokens.
    """
    username: str | None = None
    """The user name; None is the server's default user.

    Example: gatepass
    """
    password: SecretText | None = None
    """The password of the user. gatepass reads it again for each connection.

    Example: ${STORE_PASSWORD}
    """
    network: TlsFiles = TlsFiles()
    """TLS files for the connection to the store. A proxy is not supported.

    Example: {ca_file: /etc/ssl/corp.pem}
    """
    allow_plain_tcp: bool = False
    """Allow sending the password without TLS beyond loopback.

    Danger: Others on the network can read the password. The values in the store are encrypted in any case.
    """

    @field_validator("url")
    @classmethod
    def _extra_is_installed(cls, url: str) -> str:
        for module in ("valkey", "cryptography"):
            checked_extra(module, "valkey", "a shared store")
        return url

    def faults(self) -> Iterator[tuple[str, str]]:
        if len(self.encryption_key.reveal()) < SHORTEST_KEY_CHARS:
            fault = f"is shorter than {SHORTEST_KEY_CHARS} characters"
            yield "encryption_key", f"{fault}: create one with `openssl rand -hex 32`"
        if self.username is not None and self.password is None:
            yield "", "username requires password"
        elif self.network != TlsFiles() and not self.tls:
            yield "", "network names TLS files, but url does not use TLS: write valkeys://"
        elif self.password is not None and not (self.tls or self.allow_plain_tcp or is_loopback(self.host)):
            remedy = "write valkeys://, or set allow_plain_tcp"
            yield "", f"would send the password over plain TCP to another machine: {remedy}"

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


INSPECTOR_BYTES = 4 * MIB
"""The memory of the request inspector: about 2,000 whole replies or 1,000 streams, so the last minutes of a busy
gatepass."""


HOST_NAME = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
HostName = Annotated[str, Field(pattern=HOST_NAME)]
"""A name as in `Host`, without a port."""


class ListenerTlsFiles(Block):
    """HTTPS of the listener. After a reload, new connections use changed files."""

    cert_file: str
    """A file with the PEM certificate of gatepass, then those of its intermediate CAs.

    Example: /etc/gatepass/tls/tls.crt
    """
    key_file: str
    """A file with its PEM private key.

    Example: /etc/gatepass/tls/tls.key
    """


class ServerConfig(Block):
    """The listening socket and the end of the process."""

    host: str = "127.0.0.1"
    """The address to listen on. Any other than loopback requires `access.keys` or `access.jwt`.

    Example: 0.0.0.0

    Danger: Other machines can connect to an address that is not loopback.
    """
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 picks a free port and logs it.

    Unit: port number

    Example: 9000
    """
    tls: ListenerTlsFiles | None = None
    """Serve HTTPS with these files. Only `gatepass serve` uses it. See docs/operations/tls.md.

    Example: {cert_file: /etc/gatepass/tls/tls.crt, key_file: /etc/gatepass/tls/tls.key}
    """
    base_path: Annotated[str, Field(pattern=BASE_PATH)] = ""
    """A prefix of every path: with `/llm`, clients use `/llm/v1/chat/completions` and `/llm/for/dify/v1/…`.

    Example: /llm
    """
    control_socket: Annotated[str, Field(min_length=1)] = "auto"
    """The Unix socket for commands such as `gatepass reload`: a path, `auto` or `off`. See
    docs/operations/health_and_status.md#commands-for-a-running-gatepass.

    Example: /run/gatepass/control.sock

    Danger: Every program of the same user, and of root, can use it as an admin.
    """
    ui: bool | None = None
    """Serve the page for operators at `/ui`. None: only without `access.keys` and `access.jwt`, on this machine. See
    docs/operations/ui.md.

    Example: true

    Danger: Every client that can reach gatepass can try keys at it, as at the API.
    """
    cors_origins: list[CorsOrigin] = []
    """Origins of web pages that may call gatepass from a browser. `*` allows every page.

    Example: ["https://chat.corp.example"]

    Danger: A page on the list can use any key that its reader has.
    """
    ui_hosts: list[HostName] = []
    """Names under which browsers may open the page, beside those of this machine, its addresses and `host`. Under any
    other name the page is 403 `forbidden_host`.

    Example: [gatepass.corp.example]

    Danger: Under a name of which others decide the address, they can serve a page that asks for a key.
    """
    watch: bool = False
    """Reload the configuration when its file, or a file that it references, changes. See docs/operations/reload.md.

    Danger: A change takes effect without `gatepass check`.
    """
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which gatepass still accepts requests while /readyz returns 503. For load balancers
    that poll /readyz: set two or three of their intervals.

    Example: 10

    Danger: A stop takes this time longer.
    """
    # below the 30 s that Kubernetes grants by default (terminationGracePeriodSeconds)
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running streams may continue after SIGTERM and `drain_delay_s`. A stream that is longer ends with
    an error event.

    Danger: Keep the sum with `drain_delay_s` below the grace period of the program that sends the signal. Otherwise
    streams are cut without an error event.
    """

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"


class Limits(Block):
    """Limits of sizes, times and connections."""

    body_bytes: Bytes = 32 * MIB
    """The largest request body, in bytes, also of a file. A larger one gets 413. gatepass holds a body whole in memory.
    `held_bytes` limits all of them together."""
    reply_bytes: Bytes = 64 * MIB
    """The largest plain reply of an upstream, in bytes. gatepass reads it whole before it relays it.

    Danger: gatepass holds each plain reply in memory; `held_bytes` limits all of them together.
    """
    held_bytes: Bytes = 512 * MIB
    """The most bytes that gatepass holds for its clients: unfinished heads, request bodies, forms, whole replies,
    unfinished events, and what slow clients have not read of their streams. In a container with less than twice
    this, the default of `gatepass serve` is half of the container's memory.

    Requests that hold less than 64 KiB do not count. docs/operations/limits_and_memory.md#memory has the sum.

    Danger: If it is too small, replies to other clients wait for those that read slowly.
    """
    event_bytes: Annotated[int, Field(gt=0, le=6 * MIB)] = 6 * MIB
    """The largest single event of a stream, in bytes.

    Where gatepass must convert each event, the limit is 1 MiB: for `dialect: ragflow`, and if a chat call serves
    another protocol. For the profile `ragflow` it splits long texts, and 1 MiB limits the rest. See
    docs/operations/limits_and_memory.md#all-bounds.

    Danger: Each stream may hold three times as much memory. `held_bytes` limits what all streams hold.
    """
    connections: Annotated[int, Field(gt=0)] = 4000
    """The most requests in progress, and the most connections of authenticated clients, idle ones included. One
    more request gets 503 `overloaded`, unless its caller has no other in progress. If
    `access.keys` names several callers, no caller holds the last tenth. A stream of an MCP client that waits for
    notifications counts too.

    Unit: connections

    Danger: Each connection takes two file descriptors; see docs/operations/limits_and_memory.md#file-descriptors.
    """

    @property
    def unauthenticated(self) -> int:
        """The number of connections for clients that have not sent a request with a known key.

        They may also use what is free of `connections`. When both are used up, the one that is idle longest is closed.
        """
        return max(1, self.connections // 4)

    @property
    def heads_bytes(self) -> int:
        """The part of `held_bytes` for request heads that have not arrived completely."""
        return self.held_bytes // 8

    @property
    def ring_bytes(self) -> int:
        """The part of `held_bytes` for the request inspector."""
        return min(INSPECTOR_BYTES, self.held_bytes // 16)


class Log(Block):
    format: Literal["json", "text"] | None = None
    """One JSON object per line, or text for reading in a terminal. None: text if stderr is a terminal, else JSON.

    Example: text
    """
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged.

    Example: warning
    """


GRPC = "otel-grpc"
TRACING_EXTRAS: Mapping[str, str] = {"http": "otel", "grpc": GRPC}
_TRACES_PATHS: Mapping[str, str] = {"http": "/v1/traces", "grpc": ""}
"""What the exporter of each protocol expects behind the address of the collector."""


class TracingConfig(Block):
    """Spans of requests for a collector of OpenTelemetry. The variables `OTEL_*` of the SDK apply to what
    no setting here decides."""

    protocol: Literal["http", "grpc"] = "http"
    """OTLP over HTTP, which requires the extra `otel`, or over gRPC, which requires `otel-grpc`.

    Example: grpc
    """
    endpoint: BaseUrl | None = None
    """The collector, without `/v1/traces`. None: `OTEL_EXPORTER_OTLP_ENDPOINT`, or the collector of this machine.

    Example: http://collector.monitoring:4318
    """
    sample_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """The part of the requests whose spans are sent. None: `OTEL_TRACES_SAMPLER`, or all.

    Unit: a number from 0 to 1

    Example: 0.1
    """

    def faults(self) -> Iterator[tuple[str, str]]:
        asked = _otlp_variable("PROTOCOL")
        if "protocol" not in self.model_fields_set and asked not in ("", "http/protobuf"):
            yield "protocol", f"is not set, and the environment asks for {asked}: set it to grpc or http"
        if self.secrets() and self.url is not None and crosses_network_in_plain(self.url):
            yield "endpoint", "would send OTEL_EXPORTER_OTLP_HEADERS over plain HTTP to another machine: use https"
        try:
            checked_extra(f"opentelemetry.exporter.otlp.proto.{self.protocol}", self.extra, "tracing")
        except ValueError as error:
            yield "", str(error)

    @property
    def extra(self) -> str:
        return TRACING_EXTRAS[self.protocol]

    @property
    def url(self) -> str | None:
        """Where to send the spans, None for the collector of this machine."""
        if self.endpoint is None and (whole := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
            return whole
        base = (self.endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")).rstrip("/")
        return base.removesuffix(_TRACES_PATHS["http"]) + _TRACES_PATHS[self.protocol] if base else None

    def secrets(self) -> list[str]:
        """Return the values of the headers that the variables of OpenTelemetry set, whole and without their scheme."""
        pairs = unquote(_otlp_variable("HEADERS")).split(",")
        values = [value.strip() for _, _, value in (pair.partition("=") for pair in pairs) if value.strip()]
        return [*values, *(value.rpartition(" ")[2] for value in values)]


def _otlp_variable(name: str) -> str:
    """Return the value of `OTEL_EXPORTER_OTLP_…` for traces, else the one for all signals, "" without both."""
    named = (os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}{name}", "").strip() for signal in ("TRACES_", ""))
    return next(filter(None, named), "")


OVERRIDDEN_TOGETHER = (("ca_file",), ("proxy", "proxy_auth"), ("client_cert", "client_key"))
"""Members of a hop's `network`. Inherited one by one, the password of one proxy would go to another one."""
URLS = ("base_url", "url", "token_url")


def with_default_network(tree: Any) -> Any:
    """Return `tree` with the top-level `network` in each hop that does not override it.

    An invalid `network` changes nothing, so that the validation reports it once.
    """
    if not isinstance(tree, Mapping) or not tree.get("network"):
        return tree
    tree = plain(tree)
    given = tree["network"]
    try:
        default = DefaultNetwork.model_validate(given)
    except ValidationError:
        return tree
    blocks: list[SettingPattern] = [("upstreams", "*"), ("mcp", "*"), ("credentials", "*"), ("access", "jwt", "*")]
    for path, hop in [found for block in blocks for found in matches(tree, block)]:
        own = hop.get("network", {}) if isinstance(hop, dict) else None
        if not isinstance(own, dict) or hop.get("type") in LOCAL_KINDS:
            continue
        for members in OVERRIDDEN_TOGETHER:
            if own.keys().isdisjoint(members) and ("proxy" not in members or _uses_proxy(hop, default)):
                own = {**own, **{name: given[name] for name in members if name in given}}
        tree = with_value(tree, (*path, "network"), own)
    url = lookup(tree, ("store", "url"))
    if default.ca_file and isinstance(url, str) and url.partition(":")[0] in OVER_TLS:
        own = lookup(tree, ("store", "network")) or {}
        tree = with_value(tree, ("store", "network"), {"ca_file": given["ca_file"], **own})
    return tree


def _uses_proxy(hop: Mapping[str, Any], default: DefaultNetwork) -> bool:
    issuer = hop.get("issuer")  # of `access.jwt`: the first of a list has the discovery document
    found = [*map(hop.get, (*URLS, "jwks")), *(issuer[:1] if isinstance(issuer, list) else [issuer])]
    urls = [url for url in found if isinstance(url, str)]
    try:
        return not all(default.avoids_proxy(urlsplit(url).hostname or "") for url in urls)
    except ValueError:  # not a URL: the validation reports it
        return False


class Config(Block):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    """Where gatepass listens and how it stops.

    Example: server: {host: 0.0.0.0, port: 8080}
    """
    limits: Limits = Limits()
    """Limits of sizes, times and connections of clients, in each process.

    Example: limits: {body_bytes: 67108864, connections: 2000}
    """
    network: DefaultNetwork = DefaultNetwork()
    """Proxy and TLS files of all upstreams, credentials and MCP servers, and the `ca_file` of the store. The `network`
    of one of them overrides `ca_file`, `proxy` with `proxy_auth`, and `client_cert` with `client_key`. gatepass reads
    the files at load. It rejects a file without PEM, and a key that does not belong to the certificate.

    Example: network: {proxy: "http://proxy.corp.example:3128", no_proxy: [.corp.example, 10.0.0.0/8]}
    """
    credentials: dict[Name, AnyCredential] = {}
    """Token sources, by name. gatepass fetches a token, keeps it fresh, and sends it to the upstreams that name the
    credential. `type` decides which other settings exist. docs/tokens.md has a recipe for each type.

    Example: credentials: {corp: {type: static, token: "${API_KEY}"}}
    """
    upstreams: dict[Name, UpstreamConfig] = {}
    """The servers behind gatepass, by name; at least one, unless `mcp` names a server.

    Example: upstreams: {chat: {base_url: https://llm.corp.example/v1, credential: corp}}
    """
    operations: dict[OperationName, OperationRoute] = {}
    """Settings of one operation. They are its upstream for models that no entry of `models` names, the model of
    requests that name none, and the timeouts and rules of all its requests.

    docs/reference/http.md#operations lists the operations. docs/configuration.md#precedence has the order of
    places.

    Example: operations: {embeddings: {upstream: vectors}}
    """
    models: dict[str, Model] = {}
    """Public model names or globs. An exact name wins over the longest glob. A glob wins over the upstream of the
    operation, which wins over `*`. `GET /v1/models` lists the exact names, and the models that the upstreams of
    globs list.

    Example: models: {gpt-4o: {upstream: chat, name: prod-4o}}
    """
    mcp: dict[Name, McpServer] = {}
    """MCP servers by name. gatepass serves each at `/mcp/NAME` with the token of its credential. See docs/mcp.md.

    Example: mcp: {search: {url: https://tools.corp.example/mcp, credential: corp}}
    """
    access: Access = Access()
    """The API keys of callers, and the issuers whose tokens callers may send instead. Without keys and issuers,
    gatepass listens on loopback only, and requires a loopback `Host` and no foreign `Origin`. A client sends its key or
    token as `Authorization: Bearer KEY`, `x-api-key` or `api-key`. Of several values, the one that is a known key or a
    token of a configured issuer decides; two different ones are 401.

    Example: access: {keys: [{name: ragflow, profile: ragflow, key: "${RAGFLOW_KEY}"}]}
    """
    store: StoreSettings | None = None
    """A Valkey or Redis server, version 6 or newer, that several gatepass processes share. Together they fetch each
    token once. It requires the extra `valkey`. See docs/operations/store.md.

    Example: store: {url: "valkeys://cache.corp.example:6379/0", encryption_key: "${file:/run/secrets/store}"}
    """
    log: Log = Log()
    """Format and level of the log.

    Example: log: {format: text, level: debug}
    """
    tracing: TracingConfig | None = None
    """Spans for a collector of OpenTelemetry, `{}` for the defaults. None: gatepass sends none, whatever
    `OTEL_*` variables say. See docs/guides/tracing.md.

    Example: tracing: {endpoint: "http://collector.monitoring:4318"}
    """

    @model_validator(mode="before")
    @classmethod
    def _with_default_network(cls, tree: Any) -> Any:
        return with_default_network(tree)

    @model_validator(mode="after")
    def _knows_inherited(self) -> Config:
        for _, hop in self.hops() if self.network.model_fields_set else ():
            if "network" in hop.model_fields_set:  # a default is shared by all configurations
                hop.network.inherit(self.network)
        return self

    def faults(self) -> Iterator[tuple[str, str]]:
        if not (self.upstreams or self.mcp):
            is_set = "upstreams" in self.model_fields_set
            yield "upstreams", "is empty: at least one is needed" if is_set else "is missing"

    def hops(self) -> Iterator[tuple[SettingPath, UpstreamConfig | McpServer | AnyCredential | JwtIssuer]]:
        """Yield all that has a `network` of its own, with its path."""
        for block in ("upstreams", "mcp", "credentials"):
            yield from (((block, name), hop) for name, hop in getattr(self, block).items())
        yield from ((("access", "jwt", number), entry) for number, entry in enumerate(self.access.jwt))

    def used_credentials(self) -> Iterator[tuple[SettingPath, str | None]]:
        """Yield the credential of each upstream, MCP server and issuer."""
        yield from ((path, hop.credential) for path, hop in self.hops() if not isinstance(hop, Credential))

    @property
    def serves_ui(self) -> bool:
        """Whether the page at /ui is served: by default only without keys, when gatepass serves this machine alone."""
        return not self.access.has_callers if self.server.ui is None else self.server.ui
