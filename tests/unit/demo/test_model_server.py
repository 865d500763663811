"""The embedded model server is strict about tokens and members, and answers as the OpenAI API does."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from gatepass.demo.model_server import ModelServer, Seen
from gatepass.demo.signing import Distrust, Minted, SigningKey
from gatepass.demo.vectors import vector
from tests.embedded import CHAT, HI, HI_BACK, data_events

PNG, GIF = b"\x89PNG\r\n\x1a\n", b"GIF89a"


@pytest.fixture
def server(key: SigningKey) -> ModelServer:
    return ModelServer(key, audience="chat", models=["m", "org/m"], pace_s=0)


@pytest.fixture
async def http(server: ModelServer, token: Minted) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer {token.token}"}
    transport = httpx2.ASGITransport(server.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://model", headers=headers) as client:
        yield client


def error(message: str, *, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def test_a_chat_is_answered_and_remembered(http: httpx2.AsyncClient, server: ModelServer, token: Minted):
    reply = (await http.post(CHAT, json=HI)).json()
    assert reply["choices"][0]["message"]["content"] == HI_BACK
    assert reply["model"] == "m"
    assert reply["usage"]["prompt_tokens"] == 1
    assert list(server.seen) == [Seen("chat", token.fingerprint)]


@pytest.mark.parametrize(
    ("why", "message"),
    [
        (Distrust.MISSING, "You did not provide a token"),
        (Distrust.STALE, "The token has expired"),
        (Distrust.FOREIGN, "The token was not issued for this server"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/models", "/v1/models/m"])
async def test_a_token_that_is_not_good_now_and_here_is_refused_and_counted(
    http: httpx2.AsyncClient, server: ModelServer, key: SigningKey, why: Distrust, message: str, path: str
):
    bearers = {
        Distrust.MISSING: "Basic x",
        Distrust.STALE: f"Bearer {key.sign(number=2, subject='b', audience='chat', life_s=-1).token}",
        Distrust.FOREIGN: f"Bearer {key.sign(number=3, subject='b', audience='other', life_s=60).token}",
    }
    method = "POST" if path in (CHAT, "/v1/embeddings") else "GET"
    reply = await http.request(method, path, headers={"authorization": bearers[why]})
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert reply.json() == error(message, code=f"token_{why}", kind="authentication_error")
    assert dict(server.refused) == {why: 1}
    assert not server.seen


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        (CHAT, HI | {"images": []}, "Unrecognized request argument supplied: images", None),
        (CHAT, HI | {"a": 1, "b": 2}, "Unrecognized request arguments supplied: a, b", None),
        (CHAT, {"model": "m"}, "'messages' must be a list that is not empty", "messages"),
        (
            CHAT,
            HI | {"stream_options": {}},
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
        ),
        (CHAT, HI | {"stream": True, "stream_options": 1}, "'stream_options' must be an object", "stream_options"),
        (
            "/v1/embeddings",
            {"model": "m", "input": "x", "drop_params": True},
            "Unrecognized request argument supplied: drop_params",
            None,
        ),
        (
            "/v1/embeddings",
            {"model": "m", "input": [""]},
            "'input' must be a text or a list of texts, none of them empty",
            "input",
        ),
        (
            "/v1/embeddings",
            {"model": "m", "input": "x", "encoding_format": "int8"},
            "'encoding_format' must be float or base64",
            "encoding_format",
        ),
        (CHAT, [], "The body must be a JSON object", None),
    ],
)
async def test_what_it_does_not_know_it_does_not_take(
    http: httpx2.AsyncClient, server: ModelServer, path: str, body: Any, message: str, param: str | None
):
    reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()) == (400, error(message, param=param))
    assert not server.seen


async def test_a_body_that_is_no_json_is_refused(http: httpx2.AsyncClient):
    assert (await http.post(CHAT, content=b"{")).json() == error("The body is not JSON")


async def test_a_model_that_is_not_there_is_a_404(http: httpx2.AsyncClient):
    reply = await http.post(CHAT, json=HI | {"model": "n"})
    expected = error("The model `n` does not exist", param="model", code="model_not_found")
    assert (reply.status_code, reply.json()) == (404, expected)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", CHAT, 405)])
async def test_a_place_that_is_not_there_is_told_as_an_error_object(
    http: httpx2.AsyncClient, method: str, path: str, status: int
):
    reply = await http.request(method, path)
    assert reply.status_code == status
    assert reply.json() == error(f"Invalid URL ({method} {path})", code="unknown_url")


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_has_role_words_end_and_usage_only_on_demand(http: httpx2.AsyncClient, asked: bool):
    options = {"stream_options": {"include_usage": True}} if asked else {}
    reply = await http.post(CHAT, json=HI | {"stream": True} | options)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = data_events(reply.text)
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk] == ([15] if asked else [])
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == HI_BACK
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


@pytest.mark.parametrize(("blind", "said"), [(False, "I see 2 images: image/png, image/gif."), (True, HI_BACK)])
async def test_images_are_seen_unless_it_is_blind(
    http: httpx2.AsyncClient, server: ModelServer, blind: bool, said: str
):
    server.faults.blind = blind
    urls = [
        f"data:image/{kind};base64,{base64.b64encode(image).decode()}" for kind, image in (("png", PNG), ("gif", GIF))
    ]
    parts = [{"type": "text", "text": "Hi"}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    reply = await http.post(CHAT, json=HI | {"messages": [{"role": "user", "content": parts}]})
    assert reply.json()["choices"][0]["message"]["content"] == said
    assert server.seen[-1].images == (0 if blind else 2)


async def test_embeddings_come_as_numbers_or_base64_in_order(http: httpx2.AsyncClient, server: ModelServer):
    body = {"model": "m", "input": ["a b", "c"]}
    plain = (await http.post("/v1/embeddings", json=body)).json()
    assert plain == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": vector("a b")},
            {"object": "embedding", "index": 1, "embedding": vector("c")},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    packed = (await http.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    unpacked = [list(struct.unpack("<8f", base64.b64decode(item["embedding"]))) for item in packed["data"]]
    assert unpacked == [vector("a b"), vector("c")]
    server.faults.swapped_vectors = True
    swapped = (await http.post("/v1/embeddings", json=body)).json()
    assert [item["embedding"] for item in swapped["data"]] == [vector("c"), vector("a b")]


async def test_its_models_are_listed_and_shown(http: httpx2.AsyncClient):
    listed = (await http.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["m", "org/m"]
    assert (await http.get("/v1/models/org/m")).json() == listed["data"][1]
    assert (await http.get("/v1/models/n")).status_code == 404


async def test_lenient_it_believes_the_dead_but_not_the_foreign(
    http: httpx2.AsyncClient, server: ModelServer, key: SigningKey
):
    server.faults.lenient = True
    for audience, status in (("chat", 200), ("other", 401)):
        old = key.sign(number=2, subject="b", audience=audience, life_s=-5)
        reply = await http.post(CHAT, json=HI, headers={"authorization": f"Bearer {old.token}"})
        assert reply.status_code == status
