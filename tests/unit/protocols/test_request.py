"""One request ─► Call."""

import pytest

from gatepass.errors import InvalidRequest
from gatepass.operations.table import OPERATIONS
from gatepass.protocols.request import decode
from gatepass.types import MAX_MODEL_CHARS, Call, ClientRequest

CHAT, EMBEDDINGS = OPERATIONS[:2]
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
        lacks_words=True,
        adapted=(),
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
        (b'{"model":5}', "`model` must be a string."),
        (b'{"model":["m"]}', "`model` must be a string."),
        (b'{"model":""}', "`model` is empty."),
        (b'{"model":"' + b"x" * 513 + b'"}', "`model` is longer than 512 characters."),
        (b'{"model":"a\\u0000"}', "`model` contains a control character."),
        (b'{"model":"a\\nb"}', "`model` contains a control character."),
        (b'{"model":"a\x7f"}', "`model` contains a control character."),
        ('{"model":"a\x85"}'.encode(), "`model` contains a control character."),
    ],
)
def test_invalid_model_name_is_refused(body, message):
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert (caught.value.message, caught.value.param) == (message, "model")


@pytest.mark.parametrize(("written", "stream"), [(b"true", True), (b"false", False), (b"null", False)])
def test_stream_is_true_false_or_null(written, stream):
    assert read(b'{"model":"m","stream":' + written + b"}").stream is stream


@pytest.mark.parametrize("written", [b'"true"', b"1", b"0", b"[]", b"{}", b'""'])
def test_any_other_stream_is_refused(written):
    with pytest.raises(InvalidRequest) as caught:
        read(b'{"model":"m","stream":' + written + b"}")
    assert (caught.value.message, caught.value.param) == ("`stream` must be true, false or null.", "stream")


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        *((b"1", 1), (b"2", 2), (b"128", 128)),
        *((b"0", 1), (b"129", 1), (b"-1", 1), (b"2.0", 1), (b"1e1", 1), (b"null", 1), (b'"3"', 1), (b"9" * 5000, 1)),
    ],
)
def test_choices_are_n_if_it_is_a_valid_number(written, choices):
    assert read(b'{"model":"m","n":' + written + b"}").choices == choices
