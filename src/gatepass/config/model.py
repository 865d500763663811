"""The configuration as one tree of frozen values: what may be written, its defaults and its units.

Every class is one block of the file. Unknown members are errors. Fields that hold a secret have the
type `Secret`; `references.py` says how `${ENV}` and `${file:…}` become one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gatepass.call import Secret, Timeouts
from gatepass.config.references import Reference
from gatepass.config.url import checked_base_url, checked_proxy_url, checked_url

MIB = 1024 * 1024

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
HASH = r"^sha256:[0-9a-f]{64}$"
HEADER_NAME = r"^[A-Za-z0-9-]+$"
BASE_PATH = r"^(/[^/?#\s]+)*$"

NEVER_FORWARDED = frozenset(
    (
        *("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization", "proxy-authenticate"),
        *("host", "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authentication-info", "expect"),
        *("accept", "accept-encoding", "content-encoding", "content-length", "content-type"),
    )
)
"""Request headers that belong to one hop, to gatepass itself, or hold the client's key."""


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, Reference):
        if not value:
            raise ValueError(f"{value.template} is empty")
        return Secret(value.read)
    if isinstance(value, str) and value:
        return Secret(value)
    raise ValueError("expects a text that is not empty, best as a reference: ${NAME} or ${file:/path}")


SecretText = Annotated[
    Secret,
    BeforeValidator(_secret),
    PlainSerializer(lambda _: "(hidden)", return_type=str),
    WithJsonSchema({"type": "string", "description": "a secret, best as ${NAME} or ${file:/path}"}),
]


def _without_leaves(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_leaves(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_without_leaves(item) for item in value]
    return "(hidden)"


SecretTree = Annotated[Any, PlainSerializer(_without_leaves)]
"""Any JSON, whose texts may be secrets; it keeps its References, so that a rotated file is read again."""

Url = Annotated[str, AfterValidator(checked_url)]
ProxyUrl = Annotated[str, AfterValidator(checked_proxy_url)]
BaseUrl = Annotated[str, AfterValidator(checked_base_url)]

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(pattern=NAME)]


class Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )


class Server(Block):
    host: str = "127.0.0.1"
    """The address to listen on. Anything wider than loopback wants keys under `access`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 picks a free one and says which."""
    base_path: Annotated[str, Field(pattern=BASE_PATH)] = ""
    """A prefix in front of every path, such as `/llm`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve. More than one is not built yet."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running streams may go on after SIGTERM."""


class Limits(Block):
    body_bytes: Bytes = 32 * MIB
    """The largest request body."""
    reply_bytes: Bytes = 64 * MIB
    """The largest plain reply of an upstream; it is held whole to be judged."""
    event_bytes: Bytes = 32 * MIB
    """The largest single event of a stream."""
    connections: Annotated[int, Field(gt=0)] = 4000
    """Requests under way at once; one more is 503 `overloaded`."""
    receive_s: Seconds = 20.0
    """Seconds that a client may take to send its head, and again its body."""
    send_stall_s: Seconds = 300.0
    """Seconds for which a client may take nothing of what is written to it."""


class Network(Block):
    ca_file: str | None = None
    """PEM certificates to trust in addition to the system's."""
    proxy: ProxyUrl | None = None
    """An HTTP proxy for this hop, such as `http://proxy.corp.example:3128`."""
    proxy_auth: SecretText | None = None
    """`user:password` for the proxy."""
    client_cert: str | None = None
    """A PEM certificate (chain) to show to the server."""
    client_key: str | None = None
    """Its key, where `client_cert` does not hold it."""
    from_env: bool = False
    """Let HTTP_PROXY, HTTPS_PROXY and NO_PROXY choose the proxy of this hop."""

    @model_validator(mode="after")
    def _key_needs_cert(self) -> Network:
        if self.client_key and not self.client_cert:
            raise ValueError("client_key needs client_cert beside it")
        if self.proxy_auth is not None and self.proxy is None:
            raise ValueError("proxy_auth needs proxy beside it")
        if self.proxy and self.from_env:
            raise ValueError("proxy and from_env exclude each other")
        return self


