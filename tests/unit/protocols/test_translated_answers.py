"""Blocks of a translated answer: whole, one after the other, in a legal order, whatever order the chat has."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import UpstreamEmpty, UpstreamInvalid
from gatepass.protocols.message_events import MessageAggregator
from gatepass.protocols.responses import ResponseAggregator
from gatepass.protocols.translation import answer_blocks
from gatepass.protocols.translation.answer_blocks import AnswerBlocks, Early
from gatepass.protocols.translation.chat_request import About, Tool
from gatepass.protocols.translation.message_translation import MessageAnswer, chat_of_message
from gatepass.protocols.translation.response_translation import ResponseAnswer
from gatepass.sse.choice_repair import FAILED
from gatepass.sse.chunk import EnvelopeDefaults, StreamSource, encode_event
from gatepass.sse.event_stream import EventStream
from tests.memory import traced_memory
from tests.unit.protocols.json_texts import chat_of
from tests.unit.sse.peer import response_helper_reads, strict_events

DONE = b"data: [DONE]\n\n"
ARGUMENTS = ('{"a": 1}', '{"b": "{\\"x\\": [1]}"}', "{}", '{"c": [1, 2, {"d": "é"}]}')


def defaults() -> EnvelopeDefaults:
    numbers = count()
    return EnvelopeDefaults(lambda prefix: f"{prefix}{next(numbers)}", 7, "m")


def a_chunk(delta: Any, end: str | None = None) -> bytes:
    return encode_event({"model": "up", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]})


def call_piece(index: int, text: str, *, first: bool) -> bytes:
    head = {"id": f"call_{index}", "type": "function"} if first else {}
    name = {"name": f"tool_{index}"} if first else {}
    return a_chunk({"tool_calls": [{"index": index, **head, "function": {**name, "arguments": text}}]})


@st.composite
def mixed_streams(draw: st.DrawFn) -> tuple[list[bytes], str, str, dict[int, str]]:
    """Chunks in which texts, thoughts and the pieces of up to four calls are mixed, and what they say together."""
    pieces: dict[int, list[str]] = {}
    for index in range(draw(st.integers(0, 4))):
        text = draw(st.sampled_from(ARGUMENTS))
        cuts = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=3)))
        pieces[index] = [text[at:to] for at, to in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = {index: "".join(parts) for index, parts in pieces.items()}
    texts = draw(st.lists(st.sampled_from(("Hi", " you", "é\n")), max_size=4))
    thoughts = draw(st.lists(st.sampled_from(("Hm", "…")), max_size=3))
    # each piece of a call comes after the one before, and a call begins after those with lower indices
    order = draw(st.permutations(["text"] * len(texts) + ["thought"] * len(thoughts)))
    places = draw(st.permutations([index for index, parts in pieces.items() for _ in parts]))
    own: list[tuple[str, int]] = [(kind, -1) for kind in order]
    mixed = draw(st.permutations([*own, *(("call", index) for index in places)]))
    chunks, begun, left_texts, left_thoughts = [], set[int](), [*texts], [*thoughts]
    for kind, index in mixed:
        if kind == "call":
            chunks.append(call_piece(index, pieces[index].pop(0), first=index not in begun))
            begun.add(index)
        elif kind == "text":
            chunks.append(a_chunk({"content": left_texts.pop(0)}))
        else:
            chunks.append(a_chunk({"reasoning_content": left_thoughts.pop(0)}))
    return chunks, "".join(texts), "".join(thoughts), expected


def events_of(sent: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(b"data: ")) for line in sent.splitlines() if line.startswith(b"data: ")]


SOURCE = StreamSource("up", 1_000_000, lambda _: None)


@given(mixed_streams())
def test_a_message_has_whole_blocks_one_after_the_other(mixed):
    chunks, text, thought, calls = mixed
    answer = MessageAnswer(defaults(), "up", About())
    end = a_chunk({}, "tool_calls" if calls else "stop")
    if not (text or calls):
        with pytest.raises(UpstreamEmpty):
            answer.feed(b"".join((*chunks, end, DONE)))
        return
    sent = b"".join(map(answer.feed, (*chunks, end, DONE)))
    open_block, places = None, []
    for event in events_of(sent):
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                open_block = event["index"]
                places.append(open_block)
            case "content_block_delta":
                assert event["index"] == open_block
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
    assert places == [*range(len(places))]
    # the aggregator of relayed messages reads them too
    aggregator = MessageAggregator(SOURCE, 1_000_000)
    aggregator.feed(sent)
    message = json.loads(aggregator.finish())
    assert "".join(one["text"] for one in message["content"] if one["type"] == "text") == text
    thoughts = [one for one in message["content"] if one["type"] == "thinking"]
    assert "".join(one["thinking"] for one in thoughts) == thought
    assert {one["signature"] for one in thoughts} <= {"gatepass_thought"}
    made = {one["id"]: one["input"] for one in message["content"] if one["type"] == "tool_use"}
    assert made == {f"call_{index}": json.loads(one) for index, one in calls.items()}
    assert message["stop_reason"] == ("tool_use" if calls else "end_turn")


@given(mixed_streams())
def test_a_response_has_whole_items_and_repeats_them(mixed):
    chunks, text, thought, calls = mixed
    answer = ResponseAnswer(defaults(), "up", About({"tool_1": Tool("patch", is_custom=True)}))
    end = a_chunk({}, "tool_calls" if calls else "stop")
    if not (text or calls):
        return
    sent = b"".join(map(answer.feed, (*chunks, end, DONE)))
    events = events_of(sent)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert added == [event["output_index"] for event in done] == [*range(len(added))]
    response = events[-1]["response"]
    assert {event["response"]["id"] for event in events if "response" in event} == {response["id"]}
    assert response["output"] == [event["item"] for event in done]
    aggregator = ResponseAggregator(SOURCE, 1_000_000)
    aggregator.feed(sent)
    assert json.loads(aggregator.finish()) == response
    of_kind = {kind: [one for one in response["output"] if one["type"] == kind] for kind in ("message", "reasoning")}
    assert "".join(one["content"][0]["text"] for one in of_kind["message"]) == text
    assert "".join(one["summary"][0]["text"] for one in of_kind["reasoning"]) == thought
    made = {one["call_id"]: one.get("arguments", one.get("input")) for one in response["output"] if "call_id" in one}
    assert made == {f"call_{index}": one for index, one in calls.items()}


REFUSED = [a_chunk({"content": "Hm."}), a_chunk({"refusal": "I "}), a_chunk({"refusal": "won't."}, "stop")]
IN_ONE = [
    a_chunk({"reasoning": "Hm."}),
    a_chunk({"content": "Hi"}),
    call_piece(0, '{"a": 1}', first=True),
    call_piece(1, '{"input": "p"}', first=True),
    call_piece(2, '{"query": "q"}', first=True),
    a_chunk({}, "tool_calls"),
]


@pytest.mark.parametrize(
    "chunks",
    [IN_ONE, REFUSED, [a_chunk({"content": "Hi"}, "length")], [*IN_ONE[:-1], a_chunk({}, "content_filter")]],
    ids=["of each kind", "a refusal", "cut in a text", "cut in a call"],
)
def test_the_types_of_openai_accept_each_event_and_assemble_the_response(chunks):
    tools = {"tool_0": Tool("look", "maps"), "tool_1": Tool("patch", is_custom=True)}
    tools["tool_2"] = Tool("tool_search", is_search=True)
    answer = ResponseAnswer(defaults(), "up", About(tools))
    sent = b"".join(map(answer.feed, (*chunks, DONE)))
    *_, last = strict_events(sent)
    expected = events_of(sent)[-1]["response"]
    assert last.response.to_dict() == expected
    if last.type == "response.completed":
        assert [item.type for item in response_helper_reads(sent).output] == [one["type"] for one in expected["output"]]


def test_what_comes_behind_a_call_waits_until_the_answer_ends():
    answer = MessageAnswer(defaults(), "up", About())
    assert b"tool_0" in answer.feed(call_piece(0, '{"a"', first=True))
    assert answer.feed(a_chunk({"content": "later"}) + call_piece(1, "{}", first=True)) == b""
    assert b"tool_1" not in answer.feed(call_piece(0, ": 1}", first=False))
    sent = events_of(answer.feed(a_chunk({"content": "!"}, "tool_calls") + DONE))
    begun = [event["content_block"] for event in sent if event["type"] == "content_block_start"]
    assert [one.get("name") for one in begun] == [None, "tool_1", None]
    assert [event["delta"].get("text") for event in sent if event["type"] == "content_block_delta"] == [
        "later",
        None,
        "!",
    ]


@pytest.mark.parametrize("index", [0, 1], ids=["sent", "waits"])
def test_what_is_kept_takes_few_bytes_for_a_character(index):
    """In a list each token of two characters would take 100 bytes."""
    answer = ResponseAnswer(defaults(), "up", About())
    answer.feed(call_piece(0, "", first=True) + call_piece(index, "", first=True))
    piece = call_piece(index, "令牌", first=False)
    with traced_memory() as memory:
        for _ in range(20_000):
            answer.feed(piece)
    assert memory.kept_bytes < 8 * 40_000


def test_a_thought_ends_with_its_signature():
    answer = MessageAnswer(defaults(), "up", About())
    sent = b"".join(map(answer.feed, (a_chunk({"reasoning": "Hm."}), a_chunk({"content": "Hi"}))))
    _, begun, thought, signed, ended, *_ = events_of(sent)
    assert begun["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert thought["delta"] == {"type": "thinking_delta", "thinking": "Hm."}
    assert signed["delta"] == {"type": "signature_delta", "signature": "gatepass_thought"}
    assert ended["type"] == "content_block_stop"


def test_blocks_and_kept_texts_are_bounded(monkeypatch):
    monkeypatch.setattr(answer_blocks, "MOST_BLOCKS", 3)
    monkeypatch.setattr(answer_blocks, "MOST_KEPT_BYTES", 50)
    answer = ResponseAnswer(defaults(), "up", About())
    for index in range(3):
        answer.feed(call_piece(index, "{}", first=True))
    with pytest.raises(UpstreamInvalid, match="more than 3 parts"):
        answer.feed(call_piece(3, "{}", first=True))
    answer = ResponseAnswer(defaults(), "up", About())
    answer.feed(a_chunk({"content": "x" * 50}))
    with pytest.raises(UpstreamInvalid, match="more than"):
        answer.feed(a_chunk({"content": "x"}))
    message = MessageAnswer(defaults(), "up", About())  # it keeps no texts
    assert b"x" * 60 in message.feed(a_chunk({"content": "x" * 60}))


def a_completion(message: Any, end: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": end}], **more}


def whole(answer: type[AnswerBlocks], completion: Any, about: About | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        answer(defaults(), "up", about or About(), keeps_texts=True).whole(completion)
    )
    return document


CUT_CALL = {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{cut"}}]}


@pytest.mark.parametrize(
    ("end", "stop_reason", "details"),
    [("length", "max_tokens", "max_output_tokens"), ("content_filter", "refusal", "content_filter")],
)
def test_an_answer_that_was_cut_says_so(end, stop_reason, details):
    completion = a_completion({"content": "Hi", **CUT_CALL}, end)
    message, response = whole(MessageAnswer, completion), whole(ResponseAnswer, completion)
    assert message["stop_reason"] == stop_reason
    assert [block["type"] for block in message["content"]] == ["text"]  # no call with half of its arguments
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": details})
    assert [(item["type"], item["status"]) for item in response["output"]] == [
        ("message", "completed"),
        ("function_call", "incomplete"),
    ]
    empty = a_completion({"content": ""}, end)
    assert whole(MessageAnswer, empty)["stop_reason"] == stop_reason
    assert whole(ResponseAnswer, empty)["incomplete_details"] == {"reason": details}


@pytest.mark.parametrize(
    ("text", "tools", "words"),
    [
        *((text, {}, "of a tool that") for text in ("[1]", '"p"', "1", "null", "true", "{cut")),
        ("{cut", {"f": Tool("f")}, "of the tool 'f' that"),
    ],
)
def test_arguments_that_are_no_object_are_an_error_where_one_is_required(text, tools, words):
    call = {"id": "a", "function": {"name": "f", "arguments": text}}
    completion = a_completion({"tool_calls": [call]}, "tool_calls")
    with pytest.raises(UpstreamInvalid, match=f"{words} are not a JSON object"):
        whole(MessageAnswer, completion, About(tools))
    assert whole(MessageAnswer, a_completion({"tool_calls": [call]}, "length"))["content"] == []
    (item,) = whole(ResponseAnswer, completion)["output"]
    assert item["arguments"] == text


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
def test_a_call_without_a_name_is_an_error_but_left_out_if_it_was_cut(answer):
    call = {"tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]}
    with pytest.raises(UpstreamInvalid, match="a tool call without a name"):
        whole(answer, a_completion({"content": "Hi", **call}, "tool_calls"))
    cut = whole(answer, a_completion({"content": "Hi", **call}, "length"))
    assert [one["type"] for one in cut.get("content") or cut["output"]] in (["text"], ["message"])


@pytest.mark.parametrize(
    ("matched", "expected"),
    [("END", ("stop_sequence", "END")), *((one, ("end_turn", None)) for one in ("E", "stop", "", None, 7, ["END"]))],
)
def test_a_message_ends_with_a_stop_sequence_that_the_request_has(matched, expected):
    _, about = chat_of(
        chat_of_message, {"messages": [{"role": "user", "content": "Hi"}], "stop_sequences": ["END", "\n\n"]}
    )
    completion = a_completion({"content": "Hi"})
    completion["choices"][0]["stop_reason"] = matched
    message = whole(MessageAnswer, completion, about)
    assert (message["stop_reason"], message["stop_sequence"]) == expected


REPAIRED = {"finish_reason": "length", "native_finish_reason": "MALFORMED_FUNCTION_CALL"}
ENDS: dict[str, tuple[dict[str, str], str]] = {
    **{
        end: ({"finish_reason": end}, f"an unknown finish reason '{end}'\\.$")
        for end in ("timeout", "ERROR_LIMIT", "OTHER", "user_cancel")
    },
    "perhaps a secret": ({"finish_reason": "sk-1234"}, "an unknown finish reason\\.$"),
    **{end: ({"finish_reason": end}, f"the failure '{end}'") for end in (*FAILED, "ERROR")},
    "a failure after its repair": (REPAIRED, "the failure 'MALFORMED_FUNCTION_CALL'"),
}


@pytest.mark.parametrize(("end", "words"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
def test_a_finish_reason_that_is_unknown_or_a_failure_is_an_error_because_the_answer_may_be_cut(answer, end, words):
    completion = a_completion({"content": "Hi", **CUT_CALL})
    completion["choices"][0] |= end
    with pytest.raises(UpstreamInvalid, match=f"The upstream ended its answer with {words}"):
        whole(answer, completion)
    stream = answer(defaults(), "up", About())
    stream.feed(a_chunk({"content": "Hi"}))
    stream.feed(encode_event({"choices": [{"index": 0, "delta": {}, **end}]}))
    with pytest.raises(UpstreamInvalid, match=f"The upstream ended its answer with {words}"):
        stream.feed(DONE)
    assert stream.unsent == b""  # the block has no end


WHOLE_CALL = {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("message", "end", "stop_reason", "status"),
    [
        *(({}, end, "end_turn", "completed") for end in ("eos", "END_TURN", "stop_sequence", "", None)),
        *(({}, end, "end_turn", "completed") for end in ("tool_calls", "function_call")),
        *((WHOLE_CALL, end, "tool_use", "completed") for end in ("stop", "tool_calls", "function_call")),
        *(({}, end, "max_tokens", "incomplete") for end in ("max_tokens", "MAX_TOKENS", "pause_turn")),
        ({}, "SAFETY", "refusal", "incomplete"),
        ({"content": None, "refusal": "No."}, "stop", "refusal", "completed"),
    ],
)
def test_the_finish_reasons_of_other_apis_are_known(message, end, stop_reason, status):
    completion = a_completion({"content": "Hi", **message}, end)
    assert whole(MessageAnswer, completion)["stop_reason"] == stop_reason
    assert whole(ResponseAnswer, completion)["status"] == status


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
@pytest.mark.parametrize(
    ("message", "end"), [({"content": ""}, "stop"), ({"content": None}, "tool_calls"), ({"reasoning": "Hm."}, "stop")]
)
def test_an_answer_that_a_host_would_show_as_nothing_is_an_error(answer, message, end):
    with pytest.raises(UpstreamEmpty, match="no text and no tool call"):
        whole(answer, a_completion(message, end))


def test_a_call_begins_with_its_name():
    answer = MessageAnswer(defaults(), "up", About())
    assert b"tool_use" not in answer.feed(a_chunk({"tool_calls": [{"index": 0, "id": "a"}]}))
    sent = answer.feed(a_chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}))
    assert [one["type"] for one in events_of(sent)] == ["content_block_start", "content_block_delta"]
    assert events_of(sent)[0]["content_block"]["name"] == "f"


def test_a_response_has_the_service_tier_that_served_it():
    about = About(repeated={"service_tier": "auto"})
    assert whole(ResponseAnswer, a_completion({"content": "Hi"}), about)["service_tier"] == "auto"
    tier = a_completion({"content": "Hi"}, service_tier="flex")
    assert whole(ResponseAnswer, tier, about)["service_tier"] == "flex"


@pytest.mark.parametrize(("text", "found"), [('{"query": "q"}', {"query": "q"}), ("", {}), ("{cut", {}), ('"q"', {})])
def test_a_search_for_tools_is_an_item_of_its_own(text, found):
    call = {"id": "a", "function": {"name": "tool_search", "arguments": text}}
    about = About({"tool_search": Tool("tool_search", is_search=True)})
    (item,) = whole(ResponseAnswer, a_completion({"tool_calls": [call]}, "tool_calls"), about)["output"]
    assert item.pop("id").startswith("tsc_")
    made = {"type": "tool_search_call", "call_id": "a", "execution": "client", "status": "completed"}
    assert item == {**made, "arguments": found}


@pytest.mark.parametrize("text", ["", "{cut", '"p"', '{"input": 1}', '{"other": "p"}'])
def test_a_custom_tool_gets_arguments_without_its_text_as_they_are(text):
    call = {"id": "a", "function": {"name": "patch", "arguments": text}}
    completion = a_completion({"tool_calls": [call]}, "tool_calls")
    (item,) = whole(ResponseAnswer, completion, About({"patch": Tool("patch", is_custom=True)}))["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", text)


def counts_of(answer: type[AnswerBlocks], *usages: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the usage of a stream in which chunks without choices state `usages`, and its notes."""
    one = answer(defaults(), "up", About())
    stated = (encode_event({"choices": [], "usage": usage}) for usage in usages)
    events = events_of(b"".join(map(one.feed, (a_chunk({"content": "Hi"}, "stop"), *stated, DONE))))
    return (events[-2].get("usage") or events[-1]["response"]["usage"]), one.adapted


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
def test_counts_are_read_however_they_are_written_or_noted(answer):
    written = {"prompt_tokens": "10", "completion_tokens": 2.0, "total_tokens": 12}
    for usages in ([written], [written, {"prompt_tokens": None}]):
        usage, notes = counts_of(answer, *usages)
        assert (usage["input_tokens"], usage["output_tokens"], notes) == (10, 2, ())
    unreadable: list[Any] = [{}, {"prompt_tokens": None}, {"prompt_tokens": "ten"}]
    for none in (*unreadable, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}):
        usage, notes = counts_of(answer, none)
        assert (usage["input_tokens"], usage["output_tokens"], notes) == (0, 0, ("translate=no-usage",))
    made = answer(defaults(), "up", About(), keeps_texts=True)
    made.whole(a_completion({"content": "Hi"}))
    assert made.adapted == ("translate=no-usage",)


