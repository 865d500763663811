"""Only the configuration decides the destination of a request and the header fields that it carries."""

import json
from typing import Any

import pytest
import pytest_asyncio

from gatepass.config.access import hash_key
from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import HELLO, gateway
from tests.integration.raw import request, send_raw, status_of
from tests.integration.scripted import Scripted, Send, reply, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "gp-a-key-that-opens-the-door"
FROM_UPSTREAM: dict[str, Any] = {
    "set_cookie": "session=upstream",
    "server": "corp-llm",
    "www_authenticate": "Bearer realm=corp",
    "x_request_id": "upstream-id-1",
    "x_gatepass_hop": "upstream:forged",
    "access_control_allow_origin": "*",
    "alt_svc": 'h3=":443"',
    "strict_transport_security": "max-age=1",
    "connection": "keep-alive, x-internal",
    "x_internal": "10.0.0.7",
    "openai_processing_ms": "12",
    "x_ratelimit_remaining_tokens": "99",
}


def answer_all(request):
    if request.target.endswith("/models"):
        return [Send(reply({"object": "list", "data": [{"id": "org/large"}]}))]
    asked = request.json()
    if asked.get("stream"):
        return [Send(stream(*EVENTS, **FROM_UPSTREAM))]
    return [Send(reply(COMPLETION, **FROM_UPSTREAM).replace(b"\r\n", b"\r\nx_under: 1\r\n", 1))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    async with Scripted(answer=answer_all) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoy():
    async with Scripted([Send(reply(COMPLETION))]) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gp(upstream):
    """With a key, so that no Host and no type of body is refused before it could do harm."""
    upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "forward_headers": ["X-Tenant", "x-session-id"]}}
    access = {"keys": [{"name": "n", "hash": hash_key(KEY)}]}
    async with gateway(upstreams=upstreams, access=access) as serving:
        yield serving


AUTHORIZED = ("authorization", f"Bearer {KEY}")


# --- tricks -------------------------------------------------------------------------------------------------------


def tricks(decoy_url: str) -> dict[str, bytes]:
    """Requests by which other gateways were led astray; each names the decoy or another path."""
    place = decoy_url.removeprefix("http://")
    found = {
        f"body: {name}": _post({**HELLO, name: decoy_url})
        for name in ("api_base", "base_url", "proxy", "custom_llm_provider", "upstream")
    }
    found["body: headers"] = _post({**HELLO, "extra_headers": {"host": place}, "litellm_params": {"api_base": place}})
    found["query"] = _post(HELLO, target=f"/v1/chat/completions?api_base={decoy_url}&model={decoy_url}")
    for name, value in (
        *(("host", place), ("x-forwarded-host", place), ("forwarded", f"host={place};proto=http")),
        *(("x-original-url", "/admin"), ("x-forwarded-prefix", "/admin"), ("x-api-base", decoy_url)),
    ):
        found[f"header: {name}"] = _post(HELLO, [(name, value)])
    for target in (
        *(f"{decoy_url}/v1/chat/completions", f"//{place}/v1/chat/completions", f"/v1/chat/completions#{decoy_url}"),
        *(f"/v1/chat/completions@{place}", f"/{decoy_url}/v1/chat/completions", f"http://localhost@{place}/v1/models"),
        *("/v1/../admin", "/v1/%2e%2e/admin", "/v1/chat/completions/%2e%2e/x", "/v1/chat%2fcompletions"),
        *("/v1/chat/completions%00", "/v1/chat/completions;x=1", "/V1/chat/completions", "\\v1\\chat\\completions"),
    ):
        found[f"target: {target}"] = _post(HELLO, target=target)
    for target in ("/v1/models/../../admin", "/v1/models/%2e%2e%2f%2e%2e%2fadmin", f"/v1/models/{decoy_url}/x"):
        found[f"model: {target}"] = request(fields=[AUTHORIZED], target=target, method="GET")
    for model in (decoy_url, "../../admin", "m?x=1", f"m@{place}"):
        found[f"name: {model}"] = _post({**HELLO, "model": model})
    found["connect"] = request(fields=[AUTHORIZED], target=place, method="CONNECT")
    return found


def _post(body: Any, fields: Any = (), **more: str) -> bytes:
    return request(json.dumps(body).encode(), [*fields, AUTHORIZED], **more)


PATHS = {"/v1/chat/completions", "/v1/models"}


