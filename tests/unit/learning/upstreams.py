"""Upstreams that reject requests, and a request that learns from them, without I/O."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gatepass.errors import GatepassError, UpstreamError, UpstreamErrorReply
from gatepass.learning.learned_rule import LearningPolicy, RuleScope
from gatepass.learning.memory import Memory
from gatepass.learning.rows import Step, steps
from gatepass.learning.session import LearningSession, Mode
from gatepass.proxy import retry
from gatepass.proxy.retry import Repeat, Tried, decide
from gatepass.replies.error_body import read_error_body
from gatepass.types import Call
from tests.unit.learning.rejections import STREAM, openai, unsupported

O3 = RuleScope("a", "chat", "o3-mini", "chat")
Body = dict[str, Any]


@dataclass
class Refusal:
    """`status` and `body` for each request that it `concerns`."""

    concerns: Callable[[Body], bool]
    body: Any
    status: int = 400


@dataclass
class Upstream:
    """Answers with the first refusal that concerns a request; what it saw is in `seen`."""

    refusals: list[Refusal] = field(default_factory=list)
    seen: list[Body] = field(default_factory=list)

    def answer(self, call: Call) -> Refusal | None:
        body = json.loads(call.body)
        self.seen.append(body)
        return next((refusal for refusal in self.refusals if refusal.concerns(body)), None)


class Answering(Protocol):
    def answer(self, call: Call) -> Refusal | None: ...


NO_STREAM = Refusal(lambda body: bool(body.get("stream")), openai(STREAM, "stream", "unsupported_value"))


def without(name: str, hint: str = "") -> Refusal:
    return Refusal(lambda body: name in body, openai(unsupported(name, hint), name, "unsupported_parameter"))


def always(body: Any, status: int = 400) -> Refusal:
    return Refusal(lambda _: True, body, status)


def refused(refusal: Refusal) -> UpstreamErrorReply:
    error_body = read_error_body(refusal.body, refused=True)
    assert error_body is not None
    return UpstreamErrorReply(
        error_body.message, upstream="chat", status=refusal.status, upstream_code=error_body.code, error_body=error_body
    )


@dataclass
class Outcome:
    """`error` is the client's error, None for an answer; `call` the last call that was sent."""

    call: Call
    error: GatepassError | None
    learning: LearningSession
    calls: int = 1

    @property
    def message(self) -> str | None:
        return None if self.error is None else self.error.message

    @property
    def logged(self) -> list[tuple[str, str]]:
        return [(news.event, news.adapted) for news in self.learning.events]


def ask(
    memory: Memory,
    upstream: Answering,
    call: Call,
    now_s: float = 0.0,
    *,
    owner: str = "a",
    mode: Mode = "on",
    policy: LearningPolicy | None = None,
) -> Outcome:
    """Send `call` of the caller `owner` as the request path does, until the upstream accepts it or no try is left."""
    scope = RuleScope(owner, "chat", "m", call.operation.name)
    learning = LearningSession(memory, scope, call.operation.members, mode, policy or LearningPolicy())
    return converse(learning, upstream, call, now_s)


def converse(learning: LearningSession, upstream: Answering, call: Call, now_s: float) -> Outcome:
    calls = 0
    while True:
        planned = plan(learning, call, now_s)
        refusal, calls = upstream.answer(planned), calls + 1
        if refusal is None:
            learning.succeeded(now_s)
            learning.left(now_s)
            learning.memory.note_served(learning.scope, now_s, is_stream=planned.stream)
            return Outcome(planned, None, learning, calls)
        error = refused(refusal)
        if not learn_from(learning, error, now_s, calls):
            shown = learning.failed(error, now_s)
            learning.left(now_s)
            return Outcome(planned, shown, learning, calls)


def plan(learning: LearningSession, call: Call, now_s: float) -> Call:
    if learning.sent is None:
        learning.recall(now_s)
    return learning.revise(call)


def learn_from(
    learning: LearningSession, error: UpstreamError, now_s: float, calls: int = 1, tried_s: float = 0.0
) -> bool:
    """Learn from the refusal of the last request that was planned, within the limits of `decide`."""
    tried = Tried(sent=True, learns=True, calls=calls, tried_s=tried_s)
    verdict = decide(retry.Outcome.ERROR_REPLY, error.http_status, None, tried, retry.Allowed(), math.inf)
    return verdict is Repeat.LEARNED_RULE and learning.prepare_retry(error, now_s, found(learning, error))


def found(learning: LearningSession, error: UpstreamError) -> list[Step]:
    refusal = learning.read(error)
    return [] if refusal is None or learning.sent is None else steps(refusal, learning.sent)
