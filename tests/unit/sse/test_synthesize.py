import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.event import read_json
from gatepass.sse.repair import synthesize_stream
from gatepass.sse.synthesize import PIECE_CHARS, chunks, read_document
from gatepass.sse.whole_reply import read_good
from tests.unit.sse.documents import completions, meaning, origin
from tests.unit.sse.peer import helper_reads
from tests.unit.sse.repair_streams import USAGE
from tests.unit.sse.streams import DONE

HEAD = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 7, "model": "m"}


def document(message: Any = None, reason: Any = "stop", choice: Any = None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi", **(message or {})}
    first = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason, **(choice or {})}
    return {**HEAD, "object": "chat.completion", "choices": [first], "usage": USAGE, **more}


def piece(delta: Any, reason: Any = None, *, index: int = 0, logprobs: Any = None, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **more}


def pieces(payload: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The choices of the chunks, one in each."""
    made = list(chunks(payload, False, origin(), **more))
    assert all(len(chunk["choices"]) == 1 for chunk in made)
    return [chunk["choices"][0] for chunk in made]


ROLE = piece({"role": "assistant", "content": ""})
ROLE_ALONE = piece({"role": "assistant", "content": None})
END = piece({}, "stop")


MESSAGES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "an empty text": ({"content": ""}, [ROLE]),
    "no text": ({"content": None}, [ROLE]),
    "parts": ({"content": [{"type": "text"}]}, [ROLE, piece({"content": [{"type": "text"}]})]),
}


@pytest.mark.parametrize(("message", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_becomes_deltas(message, expected):
    assert pieces(document(message)) == [*expected, END]


def test_odd_choices_become_a_stream():
    for choice in ({}, {"message": None}, {"message": "text"}):
        assert pieces({**HEAD, "choices": [choice]}) == [ROLE, END]
    said = {"content": "Hi"}
    for messages in ({"delta": said}, {"message": None, "delta": said}, {"message": said, "delta": {"content": "No"}}):
        assert pieces({**HEAD, "choices": [messages]}) == [ROLE, piece({"content": "Hi"}), END]
    for choices in (None, [], "x", [None, 3]):
        assert list(synthesize_stream({**HEAD, "choices": choices}, False, origin())) == [DONE]


def test_logprobs_go_with_the_whole_text_that_they_are_of():
    tokens, refused = [{"token": "Hi", "logprob": -0.1}], [{"token": "No", "logprob": -0.2}]
    logprobs = {"content": tokens, "refusal": refused}
    assert pieces(document({"content": "Hi there", "refusal": "No"}, choice={"logprobs": logprobs}), piece_chars=2) == [
        ROLE,
        piece({"content": "Hi there"}, logprobs={"content": tokens, "refusal": None}),
        piece({"refusal": "No"}, logprobs={"content": None, "refusal": refused}),
        END,
    ]
    empty = document({"content": ""}, choice={"logprobs": {"content": [{"token": ""}]}})
    assert pieces(empty)[1] == piece({}, logprobs={"content": [{"token": ""}], "refusal": None})


CALLS: list[Any] = [
    {"id": "b", "type": "custom", "custom": {"name": "run", "input": "ls"}, "index": 7},
    {"id": "c", "type": "function", "function": {"name": "stop", "arguments": ""}},
    {"id": "d", "type": "mcp", "mcp": {}},
    "no call",
]


def test_each_tool_call_has_an_opener_with_its_id_and_name_and_then_arguments():
    made = pieces(document({"content": None, "tool_calls": CALLS}, "tool_calls"))
    first, second, third, _ = CALLS
    assert made == [
        ROLE_ALONE,
        piece({"tool_calls": [{**first, "index": 0, "custom": {"name": "run", "input": ""}}]}),
        piece({"tool_calls": [{"index": 0, "custom": {"input": "ls"}}]}),
        piece({"tool_calls": [{**second, "index": 1}]}),
        piece({"tool_calls": [{**third, "index": 2}]}),
        piece({}, "tool_calls"),
    ]


def test_long_texts_are_cut_between_characters_and_short_ones_are_not():
    made = pieces(document({"content": "größer 東京 🚀!", "reasoning": "abc"}), piece_chars=4)
    assert [one["delta"].get("content") for one in made] == ["", None, "größ", "er 東", "京 🚀!", None]
    [whole] = [one for one in pieces(document({"content": "x" * PIECE_CHARS})) if one["delta"].get("content")]
    assert len(whole["delta"]["content"]) == PIECE_CHARS


def test_no_line_is_longer_than_a_mebibyte_whatever_the_text():
    payload = document(
        {"content": "\0" * 600_000, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "🚀" * 600_000}}]}
    )
    assert max(len(event) for event in synthesize_stream(payload, True, origin())) < 1 << 20


def test_choices_come_in_ascending_order_and_all_of_them_before_any_ends():
    first, second = document()["choices"][0], document({"content": "Ho"})["choices"][0] | {"index": 1}
    made = pieces(document() | {"choices": [second, first]})
    assert [(one["index"], one["delta"].get("content"), one["finish_reason"]) for one in made] == [
        (0, "", None),
        (0, "Hi", None),
        (1, "", None),
        (1, "Ho", None),
        (0, None, "stop"),
        (1, None, "stop"),
    ]


@pytest.mark.parametrize("indices", [(None, None), (0, 0), (True, 1), (-1, 0), ("0", "1")])
def test_choices_without_indices_of_their_own_get_their_places(indices):
    choices = [document()["choices"][0] | {"index": index} for index in indices]
    assert {one["index"] for one in pieces(document() | {"choices": choices})} == {0, 1}


# --- /v1/completions ------------------------------------------------------------------------------


def legacy(index: int, text: str, reason: str | None = None, logprobs: Any = None, **more: Any) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason, **more}


def test_legacy_completion_is_streamed_as_text():
    payload = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m", "usage": USAGE}
    payload["choices"] = [legacy(0, "abc", "length", stop_reason="x"), legacy(1, "", None)]
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m"}
    assert list(chunks(payload, True, origin(), 2)) == [
        {**head, "choices": [legacy(0, "ab")], "usage": None},
        {**head, "choices": [legacy(0, "c")], "usage": None},
        {**head, "choices": [legacy(0, "", "length", stop_reason="x")], "usage": None},
        {**head, "choices": [legacy(1, "", "stop")], "usage": None},
        {**head, "choices": [], "usage": USAGE},
    ]


def test_legacy_text_with_logprobs_stays_whole():
    payload = {"choices": [legacy(0, "abc", "stop", {"tokens": ["abc"]})]}
    assert pieces(payload, piece_chars=1) == [legacy(0, "abc", None, {"tokens": ["abc"]}), legacy(0, "", "stop")]
    assert next(chunks(payload, False, origin()))["id"] == "cmpl-000000000000000000000001"


# --- chat, as openai-python's helper reads it -----------------------------------------------------


@given(completions(clean=True), st.integers(1, 9) | st.just(PIECE_CHARS))
def test_helper_of_the_sdk_reads_every_stream_as_the_document(payload, piece_chars):
    assert meaning(
        helper_reads(b"".join(synthesize_stream(payload, True, origin(), piece_chars=piece_chars)))
    ) == meaning(payload)


LONG = {
    "words": "word " * 2000,
    "lines of code": 'print("a\\b")\n\t' * 1000,
    "Chinese": "\u4e2d\u6587 " * 2000,
    "signs written in another way": "</a>\x00" * 2000,
    "numbers": "1e100, " * 2000,
    "half a pair": "\ud83d" + "word " * 2000,
    "more than a piece": "x" * (PIECE_CHARS + 1),
    "short": "word",
    "none": "",
}
ASIDE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "the same text before it": {"content": LONG["words"]},
    "the same text in an object": {"meta": {"content": LONG["words"]}},
    "a number": {"meta": 10**30},
}


@pytest.mark.parametrize("aside", ASIDE.values(), ids=ASIDE)
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
@pytest.mark.parametrize("written", [{}, {"indent": 2}, {"ensure_ascii": False}], ids=str)
@pytest.mark.parametrize("sent", ['"', '"\\/', '"twice", "content": "'])
def test_a_text_that_is_not_read_again_makes_the_same_stream(text, aside, written, sent):
    body = json.dumps({**aside, **document({"content": text})}, **written).encode(errors="surrogatepass")
    body = body.replace(b'"content": "', b'"content": ' + sent.encode(), 1)
    good = read_good(body)
    told = msgspec.Raw(b'"other"') if good is None else good.text
    try:
        document_read = read_json(body)
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            read_document(body, told)
        return
    expected = [*synthesize_stream(document_read, True, origin())]
    assert [*synthesize_stream(read_document(body, told), True, origin())] == expected


@pytest.mark.parametrize("name", ["words", "lines of code", "Chinese", "numbers"])
def test_a_long_text_is_not_built(name):
    body = json.dumps(document({"content": LONG[name]}), ensure_ascii=False).encode()
    good = read_good(body)
    assert good is not None
    message = read_document(body, good.text)["choices"][0]["message"]
    assert message["content"] is good.text
    assert read_json(bytes(good.text)) == LONG[name]
