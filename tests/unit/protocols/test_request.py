"""One request ─► Call, its header fields for the upstream, and the error for each invalid body."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import InvalidJson, InvalidRequest
from gatepass.json_body import CHECKED_BYTES, END_BYTES, SMALL_BYTES
from gatepass.protocols.operations import OPERATIONS
from gatepass.protocols.request import decode, read_body, safe_headers
from gatepass.types import MAX_MODEL_CHARS, Call, ClientRequest, EmbeddingsOptions
from tests.unit.protocols.json_texts import VALUES, written

CHAT = OPERATIONS[0]
HEADERS = ((b"host", b"localhost"), (b"authorization", b"Bearer client"), (b"x-request-id", b"r"))


def inbound(*headers: tuple[bytes, bytes]) -> ClientRequest:
    return ClientRequest("id-1", "POST", "/v1/chat/completions", headers or HEADERS, "127.0.0.1", 0.0)


def read(body: bytes) -> Call:
    return decode(inbound(), CHAT, body, "ragflow")


def test_a_chat_becomes_a_call_with_the_clients_own_bytes():
    body = b'{ "messages":[], "model":"gpt-4o", "stream": true, "n":2 }'
    call = decode(inbound(), CHAT, body, "ragflow")
    assert call == Call(
        id="id-1",
        operation=CHAT,
        caller="ragflow",
        model="gpt-4o",
        body=body,
        headers=((b"x-request-id", b"r"),),
        stream=True,
        choices=2,
        adapted=(),
        top=call.top,
    )
    assert call.body is body


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model":"org/Model-7B:free"}', "org/Model-7B:free"),
        (b'{"model":"\\u006d\\/x\\"\\ud83d\\ude00"}', 'm/x"😀'),
        ('{"model":"模型"}'.encode(), "模型"),
        (b'{"model":"' + b"x" * MAX_MODEL_CHARS + b'"}', "x" * MAX_MODEL_CHARS),
        (b'{"model":"' + rb"\ud83d\ude00" * MAX_MODEL_CHARS + b'"}', "\U0001f600" * MAX_MODEL_CHARS),
    ],
)
def test_the_model_is_what_the_string_states(body, model):
    assert read(body).model == model


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model":null}', "`model` must be a string."),
        (b'{"model":""}', "`model` is empty."),
        (b'{"model":"' + b"x" * 513 + b'"}', "`model` is longer than 512 characters."),
        (b'{"model":"a\\u0000"}', "`model` contains a control character."),
        (b'{"model":"a\x7f"}', "`model` contains a control character."),
        ('{"model":"a\x85"}'.encode(), "`model` contains a control character."),
        *(
            (b'{"model":"m","stream":%b}' % one, "`stream` must be true, false or null.")
            for one in (b'"true"', b"1", b"0", b"[]", b"{}", b'""')
        ),
    ],
)
def test_invalid_model_name_or_stream_is_refused(body, message):
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert (caught.value.message, caught.value.param) == (message, message.split("`")[1])


@pytest.mark.parametrize(("written", "stream"), [(b"true", True), (b"false", False), (b"null", False)])
def test_stream_is_true_false_or_null(written, stream):
    assert read(b'{"model":"m","stream":' + written + b"}").stream is stream


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        *((b"1", 1), (b"2", 2), (b"128", 128)),
        *((b"0", 1), (b"129", 1), (b"-1", 1), (b"2.0", 1), (b"1e1", 1), (b"null", 1), (b'"3"', 1), (b"9" * 5000, 1)),
    ],
)
def test_choices_are_n_if_it_is_a_valid_number(written, choices):
    assert read(b'{"model":"m","n":' + written + b"}").choices == choices


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b"accept",
                    b"x-tag",
                    b"x_tag",
                    b"host",
                    b"connection",
                    b"keep-alive",
                    b"content-encoding",
                    b"content-type",
                    b"authorization",
                    b"te",
                ]
            ),
            st.sampled_from(
                [b"", b"keep-alive", b"identity", b" Identity ", b"gzip", b"X-Tag, accept", b"close,content-type"]
            ),
        ),
        max_size=6,
    ).map(tuple)
)
def test_single_pass_keeps_the_same_headers_as_three(headers):
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    gone = {b"host", b"connection", b"keep-alive", b"content-encoding", b"authorization", b"te", *named}
    kept = tuple(field for field in headers if field[0] not in gone and b"_" not in field[0])
    assert safe_headers(headers) == kept


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidJson) as caught:
        read_body(body)
    return caught.value.message


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ('"input":["a","b"],"dimensions":256,"encoding_format":"base64"', EmbeddingsOptions(2, True, 256)),
        ('"input" : [ "a", [1] ],"dimensions":null', EmbeddingsOptions(2)),
        ('"user":{"input":["b","c"]},"input":[1,2,3]', EmbeddingsOptions(1)),
        ('"input":["b","c"],"input":"a"', EmbeddingsOptions(1)),
        ('"input":[[1],[2],[-3]]', EmbeddingsOptions(3)),
        ('"input":[-1,2]', EmbeddingsOptions(1)),
        ('"input":[]', EmbeddingsOptions(0)),
    ],
)
def test_embeddings_options_are_read(members: str, options: EmbeddingsOptions):
    assert EmbeddingsOptions.of(read_body(f'{{"model":"m",{members},"n":2}}'.encode())) == options


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "The body is an array. Send a JSON object."),
        (b' "x"', "The body is a string. Send a JSON object."),
        (b"\n5", "The body is a number. Send a JSON object."),
        (b"null", "The body is null. Send a JSON object."),
        (b"", "The body is empty. Send a JSON object."),
        (b'{"a":NaN}', "The body is not JSON: invalid character at byte 5."),
        (b'{"a":1,}', "The body is not JSON: trailing comma in object at byte 7."),
        (b'{"a":1} {', "The body is not JSON: trailing characters at byte 9."),
        (b'{"a":"\n"}', "The body is not JSON: invalid character at byte 6."),
        (b"{a:1}", "The body is not JSON: member names must be strings at byte 1."),
        (b'{"a":01}', "The body is not JSON: invalid number at byte 6."),
        (b"model=m&stream=true", "The body is not JSON: invalid character at byte 0."),
        (b'{"a":"x', "The body is not complete JSON: it ends at byte 7 in the middle of a value."),
        (b'{"a":"\\ud8"}', "The body is not JSON: invalid character in unicode escape at byte 11."),
    ],
)
def test_what_is_no_json_object_is_named_with_its_position(body, message):
    assert refusal(body) == message


WRONG = [rb"\x", rb"\ud800", rb"\ud800\u0041", rb"\u12", b"\x01", b"\xff"]


@pytest.mark.parametrize("value", [b'"%b"', b'["%b"]', b'{"%b":1}', b'"%b'])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("before", [b"1", b"1e999"])
def test_what_is_wrong_has_the_same_words_in_a_small_and_a_larger_body(value, wrong, before):
    messages = []
    for size in (0, SMALL_BYTES):
        with pytest.raises(InvalidJson) as caught:
            read_body(b'{"p":"%b","a":%b,"b":%b}' % (b"x" * size, before, value % wrong))
        text, *at = re.split(r"(?<=byte )(\d+)", caught.value.message, maxsplit=1)
        messages.append((text, int(at[0]) - size, *at[1:]))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("padding", [0, 1, 5, 6, 7, 40])
@pytest.mark.parametrize("half", [b"\\ud83d", b"\\ude00", b"\\uD83D\\u0041", b"\\ud83dx"])
def test_half_a_surrogate_pair_is_named(half, padding):
    assert "half of a surrogate pair" in refusal(b'{"a":"' + half + b'"' + b" " * padding + b"}")


@pytest.mark.parametrize(
    ("wrong", "at"), [(b"\xff", 0), (b"a\xc3", 1), (b"\xed\xa0\x80", 0), (b"\xf4\x90\x80\x80", 0), (b"\xc0\x80", 0)]
)
@pytest.mark.parametrize("before", [b"", "é".encode() * CHECKED_BYTES, b"x" + "é".encode() * CHECKED_BYTES])
def test_invalid_utf8_is_reported_with_its_position(wrong, at, before):
    start = b'{"a":"' + before
    assert refusal(start + wrong + b'"}').endswith(f" at byte {len(start) + at}.")


def test_a_byte_order_mark_is_named_and_utf16_refused():
    assert "byte order mark" in refusal(b'\xef\xbb\xbf{"model":"m"}')
    assert refusal('{"model":"m"}'.encode("utf-16")).startswith("The body is not UTF-8 text")


@pytest.mark.parametrize(
    "value",
    [
        *(b'"%b"' % pair for pair in (b"\\ud83d\\ude00", b"\\uD83D\\uDE00", "😀".encode(), b"\\\\ud83d")),
        *(b'"%b%b"' % (b"x" * shift, "😀€é".encode() * (CHECKED_BYTES // 4)) for shift in range(6)),
        *(b"1e999", b"9" * 5000, b"-0.0000000000000000001e-999"),  # Python's range is not the upstream's
        b"[" * 500 + b"]" * 500,  # nothing opens it
    ],
    ids=[*("pair", "pair in capitals", "character", "backslash"), *(f"window {shift}" for shift in range(6)),
         *("large", "long", "small", "500 levels")],
)  # fmt: skip
def test_a_value_at_a_bound_is_read_as_it_is(value):
    body = b'{"model":"m","a":' + value + b"}"
    assert read_body(body).text is body


@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deeper_nesting_than_the_decoder_reads_is_refused(opened, closed):
    body = b'{"a":' + opened * 100_000 + b"0" + closed * 100_000 + b"}"
    assert refusal(body) == "The body is nested deeper than 64 levels."


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        (b'{"model":"m","a":1,"model":"m"}', "model", "The body contains `model` 2 times. Send it once."),
        (b'{"stream":"m","a":1,"stream":"m"}', "stream", "The body contains `stream` 2 times. Send it once."),
        (b'{"model":"m","\\u006dodel":"x"}', "model", "The body contains `model` 2 times. Send it once."),
        (b'{"mode\\u006c":"x","model":"m"}', "model", "The body contains `model` 2 times. Send it once."),
        (b'{"mod\\u0065l":"x"}', "model", "The body spells `model` with escapes. Send it in plain letters."),
        (
            b'{"mod\\u0065l":"x","a\\"model":1}',
            "model",
            "The body spells `model` with escapes. Send it in plain letters.",
        ),
        (
            b'{"a":"%b","k":"model","mod\\u0065l":"x","b":"%b","c\\\\":1}' % (b"x" * 493, b"y" * 600),
            "model",
            "The body spells `model` with escapes. Send it in plain letters.",
        ),
        (b'{"\\u0073tream":true}', "stream", "The body spells `stream` with escapes. Send it in plain letters."),
    ],
)
def test_a_routing_member_that_is_repeated_or_in_escapes_is_refused(body, name, message):
    with pytest.raises(InvalidRequest) as caught:
        read_body(body)
    assert (caught.value.param, caught.value.message) == (name, message)


@pytest.mark.parametrize("name", ["model", "stream"])
@pytest.mark.parametrize("more", [0, END_BYTES])
@pytest.mark.parametrize("place", range(3))
def test_a_spelling_is_found_wherever_the_member_is(name, more, place):
    members = [b'"x":["%b",{"%b":1}]' % (b"x" * more, name.encode())] * 2
    for spelled in (f'"\\u{ord(name[0]):04x}{name[1:]}"', f'"{name}"'):
        one = spelled.encode() + (b':"m"' if name == "model" else b":true")
        body = b"{%b}" % b" , ".join([*members[:place], one, *members[place:]])
        if spelled == f'"{name}"':
            assert name in read_body(body).names
        else:
            with pytest.raises(InvalidRequest, match="with escapes"):
                read_body(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","metadata":{"model":"x","stream":1},"tools":[{"model":1}]}',
        b'{"model":"model","stream":true,"user":"stream"}',
        b'{"model":"m","text":"he said \\"model"}',
        b'{"model":"m","text":"\\u0060code\\u0060 \\u006d","model_type":"\\u006dodel"}',
        b'{"model":"m","tools":[{"Model":"x","STREAM":1,"stream":2}],"user":"N"}',
    ],
)
def test_routing_names_in_other_places_are_accepted(body):
    assert read_body(body).get("model") is not None


def strict(text: str) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@given(st.data())
def test_a_body_is_read_or_refused_as_the_standard_parser_would(data):
    """One wrong byte anywhere: gatepass accepts the body if and only if it is JSON."""
    body = bytearray(data.draw(written({"model": "m", "a": data.draw(VALUES)}, escaped_names=False)).encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'"\\{}[]:, \x00\x80\xffu0n-.e1'))
    try:
        expected = isinstance(strict(bytes(body).decode()), dict)
    except ValueError:
        expected = False
    try:
        read_body(bytes(body))
        was_read = True
    except InvalidRequest:
        was_read = expected
    except InvalidJson as error:
        was_read = expected and "surrogate" in error.message
    assert was_read == expected
