"""`access`: API keys, and what a kind of client needs beyond the plain API.

A request gets its profile from the path (`/for/NAME/v1/…`), else from the caller's key (`access.keys[].profile`),
else `plain`. The path wins because several clients may share one key. gatepass never guesses a profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal, get_args

import msgspec
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    WrapSerializer,
    field_validator,
)

from gatepass.config.block import (
    HASH,
    HEADER_NAME,
    Block,
    Name,
    SecretText,
    SettingFault,
    checked_url,
    has_value,
    not_null,
)
from gatepass.config.network import Network
from gatepass.config.references import Reference
from gatepass.config.routes import OfSoundOrImage, OfText
from gatepass.config.upstream import DialectName
from gatepass.config.use_limits import OwnLimits, UseLimits
from gatepass.documents import Key

BuiltIn = Literal[
    "plain",
    "ragflow",
    "librechat",
    "dify",
    "open_webui",
    "cherry_studio",
    "cline",
    "claude_code",
    "codex",
    "continue",
    "lobechat",
    "n8n",
    "opencode",
    "vscode",
]
THINKING = ["chat_template_kwargs", "enable_thinking", "thinking", "do_sample"]
"""RAGFlow and Dify send these members next to `messages`. vLLM uses the first; Azure rejects all of them."""


class Profile(msgspec.Struct, frozen=True):
    """What gatepass changes for one kind of client."""

    drop: Sequence[str] = ()
    """Members to leave out of every request."""
    drops_comments: bool = False
    """Leave out the upstream's comments. gatepass's own keep-alive is a comment of another kind: a whole block."""
    line_bytes: int | None = None
    """The longest line of a stream; a longer chunk is split into several. None: no limit."""
    drop_null: Sequence[str] = ()
    """Members to leave out if they are null."""
    drop_for: Mapping[DialectName, Sequence[str]] = msgspec.field(default_factory=dict)
    """Members to leave out of requests to upstreams of a dialect."""
    plain_tools: bool = False
    """Send only `type` and `function` in an entry of `tools`."""
    images_in_texts: bool = False
    """Move data URLs of images, in lines of their own, from texts of messages into parts."""
    whole_numbers: bool = False
    """Send `usage` as integers. Plain replies without usage get zeros; streams get only the upstream's numbers."""
    envelope: bool = False
    """Add `object` and `model` to plain replies of chats, completions and embeddings that lack them."""
    repeats_ids: bool = False
    """Send the id of a tool call in each of its pieces, and not in the first one alone."""
    places_usage: bool = False
    """Send the usage of a stream once, where RAGFlow does not add it to its own token count. Applies to requests that
    do not request usage. See docs/ragflow.md#token-counts."""
    splits_finish: bool = False
    """Send the finish reason in a chunk without text."""
    fills_choices: bool = False
    """Add an empty choice (an empty text, no finish reason) to chunks without choices, such as the last chunk with the
    usage."""
    only_chunks: bool = False
    """Leave out stream events without choices, such as an upstream's `{"ping": 1}`; errors are kept."""
    plain_texts: bool = False
    """Send the thoughts of a chat in `reasoning_content`, also if the upstream uses `reasoning`, and a transcription as
    JSON."""
    plain_events: bool = False
    """Send each event of a stream of chunks as one line `data: …` and a blank line. Lines end with a line feed; names,
    ids and comments are left out. Events that already have this form keep their bytes."""
    rewords_errors: bool = False
    """Reword the error that ends a started stream so that RAGFlow does not send the request again. The upstream's text
    is in the error's `upstream`."""
    unwraps_keys: bool = False
    """Accept a JSON object that contains the API key instead of the key."""
    typed_ids: bool = False
    """List models under names that show their type to RAGFlow."""


PLAIN = Profile()
"""A profile without changes."""


