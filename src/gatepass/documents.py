"""The documents of the admin routes: what `server/` writes, and the command line and the page at /ui read.

docs/reference/http.md lists them. Names that end in `_s` are seconds. A member that is UNSET is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from gatepass.types import AttemptFacts, Hidden

# --- the status


class Failure(Struct, frozen=True):
    """A request that failed at an upstream."""

    id: str
    code: str
    kind: str
    age_s: float


class Failures(Failure, frozen=True):
    """The last of the requests that failed in a row."""

    in_a_row: int
    for_s: float
    """The time since the first of them failed."""
    test: str
    """The command that tests the upstream with the same model."""


class UpstreamStatus(Struct, kw_only=True):
    """What the upstreams of models and the MCP servers have in common."""

    host: str
    credential: str | None
    health: Literal["ok", "failing", "unknown", "answering"]
    last_failed: Failures | None
    """None after a request that succeeded."""
    last_error: Failure | None
    many_errors: bool
    in_flight: int
    open_connections: int
    requests_15m: int
    errors_15m: int
    """Those that failed at the upstream."""
    rejected_15m: int = 0
    """Those that ended with another error, such as a 4xx."""
    silent: dict[str, float]
    """The time since the last piece of each silent stream, by request id."""


class ModelUpstream(UpstreamStatus, kw_only=True):
    dialect: str
    requests: int
    errors: int
    """Both since the start of the process."""
    over_chat: list[str]
    """The operations that chat completions serve."""


class McpServer(UpstreamStatus, kw_only=True):
    usable: bool
    sessions: int


class McpStatus(Struct):
    streams: int
    """On which clients wait for events."""
    servers: dict[str, McpServer]


class Renewal(Struct, frozen=True):
    """One fetch of a token. `at` is in seconds since the epoch."""

    at: float
    ok: bool
    reason: str | None


class TokenStatus(Struct, kw_only=True):
    """The state of one credential at one moment."""

    state: str
    """`fresh`, `stale`, `expired` or `none`."""
    kind: str | None
    lifetime_source: str | None
    age_s: float | None
    expires_in_s: float | None
    """The time until the token is no longer sent. None without a token, and for a key without an expiry."""
    fetches: int
    """Attempts of this process that ended with a token or a failure."""
    failures: int
    last_error: str | None
    """Kept after a recovery."""
    last_error_age_s: float | None
    failing: bool
    """Whether the failure continues."""
    failing_since: float | None
    """When the first attempt since the last token failed, in seconds since the epoch."""
    refreshing: bool
    next_try_in_s: float | None
    renewals: list[Renewal]
    """The last fetches of this process, the newest at the end."""


class Credential(TokenStatus, kw_only=True):
    type: str
    upstreams: list[str]
    rejected_by: dict[str, float]
    """The time since each of these upstreams rejected the token."""
    needs_restart: bool


class KeySet(Struct, kw_only=True):
    """The signing keys of one issuer of `access.jwt`."""

    issuer: str
    keys: int
    age_s: float | None
    """Since they were fetched. None: never, or longer ago than they are used."""
    fault: str | None
    unusable: str | None = None
    """How many keys of the set cannot be used, and why the first one cannot."""


class Key(Struct, kw_only=True):
    """A key without its hash. `expires` and `last_used` are RFC 3339."""

    id: str
    name: str
    role: str
    profile: str
    expires: str | None
    models: list[str] | None
    operations: Sequence[str] | None
    mcp: dict[str, list[str] | None] | None
    state: Literal["valid", "expires soon", "expired"]
    last_used: str | UnsetType | None = UNSET
    """Of a key of the running gatepass."""
    hash: str | UnsetType | None = UNSET
    reference: str | UnsetType | None = UNSET
    """Both of a key of the file alone."""


class Target(Struct):
    upstream: str
    model: str | None
    state: str
    for_s: float
    """What is left of an ejection or a wait, else 0."""
    in_flight: int
    weight: float


class StoreStatus(Struct, kw_only=True):
    through: str = ""
    key_id: str = ""
    state: str
    for_s: float | None
    reason: str | None


class CaptureState(Struct, kw_only=True):
    """The running capture. `until` is in seconds since the epoch."""

    running: bool
    until: float | None = None
    left_s: float | None = None
    model: str | None = None
    caller: str | None = None
    limit_bytes: int | None = None
    held_bytes: int
    captured: int


class Status(Struct, kw_only=True):
    """The state of one process, without a token, key or secret."""

    at: float
    """The time of the process, in seconds since the epoch."""
    ready: bool
    draining: bool
    in_flight: int
    replica: str
    ids_begin: str
    """The beginning of the request ids of this host."""
    reload_problems: list[str]
    store: StoreStatus | None
    credentials: dict[str, Credential]
    upstreams: dict[str, ModelUpstream]
    keys: list[Key]
    jwt: list[KeySet] | UnsetType = UNSET
    capture: CaptureState
    limits_without_store: str | UnsetType = UNSET
    targets: dict[str, list[Target]] | UnsetType = UNSET
    """Of each model with a choice of targets or a breaker."""
    mcp: McpStatus | UnsetType = UNSET


# --- traffic, callers and limits


class Quantiles(Struct):
    """Bounds: a duration is at most so long, or longer than `over_s` if its bound is. None for a slice without a value.

    `all` has those of all slices together, by name.
    """

    over_s: float
    all: dict[str, float | None]
    p50: list[float | None]
    p95: list[float | None]
    p99: list[float | None]


class Series(Struct):
    """The last number of each series is of the running slice, which ends at `ended_at`."""

    width_s: int
    ended_at: int
    requests: list[int]
    errors: list[int]
    tokens_in: list[int]
    tokens_out: list[int]
    ttft_s: Quantiles
    duration_s: Quantiles


class ErrorCount(Struct, frozen=True):
    """How many errors have this code, as the client received it, and this kind (`RequestFacts`)."""

    code: str
    kind: str
    count: int


class Traffic(Struct):
    """The last 15 minutes. `errors` has the most frequent ones first."""

    series: Series
    errors: list[ErrorCount]
    callers: dict[str, int]
    """The callers that received errors."""


class Caller(Struct):
    """The use of a caller since the start. `last_used` is RFC 3339."""

    name: str
    in_flight: int
    max_concurrent: int | None
    requests: int
    errors: int
    tokens: int
    last_used: str | None


class Callers(Struct):
    """The callers with the most requests, and the number of all callers."""

    callers: list[Caller]
    all_callers: int


class Limit(Struct):
    of: str
    limit: str
    """The setting."""
    most: int
    used: int
    left: int


class Limits(Struct):
    limits: list[Limit]


# --- requests


class RequestFacts(Struct, kw_only=True):
    """What the summary of a request and its story have in common."""

    id: str
    operation: str
    caller: str
    auth: str = ""
    """`jwt` with a token: a row of `access.jwt` can have the name of a key."""
    user: str = ""
    """What the token of the caller calls it, "" with a key."""
    model: str
    mcp_method: str
    mcp_tool: str
    upstream: str | None
    stream: bool
    status: int | None
    outcome: str
    """`ok`, `error`, `client_gone`, `unread` (aborted: the client did not read), or "" while it runs."""
    code: str | None
    hop: str | None
    kind: str | None
    """The code, or gatepass's own code of an upstream's error: `code` may be one that an upstream chose."""
    path: str
    state: Literal["running", "ended"]
    arrived_at: str
    """RFC 3339."""
    ended: float | None
    """A moment that orders requests, by a clock that never jumps."""
    message: str | None
    """The beginning of the error's message."""
    adapted: list[str]
    duration_s: float
    """Until now, if it runs."""
    first_byte_s: float | None
    bytes_out: int
    tokens_in: int | None
    tokens_out: int | None
    events: int
    empty_answer: bool
    captured: bool
    """Whether its bodies were captured."""


