import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.sse.fast_path import MAX_BYTES, FastPath
from tests.unit.sse.streams import chunk, data, new_stream, text, with_line_ends


def with_pattern(block: bytes) -> FastPath:
    fast_path = FastPath()
    fast_path.set_pattern(block, 1)
    return fast_path


HELLO = text("Hello")
WORDS = ["Hello", "", " größer 東京 🚀", "a: b, {c} [d]", "data: [DONE]", "line\nline"]
PLACES: dict[str, dict[str, Any]] = {
    **{name: {name: "@"} for name in ("content", "reasoning_content", "reasoning", "refusal", "text")},
    "arguments": {"tool_calls": [{"index": 0, "function": {"arguments": "@"}}]},
}


@pytest.mark.parametrize("place", PLACES)
def test_events_that_differ_in_their_text_are_recognised_one_or_many_at_a_time(place):
    forms: Iterator[Any] = itertools.product(
        (b"\n", b"\r\n", b"\r"), (b"", b" "), (True, False), ({}, {"usage": None, "obfuscation": "aX9"})
    )
    for end, gap, spaced, more in forms:
        like = data(chunk(PLACES[place], **more), spaced=spaced, gap=gap)
        words = [json.dumps(word, ensure_ascii=False)[1:-1].encode() for word in WORDS]
        events = [with_line_ends(like.replace(b"@", word), end) for word in words]
        fast_path = with_pattern(events[0])
        assert [fast_path.count_matching(event) for event in events] == [1] * len(events)
        assert fast_path.count_matching(b"".join(events)) == len(events)


def test_event_with_a_name_of_its_own_and_comments_is_recognised_too():
    before = b": hi\nevent: message\n"
    assert with_pattern(before + HELLO).count_matching(2 * (before + text("you"))) == 2


UNLIKE = {
    "nothing": b"",
    "finish reason": data(chunk({"content": "x"}, finish="stop")),
    "another choice": data(chunk({"content": "x"}, index=1)),
    "usage": data(chunk({"content": "x"}, usage={"total_tokens": 1})),
    "error beside it": data(chunk({"content": "x"}, error={"message": "m"})),
    "tool call beside it": data(chunk({"content": "x", "tool_calls": []})),
    "another id": HELLO.replace(b"chatcmpl-7", b"chatcmpl-8"),
    "done": b"data: [DONE]\n\n",
    "comment": b": ping\n\n",
    "blank line": b"\n",
    "quote in the text": HELLO.replace(b"Hello", b'x"y'),
    "quote behind an escaped backslash": HELLO.replace(b"Hello", rb'x\\"y'),
    "half of a character": HELLO.replace(b"Hello", "é".encode()[:1]),
    "half of a surrogate pair in UTF-8": HELLO.replace(b"Hello", b"\xed\xa0\x80"),
    "unknown escape": HELLO.replace(b"Hello", rb"a\q"),
    "cut escape": HELLO.replace(b"Hello", rb"\u12"),
    "tab in the text": HELLO.replace(b"Hello", b"a\tb"),
    "NUL in the text": HELLO.replace(b"Hello", b"\0"),
    "raw line end in the text": HELLO.replace(b"Hello", b"x\n\ndata: [DONE]\n\nx"),
    "raw CR in the text": HELLO.replace(b"Hello", b"x\rdata: y\r\rx"),
    "text that never ends": HELLO.replace(b'Hello"', b'x\\"'),
    "text that never begins": HELLO.replace(b'"Hello"', b'"'),
    "missing blank line": HELLO[:-1],
    "another line end": with_line_ends(HELLO, b"\r\n"),
    "blank line too many": HELLO + b"\n",
    "half of a second": HELLO + HELLO[:100],
}


def test_run_with_anything_unlike_is_not_recognised():
    for name, unlike in UNLIKE.items():
        fast_path = with_pattern(HELLO)
        assert fast_path.count_matching(HELLO) == 1
        runs = [unlike, *((HELLO + unlike + HELLO, unlike + HELLO, HELLO + unlike) if unlike else ())]
        assert [fast_path.count_matching(run) for run in runs] == [0] * len(runs), name


