"""The end of a stream: cut after every byte, it never looks complete unless it is."""

import json
from collections.abc import Iterator

import pytest

from gatepass.errors import UpstreamClosed, UpstreamEmpty
from gatepass.protocols.responses import ResponseProgress
from tests.unit.sse.repair_streams import new_repair, payloads
from tests.unit.sse.streams import (
    DONE,
    REALISTIC,
    chunk,
    client_reads,
    code,
    data,
    looks_finished,
    new_stream,
    text,
    with_line_ends,
)

HELLO, END = text("Hello"), data(chunk({}, finish="stop"))
BROKEN = UpstreamClosed("broken", upstream="chat")
USAGE = data(chunk(None, usage={"total_tokens": 3}))


def is_finished(part: bytes, events: list[bytes]) -> bool:
    """Return whether every choice in the whole events of `part` has its finish reason there, according to `events`."""
    seen, finished, at = set(), set(), 0
    for event in events:
        at += len(event)
        payload = event.strip().removeprefix(b"data: ")
        # An event needs no blank line where the body ends whole: its JSON is whole.
        if at - (len(event) - len(event.rstrip())) > len(part) or payload == b"[DONE]":
            break
        for choice in json.loads(payload)["choices"]:
            seen.add(choice["index"])
            if choice["finish_reason"]:
                finished.add(choice["index"])
    return bool(seen) and seen == finished


