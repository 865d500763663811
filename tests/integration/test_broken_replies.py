"""A reply that breaks off in the middle, in the words of the error."""

import logging

import pytest

from gatepass.proxy import response
from tests.integration.answers import EVENTS
from tests.integration.gateway import CHAT, HELLO, gateway, relaying
from tests.integration.scripted import Fin, Scripted, Send, chunk, head, reply, stream

SECRET = "upstream-token-0123456789"
BEGUN = {
    CHAT: stream(EVENTS[0], end=b""),
    "/v1/audio/speech": head(200, content_type="audio/mpeg", transfer_encoding="chunked") + chunk(b"abc"),
}


@pytest.mark.parametrize("path", BEGUN)
async def test_a_token_in_what_broke_a_reply_is_masked_in_its_error(path: str, caplog: pytest.LogCaptureFixture):
    """The HTTP library behind a proxy quotes the bytes that it could not read."""
    caplog.set_level(logging.INFO, "gatepass")
    async with Scripted([Send(BEGUN[path]), Send(SECRET.encode() + b"\r\n"), Fin()]) as proxy:
        far = {"base_url": "http://127.0.0.1:9/v1", "credential": "corp", "network": {"proxy": proxy.url}}
        credentials = {"corp": {"type": "static", "token": SECRET}}
        async with gateway(upstreams={"far": far}, credentials=credentials) as gp:
            await gp.ask({**HELLO, "stream": True, "input": "a"}, path).answer()
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request"]
    assert (fields["code"], "invalid HTTP" in fields["reason"], SECRET in fields["reason"]) == (
        *("upstream_invalid", True, False),
    )


async def test_a_reply_of_too_many_values_is_relayed_unchecked(monkeypatch):
    monkeypatch.setattr(response, "MOST_CHECKED_VALUES", 1000)
    numbers, space = b"[" + b"0," * 600 + b"0]", b" " * response.LARGE_REPLY_BYTES
    few, many = b'{"a":%b%b}' % (space, numbers), b'{"a":%b,%b"b":%b}' % (numbers, space, numbers)
    async with relaying([Send(reply(few))], [Send(reply(many))]) as (_, served):
        answers = [await served.ask({**HELLO, "input": "x"}, "/v1/moderations").answer() for _ in range(2)]
    assert [(answer.status, answer.headers.get("x-gatepass-adapted")) for answer in answers] == [
        (200, None),
        (200, response.UNCHECKED_REPLY),
    ]
    assert answers[1].body == many
