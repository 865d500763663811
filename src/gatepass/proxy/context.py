"""Hold the state of one request: a RequestContext, and an Attempt for each try.

Retry decisions, response headers and keep-alives read this state. Each attempt and each request ends exactly once:
`Attempt.end` and `RequestContext.end` complete their records and tell the observers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Self

import msgspec
from msgspec.structs import replace

from gatepass.auth.caller import Caller
from gatepass.auth.model_access import check_calls_models
from gatepass.config.access import PLAIN, Profile
from gatepass.errors import GatepassError, UpstreamErrorReply
from gatepass.learning.session import LearningSession
from gatepass.normalize.profiles import PROFILES, ProfileRules
from gatepass.observability.observer import AccessRecord, Arrivals, AttemptRecord, RequestRecord
from gatepass.observability.story import attempts_of, token_wait_of
from gatepass.protocols.client_protocol import RAW, ClientProtocol
from gatepass.protocols.translation.answer_blocks import Early
from gatepass.protocols.translation.translation import ChatCall
from gatepass.proxy.admission import REFUSALS, Admitted
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.failover import Failover
from gatepass.proxy.in_flight import RequestMemory
from gatepass.proxy.retry import COMPLETE, Outcome, Repeat, Tried, outcome_of
from gatepass.proxy.uploads import Form
from gatepass.sse.synthesize import SYNTHESIZED
from gatepass.sse.usage import Usage
from gatepass.tokens import Token, TokenUser
from gatepass.types import Call, ClientRequest, Headers, Hidden, StreamedResponse, Target

PATH_LOG_CHARS = 256
AGENT_LOG_CHARS = 128
DECIMALS = 10_000
"""Times are logged with four decimals. `round(seconds, 4)` takes five times as long: it writes and reads a text."""
IDS_LOG_CHARS = 1_000
"""The most characters of upstream request ids, if a call was sent as several requests."""
ANONYMOUS = Caller("", "", models=[])
"""The caller until the request is authenticated. It may use no model."""


MOVES = (Repeat.NEXT_TARGET, Repeat.RETRY)
"""Repeats for which `Failover.choose` has chosen the target."""


class Attempt(Hidden, Tried, eq=False):
    """One try at one target: one request, or the requests of a split call. `end` is called exactly once.

    `again` returns the attempt that repeats it. An embeddings call that is sent as several requests has an attempt for
    each part. A part may be repeated with another token, or on a new connection.
    """

    state: AppState
    upstream: Upstream
    target: Target
    call: Call
    record: AttemptRecord
    """What observers and the access log learn of it."""
    profile: Profile = PLAIN
    """The settings of the caller's profile."""
    memory: RequestMemory | None = None
    """The budget for buffered replies. None if gatepass itself made the request."""
    deadline_s: float = math.inf
    """The time of `Clock.now` at which the request must end."""
    failover: Failover | None = None
    """The way over the targets of the route. None for one target of which nothing is counted."""
    limit_bytes: int = 0
    """The size limit of a whole reply."""
    base: Call | None = None
    """The call with the rules that are the same for each attempt at this target."""
    chat: ChatCall | None = None
    """The chat that serves `call` at this target, if the upstream does not speak the client's protocol."""
    early: Early | None = None
    """What the client has read of an answer that a chat may make. None before keep-alives can start."""
    absent: UpstreamErrorReply | None = None
    """The error from which gatepass concludes that the upstream lacks the path: a chat is tried."""
    session: LearningSession | None = None
    """The learned rules of the attempts at this target. None while there is none for the model and no error."""
    target_began_s: float = 0.0
    """When the first attempt at this target began, 0 in that attempt itself."""
    copied_bytes: int = 0
    """What `base` holds if it is large and a copy."""
    new_connection: bool = False
    ran_before: bool = False
    """An earlier attempt wrote a request that its upstream did not refuse."""
    normalized: Call | None = None
    """The call that is encoded: `base` with learned rules and the dialect's rules."""
    learned: tuple[str, ...] = ()
    """The changes that learned rules made."""
    token: Token | None = None
    has_answered: bool = False
    """A stream that gatepass makes a whole reply from had begun its answer when it failed."""
    is_rejected: bool = False
    """The status of the reply rejects the token."""
    waits_since_s: float = 0.0
    held_bytes: int = 0
    """The bytes of the reply in `memory` that belong to this attempt."""
    parts: dict[int, Attempt] | None = None
    """The last attempt of each part of a split call, by its place."""

    @classmethod
    def begin(
        cls,
        state: AppState,
        target: Target,
        call: Call,
        profile: Profile = PLAIN,
        memory: RequestMemory | None = None,
        access: AccessRecord | None = None,
        failover: Failover | None = None,
    ) -> Self:
        """Return the first attempt of `call`, at `target`, which `failover` chose.

        Without `access` gatepass itself made the call.
        """
        began_s = state.clock.now() if failover is None else failover.began_s
        upstream, limit_bytes = state.upstreams[target.upstream], state.limits.reply_bytes
        if call.operation.name == "embeddings" and (length := state.declared.vector_length(call.model)) is not None:
            call = replace(call, declared_length=length)
        record = AttemptRecord(call.id, call.operation.name, call.model, target.upstream, target.model, began_s, access)
        return cls(state, upstream, target, call, record, profile, memory, math.inf, failover, limit_bytes)

    def again(self, repeat: Repeat) -> Attempt:
        """Return the next attempt. This one must have ended."""
        ended, failover = self.record, self.failover
        target = self.target if failover is None else failover.target
        attempt = Attempt.begin(self.state, target, self.call, self.profile, self.memory, ended.access, failover)
        record = attempt.record
        record.number, record.cause, record.after = ended.number + 1, repeat, ended
        attempt.deadline_s, attempt.limit_bytes = self.deadline_s, self.limit_bytes
        attempt.sent_before = self.sent_before or self.sent
        attempt.ran_before = self.ran_before or (self.sent and ended.outcome not in REFUSALS)
        attempt.new_connection = repeat is Repeat.NEW_CONNECTION
        attempt.calls = self.calls + (repeat is not Repeat.NEXT_TARGET)
        if (early := self.early) is not None:
            attempt.early, early.is_over = early, False
        if repeat not in MOVES:
            attempt.renewed = self.renewed or ended.outcome == Outcome.TOKEN_REJECTED
            attempt.reconnected = self.reconnected or attempt.new_connection
            attempt.upstream = self.upstream
            attempt.base, attempt.session, attempt.copied_bytes = self.base, self.session, self.copied_bytes
            attempt.chat, attempt.absent, attempt.repeats_stale = self.chat, self.absent, self.repeats_stale
            attempt.target_began_s = self.target_began_s or ended.began_s
        return attempt

    def end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Complete the record, and give back what a discarded reply held."""
        record = self.record
        record.outcome = outcome
        record.duration_s = self.state.clock.now() - record.began_s
        if record.head_s is None and record.status is not None:
            record.head_s = self.waits_since_s - record.began_s
        if outcome is not COMPLETE:
            if isinstance(error, GatepassError):
                record.code, record.reason, record.hop = error.public_code, error.message, error.hop
                record.kind = error.stable_code
                record.retry_after_s = error.retry_after_s
            for part in (self.parts or {}).values():
                if not part.record.outcome:  # it was cancelled with the others
                    part.end(outcome)
                part.give_back()
            self.give_back()
            if self.memory is not None:
                self.memory.hold_of_stream(0)
        if self.failover is not None:
            was_asked = record.requests > 0 and not self.stale  # else it waited for a token, or met a closed connection
            now_s = record.began_s + record.duration_s
            self.failover.ended(now_s, outcome, error, was_asked=was_asked)
            if outcome is COMPLETE:  # else the attempt may be repeated in its place
                self.failover.leave()
            elif (admitted := self.failover.admitted) is not None:
                admitted.leave_target(now_s, record.access, outcome, sent=self.sent, requests=record.requests)

    def give_back(self) -> None:
        if self.memory is not None and self.held_bytes:
            self.memory.add(-self.held_bytes)
        self.held_bytes = 0

    def end_by(self, error: BaseException) -> None:
        self.end(outcome_of(error, sent=self.sent, has_head=self.record.status is not None), error)

    def user(self) -> TokenUser:
        return TokenUser(self.upstream.name, self.target.model or self.call.model, self.upstream.base_url)

    def add_upstream_wait(self) -> None:
        """Add the time since the request was sent, or since the last call, to `upstream_s`.

        Called when the part of the reply that gatepass waited for has arrived, or will not arrive.
        """
        now_s = self.state.clock.now()
        self.record.upstream_s += now_s - self.waits_since_s
        self.waits_since_s = now_s

    def note_read(self, now_s: float) -> None:
        """Note that a piece of a stream was read at `now_s`. It takes less than 250 ns (`make bench-inspector`)."""
        arrivals = self.record.arrivals
        if arrivals is None:
            self.record.arrivals = Arrivals(now_s, now_s)
            return
        arrivals.reads += 1
        if now_s - arrivals.last_s > arrivals.gap_s:
            arrivals.gap_s, arrivals.gap_at_s = now_s - arrivals.last_s, arrivals.last_s
        arrivals.last_s = now_s

    def add_changes(self, adapted: tuple[str, ...]) -> None:
        if adapted:
            self.record.adapted = tuple(dict.fromkeys((*self.record.adapted, *adapted)))

    def note_usage(self, usage: Usage | None) -> None:
        """Note what a reply reports that is refused."""
        if self.record.access is not None:
            self.record.access.usage = usage

    # `BodyMemory` of http_client/response_body.py

    def add(self, size_bytes: int) -> None:
        if self.memory is not None:
            self.held_bytes += size_bytes
            self.memory.add(size_bytes)

    def is_full(self) -> bool:
        return self.memory is not None and self.memory.is_full()

    async def wait_for_room(self) -> None:
        if self.memory is not None:
            await self.memory.wait_for_room()

    def begin_part(self) -> Attempt:
        """Return the first attempt of one of the parts of this call. `join_parts` adds what they did."""
        part = Attempt.begin(self.state, self.target, self.call, self.profile, self.memory, self.record.access)
        part.deadline_s = self.deadline_s
        return part

    def join_parts(self, failed: int | None) -> None:
        """Add what the parts did to this attempt.

        The request id and the reply of the part that failed come first, so that the length limit does not cut them.
        """
        parts = [part for _, part in sorted((self.parts or {}).items(), key=lambda one: (one[0] != failed, one[0]))]
        record = self.record
        record.parts = tuple(part.record for part in parts)
        for part in parts:
            self.token = part.token
            self.add_changes(part.record.adapted)
            record.requests += sum(one.requests for one in attempts_of(part.record))
            record.token_wait_s = max(record.token_wait_s, token_wait_of(part.record))
        # When one part fails, others may have written bytes. So each part that sent a request is treated as written.
        self.sent = record.requests > 0
        ids = [one.upstream_request_id for one in record.parts if one.upstream_request_id]
        record.upstream_request_id = ",".join(ids)[:IDS_LOG_CHARS] or None


class RequestContext(Hidden, msgspec.Struct, eq=False):
    """The state of one request, from its head to its access record. Times are seconds since the request arrived.

    None of its members may refer back to it, so that a finished request needs no garbage collection.
    """

    client_request: ClientRequest
    state: AppState
    profile_rules: ProfileRules
    """The rules of the caller's profile, and its `settings`. The profile "plain" until the caller is known."""
    access: AccessRecord
    """What the access log shows. It is filled while the request runs."""
    protocol: ClientProtocol = RAW
    """The protocol of the client. It decides the form of errors and keep-alives."""
    caller: Caller = ANONYMOUS
    call: Call | None = None
    memory: RequestMemory | None = None
    admitted: Admitted | None = None
    """What it has taken of limits of use. None if none applies."""
    form: Form | None = None
    attempt: Attempt | None = None
    """The current attempt, or the last one."""
    cors_headers: Headers = ()
    """CORS fields of the response, also of an error."""
    body_s: float = 0.0
    """When the request's body had arrived."""
    head_s: float | None = None
    """When the head of the response was written."""
    first_byte_s: float | None = None
    """When the body of the response began: `ttft_s` in the access log. A keep-alive does not count."""
    streamed: StreamedResponse = StreamedResponse()
    """The response that a relayed stream of the Responses API named, once the stream has ended."""
    error: GatepassError | None = None
    """The error that the client received. `ClientResponse.send_error` sets it, `handle` only if the process stops."""
    known: Caller | None = None
    """The caller of a token, once it was verified."""
    left: str = ""
    """`client_gone` if the client disconnected, `unread` if gatepass did because the client did not read."""

    @classmethod
    def begin(cls, client_request: ClientRequest, state: AppState) -> Self:
        access = AccessRecord(
            client_request.id,
            client_request.method,
            client_request.path,
            "none",
            peer=client_request.peer,
            user_agent=client_request.user_agent.decode("latin-1"),
            bytes_in=0,
            bytes_out=0,
        )
        if told := state.observers.request_began:
            state.observers.tell(told, access, client_request.headers)
        return cls(client_request, state, PROFILES["plain"], access)

    def authenticate(self, path_profile: str | None = None, *, takes_form: bool = False) -> Caller:
        """Return the caller, who is named in the log from now on. Arguments and errors: `Authenticator`."""
        request, state, access = self.client_request, self.state, self.access
        caller = state.authenticator.authenticate(
            request, state.clock.wall(), path_profile, takes_form=takes_form, known=self.known
        )
        self.caller, access.caller, access.key_id, access.peer = caller, caller.name, caller.key_id, ""
        if caller.is_of_row:
            access.auth, access.user = "jwt", caller.user
        if caller.role == "viewer":  # nearly never: saves the call. The log knows who it was
            check_calls_models(caller)
        return caller

    @classmethod
    def without_client(cls, state: AppState, profile_rules: ProfileRules) -> Self:
        """Return the context of a request that gatepass itself makes, without a client. It does not end."""
        client_request = ClientRequest("", "", "", (), "", 0.0)
        return cls(client_request, state, profile_rules, AccessRecord("", "", "", "", bytes_in=0, bytes_out=0))

    def end(self) -> None:
        """Complete the record of the finished request, and tell the observers."""
        state, access, attempt, error = self.state, self.access, self.attempt, self.error
        arrived_s, first_byte_s = self.client_request.arrived_s, self.first_byte_s
        duration_s = state.clock.now() - arrived_s
        added_s, record = (first_byte_s or 0.0) - self.body_s, None
        if self.admitted is not None:
            self.admitted.end(self, state.clock.now())
        access.outcome = self.left or ("ok" if error is None or error.is_answer else "error")
        if error is not None and not error.is_answer:
            access.code, access.hop, access.reason = error.public_code, error.hop, error.message
        # masked only if it is cut: the log masks each line
        if len(access.path) > PATH_LOG_CHARS:
            access.path = state.redactor.beginning(access.path, PATH_LOG_CHARS)
        if len(access.user_agent) > AGENT_LOG_CHARS:
            access.user_agent = state.redactor.beginning(access.user_agent, AGENT_LOG_CHARS)
        if attempt is not None:
            record = attempt.record
            access.upstream = record.upstream
            access.attempts, upstream_s = record.requests, record.upstream_s
            token_wait_s = record.token_wait_s + record.renewal_s
            # most of these have their default, and reading is ten times as fast as writing
            if record.adapted or record.answered:
                access.adapted = record.changes
            if record.upstream_model is not None:
                access.upstream_model = record.upstream_model
            if record.upstream_request_id is not None:
                access.upstream_request_id = record.upstream_request_id
            if record.after is not None or record.parts or record.tried:
                attempts, access.tried = [*attempts_of(record)][::-1], record.tried
                access.attempts = sum(one.requests for one in attempts)
                token_wait_s = token_wait_of(record)
                upstream_s = sum(one.upstream_s for one in attempts)
                causes = [one.cause for part in (*attempts[-1:], *record.parts) for one in [*attempts_of(part)][::-1]]
                access.repeats = tuple(dict.fromkeys(filter(None, causes)))
                access.failover = tuple(
                    f"{one.upstream}={one.code}" for one, later in pairwise(attempts) if later.cause in MOVES
                )
            if token_wait_s:
                access.token_wait_s = round(token_wait_s * DECIMALS) / DECIMALS or None
            added_s -= upstream_s
        access.duration_s = round(duration_s * DECIMALS) / DECIMALS
        access.ttft_s = None if first_byte_s is None else round(first_byte_s * DECIMALS) / DECIMALS
        is_synthesized = SYNTHESIZED in access.adapted
        ended = RequestRecord(
            access,
            record,
            arrived_s,
            self.body_s,
            duration_s,
            first_byte_s,
            added_s,
            is_synthesized,
            *(
                ()
                if error is None
                else (
                    *(error.retry_after_s, error.case, error.setting, error.stable_code, error.names),
                    *(len(error.advice), error.detail),
                )
            ),
        )
        state.observers.tell(state.observers.request_ended, ended, error)

    def inspected(self) -> RequestRecord:
        """Return the request as the inspector shows it while it runs."""
        attempt = None if self.attempt is None else self.attempt.record
        arrived_s = self.client_request.arrived_s
        return RequestRecord(self.access, attempt, arrived_s, self.body_s, None, self.first_byte_s, None)

    def attempts(self) -> Iterator[AttemptRecord]:
        """Yield the records of its attempts, the last one first."""
        return attempts_of(None if self.attempt is None else self.attempt.record)

    def streamed_response(self) -> StreamedResponse:
        """Return `streamed`, with an id, a model and a time if no relayed event had them."""
        streamed, model = self.streamed, self.call.model if self.call is not None else ""
        if self.attempt is not None and self.attempt.early is not None and not streamed.id:
            streamed = self.attempt.early.streamed
        return replace(
            streamed,
            id=streamed.id or f"resp_{self.client_request.id}",
            request_id=self.client_request.id,
            model=streamed.model or model,
            created_s=streamed.created_s or int(self.state.clock.wall()),
        )

    def metrics_key(self) -> tuple[str, str, str, str]:
        """Return the caller, model, upstream and operation, as `Metrics.series` has them."""
        access, attempt = self.access, self.attempt
        return (access.caller, access.model, "" if attempt is None else attempt.upstream.name, access.operation)
