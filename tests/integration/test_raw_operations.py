"""Raw operations: forms and files pass in both directions, also to upstreams of other dialects."""

import asyncio
from typing import Any

import pytest

from gatepass.config.access import hash_key
from tests.integration.gateway import JSON, gateway, relaying
from tests.integration.raw import request, send_raw, status_of
from tests.integration.scripted import Fin, Pause, Scripted, Send, Wait, event, head, reply, stream

KEY = "gp-0123456789abcdef"
MARK = "b-1"
MIB = 1024 * 1024
FORM = {"content-type": f"multipart/form-data; boundary={MARK}"}
TRANSCRIPT = {"text": "you"}


def form(audio: bytes = b"RIFF", *, model: str | None = "w-1", first: bool = True) -> bytes:
    part = f'--{MARK}\r\nContent-Disposition: form-data; name="'
    named = f'{part}model"\r\n\r\n{model}\r\n'.encode() if model else b""
    file = f'{part}file"; filename="a.wav"\r\n\r\n'.encode() + audio + b"\r\n"
    return b"".join((named, file) if first else (file, named)) + f"--{MARK}--\r\n".encode()


def limited_to(models: list[str] | None) -> dict[str, Any]:
    """`access` with one key, which is for these models."""
    return {"keys": [{"name": "a", "hash": hash_key(KEY), "models": models}]}


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/audio/transcriptions", "/v1/v1/audio/transcriptions/"])
async def test_a_form_arrives_byte_for_byte(path):
    async with relaying(answer=lambda _: [Send(reply(TRANSCRIPT))]) as (upstream, gp):
        answer = await gp.ask(form(), path, headers=FORM).answer()
    assert answer.json() == TRANSCRIPT
    (received,) = upstream.received
    assert (received.method, received.target, received.body) == ("POST", "/v1/audio/transcriptions", form())
    assert received.header("content-type") == FORM["content-type"]
    assert received.header("content-length") == str(len(form()))


async def test_form_without_a_model_is_sent_to_its_operations_upstream():
    async with Scripted(answer=lambda _: [Send(reply(TRANSCRIPT))]) as upstream:
        upstreams = {name: {"base_url": f"{upstream.url}/{name}"} for name in ("chat", "ears")}
        operations = {"transcriptions": {"upstream": "ears"}}
        async with gateway(upstreams=upstreams, operations=operations, models={"m": {"upstream": "chat"}}) as gp:
            answer = await gp.ask(form(model=None), "/v1/audio/transcriptions", headers=FORM).answer()
            nowhere = await gp.ask(form(model=None), "/v1/audio/translations", headers=FORM).answer()
    assert answer.status == 200
    assert upstream.received[0].target == "/ears/audio/transcriptions"
    assert (nowhere.status, nowhere.error["code"]) == (404, "model_not_found")


FORM_PATHS = pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/files"])


@FORM_PATHS
async def test_a_form_is_held_whole_and_must_fit(path):
    """RAGFlow 1.0 sends the file first."""
    fits, large = form(bytes(2 * MIB), first=False), form(bytes(3 * MIB), first=False)
    chunked = {**FORM, "transfer-encoding": "chunked", "connection": "close"}
    async with relaying(answer=lambda _: [Send(reply(TRANSCRIPT))], limits={"body_bytes": 3 * MIB}) as (upstream, gp):
        answers = [await gp.ask(one, path, headers=FORM).answer() for one in (fits, large)]
        sent = request(b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large), chunked.items(), target=path)
        assert status_of(await send_raw(gp.port, sent)) == 413
    assert [one.status for one in answers] == [200, 413]
    assert "limits.body_bytes" in answers[1].error["message"]
    assert [request.body for request in upstream.received] == [fits]


async def test_a_key_for_some_models_requires_one_of_them_named():
    headers = {**FORM, "authorization": f"Bearer {KEY}"}
    async with relaying(answer=lambda _: [Send(reply(TRANSCRIPT))], access=limited_to(["w-*"])) as (_, gp):
        statuses = [
            (await gp.ask(form(model=model), "/v1/audio/transcriptions", headers=headers).answer()).status
            for model in ("w-1", "x", None)
        ]
        files = await gp.ask(None, "/v1/files", method="GET", headers=headers).answer()
    assert statuses == [200, 403, 403]
    assert (files.status, files.error["code"]) == (403, "operation_not_allowed")


@pytest.mark.parametrize(("sent", "status"), [(b"ID3\x04" + bytes(9000), 200), (b"{" + bytes(50), 200), (b"", 502),
    (b'{"error": {"message": "no such voice"}}', 502), (b" \n<html><title>Log in</title></html>", 502)])  # fmt: skip
async def test_speech_without_a_content_type_passes_unless_it_begins_like_an_error(sent, status):
    def answer(_):
        return [Send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(sent)}\r\n\r\n".encode() + sent[:1]),
                Pause(0.02), Send(sent[1:])]  # fmt: skip

    async with relaying(answer=answer) as (_, gp):
        answered = await gp.ask({"model": "tts", "input": "a"}, "/v1/audio/speech").answer()
    assert answered.status == status
    assert status != 200 or answered.body == sent


@FORM_PATHS
async def test_a_form_is_sent_again_after_a_401(path, tmp_path):
    token = tmp_path / "token"
    token.write_text("first-token-0123")

    def answer(request):
        if request.header("authorization") == "Bearer second-token-0123":
            return [Send(reply(TRANSCRIPT))]
        token.write_text("second-token-0123")
        return [Send(reply({"error": {"message": "token expired"}}, 401))]

    credentials = {"corp": {"type": "file", "path": str(token)}}
    async with relaying(answer=answer, chat={"credential": "corp"}, credentials=credentials) as (upstream, gp):
        answered = await gp.ask(form(bytes(3 * MIB)), path, headers=FORM).answer()
    assert answered.status == 200
    assert [request.body for request in upstream.received] == [form(bytes(3 * MIB))] * 2


