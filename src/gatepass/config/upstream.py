"""`upstreams.NAME`: URL, dialect, token rejection, headers, learning and stream repair of one upstream. `mcp.NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gatepass.config.block import (
    HEADER_NAME,
    SECRET_NAME,
    BaseUrl,
    Block,
    CorsOrigin,
    Name,
    Seconds,
    SecretText,
    SettingFault,
    Url,
)
from gatepass.config.network import (
    RESERVED_FIELDS,
    FieldName,
    Network,
    TimeoutSettings,
    TokenPlacement,
    checked_fields,
    header_value_error,
)
from gatepass.config.routes import Protocols
from gatepass.config.use_limits import OwnLimits
from gatepass.types import CREDENTIALS, Secret

NEVER_FORWARDED = RESERVED_FIELDS - {"x-request-id"} | {name.decode() for name in CREDENTIALS}
"""Request headers that belong to one connection or to gatepass, or that hold the client's API key."""

CODE = r"^[A-Za-z0-9_.:-]{1,100}$"

Status = Annotated[int, Field(ge=400, le=599)]
Code = Annotated[
    str,
    Field(pattern=CODE),
    # YAML reads 40101 as a number
    BeforeValidator(lambda value: str(value) if isinstance(value, int) and not isinstance(value, bool) else value),
    WithJsonSchema({"type": ["string", "integer"], "description": "an error code of the upstream"}),
]


class RejectionConfig(Block):
    """Replies that reject the token, in addition to those that always do."""

    statuses: list[Status] = []
    """More HTTP statuses that reject the token.

    Unit: HTTP status

    Example: [403]

    Danger: If the status also has another meaning, gatepass sends requests twice, once a minute for each model.
    """
    codes: list[Code] = []
    """More error codes or types that reject the token, also in an HTTP 200. The client receives such an error as 401
    `upstream_auth`.

    Example: [A0230, 40101, no_db_connection]

    Danger: If the code also has another meaning, gatepass sends requests twice, once a minute for each model.
    """


RerankShape = Literal["jina", "tei"]
"""The protocol of an upstream's rerank endpoint.

`tei` (Text Embeddings Inference) accepts `{query, texts}` and returns a list of `{index, score}`, `jina` accepts
`{model, query, documents, top_n}` and returns `{results: [{index, relevance_score}]}`."""


class RepairConfig(Block):
    """Repairs of streams that gatepass cannot choose by the first events alone."""

    cumulative: bool = False
    """Events repeat all text so far, as those of some DashScope paths and of agents of an old RAGFlow do: relay only
    the new part.

    Danger: A plain answer loses what its first events repeat, such as the second `ha` of `ha`, `ha`.
    """


DialectName = Literal[
    "openai",
    "azure",
    "ragflow",
]

API_VERSION = r"^[A-Za-z0-9._-]{1,40}$"

# every version of the classic API begins with a date, previews too
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_DEPLOYMENT = r"/deployments/[^/]+\Z"
_ASSISTANT = r"/(?:openai|chats_openai|agents_openai|agents)(?:/[^/]+)?\Z"
_VERSION = re.compile(r"/v[0-9]")
_OTHER_VERSION = r"(?<!/api)/v1\Z"
NO_VERSION = (
    "base_url names a deployment, and only the classic API has deployments: set azure.api_version to its version,"
    " such as 2024-10-21, or end base_url before /openai"
)
NAMES_ASSISTANT = (
    "base_url names an assistant or an agent: end it after the host, and write the id as the name of a model,"
    " `models: {{my-bot: {{upstream: …, name: {name}}}}}`{paths}"
)
NOT_ITS_API = "base_url ends in /v1, where RAGFlow has no API: end it after the host, or in /api/v1"


class AzureConfig(Block):
    api_version: Annotated[str, Field(pattern=API_VERSION)] | None = None
    """A date selects that version of the classic API, with deployments in its paths. None or `preview` selects the v1
    API.

    Example: 2024-10-21
    """

    @property
    def is_classic(self) -> bool:
        return self.api_version is not None and _DATED.match(self.api_version) is not None