@pytest.mark.parametrize(
    ("cache", "cached", "written"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}}, 4, 3),
        ({"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": "x"}}, 4, 0),
    ],
)
def test_counts_of_the_cache_are_carried(cache, cached, written):
    counts = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, **cache}
    message, _ = counts_of(MessageAnswer, counts)
    assert message == {
        "input_tokens": 10 - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": 2,
    }
    response, _ = counts_of(ResponseAnswer, counts)
    assert response["input_tokens"] == 10
    assert response["input_tokens_details"] == {"cached_tokens": cached, "cache_write_tokens": written}


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
def test_halves_of_a_character_are_joined_and_a_single_one_is_kept(answer):
    for pieces in (
        ['{"x":"', "a", "\ud83d", "\ude00b", '"}'],
        ['{"x":"a', "b", "b\ud83d", "\ude00c", '"}'],
        ["{}\ud83d"],
    ):
        one = answer(defaults(), "up", About())
        chunks = [call_piece(0, text, first=not at) for at, text in enumerate(pieces)]
        events = events_of(b"".join(map(one.feed, (*chunks, a_chunk({}, "stop"), DONE))))
        deltas = [event["delta"] for event in events if event["type"].endswith("delta") and "delta" in event]
        texts = [one if isinstance(one, str) else one.get("text", one.get("partial_json", "")) for one in deltas]
        assert "".join(texts) == json.loads(json.dumps("".join(pieces)))
        assert len(pieces) == 1 or all(text.encode() for text in texts if text)


