"""What the client receives of the lines of an event beside its data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.observability.redaction import MASK, Redactor
from gatepass.sse.chunk import StreamSource
from gatepass.sse.event import LARGE_EVENT_BYTES, MOST_ESCAPED, public_lines
from gatepass.sse.event_stream import LINES, TURN_LINES, EventStream
from tests.unit.sse.streams import DONE, chunk, code, data, read_error, text

KEY = "a-key-of-query/1"
REDACTOR = Redactor()
REDACTOR.learn(KEY)
SECRET = KEY.encode()
ESCAPED = (b"a-key-of-query%2F1", b"a-key-of-query\\u002f1", b"YS1rZXktb2YtcXVlcnkvMQ==")
HELLO, YOU, END = text("Hello"), text("you"), data(chunk({}, finish="stop"))


def new(**more) -> EventStream:
    return EventStream(StreamSource("chat", 8 * LARGE_EVENT_BYTES, read_error, mask=REDACTOR.mask), **more)


def relayed(*pieces: bytes, **more) -> tuple[bytes, EventStream]:
    stream, out = new(**more), b""
    for piece in pieces:
        out += stream.feed(piece)
        while stream.waiting:
            out += stream.feed()
    return out + stream.finish(), stream


def at_splits(whole: bytes) -> set[tuple[bytes, tuple[str, ...]]]:
    cuts = ([whole[:at], whole[at:]] for at in range(0, len(whole), 7))
    return {(out, stream.adapted) for out, stream in (relayed(*cut) for cut in cuts)}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("secret", [SECRET, *ESCAPED])
def test_a_secret_beside_the_data_is_masked_and_a_comment_with_one_is_its_colon(secret, end):
    mask = MASK.encode()
    sent = (
        *(b"id: x-" + secret + b"\n" + HELLO, b"id: y-" + secret + b"\n" + YOU, b"id: z\n" + YOU),
        *(
            b"event: e-" + secret + b"\n" + YOU,
            b": say " + secret + b"\n: ok\n" + YOU,
            b":" + secret + b"\ndata:\n\n",
            END,
        ),
    )
    expected = (
        *(b"id: x-" + mask + b"\n" + HELLO, b"id: y-" + mask + b"\n" + YOU, b"id: z\n" + YOU),
        *(b"event: e-" + mask + b"\n" + YOU, b":\n: ok\n" + YOU, b":\n", END),
    )
    whole, wanted = (b"".join(one).replace(b"\n", end) for one in (sent, expected))
    found = at_splits(whole + DONE)
    assert found == {(wanted + DONE, (LINES, "sse=empty-data"))}


def test_a_comment_that_is_no_event_holds_no_secret():
    sent = b": ping\n\n:" + SECRET + b"\n\n: ping\n\n" + HELLO + END + DONE
    assert at_splits(sent) == {(sent.replace(SECRET, b""), (LINES,))}


@pytest.mark.parametrize("line", [b"vendor: x", b"Vendor-X:1", b"words of a proxy", b"[1]", b"datas: x", b" data: x"])
def test_a_line_that_the_format_does_not_define_is_left_out(line):
    sent = line + b"\n\n" + line + b"\n" + HELLO + b"event: e\n" + line + b"\n: c\n" + YOU + END + DONE
    assert at_splits(sent) == {(HELLO + b"event: e\n: c\n" + YOU + END + DONE, (LINES,))}


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        (b'{"error": {"message": "no room"}}', "no room"),
        (b'{"message": "no room", "code": 500}', "no room"),
    ],
)
def test_a_line_is_read_for_an_error_before_it_is_left_out(line, failure):
    out, stream = relayed(HELLO, line + b"\n\n", YOU)
    assert (out, stream.failure is not None and failure in stream.failure.message) == (HELLO, True)
    assert (code(stream), line in out) == ("upstream_error", False)


@pytest.mark.parametrize("line", [b'error: {"message": "no room"}', b"error: no room", b"the engine has no room"])
def test_another_text_is_the_reason_of_a_cut_and_is_left_out(line):
    out, stream = relayed(HELLO, line + b"\n\n", DONE)
    assert (out, stream.failure is not None and "no room" in stream.failure.message) == (HELLO, True)
    assert code(stream) == "upstream_error"
    out, stream = relayed(HELLO, line + b"\n\n", YOU, END, DONE)
    assert (out, stream.failure) == (HELLO + YOU + END + DONE, None)


def test_a_large_event_and_the_last_one_hold_no_secret_beside_their_data():
    large = data(chunk({"content": "a" * (LARGE_EVENT_BYTES + 1)}))
    sent = b"id: " + SECRET + b"\n:" + SECRET + b"\nvendor: x\n" + large
    out, stream = relayed(HELLO, sent, END, DONE)
    assert out == HELLO + b"id: ***\n:\n" + large + END + DONE
    assert (stream.failure, stream.adapted) == (None, (LINES,))
    out, _ = relayed(HELLO, b":" + SECRET + b"\nvendor: x\n" + END.rstrip())
    assert out == HELLO + b":\n" + END + DONE


def test_usage_after_done_brings_no_secret():
    usage = data({**chunk({}), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    out, stream = relayed(HELLO, END, DONE, b":" + SECRET + b"\nvendor: x\n" + usage, wants_usage=True)
    assert (out, stream.done) == (HELLO + END + b":\n" + usage + DONE, True)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([b"id: %d", b"event: e%d", b": c %d & 50%%", b"retry: %d", b"id:", b":", b":x"])),
            st.sampled_from([HELLO, YOU, text("漢\\n")]),
        ),
        max_size=9,
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.integers(1, 200),
)
def test_a_standard_stream_keeps_its_bytes(events, end, size_bytes):
    lines = [
        b"".join((one % at if b"%" in one else one) + b"\n" for one in beside) + event
        for at, (beside, event) in enumerate(events)
    ]
    whole = (b"".join(lines) + END + DONE).replace(b"\n", end)
    out, stream = relayed(*(whole[at : at + size_bytes] for at in range(0, len(whole), size_bytes)))
    assert (out, stream.adapted, stream.failure) == (whole, (), None)


def test_a_new_secret_in_a_line_that_was_clean_in_another_form_is_found():
    stream = new()
    for comment in (b": one\n", b": one\n", b": " + SECRET + b"\n", b": one\n"):
        assert stream.feed(comment + YOU) == comment.replace(b" " + SECRET, b"") + YOU


def test_what_a_stream_keeps_of_clean_lines_is_bounded():
    stream = new()
    for number in range(3 * TURN_LINES):
        stream.feed(b": comment %d\n" % number + YOU)
        if stream.waiting:
            stream.feed()
    stream.feed(b":" + b"x" * 9_999 + b"\n" + YOU)
    assert sum(map(len, stream._clean)) < 64 * MOST_ESCAPED


def test_a_long_line_with_escapes_is_not_searched():
    """Neither does it pass: it may hold a secret."""

    def never(text: str) -> str:
        raise AssertionError(text[:40])

    long = b"%41" * MOST_ESCAPED
    assert public_lines(b":" + long + b"\nid: " + long + b"\ndata: " + long + b"\n\n", never) == (
        b":\nid: ***\ndata: " + long + b"\n\n"
    )