def test_text_of_one_event_cannot_make_up_for_what_another_lacks():
    two_holes = data(chunk({"content": "a"}, obfuscation="b"))
    fast_path = with_pattern(two_holes)
    middle = two_holes[two_holes.index(b'a"') + 1 : two_holes.index(b'b"')]
    lacking = two_holes.replace(b"a" + middle, b"")
    doubled = two_holes.replace(b"a" + middle, b"a" + middle + b"a" + middle)
    assert fast_path.count_matching(two_holes + two_holes) == 2
    assert fast_path.count_matching(doubled + lacking) == 0
    assert fast_path.count_matching(lacking + doubled) == 0


def test_event_without_text_or_too_large_is_not_learned():
    for block in (data(chunk({"role": "assistant"})), text("x" * MAX_BYTES)):
        assert with_pattern(block).count_matching(block) == 0


def test_fast_path_stops_after_unused_patterns():
    fast_path = FastPath()
    blocks = [HELLO.replace(b"chatcmpl-7", b"chatcmpl-%d" % number) for number in range(20)]
    for number, block in enumerate(blocks):
        assert fast_path.count_matching(block) == 0
        fast_path.set_pattern(block, number + 1)
    assert [fast_path.count_matching(block) for block in blocks] == [0] * 7 + [1] + [0] * 12


# --- the arguments of a tool call -----------------------------------------------------------------


def a_call(piece: str, **more: Any) -> bytes:
    return data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, **more))


def noted_in(taken: list[str]) -> Callable[[str], bool]:
    def note(arguments: str) -> bool:
        taken.append(arguments)
        return True

    return note


@pytest.mark.parametrize("more", [{}, {"obfuscation": "aX9"}], ids=["alone", "padded"])
def test_arguments_of_events_that_pass_are_handed_over(more):
    pieces, taken = ['{"a', '":"\\"', "größer 🚀\n", '"', "}"], list[str]()
    fast_path = FastPath()
    fast_path.set_pattern(a_call("", **more), 1, noted_in(taken))
    events = [a_call(piece, **more) for piece in pieces]
    assert [fast_path.count_matching(event) for event in events] == [1] * len(events)
    assert taken == pieces
    assert fast_path.count_matching(b"".join(events)) == len(events)
    assert "".join(taken) == 2 * "".join(pieces)


def test_event_whose_arguments_are_not_taken_is_not_recognised():
    fast_path = FastPath()
    fast_path.set_pattern(a_call(""), 1, lambda text_value: text_value != "x")
    assert [fast_path.count_matching(a_call(one)) for one in ("y", "x", "y")] == [1, 0, 1]
    fast_path.forget()
    assert fast_path.count_matching(a_call("y")) == 0


SGLANG = {"id": None, "index": 0, "type": None, "function": {"name": None, "arguments": "@"}}


@pytest.mark.parametrize("more", [{}, {"obfuscation": "aX9"}], ids=["alone", "padded"])
def test_events_that_pass_are_changed_as_the_one_before(more):
    given = data(chunk({"tool_calls": [SGLANG]}, **more), spaced=True)
    like = a_call("@", **more)
    fast_path, taken = FastPath(), list[str]()
    fast_path.set_pattern(given, 1, noted_in(taken), like)
    words = [rb"{\"id\":null,\"a", "größer 🚀".encode(), b"", rb"\u00e9\\"]
    run = b"".join(given.replace(b"@", word) for word in words)
    assert fast_path.count_matching(run) == len(words)
    assert fast_path.changed(run) == b"".join(like.replace(b"@", word) for word in words)
    assert "".join(taken) == '{"id":null,"agrößer 🚀é\\'
    fast_path.set_pattern(like, 2, noted_in(taken))
    assert (fast_path.count_matching(like), fast_path.changed(like), fast_path.changes) == (1, like, ())


def test_an_event_that_is_repaired_in_the_number_of_its_texts_is_not_learned():
    fast_path = FastPath()
    fast_path.set_pattern(a_call("x"), 1, lambda _: True, a_call("x", obfuscation="y"))
    assert fast_path.count_matching(a_call("x")) == 0


