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
from gatepass.dialects.base import passed_on
from gatepass.dialects.hints import of_model, of_responses, sentence
from gatepass.errors import UpstreamEmpty, UpstreamError, UpstreamInvalid, UpstreamRefusal
from gatepass.json_scan import ScannedBody, place_of
from gatepass.learning.learned_rule import Allowance, Lesson, Subject
from gatepass.learning.matchers import Concerned, Setting, advice, concerned
from gatepass.learning.rejection import is_too_long
from gatepass.learning.session import Learning, my_turn
from gatepass.normalize.built_in import BUILT_IN, MODEL, NAMING, adapt, applied, concerning
from gatepass.normalize.embeddings_request import has_token_ids
from gatepass.normalize.members import STREAMED
from gatepass.normalize.profiles import Prepared
from gatepass.normalize.rerank import Asked, Shaped, Unfit, answer
from gatepass.normalize.rule import Revision, Rule
from gatepass.observability.log import emit
from gatepass.proxy.app_state import Gate, Hop
from gatepass.proxy.batches import embedded
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.keepalive import HOLD_S, STREAM_HOLD_S, Heartbeat, sign_of
from gatepass.proxy.large_body import INLINE_BYTES, apart, is_heavy, reread
from gatepass.proxy.response import Answer, Begun, Whole, judge
from gatepass.proxy.uploads import Outgoing
from gatepass.proxy.upstream_call import accepted, renew, send
from gatepass.types import Call, Complaint, Request, Surface, Target, header


async def try_at(context: RequestContext, call: Call, target: Target, heartbeat: Heartbeat | None = None) -> Answer:
    """adapt ─► encode ─► authorize ─► send ─► judge, at one target; again for as long as a refusal teaches.

    `call` is as the client sent it. Where a client waits for it, `heartbeat` tells him that it is still under way.
    Raises what the answer really is, in the end.
    """
    attempt = context.attempt(call, target)
    gate, hop = attempt.gate, attempt.hop
    rules = rules_at(gate, hop, call, target, context.profile)
    is_small = len(call.body) <= INLINE_BYTES
    base = adapt(call, target, rules) if is_small else await adapted_apart(call, target, rules)
    if not call.body:
        adapted = adapt(base, target, hop.dialect.rules)
        upload = None if context.form is None else context.form.as_model(target.model)
        attempt.adapted = adapted.adapted if upload is None else (*adapted.adapted, *upload.adapted)
        try:
            answer = await _asked(attempt, adapted, context.inbound.query, upload)
        except UpstreamError as error:
            raise _of_name(attempt, error) from error.__cause__
        if isinstance(answer, Begun):
            _keep_alive(attempt, heartbeat, STREAM_HOLD_S)
        accepted(attempt)
        return answer
    is_streamed = call.stream and call.operation.surface in STREAMED
    if is_streamed:
        _keep_alive(attempt, heartbeat, STREAM_HOLD_S)
    with Pupil(attempt, base) as pupil:
        await pupil.my_turn()
        while True:
            adapted, rules = await pupil.plan(), hop.dialect.rules
            if rules:
                is_small = len(adapted.body) <= INLINE_BYTES
                adapted = adapt(adapted, target, rules) if is_small else await adapted_apart(adapted, target, rules)
            attempt.adapted = adapted.adapted
            if is_streamed and not adapted.stream:
                _keep_alive(attempt, heartbeat, HOLD_S)
            try:
                answer = await _asked(attempt, adapted, context.inbound.query)
            except UpstreamError as error:
                if await pupil.taught(error):
                    continue
                raise _of_name(attempt, await pupil.given_up(adapted, error)) from error.__cause__
            pupil.succeeded()
            accepted(attempt)
            return answer


async def adapted_apart(call: Call, target: Target, rules: Sequence[Rule]) -> Call:
    """As `adapt`, beside the loop where the rules step over many values.

    Where the body is scanned, a rule's new body is scanned before the next rule.
    """
    rules = concerning(call, rules)
    is_scanned = type(call.body) is ScannedBody
    if (rules is NAMING and (is_scanned or place_of(call.body, MODEL) >= 0)) or not is_heavy(call.body):
        return applied(call, target, rules)
    if not is_scanned and rules is BUILT_IN:  # the last one alone: at the peak one copy of the body less is alive
        call = await apart(call.body, partial(applied, call, target, rules[:-1]))
        rules = NAMING
        if place_of(call.body, MODEL) >= 0:
            return applied(call, target, rules)
    if not is_scanned:
        return await apart(call.body, partial(applied, call, target, rules))
    for rule in rules:
        call = await reread(call)
        call = await apart(call.body, partial(rule.apply, call, target))
    return call


def rules_at(gate: Gate, hop: Hop, call: Call, target: Target, profile: Prepared) -> tuple[Rule, ...]:
    """The rules that `call` goes through at `hop` before any lesson: those of its caller's profile, of a reranker's
    shape, then the gate's. A call without a body goes as it is."""
    if not call.body:
        return ()
    rules, own = gate.rules_for(call), profile.rules[hop.settings.dialect]
    if call.operation.surface is Surface.RERANK:
        rules = (Revision("rerank", (Shaped(hop.settings.rerank_shape, call.model or target.model),)), *rules)
    return (*own, *rules) if own else rules


