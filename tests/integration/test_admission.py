"""Keys, hosts, origins and codings are checked from the head, before a body is read."""

import gzip
import json

import pytest
import pytest_asyncio

from gatepass.auth.api_keys import new_key
from gatepass.config.access import hash_key
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, JSON, gateway
from tests.integration.raw import request, send_raw, status_of
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.test_secrets import logged

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = json.dumps(HELLO).encode()
(KEY, _), (SECOND, _) = new_key(), new_key()
OTHER = "gp-another-key-that-nobody-knows"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    async with Scripted([Send(reply(COMPLETION))]) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(upstream):
    keys = [{"name": "ragflow", "hash": hash_key(KEY)}, {"name": "ragflow", "hash": hash_key(SECOND)}]
    async with gateway(upstream=upstream.url, access={"keys": keys}) as gp:
        yield gp


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unlocked(upstream):
    async with gateway(upstream=upstream.url) as gp:
        yield gp


def reported(response: bytes) -> tuple[int, str, str]:
    """Status, code and hop of a raw error response."""
    error = json.loads(response.partition(b"\r\n\r\n")[2])["error"]
    return status_of(response), error["code"], error["hop"]


# --- keys ---------------------------------------------------------------------------------------------------------


UNKNOWN = {
    "unknown": {"authorization": f"Bearer {OTHER}"},
    "two unknown ones": {"authorization": f"Bearer {OTHER}", "x-api-key": "EMPTY"},
    "two that differ": {"authorization": f"Bearer {KEY}", "x-api-key": SECOND},
}


@pytest.mark.parametrize("form", UNKNOWN)
async def test_unknown_key_is_401(locked, upstream, form):
    before = len(upstream.received)
    answer = await locked.ask(headers={**JSON, **UNKNOWN[form]}).answer()
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (401, "invalid_api_key", "client")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.body.decode()
    assert len(upstream.received) == before


ASKED = {
    "chat": (HELLO, "/v1/chat/completions", "POST"),
    "stream": ({**HELLO, "stream": True}, "/v1/chat/completions", "POST"),
    "speech": ({"model": "m", "input": "a"}, "/v1/audio/speech", "POST"),
    "models": (None, "/v1/models", "GET"),
    "MCP": ({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}, "/mcp/tools", "POST"),
    "status": (None, "/status", "GET"),
}


@pytest.mark.parametrize("case", ASKED)
async def test_a_login_beside_the_key_is_neither_sent_on_nor_shown(case):
    """Claude Desktop sends its own login in Authorization and the key in x-api-key; others send a placeholder."""
    body, path, method = ASKED[case]
    keys = [{"name": "desktop", "hash": hash_key(KEY), "role": "admin"}]
    accept = {**JSON, "accept": "application/json, text/event-stream"}
    listing = {"object": "list", "data": []}
    upstream = Scripted(answer=lambda one: [Send(reply(listing if one.method == "GET" else COMPLETION))])
    async with (
        upstream,
        gateway(
            upstream=upstream.url,
            access={"keys": keys},
            mcp={"tools": {"url": f"{upstream.url}/mcp"}},
            log={"level": "debug"},
        ) as gp,
    ):
        with logged(gp.state) as out:
            for login, key in ((f"Bearer {OTHER}", "x-api-key"), (f"Basic {OTHER}", "api-key")):
                answer = await gp.ask(
                    body, path, method=method, headers={**accept, "authorization": login, key: KEY}
                ).answer()
                assert (answer.status, OTHER in answer.body.decode()) == (200, False)
    sent = upstream.received
    assert (case == "status") == (sent == [])
    assert not any(secret in repr(one.headers) + one.target for one in sent for secret in (OTHER, KEY))
    assert OTHER not in out.getvalue()


async def test_a_key_in_the_query_opens_nothing(locked):
    for name in ("key", "api_key", "api-key", "access_token"):
        assert (await locked.ask(path=f"/v1/chat/completions?{name}={KEY}").answer()).status == 401


async def test_gatepass_reads_no_body_of_an_unknown_caller(locked):
    """With Expect an honest client waits for 100: it never comes. Without, the answer comes before the body."""
    announced = [("content-length", "30000000"), ("authorization", f"Bearer {OTHER}")]
    expecting = request(fields=[*announced, ("expect", "100-continue")])
    refused = await send_raw(locked.port, expecting)
    assert reported(refused) == (401, "invalid_api_key", "client")
    assert b"100 Continue" not in refused
    chunked = request(fields=[("transfer-encoding", "chunked")]) + b"5\r\nabcde\r\n"
    assert reported(await send_raw(locked.port, chunked)) == (401, "invalid_api_key", "client")


# --- without keys: this machine, and no page of another origin ----------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.1.2.3:80", "[::1]:8080"])
async def test_without_keys_this_machine_is_served(unlocked, host):
    assert status_of(await send_raw(unlocked.port, request(BODY, host=host))) == 200


@pytest.mark.parametrize("host", ["evil.example:8080", "192.168.0.1", "localhost.evil.example", ""])
async def test_without_keys_another_name_of_this_machine_is_refused(unlocked, host):
    """DNS rebinding: the page's own name leads to 127.0.0.1."""
    assert reported(await send_raw(unlocked.port, request(BODY, host=host))) == (403, "forbidden_host", "client")
    asked = request(target="/v1/models", method="GET", host=host)
    assert reported(await send_raw(unlocked.port, asked)) == (403, "forbidden_host", "client")


async def test_without_keys_a_request_without_host_is_refused(unlocked):
    old = BODY.join([b"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(BODY), b""])
    assert reported(await send_raw(unlocked.port, old)) == (403, "forbidden_host", "client")


# --- bodies -------------------------------------------------------------------------------------------------------


async def test_a_compressed_body_is_415(unlocked):
    packed = request(gzip.compress(BODY), [("content-encoding", "identity, br")])
    response = await send_raw(unlocked.port, packed)
    assert reported(response) == (415, "unsupported_encoding", "client")
    assert b"\r\naccept-encoding: identity\r\n" in response


NO_CALL = {
    "model twice": (b'{"model":"a","messages":[],"model":"b"}', "invalid_request"),
    "no model": (b'{"messages":[]}', "invalid_request"),
    "nothing": (b"", "invalid_json"),
}


@pytest.mark.parametrize("case", NO_CALL)
async def test_a_body_that_is_no_clear_json_object_is_400_and_not_sent(unlocked, upstream, case):
    (body, code), before = NO_CALL[case], len(upstream.received)
    answer = await unlocked.ask(body).answer()
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (400, code, "client")
    assert len(upstream.received) == before
