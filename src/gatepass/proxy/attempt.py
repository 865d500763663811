"""What a request learns from a refusal, tied to the gate: who is asked, what may be learned, what is told of it."""

from __future__ import annotations

import logging
from functools import partial
from types import TracebackType
from typing import Self

from gatepass.auth.model_access import may_use
from gatepass.dialects.hints import of_responses, sentence
from gatepass.errors import UpstreamEmpty, UpstreamError, UpstreamRefusal
from gatepass.learning.advice import Setting, advice
from gatepass.learning.allowance import Allowance
from gatepass.learning.learned_rule import Lesson, Subject
from gatepass.learning.matchers import Concerned, concerned
from gatepass.learning.rejection import is_too_long
from gatepass.learning.session import Learning, my_turn
from gatepass.normalize.embeddings_request import has_token_ids
from gatepass.observability.log import emit
from gatepass.proxy.context import Attempt
from gatepass.proxy.large_body import apart, is_heavy, reread
from gatepass.types import Call, Surface

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
        """Returns when the request may go: at once, nearly always (see learning/crowd.py)."""
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