class TimeoutSettings(Block):
    connect_s: Seconds = 5.0
    """Seconds until the connection stands, TLS included."""
    first_byte_s: Seconds = 600.0
    """Seconds from the request's first byte to the head of the reply."""
    idle_s: Seconds = 300.0
    """Seconds between two pieces of the reply."""
    total_s: Seconds | None = None
    """Seconds over all attempts; None is no bound of its own."""

    def value(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_byte_s, self.idle_s, self.total_s)


class Credential(Block):
    """What all credentials share."""

    timeout_s: Seconds = 10.0
    """Seconds for one whole fetch, however slowly the issuer dribbles."""
    default_ttl_s: Seconds = 240.0
    """Seconds that a token lives where neither the reply nor the token itself tells it."""
    max_ttl_s: Seconds = 3600.0
    """The longest life, in seconds, to believe where only the reply's word stands for it."""
    network: Network = Network()
    """The way to the issuer, which may differ from the upstream's."""
    allow_plain_http: bool = False
    """Send this credential's secret over plain HTTP beyond loopback."""


class Oauth2Credential(Credential):
    """OAuth 2.0 client credentials (RFC 6749 4.4)."""

    type: Literal["oauth2"]
    """Where the token comes from."""
    token_url: Url
    """The issuer's token endpoint."""
    client_id: str
    """Who asks."""
    client_secret: SecretText
    """The proof, best by reference."""
    client_auth: Literal["basic", "form"] = "basic"
    """Where the client's id and secret go: an Authorization header or the form."""
    scope: str | None = None
    """Scopes, separated by spaces."""
    audience: str | None = None
    """The API that the token is for, where the issuer wants it told."""
    resource: str | None = None
    """The same in RFC 8707's way."""
    extra: dict[str, SecretText] = {}
    """More form fields, as the issuer wants them."""


Unit = Literal["s", "ms"]


class ReplyPaths(Block):
    """Where in the issuer's reply the token and its life stand, as dotted paths: `data.token`."""

    token: str | None = None
    """None looks for the usual names: access_token, accessToken, token, jwt, value."""
    expires_in: str | None = None
    """A life; exclusive with `expires_at`."""
    expires_at: str | None = None
    """A moment: epoch seconds or milliseconds, ISO 8601 or an HTTP date."""
    unit: Unit | None = None
    """The unit of the number; None infers it from its size."""

    @model_validator(mode="after")
    def _one_expiry(self) -> ReplyPaths:
        if self.expires_in and self.expires_at:
            raise ValueError("expires_in and expires_at exclude each other")
        return self


class HttpJsonCredential(Credential):
    """A login of your own: one HTTP request whose JSON (or plain text) reply holds a token."""

    type: Literal["http_json"]
    """Where the token comes from."""
    url: Url
    """The login's URL."""
    method: Literal["GET", "POST", "PUT", "PATCH"] = "POST"
    """The request's method."""
    headers: dict[str, SecretText] = {}
    """Headers to send."""
    query: dict[str, SecretText] = {}
    """Query parameters to put behind the URL; they appear in no log."""
    json_body: Annotated[SecretTree, Field(alias="json", repr=False)] = None
    """A JSON body; references inside it are resolved."""
    form: dict[str, SecretText] | None = None
    """A form body; exclusive with `json`."""
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its life stand in the reply."""

    @model_validator(mode="after")
    def _one_body(self) -> HttpJsonCredential:
        if self.json_body is not None and self.form is not None:
            raise ValueError("json and form exclude each other")
        if self.method == "GET" and (self.json_body is not None or self.form is not None):
            raise ValueError("a GET has no body: use query, or method: POST")
        return self


class StaticCredential(Credential):
    """A key that does not expire."""

    type: Literal["static"]
    """Where the token comes from."""
    token: SecretText
    """The key, best by reference."""


AnyCredential = Annotated[Oauth2Credential | HttpJsonCredential | StaticCredential, Field(discriminator="type")]


class Upstream(Block):
    base_url: BaseUrl
    """Up to and with the version, such as `https://llm.corp.example/v1`."""
    dialect: Literal["openai"] = "openai"
    """The protocol that the upstream speaks."""
    credential: Name | None = None
    """A name under `credentials`; None sends no credential."""
    network: Network = Network()
    """The way to this upstream."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """How long to wait for it."""
    max_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections at once; None: as many as `limits.connections`."""
    forward_headers: list[Annotated[str, Field(pattern=HEADER_NAME)]] = []
    """Request headers of the client to send on, beside the built-in list."""
    repeat_stale: bool = True
    """Send a request again, once, when a reused connection closed without one byte of answer."""
    allow_plain_http: bool = False
    """Send the credential over plain HTTP beyond loopback."""

    @field_validator("forward_headers")
    @classmethod
    def _no_hop_headers(cls, names: list[str]) -> list[str]:
        refused = [name for name in names if name.lower() in NEVER_FORWARDED or name.lower().startswith("x-gatepass-")]
        if refused:
            raise ValueError(f"{', '.join(refused)} never goes up: gatepass makes it itself, or it holds a key")
        return names