RagflowPaths = Literal["current", "old"]
"""`current`: `/openai/{chat_id}/…` from v0.25.6 on. `old`: `/chats_openai/{chat_id}/…` in v0.20 to v0.27."""
RagflowImages = Literal["refuse", "drop"]


class Assistant(msgspec.Struct, frozen=True):
    """A chat assistant or an agent of RAGFlow, by its id. The model name of a target names it."""

    id: str
    is_agent: bool


def assistant(name: str) -> Assistant:
    """Parse a model name: `agent:ID` is an agent, `chat:ID` and a bare `ID` a chat assistant."""
    kind, colon, rest = name.partition(":")
    if colon and kind in ("chat", "agent"):
        return Assistant(rest, kind == "agent")
    return Assistant(name, is_agent=False)


class RagflowConfig(Block):
    paths: RagflowPaths = "current"
    """`old` selects the paths of v0.20 to v0.25.5, `/chats_openai/…` and `/agents_openai/…`. Versions up to v0.27
    accept them too."""
    images: RagflowImages = "refuse"
    """RAGFlow ignores images: `refuse` returns a 400. `drop` leaves the images out and names that in
    `x-gatepass-adapted`.

    Danger: With `drop`, the model answers the question without having seen the image.
    """


def base_url_error(dialect: DialectName, base_url: str, azure: AzureConfig | None) -> str | None:
    """Return why requests of `dialect` cannot be sent to paths below `base_url`, or None."""
    path = urlsplit(base_url).path
    if dialect == "azure" and re.search(_DEPLOYMENT, path) and not (azure and azure.is_classic):
        return NO_VERSION
    if dialect == "ragflow" and (found := re.search(_ASSISTANT, path)):
        old = ", and set `ragflow: {paths: old}`" if "s_openai" in found[0] else ""
        return NAMES_ASSISTANT.format(name="agent:ID" if "/agents" in found[0] else "ID", paths=old)
    if dialect == "ragflow" and re.search(_OTHER_VERSION, path):
        return NOT_ITS_API
    return None


def url_with_version(dialect: DialectName, base_url: str) -> str | None:
    """Return `base_url` with `/v1` if it lacks the version that OpenAI's API has in its path, or None."""
    if dialect != "openai" or _VERSION.search(urlsplit(base_url).path):
        return None
    return f"{base_url.rstrip('/')}/v1"


def _forwardable(names: list[str]) -> list[str]:
    refused = [name for name in names if name.lower() in NEVER_FORWARDED or name.lower().startswith("x-gatepass-")]
    if refused:
        raise ValueError(f"{', '.join(refused)} is never forwarded: gatepass sets it, or it holds a key")
    return names


def _settable(headers: dict[str, Secret]) -> dict[str, Secret]:
    checked_fields(headers)
    for name, value in headers.items():
        if fault := header_value_error(value.reveal()):
            raise ValueError(f"the value of {name} {fault}")
    return headers


ForwardedHeaders = Annotated[list[Annotated[str, Field(pattern=HEADER_NAME)]], AfterValidator(_forwardable)]
MASKED_CHARS = 16
"""A fixed value of this length is masked as a secret. A shorter one is a name, such as `default`."""


def is_secret_parameter(name: str, value: Secret) -> bool:
    """Whether a value of `query` is masked. A date of this length is the version of an API: `2025-01-01-preview`."""
    if value.reference or SECRET_NAME.search(name):
        return True
    return len(text := value.reveal()) >= MASKED_CHARS and not _DATED.match(text)


StaticHeaders = Annotated[dict[FieldName, SecretText], AfterValidator(_settable)]


