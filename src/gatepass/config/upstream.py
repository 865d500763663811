"""One upstream: its URL and dialect, how it rejects tokens, what is repaired in its replies and sent with requests."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from gatepass.config.block import HEADER_NAME, BaseUrl, Block, Name, SecretText
from gatepass.config.network import (
    RESERVED_FIELDS,
    FieldName,
    Network,
    TimeoutSettings,
    TokenPlacement,
    checked_fields,
    header_value_error,
)
from gatepass.config.routes import Learnable
from gatepass.types import CREDENTIALS, Secret, never_relayed

NEVER_FORWARDED = RESERVED_FIELDS - {"x-request-id"} | {name.decode() for name in CREDENTIALS}
"""Request headers that belong to one hop, to gatepass itself, or hold the client's key."""


RESPONSE_HEADER = r"^[A-Za-z0-9-]+\*?$"
CODE = r"^[A-Za-z0-9_.:-]{1,100}$"
HOST = r"^[A-Za-z0-9*?._-]+$"


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Status = Annotated[int, Field(ge=400, le=599)]
Code = Annotated[
    str,
    Field(pattern=CODE),
    BeforeValidator(_text),
    WithJsonSchema({"type": ["string", "integer"], "description": "an upstream's own error code"}),
]
HostGlob = Annotated[str, Field(pattern=HOST)]


class RejectionConfig(Block):
    """A 401, and an error whose own words say 401, always count; these do too.

    What counts drops the token, fetches one new token for all that wait, and sends the request once more.
    """

    statuses: list[Status] = []
    """More HTTP statuses that say so: `[403]`."""
    codes: list[Code] = []
    """More codes in the body of an error, that of a 200 too: `[A0230, 40101]`."""
    login_page: bool = True
    """An HTML page where a reply was due, and a redirect to a login."""
    login_hosts: list[HostGlob] | None = None
    """The only hosts (names or globs) to which a redirect leads to a login; None: any other host, or a path that
    says so."""


RerankShape = Literal["cohere", "jina", "tei", "vllm", "xinference"]
"""What an upstream's rerank endpoint reads and answers. All take `{model, query, documents, top_n}` and answer
`{results: [{index, relevance_score}]}` but `tei` (Text Embeddings Inference), which takes `{query, texts}` and
answers a bare list of `{index, score}`. `jina` is what most servers imitate."""


class RepairConfig(Block):
    """For upstreams known to need it: what a look at the first events cannot tell for sure."""

    cumulative: bool = False
    """Its events may repeat all of the text so far: cut them down to what is new."""
    one_id: bool = False
    """Give all chunks of a stream the first one's id."""
    without_choices: Literal["move", "keep", "drop"] = "move"
    """What is to become of chunks without choices that say something else: move it into the next chunk that has
    some, keep them as they are, or drop them."""


DialectName = Literal["openai", "azure", "ragflow"]

KINDS = ("chat", "agent")
"""Of what stands behind a RAGFlow name: `chat:ID`, `agent:ID`."""
API_VERSION = r"^[A-Za-z0-9._-]{1,40}$"
NO_ID = "names no {}: its id belongs behind the colon"
NO_KIND = "is neither the id of a chat assistant nor agent:ID"

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_DEPLOYMENT = re.compile(r"/deployments/[^/]+\Z")
_ASSISTANT = re.compile(r"/(?:openai|chats_openai|agents_openai|agents)(?:/[^/]+)?\Z")
_OTHER_VERSION = re.compile(r"(?<!/api)/v1\Z")
NO_VERSION = (
    "base_url names a deployment, which only the classic API has: set azure.api_version to its version beside it,"
    " such as 2024-10-21, or let base_url end before /openai"
)
NAMES_ASSISTANT = (
    "base_url names an assistant or an agent: let it end at the host, and write its id as the name of a model,"
    " `models: {{my-bot: {{upstream: …, name: {name}}}}}`"
)
NOT_ITS_API = "base_url ends in /v1, where RAGFlow has no API: let it end at the host, or in /api/v1"


class AzureConfig(Block):
    api_version: Annotated[str, Field(pattern=API_VERSION)] | None = None
    """A date is a version of the classic API, with deployments in its paths: `2024-10-21`. None is the v1 API, which
    also takes `preview`."""

    @property
    def is_classic(self) -> bool:
        return self.api_version is not None and _DATED.match(self.api_version) is not None


class RagflowConfig(Block):
    paths: Literal["current", "old"] = "current"
    """`old`: the paths of v0.20 to v0.24, `/chats_openai/…` and `/agents_openai/…`."""
    images: Literal["refuse", "drop"] = "refuse"
    """RAGFlow reads no images: say so with a 400, or leave them out."""


