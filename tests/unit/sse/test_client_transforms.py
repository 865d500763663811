"""What each profile changes in a stream and in a whole reply, and that all else keeps its bytes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile
from gatepass.protocols.chat import CHAT, COMPLETIONS
from gatepass.protocols.responses import RESPONSES
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import encode_event
from gatepass.sse.client_transforms import (
    OVERHEAD_BYTES,
    LaterNumbers,
    PlainEvents,
    ShortLines,
    WithoutComments,
    make_client_transform,
    transform_reply,
)
from gatepass.sse.event import EventTransform, Framer
from gatepass.sse.repair import StreamRepair, synthesize_stream
from gatepass.sse.usage import MOST_USAGE_BYTES
from tests.unit.sse.documents import origin
from tests.unit.sse.repair_streams import USAGE
from tests.unit.sse.streams import DONE, REALISTIC, chunk, client_reads, data, new_stream, pieces, text, with_line_ends

CLEAN = b"".join(REALISTIC)
LINE_ENDS = (b"\n", b"\r\n", b"\r")
USED = chunk(None, usage=USAGE)
LIMIT = OVERHEAD_BYTES + 100
"""A hundred bytes a piece."""
PAD = "x" * LIMIT


def short_lines() -> ShortLines:
    return ShortLines(LIMIT)


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
    short_lines: [
        encode_event(chunk({"content": "a" * 100})) * 100,
        data(chunk({"audio": {"data": PAD}})),
        data(chunk(None, x=PAD)),
        data({"choices": [{"index": 0, "text": PAD}]}),
        data({"choices": [PAD]}),
        data(chunk({"tool_calls": [1, {"function": None}, {"function": {"arguments": {"a": PAD}}}]})),
        data(chunk({"tool_calls": PAD})),
        data([PAD]),
        b"data: no json %b\n\n" % PAD.encode(),
    ],
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


def test_a_large_event_is_renumbered_too():
    long = "x" * 2**21
    assert later_numbers().feed(data({"delta": long, "sequence_number": 3})) == data(
        {"delta": long, "sequence_number": 5}
    )


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


def dify_reads(stream: bytes) -> list[bytes]:
    """The data that Dify's plugin takes out of a stream (dify-plugin-sdks, openai_compatible/llm.py): it cuts at two
    line feeds and throws away each piece that begins with a colon. The answer ends at the first one that is no JSON."""
    cut = [piece.strip() for piece in stream.split(b"\n\n")]
    return [piece.removeprefix(b"data:").lstrip() for piece in cut if piece and not piece.startswith(b":")]


WANTED = [one[5:].strip() for one in REALISTIC]


def named(line: bytes) -> bytes:
    return b"".join(line + one for one in REALISTIC)


FRAMINGS = [
    *(with_line_ends(CLEAN, b"\r\n"), with_line_ends(CLEAN, b"\r"), named(b"event: message\n"), named(b"id: 7\n")),
    *(named(b"retry: 100\n"), named(b": alive\n"), b"\n\n" + named(b": alive\n\n\n"), CLEAN + b": alive\n"),
    CLEAN.replace(b"data: {", b"data:{").replace(b"data: [DONE]\n\n", b"data:[DONE]\n\n"),
]


@pytest.mark.parametrize("stream", FRAMINGS)
def test_every_framing_becomes_the_one_that_dify_reads(stream):
    for size_bytes in (1, 2, 3, 7, 97, 1_000_000):
        framer, transform = Framer(1 << 20), PlainEvents()
        out = b"".join(transform.feed(framer.feed(piece)) for piece in pieces(stream, size_bytes))
        assert out + transform.feed(framer.tail) == CLEAN, f"pieces of {size_bytes} bytes"
        assert transform.adapted == (PlainEvents.name,)


def test_dify_loses_no_event_of_a_stream_with_comments_and_names():
    for end in LINE_ENDS:
        sent = with_line_ends(b"".join(LINE + b"\n" + LINE + b"event: x\nid: 1\n" + one for one in REALISTIC), end)
        changed, passed = new_stream(client_transform=of_profile("dify")).feed(sent), new_stream().feed(sent)
        assert dify_reads(changed) == WANTED
        assert dify_reads(passed) != WANTED
        assert client_reads(changed) == client_reads(CLEAN)


# --- short lines ----------------------------------------------------------------------------------


def json_of(stream: bytes) -> list[Any]:
    return [json.loads(part.removeprefix(b"data: ")) for part in stream.split(b"\n\n")[:-1]]


def short(*chunks: Any) -> list[Any]:
    return json_of(short_lines().feed(b"".join(map(encode_event, chunks))))


def said(chunks: list[Any], name: str = "content") -> str:
    return "".join(choice["delta"].get(name) or "" for one in chunks for choice in one["choices"])


def test_a_long_text_comes_in_pieces_and_ends_as_it_did():
    parts = short(chunk({"role": "assistant", "content": PAD}, "stop", usage=USAGE, extra={"a": 1}))
    assert (said(parts), parts[0]["extra"], parts[0]["choices"][0]["delta"]["role"]) == (PAD, {"a": 1}, "assistant")
    assert [part.get("usage") for part in parts] == [None] * (len(parts) - 1) + [USAGE]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert {(part["id"], part["model"], part["created"], part["object"]) for part in parts} == {
        tuple(USED[name] for name in ("id", "model", "created", "object"))
    }
    first, *others = short(chunk({"content": PAD}))
    assert first["choices"][0]["delta"]["content"] == ""
    assert all(part["choices"][0]["delta"]["content"] for part in others)
    assert short(chunk({"content": PAD}, usage=USAGE))[-1] == USED


def test_arguments_of_tools_come_in_pieces_by_their_index():
    calls = [
        {"index": number, "id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": PAD}}
        for number in range(2)
    ]
    found, ids = {0: "", 1: ""}, []
    for part in short(chunk({"tool_calls": calls})):
        for call in part["choices"][0]["delta"]["tool_calls"]:
            found[call["index"]] += call["function"]["arguments"]
            ids += [call["id"]] if "id" in call else []
    assert (found, ids) == ({0: PAD, 1: PAD}, ["c0", "c1"])


@given(st.text(max_size=400), st.text(max_size=400), st.integers(3 * OVERHEAD_BYTES, 3 * OVERHEAD_BYTES + 300))
def test_every_text_arrives_whole_and_every_line_is_short(content, reasoning, limit):
    block = encode_event(chunk({"content": content * 30, "reasoning_content": reasoning * 30}, "stop"))
    transformed = ShortLines(limit).feed(block)
    parts = json_of(transformed)
    assert (said(parts), said(parts, "reasoning_content")) == (content * 30, reasoning * 30)
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(len(line) <= limit for line in transformed.splitlines())


@pytest.mark.parametrize("unit", ["x", "é漢😀", '\\"\n', "a\\" * 3 + "\\", "\\ud83d", "\u0001"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("name", ["content", "arguments"])
def test_a_text_is_cut_between_characters_and_escapes(unit, ascii_only, name):
    text = "a" + unit * 12_000
    delta = {"content": text} if name == "content" else {"tool_calls": [{"index": 1, "function": {name: text}}]}
    written = json.dumps(chunk(delta, "stop"), ensure_ascii=ascii_only).encode()
    for limit in range(OVERHEAD_BYTES + 4500, OVERHEAD_BYTES + 4513):  # each offset within a surrogate pair
        lines = b"".join(ShortLines(limit).split(written))
        parts = json_of(lines)
        calls = [one["function"][name] for part in parts for one in part["choices"][0]["delta"].get("tool_calls", [])]
        assert "".join(calls) + said(parts) == text
        assert len(parts) > 2
        assert all(len(line) <= limit for line in lines.splitlines())


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
    long = data(chunk({"content": "x" * 2**20}))
    assert max(map(len, of_profile("ragflow").feed(long).splitlines())) < 2**20
    assert make_client_transform(BUILT_IN_PROFILES["cline"]) is make_client_transform(PLAIN) is None


def test_streams_of_other_kinds_lose_only_their_comments():
    for protocol in (CHAT, RESPONSES):
        after = protocol.last_transform(Profile(keep_alive="empty-delta", whole_numbers=True))
        assert after is not None
        assert after.feed(LINE + b"\n") == b""
    event, after = (
        b'event: x\ndata: {"choices":[],"usage":{"total_tokens":null}}\n\n',
        RESPONSES.last_transform(BUILT_IN_PROFILES["dify"]),
    )
    assert after is not None
    assert after.feed(event) is event
    assert RESPONSES.last_transform(BUILT_IN_PROFILES["ragflow"]) is RESPONSES.last_transform(PLAIN) is None


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
