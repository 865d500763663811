"""`is_strict` accepts exactly the replies that need no repair."""

import json

import pytest

from gatepass.sse.whole_reply import is_strict
from tests.unit.sse.replies import CALL, CUSTOM, USAGE, chat, choice, text

LONE, NAN = rb'{"content": "\ud83d"}', b'{"content": NaN}'


@pytest.mark.parametrize(
    "reply",
    [
        chat(choice()),
        chat(choice(), usage=USAGE, service_tier=1, more=[None]),
        chat(choice(), usage=None),
        chat(choice(CALL), choice(CALL | {"id": "b"}, CALL, CUSTOM, index=1), choice(index=2)),
        chat(choice(content=[{"type": "text"}], tool_calls=None)),
        chat(choice(finish="function_call", function_call=CALL["function"])),
        text(),
        text(finish="length", logprobs=None),
    ],
)
def test_reply_that_clients_read_is_strict(reply):
    assert is_strict(json.dumps(reply).encode())


@pytest.mark.parametrize(
    "reply",
    [
        chat(choice(finish="eos")),
        chat(choice(CALL, finish="stop")),
        chat(choice(CALL, CALL)),
        chat(choice(CALL | {"type": "tool"})),
        chat(choice(), created=0),
        chat(choice(), id=""),
        chat(choice(), object="chat.completion.chunk"),
        chat(choice(), usage={"total_tokens": 1}),
        text(finish="tool_calls"),
        [],
    ],
)
def test_reply_that_clients_misread_is_not_strict(reply):
    assert not is_strict(json.dumps(reply).encode())


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf{}", LONE, NAN, b"[" * 100_000])
def test_json_of_the_lenient_parser_is_not_strict_and_not_an_error(body):
    assert not is_strict(body)
