"""What a request learns from a refusal, tied to the gate: who is asked, what may be learned, what is told of it.

One attempt at one target, again for as long as its refusals teach.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from gatepass.auth.model_access import may_use
from gatepass.dialects.base import raw_request
from gatepass.dialects.hints import model_hint, responses_hint, sentence
from gatepass.errors import UpstreamEmpty, UpstreamError, UpstreamErrorReply, UpstreamInvalid
from gatepass.json_scan import ScannedBody, place_of
from gatepass.learning.learned_rule import LearnedRule, LearningPolicy, RuleScope
from gatepass.learning.matchers import Concerned, LearningSettings, advice, relevant_rules
from gatepass.learning.rejection import is_too_long
from gatepass.learning.session import LearningSession, wait_for_trial
from gatepass.normalize.built_in import BUILT_IN, MODEL, NAMING, applied, concerning, normalize
from gatepass.normalize.embeddings_request import has_token_ids
from gatepass.normalize.members import STREAMED
from gatepass.normalize.profiles import ProfileRules
from gatepass.normalize.rerank import InvalidRanking, RerankOptions, Shaped, client_ranking
from gatepass.normalize.rule import ChangeRule, Rule
from gatepass.observability.log import emit
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.batches import send_embeddings
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.keepalive import HOLD_S, STREAM_HOLD_S, KeepAlive, keep_alive_encoder
from gatepass.proxy.large_body import INLINE_BYTES, is_heavy, reread, run_off_loop
from gatepass.proxy.response import BufferedReply, ClassifiedReply, StreamingReply, classify
from gatepass.proxy.uploads import EditedUpload
from gatepass.proxy.upstream_call import confirm_token, renew_token, send
from gatepass.types import Call, ClientProtocol, OutboundRequest, Target, UpstreamErrorBody, header


async def try_target(
    context: RequestContext, call: Call, target: Target, keep_alive: KeepAlive | None = None
) -> ClassifiedReply:
    """adapt ─► encode ─► authorize ─► send ─► judge, at one target; again for as long as a refusal teaches.

    `call` is as the client sent it. Where a client waits for it, `keep_alive` tells him that it is still under way.
    Raises what the answer really is, in the end.
    """
    attempt = context.attempt(call, target)
    state, hop = attempt.state, attempt.upstream
    rules = rules_for(state, hop, call, target, context.profile)
    is_small = len(call.body) <= INLINE_BYTES
    base = normalize(call, target, rules) if is_small else await normalize_in_slices(call, target, rules)
    if not call.body:
        adapted = normalize(base, target, hop.dialect.rules)
        upload = None if context.upload is None else context.upload.as_model(target.model)
        attempt.adapted = adapted.adapted if upload is None else (*adapted.adapted, *upload.adapted)
        try:
            client_ranking = await _send_call(attempt, adapted, context.client_request.query, upload)
        except UpstreamError as error:
            raise _of_name(attempt, error) from error.__cause__
        if isinstance(client_ranking, StreamingReply):
            _keep_alive(attempt, keep_alive, STREAM_HOLD_S)
        confirm_token(attempt)
        return client_ranking
    is_streamed = call.stream and call.operation.protocol in STREAMED
    if is_streamed:
        _keep_alive(attempt, keep_alive, STREAM_HOLD_S)
    with AttemptLearning(attempt, base) as pupil:
        await pupil.wait_for_trial()
        while True:
            adapted, rules = await pupil.plan(), hop.dialect.rules
            if rules:
                is_small = len(adapted.body) <= INLINE_BYTES
                adapted = (
                    normalize(adapted, target, rules) if is_small else await normalize_in_slices(adapted, target, rules)
                )
            attempt.adapted = adapted.adapted
            if is_streamed and not adapted.stream:
                _keep_alive(attempt, keep_alive, HOLD_S)
            try:
                client_ranking = await _send_call(attempt, adapted, context.client_request.query)
            except UpstreamError as error:
                if await pupil.learn_from(error):
                    continue
                raise _of_name(attempt, await pupil.final_error(adapted, error)) from error.__cause__
            pupil.succeeded()
            confirm_token(attempt)
            return client_ranking


async def normalize_in_slices(call: Call, target: Target, rules: Sequence[Rule]) -> Call:
    """As `normalize`, beside the loop where the rules step over many values.

    Where the body is scanned, a rule's new body is scanned before the next rule.
    """
    rules = concerning(call, rules)
    is_scanned = type(call.body) is ScannedBody
    if (rules is NAMING and (is_scanned or place_of(call.body, MODEL) >= 0)) or not is_heavy(call.body):
        return applied(call, target, rules)
    if not is_scanned and rules is BUILT_IN:  # the last one alone: at the peak one copy of the body less is alive
        call = await run_off_loop(call.body, partial(applied, call, target, rules[:-1]))
        rules = NAMING
        if place_of(call.body, MODEL) >= 0:
            return applied(call, target, rules)
    if not is_scanned:
        return await run_off_loop(call.body, partial(applied, call, target, rules))
    for rule in rules:
        call = await reread(call)
        call = await run_off_loop(call.body, partial(rule.apply, call, target))
    return call


def rules_for(state: AppState, hop: Upstream, call: Call, target: Target, profile: ProfileRules) -> tuple[Rule, ...]:
    """The rules that `call` goes through at `hop` before any lesson: those of its caller's profile, of a reranker's
    shape, then the gate's. A call without a body goes as it is."""
    if not call.body:
        return ()
    rules, own = state.rules_for(call), profile.rules[hop.settings.dialect]
    if call.operation.protocol is ClientProtocol.RERANK:
        rules = (ChangeRule("rerank", (Shaped(hop.settings.rerank_shape, call.model or target.model),)), *rules)
    return (*own, *rules) if own else rules