SOURCE_OF = {"type": "url_citation", "url_citation": {"url": "https://a.example"}}
UNCARRIED: dict[str, tuple[Any, str]] = {
    "annotations": ({"annotations": [SOURCE_OF]}, "annotations"),
    "images": ({"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}, "images"),
    "reasoning_details": ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, "reasoning_details"),
    "audio": ({"audio": {"data": "AA"}}, "audio"),
    "a part that is no text": ({"content": [{"type": "text", "text": "Hi"}, {"type": "reference"}]}, "reference"),
}


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
@pytest.mark.parametrize(("more", "note"), UNCARRIED.values(), ids=UNCARRIED)
def test_what_a_reply_lacks_of_an_answer_is_noted(answer, more, note):
    counts: dict[str, Any] = {"usage": {"prompt_tokens": 1}}
    one = answer(defaults(), "up", About(), keeps_texts=True)
    one.whole(a_completion({"content": "Hi", **more}, **counts))
    streamed = answer(defaults(), "up", About())
    end = encode_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **counts})
    for chunk in (a_chunk({"role": "assistant", "content": "Hi"}), a_chunk(more), end, DONE):
        streamed.feed(chunk)
    assert one.adapted == streamed.adapted == (f"untranslated={note}",)


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
def test_other_choices_and_sources_of_an_answer_are_noted(answer):
    texts = ("shown", "other")
    choices = [{"index": at, "message": {"content": text}, "finish_reason": "stop"} for at, text in enumerate(texts)]
    sources = {"citations": ["https://a.example"], "search_results": [{"title": "A"}], "provider": "p"}
    one = answer(defaults(), "up", About(), keeps_texts=True)
    reply = one.whole({"choices": choices, "usage": {"prompt_tokens": 1}, **sources})
    assert (b"shown" in reply, b"other" in reply) == (True, False)
    assert one.adapted == tuple(f"untranslated={name}" for name in ("citations", "search_results", "choices"))


