"""One attempt: normalize, encode, authorize, send, classify. And the loop that repeats it.

`send_with_retries` is the loop over targets and tries, `try_call` shows the steps of one. The functions below are their
parts: the error for the client, and the rules that gatepass learns from an upstream's errors.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

from msgspec.structs import replace

from gatepass import errors
from gatepass.clock import sleep
from gatepass.config.advice import Advice
from gatepass.dialects.base import raw_request, with_query
from gatepass.dialects.hints import ABSENT, MODEL_CHARS, is_about_model, model_hint
from gatepass.draft import Rule
from gatepass.errors import GatepassError, Overloaded, TokenUnavailable, UpstreamError, UpstreamErrorReply, sentence
from gatepass.learning.absent_path import lacks_path
from gatepass.learning.learned_rule import LearnedRule, LearningPolicy, RuleScope
from gatepass.learning.rows import LearningSettings, Step, advice, steps
from gatepass.learning.session import GUESSED_BYTES, LearningSession
from gatepass.normalize.embeddings_request import has_empty_text, has_token_ids
from gatepass.normalize.messages import OWN_THOUGHT, drop_own_thoughts
from gatepass.normalize.profiles import ProfileRules
from gatepass.normalize.rules import INCLUDE_USAGE, ChangeRule, normalize
from gatepass.observability.observer import RuleChange
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.chat import CHAT
from gatepass.protocols.client_protocol import ClientProtocol, KeepAliveEncoder, Ranking
from gatepass.protocols.operations import CHAT_OPERATION
from gatepass.protocols.translation.answer_blocks import Early
from gatepass.protocols.translation.response_translation import COMPACTION
from gatepass.proxy import upstream_call
from gatepass.proxy.admission import Admitted
from gatepass.proxy.app_state import MOST_ACCEPTED, Accepted, AppState, Upstream
from gatepass.proxy.batches import send_parts
from gatepass.proxy.body_threads import INLINE_BYTES, normalize_large
from gatepass.proxy.client_response import STREAM_HOLD_S, SYNTHESIZED_HOLD_S, KeepAlive
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.failover import Failover
from gatepass.proxy.response import (
    BufferedReply,
    ClassifiedReply,
    StreamingReply,
    SynthesizedStream,
    classify,
    envelope_defaults,
)
from gatepass.proxy.retry import COMPLETE, Allowed, Outcome, Repeat, decide, is_limited, outcome_of
from gatepass.proxy.upstream_call import TokenExpired, is_rejection, reauthorized
from gatepass.replies.error_body import is_http_error
from gatepass.sse.event_stream import EventStream
from gatepass.types import SERVER_ERROR, Call, OutboundRequest, Response, Target

EMPTY_ADVICE = "`input` contains an empty text, which this upstream may refuse. Leave it out."
IDS_ADVICE = (
    "`input` contains token ids, which are valid only for the tokenizer that produced them. Send texts"
    " (LangChain: check_embedding_ctx_length=False)."
)

Reply = TypeVar("Reply")
Values = TypeVarTuple("Values")


async def send_with_retries(
    attempt: Attempt, once: Callable[[Attempt, Unpack[Values]], Awaitable[Reply]], *values: *Values
) -> Reply:
    """Call `once` with `attempt`, and with the attempts that repeat it, until one has a good reply: the one loop over
    targets and tries.

    `decide` decides. Raises the error of the last attempt, with advice for the client.
    """
    observers = attempt.state.observers
    while True:
        try:
            return await once(attempt, *values)
        except (UpstreamError, TokenUnavailable, Overloaded) as error:
            attempt = await _next_attempt(attempt, error)
            observers.tell(observers.attempt_repeats, attempt.record)


async def try_call(attempt: Attempt, context: RequestContext, keep_alive: KeepAlive | None = None) -> ClassifiedReply:
    """Send the call of `attempt` to its target once, and return the classified reply.

    `keep_alive` is None if no client waits for the reply. Raises the error in the reply.
    """
    context.attempt = attempt
    state, call, upstream, target = attempt.state, attempt.call, attempt.upstream, attempt.target

    # Normalize. Profile rules, built-in rules and declared rules are the same for each attempt at this target.
    is_small, threads = len(call.body) <= INLINE_BYTES, state.body_threads  # nearly always: saves a coroutine
    protocol = PROTOCOLS[call.operation.protocol]
    is_streamed = call.stream and "stream" in protocol.members
    if (base := attempt.base) is None:
        rules = _with_usage(context, call, rules_for(state, upstream, call, target, context.profile_rules))
        base = normalize(call, target, rules) if is_small else await normalize_large(call, target, rules, threads)
        if protocol.family not in ("", CHAT.family) or target.protocols is not None:
            base = await _spoken(attempt, protocol, base, context.profile_rules)
        attempt.base = base
        if call.body and (upstream.state.learned.by_scope or not is_small):  # nearly always neither: saves a call
            begin_target(attempt, base)
    # Learned rules, which an earlier attempt may have extended, then the rules of the dialect and the last ones.
    # Nearly every request has no session and needs no coroutine.
    normalized = base if attempt.session is None else await plan(attempt, attempt.session, base, context.admitted)
    last = state.declared.last_rules(normalized.operation.configured_as, call.model)
    if rules := upstream.dialect.rules + last:
        normalized = await normalize_large(normalized, target, rules, threads)
    attempt.normalized, attempt.record.adapted = normalized, normalized.adapted
    if is_streamed:  # a learned rule may have made the request one for a whole reply
        _start_keep_alive(attempt, context, keep_alive, STREAM_HOLD_S if normalized.stream else SYNTHESIZED_HOLD_S)

    # Wait for a place at an upstream that is full.
    if attempt.failover is not None and attempt.failover.place is not None:
        await upstream_call.wait_for_place(attempt, attempt.failover, attempt.failover.place)

    # Encode, authorize, send, classify.
    protocol = PROTOCOLS[normalized.operation.protocol]  # a chat may serve the client's protocol
    if protocol.has_parts:
        reply: ClassifiedReply = await send_parts(attempt, normalized, send_once, _send_part)
    elif protocol.ranking is not None:
        reply = await _send_ranked(attempt, normalized, protocol.ranking)
    elif protocol.parameters:
        request = _with_client_parts(attempt, context, _encode(attempt, normalized), protocol)
        reply = await classify(attempt, await send(attempt, request))
    else:
        reply = await classify(attempt, await send(attempt, _encode(attempt, normalized)))
    if isinstance(reply, (BufferedReply, SynthesizedStream)):
        attempt.end(COMPLETE)  # `relay` ends the attempt of a reply that still arrives
    elif isinstance(reply, StreamingReply) and not call.body:
        _start_keep_alive(attempt, context, keep_alive, STREAM_HOLD_S)
    succeeded(attempt)  # only now, because the body of a 200 may hold an error
    return reply


def succeeded(attempt: Attempt) -> None:
    """Record that the upstream accepted the request and its token: a later rejection means that the token ended."""
    upstream, token, sent, call = attempt.upstream, attempt.token, attempt.record.token, attempt.call
    if attempt.failover is not None:
        attempt.failover.answered(attempt.state.clock.now())
    model, holder, accepted = attempt.target.model or call.model, upstream.holder, upstream.state.accepted
    credential, known = holder or upstream.injector, accepted.get(model)
    is_confirmed = known is not None and known.token is token and known.is_confirmed
    if (
        known is not None
        and (is_confirmed or holder is None)
        and known.credential is credential
        and known.scope.owner == call.caller
        and known.scope.operation == call.operation.name
        and known.model == call.model
    ):  # as after nearly each request
        known.at_s, scope = attempt.waits_since_s, known.scope
    else:
        scope = _scope(attempt, call)
        if not is_confirmed and holder is not None and token is not None and sent is not None:
            is_confirmed = holder.confirm(token, attempt.user(), sent.sent_s or 0.0)
        if len(model) <= MODEL_CHARS:
            accepted[model] = Accepted(token, is_confirmed, credential, attempt.waits_since_s, call.model, scope)
            if len(accepted) > MOST_ACCEPTED:
                del accepted[next(iter(accepted))]
    if attempt.session is not None:
        attempt.session.succeeded(attempt.state.clock.now())
    if call.body and "stream" in call.operation.members:
        if attempt.chat is not None:
            _note_served_by_chat(attempt)
        elif (last := attempt.normalized) is not None:
            upstream.state.learned.note_served(scope, attempt.waits_since_s, is_stream=last.stream)
    if attempt.session is not None or attempt.copied_bytes:
        leave_target(attempt)


async def send(attempt: Attempt, request: OutboundRequest) -> Response:
    """Send `request` with a valid token, and return the response. The caller closes it.

    Raises TokenUnavailable, Overloaded and UpstreamError.
    """
    state, upstream, record = attempt.state, attempt.upstream, attempt.record
    # Authorize.
    holder, now_s = upstream.holder, state.clock.now()
    if holder is None:
        authorized = upstream.injector.authorize(request, None)
    else:
        if (token := holder.current()) is None:
            token = await upstream_call.wait_for_token(attempt, holder)
            now_s = state.clock.now()
        authorized = upstream.injector.authorize(request, token.value, partial(reauthorized, attempt, request))
        attempt.token, record.token = token, holder.sent(token, now_s)
    attempt.waits_since_s = now_s
    if attempt.new_connection:
        authorized = replace(authorized, new_connection=True)
    # Send.
    record.requests = 1
    if told := state.observers.request_sent:
        state.observers.tell(told, record, b"" if attempt.call.operation.takes_form else request.body)
        authorized = upstream_call.traced(authorized, record)
    try:
        response = await upstream.transport.send(authorized, record)
    except TokenExpired:
        record.requests = 0
        raise
    except errors.TransportFault as fault:
        attempt.add_upstream_wait()
        raise upstream_call.send_error(attempt, fault) from fault
    except BaseException:  # the client has gone, or the time of the request is over
        attempt.add_upstream_wait()
        attempt.sent = record.was_written  # limits count it from its first byte on
        raise
    attempt.sent = True
    record.status = response.status
    if not response.ended:  # else `Attempt.end` knows: the reply arrived together with its head
        record.head_s = state.clock.now() - record.began_s
    if state.observers.reply_body:
        response = state.observers.reply(response, record)
    return response


def _note_served_by_chat(attempt: Attempt) -> None:
    """Store that chats serve the operation, if the upstream has just been seen to lack its path."""
    state, upstream, learned = attempt.state, attempt.upstream, attempt.upstream.state.learned
    scope, now_s = _scope(attempt, attempt.call), state.clock.now()
    evidence = learned.absent(scope, now_s)
    if evidence is not None and learned.commit(scope, SERVED_BY_CHAT, evidence, now_s) is not None:
        what = (scope.operation, SERVED_BY_CHAT.entry, evidence, scope.owner)
        change = RuleChange(attempt.call.id, "learned", upstream.name, scope.model, *what)
        state.observers.tell(state.observers.rule_changed, change)
    learned.used(scope, SERVED_BY_CHAT)


WITHOUT_OWN_THOUGHTS = (ChangeRule("thoughts", (drop_own_thoughts,)),)
SERVED_BY_CHAT = LearnedRule("protocols", CHAT.family)
NO_CHAT = "no_chat"
"""The case of an upstream that lacks the path of a chat too."""
OF_REQUEST = (400, 413, 422)
"""Statuses of a chat that the next request may not get."""
OF_CHATS = r"(?i)\bchat[ /_.-]?(?:completions?|models?)\b"


def _scope(attempt: Attempt, call: Call) -> RuleScope:
    """Whose rules `call` has: the client's own call, for whether the upstream lacks its path, or the one to send.

    A router by model answers like an upstream without the path, so each model is asked once.
    """
    model = attempt.target.model or call.model
    return RuleScope(attempt.call.caller, attempt.upstream.name, model, call.operation.name)


def served_by_chat(upstream: Upstream, operation: str, now_s: float) -> bool:
    """Whether gatepass has learned for a caller and a model that chats serve `operation` at `upstream`."""
    learned = upstream.state.learned
    scopes = [scope for scope in learned.by_scope if scope.operation == operation]
    return any(SERVED_BY_CHAT in learned.of(scope, now_s) for scope in scopes)


async def _lacks_path(attempt: Attempt, error: GatepassError, call: Call | None) -> bool:
    """Whether `error` to `call` means that the upstream lacks its path."""
    if not isinstance(error, UpstreamErrorReply) or error.http_status not in (*ABSENT, 400, 500) or call is None:
        return False
    work = partial(lacks_path, error, call, (call.model, attempt.call.model, attempt.target.model or ""))
    return await attempt.state.body_threads.run(call.caller, call.body, work)


async def _may_be_chat(attempt: Attempt, error: GatepassError) -> bool:
    """Whether `error` means that the upstream lacks the path of a call that a chat can express, and none has failed."""
    translation, base, upstream = PROTOCOLS[attempt.call.operation.protocol].translation, attempt.base, attempt.upstream
    if translation is None or base is None or attempt.chat is not None or attempt.target.protocols is not None:
        return False
    now_s, scope = attempt.state.clock.now(), _scope(attempt, attempt.call)
    is_useless = upstream.state.learned.is_useless(scope, SERVED_BY_CHAT.entry, now_s)
    if is_useless or not upstream.learns or not await _lacks_path(attempt, error, base):
        return False
    try:
        await attempt.state.body_threads.run(
            base.caller, base.body, partial(translation.chat_call, base, CHAT_OPERATION)
        )
    except errors.CallerError:
        return False
    return True


async def _spoken(attempt: Attempt, protocol: ClientProtocol, call: Call, profile_rules: ProfileRules) -> Call:
    """Return `call`, or the chat that serves it at an upstream that does not speak `protocol`.

    The chat has the rules for a chat. With `protocols` alone, raises InvalidRequest for what it cannot express, and
    UnsupportedOperation for what no chat serves.
    """
    target, upstream, translation = attempt.target, attempt.upstream, protocol.translation
    has_begun = attempt.early is not None and attempt.early.streamed.id  # the client reads that of a chat
    is_declared, threads = target.protocols is not None, attempt.state.body_threads
    is_spoken = protocol.family in ("", *target.protocols) if target.protocols is not None else not _is_learned(attempt)
    if not is_spoken or has_begun:
        if translation is None or CHAT.family not in (target.protocols or (CHAT.family,)):
            spoken = ", ".join(sorted(target.protocols or (CHAT.family,)))
            lacks = "chat completions, as which the stream has begun" if is_spoken else call.operation.path
            way = COMPACTION if call.operation.protocol == "compact" else Advice()
            cause = (
                f"The upstream {upstream.name!r} has no {lacks}: it has {spoken} alone (`protocols`). Nothing was sent."
            )
            raise errors.UnsupportedOperation(cause, advice=str(way), case=way.case)
        asked = replace(call, stream=attempt.call.stream)  # only the rules of the chat change how it is sent
        try:
            attempt.chat = await threads.run(
                call.caller, call.body, partial(translation.chat_call, asked, CHAT_OPERATION)
            )
        except errors.CallerError:
            if is_declared or has_begun:
                raise
        else:
            chat = attempt.chat.call
            rules = rules_for(attempt.state, upstream, chat, target, profile_rules)
            return await normalize_large(chat, target, rules, threads)
    if OWN_THOUGHT not in call.operation.members or OWN_THOUGHT.encode() not in call.body:
        return call
    return await normalize_large(call, target, WITHOUT_OWN_THOUGHTS, threads)


def _is_learned(attempt: Attempt) -> bool:
    """Whether the upstream has been seen to lack the path: by this request, or by the caller's requests before it."""
    learned, scope, now_s = attempt.upstream.state.learned, _scope(attempt, attempt.call), attempt.state.clock.now()
    if attempt.absent is not None:
        return True
    is_seen = SERVED_BY_CHAT in learned.of(scope, now_s) or learned.absent(scope, now_s) is not None
    return is_seen and not learned.is_useless(scope, SERVED_BY_CHAT.entry, now_s)


