"""Azure's deployments behind gatepass: both of its APIs, both ways in, and each of its 404s with what to change.

The texts of the 404s are quoted in BerriAI/litellm#8572 and chatboxai/chatbox#646.
"""

from typing import Any

import pytest

from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Answer, gateway
from tests.integration.scripted import Scripted, Send, reply

KEY, TOKEN = "azure-key-0123456789", "entra-token-0123456789"
CLASSIC = {"api_version": "2024-10-21"}
MODELS = {"m": {"upstream": "az", "name": "prod-gpt"}}
CREDENTIALS = {"key": {"type": "api_key", "key": KEY}, "entra": {"type": "static", "token": TOKEN}}
NOT_FOUND = {"error": {"code": "404", "message": "Resource not found"}}
NO_DEPLOYMENT = {
    "error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}
}


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


async def asked(config: dict[str, Any]) -> Answer:
    async with gateway(**config) as gp:
        return await gp.ask(HELLO).answer()


@pytest.mark.parametrize(
    ("azure", "target", "credential", "shown"),
    [
        (CLASSIC, "/openai/deployments/prod-gpt/chat/completions?api-version=2024-10-21", "key", ("api-key", KEY)),
        (None, "/openai/v1/chat/completions", "entra", ("authorization", f"Bearer {TOKEN}")),
    ],
)
async def test_a_chat_reaches_its_deployment_by_key_or_token(azure, target, credential, shown):
    async with Scripted([Send(reply(COMPLETION))]) as upstream:
        answer = await asked(blocks(upstream, azure, credential=credential))
    assert (answer.status, answer.json()) == (200, COMPLETION)
    (request,) = upstream.received
    assert (request.method, request.target, request.json()["model"]) == ("POST", target, "prod-gpt")
    ways_in = [(name, value) for name, value in request.headers if name in ("api-key", "authorization")]
    assert ways_in == [shown]


WRONG_PATH = (
    "Resource not found. The path may be wrong: for Azure set `upstreams.az.dialect: azure`, which builds the path,"
    " and `upstreams.az.base_url` to the resource, such as https://RESOURCE.openai.azure.com."
)
NOT_THERE = (
    "Resource not found. Check the settings of the path: `upstreams.az.base_url` must be the resource, such as"
    " https://RESOURCE.openai.azure.com, `name` of this model under `models` must be a deployment, and"
    " `upstreams.az.azure.api_version` must support this operation; without it gatepass uses the v1 API."
)


async def test_a_missing_deployment_is_reported_with_the_setting_that_names_it():
    async with Scripted([Send(reply(NO_DEPLOYMENT, 404))]) as upstream:
        answer = await asked(blocks(upstream, CLASSIC, models={"m": {"upstream": "az"}}))
    assert (answer.status, answer.error["code"]) == (404, "DeploymentNotFound")
    assert answer.error["message"].startswith(NO_DEPLOYMENT["error"]["message"])
    assert answer.error["message"].endswith("set `name` of this model under `models` to it.")
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dialect": "openai", "base": "/v1"}, WRONG_PATH), ({"azure": CLASSIC}, NOT_THERE)],
)
async def test_a_wrong_path_or_version_is_reported_with_the_setting_to_change(options, message):
    async with Scripted([Send(reply(NOT_FOUND, 404))]) as upstream:
        answer = await asked(blocks(upstream, **options))
    assert (answer.status, answer.error["message"]) == (404, message)
