"""Replies, streams and errors of llama.cpp arrive unchanged.

Its own answers over the Responses and the Messages API are compared with those that gatepass makes of its chats.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.realllm.compared import CASES, DIFFERENCES, MODELS, Difference, differences, document, explained, table
from tests.e2e.servers import (
    REPLY_S,
    ROOT,
    CheckedServer,
    Gatepass,
    Issuer,
    listening,
    python_client,
    start_model,
)
from tests.integration.gateway import gateway

CLIENT_S = 60.0
ANSWER_TOKENS = 12


@pytest.fixture(scope="module")
def replies(gatepass: Gatepass) -> dict[str, Any]:
    printed: dict[str, Any] = python_client(gatepass, "one_of_each", timeout_s=CLIENT_S)
    return printed


def test_plain_chat_has_text_finish_reason_and_usage(replies: dict[str, Any]):
    (choice,) = replies["plain"]["choices"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert replies["plain"]["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert "timings" in replies["plain"], "llama.cpp's own fields survive"


def test_stream_arrives_in_pieces_and_ends_with_its_usage(replies: dict[str, Any]):
    *pieces, last = replies["streamed"]
    deltas = [choice["delta"]["content"] for chunk in pieces for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for chunk in pieces for choice in chunk["choices"]]
    assert sum(bool(delta) for delta in deltas) > ANSWER_TOKENS // 2
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], ANSWER_TOKENS)
    assert len({chunk["id"] for chunk in replies["streamed"]}) == 1


@pytest.mark.parametrize("call", ["refused", "refused_stream"])
def test_its_own_error_keeps_status_and_text(replies: dict[str, Any], call: str):
    error = replies[call]
    assert (error["class"], error["status"]) == ("BadRequestError", 400)
    assert "exceeds the available context size" in error["error"]["message"]


def test_wildcard_lists_the_models_of_both_servers(
    replies: dict[str, Any], issuer: Issuer, chat_server: CheckedServer, embed_server: CheckedServer
):
    token = issuer.mint()
    listed = [server.get("/v1/models", token)[1]["data"] for server in (embed_server, chat_server)]
    assert replies["models"] == [model["id"] for models in listed for model in models] == ["tiny-ends", "tiny-chat"]


def test_vectors_are_those_of_the_server(replies: dict[str, Any], issuer: Issuer, embed_server: CheckedServer):
    body = {"model": "tiny-ends", "input": ["amber", "basalt", "topaz"]}
    _, own = post(embed_server.url, "embeddings", body, authorization=f"Bearer {issuer.mint()}")
    for vector, one in zip(replies["vectors"], json.loads(own)["data"], strict=True):
        assert vector == pytest.approx(one["embedding"], abs=1e-6)
    assert len({tuple(vector) for vector in replies["vectors"]}) == 3


# --- compared with its own answers ----------------------------------------------------------------

EACH = [(api, case) for api, cases in CASES.items() for case in cases]
STREAMS = (False, True)


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, str]]:
    """The URLs of the models, each with one slot, so that the same prompt is cached in both answers."""
    with ExitStack() as stack:
        yield {
            name: listening(stack.enter_context(start_model(f"{name}.gguf", "--slots", "1", "--answer-tokens", "400")))
            for name in ("tiny-chat", "tiny-call", "tiny-calls")
        }


def post(url: str, api: str, body: dict[str, Any], **more: str) -> tuple[int, str]:
    fields = {"content-type": "application/json", "anthropic-version": "2023-06-01", **more}
    request = urllib.request.Request(f"{url}/v1/{api}", json.dumps(body).encode(), fields)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=REPLY_S) as reply:  # noqa: S310 - loopback
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def compared(models: dict[str, str], api: str, case: str, streams: bool) -> tuple[Any, Any, Any]:
    """Return what is different, and the native and the translated answer."""
    url = models[MODELS.get(case, "tiny-chat")]
    body = {"model": "m", "temperature": 0, "stream": streams, **CASES[api][case]}
    upstreams = {"chat": {"base_url": f"{url}/v1", "protocols": ["chat"]}}
    async with gateway(upstreams=upstreams) as gp:
        await asyncio.to_thread(post, url, api, body)  # fills the cache of prompts
        _, native = await asyncio.to_thread(post, url, api, body)
        _, translated = await asyncio.to_thread(post, f"http://127.0.0.1:{gp.port}", api, body)
    return list(differences(document(native), document(translated))), native, translated


async def test_translated_answers_are_its_own_ones_but_for_a_table(models: dict[str, str]):
    used: set[Difference] = set()
    unexplained = []
    for api, case in EACH:
        for streams in STREAMS:
            for place, *values in (await compared(models, api, case, streams))[0]:
                row = explained(api, case, place)
                if row is None:
                    unexplained.append((api, case, streams, place, *values))
                else:
                    used.add(row)
    assert unexplained == []
    assert used == set(DIFFERENCES)


@pytest.mark.parametrize("streams", STREAMS)
async def test_calls_that_tool_choice_forces_are_the_same(models: dict[str, str], streams: bool):
    _, *messages = await compared(models, "messages", "calls", streams)
    _, *responses = await compared(models, "responses", "call", streams)
    assert [one.count('"tool_use"') for one in messages] == [2, 2]
    assert ['"type":"function_call"' in one for one in responses] == [True, True]


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(("api", "case"), [("responses", "named"), ("messages", "named"), ("messages", "stop at once")])
async def test_an_empty_answer_is_an_error(models: dict[str, str], api: str, case: str, streams: bool):
    assert "upstream_empty" in (await compared(models, api, case, streams))[2]


def test_the_page_shows_the_table():
    assert table() in (ROOT / "tests" / "translation.md").read_text(encoding="utf-8")
