"""Faults of an issuer: reported with its own text within a bound, never with a bad token, recovered soon."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from gatepass.protocols.client_protocol import COMMENT
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import HELLO, STREAMED, gateway
from tests.integration.issuer import SECRET, minted, renewing
from tests.integration.scripted import Dialogue, Hold, Rst, Scripted, Send, Wait, begin_stream, chunk, head, reply
from tests.integration.test_connections import refusing_server, secured
from tests.unit.clock import DrivenClock
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUT_S = 1.5
GOOD = Send(reply(COMPLETION))


def replied(body: Any, status: int = 200, **headers: str) -> Dialogue:
    return [Send(reply(body, status, **headers))]


FLOOD = [
    Send(head(200, content_type="application/json", transfer_encoding="chunked")),
    *[Send(chunk(b" " * 65_536))] * 6_400,
]
"""400 MB in the reply to a login."""


@dataclass(frozen=True, slots=True)
class Fault:
    does: Dialogue
    words: str


FAULTS = {
    "down": Fault([], "no connection to"),
    "untrusted": Fault([], "network.ca_file"),
    "moved": Fault([], "/token. gatepass follows no redirect"),
    "hang": Fault([Hold()], f"within {TIMEOUT_S:g} s"),
    "wrong-secret": Fault(
        replied({"error": "invalid_client", "error_description": f"secret {SECRET} is wrong"}, 401), "invalid_client"
    ),
    "flood": Fault(FLOOD, "larger than 65536 bytes"),
}


@dataclass(slots=True)
class Stage:
    gp: Any
    issuer: Scripted
    upstream: Scripted
    decoy: Scripted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage():
    """One gateway with a separate credential for each fault, and a good one."""

    def answer(request):
        fault = FAULTS.get(request.target.strip("/"))
        return fault.does if fault is not None else minted()

    with refusing_server() as refuses:
        async with (
            Scripted([GOOD]) as decoy,
            Scripted(replied(b"", 307, location=f"{decoy.url}/token?secret={SECRET}")) as moves,
            Scripted(minted(), tls=secured()) as foreign,
            Scripted(answer=answer) as issuer,
            Scripted([GOOD]) as upstream,
        ):
            places = {"down": refuses, "untrusted": foreign.url, "moved": moves.url}
            names = [*FAULTS, "good"]
            login = {"type": "http_json", "json": {"user": "bot", "secret": SECRET}, "timeout_s": TIMEOUT_S}
            blocks: dict[str, Any] = {
                "credentials": {name: {**login, "url": f"{places.get(name, issuer.url)}/{name}"} for name in names},
                "upstreams": {name: {"base_url": upstream.url, "credential": name} for name in names},
                "models": {name: {"upstream": name} for name in names},
            }
            async with gateway(**blocks) as gp:
                yield Stage(gp, issuer, upstream, decoy)


@pytest.mark.parametrize("name", FAULTS)
async def test_issuers_failure_is_a_503_with_its_message(stage, name):
    body = STREAMED if name in ("down", "hang", "wrong-secret") else HELLO
    before = len(stage.upstream.received)
    answer = await stage.gp.ask({**body, "model": name}).answer()
    error = answer.error
    assert (answer.status, error["code"], error["hop"]) == (503, "token_unavailable", f"credential:{name}")
    assert answer.headers["x-gatepass-hop"] == f"credential:{name}"
    assert FAULTS[name].words in error["message"]
    assert SECRET not in answer.body.decode()
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers.get("x-should-retry") == ("false" if name == "wrong-secret" else None)
    assert (len(stage.upstream.received), stage.decoy.connections) == (before, 0)


async def test_a_flood_is_not_read(stage):
    """The issuer sends no more than the kernel's buffers hold; each try has a new connection."""
    await stage.gp.ask({**HELLO, "model": "flood"}).answer()
    tries = len([request for request in stage.issuer.received if request.target == "/flood"])
    assert stage.issuer.sent_bytes / tries < 16_000_000


async def test_an_issuer_that_is_down_at_the_start_is_used_after_its_return():
    """No traffic helps: readiness turns green by itself."""
    down = True
    async with renewing(Scripted(answer=lambda _: [Rst()] if down else minted()), Scripted([GOOD])) as gp:
        refused = await gp.ask().answer()
        assert (await gp.ask(None, "/readyz", method="GET").answer()).status == 503
        down = False
        await until(lambda: gp.state.ready)
        assert (await gp.ask().answer()).status == 200
    assert (refused.status, refused.error["code"]) == (503, "token_unavailable")


async def test_a_stream_outlives_its_token():
    clock, go = DrivenClock(), asyncio.Event()
    events = [delta(content="one"), delta(content="two"), delta("stop"), DONE]
    rest = [Send(chunk(one)) for one in events[1:]]
    dialogue = [*begin_stream(), Send(chunk(events[0])), Wait(go), *rest, Send(b"0\r\n\r\n")]
    async with (
        renewing(Scripted(minted(), [Hold()]), Scripted(dialogue), clock=clock) as gp,
        gp.ask(STREAMED) as ask,
    ):
        await ask.head()
        await ask.until(events[0])
        await clock.advance(400)
        assert not gp.state.ready
        go.set()
        while await ask.piece():
            pass
    assert ask.body.replace(COMMENT, b"") == b"".join(events)