class Summary(RequestFacts, kw_only=True):
    attempts: int


class Requests(Struct, kw_only=True):
    ids_begin: str
    now: float
    """When the list was begun, by the clock of `ended`."""
    requests: list[Summary]
    running: list[Summary]


class AttemptToken(Struct, kw_only=True):
    """The times of the token that was sent."""

    credential: str
    age_s: float | None
    left_s: float | None
    wait_s: float
    """How long the attempt waited for it."""
    renewal_s: float
    """How long the request waited for a new one, after the attempt had ended with a rejection."""


class Gap(Struct):
    at_s: float
    length_s: float


class StreamArrivals(Struct, kw_only=True):
    """The reads of a stream since the attempt began, and the longest gap between them."""

    reads: int
    first_s: float
    last_s: float
    ended_s: float
    longest_gap: Gap | None


class Attempt(Hidden, AttemptFacts, kw_only=True):
    upstream: str
    upstream_model: str | None
    outcome: str | None
    reached: bool
    began_s: float
    duration_s: float | None
    token: AttemptToken | None
    arrivals: StreamArrivals | None
    parts: list[Attempt]


class RequestError(Struct, kw_only=True):
    code: str
    hop: str | None
    message: str
    cause: str
    """The message without its advice: `action` says it."""
    retry_after_s: float | None
    kind: str
    case: str
    test: str
    """The command that tests the hop."""
    sentence: str
    action: str
    sentence_zh: str
    action_zh: str
    page: str