class HopConfig(Block):
    """What an upstream and an MCP server have in common."""

    credential: Name | None = None
    """A name under `credentials`. None: gatepass sends no token.

    Example: corp
    """
    headers: StaticHeaders = {}
    """Headers to send with every request in addition to the token. They replace the client's headers of the same name.
    gatepass reads a value that names a file at the start and at a reload.

    Example: {AI-Resource-Group: default}

    Danger: Write keys as references. gatepass masks values of 16 characters and more in its logs and errors.
    """
    query: dict[str, SecretText] = {}
    """Query parameters to send with every request in addition to the token. They replace parameters of the same name.
    gatepass reads a value that names a file at the start and at a reload. See
    docs/tokens.md#a-fixed-query-beside-the-token.

    Example: {api-version: 2025-01-01-preview}

    Danger: Write keys as references: gatepass masks these in its logs and errors. The upstream's own log may contain
    them.
    """
    rejection: RejectionConfig = RejectionConfig()
    """Replies that reject the token, in addition to a 401, to an error in a 200 or in the first event of a stream
    that contains 401 (`{"code":401,…}`, `token_expired`, Baidu's 110 and 111), to a login page with any status, and to
    a redirect to another host or to a path that names a login, such as `login` or `sso`.

    gatepass then fetches one new token for all rejected requests, and sends each once more. See
    docs/concepts/token_life.md#a-rejected-token.

    Example: {statuses: [403]}
    """
    network: Network = Network()
    """Proxy and TLS files for this server.

    Example: {proxy: "http://proxy.corp.example:3128"}
    """
    allow_plain_http: bool = False
    """Allow sending the credential over plain HTTP beyond loopback, or through a proxy beyond loopback.

    Danger: Others on the network can read the token.
    """


class UpstreamConfig(HopConfig):
    base_url: BaseUrl
    """The URL including the version, without a query: fixed parameters belong under `query`. gatepass appends the path
    of the operation: it rejects a URL that already ends in one, such as `/chat/completions` or `/v1/models`.

    Example: https://llm.corp.example/v1
    """
    dialect: DialectName = "openai"
    """The protocol of the upstream: `openai`, `azure` or `ragflow`. docs/dialects.md describes each, and where its
    `base_url` ends."""
    azure: AzureConfig | None = None
    """Settings of the dialect `azure`.

    Example: {api_version: 2024-10-21}
    """
    ragflow: RagflowConfig | None = None
    """Settings of the dialect `ragflow`.

    Example: {paths: old}
    """
    token_placement: TokenPlacement | None = None
    """Where the token is in requests to this upstream. None: as in the credential's setting.

    Example: {headers: {X-Auth-Token: "{token}"}}
    """
    timeouts: TimeoutSettings = TimeoutSettings()
    """Timeouts of requests to this upstream. Those of a model or an operation replace them one by one.

    Example: {first_byte_s: 900}
    """
    protocols: Protocols | None = None
    """Which of `chat`, `responses` and `messages` the upstream has; None for all. With `chat` alone gatepass serves the
    two others by chat completions: see docs/concepts/translation.md.

    Example: [chat]
    """
    rerank_shape: RerankShape = "jina"
    """The protocol of its rerank endpoint. Cohere, vLLM and Xinference have that of `jina`. Clients may use either."""
    max_connections: Annotated[int, Field(gt=0)] | None = None
    """The most open connections; None: as many as `limits.connections`. A further request waits for a free connection
    for `timeouts.connect_s`, then it gets 503 `overloaded`.

    Unit: connections

    Example: 100
    """
    max_in_flight: Annotated[int, Field(gt=0)] | None = None
    """The most requests of this process in progress. A further one goes to the next target of the model. If all are
    full, it waits in `queue`. None: no limit. See docs/guides/queue.md.

    Unit: requests

    Example: 40
    """
    queue: Annotated[int, Field(ge=0)] = 100
    """The most requests that wait while the upstream is full (`max_in_flight`). A further one gets 503 `overloaded` at
    once, unless its caller has fewer waiting requests than another one.

    Unit: requests

    Example: 20
    """
    queue_s: Seconds = 4.0
    """Seconds for which a request waits in `queue`, then it gets 503 `overloaded`. Below 5 s the error keeps its status
    also if the client asked for a stream. A later one is an event of the stream.

    Example: 60
    """
    limits: OwnLimits = None
    """The quota of the upstream. While it is used up, requests go to the next target of the model; without one they
    get 429 `limit_reached`. Each request that is sent counts, repeats included.

    Example: {requests: {minute: 1000}, tokens: {minute: 500000}}
    """
    forward_headers: ForwardedHeaders = []
    """Request headers of the client to send to the upstream, in addition to the built-in list.

    docs/reference/http.md has that list. Keys, cookies and headers of one connection are rejected.

    Example: [x-team]

    Danger: The upstream receives any value that clients put there.
    """
    learn: Literal["off", "on"] = "on"
    """Whether gatepass learns rules from its errors and applies them to later requests. See
    docs/concepts/learned_rules.md."""
    include_usage: bool = False
    """Request the tokens of each stream of a chat or completion (`stream_options.include_usage`), also if the client
    does not. The client then does not receive the chunk with the tokens. See docs/operations/monitoring.md.

    Danger: Some upstreams reject `stream_options`. gatepass then learns to leave it out, and sends the request again.
    """
    repair: RepairConfig = RepairConfig()
    """Repairs of its streams, in addition to the ones that always apply. See docs/adaptations.md#repairs.

    Example: {cumulative: true}
    """
    repeat_stale: bool = True
    """Send a request once more if a reused or pre-opened connection closed without a byte of the reply.

    Danger: An upstream that fails while it works on a request may receive the request twice.
    """

    def faults(self) -> Iterator[SettingFault]:
        for dialect in ("azure", "ragflow"):
            if getattr(self, dialect) is not None and self.dialect != dialect:
                yield dialect, f"has no effect with dialect: {self.dialect}; remove it, or set dialect: {dialect}"
        if fault := base_url_error(self.dialect, self.base_url, self.azure):
            yield "", fault