def cuts(end: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """The stream cut after every byte, or around each of its other line ends."""
    events = [with_line_ends(event, end) for event in REALISTIC]
    whole = b"".join(events)
    for at in range(len(whole) + 1):
        if end == b"\n" or b"\r" in whole[max(at - 2, 0) : at + 2]:
            yield whole[:at], events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_stream_whose_body_ends_after_any_byte_is_finished_only_if_its_choices_are(end):
    outcomes = set()
    for part, events in cuts(end):
        stream = new_stream()
        out = stream.feed(part)
        last = stream.finish()
        should = is_finished(part, events)
        assert looks_finished(out + last) is stream.done is (stream.failure is None) is should, part
        assert part.startswith(out)
        outcomes.add(should)
    assert outcomes == {True, False}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_stream_that_breaks_after_any_byte_is_finished_only_after_a_whole_done(end):
    for part, events in cuts(end):
        stream = new_stream()
        out = stream.feed(part)
        stream.fail(BROKEN)
        should = part == b"".join(events)
        assert looks_finished(out) is stream.done is should, part
        assert stream.failure is (None if should else BROKEN)
        assert (stream.finish(), stream.feed(HELLO)) == (b"", b"")


ODD_INDICES = [
    b"".join(data({"choices": choices}) for choices in events)
    for events in (
        [[{"index": "x", "delta": {}, "finish_reason": "stop"}]],
        [[{"index": True, "delta": {}}], [{"index": 0, "delta": {}, "finish_reason": "stop"}]],
        [["odd", None, {"delta": {}}], [{"index": 0, "delta": {}, "finish_reason": "stop"}]],
        [[{"index": 5000, "delta": {}}], [{"index": -3, "delta": {}, "finish_reason": "stop"}]],
    )
]
"""What is no index is 0, and all indices beyond the limit are one choice."""


@pytest.mark.parametrize(
    ("body", "expected", "adapted"),
    [
        (HELLO + END, HELLO + END + DONE, ("sse=done",)),
        (HELLO + END + USAGE, HELLO + END + USAGE + DONE, ("sse=done",)),
        (HELLO + END[:-2], HELLO + END + DONE, ("sse=last-event", "sse=done")),
        (HELLO + END[:-1], HELLO + END + DONE, ("sse=last-event", "sse=done")),
        (HELLO + b"data: [DONE]", HELLO + DONE, ("sse=last-event",)),
        (HELLO + b"data: [DONE]\n", HELLO + DONE, ("sse=last-event",)),
        (HELLO + b"data: [DONE]\r", HELLO + b"data: [DONE]\r\n\n", ("sse=last-event",)),
        (HELLO + b"data: [DONE]\r\n", HELLO + b"data: [DONE]\r\n\n", ("sse=last-event",)),
        (HELLO + b"data: [DONE]\r\n\r", HELLO + b"data: [DONE]\r\n\r", ()),
        (HELLO + END + USAGE[:40], HELLO + END + DONE, ("sse=done",)),
        (HELLO + END + b"data: [DON", HELLO + END + DONE, ("sse=done",)),
        (HELLO + END + b": ping", HELLO + END + DONE, ("sse=done",)),
        (HELLO + END + b"\r", HELLO + END + DONE, ("sse=done",)),
        (b"\xef\xbb\xbf" + END[:-2], END + DONE, ("sse=bom", "sse=last-event", "sse=done")),
        (HELLO + END + b"data:", HELLO + END + DONE, ("sse=done",)),
        *((body, body + DONE, ("sse=done",)) for body in ODD_INDICES),
    ],
)
def test_body_that_ended_whole_after_its_answer_is_brought_to_its_end(body, expected, adapted):
    stream = new_stream()
    out = stream.feed(body) + stream.finish()
    assert (out, stream.done, stream.failure, stream.adapted) == (expected, True, None, adapted)
    assert client_reads(out)[-1] == "[DONE]"
    assert (stream.feed(HELLO), stream.finish()) == (b"", b"")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "upstream_empty"),
        (b"\n\n", "upstream_empty"),
        (b": ping\n\n", "upstream_empty"),
        (b"data: [DONE]\n\n", "upstream_empty"),
        (b"data: [DONE]", "upstream_empty"),
        (data({"type": "ping"}) + DONE, "upstream_empty"),
        (USAGE, "upstream_empty"),
        (USAGE + DONE, "upstream_empty"),
        (HELLO[:20], "upstream_closed"),
        (HELLO, "upstream_closed"),
        (HELLO[:-1], "upstream_closed"),
        (HELLO + USAGE, "upstream_closed"),
        (HELLO + data(chunk({}, finish="")), "upstream_closed"),
        (HELLO + END + data(chunk({"content": "late"}, index=1)), "upstream_closed"),
    ],
)
def test_body_that_ended_whole_without_its_answer_is_a_failure(body, expected):
    stream = new_stream()
    out = stream.feed(body) + stream.finish()
    assert (code(stream), stream.done) == (expected, False)
    assert not looks_finished(out)


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize(
    "last",
    [
        {**chunk(None), "choices": []},
        {"object": "chat.completion.chunk", "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"choices": None},
        {},
    ],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_finish_reason_without_choices_is_that_of_the_choice(last, reason, is_wrapped):
    event = {**last, "finish_reason": reason}
    stream = new_stream(repair=new_repair(include_usage=None))
    out = stream.feed(HELLO + data({"code": 0, "data": event} if is_wrapped else event)) + stream.finish()
    assert (stream.done, stream.failure) == (True, None)
    assert {"sse=done", "repair=wrapped"} <= {*stream.adapted}
    end = payloads(out)[-2]
    assert (end["choices"], "finish_reason" in end) == ([{"index": 0, "delta": {}, "finish_reason": reason}], False)


LIKE_DONE = [
    *(b"done", b"DONE", b"Done", b'"[DONE]"', b'"done"', b"[done]", b"'[DONE]'", b"[[DONE]]", b"[ DONE ]"),
    *(b'["DONE"]', b"<|done|>", b"[DONE].", b'"\\"[DONE]\\""'),
]
UNLIKE_DONE = [b"[END]", b"done:", b"undone", b"done1", b"(done) (done)", b"-" * 9 + b"done"]


@pytest.mark.parametrize("mark", LIKE_DONE)
@pytest.mark.parametrize("name", [b"", b"event: done\n"])
def test_an_end_mark_in_another_spelling_ends_a_stream_that_is_complete(name, mark):
    for blank in (b"\n\n", b"\n", b""):  # the last two lack the blank line of the last event
        stream = new_stream()
        out = stream.feed(HELLO + END + name + b"data: " + mark + blank)
        assert stream.done is (blank == b"\n\n"), "without waiting for the end of the body"
        assert (out + stream.finish(), stream.failure, "sse=done" in stream.adapted) == (HELLO + END + DONE, None, True)


@pytest.mark.parametrize("mark", [*LIKE_DONE, *UNLIKE_DONE])
@pytest.mark.parametrize("lacking", [b"", HELLO, HELLO + END + data(chunk({"content": "late"}, index=1))], ids=len)
@pytest.mark.parametrize("repair", [False, True])
def test_an_end_mark_in_another_spelling_ends_no_stream_that_was_cut(lacking, mark, repair):
    """`[DONE]` itself would end one whose choices have content: a repair adds their finish reasons."""
    stream = new_stream(repair=new_repair() if repair else None)
    out = stream.feed(lacking + b"data: " + mark + b"\n\n") + stream.finish()
    expected = ("upstream_closed" if lacking else "upstream_empty") if mark in LIKE_DONE else "upstream_invalid"
    assert (code(stream), stream.done, looks_finished(out)) == (expected, False, False)


@pytest.mark.parametrize("sent", [b'data: "done"\n\n', b'data: "[DONE]"\n\n'])
def test_a_stream_of_another_kind_may_have_such_an_event(sent):
    stream = new_stream(done_is_required=False)
    assert stream.feed(sent + sent) + stream.finish() == sent + sent
    assert (stream.done, stream.failure) == (False, None)


def test_every_requested_choice_must_be_finished():
    one, two = HELLO + END, data(chunk({"content": "x"}, finish="stop", index=1))
    lacking, whole = new_stream(choices=2), new_stream(choices=2)
    assert lacking.feed(one) + lacking.finish() == one
    assert code(lacking) == "upstream_closed"
    assert whole.feed(one + two) + whole.finish() == one + two + DONE


@pytest.mark.parametrize(
    ("body", "expected", "failure"),
    [
        (HELLO, HELLO, None),
        (HELLO[:-2], HELLO, None),
        (data({"type": "response.completed"}), data({"type": "response.completed"}), None),
        (DONE, DONE, None),
        (b"", b"", "upstream_empty"),
        (b": ping\n\n", b": ping\n\n", "upstream_empty"),
        (HELLO[:20], b"", "upstream_closed"),
        (HELLO + HELLO[:20], HELLO, "upstream_closed"),
    ],
)
def test_stream_that_needs_no_done_ends_with_its_body(body, expected, failure):
    stream = new_stream(done_is_required=False)
    assert stream.feed(body) + stream.finish() == expected
    assert code(stream) == failure
    assert stream.feed(HELLO) == b""


ROLE_ONLY = data(chunk({"role": "assistant", "content": ""}))


NUMBERS = [
    b'data: {"choices":[{"index":"","delta":{"role":"assistant","content":%b},"finish_reason":%b}]}\n\n'
    % ((number,) * 2)
    for number in (b"1e400", b"0.5", b"true")
]
"""Found by the fuzzer: a number beyond a float is null once it is written again, so it is not output."""


@pytest.mark.parametrize(
    "silent", [data({"choices": [{}]}), data({"choices": ["hi"]}), ROLE_ONLY, ROLE_ONLY * 3, *NUMBERS]
)
def test_done_after_nothing_but_a_role_is_an_empty_answer(silent):
    stream = new_stream()
    out = stream.feed(silent + DONE)
    assert (code(stream), stream.done, looks_finished(out)) == ("upstream_empty", False, False)


def test_the_error_in_every_choice_ends_the_stream_and_in_one_of_several_nothing():
    """As OpenRouter reports that a provider failed."""
    failed = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"message": "Provider down"}}
    stream = new_stream()
    assert stream.feed(HELLO + data({"choices": [{"index": 1, "delta": {"content": "a"}}, failed]})) != HELLO
    assert stream.failure is None
    assert stream.feed(data({"choices": [failed]}) + DONE) == b""
    assert str(stream.failure) == "Provider down"


