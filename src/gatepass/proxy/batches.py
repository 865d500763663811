"""An embeddings call as the upstream can take it: in several requests where its batches are small, one reply back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from gatepass.errors import GatepassError
from gatepass.normalize.embeddings_reply import PARALLEL, SLICE_BYTES, answered, next_step
from gatepass.normalize.embeddings_request import counts_of, split
from gatepass.proxy.context import Attempt
from gatepass.proxy.large_body import reread, run_off_loop
from gatepass.proxy.response import BufferedReply, ClassifiedReply
from gatepass.types import Call

Ask = Callable[[Attempt, Call], Awaitable[ClassifiedReply]]


async def send_embeddings(attempt: Attempt, adapted: Call, ask: Ask) -> BufferedReply:
    """The vectors that the client's own call asked for: all of them or an error.

    `adapted` goes out in as many requests as it has to, PARALLEL at a time; the first that fails ends the
    others, and its error is raised.
    """
    parts: Sequence[Call] = (adapted,)
    if adapted.max_inputs is not None:
        adapted = await reread(adapted)
        parts = await run_off_loop(adapted.body, partial(split, adapted))
    answers = [await ask(attempt, parts[0])] if len(parts) == 1 else await _all(attempt, parts, ask)
    replies = [each for each in answers if isinstance(each, BufferedReply)]
    if len(replies) != len(answers):
        raise TypeError("only chats are streamed")
    if len(replies) == 1 and replies[0].is_validated:
        return replies[0]
    options = attempt.call.embeddings_options()
    steps = answered([reply.body for reply in replies], counts_of(parts, options), options, attempt.upstream.name)
    is_large = sum(len(reply.body) for reply in replies) > SLICE_BYTES
    while (made := next_step(steps)) is None:
        if is_large:
            await asyncio.sleep(0)
    body, put_right = made
    done = dict.fromkeys((*(name for reply in replies for name in reply.adapted), *put_right))
    return BufferedReply(replies[0].status, replies[0].headers, body, tuple(done))


async def _all(attempt: Attempt, parts: Sequence[Call], ask: Ask) -> list[ClassifiedReply]:
    """The replies in the order of `parts`, each of which is made when its turn has come."""
    answers: dict[int, ClassifiedReply] = {}
    turns = iter(range(len(parts)))
    attempt.upstream_request_id = None  # of a try before: here begin those of the parts

    async def worked() -> None:
        for at in turns:
            part, failed = attempt.begin_part(), False
            try:
                answers[at] = await ask(part, parts[at])
            except GatepassError:
                failed = True
                raise
            finally:
                attempt.take_back(part, failed=failed)

    tasks = [asyncio.create_task(worked(), name="embeddings parts") for _ in range(min(PARALLEL, len(parts)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return [answers[at] for at in range(len(parts))]
