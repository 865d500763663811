"""Requests that name no model, and go under the one that their operation names."""

import json
from typing import Any

import pytest

from tests.integration.gateway import JSON, relaying
from tests.integration.scripted import Send, reply
from tests.integration.test_raw_operations import FORM, KEY, form, limited_to

ADDED = "default=model"
EMBEDDINGS, BODY = "/v1/embeddings", b'{ "input": ["a"],\n "user":"\\u00e9" }'
VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1]}], "model": "e"}
FORMS_WITHOUT = {
    "transcriptions": "/v1/audio/transcriptions",
    "translations": "/v1/audio/translations",
    "images": "/v1/images/edits",
}


def answered(request: Any) -> list[Any]:
    return [Send(reply(VECTORS if "embeddings" in request.target else {"text": "you", "output": [], "choices": []}))]


async def test_model_is_inserted_and_all_other_bytes_are_kept():
    operations, models = {"embeddings": {"model": "dm"}}, {"dm": {"upstream": "chat", "name": 'a"b'}}
    async with relaying(answer=answered, operations=operations, models=models) as (upstream, gp):
        answer = await gp.ask(BODY, EMBEDDINGS).answer()
    assert (answer.status, answer.headers["x-gatepass-adapted"]) == (200, ADDED)
    assert [request.body for request in upstream.received] == [BODY.replace(b"{", b'{"model":"a\\"b",', 1)]


@pytest.mark.parametrize(("own", "status"), [("dm", 200), ("other", 403)])
@pytest.mark.parametrize("body", [BODY, form(model=None)], ids=["json", "form"])
async def test_a_key_for_some_models_may_or_may_not_use_the_operations_model(own, status, body):
    path, headers = (EMBEDDINGS, JSON) if body is BODY else (FORMS_WITHOUT["transcriptions"], FORM)
    operations = {name: {"model": "dm"} for name in ("embeddings", "transcriptions")}
    async with relaying(answer=answered, operations=operations, access=limited_to([own])) as (upstream, gp):
        answer = await gp.ask(body, path, headers={**headers, "authorization": f"Bearer {KEY}"}).answer()
    assert (answer.status, len(upstream.received)) == (status, int(status == 200))


@pytest.mark.parametrize("name", [None, "whisper-large"])
@pytest.mark.parametrize("operation", FORMS_WITHOUT)
async def test_form_gets_the_operations_model_as_its_first_part(operation, name):
    operations = {operation: {"model": "dm"}}
    models = {"dm": {"upstream": "chat", "name": name}}
    async with relaying(answer=answered, operations=operations, models=models) as (upstream, gp):
        answer = await gp.ask(form(model=None), FORMS_WITHOUT[operation], headers=FORM).answer()
    (received,) = upstream.received
    assert received.body == form(model=name or "dm")
    assert received.header("content-length") == str(len(received.body))
    assert (answer.status, answer.headers["x-gatepass-adapted"]) == (200, ADDED)


async def test_a_request_that_is_about_no_model_gets_none():
    batch, forms = {"input_file_id": "file-1"}, (form(model=None), form(model="asked"))
    models, operations = {"*": {"upstream": "chat", "name": "there"}}, {"batches": {"model": "dm"}}
    async with relaying(answer=answered, models=models, operations=operations) as (upstream, gp):
        statuses = [
            (await gp.ask(batch, "/v1/batches").answer()).status,
            *[(await gp.ask(one, "/v1/files", headers=FORM).answer()).status for one in forms],
        ]
    assert statuses == [200] * 3
    assert [request.body for request in upstream.received] == [json.dumps(batch).encode(), *forms]