class OperationRoute(Block):
    upstream: Name
    """A name under `upstreams`."""


class ModelTarget(Block):
    upstream: Name
    """A name under `upstreams`."""
    name: str | None = None
    """The model's name there; None sends the client's."""


class Model(Block):
    """A public model name (or a glob of them): one upstream, or `targets` to try in order."""

    upstream: Name | None = None
    """A name under `upstreams`; exclusive with `targets`."""
    name: str | None = None
    """The model's name there; None sends the client's."""
    targets: Annotated[list[ModelTarget], Field(min_length=1)] | None = None
    """Several upstreams to try in order; exclusive with `upstream`."""
    timeouts: TimeoutSettings | None = None
    """Replaces the upstream's for this model."""

    @model_validator(mode="after")
    def _one_way(self) -> Model:
        if (self.upstream is None) == (self.targets is None):
            raise ValueError("expects either upstream or targets")
        if self.targets is not None and self.name is not None:
            raise ValueError("name belongs into each of the targets")
        return self

    def in_order(self) -> list[ModelTarget]:
        if self.targets is not None:
            return self.targets
        return [ModelTarget(upstream=self.upstream or "", name=self.name)]


def keys_in(text: str) -> tuple[str, ...]:
    """The keys in the text of `access.keys[].key`: one, or several with white space between them."""
    return tuple(text.split())


class AccessKey(Block):
    name: Name
    """How the caller is called in logs and metrics."""
    hash: Annotated[str, Field(pattern=HASH)] | None = None
    """From `gatepass keys new`."""
    key: SecretText | None = None
    """The key itself, by reference only: `${NAME}` or `${file:/path}`. A file may hold several, one per line."""
    models: list[str] | None = None
    """The public model names (or globs) this key may use; None: all."""

    @field_validator("key", mode="before")
    @classmethod
    def _by_reference(cls, value: Any) -> Any:
        if isinstance(value, str) and not isinstance(value, Reference):
            # a TypeError would pass through pydantic as a crash
            raise ValueError("expects a reference, ${NAME} or ${file:/path}, never the key in plain text")  # noqa: TRY004
        return value

    @model_validator(mode="after")
    def _one_form(self) -> AccessKey:
        if (self.hash is None) == (self.key is None):
            raise ValueError("expects either hash or key")
        return self


class Access(Block):
    """Who may come in."""

    keys: list[AccessKey] = []
    """Without keys gatepass serves loopback only."""
    metrics_open: bool = False
    """Serve /metrics without a key also where keys are configured."""


class Log(Block):
    format: Literal["json", "text"] = "json"
    """One JSON object per line, or text for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least weight of what is logged."""
    bodies: bool = False
    """Log request and reply bodies, masked and cut at 2,000 characters. For hunting a fault only."""


class Config(Block):
    """The whole file."""

    server: Server = Server()
    """Where gatepass listens and how it stops."""
    limits: Limits = Limits()
    """Bounds on what one client or upstream may take."""
    credentials: dict[Name, AnyCredential] = {}
    """Where tokens come from, by name."""
    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1)]
    """The servers behind gatepass, by name; at least one."""
    operations: dict[Literal["chat", "embeddings", "models"], OperationRoute] = {}
    """Where models go that no entry of `models` names, per operation."""
    models: dict[str, Model] = {}
    """Public model names or globs. An exact name beats the longest glob, which beats `*`."""
    access: Access = Access()
    """Who may come in."""
    log: Log = Log()
    """What is written about each request."""
