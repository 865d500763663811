"""The check of each host's screen for a provider, read as the host reads it, over a model that refuses what it can.

Sources: langgenius/dify-plugin-sdks (@8e8860b, @0021d0c) and dify-official-plugins (@02c5eec), lobehub/lobe-chat
@1b316f8, n8n-io/n8n @0028232, danny-avila/LibreChat @003bf57, open-webui @004a45f, CherryHQ/cherry-studio @c7bb0e8.
"""

import json
from array import array
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.gateway import Answer, relaying
from tests.integration.strict_azure import DEPLOYMENTS, SPOKEN, TEXT, StrictAzure, score, vector

MODEL, NAMES = "o1", [deployment.name for deployment in DEPLOYMENTS]
CHAT, EMBEDDINGS, RERANK, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/v1/models"
PING = {"model": MODEL, "messages": [{"role": "user", "content": "ping"}]}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SETTINGS = {"frequency_penalty": 0, "presence_penalty": 0, "temperature": 1, "top_p": 1}
THINKING = {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
CAPITALS = ["Carson City", "Washington, D.C."]
RANKED = {"model": "rr", "query": "What?", "documents": CAPITALS, "return_documents": True}
VOICE = {"model": "tts-1", "input": "Test.", "voice": "alloy", "instruction": None, "response_format": "mp3"}


def content(answer: Answer) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


def streamed(answer: Answer) -> str:
    """The AI SDK also fails a stream without a finish reason; Dify adds up the counts; comments are nothing."""
    chunks = [json.loads(data) for data in answer.events if data != "[DONE]"]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert any(choice["finish_reason"] for choice in choices)
    assert {choice["delta"].get("role") for choice in choices} <= {None, "assistant"}
    assert all(isinstance(chunk["usage"]["total_tokens"], int) for chunk in chunks if chunk.get("usage"))
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def vectors(answer: Answer) -> Any:
    """openai-node asks for base64 and reads a list of floats as nothing."""
    found = [entry["embedding"] for entry in answer.json()["data"]]
    return [[*array("f", b64decode(one))] if isinstance(one, str) else one for one in found]


def ranks(answer: Answer) -> Any:
    """Dify takes an echo of a document for an object."""
    for result in answer.json()["results"]:
        result.get("document", {}).get("text", "")
    return {result["index"]: result["relevance_score"] for result in answer.json()["results"]}


def listed(answer: Answer) -> Any:
    assert answer.headers["content-type"] == "application/json"  # aiohttp, of Open WebUI, requires it
    assert all(isinstance(entry["created"], int) for entry in answer.json()["data"])  # LobeChat
    return [entry["id"] for entry in answer.json()["data"]]


SCORES = {index: score(text) for index, text in enumerate(CAPITALS)}
Reads = Callable[[Answer], Any]
CHECKS: dict[str, tuple[str, str, Any, Reads, Any]] = {
    "Dify 0.6, chat": ("dify", CHAT, {**PING, "max_tokens": 5}, lambda one: one.json()["object"], "chat.completion"),
    "Dify 1.x, chat": ("dify", CHAT, {**PING, "max_completion_tokens": 5}, content, TEXT),
    "Dify 1.x, first message": ("dify", CHAT, {**PING, **THINKING, "stream": True, "user": "2b"}, streamed, TEXT),
    "Dify, embedding": (
        *("dify", EMBEDDINGS, {"input": "ping", "model": "e"}),
        *(lambda one: ("model" in one.json(), vectors(one)), (True, [vector("ping", 3)])),
    ),
    "Dify, reranker": ("dify", RERANK, {**RANKED, "top_n": 2, "score_threshold": 0.8}, ranks, SCORES),
    "Dify, voice": ("dify", "/v1/audio/speech", VOICE, lambda one: one.body, SPOKEN),
    "LobeChat": ("plain", CHAT, {**PING, **SETTINGS, **STREAM, "user": "u1"}, streamed, TEXT),
    "LobeChat, without streams": ("plain", CHAT, {**PING, **SETTINGS, "stream": False, "user": "u1"}, content, TEXT),
    "n8n, a chain": ("plain", CHAT, {**PING, **SETTINGS, "response_format": {"type": "text"}}, content, TEXT),
    "n8n, embedding": (
        *("plain", EMBEDDINGS, {"model": "e", "input": ["hi"], "encoding_format": "base64"}),
        *(vectors, [vector("hi", 3)]),
    ),
    "Cherry Studio": ("cherry_studio", CHAT, {**PING, **STREAM}, streamed, TEXT),
    "LibreChat, models": ("librechat", f"{MODELS}?user=66f0c0ffee", None, listed, NAMES),
    "Open WebUI, models": ("open_webui", MODELS, None, listed, NAMES),
}


@pytest.mark.parametrize("host", CHECKS)
async def test_each_check_passes_over_a_model_that_streams_nothing_and_refuses_settings(host):
    profile, path, document, read, wanted = CHECKS[host]
    operations = {"rerank": {"upstream": "chat", "model": "rr"}}
    async with relaying(answer=StrictAzure().answer, models={"*": {"upstream": "chat"}}, operations=operations) as (
        _,
        gp,
    ):
        method = "GET" if document is None else "POST"
        answer = await gp.ask(document, f"/for/{profile}{path}", method=method).answer()
    assert (answer.status, read(answer)) == (200, wanted)


async def test_empty_authorization_header_is_accepted_without_configured_keys():
    """Dify's embedding and rerank classes send `Authorization: ` for a field that was left empty."""
    async with relaying(answer=StrictAzure().answer) as (_, gp):
        body, headers = CHECKS["Dify, embedding"][2], {"content-type": "application/json", "authorization": ""}
        assert (await gp.ask(body, EMBEDDINGS, headers=headers).answer()).status == 200