TEXTS = ("a", "", "assistant", "m", 'say "a"', "C:\\", "\\", "é\n", "🚀", "\ud83d", "\ude80", "a")


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
@pytest.mark.parametrize("member", ["content", "reasoning_content", "refusal"])
def test_each_text_passes_whether_or_not_its_chunk_is_parsed(answer, member):
    """Most chunks differ from the one before in their text alone, and are not parsed."""
    chunks = [a_chunk({"role": "assistant", member: text}) for text in (*TEXTS, *TEXTS)]
    for run in (chunks, [b"".join(chunks)]):
        made = answer(defaults(), "up", About())
        events = events_of(b"".join(map(made.feed, run)))
        deltas = [event["delta"] for event in events if event["type"].endswith("delta")]
        texts = [next(reversed(delta.values())) if isinstance(delta, dict) else delta for delta in deltas]
        pair = TEXTS.index("\ud83d")
        joined = (*TEXTS[:pair], "🚀", *TEXTS[pair + 2 :])
        assert texts == [text for text in (*joined, *joined) if text]


def test_a_chunk_that_differs_in_more_than_its_text_is_parsed():
    answer = MessageAnswer(defaults(), "up", About())
    for text in ("a", "b"):
        answer.feed(a_chunk({"content": text}))
    sent = answer.feed(a_chunk({"content": 'c", "refusal": "d'}) + a_chunk({"content": "e"}, "stop") + DONE)
    assert events_of(sent)[0]["delta"]["text"] == 'c", "refusal": "d'
    assert events_of(sent)[-2]["delta"]["stop_reason"] == "end_turn"


