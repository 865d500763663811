"""Raw operations on their way to upstreams of other dialects."""

from __future__ import annotations

import pytest

from tests.integration.gateway import gateway
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.test_raw_operations import FORM, form


async def test_azure_has_a_deployment_in_the_path_of_speech_and_none_in_that_of_files():
    async with Scripted(answer=lambda _: [Send(reply({"text": "you"}))]) as upstream:
        upstreams = {"az": {"base_url": upstream.url, "dialect": "azure", "azure": {"api_version": "2024-10-21"}}}
        models = {"w-1": {"upstream": "az", "name": "ears"}, "*": {"upstream": "az"}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            received = await gp.ask(form(), "/v1/audio/transcriptions", headers=FORM).answer()
            listed = await gp.ask(None, "/v1/files?limit=1", method="GET", headers={}).answer()
            kept = await gp.ask(None, "/v1/responses/r-1", method="GET", headers={}).answer()
    assert (received.status, listed.status, kept.status) == (200, 200, 200)
    assert [request.target for request in upstream.received] == [
        "/openai/deployments/ears/audio/transcriptions?api-version=2024-10-21",
        "/openai/files?api-version=2024-10-21&limit=1",
        "/openai/responses/r-1?api-version=2024-10-21",
    ]


async def test_azure_has_the_deployment_of_a_response_in_its_body():
    response = {"id": "r", "object": "response", "status": "completed", "output": []}
    async with Scripted(answer=lambda _: [Send(reply(response))]) as upstream:
        upstreams = {
            "az": {"base_url": upstream.url, "dialect": "azure", "azure": {"api_version": "2025-03-01-preview"}}
        }
        models = {"m": {"upstream": "az", "name": "prod"}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            answer = await gp.ask({"model": "m", "input": "Hi"}, "/v1/responses").answer()
    assert (answer.status, answer.json()) == (200, response)
    assert upstream.received[0].target == "/openai/responses?api-version=2025-03-01-preview"
    assert upstream.received[0].json() == {"model": "prod", "input": "Hi"}


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/files"])
async def test_ragflow_receives_chats_only(path):
    async with Scripted(answer=lambda _: [Send(reply({"text": "you"}))]) as upstream:
        upstreams = {"rag": {"base_url": upstream.url, "dialect": "ragflow"}}
        async with gateway(upstreams=upstreams) as gp:
            answer = await gp.ask(form(), path, headers=FORM).answer()
            text = await gp.ask({"model": "m", "prompt": "x"}, "/v1/completions").answer()
    assert (answer.status, text.status, upstream.received) == (404, 404, [])
