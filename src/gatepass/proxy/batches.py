"""Send one embeddings call as several requests if the upstream limits the batch size, and join the replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from gatepass.config.advice import Advice
from gatepass.errors import GatepassError, InvalidRequest
from gatepass.normalize.embeddings_reply import PARALLEL, SLICE_BYTES, join_replies, next_step
from gatepass.normalize.embeddings_request import Parts, counts_of, split
from gatepass.proxy.context import Attempt
from gatepass.proxy.response import BufferedReply, ClassifiedReply
from gatepass.sse.usage import sum_of
from gatepass.types import Call, counted

MOST_REQUESTS = 2_048
"""The most requests of one call: OpenAI's API accepts as many inputs, so each of its calls can be sent one by one."""
TOO_MANY = Advice("too_many_parts")

SendOnce = Callable[[Attempt, Call], Awaitable[ClassifiedReply]]
SendPart = Callable[[Attempt, int, Call], Awaitable[ClassifiedReply]]
"""Sends the part at this place of a split call, and adds its attempts to `Attempt.parts`."""


async def send_parts(attempt: Attempt, normalized: Call, send_once: SendOnce, send_part: SendPart) -> BufferedReply:
    """Return all the vectors of the client's call.

    `normalized` is split by its `max_inputs`, and PARALLEL requests are sent at a time. The first error cancels the
    other requests and is raised. Raises InvalidRequest above MOST_REQUESTS.
    """
    parts: Parts | tuple[Call] = (normalized,)
    if normalized.max_inputs is not None:
        threads = attempt.state.body_threads
        parts = await threads.run(attempt.call.caller, normalized.body, partial(split, normalized))
    if isinstance(parts, Parts) and len(parts) > MOST_REQUESTS:
        raise InvalidRequest(
            f"The upstream {attempt.upstream.name!r} accepts {counted(parts.limit, 'input')} at a time, so the"
            f" {parts.total} inputs of this call need {len(parts)} requests. gatepass sends at most {MOST_REQUESTS}"
            f" requests for one call, with {MOST_REQUESTS * parts.limit} inputs.",
            param="input",
            advice=str(TOO_MANY),
            case=TOO_MANY.case,
        )
    if len(parts) > 1 and attempt.failover is not None and attempt.failover.admitted is not None:
        await attempt.failover.admitted.take_parts(attempt.upstream.name, len(parts), attempt.state.clock.now())
    classified = [await send_once(attempt, parts[0])] if len(parts) == 1 else await _send_all(attempt, parts, send_part)
    replies = [reply for reply in classified if isinstance(reply, BufferedReply)]
    if len(replies) != len(classified):
        raise TypeError("only chats are streamed")
    if len(replies) == 1 and replies[0].is_validated:
        return replies[0]
    options = attempt.call.embeddings_options()
    bodies, limit_bytes = [reply.body for reply in replies], attempt.state.limits.reply_bytes
    steps = join_replies(bodies, counts_of(parts, options), options, attempt.upstream.name, limit_bytes)
    is_large = sum(len(reply.body) for reply in replies) > SLICE_BYTES
    while (merged := next_step(steps)) is None:
        if is_large:
            await asyncio.sleep(0)
    pieces, repairs = merged
    adapted_names = dict.fromkeys((*(name for reply in replies for name in reply.adapted), *repairs))
    # in a thread, because 64 MiB take 50 ms
    body = pieces[0] if len(pieces) == 1 else await asyncio.to_thread(b"".join, pieces)
    return BufferedReply(
        replies[0].status, replies[0].headers, body, tuple(adapted_names), usage=sum_of([one.usage for one in replies])
    )


async def _send_all(attempt: Attempt, parts: Parts | tuple[Call], send_part: SendPart) -> list[ClassifiedReply]:
    """Return the replies in the order of `parts`."""
    replies: dict[int, ClassifiedReply] = {}
    indexes = iter(range(len(parts)))  # shared: each worker takes the next part, and `split` builds it only then
    attempt.waits_since_s = attempt.state.clock.now()
    failed: list[int] = []

    async def work() -> None:
        for at in indexes:
            try:
                replies[at] = await send_part(attempt, at, parts[at])
            except GatepassError:
                failed.append(at)
                raise

    tasks = [asyncio.create_task(work(), name="embeddings parts") for _ in range(min(PARALLEL, len(parts)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # `gather` does not: a cancelled worker still ends its request
        attempt.join_parts(failed[0] if failed else None)
        attempt.add_upstream_wait()
    return [replies[at] for at in range(len(parts))]