BUILT_IN_PROFILES: Mapping[str, Profile] = {
    **dict.fromkeys(get_args(BuiltIn), PLAIN),
    # RAGFlow's rag/llm/chat_model.py and cv_model.py up to v0.27, and its Go client in internal/entity/models
    # from 1.0 on, which loses texts at other places and fails at an event of several data lines
    "ragflow": Profile(
        drop=["messages[].tool_calls[].index"],
        drop_for={"azure": THINKING},
        images_in_texts=True,
        whole_numbers=True,
        places_usage=True,
        splits_finish=True,
        plain_texts=True,
        plain_events=True,
        line_bytes=1024 * 1024,
        rewords_errors=True,
        unwraps_keys=True,
        typed_ids=True,
    ),
    # it sends `strict: null`, which upstreams reject: danny-avila/LibreChat#11189. Its agents read thoughts from
    # `reasoning_content` alone
    "librechat": Profile(drop_null=["tools[].strict", "tools[].function.strict"], plain_texts=True),
    # The parser in dify-plugin-sdks (openai_compatible/llm.py at 0021d0c and 28d1d22) splits at two line feeds. It
    # drops a block that begins with ":", with the event that follows the comment. Older versions remove exactly the
    # bytes "data: ", and read `choices` in every other event than [DONE]. A chunk without text ends the thoughts, so
    # it is no keep-alive. It adds a piece of a tool call without an id to the call that began last.
    # Dify tests a reranker with a `score_threshold` that it applies itself, and a voice with `instruction: null`.
    # It rejects an embedding model if the reply has no `model`
    # (dify-official-plugins, models/openai_api_compatible, and its issue 1404).
    "dify": Profile(
        drop=["score_threshold"],
        drop_null=["instruction"],
        drop_for={"azure": THINKING},
        whole_numbers=True,
        envelope=True,
        repeats_ids=True,
        only_chunks=True,
        plain_events=True,
    ),
    # CherryHQ/cherry-studio#4726
    "cherry_studio": Profile(plain_tools=True),
    # it reads `choices[0]` of every chunk, also of the one with the usage (src/core/api/providers/openai.ts)
    "cline": Profile(fills_choices=True, only_chunks=True),
    # it loses an event that arrives together with the comment `: ping`: continuedev/continue#13187
    "continue": Profile(drops_comments=True),
}
"""The built-in profiles. Clients without special needs are `plain`, so that a configuration can name them too."""


def hash_key(key: str) -> str:
    """Return `sha256:<hex>`."""
    # a key of 256 random bits cannot be guessed, so it needs neither a salt nor a slow hash; one with lone surrogates
    # must not raise
    return f"sha256:{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


FIXED_KEYS = ("empty", "lm-studio", "x")
"""Publicly known keys. RAGFlow's classes LocalAI and LM-Studio always send one (rag/llm/chat_model.py), as do older
versions if the key field is empty."""
_FIXED_HASHES = frozenset(map(hash_key, FIXED_KEYS))

Role = Literal["caller", "viewer", "admin"]
KeyState = Literal["valid", "expires soon", "expired"]
SOON_S = 14 * 86_400
"""How long before its end a key is reported as `expires soon`."""

_MOMENT = r"(?ai)\d{4}-\d\d-\d\d(?P<time>T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?\Z"


def moment(value: Any) -> datetime:
    """Return a date (its first second in UTC) or an RFC 3339 time in UTC; raise ValueError."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    found = re.match(_MOMENT, value) if isinstance(value, str) else None
    try:
        if found is not None:
            return datetime.fromisoformat(value.upper() if found["time"] else f"{value}T00:00:00Z").astimezone(UTC)
    except (ValueError, OverflowError):  # such as February 30
        pass
    raise ValueError("expects a date, such as 2027-01-31, or an RFC 3339 time, such as 2027-01-31T18:00:00Z")


def moment_text(value: datetime) -> str:
    return value.isoformat(timespec="seconds").replace("+00:00", "Z")


Moment = Annotated[
    datetime, BeforeValidator(moment), PlainSerializer(moment_text, return_type=str), WithJsonSchema({"type": "string"})
]

KeyOperation = Literal[
    OfText,
    "responses",
    "messages",
    "models",
    OfSoundOrImage,
    "moderations",
    "files",
    "batches",
    "stored_responses",
]
"""The entries of `operations`. The last three are about objects that the upstream stores: only a key that lists one of
them may use it."""

OF_ANY_MODEL = "batches"
"""The entry that opens batches, which may name any model."""


def _servers(value: Any) -> Any:
    """Return a list of servers as a mapping, so that each error names its place."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value)
    if isinstance(value, Mapping):
        return value
    raise ValueError("expects a list of names under mcp, or a mapping of such names to lists of tools")


