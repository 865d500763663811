"""Hold the state of one request: a RequestContext, and an Attempt for each target.

Retry decisions, response headers, keep-alives and captured bodies read this state. At the end it fills the access
record and the metrics. The access record is an allow-list: no header but the user agent, no body, no query string.
"""

from __future__ import annotations

from typing import Self

import msgspec
from msgspec.structs import replace

from gatepass.config.access import PLAIN, AccessKey, Profile
from gatepass.errors import GatepassError
from gatepass.normalize.profiles import ProfileRules
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.in_flight import RequestMemory
from gatepass.proxy.uploads import MultipartUpload
from gatepass.sse.synthesize import SYNTHESIZED
from gatepass.sse.usage import Usage
from gatepass.tokens import Token, TokenUser
from gatepass.types import Call, ClientRequest, Headers, Hidden, StreamedResponse, Target, header

PATH_LOG_CHARS = 256
AGENT_LOG_CHARS = 128


# gc=False: the record refers to no container that could refer back, so the garbage collector need not track it.
class AccessRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The fields of one access log line. Fields with their default are left out.

    A struct, because msgspec encodes it in a fifth of the time of a dict.
    """

    id: str
    method: str
    path: str
    operation: str
    caller: str = ""
    peer: str = ""
    user_agent: str = ""
    model: str = ""
    upstream: str | None = None
    upstream_model: str | None = None
    stream: bool = False
    status: int | None = None
    outcome: str = ""
    code: str | None = None
    hop: str | None = None
    reason: str | None = None
    attempts: int = 0
    renewed: bool = False
    repeated_stale: bool = False
    adapted: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    failover: tuple[str, ...] = ()
    duration_s: float | None = None
    ttft_s: float | None = None
    token_wait_s: float | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    events: int = 0
    usage: msgspec.Struct | None = None
    upstream_request_id: str | None = None
    empty_answer: bool = False

    def texts(self) -> str:
        """Return all texts of the fields, in which `emit` searches for secrets. They are a quarter of the log line."""
        texts = (
            f"{self.id} {self.method} {self.path} {self.operation} {self.caller} {self.peer} {self.user_agent}"
            f" {self.model} {self.upstream} {self.upstream_model} {self.upstream_request_id}"
        )
        if self.adapted or self.tried or self.failover:
            texts = " ".join((texts, *self.adapted, *self.tried, *self.failover))
        return texts if self.outcome == "ok" else f"{texts} {self.outcome} {self.code} {self.hop} {self.reason}"


BODY_LOG_CHARS = 2_000
BODY_KEPT_CHARS = BODY_LOG_CHARS + 16 * 1024
"""More than is logged: the redactor finds a secret at the cut only if the whole secret was kept."""
IDS_LOG_CHARS = 1_000
"""The most characters of upstream request ids, if a call was sent as several requests."""
ANONYMOUS = AccessKey.model_construct(name="", hash=None, key=None, models=[], profile=None)
"""The caller until the request is authenticated. It may use no model."""


class Attempt(Hidden, msgspec.Struct, eq=False):
    """One target, and the state that decides about retries at it and about a failover to the next one.

    An embeddings call that is sent as several requests has a part for each. Each part may repeat its request once with
    another token, and once on a new connection.
    """

    state: AppState
    upstream: Upstream
    target: Target
    call: Call
    profile: Profile = PLAIN
    """The settings of the caller's profile."""
    token: Token | None = None
    """The token of the last request."""
    renewed: bool = False
    """A request was sent again with another token."""
    repeated_stale: bool = False
    """A request was sent again because its reused connection closed without an answer."""
    written: bool = False
    """A byte of a request may have been written."""
    requests: int = 0
    """How many requests were sent, including the current one."""
    token_wait_s: float = 0.0
    waits_since_s: float = 0.0
    """The moment since which the attempt waits for the upstream."""
    upstream_s: float = 0.0
    """How long the attempt waited for the upstream."""
    upstream_request_id: str | None = None
    adapted: tuple[str, ...] = ()
    """The changes of the request, and of the part of the reply that was relayed."""
    learned: tuple[str, ...] = ()
    """The changes in `adapted` that learned rules made."""
    tried: tuple[str, ...] = ()
    """The changes that were tried and did not make the upstream accept the request."""
    memory: RequestMemory | None = None
    """The budget for buffered replies. None if gatepass itself made the request."""
    reply_text: str | None = None
    """The beginning of the reply's body, if `log.bodies` is on."""

    def user(self) -> TokenUser:
        """Return the upstream and model that the token is sent to."""
        return TokenUser(self.upstream.name, self.target.model or self.call.model, self.upstream.base_url)

    def add_upstream_wait(self) -> None:
        """Add the time since the request was sent, or since the last call, to `upstream_s`.

        Called when the part of the reply that gatepass waited for has arrived, or will not arrive.
        """
        now_s = self.state.clock.now()
        self.upstream_s += now_s - self.waits_since_s
        self.waits_since_s = now_s

    def capture_reply(self, data: bytes) -> None:
        """Capture the beginning of the reply's body, if `log.bodies` is on."""
        if self.state.keeps_bodies:
            self.reply_text = captured(self.reply_text, data)

    def add_changes(self, adapted: tuple[str, ...]) -> None:
        """Add the names of changes, each once."""
        if adapted:
            self.adapted = tuple(dict.fromkeys((*self.adapted, *adapted)))

    def begin_part(self) -> Attempt:
        """Return the state of one of the several requests of this attempt. `end_part` ends it."""
        return Attempt(self.state, self.upstream, self.target, self.call, self.profile, memory=self.memory)

    def end_part(self, part: Attempt, *, failed: bool) -> None:
        """Add the state of `part` to the attempt.

        The request id and the reply of a failed part come first, so that the length limit does not cut them.
        """
        self.token = part.token
        self.renewed = self.renewed or part.renewed
        self.repeated_stale = self.repeated_stale or part.repeated_stale
        # When one part fails, others may have written bytes. So each part that sent a request is treated as written.
        self.written = self.written or part.requests > 0
        self.requests += part.requests
        self.token_wait_s = max(self.token_wait_s, part.token_wait_s)
        self.add_changes(part.adapted)
        ordered = (part, self) if failed else (self, part)
        ids = [one.upstream_request_id for one in ordered if one.upstream_request_id]
        self.upstream_request_id = ",".join(ids)[:IDS_LOG_CHARS] or None
        texts = [one.reply_text for one in ordered if one.reply_text is not None]
        self.reply_text = "\n".join(texts)[:BODY_KEPT_CHARS] if texts else None


