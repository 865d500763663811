"""What a request learns from a refusal, tied to the gate: who is asked, what may be learned, what is told of it."""

from __future__ import annotations

import logging

from gatepass.adapt.learning import Learning
from gatepass.adapt.changes.vectors import has_token_ids
from gatepass.adapt.memory import Subject
from gatepass.adapt.teaching.advice import advice
from gatepass.adapt.teaching.allowance import Allowance
from gatepass.adapt.teaching.heard import Heard
from gatepass.call import Call, Complaint, Target
from gatepass.errors import UpstreamEmpty, UpstreamError, UpstreamRefusal
from gatepass.gate import Gate, Hop
from gatepass.observe.exchange import Exchange
from gatepass.observe.log import emit
from gatepass.upstream.hints import sentence

LOG = logging.getLogger("gatepass.lessons")

TOKEN_IDS = (
    "The request holds token ids, which mean something only to the tokenizer that made them: send texts"
    " (LangChain: check_embedding_ctx_length=False)."
)


def learning_at(gate: Gate, hop: Hop, target: Target, call: Call) -> Learning:
    """What `call` learns at `target`; a context that frees its places in every case."""
    settings = hop.settings
    subject = Subject(hop.name, target.model or call.model, call.operation.name, settings.credential or "")
    entry = gate.declared.model(call.operation.name, call.model)
    may_stream = entry is None or entry.stream == "auto"
    allowance = Allowance(frozenset(settings.learn_also), may_stream=may_stream)
    return gate.learner.at(subject, call.operation.surface, settings.learn, allowance)


def taught(gate: Gate, learning: Learning, error: UpstreamError) -> bool:
    """Whether `error` taught something that is worth another try."""
    return learning.teach(_status(error), _complaint(error), error, gate.clock.now())


def given_up(gate: Gate, learning: Learning, sent: Call, error: UpstreamError) -> UpstreamError:
    """The error to show: the first one where something was tried in vain, with advice where gatepass has some."""
    shown = learning.failed(_status(error), _complaint(error), error, gate.clock.now())
    if not isinstance(shown, UpstreamError):  # it came from here, as an UpstreamError
        return error
    told = _advice(gate, learning, sent, error)
    if told:
        shown.message = f"{sentence(shown.message)} {told}"
    return shown


def _advice(gate: Gate, learning: Learning, sent: Call, error: UpstreamError) -> str:
    if isinstance(error, UpstreamRefusal | UpstreamEmpty) and has_token_ids(sent):
        return TOKEN_IDS
    heard = Heard.of(sent.operation.surface, _status(error), _complaint(error))
    if heard is None:
        return ""
    entry = gate.declared.model(sent.operation.name, sent.model)
    return advice(
        heard,
        sent,
        learning.allowance,
        upstream=learning.subject.upstream,
        is_on=learning.mode == "on",
        suggest=None if entry is None else entry.suggest,
    )


def tell(gate: Gate, learning: Learning, exchange: Exchange) -> None:
    """Log what was learned, and note on the exchange what was tried."""
    exchange.tried = learning.tried
    for news in learning.news:
        gate.metrics.lesson(news.subject.upstream, news.event)
        fields = {
            "id": exchange.inbound.id,
            "upstream": news.subject.upstream,
            "model": news.subject.model,
            "operation": news.subject.operation,
            "adapted": news.adapted,
            "evidence": news.evidence or None,
        }
        emit(LOG, logging.INFO, f"lesson_{news.event}", fields)


def _status(error: UpstreamError) -> int | None:
    return error.http_status if isinstance(error, UpstreamRefusal) else None


def _complaint(error: UpstreamError) -> Complaint | None:
    return error.complaint if isinstance(error, UpstreamRefusal) else None