def _as_written(servers: Any, write: SerializerFunctionWrapHandler) -> Any:
    is_list = isinstance(servers, dict) and all(tools is None for tools in servers.values())
    return list(servers) if is_list else write(servers)


McpServers = Annotated[
    dict[Name, list[str] | None],
    WrapSerializer(_as_written),
    BeforeValidator(_servers, json_schema_input_type=list[Name] | dict[Name, list[str] | None]),
]


class EndUsers(Block):
    """The users behind a key, such as those of a chat application."""

    _have_values = field_validator("*")(has_value)

    header: Annotated[str, Field(pattern=HEADER_NAME)] | None = None
    """The request header that names the user. None: `user` of the body, else `metadata.user_id` as in messages.

    Example: x-openwebui-user-id

    Danger: gatepass believes the client. Without a name, or with more than 10,000 users, users share one count. Each
    key can use all places that are free, and gives those above its share to the users of others.
    """
    limits: UseLimits
    """How much each user may use, within the limits of the key: `requests` and `tokens` per `minute`, and
    `max_concurrent`. Each process counts its own requests. No name is logged or stored.

    Example: {requests: {minute: 10}}
    """

    def faults(self) -> Iterator[SettingFault]:
        for unit in ("requests", "tokens"):
            if (amounts := getattr(self.limits, unit)) is not None and amounts.model_fields_set != {"minute"}:
                yield f"limits.{unit}", "expects minute alone: no store counts end users, and a restart forgets them"


_CLIENTS = {name.replace("_", ""): name for name in get_args(BuiltIn)}


def profile_name(client: Any) -> Any:
    """Return the name of the profile that a client's name such as `Open WebUI` or `OpenWebUI` means."""
    return _CLIENTS.get(re.sub(r"[\s_-]", "", client).lower(), client) if isinstance(client, str) else client


