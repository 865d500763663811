"""A reply that breaks off in the middle, in the words of the error."""

import logging

import pytest

from gatepass.proxy import response
from tests.integration.answers import EVENTS
from tests.integration.gateway import CHAT, HELLO, STREAMED, answer_from, gateway, relaying
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


LINE, SPOKEN = EVENTS[0].removeprefix(b"data: ")[:-1], {"model": "m", "input": "a", "voice": "x"}
VECTOR, RANKED = {"model": "e", "input": ["a"]}, {"model": "r", "query": "q", "documents": ["a"]}


@pytest.mark.parametrize(
    ("status", "kind", "body", "path", "asked", "words"),
    [
        (200, "application/x-ndjson", LINE * 2, CHAT, STREAMED, "`models.m.stream: emulate`"),
        (200, "text/event-stream", LINE * 2 + b"\n", CHAT, STREAMED, "JSON objects in lines"),
        (200, "application/json", b'{"done":false}\n{"done":true}', CHAT, HELLO, "JSON objects in lines"),
        (200, "application/jsonl", LINE + b'{"error":"GPU lost"}\n', CHAT, STREAMED, "GPU lost"),
        (200, "application/json", b'{"data":[{"embedding":[0.5,NaN,1]}]}', "/v1/embeddings", VECTOR, "float32"),
        (200, "application/json", b'{"data":[{"embedding":[0.5, null]}]}', "/v1/embeddings", VECTOR, "NaN"),
        (200, "application/json", b'{"data":{}, "usage":null}', "/v1/embeddings", VECTOR, 'no list "data"'),
        (200, "application/json", b'{"results":[{"index":0,"score":NaN}]}', "/v1/rerank", RANKED, "float32"),
        (200, "audio/mpeg", b'{"code":102,"message":"no voice"}', "/v1/audio/speech", SPOKEN, "no voice"),
        (200, "application/octet-stream", b' {"error":{"message":"quota"}}', "/v1/audio/speech", SPOKEN, "quota"),
        (500, "application/json", b'{"error":"roles must alternate user/assistant"}', CHAT, HELLO, "merge_roles"),
        (500, "text/plain", b"System message must be at the beginning.", CHAT, HELLO, "merge_roles"),
        (400, "application/json", b'{"error":"At most 0 image(s) may be provided"}', CHAT, HELLO, "Choose a model"),
        (404, "application/json", b'{"error":"No endpoints support image input"}', CHAT, HELLO, "Choose a model"),
        (413, "text/html", b"<html><title>413 Request Entity Too Large</title>", CHAT, HELLO, "client_max_body_size"),
        (413, "text/plain", b"", "/v1/embeddings", VECTOR, "client_max_body_size"),
    ],
)
async def test_the_error_names_the_cause_and_the_action(status, kind, body, path, asked, words):
    answer = await answer_from([Send(reply(body, status, content_type=kind))], asked, path)
    assert (answer.status >= 400, words in answer.error["message"]) == (True, True), answer.error


BAD_GATEWAY = b"<html>\n<title>502 Bad Gateway</title>\n<body></body></html>\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"error":{"message":"GPU lost"}}\n\n', "GPU lost"),
        (b'{"code":102,"message":"no such model"}', "no such model"),
        (b'{\n"message": "out of memory",\n"code": 500\n}\n\n', "out of memory"),
        (b'error: {"code":500,"message":"slot busy"}\n\n', "slot busy"),
        (b"upstream connect error or disconnect. reset reason: overflow\n\ndata: [DONE]\n\n", "upstream connect error"),
        (b'data: {"choices":[]}\nTimed out.\n\n', "Timed out."),
        (BAD_GATEWAY + b"\n", "502 Bad Gateway"),
    ],
)
@pytest.mark.parametrize("begun", [b": wait\n\n", EVENTS[0]])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_error_beside_the_events_keeps_its_words(begun, line, words, is_stream):
    answer = await answer_from([Send(stream(begun, line))], STREAMED if is_stream else HELLO)
    assert answer.error["message"].startswith(words)


@pytest.mark.parametrize("line", [b"1f4\r\n", b"vendor: x\n\n", b"OK\n\n"])
async def test_a_line_beside_complete_events_is_no_error(line):
    answer = await answer_from([Send(stream(line, EVENTS[0], line, *EVENTS[1:]))], STREAMED)
    assert (answer.status, answer.body.endswith(b"data: [DONE]\n\n"), b"error" in answer.body) == (200, True, False)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_line_before_the_events_is_no_reason_of_an_end_without_a_finish(is_stream):
    sent = Send(stream(b"starting up\n\n", EVENTS[0], EVENTS[-1]))
    answer = await answer_from([sent], STREAMED if is_stream else HELLO)
    assert (answer.status, b"error" in answer.body, b'"hi"' in answer.body) == (200, False, True)


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