def test_the_end_of_a_large_response_comes_in_pieces():
    """It repeats the text four times: at once it would hold the event loop for a second."""
    answer = ResponseAnswer(defaults(), "up", About())
    for _ in range(3):
        answer.feed(a_chunk({"content": "x" * 900_000}))
    pieces = [answer.feed(a_chunk({}, "stop")), answer.feed(DONE), *iter(answer.take, b"")]
    assert len(pieces) == 5
    assert max(map(len, pieces)) < 3_000_000
    *_, text_done, part_done, item_done, last = events_of(b"".join(pieces))
    assert text_done["text"] == part_done["part"]["text"] == item_done["item"]["content"][0]["text"]
    assert last["response"]["output"] == [item_done["item"]]
    assert last["sequence_number"] == answer.next_number - 1 == 10


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
def test_what_is_kept_is_counted_as_long_as_it_is_kept(answer):
    made = answer(defaults(), "up", About())
    repeats = made.keeps_texts
    made.feed(a_chunk({"content": "x" * 100}))
    assert made.kept_bytes == (100 if repeats else 0)
    made.feed(call_piece(0, "{", first=True) + call_piece(1, "[" * 10, first=True))
    names = 2 * len("call_0tool_0")
    assert made.kept_bytes == (101 if repeats else 0) + names + 10
    made.feed(call_piece(0, "}", first=False) + call_piece(1, "[", first=False))
    assert made.kept_bytes == (102 if repeats else 0) + names + 11


