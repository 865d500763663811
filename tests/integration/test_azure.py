"""Azure's deployments behind gatepass: both of its APIs, both ways in, and each of its 404s with what to change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.answers import COMPLETION
from tests.integration.azure_resource import FILTERED, KEY, NO_DEPLOYMENT, TOKEN, Resource
from tests.integration.gateway import Answer, gateway
from tests.integration.scripted import Scripted

CLASSIC = {"api_version": "2024-10-21"}
MODELS = {"gpt-4o": {"upstream": "az", "name": "prod-gpt"}}
CREDENTIALS = {"key": {"type": "api_key", "key": KEY}, "entra": {"type": "static", "token": TOKEN}}


def blocks(
    upstream: Scripted,
    azure: dict[str, Any] | None = None,
    *,
    base: str = "",
    credential: str = "key",
    dialect: str = "azure",
    models: dict[str, Any] | None = None,
) -> dict[str, Any]:
    hop = {"base_url": upstream.url + base, "dialect": dialect, "credential": credential}
    return {
        "upstreams": {"az": hop | ({"azure": azure} if azure is not None else {})},
        "credentials": CREDENTIALS,
        "models": MODELS if models is None else models,
    }


def chat(words: str = "hi", model: str = "gpt-4o", **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": words}], **members}


async def asked(config: dict[str, Any], body: Any, path: str = "/v1/chat/completions") -> Answer:
    async with gateway(**config) as gp:
        return await gp.ask(body, path).answer()


@pytest.mark.parametrize(
    ("azure", "target"),
    [
        (CLASSIC, "/openai/deployments/prod-gpt/chat/completions?api-version=2024-10-21"),
        (None, "/openai/v1/chat/completions"),
        ({"api_version": "preview"}, "/openai/v1/chat/completions?api-version=preview"),
    ],
)
@pytest.mark.parametrize(
    ("credential", "shown"), [("key", ("api-key", KEY)), ("entra", ("authorization", f"Bearer {TOKEN}"))]
)
async def test_a_chat_reaches_its_deployment_by_key_or_token(azure, target, credential, shown):
    async with Scripted(answer=Resource().answer) as upstream:
        answer = await asked(blocks(upstream, azure, credential=credential), chat())
    assert (answer.status, answer.json()) == (200, COMPLETION)
    (request,) = upstream.received
    assert (request.method, request.target, request.json()["model"]) == ("POST", target, "prod-gpt")
    ways_in = [(name, value) for name, value in request.headers if name in ("api-key", "authorization")]
    assert ways_in == [shown]


async def test_a_base_that_names_a_deployment_needs_no_alias():
    async with Scripted(answer=Resource().answer) as upstream:
        config = blocks(upstream, CLASSIC, base="/openai/deployments/prod-gpt", models={})
        assert (await asked(config, chat(model="whatever"))).status == 200
    assert upstream.received[0].target.startswith("/openai/deployments/prod-gpt/chat/")


async def test_stream_with_unusual_first_and_last_chunks_is_read_by_every_client():
    async with Scripted(answer=Resource().answer) as upstream:
        answer = await asked(blocks(upstream, CLASSIC), chat(stream=True))
    assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]")
    chunks = [json.loads(data) for data in answer.events[:-1]]
    assert all("error" not in chunk and isinstance(chunk["choices"], list) for chunk in chunks)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello"


NO_NAME = "set `name` of this model under `models` to it."
WRONG_PATH = (
    "Resource not found. The path may be wrong: for Azure set upstreams.az.dialect: azure, which builds the path,"
    " and upstreams.az.base_url to the resource, such as https://RESOURCE.openai.azure.com."
)
NOT_THERE = (
    "Resource not found. Check the settings of the path: upstreams.az.base_url must be the resource, such as"
    " https://RESOURCE.openai.azure.com, `name` of this model under `models` must be a deployment, and"
    " upstreams.az.azure.api_version must support this operation; without it gatepass uses the v1 API."
)


async def test_a_missing_deployment_is_reported_with_the_setting_that_names_it():
    models = {"gpt-4o": {"upstream": "az"}}
    async with Scripted(answer=Resource().answer) as upstream:
        answer = await asked(blocks(upstream, CLASSIC, models=models), chat())
    assert (answer.status, answer.error["code"]) == (404, "DeploymentNotFound")
    assert answer.error["message"].startswith(NO_DEPLOYMENT["error"]["message"])
    assert answer.error["message"].endswith(NO_NAME)
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialect": "openai", "base": "/v1"}, WRONG_PATH),
        ({"base": "/somewhere/else", "azure": CLASSIC}, NOT_THERE),
    ],
)
async def test_a_wrong_path_or_version_is_reported_with_the_setting_to_change(options, message):
    async with Scripted(answer=Resource().answer) as upstream:
        answer = await asked(blocks(upstream, **options), chat())
    assert (answer.status, answer.error["message"]) == (404, message)


async def test_the_content_filters_refusal_passes_as_it_is_and_once():
    async with Scripted(answer=Resource().answer) as upstream:
        answer = await asked(blocks(upstream, CLASSIC), chat("filter me", stream=True))
    own = FILTERED["error"]
    assert answer.status == 400
    found = {name: answer.json()["error"][name] for name in ("message", "type", "param", "code", "upstream")}
    assert found == {
        "message": own["message"],
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "content_filter",
        "upstream": own,
    }
    assert len(upstream.received) == 1


@pytest.mark.parametrize("azure", [CLASSIC, None])
async def test_model_list_has_the_configured_names_and_azure_is_not_called(azure):
    models = {**MODELS, "gpt-*": {"upstream": "az"}}
    async with (
        Scripted(answer=Resource().answer) as upstream,
        gateway(**blocks(upstream, azure, models=models)) as gp,
    ):
        answer = await gp.ask(None, "/v1/models", method="GET").answer()
    assert [model["id"] for model in answer.json()["data"]] == ["gpt-4o"]
    assert upstream.connections == 0


async def test_no_client_can_address_a_path_outside_the_deployments():
    models = {"*": {"upstream": "az"}}
    async with (
        Scripted(answer=Resource().answer) as upstream,
        gateway(**blocks(upstream, CLASSIC, models=models)) as gp,
    ):
        for model in ("..", "."):
            answer = await gp.ask(chat(model=model)).answer()
            assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
        assert upstream.connections == 0
        answer = await gp.ask(chat(model="../../evil?x=y#")).answer()
    assert (answer.status, answer.error["code"]) == (404, "DeploymentNotFound")
    (request,) = upstream.received
    assert request.target.startswith("/openai/deployments/..%2F..%2Fevil%3Fx%3Dy%23/chat/completions?")
