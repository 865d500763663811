"""A question to a reranker: asked in the upstream's shape, answered in the client's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from gatepass.adapt.rerank.answer import Unfit, answer
from gatepass.adapt.rerank.question import Asked
from gatepass.call import Call
from gatepass.errors import UpstreamInvalid
from gatepass.verdict import Answer, Whole


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