def test_a_stream_counts_what_it_keeps_in_pages():
    """Each change is counted for the limit of memory, and a text changes with each event."""
    made = ResponseAnswer(defaults(), "up", About())
    stream = EventStream(SOURCE, client_transform=made)
    assert stream.kept_bytes == 0
    for size, pages in ((1, 1), (4095, 1), (1, 2), (5000, 3)):
        stream.feed(a_chunk({"content": "x" * size}))
        assert stream.kept_bytes == pages * 4096 >= made.kept_bytes


@pytest.mark.parametrize("is_accepted", [True, False])
def test_the_beginning_is_sent_again_if_the_connection_did_not_accept_it(is_accepted):
    early = Early()
    answer = ResponseAnswer(defaults(), "up", About(), early)
    answer.early_events()
    sent = answer.take()
    early.note_own_event(b": keep-alive\n\n")
    assert early.streamed.id == ""
    if is_accepted:
        early.note_own_event(sent)
    events = events_of(ResponseAnswer(defaults(), "up", About(), early).feed(a_chunk({"content": "a"})))
    assert (events[0]["type"] == "response.created") is not is_accepted
    assert events[0]["sequence_number"] == (2 if is_accepted else 0)


@pytest.mark.parametrize("answer", [MessageAnswer, ResponseAnswer])
@pytest.mark.parametrize("names", [("reasoning_content", "reasoning"), ("reasoning",), ("reasoning_content",)])
def test_a_thought_that_a_whole_reply_repeats_comes_once(answer, names):
    completion = a_completion({"content": "Yes.", **dict.fromkeys(names, "Hmmm")})
    assert str(whole(answer, completion)).count("Hmmm") == 1


def test_the_id_of_a_call_is_the_clients():
    call = {"id": "functions.f:0", "function": {"name": "f", "arguments": "{}"}}
    made = whole(MessageAnswer, a_completion({"tool_calls": [call]}))
    assert made["content"][0]["id"] == "gp_ZnVuY3Rpb25zLmY6MA"