class CallerSettings(Block):
    """What a caller may use: of a key, or of the callers of a row of `access.jwt`."""

    _have_values = field_validator("*")(has_value)

    name: Name
    """The name of all callers of this row in log and metrics. Rows that share limits have the same `group`.

    Example: people
    """
    role: Role = "caller"
    """What this caller may do: `caller` calls models, `viewer` reads /status, /metrics, /learned and the page, `admin`
    does both and may also change things there. Other uses get 403 `role_not_allowed`. Prometheus needs a viewer.

    Example: viewer
    """
    models: Annotated[list[str] | None, not_null("write `[]` for none, or delete the line for all")] = None
    """The public model names (or globs) that this caller may use; None: all.

    In a body, gatepass also checks members that name other models or servers, because an upstream that is itself a
    gateway may read them. It checks the top level, each entry of `tools` (also inside an item of `input` or a
    namespace), `extra_body` and the objects of `provider_options`, and ignores case, `_` and `-`. The schema of a
    function's parameters may contain any name. `models` has to cover each name of `a,b`, because LiteLLM reads that as
    two models. A violation is 403 `model_not_allowed`. A part of a multipart form with such a name is rejected, also in
    brackets or after a dot, as in `extra_body[api_base]`.

    Example: [gpt-4o, "text-embedding-*"]
    """
    operations: Annotated[list[KeyOperation] | None, not_null("write `[]` for none, or delete the line for all")] = None
    """The operations that this caller may use. None: all but `files`, `batches` and, with several callers,
    `stored_responses`, because the upstream stores these objects of all callers under one credential. `[]`: none, for
    a caller that uses MCP servers alone. `stored_responses` also opens the members `previous_response_id`,
    `conversation` and `prompt.id` of a response: see docs/operations/keys.md#limit-the-operations-of-a-key. A violation
    is 403 `operation_not_allowed`.

    Example: [chat, embeddings, models, files]

    Danger: Callers that may use an entry of stored objects share these objects with each other.
    """
    mcp: Annotated[McpServers | None, not_null("write `{}` for none, or delete the line for all")] = None
    """The MCP servers that this caller may use: names under `mcp`, or such names with the tools (names or globs) that
    it may call there. A name without a value opens all tools of the server. None: all servers, but none for a caller
    with `models` or `operations`. A violation is 403 `mcp_server_not_allowed`, or the error `mcp_not_allowed` in
    JSON-RPC. See docs/mcp.md#keys.

    Example: {search: [find, "read_*"]}
    """
    profile: Annotated[BuiltIn | None, BeforeValidator(profile_name)] = None
    """The profile of this caller's client: case, blanks, `-` and `_` do not count. None: `plain`.
    docs/clients/README.md#profiles lists them.

    Example: ragflow
    """
    weight: Annotated[int, Field(gt=0, le=100)] = 1
    """How many requests of this caller a full upstream serves before it serves those of another waiting caller.
    See docs/guides/queue.md.

    Unit: requests

    Example: 3
    """
    group: Name | None = None
    """A name under `access.groups`, whose limits all callers of the group share.

    Example: imports
    """
    limits: OwnLimits = None
    """How much this caller may use: all keys of one name together, or each person or service that fits a row of
    `access.jwt` separately. None: only the limits of its group and of the model apply.

    Example: {requests: {minute: 500}, tokens: {minute: 200000}}
    """

    @property
    def uses_any_model(self) -> bool:
        """Whether it may use batches of either API: their requests name models that gatepass does not read."""
        return OF_ANY_MODEL in (self.operations or ())