def _of_name(attempt: Attempt, error: UpstreamError) -> UpstreamError:
    """`error`, with advice where the upstream does not know the client's name of the model, which went up as it was."""
    call, target = attempt.call, attempt.target
    said: Complaint | None = error.complaint if isinstance(error, UpstreamRefusal) else None
    if said is None or not call.model or target.model not in (None, call.model):
        return error
    told = of_model(call.model, target.upstream, error.http_status, said.code, said.message)
    error.message = error.message if told is None else f"{sentence(error.message)} {told}"
    return error


def _keep_alive(attempt: Attempt, heartbeat: Heartbeat | None, hold_s: float) -> None:
    """Signs of life for a client that waits for a stream, in the form that it reads, if there is one."""
    if heartbeat is None:
        return
    sign = sign_of(attempt.profile, attempt.call, attempt.gate.clock.wall)
    if sign is not None:
        heartbeat.start(sign, hold_s)


def _asked(attempt: Attempt, adapted: Call, query: bytes, upload: Outgoing | None = None) -> Awaitable[Answer]:
    """The judged answer to `adapted`, with `upload` as its body: what the upstream is sent for the client's call."""
    surface = adapted.operation.surface
    if surface is Surface.EMBEDDINGS:
        return embedded(attempt, adapted, _ask_part)
    request = _encoded(attempt, adapted)
    if surface is Surface.RERANK:
        return _ranked(attempt, request)
    if surface is Surface.RAW:
        request = passed_on(request, attempt.call.headers, query, upload)
    return _ask(attempt, request)


def _ask_part(attempt: Attempt, part: Call) -> Awaitable[Answer]:
    return _ask(attempt, _encoded(attempt, part))


def _encoded(attempt: Attempt, call: Call) -> Request:
    hop, target = attempt.hop, attempt.target
    settings, timeouts = hop.settings, target.timeouts or hop.timeouts
    return hop.dialect.encode(call, target, settings.base_url, timeouts, settings.forward_headers)


async def _ranked(attempt: Attempt, request: Request) -> Whole:
    """The ranking that the client's own call asked for, out of the upstream's reply to `request`.

    Raises UpstreamInvalid for a reply that ranks nothing: clients take what they cannot read for zeros.
    """
    asked = await apart(attempt.call.body, partial(Asked.of, attempt.call.body))
    held = await _ask(attempt, request)
    if not isinstance(held, Whole):
        raise TypeError("only chats are streamed")
    body = answer(held.body, asked)
    if isinstance(body, Unfit):
        raise UpstreamInvalid(f"The upstream's answer is no ranking: {body.reason}.", upstream=attempt.hop.name)
    return held if body is held.body else replace(held, body=body)


async def _ask(attempt: Attempt, request: Request) -> Answer:
    """A judged answer; where it turned out to be a rejection of the token, the next one, to a new token."""
    while True:
        try:
            response = await send(attempt, request)
            said_id = header(response.headers, b"x-request-id")
            attempt.upstream_request_id = said_id.decode("latin-1")[:100] if said_id is not None else None
            return await judge(attempt, response)
        except UpstreamError as error:
            await renew(attempt, error, request)


LOG = logging.getLogger("gatepass.lessons")

IDS_ADVICE = (
    "The request holds token ids, which mean something only to the tokenizer that made them: send texts"
    " (LangChain: check_embedding_ctx_length=False)."
)


