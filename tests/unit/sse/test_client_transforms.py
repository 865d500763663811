"""What each profile changes in a stream and in a whole reply, and that all else keeps its bytes."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile
from gatepass.protocols.chat import CHAT, COMPLETIONS
from gatepass.protocols.responses import RESPONSES
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import StreamSource
from gatepass.sse.client_transforms import (
    LaterNumbers,
    PlainEvents,
    WithoutComments,
    make_client_transform,
    transform_reply,
)
from gatepass.sse.event import EventTransform, Framer
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair, synthesize_stream
from gatepass.sse.usage import MOST_USAGE_BYTES
from tests.unit.sse.dify import Shown, data_of
from tests.unit.sse.documents import origin
from tests.unit.sse.repair_streams import USAGE
from tests.unit.sse.streams import (
    DONE,
    REALISTIC,
    chunk,
    client_reads,
    data,
    new_stream,
    pieces,
    read_error,
    text,
    with_line_ends,
)

CLEAN = b"".join(REALISTIC)
LINE_ENDS = (b"\n", b"\r\n", b"\r")
USED = chunk(None, usage=USAGE)


def later_numbers() -> LaterNumbers:
    transform = LaterNumbers()
    transform.shift = 2
    return transform


def of_profile(name: str) -> EventTransform:
    transform = make_client_transform(BUILT_IN_PROFILES[name])
    assert transform is not None
    return transform


Make = Callable[[], Any]
SAME: dict[Make, list[bytes]] = {
    WithoutComments: [CLEAN, with_line_ends(CLEAN, b"\r\n"), with_line_ends(CLEAN, b"\r")],
    later_numbers: [
        *(b": a comment\n\n", b": a comment\n", DONE, b'data: {"type":"ping"}\n\n'),
        *(b'data: {"sequence_number":"7"}\n\n', b'data: {"sequence_number":1.5}\n\n'),
        b'data: {"response":{"sequence_number":1}}\n\n',
    ],
    PlainEvents: [CLEAN, *REALISTIC, data(chunk({}), gap=b"  "), data(chunk({}), spaced=True)],
}


@pytest.mark.parametrize("make", SAME, ids=lambda make: make.__name__)
def test_a_run_without_the_defect_is_the_same_object(make):
    for run in SAME[make]:
        transform = make()
        assert transform.feed(run) == run, run
        assert (transform.finish(), transform.adapted) == (b"", ()), run
        assert make is later_numbers or transform.feed(run) is run, run


LINE = b": OPENROUTER PROCESSING\n"
FIRST, SECOND = REALISTIC[0], REALISTIC[2]
FOREIGN = [data({"foo": "bar"}), data([1]), data(7), data(None), b"event: x\n" + data({"a": "choices:"})]
SILENT = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
SILENT_TEXT = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
LOST = {"prompt_tokens": 12, "completion_tokens": 3.0, "total_tokens": None}
CHANGED: list[tuple[Make, bytes, bytes]] = [
    (WithoutComments, LINE + b"\n", b""),
    (WithoutComments, LINE * 2 + b"\n" + LINE + b"\n", b""),
    (WithoutComments, LINE, b""),
    (WithoutComments, LINE + FIRST + LINE + b"\n" + SECOND + LINE, FIRST + SECOND),
    (WithoutComments, b"id: 7\n" + LINE + FIRST + LINE, b"id: 7\n" + FIRST),
    (WithoutComments, b"event: x\n:\n" + LINE + FIRST, b"event: x\n" + FIRST),
    (WithoutComments, b"data: : no comment\n\n" + LINE + b"\n", b"data: : no comment\n\n"),
    (WithoutComments, b"\n" + LINE + b"\n" + FIRST, b"\n" + FIRST),
    (
        later_numbers,
        b'event: a\ndata: {"type":"a","sequence_number":9}\n\n',
        b'event: a\ndata: {"type":"a","sequence_number":11}\n\n',
    ),
    (
        later_numbers,
        b'data: { "sequence_number" : 99 , "delta": "\\"sequence_number\\":1" }\n\n',
        b'data: { "sequence_number" : 101 , "delta": "\\"sequence_number\\":1" }\n\n',
    ),
    (
        later_numbers,
        b'id: 5\ndata:{"response":{"sequence_number":1},\ndata: "sequence_number":\ndata: 100}\n\n',
        b'id: 5\ndata:{"response":{"sequence_number":1},\ndata: "sequence_number":\ndata: 102}\n\n',
    ),
    (
        later_numbers,
        b': a "sequence_number":1\ndata: {"sequence_number":0}\n\ndata: {"sequence_number":1}\n\n',
        b': a "sequence_number":1\ndata: {"sequence_number":2}\n\ndata: {"sequence_number":3}\n\n',
    ),
]


def test_the_defect_goes_and_the_rest_keeps_its_bytes():
    rows = [
        (make, with_line_ends(sent, end), with_line_ends(left, end))
        for make, sent, left in CHANGED
        for end in LINE_ENDS
    ]
    for make, sent, left in rows:
        transform = make()
        assert (transform.feed(sent), transform.finish()) == (left, b""), sent
        assert transform.adapted == (transform.name,)


# --- chunks, which the repair changes -------------------------------------------------------------


def profiled(profile: Profile, sent: bytes) -> tuple[bytes, tuple[str, ...]]:
    stream = new_stream(repair=StreamRepair(RepairOptions(None, profile), origin()))
    return stream.feed(FIRST + sent), stream.adapted


ONLY, FILLED, WHOLE = Profile(only_chunks=True), Profile(fills_choices=True), Profile(whole_numbers=True)
OLD = {"object": "text_completion"}
COUNTED = LOST | {"completion_tokens": 3, "total_tokens": 15}


@pytest.mark.parametrize(
    ("profile", "sent"),
    [
        *((FILLED, one) for one in (text('"choices":[]'), text("a", more={"choices": []}), data({"error": "m"}))),
        *((ONLY, one) for one in (text("a"), b": alive\n\n")),
        *((WHOLE, one) for one in (text('a "usage" b', usage=None), data(USED))),
    ],
)
def test_a_chunk_that_a_profile_needs_as_it_is_keeps_its_bytes(profile, sent):
    stream = new_stream(repair=StreamRepair(RepairOptions(None, profile), origin()))
    out = stream.feed(FIRST + sent)
    assert (out, stream.adapted) == (FIRST + (b"" if stream.failure else sent), ())


@pytest.mark.parametrize(
    ("profile", "sent", "left", "name"),
    [
        *((ONLY, one + text("a") + one, text("a"), "sse=no-chunk") for one in (FOREIGN[0], FOREIGN[-1])),
        (FILLED, text("a") + data(USED), text("a") + data({**USED, "choices": [SILENT]}), "repair=empty-choice"),
        (FILLED, data(USED | OLD), data(USED | OLD | {"choices": [SILENT_TEXT]}), "repair=empty-choice"),
        (WHOLE, data(chunk(None, usage=LOST)), data(chunk(None, usage=COUNTED)), "repair=usage"),
        (WHOLE, text("a", usage=LOST), text("a", usage=COUNTED), "repair=usage"),
    ],
)  # fmt: skip
def test_a_chunk_is_as_the_profile_requires_it(profile, sent, left, name):
    out, adapted = profiled(profile, sent)
    assert (json_of(out), name in adapted) == (json_of(FIRST + left), True)


def test_a_stream_made_of_a_whole_reply_is_as_the_profile_requires_it():
    document = {"choices": [{"index": 0, "message": {"content": "a", "reasoning": "hm"}, "finish_reason": "stop"}]}
    profile = Profile(fills_choices=True, plain_texts=True)
    parts = json_of(b"".join(synthesize_stream({**document, "usage": USAGE}, True, origin(), profile))[: -len(DONE)])
    assert all(part["choices"] for part in parts)
    assert (said(parts), said(parts, "reasoning_content"), said(parts, "reasoning")) == ("a", "hm", "")


# --- what Dify reads ------------------------------------------------------------------------------


WANTED = [one[5:].strip() for one in REALISTIC]


def named(line: bytes) -> bytes:
    return b"".join(line + one for one in REALISTIC)


FRAMINGS = [
    *(with_line_ends(CLEAN, b"\r\n"), with_line_ends(CLEAN, b"\r"), named(b"event: message\n"), named(b"id: 7\n")),
    *(named(b"retry: 100\n"), named(b": alive\n"), b"\n\n" + named(b": alive\n\n\n"), CLEAN + b": alive\n"),
    CLEAN.replace(b"data: {", b"data:{").replace(b"data: [DONE]\n\n", b"data:[DONE]\n\n"),
]


@pytest.mark.parametrize("stream", FRAMINGS)
def test_every_framing_becomes_the_one_that_data_of(stream):
    for size_bytes in (1, 2, 3, 7, 97, 1_000_000):
        framer, transform = Framer(1 << 20), PlainEvents()
        out = b"".join(transform.feed(framer.feed(piece)) for piece in pieces(stream, size_bytes))
        assert out + transform.feed(framer.tail) == CLEAN, f"pieces of {size_bytes} bytes"
        assert transform.adapted == (PlainEvents.name,)


def test_dify_loses_no_event_of_a_stream_with_comments_and_names():
    for end in LINE_ENDS:
        sent = with_line_ends(b"".join(LINE + b"\n" + LINE + b"event: x\nid: 1\n" + one for one in REALISTIC), end)
        changed, passed = new_stream(client_transform=of_profile("dify")).feed(sent), new_stream().feed(sent)
        assert data_of(changed) == WANTED
        assert data_of(passed) != WANTED
        assert client_reads(changed) == client_reads(CLEAN)


def call_piece(number: int, words: str, **more: Any) -> bytes:
    function = {"arguments": words} | ({"name": "look"} if more else {})
    return data(chunk({"tool_calls": [{"index": number, **more, "function": function}]}))


def two_calls(first: str, second: str, **more: str) -> list[bytes]:
    """Two calls whose pieces come in turn. `more` is in each piece."""
    opened = [call_piece(0, "", id=first, type="function"), call_piece(1, "", id=second, type="function")]
    runs = [(0, '{"a":['), (1, '{"b":['), *((0, f"{one},") for one in range(40)), *((1, "2,") for _ in range(40))]
    later = [call_piece(number, words, **more) for number, words in (*runs, (0, "0]}"), (1, "0]}"))]
    return [*opened, *later, data(chunk({}, finish="tool_calls")), DONE]


ARGUMENTS_OF_TWO = ['{"a":[' + "".join(f"{one}," for one in range(40)) + "0]}", '{"b":[' + "2," * 40 + "0]}"]


def for_dify(*events: bytes) -> bytes:
    profile = BUILT_IN_PROFILES["dify"]
    stream = new_stream(
        repair=StreamRepair(RepairOptions(True, profile), origin()), client_transform=of_profile("dify")
    )
    return b"".join(map(stream.feed, events))


@pytest.mark.parametrize("together", [1, 3, 1000])
def test_each_piece_of_a_call_has_its_id_for_dify(together: int):
    events = two_calls("call_a", "call_b")
    sent = [b"".join(events[at : at + together]) for at in range(0, len(events), together)]
    assert Shown(for_dify(*sent)).calls == dict(zip(("call_a", "call_b"), ARGUMENTS_OF_TWO, strict=True))


def test_an_id_in_each_piece_of_the_upstream_stays_for_dify():
    events = two_calls("call_a", "call_b")
    repeated = [
        one.replace(b'"index":%d,"f' % n, b'"index":%d,"id":"call_%c","f' % (n, 97 + n))
        for one in events
        for n in (int(b'"index":1,"f' in one),)
    ]
    assert repeated != events
    assert Shown(for_dify(*repeated)).calls == dict(zip(("call_a", "call_b"), ARGUMENTS_OF_TWO, strict=True))


def test_an_id_too_long_to_be_kept_is_sent_once_for_dify():
    out = for_dify(*two_calls("a" * 257, "b" * 256))
    assert (out.count(b"a" * 257), out.count(b"b" * 256)) == (1, 43)


def test_calls_of_two_choices_keep_their_own_ids_for_dify():
    calls = [{"index": 0, "id": f"call_{index}", "type": "function", "function": {"name": "f"}} for index in (0, 1)]
    opened = [data(chunk({"tool_calls": [call]}, index=index)) for index, call in enumerate(calls)]
    later = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
    out = for_dify(*opened, *(data(chunk(later, index=index)) for index in (1, 0)))
    ids = [one["choices"][0]["delta"]["tool_calls"][0]["id"] for one in json_of(out)]
    assert ids == ["call_0", "call_1", "call_1", "call_0"]


def test_pieces_of_a_stream_made_of_a_whole_reply_have_ids_for_dify():
    texts = [json.dumps({"a": "x" * 300_000}), json.dumps({"b": "y" * 300_000})]
    calls = [{"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": texts[n]}} for n in (0, 1)]
    message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": calls}
    document = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    shown = Shown(b"".join(synthesize_stream(document, True, origin(), BUILT_IN_PROFILES["dify"])))
    assert (shown.text, [*shown.calls.values()]) == ("<think>\nhm\n</think>", texts)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_librechat_gets_thoughts_in_the_member_that_its_agents_read(name: str):
    profile = BUILT_IN_PROFILES["librechat"]
    out, _ = profiled(profile, data(chunk({name: "hm"})) + data(chunk({name: " so"})) + text("a"))
    assert (said(json_of(out), "reasoning_content"), said(json_of(out))) == ("hm so", "a")
    body, _ = transform_reply(chat({"content": "a", name: "hm"}), profile, "m")
    assert json.loads(body)["choices"][0]["message"] == {"content": "a", "reasoning_content": "hm"}


# --- short lines ----------------------------------------------------------------------------------


def json_of(stream: bytes) -> list[Any]:
    return [json.loads(part.removeprefix(b"data: ")) for part in stream.split(b"\n\n")[:-1]]


def said(chunks: list[Any], name: str = "content") -> str:
    return "".join(choice["delta"].get(name) or "" for one in chunks for choice in one["choices"])


@pytest.mark.parametrize(
    ("unit", "count", "ascii_only"),
    [("x", 1_200_000, False), ("é漢😀", 150_000, False), ('\\"\n', 150_000, False), ("\ud83d", 300_000, True)],
)
@pytest.mark.parametrize("name", ["content", "reasoning_content", "arguments"])
def test_a_long_text_comes_in_pieces_and_ends_as_it_did(unit, count, ascii_only, name):
    text = json.dumps({"a": unit * count}, ensure_ascii=False)
    calls = [{"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": text}}]
    delta = {"role": "assistant", **({"tool_calls": calls} if name == "arguments" else {name: text})}
    sent = json.dumps(chunk(delta, "stop", usage=USAGE, extra={"a": 1}), ensure_ascii=ascii_only)
    repair = StreamRepair(RepairOptions(True, BUILT_IN_PROFILES["ragflow"]), origin())
    stream = EventStream(StreamSource("chat", 1 << 23, read_error), repair=repair)
    out = stream.feed(b"data: %b\n\n" % sent.encode())
    while stream.waiting:
        out += stream.feed()
    out += stream.feed(DONE).removesuffix(DONE)
    parts = json_of(out)
    found = [call for part in parts for choice in part["choices"] for call in choice["delta"].get("tool_calls", [])]
    assert "".join(one["function"]["arguments"] for one in found) + said(parts, name) == text
    assert [one["id"] for one in found if "id" in one] == ["c0"] * (name == "arguments")
    assert max(map(len, out.splitlines())) < 2**20
    assert (parts[0]["extra"], parts[0]["choices"][0]["delta"]["role"]) == ({"a": 1}, "assistant")
    reasons = [choice["finish_reason"] for part in parts for choice in part["choices"]]
    assert [one for one in reasons if one] == ["tool_calls" if name == "arguments" else "stop"]
    assert [part["usage"] for part in parts if part.get("usage")] == [USAGE]
    assert {(part["id"], part["model"]) for part in parts} == {(USED["id"], USED["model"])}
    assert "repair=line" in stream.adapted


# --- texts at other places --------------------------------------------------------------------------


def moved(choice: Any, **more: Any) -> Any:
    sent = data({**USED, "usage": None, "choices": [choice], **more})
    return json_of(profiled(BUILT_IN_PROFILES["ragflow"], sent)[0])[1]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"index": 0, "delta": {"reasoning": "hm"}}, {"reasoning_content": "hm"}),
        ({"index": 0, "delta": {"reasoning": "hm", "content": "a"}}, {"reasoning_content": "hm", "content": "a"}),
        (
            {"index": 0, "delta": {"reasoning": "b", "reasoning_content": "a"}},
            {"reasoning": "b", "reasoning_content": "a"},
        ),
        ({"index": 0, "delta": {"reasoning": None, "content": "a"}}, {"reasoning": None, "content": "a"}),
    ],
)
def test_a_strict_reader_finds_the_thoughts_of_a_stream(choice, expected):
    (found,) = moved(choice)["choices"]
    assert found["delta"] == expected
    assert found.get("finish_reason") == choice.get("finish_reason")


@pytest.mark.parametrize("empty", ["", {}, False])
def test_an_empty_error_is_left_out(empty):
    assert "error" not in moved({"index": 0, "delta": {"content": "a"}}, error=empty)
    body, adapted = transform_reply(
        json.dumps({"error": empty, "choices": [{"message": {"content": "a"}}], "usage": USAGE}).encode(),
        BUILT_IN_PROFILES["ragflow"],
    )
    assert ("error" in json.loads(body), "repair=texts" in adapted) == (False, True)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": None}}, {"content": ""}),
        ({"message": {}}, {"content": ""}),
        ({"message": {"content": None, "reasoning": "hm"}}, {"content": "", "reasoning_content": "hm"}),
        ({"message": {"content": "a", "reasoning": "hm"}}, {"content": "a", "reasoning_content": "hm"}),
        ({"message": {"content": None, "tool_calls": [1]}}, {"content": None, "tool_calls": [1]}),
    ],
)
def test_a_strict_reader_finds_the_thoughts_of_a_whole_reply(choice, expected):
    body, _ = transform_reply(json.dumps({"choices": [choice], "a": 1}).encode(), BUILT_IN_PROFILES["ragflow"])
    assert (json.loads(body)["choices"], json.loads(body)["a"]) == ([{"message": expected}], 1)


def test_the_texts_of_old_completions_stay():
    choice = {"index": 0, "text": "a"}
    body, _ = COMPLETIONS.last_change(json.dumps({"choices": [choice]}).encode(), BUILT_IN_PROFILES["ragflow"], "m")
    assert json.loads(body)["choices"] == [choice]
    transform = COMPLETIONS.last_transform(BUILT_IN_PROFILES["ragflow"])
    assert transform is not None
    assert transform.feed(data({"choices": [choice]})) == data({"choices": [choice]})


def test_several_lines_of_data_are_one_line_for_ragflow():
    block = b'event: x\ndata: {"choices": [{"index": 0,\ndata: "delta": {"content": "a"}}]}\nid: 1\n\n'
    assert of_profile("ragflow").feed(block) == b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'


# --- profiles -------------------------------------------------------------------------------------


def test_each_profile_has_its_transforms():
    assert [name for name, profile in BUILT_IN_PROFILES.items() if profile.only_chunks] == ["dify", "cline"]
    assert [name for name, profile in BUILT_IN_PROFILES.items() if profile.plain_events] == ["ragflow", "dify"]
    assert make_client_transform(BUILT_IN_PROFILES["cline"]) is make_client_transform(PLAIN) is None


def test_streams_of_other_kinds_lose_only_their_comments():
    for protocol in (CHAT, RESPONSES):
        after = protocol.last_transform(Profile(drops_comments=True, whole_numbers=True))
        assert after is not None
        assert after.feed(LINE + b"\n") == b""
        event = b'event: x\ndata: {"choices":[],"usage":{"total_tokens":null}}\n\n'
        assert after.feed(event) is event
    others = [RESPONSES.last_transform(BUILT_IN_PROFILES[name]) for name in ("ragflow", "dify", "plain")]
    assert others == [None, None, None]


NAMED = Profile(envelope=True)
NONE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
GOOD = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


def chat(message, **more):
    return json.dumps({"id": "1", "choices": [{"index": 0, "message": message}], **more}).encode()


def used(prompt, completion, total, **more):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}
    return chat({"content": "a"}, usage=usage)


def vectors(**more):
    return b'{"data":[{"index":0,"embedding":[0.10,1e-7]}],' + json.dumps(more).encode()[1:]


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (chat({"content": "a"}), NONE),
        (chat({"content": "a"}, usage=None), NONE),
        (used(2, 3, None, x={}), {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "x": {}}),
        (used("2", 3.0, 9), {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 9}),
        (used(1.5, "x", True), NONE),
        (vectors(model="e"), {"prompt_tokens": 0, "total_tokens": 0}),
        (vectors(usage={"prompt_tokens": 4, "total_tokens": None}), {"prompt_tokens": 4, "total_tokens": 4}),
    ],
)
def test_usage_is_whole_numbers_if_the_client_requires_it(body, usage):
    changed, adapted = transform_reply(body, WHOLE)
    assert (json.loads(changed), adapted) == ({**json.loads(body), "usage": usage}, ("repair=usage",))
    assert (b'"data"' not in body) or b'[{"index":0,"embedding":[0.10,1e-7]}]' in changed
    assert transform_reply(body, PLAIN)[0] is body


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ({"choices": [{"message": {"content": "a"}}]}, "chat.completion"),
        ({"choices": [{"text": "a"}]}, "text_completion"),
        ({"data": [{"index": 0, "embedding": [0.5]}]}, "list"),
        ({"object": None, "model": "", "data": []}, "list"),
    ],
)
def test_a_reply_has_object_and_model_for_a_client_that_requires_both(reply, kind):
    body, adapted = transform_reply(json.dumps(reply).encode(), NAMED, "m")
    assert (json.loads(body), adapted) == ({**reply, "object": kind, "model": "m"}, ("repair=envelope",))


@pytest.mark.parametrize(
    ("profile", "body"),
    [
        *((WHOLE, chat(message, **GOOD)) for message in ({"content": None, "refusal": "no"}, None)),
        *((WHOLE, json.dumps({"choices": choices, **GOOD}).encode()) for choices in (None, [1])),
        *((WHOLE, body) for body in (b'{"results":[]}', b'[{"index":0,"score":1}]', b'{"text":"heard"}')),
        # JSON that only Python reads
        *((WHOLE, b'{"choices":[{"index":0,"message":{"x":%b}}]}' % x) for x in (rb'"\ud83d"', b"NaN")),
        (WHOLE, chat({"content": "a"}, usage=dict.fromkeys(map(str, range(MOST_USAGE_BYTES // 8)), 1.5))),
        (NAMED, b'{"object":"x","model":"y","choices":[{"message":{}}]}'),
        *((NAMED, b'{"choices":%b}' % choices) for choices in (b"[]", b'["a"]', b"null")),
        (NAMED, b'{"error":{"message":"m"}}'),
    ],
)
def test_complete_reply_is_the_same_object(profile, body):
    changed, adapted = transform_reply(body, profile, "m")
    assert changed is body
    assert adapted == ()


def test_an_unknown_name_is_not_made_up():
    body, _ = transform_reply(b'{"data":[]}', NAMED)
    assert json.loads(body) == {"data": [], "object": "list"}
