"""Translated streams through the validation of a chat: wherever the bytes are cut, the client gets the same events."""

from typing import Any

import pytest

from gatepass.config.access import PLAIN
from gatepass.json_body import json_value
from gatepass.protocols.chat import CHAT
from gatepass.protocols.client_protocol import ReplyContext
from gatepass.protocols.translation import answer_blocks
from gatepass.protocols.translation.answer_blocks import AnswerBlocks
from gatepass.protocols.translation.chat_request import About, Tool
from gatepass.protocols.translation.message_translation import MessageAnswer
from gatepass.protocols.translation.response_translation import ResponseAnswer
from gatepass.protocols.translation.translation import ChatCall, TranslatedReply
from gatepass.replies.error_body import read_error_body
from gatepass.sse.chunk import StreamSource
from gatepass.types import Call
from tests.rows import CHAT as CHAT_ROW
from tests.unit.protocols.test_translated_answers import DONE, a_chunk, call_piece, defaults, events_of
from tests.unit.sse.streams import with_line_ends

STREAM = b"".join(
    (
        a_chunk({"role": "assistant", "content": ""}),
        a_chunk({"reasoning_content": "Hm 🚀"}),
        a_chunk({"content": "Größe\n\n"}),
        call_piece(0, '{"a":', first=True),
        call_piece(1, '{"input":', first=True),
        call_piece(0, ' "é"}', first=False),
        call_piece(1, '"p"}', first=False),
        a_chunk({}, "tool_calls"),
        DONE,
    )
)
ABOUT = About({"tool_1": Tool("patch", is_custom=True)})
each_answer = pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])


def translated(answer: type[AnswerBlocks], *pieces: bytes) -> tuple[bytes, Any]:
    """What the client gets of the pieces of an upstream's body, and how the stream ended."""
    call = Call("id", CHAT_ROW, "caller", "m", b"{}", (), stream=True)
    last = TranslatedReply(ChatCall(call, answer, ABOUT), defaults(), "up")
    reply = ReplyContext(call, call, PLAIN, last, "up", "openai", None, is_cumulative=False)
    events = CHAT.event_stream(StreamSource("up", 65_536, read_error_body), defaults(), reply)
    sent = b"".join([*map(events.feed, pieces), events.finish()])
    return sent, (events.done, None if events.failure is None else events.failure.code)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@each_answer
def test_a_stream_that_is_cut_at_any_byte_is_the_same(answer, end):
    whole = with_line_ends(STREAM, end)
    expected = translated(answer, whole)
    assert expected[1] == (True, None)
    for at in range(len(whole) + 1):
        assert translated(answer, whole[:at], whole[at:]) == expected, f"cut at byte {at}: {whole[:at][-40:]!r}"
    assert translated(answer, *(whole[at : at + 1] for at in range(len(whole)))) == expected


@each_answer
def test_a_text_or_call_is_read_only_where_it_begins_and_ends(answer, monkeypatch):
    read = list[bytes]()

    def noted(text: bytes) -> Any:
        read.append(text)
        return json_value(text)

    monkeypatch.setattr(answer_blocks, "json_value", noted)
    words = [*map(str, range(99)), "größer 🚀 \n"]
    pieces = ['{"a": "', *words, '\\"x\\\\"}']
    blocks = [a_chunk({"content": word}) for word in words]
    blocks += [call_piece(0, piece, first=False) for piece in pieces]
    blocks.insert(len(words), call_piece(0, "", first=True))
    sent, ended = translated(answer, *blocks, a_chunk({}, "tool_calls"), DONE)
    assert (ended, len(read)) == ((True, None), 6)
    deltas = [one["delta"] for one in events_of(sent) if "delta" in one and "stop_reason" not in one["delta"]]
    texts = [one if isinstance(one, str) else one.get("text", one.get("partial_json")) for one in deltas]
    assert texts == [*words, *pieces]


def test_two_first_halves_of_a_pair_keep_their_place():
    words = ["a", "\ud83d", "\ud83d", 'say "x"', "b"]
    blocks = [a_chunk({"content": word}) for word in words]
    sent, ended = translated(MessageAnswer, *blocks, a_chunk({}, "stop"), DONE)
    texts = [one["delta"]["text"] for one in events_of(sent) if "text" in one.get("delta", {})]
    assert ("".join(texts), ended) == ("".join(words), (True, None))


@each_answer
def test_a_stream_that_ends_at_any_byte_is_no_whole_answer(answer):
    """Without `[DONE]` it is complete after its finish reason."""
    whole = STREAM.removesuffix(DONE).rstrip()
    for at in range(len(whole)):
        sent, (done, failure) = translated(answer, whole[:at])
        assert (done, failure in ("upstream_closed", "upstream_empty")) == (False, True), f"ended at byte {at}"
        assert b"message_stop" not in sent
        assert b"response.completed" not in sent