async def test_form_operation_refuses_json_and_foreign_pages():
    async with relaying(answer=lambda _: [Send(reply(TRANSCRIPT))]) as (upstream, gp):
        reported = await gp.ask({"model": "w"}, "/v1/audio/transcriptions", headers=JSON).answer()
        page = await gp.ask(
            form(), "/v1/audio/transcriptions", headers={**FORM, "sec-fetch-site": "cross-site"}
        ).answer()
        chat = await gp.ask(form(), headers=FORM).answer()
    assert [answer.status for answer in (reported, page, chat)] == [415, 403, 415]
    assert upstream.received == []


SOUND = b"ID3\x04" + bytes(range(256)) * 3000


async def test_speech_is_relayed_unchanged_with_its_length():
    go_on = asyncio.Event()

    def answer(_):
        return [Send(head(200, content_type="audio/mpeg", content_length=str(len(SOUND))) + SOUND[:9]),
                Wait(go_on), Send(SOUND[9:])]  # fmt: skip

    async with relaying(answer=answer) as (upstream, gp):
        body = {"model": "tts", "voice": "a", "input": "Hello"}
        async with gp.ask(body, "/v1/audio/speech") as ask:
            await ask.head()
            go_on.set()
            answered = await ask.answer()
    assert (answered.status, answered.body) == (200, SOUND)
    assert answered.headers["content-type"] == "audio/mpeg"
    assert answered.headers["content-length"] == str(len(SOUND))
    assert upstream.received[0].json() == body


async def test_a_deletion_whose_reply_may_be_cut_off_is_an_error():
    """Without a length the end of the connection is the end of the body, and it may have come too early."""
    async with relaying(answer=lambda _: [Send(head(200, connection="close")), Fin()]) as (_, gp):
        answer = await gp.ask(None, "/v1/files/file-1", method="DELETE").answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_empty")


async def test_the_connection_of_a_reply_without_a_body_serves_the_next_request():
    answers = iter([head(204), head(205, content_length="0"), head(202, content_length="0"), reply({"id": "file-1"})])
    async with relaying(answer=lambda _: [Send(next(answers))]) as (upstream, gp):
        for status in (204, 205, 202):
            async with gp.ask(None, "/v1/files/file-1", method="DELETE", headers={}) as ask:
                assert await ask.head() == status
        answer = await gp.ask(None, "/v1/files/file-1", method="GET", headers={}).answer()
    assert (answer.status, answer.json()) == (200, {"id": "file-1"})
    assert {one.connection for one in upstream.received} == {upstream.received[0].connection}


async def test_files_and_batches_pass_with_the_credential_and_what_may_be_asked_of_lists():
    credentials = {"corp": {"type": "static", "token": "s3cret-token-0123"}}
    answer = [Send(reply({"id": "file-1", "object": "file"}))]
    async with relaying(answer, chat={"credential": "corp"}, credentials=credentials) as (upstream, gp):
        asked = [
            ("POST", "/v1/files", form(), FORM),
            ("GET", "/v1/files?limit=2&api_key=mine&after=file-0", None, {}),
            ("GET", "/files/file-1", None, {}),
            ("DELETE", "/v1/files/file-1", None, {}),
            ("POST", "/v1/batches", {"input_file_id": "file-1"}, JSON),
            ("POST", "/v1/batches/b-1/cancel", b"", JSON),
        ]
        for method, path, body, headers in asked:
            got = await gp.ask(body, path, method=method, headers=headers).answer()
            assert got.status == 200, (path, got.body)
    assert [(request.method, request.target) for request in upstream.received] == [
        ("POST", "/v1/files"),
        ("GET", "/v1/files?limit=2&after=file-0"),
        ("GET", "/v1/files/file-1"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/batches/b-1/cancel"),
    ]
    assert {request.header("authorization") for request in upstream.received} == {"Bearer s3cret-token-0123"}


async def test_the_content_of_a_file_is_not_classified():
    lines = b'{"error": {"message": "of one line"}}\n' * 3
    async with relaying(answer=lambda _: [Send(reply(lines, content_type="application/json"))]) as (_, gp):
        answer = await gp.ask(None, "/v1/files/file-1/content", method="GET", headers={}).answer()
    assert (answer.status, answer.body) == (200, lines)


EVENTS = [
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","output":[]}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","status":"completed"}}\n\n',
]
ASKED = {"model": "m", "input": "Hi", "stream": True}


async def test_a_transcript_that_is_streamed_passes_event_by_event():
    events = [event({"type": "transcript.text.delta", "delta": "yo"}), event({"type": "transcript.text.done"})]
    async with relaying(answer=lambda _: [Send(stream(*events))]) as (_, gp):
        answer = await gp.ask(form(), "/v1/audio/transcriptions", headers=FORM).answer()
    assert answer.body == b"".join(events)


@pytest.mark.parametrize(("named", "status"), [("w-1", 200), ("evil", 403)])
async def test_a_file_with_a_model_is_for_the_models_of_the_key(named, status):
    access = {"keys": [{"name": "a", "hash": hash_key(KEY), "models": ["w-*"], "operations": ["files"]}]}
    async with relaying(answer=lambda _: [Send(reply(TRANSCRIPT))], access=access) as (upstream, gp):
        headers = {**FORM, "authorization": f"Bearer {KEY}"}
        answers = [await gp.ask(form(model=one), "/v1/files", headers=headers).answer() for one in (None, named)]
    assert ([one.status for one in answers], len(upstream.received)) == ([200, status], 1 + (status == 200))