def _of_name(attempt: Attempt, error: UpstreamError) -> UpstreamError:
    """`error`, with advice where the upstream does not know the client's name of the model, which went up as it was."""
    call, target = attempt.call, attempt.target
    said: UpstreamErrorBody | None = error.error_body if isinstance(error, UpstreamErrorReply) else None
    if said is None or not call.model or target.model not in (None, call.model):
        return error
    hint = model_hint(call.model, target.upstream, error.http_status, said.code, said.message)
    error.message = error.message if hint is None else f"{sentence(error.message)} {hint}"
    return error


def _keep_alive(attempt: Attempt, keep_alive: KeepAlive | None, hold_s: float) -> None:
    """Signs of life for a client that waits for a stream, in the form that it reads, if there is one."""
    if keep_alive is None:
        return
    sign = keep_alive_encoder(attempt.profile, attempt.call, attempt.state.clock.wall)
    if sign is not None:
        keep_alive.start(sign, hold_s)


def _send_call(
    attempt: Attempt, adapted: Call, query: bytes, upload: EditedUpload | None = None
) -> Awaitable[ClassifiedReply]:
    """The judged answer to `adapted`, with `upload` as its body: what the upstream is sent for the client's call."""
    protocol = adapted.operation.protocol
    if protocol is ClientProtocol.EMBEDDINGS:
        return send_embeddings(attempt, adapted, _ask_part)
    request = _encoded(attempt, adapted)
    if protocol is ClientProtocol.RERANK:
        return _ranked(attempt, request)
    if protocol is ClientProtocol.RAW:
        request = raw_request(request, attempt.call.headers, query, upload)
    return _send_and_classify(attempt, request)


def _ask_part(attempt: Attempt, part: Call) -> Awaitable[ClassifiedReply]:
    return _send_and_classify(attempt, _encoded(attempt, part))


def _encoded(attempt: Attempt, call: Call) -> OutboundRequest:
    hop, target = attempt.upstream, attempt.target
    settings, timeouts = hop.settings, target.timeouts or hop.timeouts
    return hop.dialect.encode(call, target, settings.base_url, timeouts, settings.forward_headers)


