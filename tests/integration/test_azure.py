"""Azure's deployments behind gatepass: both of its APIs, both ways in, and its 404 with what to change.

The text of the 404 is quoted in chatboxai/chatbox#646.
"""

from typing import Any

import pytest

from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Answer, gateway
from tests.integration.scripted import Scripted, Send, reply

KEY, TOKEN = "azure-key-0123456789", "entra-token-0123456789"
CLASSIC = {"api_version": "2024-10-21"}
CREDENTIALS = {"key": {"type": "api_key", "key": KEY}, "entra": {"type": "static", "token": TOKEN}}


async def asked(upstream: Scripted, **settings: Any) -> Answer:
    az = {"base_url": upstream.url, "dialect": "azure", "credential": "key", **settings}
    models = {"m": {"upstream": "az", "name": "prod-gpt"}}
    async with gateway(upstreams={"az": az}, credentials=CREDENTIALS, models=models) as gp:
        return await gp.ask(HELLO).answer()


@pytest.mark.parametrize(
    ("azure", "target", "credential", "shown"),
    [
        (CLASSIC, "/openai/deployments/prod-gpt/chat/completions?api-version=2024-10-21", "key", ("api-key", KEY)),
        ({}, "/openai/v1/chat/completions", "entra", ("authorization", f"Bearer {TOKEN}")),
    ],
)
async def test_a_chat_reaches_its_deployment_by_key_or_token(azure, target, credential, shown):
    async with Scripted([Send(reply(COMPLETION))]) as upstream:
        answer = await asked(upstream, azure=azure, credential=credential)
    assert (answer.status, answer.json()) == (200, COMPLETION)
    (request,) = upstream.received
    assert (request.method, request.target, request.json()["model"]) == ("POST", target, "prod-gpt")
    ways_in = [(name, value) for name, value in request.headers if name in ("api-key", "authorization")]
    assert ways_in == [shown]


async def test_a_wrong_path_or_version_is_reported_with_the_setting_to_change():
    missing = reply({"error": {"code": "404", "message": "Resource not found"}}, 404)
    async with Scripted([Send(missing)]) as upstream:
        answer = await asked(upstream, azure=CLASSIC)
    assert answer.status == 404
    assert answer.error["message"] == (
        "Resource not found. Check the settings of the path: `upstreams.az.base_url` must be the resource, such as"
        " https://RESOURCE.openai.azure.com, `name` of this model under `models` must be a deployment, and"
        " `upstreams.az.azure.api_version` must support this operation; without it gatepass uses the v1 API."
    )
