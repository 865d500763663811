"""Keys, hosts, origins and sizes are checked from the head, before a body is read."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest
import pytest_asyncio

from gatepass.auth.api_keys import hash_key, new_key
from gatepass.config.references import Reference
from tests.integration.answers import COMPLETION, EVENTS, VECTORS
from tests.integration.gateway import BOUND_S, HELLO, JSON, gateway
from tests.integration.raw import request, send_raw, status_of, unchunked
from tests.integration.scripted import Scripted, Send, Wait, begin_stream, chunk, reply
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = json.dumps(HELLO).encode()
KEY, NARROW = new_key()[0], new_key()[0]
OTHER = "gp-another-key-that-nobody-knows"


def answer_all(request):
    if request.target.endswith("/models"):
        return [Send(reply({"object": "list", "data": [{"id": "small-1"}, {"id": "large-1"}]}))]
    return [Send(reply(VECTORS if request.target.endswith("/embeddings") else COMPLETION))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    async with Scripted(answer=answer_all) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(upstream):
    """Two keys: one by its hash, one by reference, which may use small models alone."""
    keys = [
        {"name": "ragflow", "hash": hash_key(KEY)},
        {"name": "librechat", "key": Reference.to_variable("LIBRECHAT_KEY", NARROW), "models": ["small-*"]},
    ]
    async with gateway(upstream=upstream.url, access={"keys": keys}, models={"*": {"upstream": "chat"}}) as gp:
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
    "none": {},
    "unknown": {"authorization": f"Bearer {OTHER}"},
    "two that differ": {"authorization": f"Bearer {KEY}", "x-api-key": OTHER},
    "two that are both known": {"x-api-key": NARROW, "api-key": KEY},
    "its hash": {"authorization": f"Bearer {hash_key(KEY)}"},
    "by another name": {"x_api_key": KEY, "cookie": f"key={KEY}"},
}


@pytest.mark.parametrize("form", UNKNOWN)
async def test_unknown_key_is_401(locked, upstream, form):
    before = len(upstream.received)
    answer = await locked.ask(headers={**JSON, **UNKNOWN[form]}).answer()
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (401, "invalid_api_key", "client")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.body.decode()
    assert len(upstream.received) == before


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


async def test_a_known_caller_gets_100_continue(locked):
    fields = [("authorization", f"Bearer {KEY}"), ("expect", "100-continue"), ("content-length", str(len(BODY)))]
    fields += [("content-type", "application/json")]
    received = await send_raw(locked.port, request(fields=fields), until=b"\r\n\r\n")
    assert received == b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_key_may_be_limited_to_some_models(locked, upstream):
    headers = {**JSON, "authorization": f"Bearer {NARROW}"}
    before = len(upstream.received)
    refused = await locked.ask({**HELLO, "model": "large-1"}, headers=headers).answer()
    assert (refused.status, refused.error["code"], refused.error["param"]) == (403, "model_not_allowed", "model")
    assert len(upstream.received) == before
    assert (await locked.ask({**HELLO, "model": "small-1"}, headers=headers).answer()).status == 200
    listed = (await locked.ask(None, "/v1/models", method="GET", headers=headers).answer()).json()
    assert [model["id"] for model in listed["data"]] == ["small-1"]
    hidden = await locked.ask(None, "/v1/models/large-1", method="GET", headers=headers).answer()
    assert (hidden.status, hidden.error["code"]) == (404, "model_not_found")


async def test_with_keys_any_host_and_type_will_do(locked):
    """A key cannot be sent by a foreign page, so what protects a keyless gateway is not wanted here."""
    fields = [("authorization", f"Bearer {KEY}"), ("origin", "https://evil.example"), ("content-type", "text/plain")]
    assert status_of(await send_raw(locked.port, request(BODY, fields, host="gatepass:8080"))) == 200


async def test_rotated_key_is_accepted_without_a_restart(upstream, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    keys = [{"name": "rotated", "key": Reference.to_file(str(file))}]
    async with gateway(upstream=upstream.url, access={"keys": keys}) as gp:
        assert (await gp.ask(headers={**JSON, "x-api-key": KEY}).answer()).status == 200
        file.write_text(f"{OTHER}\n")
        began_s = time.monotonic()
        while (await gp.ask(headers={**JSON, "x-api-key": OTHER}).answer()).status != 200:
            assert time.monotonic() - began_s < 5
        assert (await gp.ask(headers={**JSON, "x-api-key": KEY}).answer()).status == 401


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


ORIGINS = {"https://evil.example": 403, "null": 403, "http://localhost:3000": 200}


@pytest.mark.parametrize("origin", ORIGINS)
async def test_without_keys_a_page_of_another_origin_is_refused(unlocked, origin):
    response = await send_raw(unlocked.port, request(BODY, [("origin", origin)]))
    assert status_of(response) == ORIGINS[origin]
    if ORIGINS[origin] == 403:
        assert reported(response) == (403, "forbidden_origin", "client")
    assert b"access-control-allow" not in response.lower()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_without_keys_what_a_form_can_post_is_refused(unlocked, kind):
    response = await send_raw(unlocked.port, request(BODY, [("content-type", kind)]))
    assert reported(response) == (415, "unsupported_media_type", "client")


# --- how much -----------------------------------------------------------------------------------------------------

BODY_BYTES = 5_000
RECEIVE_S = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bounded(upstream):
    limits = {"body_bytes": BODY_BYTES, "receive_s": RECEIVE_S}
    async with gateway(upstream=upstream.url, limits=limits) as gp:
        yield gp


def body_of(size_bytes: int) -> bytes:
    return BODY[:-1] + b" " * (size_bytes - len(BODY)) + b"}"


async def test_body_at_its_limit_is_accepted_and_one_more_byte_is_413(bounded):
    assert status_of(await send_raw(bounded.port, request(body_of(BODY_BYTES)))) == 200
    assert reported(await send_raw(bounded.port, request(body_of(BODY_BYTES + 1)))) == (413, "body_too_large", "client")


async def test_a_body_that_is_announced_too_large_is_refused_unread(bounded):
    announced = [("content-length", "999999999999"), ("content-type", "application/json")]
    expecting = request(fields=[*announced, ("expect", "100-continue")])
    response = await send_raw(bounded.port, expecting)
    assert reported(response) == (413, "body_too_large", "client")
    assert b"100 Continue" not in response


JSON_TYPE = ("content-type", "application/json")
SLOW = {
    "nothing": b"",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-a: 1",
    "half a body": request(fields=[("content-length", "99"), JSON_TYPE]) + BODY[:5],
    "half a chunk": request(fields=[("transfer-encoding", "chunked"), JSON_TYPE]) + b"5\r\nab",
}


@pytest.mark.parametrize("case", SLOW)
async def test_a_request_that_does_not_end_is_408_and_closed_within_the_bound(bounded, case):
    began_s = time.monotonic()
    response = await send_raw(bounded.port, SLOW[case])
    assert RECEIVE_S <= time.monotonic() - began_s < RECEIVE_S + 5
    assert reported(response) == (408, "receive_timeout", "client")


async def test_slow_head_does_not_extend_the_timeout(bounded):
    """Each byte comes soon enough; all of them do not."""
    began_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", bounded.port)
    received = asyncio.create_task(reader.read())
    writer.write(b"GET / HTTP/1.1\r\nx-a: ")
    while not received.done() and time.monotonic() - began_s < 10:
        writer.write(b"b")
        await asyncio.wait((received,), timeout=0.05)
    writer.transport.abort()
    assert time.monotonic() - began_s < RECEIVE_S + 5
    assert reported(received.result()) == (408, "receive_timeout", "client")


async def test_a_broken_chunk_is_reported_at_once(bounded):
    fields = [("transfer-encoding", "chunked"), ("content-type", "application/json")]
    response = await send_raw(bounded.port, request(fields=fields) + b'5\r\n{"mod\r\nzz\r\n')
    assert reported(response) == (400, "invalid_request", "client")  # after the deadline it would be receive_timeout
    await until(lambda: not bounded.state.in_flight.busy)


BEHIND = {
    "half a head": b"POST /v1/chat",
    "a large head": b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000,
}


@pytest.mark.parametrize("case", BEHIND)
async def test_invalid_bytes_after_a_request_never_change_its_response(case):
    """The client sends on while its stream goes: a refusal among the events would look like an answer."""
    go = asyncio.Event()
    rest = Send(b"".join(map(chunk, EVENTS[1:])) + b"0\r\n\r\n")
    dialogue = [*begin_stream(), Send(chunk(EVENTS[0])), Wait(go), rest]
    async with Scripted(dialogue) as upstream, gateway(upstream=upstream.url, limits={"receive_s": RECEIVE_S}) as gp:
        whole = request(json.dumps({**HELLO, "stream": True}).encode(), [("connection", "keep-alive")])
        hearing = asyncio.create_task(send_raw(gp.port, whole, BEHIND[case]))
        await upstream.requested()
        await asyncio.sleep(RECEIVE_S + 0.3)  # until the second head's bound has passed: receive_s is real time here
        go.set()
        response = await hearing
    body = response.partition(b"\r\n\r\n")[2]
    assert (status_of(response), unchunked(body)) == (200, b"".join(EVENTS))
    assert response.count(b"HTTP/1.1") == 1


async def test_connection_with_an_early_response_closes_after_a_time(upstream, monkeypatch):
    monkeypatch.setattr("gatepass.server.process.IDLE_TIMEOUT_S", 0.3)
    async with gateway(upstream=upstream.url) as gp:
        head = request(fields=[("content-length", "5"), ("connection", "keep-alive")], host="evil.example")
        reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
        writer.write(head)
        answered = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"12345")
        began_s = time.monotonic()
        async with asyncio.timeout(BOUND_S):
            rest = await reader.read()
        writer.transport.abort()
    assert (status_of(answered), b"HTTP/1.1" in rest) == (403, False)
    assert time.monotonic() - began_s < 5


async def test_a_kept_connection_serves_on_after_an_early_answer(locked):
    """The refused body is passed over; what follows it is the next request."""
    refused = request(BODY, [("authorization", f"Bearer {OTHER}"), ("connection", "keep-alive")])
    served = request(BODY, [("authorization", f"Bearer {KEY}")])
    response = await send_raw(locked.port, refused[:-9], refused[-9:], served)
    assert [status_of(b"HTTP/1.1 " + part) for part in response.split(b"HTTP/1.1 ")[1:]] == [401, 200]


async def test_a_hundred_header_fields_are_enough(unlocked):
    def fields(count: int) -> list[tuple[str, str]]:
        return [(f"x-{number}", "y") for number in range(count)]

    assert status_of(await send_raw(unlocked.port, request(BODY, fields(96)))) == 200
    assert reported(await send_raw(unlocked.port, request(BODY, fields(97)))) == (431, "head_too_large", "client")


@pytest.mark.parametrize("piece_bytes", [1_000, 10_000_000], ids=["in pieces", "at once"])
async def test_a_head_above_64_kib_is_431(unlocked, piece_bytes):
    whole = request(BODY, target=f"/v1/chat/completions?{'a' * 70_000}")
    pieces = [whole[at : at + piece_bytes] for at in range(0, len(whole), piece_bytes)]
    assert reported(await send_raw(unlocked.port, *pieces)) == (431, "head_too_large", "client")


async def test_head_of_60_kib_is_accepted_and_each_request_has_the_full_limit(unlocked):
    kept = request(BODY, [("x-large", "a" * 60_000), ("connection", "keep-alive")])
    last = request(BODY, [("x-large", "a" * 60_000)])
    response = await send_raw(unlocked.port, kept, kept, last)
    assert response.count(b"HTTP/1.1 200 OK") == 3


async def test_a_compressed_body_is_415(unlocked):
    packed = request(gzip.compress(BODY), [("content-encoding", "identity, br")])
    response = await send_raw(unlocked.port, packed)
    assert reported(response) == (415, "unsupported_encoding", "client")
    assert b"\r\naccept-encoding: identity\r\n" in response


NO_CALL = {
    "model twice": (b'{"model":"a","messages":[],"model":"b"}', "invalid_request"),
    "model beside its escape": (b'{"model":"a","mod\\u0065l":"b"}', "invalid_request"),
    "stream as text": (b'{"model":"a","stream":"true"}', "invalid_request"),
    "no model": (b'{"messages":[]}', "invalid_request"),
    "model with a line break": (b'{"model":"a\\r\\nx-admin: 1"}', "invalid_request"),
    "nothing": (b"", "invalid_json"),
    "a list": (b"[]", "invalid_json"),
    "200,000 deep": (b'{"model":"a","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "invalid_json"),
}


@pytest.mark.parametrize("case", NO_CALL)
async def test_a_body_that_is_no_clear_json_object_is_400_and_not_sent(unlocked, upstream, case):
    (body, code), before = NO_CALL[case], len(upstream.received)
    answer = await unlocked.ask(body).answer()
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (400, code, "client")
    assert len(upstream.received) == before


async def test_an_offer_to_upgrade_is_ignored_and_the_body_is_kept():
    """Java's HTTP client offers h2c with every plain request; RFC 9110 7.8 lets a server ignore it."""
    fields = [("connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")]
    async with Scripted([Send(reply(COMPLETION))]) as upstream, gateway(upstream=upstream.url) as gp:
        response = await send_raw(gp.port, request(json.dumps(HELLO).encode(), fields), until=b"}}")
    assert status_of(response) == 200
    assert upstream.received[0].json() == HELLO


async def test_http_1_0_gets_no_chunks():
    dialogue = [*begin_stream(), Send(b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n")]
    async with Scripted(dialogue) as upstream, gateway(upstream=upstream.url) as gp:
        asked = request(json.dumps({**HELLO, "stream": True}).encode()).replace(b"HTTP/1.1", b"HTTP/1.0")
        response = await send_raw(gp.port, asked)
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"".join(EVENTS)