class AccessKey(CallerSettings):
    name: Name
    """The caller's name in logs and metrics. Entries with the same name are keys of one caller: use two to rotate a
    key. All keys of a caller need the same `role`, `models`, `operations`, `mcp`, `profile`, `group`, `limits`,
    `end_users` and `weight`.

    Example: ragflow
    """
    hash: Annotated[str, Field(pattern=HASH)] | None = None
    """The SHA-256 of the key, as `gatepass keys new` prints it. Set either `hash` or `key`. The hash of a publicly
    known key (`empty`, `lm-studio`, `x`) requires `models`; see docs/ragflow.md#fixed-keys.

    Example: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

    Danger: Any client can guess a publicly known key.
    """
    key: SecretText | None = None
    """The key, by reference only: `${NAME}` or `${file:/path}`. It has at least 16 visible ASCII characters. A file
    may hold several keys with white space between them, the old one and the new one during a rotation. A reload reads
    it again, and so does `server.watch`.

    Example: ${RAGFLOW_KEY}
    """
    expires: Moment | None = None
    """The end of the key: a date, which means 00:00 UTC, or an RFC 3339 time. None: the key does not expire.
    `gatepass check` and the start warn about keys that have expired or will expire within 14 days.

    Example: 2027-01-31

    Danger: gatepass rejects clients with an expired key (401 `invalid_api_key`).
    """
    end_users: EndUsers | None = None
    """Limits for each user behind this key. None: gatepass does not tell them apart.

    Example: {limits: {requests: {minute: 10}}}
    """

    @field_validator("key", mode="before")
    @classmethod
    def _by_reference(cls, value: Any) -> Any:
        if isinstance(value, Reference) or not isinstance(value, str):
            return value
        raise ValueError("expects a reference, ${NAME} or ${file:/path}, never the key in plain text")

    def faults(self) -> Iterator[SettingFault]:
        if (self.hash is None) == (self.key is None):
            yield "", "expects either hash or key"
        # `**` matches every model too
        elif self.hash in _FIXED_HASHES and (not self.models or any(set(model) <= {"*"} for model in self.models)):
            fixed = ", ".join(FIXED_KEYS)
            yield "", f"is the hash of a publicly known key ({fixed}): set models to the one model it may use"

    @property
    def texts(self) -> tuple[str, ...]:
        """The keys in clear that `key` has, with white space between them. Raises UnresolvedReference."""
        return () if self.key is None else tuple(self.key.reveal().split())

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes of its keys: the configured one, or those of `texts`. Raises UnresolvedReference."""
        return tuple(map(hash_key, self.texts)) if self.hash is None else (self.hash,)

    @property
    def id(self) -> str:
        """The short id of the key: the first 8 hexadecimal digits of its SHA-256. "" without a hash."""
        return "" if self.hash is None else self.hash[len("sha256:") :][:8]

    def state(self, wall_s: float) -> KeyState:
        """Return whether the key is usable at `wall_s` (epoch seconds)."""
        left_s = float("inf") if self.expires is None else self.expires.timestamp() - wall_s
        return "expired" if left_s <= 0 else "expires soon" if left_s <= SOON_S else "valid"

    def as_row(self, wall_s: float) -> Key:
        """Return the key without its hash. `wall_s` is in epoch seconds."""
        return Key(
            id=self.id,
            name=self.name,
            role=self.role,
            profile=self.profile or "plain",
            expires=None if self.expires is None else moment_text(self.expires),
            models=self.models,
            operations=self.operations,
            mcp=None if self.mcp is None else dict(sorted(self.mcp.items())),
            state=self.state(wall_s),
        )


def storing(keys: Iterable[AccessKey]) -> list[str]:
    """Return the callers whose objects upstreams and MCP servers may keep. A viewer calls neither."""
    return list(dict.fromkeys(key.name for key in keys if key.role != "viewer"))


def expiry_warnings(keys: Sequence[AccessKey], wall_s: float) -> Iterator[str]:
    for number, key in enumerate(keys):
        if key.expires is not None and (state := key.state(wall_s)) != "valid":
            words = "expired" if state == "expired" else "expires"
            action = f"create another one with `gatepass keys new --name {key.name}`"
            action += ", or remove it" if state == "expired" else ""
            yield f"access.keys[{number}]: this key of {key.name!r} {words} at {moment_text(key.expires)}: {action}"


class Group(Block):
    """Callers that share limits."""

    limits: UseLimits
    """How much all callers of the group may use together.

    Example: {tokens: {minute: 200000}}
    """


SIGNATURES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""The algorithms of callers' tokens (RFC 7518 3.1, RFC 8037 3.1): none with a secret that gatepass would share."""
TokenUse = Literal["access", "id"]
"""RFC 9068 describes access tokens, OpenID Connect Core 2 ID tokens."""

_CLAIM_STEP = re.compile(r"(?:[^.\\]|\\.)+")


def claim_path(text: str) -> tuple[str, ...]:
    """Return the names of a dotted path, in which `\\.` is a dot inside a name; raise ValueError."""
    steps = tuple(step.replace("\\.", ".") for step in _CLAIM_STEP.findall(text))
    if not steps or ".".join(step.replace(".", "\\.") for step in steps) != text:
        raise ValueError(r"expects the dotted path of a claim, such as realm_access.roles; `\.` is a dot in a name")
    return steps


Claim = Annotated[str, AfterValidator(lambda text: claim_path(text) and text)]


def _texts(value: Any) -> Any:
    if isinstance(value, str | list):
        return [value] if isinstance(value, str) else value
    raise ValueError("expects a text in quotes, or a list of texts")


def _url_or_path(text: str) -> str:
    return checked_url(text) if "://" in text else text


def _one_text(value: Any) -> Any:
    if isinstance(value, list):
        raise ValueError("expects one text: write one row for each")  # noqa: TRY004 - pydantic raises TypeError
    return value