class RequestContext(Hidden, msgspec.Struct, eq=False):
    """The state of one request, from its head to its access record. Times are seconds since the request arrived.

    None of its members may refer back to it, so that a finished request needs no garbage collection.
    """

    client_request: ClientRequest
    state: AppState
    profile_rules: ProfileRules
    """The rules of the caller's profile, and its `settings`. The profile "plain" until the caller is known."""
    operation: str = "none"
    caller: AccessKey = ANONYMOUS
    call: Call | None = None
    memory: RequestMemory | None = None
    upload: MultipartUpload | None = None
    """The body, if it is a multipart form. It is read until its model is known, and sent on as the rest arrives."""
    upstream_name: str | None = None
    """The upstream of the last attempt, or all upstreams whose model lists were read."""
    attempts: list[Attempt] = []  # msgspec copies an empty list for each instance
    """One for each target that was tried."""
    failover: tuple[str, ...] = ()
    """The targets before the last one, each as `upstream=code`. No byte was written to them."""
    cors_headers: Headers = ()
    """CORS fields of the response, also of an error."""
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    events: int = 0
    body_s: float = 0.0
    """When the request's body had arrived, 0 if gatepass does not read it whole."""
    head_s: float | None = None
    """When the head of the response was written."""
    first_byte_s: float | None = None
    """When the body of the response began: `ttft_s` in the access log. A keep-alive does not count."""
    streamed: StreamedResponse = StreamedResponse()
    """What was relayed of a stream of the Responses API, if the stream has ended."""
    usage: Usage | None = None
    empty_answer: bool = False
    """The reply to a chat has no content and no tool call."""
    error: GatepassError | None = None
    """The error that the client received. `ClientResponse.send_error` sets it, `handle` only if the process stops."""
    client_gone: bool = False
    request_text: str | None = None
    """The beginning of the request's body, if `log.bodies` is on."""

    def requests(self) -> int:
        """Return how many requests were sent to upstreams, over all attempts."""
        attempts = self.attempts
        return attempts[0].requests if len(attempts) == 1 else sum(attempt.requests for attempt in attempts)

    def token_wait_s(self) -> float:
        """Return how long the request waited for tokens, over all attempts."""
        attempts = self.attempts
        return attempts[0].token_wait_s if len(attempts) == 1 else sum(attempt.token_wait_s for attempt in attempts)

    def streamed_response(self) -> StreamedResponse:
        """Return `streamed`, with an id, a model and a time if no relayed event had them."""
        streamed, model = self.streamed, self.call.model if self.call is not None else ""
        return replace(
            streamed,
            id=streamed.id or f"resp_{self.client_request.id}",
            model=streamed.model or model,
            created_s=streamed.created_s or int(self.state.clock.wall()),
        )

    def outcome(self) -> str:
        """Return one of ok, error and client_gone: a closed set, because it is a label of metrics."""
        if self.client_gone:
            return "client_gone"
        return "error" if self.error is not None else "ok"

    def metrics_key(self) -> tuple[str, str, str, str]:
        """Return the caller, model, upstream and operation, as `Metrics.series` has them."""
        return (
            self.caller.name,
            self.call.model if self.call is not None else "",
            self.attempts[-1].upstream.name if self.attempts else "",
            self.operation,
        )

    @classmethod
    def without_client(cls, state: AppState, profile_rules: ProfileRules) -> Self:
        """Return the context of a request that gatepass itself makes. It has no client and no access record."""
        return cls(ClientRequest("", "", "", (), "", 0.0), state, profile_rules)

    def begin_attempt(self, call: Call, target: Target) -> Attempt:
        state = self.state
        attempt = Attempt(
            state, state.upstreams[target.upstream], target, call, self.profile_rules.settings, memory=self.memory
        )
        self.attempts.append(attempt)
        self.upstream_name = target.upstream
        return attempt

    def capture_request(self, data: bytes) -> None:
        """Capture the beginning of the request's body, if `log.bodies` is on."""
        if self.state.keeps_bodies:
            self.request_text = captured(self.request_text, data)

    def record(self, outcome: str, duration_s: float) -> AccessRecord:
        """Return the access record of the finished request."""
        client_request, call, error, attempts = self.client_request, self.call, self.error, self.attempts
        attempt = attempts[-1] if attempts else None
        token_wait_s = self.token_wait_s()
        path = client_request.path
        agent = (header(client_request.headers, b"user-agent") or b"").decode("latin-1")
        # masked here only if they are cut: the log masks each line
        if len(path) > PATH_LOG_CHARS:
            path = self.state.redactor.beginning(path, PATH_LOG_CHARS)
        if len(agent) > AGENT_LOG_CHARS:
            agent = self.state.redactor.beginning(agent, AGENT_LOG_CHARS)
        # In the order of the fields. Keywords take 1.5 µs more (CPython 3.11): 1 % of the time of a small chat.
        return AccessRecord(
            client_request.id,
            client_request.method,
            path,
            self.operation,
            self.caller.name,
            client_request.peer if self.caller is ANONYMOUS else "",
            agent,
            call.model if call is not None else "",
            self.upstream_name,
            attempt.target.model if attempt is not None else None,
            call.stream if call is not None else False,
            self.status,
            outcome,
            error.public_code if error is not None else None,
            error.hop if error is not None else None,
            error.message if error is not None else None,
            self.requests(),
            attempt.renewed if attempt is not None else False,
            attempt.repeated_stale if attempt is not None else False,
            attempt.adapted if attempt is not None else (),
            attempt.tried if attempt is not None else (),
            self.failover,
            round(duration_s, 4),
            None if self.first_byte_s is None else round(self.first_byte_s, 4),
            round(token_wait_s, 4) or None,
            self.bytes_in,
            self.bytes_out,
            self.events,
            self.usage,
            attempt.upstream_request_id if attempt is not None else None,
            self.empty_answer,
        )

    def count(self, outcome: str, duration_s: float) -> None:
        """Count the finished request in the metrics."""
        metrics, attempts, usage, first_byte_s = self.state.metrics, self.attempts, self.usage, self.first_byte_s
        key = self.metrics_key()
        series = metrics.series.get(key) or metrics.of(key)
        series.requests[outcome] += 1
        series.duration.observe(duration_s)
        metrics.bytes_in.value += self.bytes_in
        metrics.bytes_out.value += self.bytes_out
        if self.error is not None:
            metrics.error_sent(self.error, series)
        if not attempts:
            return
        attempt = attempts[-1]
        series.attempts += attempt.requests
        upstream_s = attempt.upstream_s
        for earlier in attempts[:-1]:
            upstream_s += earlier.upstream_s
            metrics.of((*key[:2], earlier.upstream.name, key[3])).attempts += earlier.requests
        if self.empty_answer:
            metrics.empty_answer(attempt.upstream.name)
        if usage is not None:
            series.add_tokens(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
        if first_byte_s is None:
            return
        if outcome == "ok":  # the time that gatepass added: without the client's body and the upstream
            series.added.observe(first_byte_s - self.body_s - upstream_s)
        if self.events:
            series.first_token.observe(first_byte_s)
            later_tokens = 0 if usage is None else (usage.completion_tokens or 0) - 1
            # the tokens of a synthesized stream arrive at once
            if later_tokens > 0 and outcome == "ok" and SYNTHESIZED not in attempt.adapted:
                series.per_token.observe((duration_s - first_byte_s) / later_tokens)

    def captured_bodies(self) -> dict[str, str]:
        """Return the beginnings of the captured bodies under `request` and `reply`."""
        reply = self.attempts[-1].reply_text if self.attempts else None
        bodies = {"request": self.request_text, "reply": reply}
        return {which: text for which, text in bodies.items() if text is not None}


def captured(held: str | None, data: bytes) -> str:
    """Return `held` with `data` appended, cut at BODY_KEPT_CHARS."""
    text = held or ""
    if len(text) >= BODY_KEPT_CHARS:
        return text
    return (text + data[:BODY_KEPT_CHARS].decode("utf-8", "replace"))[:BODY_KEPT_CHARS]
