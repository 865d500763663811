"""A question to a reranker: asked in the upstream's shape, answered in the client's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from gatepass.adapt.changes.change import Revision
from gatepass.adapt.profile import Prepared
from gatepass.adapt.rerank.answer import Unfit, answer
from gatepass.adapt.rerank.question import Asked
from gatepass.adapt.rerank.shape import Shaped
from gatepass.adapt.rule import Rule
from gatepass.call import Call, Surface, Target
from gatepass.errors import UpstreamInvalid
from gatepass.gate import Gate, Hop
from gatepass.verdict import Answer, Whole


def rules_at(gate: Gate, hop: Hop, call: Call, target: Target, profile: Prepared) -> tuple[Rule, ...]:
    """The rules that `call` goes through at `hop` before any lesson: those of its caller's profile, of a reranker's
    shape, then the gate's. A call without a body goes as it is."""
    if not call.body:
        return ()
    rules, own = gate.rules_for(call), profile.rules[hop.settings.dialect]
    if call.operation.surface is Surface.RERANK:
        rules = (Revision("rerank", (Shaped(hop.settings.rerank_shape, call.model or target.model),)), *rules)
    return (*own, *rules) if own else rules


async def ranked(wanted: Call, upstream: str, ask: Callable[[], Awaitable[Answer]]) -> Whole:
    """The ranking that `wanted`, the client's own call, asked for, that `ask` has of `upstream`.

    Raises UpstreamInvalid for a reply that ranks nothing: clients take what they cannot read for zeros.
    """
    asked = Asked.of(wanted.body)
    held = await ask()
    if not isinstance(held, Whole):
        raise TypeError("only chats are streamed")
    body = answer(held.body, asked)
    if isinstance(body, Unfit):
        raise UpstreamInvalid(f"The upstream's answer is no ranking: {body.reason}.", upstream=upstream)
    return held if body is held.body else replace(held, body=body)
