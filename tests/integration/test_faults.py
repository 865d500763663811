"""Every way in which an upstream can fail: which status, code and hop the client receives, after one attempt."""

from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import CHAT, HELLO, gateway
from tests.integration.ragflow import REPLAYED, classify
from tests.integration.scripted import (
    Dialogue,
    Fin,
    Hold,
    Scripted,
    Send,
    begin_stream,
    chunk,
    event,
    head,
    reply,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODES = {"plain": HELLO, "stream": {**HELLO, "stream": True}}
PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body>...</body></html>"
FIRST = delta(content="one")
IDLE, FIRST_BYTE, TOTAL = (("idle_s", 2.0),), (("first_byte_s", 0.3),), (("total_s", 3.0),)
SLOW = event({"error": {"message": "busy", "type": "rate_limit_error", "code": "slow"}})


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of an upstream, and the client's error. `timeouts` are the upstream's."""

    does: Dialogue
    status: int
    code: str
    heals: bool = True
    words: str = ""
    timeouts: tuple[tuple[str, float], ...] = ()


def html(status: int = 200) -> Dialogue:
    return [Send(reply(PAGE, status, content_type="text/html"))]


EITHER = {
    "fin-before-the-head": Fault([Fin()], 502, "upstream_closed"),
    "no-http": Fault([Send(b"-ERR unknown command\r\n\r\n"), Fin()], 502, "upstream_invalid", heals=False),
    "status-999": Fault([Send(head(999, content_length="0"))], 502, "upstream_invalid", heals=False),
    "switching": Fault([Send(head(101, upgrade="websocket", connection="upgrade"))], 502, "upstream_invalid", False),
    "silence": Fault([Hold()], 504, "upstream_timeout_first_byte", timeouts=FIRST_BYTE),
    "dribbled-head": Fault(
        [Send(head(200, x=9000 * "x"), 1, 0.05), Hold()],
        504,
        "upstream_timeout_first_byte",
        timeouts=(("first_byte_s", 3.0), ("connect_s", 2.0)),
    ),
    "total": Fault([Hold()], 504, "upstream_timeout_total", timeouts=TOTAL),
    "page": Fault(html(), 502, "upstream_html", heals=False, words='titled "Sign in"'),
    "page-labelled-json": Fault([Send(reply(PAGE))], 502, "upstream_html", heals=False),
    "page-503": Fault(html(503), 503, "upstream_html", heals=False, words='titled "Sign in"'),
    "page-403": Fault(html(403), 403, "upstream_html", heals=False),
    "empty": Fault([Send(reply(b""))], 502, "upstream_empty"),
    "no-content": Fault([Send(head(204))], 502, "upstream_empty"),
    "empty-500": Fault([Send(reply(b"", 500))], 500, "upstream_error", words="500 Internal Server Error"),
    "null": Fault([Send(reply(b"null"))], 502, "upstream_invalid", heals=False),
    "half-json": Fault([Send(reply(b'{"choices": [{"mess'))], 502, "upstream_invalid", heals=False),
    "another-object": Fault([Send(reply({"status": "UP"}))], 502, "upstream_invalid", heals=False, words="choices"),
    "words": Fault([Send(reply(b"upstream timed out", content_type="text/plain"))], 502, "upstream_invalid", False),
    "brotli": Fault([Send(reply(COMPLETION, content_encoding="br"))], 502, "upstream_invalid", False, "br"),
    "error-in-200": Fault(
        [Send(reply({"error": {"message": "model overloaded", "code": 529, "type": "x"}}))], 529, "529"
    ),
    "code-in-200": Fault([Send(reply({"code": 20042, "message": "no such tier", "data": None}))], 502, "20042"),
    "early-end-of-error": Fault([Send(head(400, content_length="50") + b'{"error"'), Fin()], 502, "upstream_closed"),
}
"""The error is the same for a plain request and a stream, because no byte has been sent yet."""

PLAIN = {
    "fin-in-the-body": Fault([Send(reply(COMPLETION)[:-9]), Fin()], 502, "upstream_closed"),
    "broken-chunk": Fault(
        [Send(head(200, content_type="application/json", transfer_encoding="chunked") + b'5\r\n{"cho\r\nzz\r\n')],
        502,
        "upstream_invalid",
        heals=False,
    ),
    "silence-in-the-body": Fault([Send(reply(COMPLETION)[:-9]), Hold()], 504, "upstream_timeout_idle", timeouts=IDLE),
    "events-unasked-and-cut": Fault([Send(stream(FIRST))], 502, "upstream_closed"),
    "events-unasked-without-an-answer": Fault([Send(stream(DONE))], 502, "upstream_empty"),
    "events-unasked-and-an-error": Fault([Send(stream(FIRST, SLOW))], 429, "slow", words="busy"),
}

STREAM = {
    "done-only": Fault([Send(stream(DONE))], 502, "upstream_empty"),
    "no-event": Fault([Send(stream())], 502, "upstream_empty"),
    "whole-reply-of-nothing": Fault([Send(reply({**COMPLETION, "choices": []}))], 502, "upstream_empty"),
    "whole-reply-cut": Fault([Send(reply(COMPLETION)[:-9]), Fin()], 502, "upstream_closed"),
    "error-first": Fault([Send(stream(SLOW))], 429, "slow"),
    "code-first": Fault([Send(stream(event({"code": 500001, "msg": "INVOKE_MODEL_ERROR"})))], 500, "500001"),
    "no-json-first": Fault([Send(stream(event("hello")))], 502, "upstream_invalid", heals=False),
    "fin-before-an-event": Fault([*begin_stream(), Fin()], 502, "upstream_closed"),
    "fin-in-the-first-event": Fault([*begin_stream(), Send(chunk(FIRST[:-5])), Fin()], 502, "upstream_closed"),
    "silence-before-an-event": Fault([*begin_stream(), Hold()], 504, "upstream_timeout_idle", timeouts=IDLE),
}
"""A stream that fails before its first event: the client still gets the true status."""

MIDSTREAM = {
    "end-without-done": Fault([Send(stream(FIRST))], 200, "upstream_closed"),
    "fin": Fault([*begin_stream(), Send(chunk(FIRST)), Fin()], 200, "upstream_closed"),
    "fin-in-an-event": Fault([*begin_stream(), Send(chunk(FIRST + FIRST[:-3])), Fin()], 200, "upstream_closed"),
    "silence": Fault([*begin_stream(), Send(chunk(FIRST)), Hold()], 200, "upstream_timeout_idle", timeouts=IDLE),
    "total": Fault([*begin_stream(), Send(chunk(FIRST)), Hold()], 200, "upstream_timeout_total", timeouts=TOTAL),
    "no-json": Fault([Send(stream(FIRST, event("oops")))], 200, "upstream_invalid"),
    "broken-chunk": Fault([*begin_stream(), Send(chunk(FIRST) + b"zz\r\n")], 200, "upstream_invalid"),
    "own-error": Fault([Send(stream(FIRST, SLOW))], 200, "slow", words="busy"),
    "foreign-error": Fault(
        [Send(stream(FIRST, event({"code": 500001, "msg": "the server is unavailable (503)"})))], 200, "500001"
    ),
}

TABLES = {"either": EITHER, "plain": PLAIN, "stream": STREAM, "midstream": MIDSTREAM}


def _fault(place: str) -> Fault:
    table, _, rest = place.partition("_")
    return TABLES[table][rest.rpartition("_")[0]]


def _places() -> list[str]:
    modes = {"either": ["plain", "stream"], "plain": ["plain"], "stream": ["stream"], "midstream": ["stream"]}
    return [f"{table}_{name}_{mode}" for table, faults in TABLES.items() for name in faults for mode in modes[table]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faulty():
    """A separate upstream for each fault and mode, so that each fault meets a new connection."""
    async with Scripted(answer=lambda request: _fault(request.target.split("/")[1]).does) as server:
        upstreams = {
            place: {"base_url": f"{server.url}/{place}/v1", "timeouts": dict(_fault(place).timeouts)}
            for place in _places()
        }
        models = {place: {"upstream": place} for place in _places()}
        async with gateway(upstreams=upstreams, models=models) as gp:
            yield server, gp


async def _asked(faulty, place):
    """The answer of a faulty upstream, after exactly one request."""
    server, gp = faulty
    path = "/for/ragflow" + CHAT if place.startswith("midstream") else CHAT
    answer = await gp.ask({**MODES[place.rpartition("_")[2]], "model": place}, path).answer()
    assert len([request for request in server.received if request.target.startswith(f"/{place}/")]) == 1
    return answer


@pytest.mark.parametrize("place", [place for place in _places() if not place.startswith("midstream")])
async def test_a_fault_before_the_first_event_is_an_http_error_that_names_its_hop(faulty, place):
    answer, fault = await _asked(faulty, place), _fault(place)
    error = answer.error
    assert (answer.status, error["code"], error["hop"]) == (fault.status, fault.code, f"upstream:{place}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-gatepass-hop"] == f"upstream:{place}"
    assert answer.headers.get("x-should-retry") == (None if fault.heals else "false")
    assert fault.words in error["message"]
    assert error["type"]


@pytest.mark.parametrize("place", [place for place in _places() if place.startswith("midstream")])
async def test_fault_within_a_stream_is_its_last_event_and_causes_no_retry(faulty, place):
    answer, fault = await _asked(faulty, place), _fault(place)
    assert (answer.status, answer.whole, answer.error["code"]) == (200, True, fault.code)
    assert answer.body.startswith(FIRST)
    assert len(answer.events) == 2
    assert "[DONE]" not in answer.events
    assert fault.words in answer.error["message"]
    assert classify(answer.error["message"]) not in REPLAYED
    if fault.code.startswith("upstream_"):
        assert answer.error["hop"] == f"upstream:{place}"