Texts = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1),
    BeforeValidator(_texts, json_schema_input_type=str | list[str]),
]


_ENTRA_V1 = re.compile(r"https://sts\.windows\.net/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/")
"""An issuer of Entra's v1 tokens, with the GUID of its tenant, as Entra writes it."""


class CallerRow(CallerSettings):
    """Which callers of an issuer this row is for, and what they may use."""

    claim: Claim
    """The dotted path of the claim that decides. `\\.` is a dot inside a name, as in `kubernetes\\.io.namespace`. A
    token without the claim, or in which it is an empty list or of another type, does not meet the row.

    Example: realm_access.roles
    """
    equals: Texts | None = None
    """The text, or one of the texts, that the claim has to be. Set either `equals` or `contains`.

    Example: [batch, imports]
    """
    contains: Annotated[str, Field(min_length=1), BeforeValidator(_one_text)] | None = None
    """What the claim has to contain: an element of a list, or for a claim whose last name is `scope` or `scp`, one of
    the words that spaces separate. Any other string must match exactly. It takes one value; write one row for each.

    Example: llm-user
    """
    name_from: Claim | None = None
    """The claim whose text is the `user` of a request in the log and on the page. It decides nothing, because people
    can change such names, and no metric has it.

    Example: preferred_username

    Danger: The log then contains names of people.
    """

    @cached_property
    def path(self) -> tuple[str, ...]:
        """The names in `claim`, split once: each new token is compared with every row."""
        return claim_path(self.claim)

    def faults(self) -> Iterator[SettingFault]:
        if (self.equals is None) == (self.contains is None):
            yield "", "expects either equals or contains"


class JwtIssuer(Block):
    """An issuer whose tokens callers send in place of a key, and the table of what each of them may use."""

    _have_values = field_validator("*")(has_value)

    issuer: Texts
    """The `iss` of its tokens, byte by byte, or several with the same signing keys, such as both of an Entra tenant.
    A person has the same limits and sessions with v1 and v2 tokens of one tenant. Callers of other issuers stay apart,
    because two clusters can have the same `sub`. Without `jwks`, gatepass reads the address of the keys from the
    discovery document of the first one (OpenID Connect, then RFC 8414), whose `issuer` has to be equal.

    Example: https://login.corp.example/realms/corp
    """
    audience: Texts | None = None
    """The `aud` that a token has to have, or several of which it has to have one. Set either `audience` or `require`.
    The default audience `account` of Keycloak is in every token of a realm, so gatepass rejects it here.

    Example: api://gatepass
    """
    require: Annotated[dict[Claim, Texts], Field(min_length=1)] | None = None
    """Claims with their allowed values, for an issuer that writes no `aud` of its own: Cognito has `client_id` alone,
    a token of Keycloak without an audience mapper has `azp`. A token needs all of them.

    Example: {azp: [open-webui]}
    """
    tokens: Annotated[list[TokenUse], Field(min_length=1)] = ["access"]
    """The kinds of tokens: `access`, and `id`, which requires `audience`. Claude Desktop sends the ID token by
    default, and Google's identity tokens are ID tokens.

    Example: [id]

    Danger: An ID token is for the client that asked for it. Accept those whose `aud` is a client of your own.
    """
    jwks: Annotated[str, AfterValidator(_url_or_path)] | None = None
    """The key set (JWKS), in place of discovery: its URL, or the path of a file, which gatepass reads again when it
    changes.

    Example: https://login.corp.example/realms/corp/protocol/openid-connect/certs
    """
    credential: Name | None = None
    """A name under `credentials`, whose token the fetch of the key set sends as `Authorization: Bearer …`: Kubernetes
    answers its key set only to readers with one.

    Example: kubernetes
    """
    network: Network = Network()
    """Proxy and TLS files for the key set.

    Example: {ca_file: /etc/ssl/corp.pem}
    """
    allow_plain_http: bool = False
    """Allow fetching the key set over plain HTTP beyond loopback, or through a proxy beyond loopback.

    Danger: Who can change that answer can sign tokens of every caller.
    """
    callers: Annotated[list[CallerRow], Field(min_length=1)]
    """The table of callers. The first row that fits applies; a token that meets none is 403 `no_caller_row`.

    Example: [{claim: roles, contains: llm-user, name: people, name_from: preferred_username}]
    """

    def faults(self) -> Iterator[SettingFault]:
        if (self.audience is None) == (self.require is None):
            yield "", "expects either audience or require"
        if self.require is not None and "aud" in self.require:
            yield "require", "has aud: write audience in its place"
        if "id" in self.tokens and self.audience is None:
            yield "tokens", "with id require audience: an ID token of another client has every other claim too"
        if any(one.endswith(DISCOVERY) for one in self.issuer):
            yield "issuer", f"is the address of the discovery document: end it before {DISCOVERY}"
        if any("*" in one for one in self.audience or ()):
            yield "audience", "has a *, but it is no pattern: write the aud of the tokens"
        if KEYCLOAK_DEFAULT in (self.audience or ()):
            yield "audience", f"{KEYCLOAK_DEFAULT} is in every token of a Keycloak realm: add an audience mapper there"
        if self.jwks is None:
            try:
                checked_url(self.issuer[0])
            except ValueError:
                yield "issuer", "is no URL, so it has no discovery: set jwks"
        if self.file is not None and self.credential is not None:
            yield "credential", "is never used: a file needs no login"

    def identity_issuer(self, issuer: str) -> str:
        """Return the issuer by which callers of `issuer` are known: v1 and v2 of one Entra tenant are one."""
        tenant = _ENTRA_V1.fullmatch(issuer)
        v2 = f"https://login.microsoftonline.com/{tenant[1]}/v2.0" if tenant else issuer
        return v2 if v2 in self.issuer else issuer

    @property
    def url(self) -> str | None:
        """What gatepass fetches first, None if the keys are in a file."""
        return None if self.file is not None else self.jwks or self.issuer[0]

    @property
    def file(self) -> str | None:
        """The file with the keys, None if gatepass fetches them."""
        return None if self.jwks is None or "://" in self.jwks else self.jwks