async def send_once(attempt: Attempt, call: Call) -> ClassifiedReply:
    """Send `call`, which is normalized: encode, authorize, send, classify."""
    return await classify(attempt, await send(attempt, _encode(attempt, call)))


async def send_whole(attempt: Attempt, call: Call) -> ClassifiedReply:
    """Send `call` as `send_once` does, and end `attempt` when its reply has arrived."""
    reply = await send_once(attempt, call)
    attempt.end(COMPLETE)
    return reply


async def _send_part(call_attempt: Attempt, at: int, part_call: Call) -> ClassifiedReply:
    """Send the part `at` of a split call. Each part is repeated for itself."""

    async def once(part: Attempt) -> ClassifiedReply:
        if call_attempt.parts is None:
            call_attempt.parts = {}
        call_attempt.parts[at] = part
        return await send_whole(part, part_call)

    return await send_with_retries(call_attempt.begin_part(), once)


async def _next_attempt(attempt: Attempt, error: UpstreamError | TokenUnavailable | Overloaded) -> Attempt:
    """End `attempt` with `error`, and return the attempt that repeats it.

    If there is none, raises the error for the client.
    """
    drop_tracebacks(error)
    upstream, is_rejected = attempt.upstream, False
    # each part of a split call decides for itself whether its token was rejected
    if upstream.holder is not None and attempt.token is not None and attempt.parts is None:
        is_rejected = attempt.is_rejected or is_rejection(error, upstream.settings.rejection)
    outcome = outcome_of(error, sent=attempt.sent, has_head=attempt.record.status is not None)
    if is_rejected or attempt.stale:  # a stale connection may also have sent bytes before the request
        outcome = Outcome.TOKEN_REJECTED if is_rejected else Outcome.CONNECTION_FAILED
    attempt.end(outcome, error)
    has_token = is_rejected and await upstream_call.renew_token(attempt, error)
    base, now_s, failover = attempt.base, attempt.state.clock.now(), attempt.failover
    attempt.has_token, attempt.token_expired = has_token, isinstance(error, TokenExpired)
    attempt.learns, attempt.lacks_path = base is not None and bool(base.body), await _may_be_chat(attempt, error)
    attempt.repeats_stale = attempt.repeats_stale and upstream.settings.repeat_stale
    attempt.tried_s = now_s - (attempt.target_began_s or attempt.record.began_s)
    left_s = attempt.deadline_s - now_s
    allowed = Allowed() if failover is None else _allowed(attempt, failover, error, left_s)
    repeat = decide(outcome, error.http_status, error.retry_after_s, attempt, allowed, left_s)
    if repeat is not None and await _PREPARED[repeat](attempt, error, allowed):
        return attempt.again(repeat)
    if failover is not None:
        failover.shorten_wait(error, attempt.state.clock.now())
    # it may be an earlier error, so `error` must not become its cause
    raise await _error_for_client(attempt, error, is_rejected=is_rejected) from error.__cause__