async def _ranked(attempt: Attempt, request: OutboundRequest) -> BufferedReply:
    """The ranking that the client's own call asked for, out of the upstream's reply to `request`.

    Raises UpstreamInvalid for a reply that ranks nothing: clients take what they cannot read for zeros.
    """
    options = await run_off_loop(attempt.call.body, partial(RerankOptions.of, attempt.call.body))
    held = await _send_and_classify(attempt, request)
    if not isinstance(held, BufferedReply):
        raise TypeError("only chats are streamed")
    body = client_ranking(held.body, options)
    if isinstance(body, InvalidRanking):
        raise UpstreamInvalid(f"The upstream's answer is no ranking: {body.reason}.", upstream=attempt.upstream.name)
    return held if body is held.body else replace(held, body=body)


async def _send_and_classify(attempt: Attempt, request: OutboundRequest) -> ClassifiedReply:
    """A judged answer; where it turned out to be a rejection of the token, the next one, to a new token."""
    while True:
        try:
            response = await send(attempt, request)
            said_id = header(response.headers, b"x-request-id")
            attempt.upstream_request_id = said_id.decode("latin-1")[:100] if said_id is not None else None
            return await classify(attempt, response)
        except UpstreamError as error:
            await renew_token(attempt, error, request)


LOG = logging.getLogger("gatepass.learning")

IDS_ADVICE = (
    "The request holds token ids, which mean something only to the tokenizer that made them: send texts"
    " (LangChain: check_embedding_ctx_length=False)."
)