DISCOVERY = "/.well-known/openid-configuration"
"""What follows the issuer in the address of its document (OpenID Connect Discovery 4.1)."""
KEYCLOAK_DEFAULT = "account"
"""The audience that Keycloak writes into the tokens of every user for its own account console."""


class Access(Block):
    """API keys and issuers of the callers."""

    keys: list[AccessKey] = []
    """The accepted API keys. Without keys and `jwt`, gatepass serves only loopback clients. Each hash may appear once.

    Example: [{name: ragflow, profile: ragflow, key: "${RAGFLOW_KEY}"}]
    """
    jwt: list[JwtIssuer] = []
    """Issuers whose tokens (JWT) callers may send in place of a key. With one, every client needs a token or a key, on
    this machine too. It requires the extra `crypto`. See docs/operations/callers.md.

    Example: [{issuer: "https://login.corp.example/tenant/v2.0", audience: "api://gatepass", callers: [{claim: roles,
    contains: llm-user, name: people}]}]
    """
    groups: dict[Name, Group] = {}
    """Groups of callers that share limits, by name. A key, and a row of `jwt`, names its group.

    Example: {imports: {limits: {tokens: {minute: 200000}}}}
    """
    metrics_open: bool = False
    """Serve /metrics without a key or token although `access` has keys or `jwt`.

    Danger: Every client that can reach gatepass can read the names of upstreams, their load and their errors.
    """

    @property
    def callers(self) -> int:
        """The number of callers that are configured; 1 without keys. Rows of `jwt` are for several callers each."""
        return len({key.name for key in self.keys}) + 2 * sum(len(one.callers) for one in self.jwt) or 1

    @property
    def has_callers(self) -> bool:
        """Whether callers need a key or a token. Without, gatepass serves this machine alone."""
        return bool(self.keys or self.jwt)