def _allowed(attempt: Attempt, failover: Failover, error: GatepassError, left_s: float) -> Allowed:
    """Return what the route of the request and the state of its targets allow after `error`."""
    route, now_s = failover.route, attempt.state.clock.now()
    has_next = isinstance(failover.next(now_s), int)
    if not failover.may_repeat:
        return Allowed(has_next)
    budget, operation = failover.budget, attempt.call.operation.configured_as
    runs = budget is not None and operation in route.repeats_run and budget.allows_repeat(now_s)
    refused = route.repeats_refused and (runs or not _has_begun_to_run(attempt))
    pause_s = 0.0 if has_next else failover.pause_s(error, now_s)
    took_s = attempt.record.duration_s - attempt.record.token_wait_s  # the next attempt has a token
    return Allowed(has_next, refused, runs, pause_s, left_s > pause_s + took_s)


def _has_begun_to_run(attempt: Attempt) -> bool:
    """Return whether the upstream may have executed a part of the request, although it refused it in the end.

    A 429 may follow the first tokens of a stream that gatepass makes a whole reply from, or stand in a 200. A reused
    connection may have closed because the request ended its server.
    """
    status, was_stale = attempt.record.status, attempt.sent_before and attempt.reconnected
    return attempt.parts is not None or was_stale or (status is not None and not is_http_error(status))