class Timings(Struct, kw_only=True):
    body_s: float
    token_wait_s: float
    upstream_s: float
    added_s: float | None
    first_byte_s: float | None
    duration_s: float | None


class Body(Hidden, Struct):
    """A captured body, or its beginning (`cut`)."""

    name: str
    text: str
    size_bytes: int
    cut: bool


class Story(RequestFacts, kw_only=True):
    """One request, with times since it arrived."""

    replica: str
    method: str
    peer: str
    user_agent: str
    closed_by: str | None
    """Who ended it first: `client`, `upstream` or `gatepass`."""
    error: RequestError | None
    attempts: list[Attempt]
    timings: Timings
    bytes_in: int
    usage: dict[str, int] | None
    upstream_request_id: str | None
    trace_id: str | None
    bodies: list[Body] | UnsetType = UNSET


class Stories(Hidden, Struct):
    """The requests with one id, the newest first, and the URL of gatepass."""

    stories: list[Story]
    url: str


class Curl(Struct):
    curl: str


# --- doctor


class DoctorTask(Struct):
    """What `gatepass doctor` tests: all hops, or those of `model`; with `call` also by real calls of `operation`."""

    model: str | None = None
    call: bool = False
    operation: str | None = None


class StepOutcome(StrEnum):
    """UNPROVEN: the hop answers, but the step cannot prove that it works."""

    WORKS = "works"
    FAILS = "fails"
    UNPROVEN = "unproven"
    SKIPPED = "skipped"


class Step(Struct, frozen=True):
    """The result of one test at one hop, with its reason and the advice for the operator, also in Chinese.

    `advice` is empty if no action is necessary, or if `why` contains it.
    """

    hop: str
    what: str
    """configuration, store, token, keys, models, call, stream, initialize, tools or tls."""
    outcome: StepOutcome
    why: str
    advice: str = ""
    why_zh: str = ""
    advice_zh: str = ""
    seconds: float = 0.0
    error: str = ""
    """The code of an error: its `why` has no translation, and `why_zh` explains the code."""
    model: str = ""
    """What a call named."""
    proves: bool = True
    """Whether WORKS proves that the hop works. A configured key that was not sent anywhere proves nothing."""

    @property
    def failed(self) -> bool:
        return self.outcome is StepOutcome.FAILS


# --- learned rules and reloads


class RuleName(Struct):
    """A learned rule to forget."""

    upstream: str
    model: str
    operation: str
    adapted: str


class LearnedRule(RuleName, kw_only=True):
    """A rule of one or more callers, with the last evidence, the age of the oldest and the longest time left."""

    callers: list[str]
    beside: str
    """The member without which the rule does not apply, or `!` and the betas with which it does not."""
    values: list[str]
    hidden_values: int
    """The values to which it applies, as JSON, and how many more are private. Without any, it applies to all."""
    evidence: str
    age_s: int
    expires_in_s: int
    uses: int
    setting: str
    """The members of the model's entry that make it permanent."""


class LearnedRules(Struct):
    rules: list[LearnedRule]


class ReloadResult(Struct, frozen=True):
    """What a reload did: the names of the settings that changed or need a restart, or the problems.

    `unchanged`: no setting in use changed. `refused`: the previous configuration stays in use. `retried` names the
    failing credentials that fetch now. `warnings` are those that the previous configuration did not have.
    """

    outcome: Literal["reloaded", "unchanged", "refused"]
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
