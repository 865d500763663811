"""The client receives the upstream's bytes at once, and a broken reply never looks complete."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import HELLO, Answer, answer_from, relaying
from tests.integration.scripted import Fin, Hold, Rst, Send, begin_stream, chunk, cut, event, reply, stream

STREAMED = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}


CONTENT = ["Grüße, 世界 😀", 'quotes " and \\ and\n\ndata: [DONE]\n\n', " last"]
TALK = [
    delta(role="assistant", content=""),
    *(delta(content=text) for text in CONTENT),
    delta(tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
    delta("tool_calls"),
    event({"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}}),
    DONE,
]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 4_096])
async def test_a_stream_in_tcp_pieces_of_any_size_has_the_same_hash(piece_bytes):
    events = TALK if piece_bytes < 64 else [*TALK[:-3], *[delta(content="x" * 3_000)] * 60, *TALK[-3:]]
    sent = stream(*events)
    answer = await answer_from([Send(sent, piece_bytes)], STREAMED)
    assert (answer.status, answer.whole) == (200, True)
    assert sha256(answer.body) == sha256(b"".join(events))


async def test_a_plain_reply_has_the_same_hash_and_unknown_fields():
    body = json.dumps({**COMPLETION, "x_unknown": list(range(20_000))}, indent=3).encode()
    answer = await answer_from([Send(reply(body), 1_460)])
    assert sha256(answer.body) == sha256(body)


def looks_finished(answer: Answer) -> bool:
    """Return whether a client would read this as a complete answer."""
    if answer.status != 200:
        return False
    if answer.headers["content-type"].startswith("text/event-stream"):
        return answer.whole and b'"error"' not in answer.body
    return answer.whole


async def deaths(whole_reply: bytes, places: list[int], body: Mapping[str, Any], end: Fin | Rst) -> dict[str, int]:
    """Cut the upstream's reply at each of `places`; return the number of each outcome."""
    script = iter(places)
    counts = {"finished": 0, "error": 0, "silent": 0}
    async with relaying(answer=lambda _: cut(whole_reply, next(script), end), chat={"repeat_stale": False}) as (_, gp):
        for _ in places:
            answer = await gp.ask(body).answer()
            assert answer.whole, "the client's side is never cut: it gets an error it can read"
            counts["finished" if looks_finished(answer) else "error" if answer.error["code"] else "silent"] += 1
    return counts


TALKED = stream(*TALK)
WHOLE_AT = TALKED.index(DONE) + len(DONE)


@pytest.mark.parametrize(("end", "step"), [(Fin(), 11), (Rst(), 13)])
async def test_a_stream_cut_after_any_byte_never_looks_finished(end, step):
    """Cut at some bytes here, and at each one in tests/unit/sse/test_event_stream_end.py."""
    places = [*range(0, WHOLE_AT, step), *range(WHOLE_AT - len(DONE), WHOLE_AT)]
    counts = await deaths(TALKED[:WHOLE_AT], places, STREAMED, end)
    assert counts == {"finished": 0, "error": len(places), "silent": 0}


@pytest.mark.parametrize(("end", "step"), [(Fin(), 5), (Rst(), 7)])
async def test_a_plain_reply_cut_after_any_byte_never_looks_finished(end, step):
    sent = reply(COMPLETION)
    places = [*range(0, len(sent), step), len(sent) - 1]
    counts = await deaths(sent, places, HELLO, end)
    assert counts == {"finished": 0, "error": len(places), "silent": 0}


async def test_stream_ends_at_done_although_the_body_stays_open():
    """The client's response ends with `[DONE]`; the connection gets a second to end too, then it is closed."""
    dialogue = [*begin_stream(), *(Send(chunk(one)) for one in TALK), Hold()]
    async with relaying(dialogue) as (upstream, gp):
        answer = await gp.ask(STREAMED).answer()
        assert (answer.body, upstream.open) == (b"".join(TALK), 1)
        await upstream.left()
