"""Every reply of gatepass is valid by the types of OpenAI's SDK for Python, strictly, for every upstream of quirks.

`test_clients.py` tests this for every operation of an upstream without quirks. This module uses the upstreams of the
table of quirks, and gatepass's own rejection of a wrong key.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.clients import chats, measurement
from tests.e2e.clients.measurement import ALL_KINDS, FOREIGN, RUNNERS, Client
from tests.e2e.clients.scenario import scenarios
from tests.e2e.quirks.measurement import Calls, gatepass, upstream
from tests.e2e.quirks.row import Failure
from tests.e2e.quirks.rows import ROWS
from tests.e2e.servers import installed
from tests.integration.gateway import gateway
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply, stream

SDKS = {client.title: client for client in measurement.CLIENTS if client.runner == "try_openai.py"}
CALLS: Calls = [(row, mode) for row in ROWS for mode in row.modes]
Validations = list[dict[str, Any]]
"""The output of validate_openai.py, one object for each call."""


def validate(sdk: Client, url: str) -> Validations:
    return validate_calls(
        sdk, url, [{"model": row.model, "mode": mode, "body": row.request_body(mode)} for row, mode in CALLS]
    )


def validate_calls(sdk: Client, url: str, request_body: list[dict[str, Any]]) -> Validations:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [installed(sdk.folder) / "bin" / "python", RUNNERS / "validate_openai.py"],
        env=plain | own,
        input=json.dumps(request_body).encode(),
        timeout=measurement.CLIENT_S,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    results: Validations = json.loads(done.stdout)
    return results


def invalid(results: Validations) -> list[str]:
    return [
        f"{row.model} {mode}: {fault}"
        for (row, mode), result in zip(CALLS, results, strict=True)
        for fault in dict.fromkeys(result["invalid"])
    ]


@pytest.fixture(scope="module")
def via_gatepass(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Validations]:
    """The validations of each SDK version through one gatepass."""
    folder = tmp_path_factory.mktemp("types")
    with upstream() as upstream_url, gatepass(folder, upstream_url) as url, ThreadPoolExecutor(len(SDKS)) as pool:
        return dict(zip(SDKS, pool.map(lambda sdk: validate(sdk, url), SDKS.values()), strict=True))


@pytest.mark.parametrize("title", SDKS)
def test_every_reply_chunk_and_error_is_valid_for_every_upstream(via_gatepass: Mapping[str, Validations], title: str):
    assert invalid(via_gatepass[title]) == []


@pytest.mark.parametrize("title", SDKS)
def test_every_call_has_a_validated_reply(via_gatepass: Mapping[str, Validations], title: str):
    ends = list(zip(CALLS, via_gatepass[title], strict=True))
    assert [call for call, result in ends if not result["checked"]] == []
    assert [
        result for (row, mode), result in ends if result["error"] and not isinstance(row.expects(mode), Failure)
    ] == []


def test_a_wrong_key_is_the_same_valid_error_for_every_operation(tmp_path_factory: pytest.TempPathFactory):
    with (
        measurement.upstream() as upstream_url,
        measurement.gatepass(tmp_path_factory.mktemp("key"), upstream_url) as endpoint,
    ):
        results = measurement.run(next(iter(SDKS.values())), endpoint.url, "a wrong key", scenarios(*ALL_KINDS))
    assert [(result["invalid"], result["checked"]) for result in results.values()] == [([], 1)] * len(results)
    assert {(result["error"]["class"], result["error"]["status"]) for result in results.values()} == {
        ("AuthenticationError", 401)
    }
    assert len({result["error"]["message"] for result in results.values()}) == 1


# --- responses over chat completions --------------------------------------------------------------

ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
PATCH = {"type": "custom", "name": "patch", "description": "x"}
INNER = {"type": "namespace", "name": "box", "description": "x", "tools": [ADD]}
TRANSLATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({}, chats.completion("It is 21 °C.", reasoning_content="I look at it.")),
    "calls": ({"tools": [ADD]}, chats.completion("I add.", {"call_1": {"a": 1}, "call_2": {}})),
    "custom": ({"tools": [PATCH]}, chats.completion("", {"call_1": {"input": "*** x"}}, name="patch")),
    "namespace": ({"tools": [INNER]}, chats.completion("", {"call_1": {"a": 1}}, name="box__add")),
    "forced": (
        {"tools": [ADD], "tool_choice": {"type": "function", "name": "add"}, "parallel_tool_calls": False},
        chats.completion("", {"call_1": {"a": 1}}, finish_reason="stop"),
    ),
    "refusal": ({}, chats.completion("", refusal="I do not say it.")),
    "length": ({"max_output_tokens": 16}, chats.completion("It", finish_reason="length")),
    "filtered": ({}, chats.completion("It", finish_reason="content_filter")),
    "members": (
        {"text": {"verbosity": "low"}, "reasoning": {"effort": "low"}, "metadata": {"a": "b"}, "truncation": "auto"},
        chats.completion("Hi."),
    ),
}
"""The members of a request and the chat that answers it, by the name of the model."""


def chat_of(request: Received) -> Dialogue:
    asked = request.json()
    if asked["model"] == "limited":
        error = {"message": "Slow down.", "type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}
        return [Send(reply({"error": error}, 429))]
    document = TRANSLATED[asked["model"]][1]
    return [Send(stream(*chats.chunks(document)) if asked.get("stream") else reply(document))]


@pytest.mark.parametrize("title", SDKS)
async def test_each_response_and_event_over_chats_is_valid(title: str):
    asked = [(name, members) for name, (members, _) in TRANSLATED.items()] + [("limited", {})]
    if title.endswith("1"):  # it has no type for a namespace
        asked = [(name, members) for name, members in asked if name != "namespace"]
    calls = [
        {"model": name, "mode": "respond", "body": {"input": "Hi", **members, "stream": streams}}
        for name, members in asked
        for streams in (False, True)
    ]
    async with Scripted(answer=chat_of) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "protocols": ["chat"]}}
        async with gateway(upstreams=upstreams) as gp:
            results = await asyncio.to_thread(validate_calls, SDKS[title], f"http://127.0.0.1:{gp.port}", calls)
    found = [(call["model"], result) for call, result in zip(calls, results, strict=True)]
    assert [f"{model}: {fault}" for model, result in found for fault in dict.fromkeys(result["invalid"])] == []
    assert [model for model, result in found if not result["checked"]] == []
    assert {model for model, result in found if result["error"]} == {"limited"}
