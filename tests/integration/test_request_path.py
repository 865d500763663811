"""The path of a request on real sockets: the request upstream and the response, byte for byte."""

from tests.integration.gateway import CHAT, HELLO, gateway
from tests.integration.scripted import Scripted, Send, event, reply, stream

COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}


async def test_request_without_an_applicable_rule_keeps_its_bytes():
    body = b'{ "messages":[{"role":"user","content":"\\u00e9 \\ud83d\\ude00"}],\n "x-unknown": 1e999, "model" : "m" }'
    async with Scripted([Send(reply(COMPLETION))]) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await gp.ask(body).answer()
    assert answer.status == 200
    assert upstream.received[0].body == body
    assert answer.body == reply(COMPLETION).partition(b"\r\n\r\n")[2]
    assert "x-gatepass-adapted" not in answer.headers


async def test_upstream_receives_the_token_and_never_the_clients_key():
    blocks = {
        "credentials": {"corp": {"type": "static", "token": "upstream-token"}},
        "access": {"keys": [{"name": "n", "hash": "sha256:" + "0" * 64}]},
    }
    async with Scripted([Send(reply(COMPLETION))]) as upstream:
        upstreams = {"chat": {"base_url": upstream.url + "/v1", "credential": "corp"}}
        async with gateway(upstreams=upstreams, credentials=blocks["credentials"]) as gp:
            headers = {"content-type": "application/json", "authorization": "Bearer client-key", "x-api-key": "other"}
            assert (await gp.ask(headers=headers).answer()).status == 200
    received = upstream.received[0]
    assert received.header("authorization") == "Bearer upstream-token"
    assert "client-key" not in str(received.headers)
    assert received.header("x-api-key") is None


async def test_stream_is_relayed_with_its_own_bytes():
    events = [
        event({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}),
        event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        event("[DONE]"),
    ]
    async with Scripted([Send(stream(*events))]) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await gp.ask({**HELLO, "stream": True}, CHAT).answer()
    assert (answer.status, answer.body, answer.whole) == (200, b"".join(events), True)
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store, no-transform"