async def _stay(attempt: Attempt, _error: GatepassError, _allowed: Allowed) -> bool:
    """Begin one more attempt at the same target."""
    if attempt.failover is not None:
        attempt.failover.repeat(attempt.state.clock.now())
    return True


async def _move(attempt: Attempt, error: GatepassError, allowed: Allowed) -> bool:
    """Begin an attempt at the next target, or after a pause at any. Return False if none is available."""
    state, failover = attempt.state, attempt.failover
    leave_target(attempt)
    if failover is None:
        return False
    failover.leave()
    if attempt.sent or attempt.sent_before or not allowed.has_next:  # else no setting was needed
        failover.repeats += 1
        has_run = _has_begun_to_run(attempt) or not is_limited(error.http_status, error.retry_after_s)
        if failover.budget is not None and attempt.sent and has_run:
            failover.budget.add(is_repeat=True)
    if allowed.pause_s:
        await sleep(state.clock, allowed.pause_s)
    return await failover.choose(state.clock.now()) is None


async def send_own_call(
    attempt: Attempt, once: Callable[[Attempt, Unpack[Values]], Awaitable[Reply]], *values: *Values
) -> Reply:
    """Send a call that gatepass itself makes as `send_with_retries` does, and end its attempts, as `handle` would."""
    last = attempt

    async def noted(attempt: Attempt) -> Reply:
        nonlocal last
        last = attempt
        return await once(attempt, *values)

    try:
        return await send_with_retries(attempt, noted)
    except BaseException as error:
        close_attempt(last, error)
        raise