LAST_TYPED = b'data: {"type":"response.completed"}\n\n'


@pytest.mark.parametrize(
    "tail", [b"data: garbage not json\n\n", b'event: error\ndata: {"message":"late"}\n\n', LAST_TYPED]
)
@pytest.mark.parametrize("gap", [0, 1])
def test_bytes_after_the_last_typed_event_are_ignored(tail, gap):
    stream = new_stream(done_is_required=False, progress=ResponseProgress())
    pieces = [LAST_TYPED, tail] if gap else [LAST_TYPED + tail]
    assert b"".join(map(stream.feed, pieces)) + stream.finish() == LAST_TYPED
    assert (stream.done, stream.failure, stream.events) == (True, None, 1)


@pytest.mark.parametrize(
    ("sent", "error"), [(b"", UpstreamEmpty), (data({"type": "response.created"}), UpstreamClosed)]
)
@pytest.mark.parametrize("mark", [b"[DONE]", *LIKE_DONE])
def test_done_ends_a_stream_that_lacks_its_last_event_at_once(sent, error, mark):
    stream = new_stream(done_is_required=False, progress=ResponseProgress())
    stream.feed(sent + b"data: %b\n\n" % mark)
    assert type(stream.failure) is error
    assert not stream.done


@pytest.mark.parametrize(
    "event",
    [
        {"status": "failed"},
        {"status": "FAILED", "data": "zebra"},
        {"ret": -1, "msg": "zebra"},
        {"success": "false", "message": "zebra"},
        {"message": "zebra"},
        "zebra",
        [{"code": "E1", "message": "zebra"}],
    ],
)
@pytest.mark.parametrize("before", [b"", HELLO])
def test_an_event_with_words_before_the_end_of_an_open_answer_is_why_it_ends(event, before):
    stream = new_stream(repair=new_repair())
    out = stream.feed(before + data(event) + DONE) + stream.finish()
    assert stream.failure is not None
    assert DONE not in out
    assert ("zebra" in stream.failure.message) is ("zebra" in json.dumps(event))
    whole = new_stream(repair=new_repair())
    out = whole.feed(HELLO + END + data({"message": "bye"}) + DONE) + whole.finish()
    assert whole.failure is None, "after a finish reason it is no reason"
