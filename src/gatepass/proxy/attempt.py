"""Try one target: normalize, encode, authorize, send, classify, and repeat the request if a retry can succeed.

`try_target` shows the steps. `AttemptLearning` connects an attempt to the rules that gatepass learns from an upstream's
errors.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from gatepass.auth.model_access import may_use
from gatepass.dialects.base import raw_request
from gatepass.dialects.hints import model_hint, responses_hint, sentence
from gatepass.errors import UpstreamEmpty, UpstreamError, UpstreamErrorReply
from gatepass.json_scan import ScannedBody, place_of
from gatepass.learning.learned_rule import LearningPolicy, RuleScope
from gatepass.learning.matchers import LearningSettings, Relevant, advice, relevant_rules
from gatepass.learning.rejection import UpstreamRejection, is_too_long
from gatepass.learning.session import LearningSession, wait_for_trial
from gatepass.normalize.embeddings_request import has_token_ids
from gatepass.normalize.members import STREAMED
from gatepass.normalize.profiles import ProfileRules
from gatepass.normalize.rerank import ConvertRerank, RerankOptions, client_ranking
from gatepass.normalize.rules import (
    BUILT_IN_RULES,
    MODEL,
    MODEL_NAME_ONLY,
    ChangeRule,
    Rule,
    applicable_rules,
    apply_rules,
    normalize,
)
from gatepass.observability.log import emit
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.batches import send_embeddings
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.keepalive import STREAM_HOLD_S, SYNTHESIZED_HOLD_S, KeepAlive, keep_alive_encoder
from gatepass.proxy.large_body import INLINE_BYTES, BodyThread, is_heavy, with_scanned_body
from gatepass.proxy.response import BufferedReply, ClassifiedReply, StreamingReply, classify
from gatepass.proxy.upstream_call import confirm_token, renew_token, send
from gatepass.types import Call, ClientProtocol, OutboundRequest, Target

LOG = logging.getLogger("gatepass.learning")

IDS_ADVICE = (
    "`input` contains token ids, which are valid only for the tokenizer that produced them. Send texts"
    " (LangChain: check_embedding_ctx_length=False)."
)


async def try_target(
    context: RequestContext, call: Call, target: Target, keep_alive: KeepAlive | None = None
) -> ClassifiedReply:
    """Send `call`, as the client sent it, to `target`, and return the classified reply.

    The request is repeated:

    1. With another token, if its token expired while it waited for a connection (`send`).
    2. On a new connection, once, if a reused connection closed without an answer (`send`).
    3. With a new token, once, after a 401 (`send`) or a reply that hides a rejection (`_send_and_classify`).
    4. With a learned rule, if the error of the last try produces a new one: eight tries in 10 s at most (here).

    `keep_alive` is None if no client waits for the reply. Raises the error in the last reply.
    """
    attempt = context.begin_attempt(call, target)
    upstream = attempt.upstream

    # Normalize: profile rules, built-in rules and declared rules. They are the same for every retry.
    configured = rules_for(attempt.state, upstream, call, target, context.profile_rules)
    is_small = len(call.body) <= INLINE_BYTES  # nearly always: saves a coroutine
    thread = attempt.state.body_thread
    base = (
        normalize(call, target, configured) if is_small else await normalize_off_loop(call, target, configured, thread)
    )
    if not call.body:
        return await _pass_through(context, attempt, base, keep_alive)

    is_streamed = call.stream and call.operation.protocol in STREAMED
    if is_streamed:
        _start_keep_alive(attempt, keep_alive, STREAM_HOLD_S)
    learning = AttemptLearning(attempt, base)
    copied_bytes = 0
    try:
        if not is_small and base.body is not call.body and attempt.memory is not None:
            attempt.memory.claim(len(base.body))  # the client's own body is kept for a retry
            copied_bytes = len(base.body)
        if learning.session is not None:  # only one request at a time tries an unknown model (learning/memory.py)
            await wait_for_trial(learning.session, base, attempt.state.clock)
        while True:
            # Normalize: learned rules, which a retry may have extended, then the rules of the dialect.
            # Nearly every request has no session and needs no coroutine.
            normalized = base if learning.session is None else await learning.plan()
            if rules := upstream.dialect.rules:
                is_small = len(normalized.body) <= INLINE_BYTES
                normalized = (
                    normalize(normalized, target, rules)
                    if is_small
                    else await normalize_off_loop(normalized, target, rules, thread)
                )
            attempt.adapted = normalized.adapted
            if is_streamed and not normalized.stream:  # a learned rule made the request one for a whole reply
                _start_keep_alive(attempt, keep_alive, SYNTHESIZED_HOLD_S)

            # Encode, authorize, send, classify.
            protocol = normalized.operation.protocol
            try:
                if protocol is ClientProtocol.EMBEDDINGS:
                    reply: ClassifiedReply = await send_embeddings(attempt, normalized, _send_part)
                elif protocol is ClientProtocol.RERANK:
                    reply = await _send_rerank(attempt, normalized)
                else:
                    request = _encode(attempt, normalized)
                    if protocol is ClientProtocol.RAW:
                        request = raw_request(request, call.headers, context.client_request.query, None)
                    reply = await _send_and_classify(attempt, request)
            except UpstreamError as error:
                drop_tracebacks(error)
                if await learning.learn_from(error):
                    continue  # retry: a rule was learned from the error
                shown = await learning.final_error(normalized, error)
                # `shown` may be an earlier error, so `error` must not become its cause.
                raise _with_model_hint(attempt, shown) from error.__cause__
            # only now, because the body of a 200 may hold an error
            learning.succeeded()
            confirm_token(attempt)
            return reply
    finally:
        learning.close()
        if copied_bytes and attempt.memory is not None:
            attempt.memory.add(-copied_bytes)


async def _pass_through(
    context: RequestContext, attempt: Attempt, base: Call, keep_alive: KeepAlive | None
) -> ClassifiedReply:
    """Send a call without a JSON body: a GET, a DELETE or a multipart form. Nothing is learned from its errors."""
    target, upload = attempt.target, None
    normalized = normalize(base, target, attempt.upstream.dialect.rules)
    attempt.adapted = normalized.adapted
    if context.upload is not None:
        upload = context.upload.as_model(target.model)
        attempt.adapted = (*normalized.adapted, *upload.adapted)
    request = _encode(attempt, normalized)
    if normalized.operation.protocol is ClientProtocol.RAW:
        request = raw_request(request, attempt.call.headers, context.client_request.query, upload)
    try:
        reply = await _send_and_classify(attempt, request)
    except UpstreamError as error:
        raise _with_model_hint(attempt, error) from error.__cause__
    if isinstance(reply, StreamingReply):
        _start_keep_alive(attempt, keep_alive, STREAM_HOLD_S)
    confirm_token(attempt)
    return reply


async def _send_and_classify(attempt: Attempt, request: OutboundRequest) -> ClassifiedReply:
    while True:
        try:
            response = await send(attempt, request)
            return await classify(attempt, response)
        except UpstreamError as error:
            # Retry: the reply, such as a login page in a 200, was a rejection of the token. Else this raises.
            await renew_token(attempt, error, request)
            drop_tracebacks(error)


def _encode(attempt: Attempt, call: Call) -> OutboundRequest:
    upstream, target = attempt.upstream, attempt.target
    timeouts = target.timeouts or upstream.timeouts
    return upstream.dialect.encode(call, target, upstream.base_url, timeouts, upstream.forward_headers)


async def _send_part(attempt: Attempt, part: Call) -> ClassifiedReply:
    return await _send_and_classify(attempt, _encode(attempt, part))


async def _send_rerank(attempt: Attempt, normalized: Call) -> BufferedReply:
    """Send a rerank call, and return the ranking in the form that the client's own call requires.

    Raises UpstreamInvalid for a reply without a ranking, because clients read it as scores of zero.
    """
    options = await attempt.state.body_thread.run(attempt.call.body, partial(RerankOptions.of, attempt.call.body))
    reply = await _send_and_classify(attempt, _encode(attempt, normalized))
    if not isinstance(reply, BufferedReply):
        raise TypeError("only chats are streamed")
    work = partial(client_ranking, reply.body, options, attempt.upstream.name)
    body = await attempt.state.body_thread.run(reply.body, work)
    return reply if body is reply.body else replace(reply, body=body)


def _start_keep_alive(attempt: Attempt, keep_alive: KeepAlive | None, hold_s: float) -> None:
    """Send keep-alives to a client that waits for a stream, if its profile has a form for them."""
    if keep_alive is None:
        return
    encoder = keep_alive_encoder(attempt.profile, attempt.call, attempt.state.clock.wall)
    if encoder is not None:
        keep_alive.start(encoder, hold_s)


def _with_model_hint(attempt: Attempt, error: UpstreamError) -> UpstreamError:
    """Add advice to `error` if the upstream does not know the model name that gatepass passed on."""
    call, target = attempt.call, attempt.target
    error_body = error.error_body if isinstance(error, UpstreamErrorReply) else None
    if error_body is None or not call.model or target.model not in (None, call.model):
        return error
    hint = model_hint(call.model, target.upstream, error.http_status, error_body.code, error_body.message)
    error.message = error.message if hint is None else f"{sentence(error.message)} {hint}"
    return error


def rules_for(
    state: AppState, upstream: Upstream, call: Call, target: Target, profile_rules: ProfileRules
) -> tuple[Rule, ...]:
    """Return the rules for `call` at `upstream`, without learned ones.

    The order is: the caller's profile, the rerank shape, built-in rules, declared rules. Without a body there are none.
    """
    if not call.body:
        return ()
    rules = state.declared.configured_rules(call.operation.name, call.model)
    first_rules = profile_rules.rules[upstream.dialect_name]
    if call.operation.protocol is ClientProtocol.RERANK:
        shape = ConvertRerank(upstream.settings.rerank_shape, call.model or target.model)
        rules = (ChangeRule("rerank", (shape,)), *rules)
    return (*first_rules, *rules) if first_rules else rules


async def normalize_off_loop(call: Call, target: Target, rules: Sequence[Rule], thread: BodyThread) -> Call:
    """Apply `rules` as `normalize` does, in `thread` if the body is heavy (`is_heavy`).

    If the body was scanned, each rule's new body is scanned again before the next rule.
    """
    rules = applicable_rules(call, rules)
    is_scanned = type(call.body) is ScannedBody
    if (rules is MODEL_NAME_ONLY and (is_scanned or place_of(call.body, MODEL) >= 0)) or not is_heavy(call.body):
        return apply_rules(call, target, rules)
    if not is_scanned and rules is BUILT_IN_RULES:
        # the last rule runs alone: it saves one copy of the body at the peak
        call = await thread.run(call.body, partial(apply_rules, call, target, rules[:-1]))
        rules = MODEL_NAME_ONLY
        if place_of(call.body, MODEL) >= 0:
            return apply_rules(call, target, rules)
    if not is_scanned:
        return await thread.run(call.body, partial(apply_rules, call, target, rules))
    for rule in rules:
        call = await with_scanned_body(call)
        call = await thread.run(call.body, partial(rule.apply, call, target))
    return call


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


class AttemptLearning:
    """The learned rules of one attempt. Its owner calls `close` at the end of the attempt.

    `base` is the request before any learned rule. If the model is known and has no learned rules, as usual, there is
    no LearningSession until the first error.
    """

    __slots__ = ("_attempt", "_base", "_began_s", "_scope", "_state", "_upstream", "session")

    def __init__(self, attempt: Attempt, base: Call) -> None:
        self._attempt = attempt
        self._state = state = attempt.state
        self._upstream = upstream = attempt.upstream
        self._base = base
        model = attempt.target.model or base.model
        self._scope = scope = RuleScope(
            upstream.name, model, base.operation.name, upstream.credential, upstream.base_url
        )
        self._began_s = now_s = state.clock.now()
        is_settled = not upstream.learns or state.learner.is_settled(scope, base.stream, now_s)
        self.session = None if is_settled else self._new_session()

    def close(self) -> None:
        """Let another request try the unknown model, and log the new rules."""
        if self.session is None:
            return
        self.session.close()
        for event in self.session.events:
            self._state.metrics.learning_event(event.scope.upstream, event.event)
            fields = {
                "id": self._base.id,
                "upstream": event.scope.upstream,
                "model": event.scope.model,
                "operation": event.scope.operation,
                "adapted": event.adapted,
                "evidence": event.evidence or None,
            }
            emit(LOG, logging.INFO, f"rule_{event.event}", fields)

    async def plan(self) -> Call:
        """Return the request with the learned rules applied, the same object if none concerns it."""
        if self.session is None:
            return self._base
        self.session.recall(self._base, self._state.clock.now())
        if self.session.has_rules:
            self._base = await with_scanned_body(self._base)
            planned = await self._state.body_thread.run(self._base.body, partial(self.session.revise, self._base))
        else:
            planned = self.session.revise(self._base)
        self._attempt.learned = planned.adapted[len(self._base.adapted) :]
        return planned

    async def learn_from(self, error: UpstreamError) -> bool:
        """Return whether a rule was learned from `error`, so that a retry can succeed."""
        session = self._open_session()
        rules = () if session.mode == "off" else await self._relevant_rules(session, session.last_sent, error)
        return session.prepare_retry(error, self._state.clock.now(), rules)

    def succeeded(self) -> None:
        """Record that the upstream accepted the request that was planned last."""
        if self.session is not None:
            self.session.succeeded(self._state.clock.now())

    async def final_error(self, sent: Call, error: UpstreamError) -> UpstreamError:
        """Return the error for the client after `error` to `sent`, with advice if gatepass has some.

        If the rules that were tried did not help, this is the error before them (learning/session.py).
        """
        session, attempt, upstream = self._open_session(), self._attempt, self._upstream.name
        sent = await with_scanned_body(sent)
        await self._rejection(session, sent, error)
        shown = session.failed(error, self._state.clock.now())
        attempt.tried = session.tried
        if shown is not error:  # an earlier error, to a request without the rules that were tried
            attempt.adapted = tuple(entry for entry in attempt.adapted if entry not in attempt.tried)
        if isinstance(shown, UpstreamEmpty) and has_token_ids(sent):
            # OpenRouter returns no vectors for token ids. A retry changes nothing, but the client can send texts.
            return UpstreamErrorReply(
                f"{sentence(shown.message)} {IDS_ADVICE}",
                upstream=upstream,
                status=400,
                kind="invalid_request_error",
                upstream_code=shown.code,
                param="input",
            )
        if sent.operation.protocol is ClientProtocol.RESPONSES and isinstance(shown, UpstreamErrorReply):
            error_body = shown.error_body
            hint = None if error_body is None else responses_hint(error_body.message, upstream, shown.http_status)
            if error_body is not None and hint is not None:
                shown.message = f"{sentence(error_body.message)} {hint}"
        changed = f"Already changed: {', '.join(session.changed)}." if session.changed else ""
        if session.is_exhausted:
            again = f"Send the request again: it begins with {', '.join(session.tried)}."
            changed = f"Each try was rejected for another reason. {again}"
        rules = await self._relevant_rules(session, sent, shown)
        for hint in (changed, self._advice(session, sent, shown, rules)):
            if hint:
                shown.message = f"{sentence(shown.message)} {hint}"
        return shown

    def _new_session(self) -> LearningSession:
        settings, call, declared = self._upstream.settings, self._base, self._state.declared
        entry = declared.model(call.operation.name, call.model)
        may_stream = entry is None or entry.stream == "auto"
        is_configured = declared.entry(call.operation.name, call.model) == call.model
        policy = LearningPolicy(frozenset(settings.learn_also), may_stream, is_configured)
        return self._state.learner.session(self._scope, call.operation.protocol, settings.learn, policy)

    def _open_session(self) -> LearningSession:
        """Return the session, a new one if the request was sent without one."""
        if self.session is None:
            self.session = self._new_session()
            self.session.sent(self._base, self._began_s)
        return self.session

    async def _relevant_rules(self, session: LearningSession, sent: Call | None, error: UpstreamError) -> Relevant:
        """Return the rules that `error` suggests and that would change `sent`. A heavy body is read in a thread."""
        if sent is None:
            return ()
        rejection = await self._rejection(session, sent, error)
        if rejection is None:
            return ()
        sent = await with_scanned_body(sent)
        return await self._state.body_thread.run(sent.body, partial(relevant_rules, rejection, sent))

    async def _rejection(self, session: LearningSession, sent: Call, error: UpstreamError) -> UpstreamRejection | None:
        """Return `error` as the matchers read it. The session keeps it, so that it is parsed only once."""
        return await self._state.body_thread.run(sent.body, partial(session.parse_error, error), INLINE_BYTES)

    def _advice(self, session: LearningSession, sent: Call, error: UpstreamError, rules: Relevant) -> str:
        if isinstance(error, UpstreamErrorReply) and has_token_ids(sent):
            return IDS_ADVICE
        entry = self._state.declared.model(self._base.operation.name, self._base.model)
        suggest = None if entry is None else entry.suggest
        caller = next((key for key in self._state.config.access.keys if key.name == self._base.caller), None)
        if suggest is not None and caller is not None and not may_use(caller, suggest):
            suggest = None  # the caller must not learn that the model exists
        stream = "auto" if entry is None else entry.stream
        settings = LearningSettings(session.scope.upstream, session.policy, session.mode, stream, suggest)
        blocked_s = partial(session.blocked_s, now_s=self._state.clock.now())
        rejection = session.parse_error(error)
        hint = "" if rejection is None else advice(rejection, sent, settings, blocked_s, rules)
        has_no_room = not hint and suggest is not None and is_too_long(error)
        return f"The model {suggest!r} may have a longer context." if has_no_room else hint