def _no_star(origin: str) -> str:
    if origin == "*":
        raise ValueError("names no origin: list the origins of the pages, such as https://chat.corp.example")
    return origin


class McpTimeouts(Block):
    """Timeouts of requests to an MCP server. A stream has no total timeout."""

    connect_s: Seconds = 5.0
    """Seconds to establish a connection, TLS included.

    Example: 1
    """
    first_byte_s: Seconds = 300.0
    """Seconds from the last byte of the request to the head of the reply. A tool that does not stream sends the head
    when it has finished.

    Example: 900
    """
    idle_s: Seconds = 3600.0
    """Seconds between two reads of the reply. A stream that waits for notifications then ends as if the server had
    ended it, and the client opens another one.

    Example: 600
    """


class McpServer(HopConfig):
    url: Url
    """The URL of the server's endpoint (Streamable HTTP). gatepass serves it at `/mcp/NAME` and appends nothing.

    Example: https://tools.corp.example/mcp
    """
    allowed_origins: list[Annotated[CorsOrigin, AfterValidator(_no_star)]] = []
    """The origins of web pages that may use the server with a key. Pages of other origins get 403 `forbidden_origin`.

    Example: ["https://inspector.corp.example"]

    Danger: Every script of such a page can use the server with the key that the page has.
    """
    timeouts: McpTimeouts = McpTimeouts()
    """Timeouts of requests to this server.

    Example: {first_byte_s: 900}
    """

    def as_upstream(self) -> UpstreamConfig:
        """Return the settings as those of an upstream. Its `base_url` is `url` without a query."""
        return UpstreamConfig(
            base_url=urlsplit(self.url)._replace(query="").geturl(),
            timeouts=TimeoutSettings(**self.timeouts.model_dump()),
            learn="off",
            **{name: getattr(self, name) for name in HopConfig.model_fields},
        )
