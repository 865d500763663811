"""Operations other than chats and embeddings: completions and rankings."""

from hashlib import sha256
from typing import Any

import pytest

from tests.integration.gateway import JSON, relaying
from tests.integration.scripted import Send, event, reply, stream
from tests.integration.strict_azure import StrictAzure

TEXT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
ASKED = {"model": "m", "prompt": "Say"}


def text(content: str, finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {**TEXT, "choices": [{"text": content, "index": 0, "logprobs": None, "finish_reason": finish}], **more}


async def test_a_stream_of_a_text_passes_byte_for_byte():
    events = [event(text("th", None)), event(text("is", None)), event(text("")), event("[DONE]")]
    async with relaying(answer=lambda _: [Send(stream(*events))]) as (_, gp):
        answer = await gp.ask({**ASKED, "stream": True}, "/v1/completions").answer()
    assert answer.body == b"".join(events).replace(b'"[DONE]"', b"[DONE]")
    assert "x-gatepass-adapted" not in answer.headers


DOCUMENTS = ["Rain.", "Is it sunny today?", "é"]
COHERE = {"model": "rr", "query": "Sun?", "documents": DOCUMENTS}


async def test_top_n_and_documents_work_if_the_upstream_supports_neither():
    azure = StrictAzure(ranks="tei")
    async with relaying(answer=azure.answer, chat={"rerank_shape": "tei"}) as (_, gp):
        answer = await gp.ask({**COHERE, "top_n": 1, "return_documents": True}, "/v1/rerank").answer()
    (best,) = answer.json()["results"]
    assert (best["index"], best["document"]) == (1, {"text": DOCUMENTS[1]})
    assert "rerank=tei" in answer.headers["x-gatepass-adapted"]


@pytest.mark.parametrize("path", ["/", "/v1/", "/v1/v1/"])
async def test_root_of_the_api_accepts_rerank_requests_of_ragflow_only(path):
    async with relaying(answer=StrictAzure().answer) as (upstream, gp):
        question = await gp.ask(COHERE, f"/for/ragflow{path}").answer()
        others = [await gp.ask(COHERE, f"{prefix}{path}").answer() for prefix in ("", "/for/dify")]
    assert [result["index"] for result in question.json()["results"]] == [1, 0, 2]
    for other in others:
        assert (other.status, other.error["code"]) == (404, "unknown_path")
        assert other.error["message"].endswith(" Only the profile ragflow accepts requests here.")
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("operations", "statuses"), [(["chat"], (200, 403)), (["rerank"], (403, 200)), (None, (200, 200))]
)
async def test_the_body_decides_the_operation_at_the_root(operations, statuses):
    key = {"name": "rag", "hash": f"sha256:{sha256(b'gp-0123456789abcdef').hexdigest()}", "profile": "ragflow"}
    own = {} if operations is None else {"operations": operations}
    headers = {**JSON, "authorization": "Bearer gp-0123456789abcdef"}
    bodies = ({"messages": [{"role": "user", "content": "Hi"}], "model": "gpt-4o", "stream": False}, COHERE)
    async with relaying(answer=StrictAzure().answer, access={"keys": [{**key, **own}]}) as (upstream, gp):
        answers = [await gp.ask(body, "/v1/", headers=headers).answer() for body in (*bodies, b"{oops")]
    assert tuple(answer.status for answer in answers[:2]) == statuses
    assert answers[2].status == (403 if operations == ["chat"] else 400)
    assert [request.target for request in upstream.received] == [
        path for path, status in zip(("/v1/chat/completions", "/v1/rerank"), statuses, strict=True) if status == 200
    ]


NO_MODEL = Send(reply({"error": {"message": "The model `m` does not exist.", "code": "model_not_found"}}, 404))


@pytest.mark.parametrize("named", [True, False])
async def test_a_clients_name_that_the_upstream_does_not_know_is_reported_with_the_place_of_another(named):
    models = {"m": {"upstream": "chat", "name": "deployed"}} if named else {"*": {"upstream": "chat"}}
    async with relaying([NO_MODEL], models=models) as (_, gp):
        chat = await gp.ask({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).answer()
        response = await gp.ask({"model": "m", "input": "hi"}, "/v1/responses").answer()
        form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
        typed = {"content-type": "multipart/form-data; boundary=x"}
        audio = await gp.ask(form, "/v1/audio/transcriptions", headers=typed).answer()
    for answer in (chat, response, audio):
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert ("set models.m.name in the configuration file" in answer.error["message"]) is not named