def close_attempt(attempt: Attempt, error: BaseException | None) -> None:
    """End `attempt`, if it has not ended, when its request ended with `error`; None for a complete response."""
    if not attempt.record.outcome:
        attempt.end(COMPLETE) if error is None else attempt.end_by(error)
    leave_target(attempt)


def leave_target(attempt: Attempt) -> None:
    """Tell what was learned, and give back the copy of the body, after the last attempt at the target."""
    session, state = attempt.session, attempt.state
    if session is not None:
        attempt.session = None
        session.left(state.clock.now())
        for change in session.events:
            state.observers.tell(state.observers.rule_changed, change)
    if attempt.copied_bytes and attempt.memory is not None:
        attempt.memory.add(-attempt.copied_bytes)
        attempt.copied_bytes = 0


def keep_copy(attempt: Attempt, body: bytes) -> None:
    """Count a changed copy of the client's body until `leave_target`, because the body is kept for a retry."""
    if attempt.memory is not None:
        attempt.memory.claim(len(body))
        attempt.copied_bytes = len(body)


def _encode(attempt: Attempt, call: Call) -> OutboundRequest:
    upstream, target = attempt.upstream, attempt.target
    timeouts = target.timeouts or upstream.timeouts
    return upstream.dialect.encode(call, target, upstream.base_url, timeouts, upstream.forward_headers)