class AttemptLearning:
    """One request at one target, and what it learns there: a context, which frees its places in every case.

    `base` is the request before any lesson. Where its model has been heard of and nothing was learned of it,
    it goes as it is: a Learning is made by the first refusal.
    """

    __slots__ = ("_attempt", "_base", "_gate", "_hop", "_learning", "_subject")

    def __init__(self, attempt: Attempt, base: Call) -> None:
        self._attempt = attempt
        self._gate = state = attempt.state
        self._hop = hop = attempt.upstream
        self._base = base
        settings, learner = hop.settings, state.learner
        model = attempt.target.model or base.model
        self._subject = RuleScope(hop.name, model, base.operation.name, settings.credential or "")
        is_settled = settings.learn != "on" or learner.is_settled(self._subject, base.stream, state.clock.now())
        self._learning = None if is_settled else self._made()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._learning is not None:
            self._learning.__exit__(kind, error, trace)
            self._tell(self._learning)

    async def wait_for_trial(self) -> None:
        """Returns when the request may go: at once, nearly always (see learning/memory.py)."""
        if self._learning is not None:
            await wait_for_trial(self._learning, self._base, self._gate.clock)

    async def plan(self) -> Call:
        """The request with the lessons that hold, the same object where none concerns it."""
        if self._learning is None:
            return self._base
        self._learning.recall(self._base, self._gate.clock.now())
        if self._learning.has_lessons:
            self._base = await reread(self._base)
            planned = await run_off_loop(self._base.body, partial(self._learning.revise, self._base))
        else:
            planned = self._learning.revise(self._base)
        self._attempt.learned = planned.adapted[len(self._base.adapted) :]
        return planned

    async def learn_from(self, error: UpstreamError) -> bool:
        """Whether `error` taught something that is worth another try."""
        session = self._heard()
        known = None if session.mode == "off" else await self._concerned(session.last, error)
        return session.learn_from(error, self._gate.clock.now(), known)

    async def _concerned(self, sent: Call | None, error: UpstreamError) -> Concerned | None:
        """The lessons of `error` that concern `sent`, where that is not found out at once."""
        if sent is None or not is_heavy(sent.body):
            return None
        rejection = await run_off_loop(sent.body, partial(self._heard().parse_error, error))
        if rejection is None:
            return None
        sent = await reread(sent)
        return await run_off_loop(sent.body, partial(relevant_rules, rejection, sent))

    def succeeded(self) -> None:
        """The upstream has taken the request as it was planned last."""
        self._attempt.tried = ()
        if self._learning is not None:
            self._learning.succeeded(self._gate.clock.now())

    async def final_error(self, sent: Call, error: UpstreamError) -> UpstreamError:
        """The error to show after `error` to `sent`: an earlier one where something was tried in vain
        (learning/session.py), with what had been changed before it, and with advice where gatepass has some."""
        session = self._heard()
        sent = await reread(sent)
        shown = session.failed(error, self._gate.clock.now())
        attempt = self._attempt
        attempt.tried = session.tried
        if shown is not error:  # an earlier one, to a request without all that
            attempt.adapted = tuple(entry for entry in attempt.adapted if entry not in attempt.tried)
        if isinstance(shown, UpstreamEmpty) and has_token_ids(sent):
            return _not_read(shown, self._hop.name)
        if sent.operation.protocol is ClientProtocol.RESPONSES and isinstance(shown, UpstreamErrorReply):
            said = shown.error_body  # with what only the Responses API wants to be told
            hint = None if said is None else responses_hint(said.message, self._hop.name, shown.http_status)
            if said is not None and hint is not None:
                shown.message = f"{sentence(said.message)} {hint}"
        changed = f"Already changed: {', '.join(session.changed)}." if session.changed else ""
        known = await self._concerned(sent, shown)
        for hint in (changed, self._advice(session, sent, shown, known)):
            if hint:
                shown.message = f"{sentence(shown.message)} {hint}"
        return shown

    def _made(self) -> LearningSession:
        settings, call = self._hop.settings, self._base
        entry = self._gate.declared.model(call.operation.name, call.model)
        may_stream = entry is None or entry.stream == "auto"
        is_configured = self._gate.declared.entry(call.operation.name, call.model) == call.model
        policy = LearningPolicy(frozenset(settings.learn_also), may_stream, is_configured)
        return self._gate.learner.session(self._subject, call.operation.protocol, settings.learn, policy)

    def _heard(self) -> LearningSession:
        """The Learning, made now where the request went out without one."""
        if self._learning is None:
            self._learning = self._made()
            self._learning.sent(self._base)
        return self._learning

    def _advice(self, session: LearningSession, sent: Call, error: UpstreamError, known: Concerned | None) -> str:
        if isinstance(error, UpstreamErrorReply) and has_token_ids(sent):
            return IDS_ADVICE
        entry = self._gate.declared.model(self._base.operation.name, self._base.model)
        suggest = None if entry is None else entry.suggest
        caller = next((key for key in self._gate.config.access.keys if key.name == self._base.caller), None)
        if suggest is not None and caller is not None and not may_use(caller, suggest):
            suggest = None  # the caller may not know of it
        stream = "auto" if entry is None else entry.stream
        setting = LearningSettings(session.scope.upstream, session.policy, session.mode, stream, suggest)
        hint = self._way_out(session, sent, error, setting, known)
        has_no_room = not hint and suggest is not None and is_too_long(error)
        return f"The model {suggest!r} may have room for it." if has_no_room else hint

    def _way_out(
        self,
        session: LearningSession,
        sent: Call,
        error: UpstreamError,
        setting: LearningSettings,
        known: Concerned | None,
    ) -> str:
        rejection = session.parse_error(error)
        if rejection is None:
            return ""

        def blocked_s(lesson: LearnedRule) -> float:
            now_s = self._gate.clock.now()
            found = session.refuted(lesson, now_s)
            return 0.0 if found is None else found.expires_at - now_s

        return advice(rejection, sent, setting, blocked_s, known)

    def _tell(self, session: LearningSession) -> None:
        for news in session.events:
            self._gate.metrics.learning_event(news.scope.upstream, news.event)
            fields = {
                "id": self._base.id,
                "upstream": news.scope.upstream,
                "model": news.scope.model,
                "operation": news.scope.operation,
                "adapted": news.adapted,
                "evidence": news.evidence or None,
            }
            emit(LOG, logging.INFO, f"rule_{news.event}", fields)


def _not_read(error: UpstreamEmpty, upstream: str) -> UpstreamErrorReply:
    """No vectors for token ids (OpenRouter answers so): a repeat changes nothing, and the client can mend it."""
    return UpstreamErrorReply(
        f"{sentence(error.message)} {IDS_ADVICE}",
        upstream=upstream,
        status=400,
        kind="invalid_request_error",
        upstream_code=error.code,
        param="input",
    )