def test_a_repair_at_one_of_two_alike_places_is_not_learned():
    given = data({"choices": [{"delta": {"content": text}} for text in "abc"] + [{"delta": {"arguments": "{"}}]})
    sent = given.replace(b'},{"delta":{"content":"b"', b'},{"index":1,"delta":{"content":"b"', 1)
    assert sent != given
    fast_path = FastPath()
    fast_path.set_pattern(given, 1, lambda _: True, sent)
    assert (fast_path.count_matching(given), fast_path.changes) == (0, ())


DOUBTFUL = {
    "a second member of the name": a_call("{", arguments="x"),
    "one that is no text": a_call("{", arguments=None),
    "the name in a value": a_call("{", kind="arguments"),
    "an escaped name": a_call("{").replace(b'"arguments"', rb'"argument\u0073"'),
    "an escaped name beside it": a_call("{").replace(b'"arguments"', rb'"\u0061rguments":"x","arguments"'),
    "a line end before it": a_call("{").replace(b'"arguments":', b'"arguments":\ndata: '),
    "none": HELLO,
}


@pytest.mark.parametrize("block", DOUBTFUL.values(), ids=DOUBTFUL)
def test_event_in_which_the_arguments_are_not_sure_is_not_learned(block):
    fast_path = with_pattern(HELLO)
    fast_path.set_pattern(block, 2, lambda _: True)
    assert [fast_path.count_matching(one) for one in (block, HELLO)] == [0, 0]


FILLINGS = st.lists(
    st.binary(max_size=4)
    | st.text(max_size=4).map(lambda written: json.dumps(written, ensure_ascii=False)[1:-1].encode())
    | st.sampled_from([b'"', b"\\", b"\\\\", b'\\"', b"\n", b"\t", b"\0", b"\x7f", b'"},"x":{"y":"'])
    | st.sampled_from([rb"\q", rb"\u12", rb"\u12g4", rb"\u0041", rb"\ud83d", rb"\uDE80", rb"\U0041", rb"\x41", rb"\'"])
    | st.sampled_from(["é".encode()[:1], "é".encode()[1:], "é".encode(), "🚀".encode()[:2], "🚀".encode()[2:]])
    | st.sampled_from([b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\xff"]),
    max_size=4,
).map(b"".join)
"""Bytes between the quotes of a text, often invalid ones: halves of characters and escapes, control characters."""


def is_valid_event(event: bytes) -> bool:
    """Whether the parser accepts `event` as a first event."""
    stream = new_stream()
    stream.feed(event)
    return stream.failure is None and stream.events == 1


@given(st.lists(FILLINGS, min_size=1, max_size=3), st.sampled_from([b"", b'"b"']))
@example(["é".encode()[:1], "é".encode()[1:]], b"")
@example([rb"\u00", b"41"], b"")
@example([b"\\"], b'"b"')
def test_fast_path_accepts_only_what_the_parser_accepts(fillings: list[bytes], obfuscation: bytes):
    """The same bytes pass as a first event and as a later one, alone and in a run of events."""
    more: dict[str, Any] = {"obfuscation": "b"} if obfuscation else {}
    like = data(chunk({"content": "Hello"}, **more))
    events = [like.replace(b"Hello", filling).replace(b'"b"', b'"%b"' % filling) for filling in fillings]
    run = b"".join(events)
    if b"\n" in run.replace(b"\n\n", b"") or b"\r" in run or not all(event.count(b"\n") == 2 for event in events):
        assert with_pattern(like).count_matching(run) == 0
        return
    for event in events:
        assert is_valid_event(event) or not with_pattern(like).count_matching(event)
    assert all(map(is_valid_event, events)) or not with_pattern(like).count_matching(run)
    after = new_stream()
    after.feed(like + like)
    after.feed(events[0])
    assert (after.failure is None and after.events == 3) == is_valid_event(events[0])


@given(FILLINGS)
def test_recognised_means_the_same_json_but_for_the_text(filling: bytes):
    """Any bytes instead of the text: an event that is recognised is JSON and differs only in that text."""
    run = HELLO.replace(b"Hello", filling)
    if not with_pattern(HELLO).count_matching(run):
        return
    payload = json.loads(run[6:])
    payload["choices"][0]["delta"]["content"] = "Hello"
    assert payload == json.loads(HELLO[6:])