def _with_client_parts(
    attempt: Attempt, context: RequestContext, request: OutboundRequest, protocol: ClientProtocol
) -> OutboundRequest:
    """Return `request` with the client's query and, for a raw operation, its content type and form."""
    request = with_query(request, context.client_request.query, protocol.parameters)
    if not protocol.is_raw:
        return request
    if (form := context.form) is not None:
        model = (attempt.target.model or attempt.call.model) if attempt.call.operation.names_model else ""
        body, changes = form.as_model(model)
        attempt.record.adapted = (*attempt.record.adapted, *changes)
        if body is not form.body and not attempt.copied_bytes:
            keep_copy(attempt, body)
        request = replace(request, body=body)
    return raw_request(request, attempt.call.headers, is_form=attempt.call.operation.takes_form)


async def _send_ranked(attempt: Attempt, normalized: Call, ranking: Callable[[bytes], Ranking]) -> BufferedReply:
    """Send a rerank call, and return the ranking in the form that the client's own call requires.

    Raises UpstreamInvalid for a reply without a ranking, because clients read it as scores of zero.
    """
    asked, threads = attempt.call.body, attempt.state.body_threads
    rank = await threads.run(attempt.call.caller, asked, partial(ranking, asked))
    reply = await send_once(attempt, normalized)
    if not isinstance(reply, BufferedReply):
        raise TypeError("only chats are streamed")
    body = await threads.run(attempt.call.caller, reply.body, partial(rank, reply.body, attempt.upstream.name))
    return reply if body is reply.body else replace(reply, body=body)


def _start_keep_alive(attempt: Attempt, context: RequestContext, keep_alive: KeepAlive | None, hold_s: float) -> None:
    """Send keep-alives to a client that waits for a stream."""
    if keep_alive is None:
        return
    protocol = PROTOCOLS[attempt.call.operation.protocol]
    encoder = partial(protocol.keep_alive, attempt.profile, attempt.call)
    if protocol.translation is not None:
        attempt.early = attempt.early or Early()
        encoder, keep_alive.early = partial(_early_keep_alive, context, attempt.early, encoder), attempt.early
    keep_alive.start(encoder, hold_s)


def _early_keep_alive(
    context: RequestContext, early: Early, encoder: KeepAliveEncoder, events: EventStream | None
) -> bytes:
    """Return the first events of an answer that a chat makes, while the upstream has not begun it."""
    attempt, usual = context.attempt, encoder(events)
    if usual and events is None and not early.is_over and attempt is not None and attempt.chat is not None:
        chat, defaults = attempt.chat, envelope_defaults(attempt)
        answer = chat.answer(defaults, attempt.upstream.name, chat.about, early)
        answer.early_events()
        if sent := answer.take():
            return sent
    return usual


def rules_for(
    state: AppState, upstream: Upstream, call: Call, target: Target, profile_rules: ProfileRules
) -> tuple[Rule, ...]:
    """Return the rules for `call` at `upstream`, without learned ones.

    The order is: the caller's profile, the rerank shape, built-in rules, declared rules, `include_usage`. Without a
    body there are none.
    """
    if not call.body:
        return ()
    rules = state.declared.configured_rules(call.operation.configured_as, call.model)
    first_rules = profile_rules.rules[upstream.dialect_name]
    own_rules = PROTOCOLS[call.operation.protocol].own_rules
    if own_rules is not None:
        rules = (*own_rules(upstream.settings, call.model or target.model), *rules)
    if upstream.includes_usage and "stream_options" in call.operation.members:
        rules = (*rules, INCLUDE_USAGE)
    return (*first_rules, *rules) if first_rules else rules