async def test_no_request_can_choose_its_destination(gp, upstream, decoy):
    for trick, sent in tricks(decoy.url).items():
        before = len(upstream.received)
        response = await send_raw(gp.port, sent)
        assert status_of(response) in {200, 400, 404, 405}, trick
        assert decoy.connections == 0, trick
        for seen in upstream.received[before:]:
            assert (seen.target in PATHS, seen.header("authorization")) == (True, None), trick
            assert seen.header("host") == upstream.url.removeprefix("http://"), trick


# --- up: by allow-list --------------------------------------------------------------------------------------------

ALLOWED = {
    "user-agent": "openai/3",
    "x-request-id": "client-id-1",
    "openai-organization": "org",
    "openai-project": "proj",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=1",
    "x-tenant": "blue",
    "x-session-id": "s1",
}
FOREIGN = {
    "cookie": "a=b",
    "x-api-key": KEY,
    "api-key": KEY,
    "proxy-authorization": "Basic eA==",
    "x-forwarded-for": "10.0.0.1",
    "x-real-ip": "10.0.0.1",
    "x_api_key": "k",
    "x_tenant": "red",
    "openai_organization": "forged",
    "x-gatepass-hop": "forged",
    "x-stainless-retry-count": "1",
    "accept-language": "de",
    "te": "trailers",
    "upgrade": "h2c",
    "x-anything": "1",
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_forwarded_fields_are_on_a_list(gp, upstream, streamed):
    fields = [AUTHORIZED, *ALLOWED.items(), *FOREIGN.items(), ("accept", "*/*"), ("accept-encoding", "gzip")]
    sent = request(json.dumps({**HELLO, "stream": streamed}).encode(), fields)
    assert status_of(await send_raw(gp.port, sent)) == 200
    received = upstream.received[-1]
    own = {
        "host": upstream.url.removeprefix("http://"),
        "accept": "text/event-stream" if streamed else "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(received.body)),
    }
    found = dict(received.headers)
    assert len(found) == len(received.headers), "no field comes twice"
    found.pop("connection", None)
    assert found == {**ALLOWED, **own}


async def test_fields_that_connection_names_are_not_forwarded(gp, upstream):
    named = ("connection", "close, X-Tenant, host, content-type")
    fields = [AUTHORIZED, ("x-tenant", "blue"), ("x-session-id", "s"), named]
    assert status_of(await send_raw(gp.port, request(json.dumps(HELLO).encode(), fields))) == 200
    received = upstream.received[-1]
    assert (received.header("x-tenant"), received.header("x-session-id")) == (None, "s")
    assert received.header("content-type") == "application/json"
    assert received.header("host") == upstream.url.removeprefix("http://")


# --- down: by deny-list -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_only_the_listed_fields_of_the_upstream_are_relayed(gp, streamed):
    sent = request(json.dumps({**HELLO, "stream": streamed}).encode(), [AUTHORIZED, ("x-request-id", "mine")])
    lines = (await send_raw(gp.port, sent)).partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    names = [line.partition(":")[0] for line in lines]
    assert len(set(names)) == len(names), "no field comes twice"
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kept = {"openai-processing-ms": "12", "x-ratelimit-remaining-tokens": "99", "x-request-id": "mine"}
    assert {name: found.get(name) for name in kept} == kept
    own = {"date", "content-type", "server-timing", "connection", "cache-control"}
    own |= {"x-accel-buffering", "transfer-encoding"} if streamed else {"content-length"}
    assert set(found) == own | set(kept)
    assert found["cache-control"].startswith("no-store")


# --- paths --------------------------------------------------------------------------------------------------------


async def test_below_a_base_path_everything_is_there_and_nothing_elsewhere(upstream):
    async with gateway(upstream=upstream.url, server={"base_path": "/llm", "drain_timeout_s": 0}) as serving:
        found = {
            path: (await serving.ask(body, path, method=method).answer()).status
            for path, method, body in (
                ("/llm/v1/chat/completions", "POST", HELLO),
                ("/llm/chat/completions/", "POST", HELLO),
                ("/llm/v1/models", "GET", None),
                ("/llm/healthz", "GET", None),
                ("/llm/readyz", "GET", None),
                ("/llm/metrics", "GET", None),
                ("/healthz", "GET", None),
                ("/v1/models", "GET", None),
                ("/llmx/v1/models", "GET", None),
                ("/llm", "GET", None),
            )
        }
    missing = {path for path, status in found.items() if status == 404}
    assert missing == {"/v1/models", "/llmx/v1/models", "/llm"}
    assert {status for path, status in found.items() if path not in missing} == {200}