def misplaced(dialect: DialectName, base_url: str, azure: AzureConfig | None) -> str | None:
    """Why requests of that dialect cannot be sent below `base_url`, or None."""
    path = urlsplit(base_url).path
    if dialect == "azure" and _DEPLOYMENT.search(path) and not (azure and azure.is_classic):
        return NO_VERSION
    if dialect == "ragflow" and (found := _ASSISTANT.search(path)):
        return NAMES_ASSISTANT.format(name="agent:ID" if "/agents" in found[0] else "ID")
    if dialect == "ragflow" and _OTHER_VERSION.search(path):
        return NOT_ITS_API
    return None


def no_assistant(name: str) -> str | None:
    """Why `name` stands for nothing in RAGFlow, or None: an id alone, `chat:ID` or `agent:ID`. Ids hold no colon."""
    kind, colon, rest = name.partition(":")
    if not colon:
        return None if name else NO_KIND
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        return NO_KIND + (f"; did you mean {near[0]}:{rest}?" if near else "")
    return None if rest else NO_ID.format("chat assistant" if kind == "chat" else "agent")


class UpstreamConfig(Block):
    base_url: BaseUrl
    """Up to and with the version, such as `https://llm.corp.example/v1`."""
    dialect: DialectName = "openai"
    """The protocol that the upstream speaks."""
    azure: AzureConfig | None = None
    """What only `dialect: azure` wants to know."""
    ragflow: RagflowConfig | None = None
    """What only `dialect: ragflow` wants to know."""
    credential: Name | None = None
    """A name under `credentials`; None sends no credential."""
    carry: TokenPlacement | None = None
    """How the token is shown to this upstream; None: as the credential says."""
    headers: dict[FieldName, SecretText] = {}
    """Headers to send with every request, beside the token; they replace a client's of the same name."""
    rejection: RejectionConfig = RejectionConfig()
    """How this upstream says, beside a 401, that it does not take the token."""
    network: Network = Network()
    """The way to this upstream."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """How long to wait for it."""
    rerank_shape: RerankShape = "jina"
    """How its reranker is asked."""
    max_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections at once; None: as many as `limits.connections`."""
    forward_headers: list[Annotated[str, Field(pattern=HEADER_NAME)]] = []
    """Request headers of the client to send on, beside the built-in list."""
    forward_response_headers: list[Annotated[str, Field(pattern=RESPONSE_HEADER)]] = []
    """Response headers of the upstream to send on, beside the built-in list: names, or beginnings that end in `*`."""
    learn: Literal["off", "on"] = "on"
    """Whether its rejections teach what later requests go by."""
    learn_also: list[Learnable] = []
    """Changes to learn although they alter what is asked for: members that may go, system_into_user, merge_roles."""
    repair: RepairConfig = RepairConfig()
    """What is mended in its streams, beside what is always."""
    repeat_stale: bool = True
    """Send a request again, once, when a reused or pre-opened connection closed without one byte of answer."""
    allow_plain_http: bool = False
    """Send the credential over plain HTTP beyond loopback."""

    @field_validator("learn", mode="before")
    @classmethod
    def _not_observed(cls, value: object) -> object:
        if value == "observe":
            raise ValueError("observe was removed: set on (`gatepass learned` lists what is changed), or off")
        return value

    @field_validator("azure", "ragflow")
    @classmethod
    def _of_its_dialect(cls, block: Block | None, info: ValidationInfo) -> Block | None:
        if block is not None and info.data.get("dialect", info.field_name) != info.field_name:
            raise ValueError(f"says nothing to dialect: {info.data['dialect']}; remove it, or set {info.field_name}")
        return block

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if fault := misplaced(self.dialect, self.base_url, self.azure):
            raise ValueError(fault)
        return self

    @field_validator("forward_headers")
    @classmethod
    def _no_hop_headers(cls, names: list[str]) -> list[str]:
        refused = [name for name in names if name.lower() in NEVER_FORWARDED or name.lower().startswith("x-gatepass-")]
        if refused:
            raise ValueError(f"{', '.join(refused)} never goes up: gatepass makes it itself, or it holds a key")
        return names

    @field_validator("forward_response_headers")
    @classmethod
    def _no_credentials(cls, names: list[str]) -> list[str]:
        if refused := [name for name in names if never_relayed(name.lower().encode())]:
            raise ValueError(f"{', '.join(refused)} never goes to clients: it may hold a credential, or steers proxies")
        return names

    @field_validator("headers")
    @classmethod
    def _settable(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        checked_fields(headers)
        for name, value in headers.items():
            if fault := header_value_error(value.reveal()):
                raise ValueError(f"the value of {name} {fault}")
        return headers