def _with_usage(context: RequestContext, call: Call, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Return `rules`, with one that asks for the usage of a stream if tokens are limited and the operator allows it."""
    if context.admitted is None or not context.admitted.counts_tokens or "stream_options" not in call.operation.members:
        return rules
    entry = context.state.declared.model(call.operation.configured_as, call.model)
    is_streamed = call.stream or (entry is not None and entry.stream == "aggregate")
    is_dropped = entry is not None and entry.rules is not None and "stream_options" in entry.rules.drop
    return (*rules, INCLUDE_USAGE) if call.body and is_streamed and not is_dropped else rules


def drop_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of `error`, whose handling ends here, and of the errors that led to it.

    A traceback refers to the frames that an error passed, and a frame or its objects often refer to the error. The
    bodies in these frames would stay in memory until the next garbage collection.
    """
    pending, seen = list[BaseException | None]((error,)), set[int]()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            pending += (one.__cause__, one.__context__)


def begin_target(attempt: Attempt, base: Call) -> None:
    """Set the session of the attempts at this target, if there are learned rules for its model, and count a copy."""
    if base.body is not attempt.call.body and len(attempt.call.body) > INLINE_BYTES:
        keep_copy(attempt, base.body)
    learned = attempt.upstream.state.learned
    if attempt.upstream.learns and learned.by_scope and _scope(attempt, base) in learned.by_scope:
        _open_session(attempt, base).recall(attempt.state.clock.now())


def _open_session(attempt: Attempt, base: Call) -> LearningSession:
    if attempt.session is None:
        learned, scope, mode = attempt.upstream.state.learned, _scope(attempt, base), attempt.upstream.settings.learn
        declared, fits_answers = attempt.state.declared, PROTOCOLS[attempt.call.operation.protocol].fits_answers
        entry = declared.model(base.operation.name, base.model)
        most_tokens = declared.most_tokens(base.operation.configured_as, base.model)
        policy = LearningPolicy(entry is None or entry.stream == "auto", fits_answers, most_tokens)
        attempt.session = LearningSession(learned, scope, base.operation.members, mode, policy, base)
    return attempt.session


async def plan(attempt: Attempt, session: LearningSession, base: Call, admitted: Admitted | None = None) -> Call:
    """Return the request with the learned rules applied, the same object if none concerns it.

    What `admitted` reserves follows a limit of the answer that a rule raised.
    """
    planned = await attempt.state.body_threads.run(base.caller, base.body, partial(session.revise, base))
    attempt.learned = planned.adapted[len(base.adapted) :]
    if admitted is not None and session.least_tokens:
        admitted.raise_output(session.least_tokens, attempt.state.clock.now())
    return planned


async def _learn(attempt: Attempt, error: GatepassError, allowed: Allowed) -> bool:
    """Return whether a rule was learned from `error`, so that a retry can succeed, or a chat is tried."""
    if attempt.lacks_path and isinstance(error, UpstreamErrorReply):
        leave_target(attempt)
        attempt.base, attempt.absent = None, error
        learned, now_s = attempt.upstream.state.learned, attempt.state.clock.now()
        learned.note_absent(_scope(attempt, attempt.call), error.message, now_s)
        return await _stay(attempt, error, allowed)
    base = attempt.base
    if base is None or not isinstance(error, UpstreamError) or not attempt.upstream.learns:
        return False
    session = _open_session(attempt, base)
    found = await _steps(attempt, session, session.sent, error)
    return session.prepare_retry(error, attempt.state.clock.now(), found) and await _stay(attempt, error, allowed)


_PREPARED: Mapping[Repeat, Callable[[Attempt, GatepassError, Allowed], Awaitable[bool]]] = {
    Repeat.NEW_TOKEN: _stay,
    Repeat.NEW_CONNECTION: _stay,
    Repeat.LEARNED_RULE: _learn,
    Repeat.NEXT_TARGET: _move,
    Repeat.RETRY: _move,
}
"""What prepares each repeat of an attempt that ended with an error. It returns False if there is none."""


async def _error_for_client(attempt: Attempt, error: GatepassError, *, is_rejected: bool) -> GatepassError:
    """Return the error for the client after the last attempt ended with `error`, with advice if gatepass has some."""
    if is_rejected or (isinstance(error, errors.UpstreamAuth) and attempt.upstream.holder is None):
        upstream_call.explain_rejection(attempt, error)
    if isinstance(error, UpstreamErrorReply) and attempt.target.protocols is None:
        error = error if attempt.chat is None else await _error_of_chat(attempt, error)
        learned, now_s = attempt.upstream.state.learned, attempt.state.clock.now()
        is_bare = error is attempt.absent or error.case.startswith("no_api")
        if is_bare and learned.is_useless(_scope(attempt, attempt.call), NO_CHAT, now_s):
            error.advice, error.case, error.setting = "", NO_CHAT, ""
    base, shown = attempt.base, error
    if base is not None and isinstance(error, UpstreamError):
        if base.body and attempt.normalized is not None:
            shown = await _error_after_rules(attempt, base, attempt.normalized, error)
        # the upstream may not know the model name that gatepass sent
        call, target = attempt.call, attempt.target
        if isinstance(shown, UpstreamErrorReply) and call.model:
            route = attempt.state.declared.route_setting(call.operation.configured_as, call.model)
            if hint := model_hint(call.model, shown, target.model, route, call.operation.name):
                shown.advice, shown.case, shown.setting = hint[:3]
                shown.cause, shown.original = f"{sentence(shown.cause)} {hint.cause}", b""
        if isinstance(shown, UpstreamErrorReply) and attempt.normalized is not None:
            upstream_call.name_tool(shown, attempt, attempt.normalized)
    leave_target(attempt)
    return shown


async def _error_of_chat(attempt: Attempt, error: UpstreamErrorReply) -> UpstreamErrorReply:
    """Remember that a chat failed, unless its request is the cause. Return the first error if it lacks a path too."""
    learned, scope, now_s = attempt.upstream.state.learned, _scope(attempt, attempt.call), attempt.state.clock.now()
    body, absent, status = error.error_body, attempt.absent, error.http_status
    has_no_path = await _lacks_path(attempt, error, attempt.normalized)
    is_useless = has_no_path or (body is not None and is_about_model(body.code, body.message))
    if SERVED_BY_CHAT not in learned.of(scope, now_s):  # no chat was served
        is_of_request = status in OF_REQUEST and body is not None and re.search(OF_CHATS, body.message) is None
        is_passing = status >= SERVER_ERROR or is_limited(status, error.retry_after_s)
        # where the path was served within the hour, the caller's next request does not begin as a chat
        is_useless |= not is_passing and not (is_of_request and learned.absent(scope, now_s) is not None)
    if is_useless:
        learned.note_useless(scope, SERVED_BY_CHAT.entry, now_s)
    if has_no_path:
        learned.note_useless(scope, NO_CHAT, now_s)
    return absent if has_no_path and absent is not None else error


async def _error_after_rules(attempt: Attempt, base: Call, sent: Call, error: UpstreamError) -> UpstreamError:
    """Return the error for the client after `error` to `sent`, with what was tried and advice about the request."""
    session, state, upstream = _open_session(attempt, base), attempt.state, attempt.upstream.name
    found = await _steps(attempt, session, sent, error)
    if attempt.has_answered:  # a stream that broke later
        session.succeeded(state.clock.now())
    last, error = error, session.failed(error, state.clock.now())
    attempt.record.tried = session.tried
    if session.answered != attempt.learned:
        others = (entry for entry in attempt.record.adapted if entry not in attempt.learned)
        attempt.record.answered = (*others, *session.answered)
    if made := [f"`{entry}`" for entry in session.tried if entry in session.answered]:
        error.cause = f"With {', '.join(made)}: {error.cause}"
    if before := [f"`{entry}`" for entry in session.tried if entry not in session.answered]:
        error.cause = f"{sentence(error.cause)} Tried before: {', '.join(before)}."
    if session.last_words:
        error.cause = f"{sentence(error.cause)} The upstream then answered: {session.last_words}"
    if isinstance(error, errors.UpstreamEmpty) and has_token_ids(sent):
        # OpenRouter returns no vectors for token ids. A retry changes nothing, but the client can send texts.
        refused = UpstreamErrorReply(
            f"{sentence(error.cause)} {IDS_ADVICE}",
            upstream=upstream,
            status=400,
            kind="invalid_request_error",
            param="input",
        )
        refused.code = error.code
        return refused
    if isinstance(error, UpstreamErrorReply) and error.error_body is not None:
        upstream_call.mark_overflow(error, PROTOCOLS[attempt.call.operation.protocol])
    if advised := _advice(attempt, session, base, sent, last, found):
        error.cause, error.advice = f"{sentence(error.cause)} {advised}", ""  # errors.json has no words for it
    if isinstance(error, UpstreamErrorReply) and (advised or session.tried):
        error.original = b""  # else the client would not read it
    return error


async def _steps(attempt: Attempt, session: LearningSession, sent: Call | None, error: UpstreamError) -> Sequence[Step]:
    """Return the changes of `sent` that `error` points at. A heavy body is read in a thread."""
    if sent is None:
        return ()

    def find() -> Sequence[Step]:
        refusal = session.read(error)  # the session keeps the result
        is_pointed = refusal is not None and (len(sent.body) <= GUESSED_BYTES or refusal.is_exact)
        return steps(refusal, sent) if refusal is not None and is_pointed else ()

    return find() if len(sent.body) <= REFUSED_BYTES else await attempt.state.body_threads.run_heavy(sent.caller, find)


REFUSED_BYTES = 8 * 1024
"""Each step opens the body of a refused request, so only a small one is read on the event loop."""


def _advice(
    attempt: Attempt, session: LearningSession, base: Call, sent: Call, error: UpstreamError, found: Sequence[Step]
) -> str:
    if isinstance(error, UpstreamErrorReply) and has_token_ids(sent):
        return IDS_ADVICE
    state = attempt.state
    entry = state.declared.model(base.operation.configured_as, base.model)
    stream = "auto" if entry is None else entry.stream
    settings = LearningSettings(session.scope.upstream, session.policy, session.mode, stream)
    refusal = session.read(error)
    advised = "" if refusal is None else advice(refusal, sent, settings, found)
    may_be_empty = error.http_status in (400, 422) and len(sent.body) <= INLINE_BYTES
    return EMPTY_ADVICE if not advised and may_be_empty and has_empty_text(sent) else advised
