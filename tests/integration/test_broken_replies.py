"""A reply that breaks off in the middle, in the words of the error."""

from __future__ import annotations

import logging

import pytest

from tests.integration.answers import EVENTS
from tests.integration.gateway import CHAT, HELLO, gateway
from tests.integration.scripted import Fin, Scripted, Send, chunk, head, stream

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