class Pupil:
    """One request at one target, and what it learns there: a context, which frees its places in every case.

    `base` is the request before any lesson. Where its model has been heard of and nothing was learned of it,
    it goes as it is: a Learning is made by the first refusal.
    """

    __slots__ = ("_attempt", "_base", "_gate", "_hop", "_learning", "_subject")

    def __init__(self, attempt: Attempt, base: Call) -> None:
        self._attempt = attempt
        self._gate = gate = attempt.gate
        self._hop = hop = attempt.hop
        self._base = base
        settings, learner = hop.settings, gate.learner
        model = attempt.target.model or base.model
        self._subject = Subject(hop.name, model, base.operation.name, settings.credential or "")
        is_settled = settings.learn != "on" or learner.is_settled(self._subject, base.stream, gate.clock.now())
        self._learning = None if is_settled else self._made()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._learning is not None:
            self._learning.__exit__(kind, error, trace)
            self._tell(self._learning)

    async def my_turn(self) -> None:
        """Returns when the request may go: at once, nearly always (see learning/memory.py)."""
        if self._learning is not None:
            await my_turn(self._learning, self._base, self._gate.clock)

    async def plan(self) -> Call:
        """The request with the lessons that hold, the same object where none concerns it."""
        if self._learning is None:
            return self._base
        self._learning.recall(self._base, self._gate.clock.now())
        if self._learning.has_lessons:
            self._base = await reread(self._base)
            planned = await apart(self._base.body, partial(self._learning.revise, self._base))
        else:
            planned = self._learning.revise(self._base)
        self._attempt.learned = planned.adapted[len(self._base.adapted) :]
        return planned

    async def taught(self, error: UpstreamError) -> bool:
        """Whether `error` taught something that is worth another try."""
        learning = self._heard()
        known = None if learning.mode == "off" else await self._concerned(learning.last, error)
        return learning.teach(error, self._gate.clock.now(), known)

    async def _concerned(self, sent: Call | None, error: UpstreamError) -> Concerned | None:
        """The lessons of `error` that concern `sent`, where that is not found out at once."""
        if sent is None or not is_heavy(sent.body):
            return None
        heard = await apart(sent.body, partial(self._heard().heard, error))
        if heard is None:
            return None
        sent = await reread(sent)
        return await apart(sent.body, partial(concerned, heard, sent))

    def succeeded(self) -> None:
        """The upstream has taken the request as it was planned last."""
        self._attempt.tried = ()
        if self._learning is not None:
            self._learning.succeeded(self._gate.clock.now())

    async def given_up(self, sent: Call, error: UpstreamError) -> UpstreamError:
        """The error to show after `error` to `sent`: an earlier one where something was tried in vain
        (learning/session.py), with what had been changed before it, and with advice where gatepass has some."""
        learning = self._heard()
        sent = await reread(sent)
        shown = learning.failed(error, self._gate.clock.now())
        attempt = self._attempt
        attempt.tried = learning.tried
        if shown is not error:  # an earlier one, to a request without all that
            attempt.adapted = tuple(entry for entry in attempt.adapted if entry not in attempt.tried)
        if isinstance(shown, UpstreamEmpty) and has_token_ids(sent):
            return _not_read(shown, self._hop.name)
        if sent.operation.surface is Surface.RESPONSES and isinstance(shown, UpstreamRefusal):
            said = shown.complaint  # with what only the Responses API wants to be told
            told = None if said is None else of_responses(said.message, self._hop.name, shown.http_status)
            if said is not None and told is not None:
                shown.message = f"{sentence(said.message)} {told}"
        changed = f"Already changed: {', '.join(learning.changed)}." if learning.changed else ""
        known = await self._concerned(sent, shown)
        for told in (changed, self._advice(learning, sent, shown, known)):
            if told:
                shown.message = f"{sentence(shown.message)} {told}"
        return shown

    def _made(self) -> Learning:
        settings, call = self._hop.settings, self._base
        entry = self._gate.declared.model(call.operation.name, call.model)
        may_stream = entry is None or entry.stream == "auto"
        is_configured = self._gate.declared.entry(call.operation.name, call.model) == call.model
        allowance = Allowance(frozenset(settings.learn_also), may_stream, is_configured)
        return self._gate.learner.at(self._subject, call.operation.surface, settings.learn, allowance)

    def _heard(self) -> Learning:
        """The Learning, made now where the request went out without one."""
        if self._learning is None:
            self._learning = self._made()
            self._learning.sent(self._base)
        return self._learning

    def _advice(self, learning: Learning, sent: Call, error: UpstreamError, known: Concerned | None) -> str:
        if isinstance(error, UpstreamRefusal) and has_token_ids(sent):
            return IDS_ADVICE
        entry = self._gate.declared.model(self._base.operation.name, self._base.model)
        suggest = None if entry is None else entry.suggest
        caller = next((key for key in self._gate.config.access.keys if key.name == self._base.caller), None)
        if suggest is not None and caller is not None and not may_use(caller, suggest):
            suggest = None  # the caller may not know of it
        stream = "auto" if entry is None else entry.stream
        setting = Setting(learning.subject.upstream, learning.allowance, learning.mode, stream, suggest)
        told = self._way_out(learning, sent, error, setting, known)
        has_no_room = not told and suggest is not None and is_too_long(error)
        return f"The model {suggest!r} may have room for it." if has_no_room else told

    def _way_out(
        self, learning: Learning, sent: Call, error: UpstreamError, setting: Setting, known: Concerned | None
    ) -> str:
        heard = learning.heard(error)
        if heard is None:
            return ""

        def blocked_s(lesson: Lesson) -> float:
            now_s = self._gate.clock.now()
            found = learning.refuted(lesson, now_s)
            return 0.0 if found is None else found.expires_at - now_s

        return advice(heard, sent, setting, blocked_s, known)

    def _tell(self, learning: Learning) -> None:
        for news in learning.news:
            self._gate.metrics.lesson(news.subject.upstream, news.event)
            fields = {
                "id": self._base.id,
                "upstream": news.subject.upstream,
                "model": news.subject.model,
                "operation": news.subject.operation,
                "adapted": news.adapted,
                "evidence": news.evidence or None,
            }
            emit(LOG, logging.INFO, f"lesson_{news.event}", fields)


def _not_read(error: UpstreamEmpty, upstream: str) -> UpstreamRefusal:
    """No vectors for token ids (OpenRouter answers so): a repeat changes nothing, and the client can mend it."""
    return UpstreamRefusal(
        f"{sentence(error.message)} {IDS_ADVICE}",
        upstream=upstream,
        status=400,
        kind="invalid_request_error",
        upstream_code=error.code,
        param="input",
    )
