"""Input that never becomes a request leaves a log line, and a full gatepass still answers health checks."""

import asyncio
import json
import logging
import re
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gatepass.config.access import hash_key
from gatepass.server import connection
from tests.integration.gateway import Gateway, gateway, relaying
from tests.integration.raw import request, send_raw
from tests.integration.scripted import Hold
from tests.integration.test_secrets import logged
from tests.waiting import until

UPSTREAM = "http://127.0.0.1:9"


async def reported(port: int, data: bytes) -> bytes:
    """Return the whole response to `data`, on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


@asynccontextmanager
async def full(connections: int = 2):
    """A gatepass with `connections` requests of one caller in flight, which is the limit."""
    async with relaying([Hold()], limits={"connections": connections}) as (_, gp), AsyncExitStack() as held:
        for _ in range(connections):
            await held.enter_async_context(gp.ask())
        await until(lambda: gp.state.in_flight.busy == connections)
        yield gp


def errors(gp: Gateway) -> dict[str, float]:
    labels = r'gatepass_errors_total{caller="\w*",(code="\w*",hop="\w*"),model="\w*",operation="\w*",upstream="\w*"}'
    text = gp.state.metrics.exposition().decode()
    return {f"{{{found[1]}}}": float(found[2]) for found in re.finditer(f"^{labels} (.+)$", text, re.MULTILINE)}


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    fields = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "refused"]
    assert all(one["peer"] == "127.0.0.1" for one in fields)
    return [(one["code"], one["count"]) for one in fields]


async def test_refused_input_without_a_request_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "RECEIVE_S", 1.0)
    caplog.set_level(logging.INFO, "gatepass")
    many = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n"
    async with gateway(upstream=UPSTREAM) as gp:
        answers = [await reported(gp.port, data) for data in (b"NONSENSE\r\n\r\n", b"POST /v1/chat", many)]
        assert [answer[9:12] for answer in answers] == [b"400", b"408", b"431"]
        assert errors(gp) == {
            '{code="invalid_request",hop="client"}': 1,
            '{code="receive_timeout",hop="client"}': 1,
            '{code="head_too_large",hop="client"}': 1,
        }
    assert lines(caplog) == [("invalid_request", 1), ("receive_timeout", 1), ("head_too_large", 1)]


async def test_a_request_too_many_is_counted_and_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "gatepass")
    async with full() as gp:
        answer = await gp.ask().answer()
        assert errors(gp) == {'{code="overloaded",hop="gatepass"}': 1}
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
    assert "limits.connections" in answer.error["message"]
    assert lines(caplog) == []


@pytest.mark.parametrize("page", ["/healthz", "/readyz", "/metrics"])
async def test_a_full_gatepass_answers_health_checks(page: str):
    async with full() as gp:
        request = b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % page.encode()
        answers = [await reported(gp.port, request) for _ in range(3)]
        assert errors(gp) == {}
    assert [answer.split(b" ")[1] for answer in answers] == [b"200"] * 3


async def test_wrong_method_at_a_page_is_a_client_error(caplog):
    async with gateway(upstream=UPSTREAM) as gp:
        for path in (b"/healthz", b"/readyz", b"/metrics"):
            for method in (b"POST", b"OPTIONS", b"M-SEARCH"):
                data = method + b" " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
                answer = await reported(gp.port, data)
                assert answer.startswith(b"HTTP/1.1 405 "), data
                assert b"method_not_allowed" in answer
                assert b"\r\nallow: GET" in answer
    assert "Traceback" not in caplog.text


async def test_an_error_has_each_header_once():
    async with gateway(upstream=UPSTREAM) as gp:
        asked = [request(b"{"), request(b'{"messages": []}'), request(target="/nope", method="GET")]
        answers = [await send_raw(gp.port, one) for one in asked]
    heads = [answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")[1:] for answer in answers]
    names = [[line.partition(b":")[0] for line in head] for head in heads]
    assert names == [list(dict.fromkeys(found)) for found in names]
    assert all(b"cache-control: no-store" in head for head in heads)


@pytest.mark.parametrize("fields", [b"", b"authorization: Bearer gp-not-a-key-of-this-gatepass\r\n"])
@pytest.mark.parametrize("path", [b"/v1/models", b"/v1/nothing"])
async def test_a_flood_without_a_valid_key_writes_less_log_than_it_sends(fields: bytes, path: bytes):
    sent = b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (path, fields) * 400
    access = {"keys": [{"name": "app", "hash": hash_key("gp-a-key-of-this-gatepass")}]}
    async with gateway(upstream=UPSTREAM, access=access) as gp:
        with logged(gp.state) as out:
            reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
            for part in range(0, len(sent), len(sent) // 8):  # a connection closes after 100 requests that wait
                writer.write(sent[part : part + len(sent) // 8])
                for _ in range(50):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            writer.close()
            await until(lambda: '"event":"refused"' in out.getvalue())
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    events = [line["event"] for line in lines if line["event"] in ("request", "refused")]
    assert events[:2] == ["request", "refused"]  # then one for each second that the flood lasts
    assert sum(line.get("count", 1) for line in lines if line["event"] in ("request", "refused")) <= 400
    assert sum(errors(gp).values()) == 400
    assert len(out.getvalue()) < len(sent) / 2
