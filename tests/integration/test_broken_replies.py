"""A reply that breaks off in the middle, in the words of the error."""

import json
import logging
from typing import Any

import pytest

from gatepass.proxy import response
from tests.integration.answers import EVENTS, delta
from tests.integration.gateway import CHAT, HELLO, STREAMED, Answer, answer_from, gateway, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Scripted, Send, chunk, event, head, reply, stream

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


# --- cut before any text --------------------------------------------------------------------------


def named(payload: dict[str, Any]) -> bytes:
    return f"event: {payload['type']}\ndata: {json.dumps(payload)}\n\n".encode()


RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": "m", "output": []}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
}
ROLE, THOUGHT = delta(role="assistant", content=""), delta(reasoning_content="Hm.")
OF_CHAT = {
    "before an event": [],
    "behind a comment": [b": wait\n\n"],
    "behind a role": [ROLE],
    "behind a thought": [ROLE, THOUGHT],
}
STARTED = named({"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 1, "output_tokens": 0}}})
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
CREATED = named({"type": "response.created", "sequence_number": 0, "response": RESPONSE})
TEXT = event({"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": None}]})
CUTS: dict[tuple[str, bool], dict[str, list[bytes]]] = {
    (CHAT, False): OF_CHAT,
    ("/v1/completions", False): {"before an event": [], "behind an empty text": [TEXT]},
    ("/v1/messages", False): {
        "before an event": [],
        "behind its start": [STARTED],
        "behind a ping": [STARTED, named({"type": "ping"})],
        "behind an empty block": [STARTED, named(BLOCK)],
    },
    ("/v1/responses", False): {
        "before an event": [],
        "behind its creation": [CREATED],
        "in progress": [CREATED, named({"type": "response.in_progress", "sequence_number": 1, "response": RESPONSE})],
    },
    ("/v1/messages", True): OF_CHAT,
    ("/v1/responses", True): OF_CHAT,
}
"""By path, and whether chats serve it: what the upstream sent before the cut."""
ENDS: dict[str, Dialogue] = {
    "a connection that closes": [Fin()],
    "the end of the body": [Send(LAST_CHUNK)],
    "an end mark": [Send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)],
    "an error of its own": [Send(chunk(event({"error": {"message": "stream ID 1; INTERNAL_ERROR"}})) + LAST_CHUNK)],
}
ASKED_FOR: dict[str, dict[str, Any]] = {
    CHAT: dict(HELLO),
    "/v1/completions": {"model": "m", "prompt": "Hi"},
    "/v1/messages": {**HELLO, "max_tokens": 9},
    "/v1/responses": {"model": "m", "input": "Hi"},
}


def error_of(answer: Answer) -> dict[str, Any]:
    """The error of a whole reply, or the one that ends a stream of any protocol."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.error
    last = json.loads(answer.events[-1])
    found: dict[str, Any] = last.get("error") or last["response"]["error"]
    return found


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("path", "is_translated", "sent"),
    [(*how, sent) for how, cases in CUTS.items() for sent in cases.values()],
    ids=[
        f"{path}-{'translated' if over_chat else 'relayed'}-{name}"
        for (path, over_chat), cases in CUTS.items()
        for name in cases
    ],
)
async def test_a_cut_before_any_text_is_an_error_that_clients_repeat(path, is_translated, sent, end, is_stream):
    """SDKs and agents repeat a 5xx and these kinds, and give up at `invalid_request_error`."""
    begun = head(200, content_type="text/event-stream", transfer_encoding="chunked") + b"".join(map(chunk, sent))
    dialogue: Dialogue = [Send(begun), *ENDS[end]]
    async with relaying(*[dialogue] * 2, chat={"protocols": ["chat"]} if is_translated else {}) as (_, gp):
        answer = await gp.ask({**ASKED_FOR[path], "stream": is_stream}, path).answer()
    error = error_of(answer)
    has_begun = answer.headers["content-type"].startswith("text/event-stream")
    assert answer.status == (200 if has_begun else 502)
    assert error.get("type", "") in {"/v1/messages": ("api_error",), "/v1/responses": ("server_error", "")}.get(
        path, ("server_error", "upstream_error")
    )
    assert error["code"] in ("upstream_closed", "upstream_empty", "upstream_error")
    assert "x-should-retry" not in answer.headers
    assert not has_begun or is_stream
