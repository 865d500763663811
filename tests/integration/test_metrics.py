"""The metrics of finished requests: who used which model of which upstream, and where the time went."""

import asyncio
import re

from gatepass.auth.api_keys import hash_key
from gatepass.server.endpoint import LISTS_AFTER_S
from tests.integration.answers import COMPLETION, DETAILED_USAGE, DONE, delta
from tests.integration.gateway import CHAT, HELLO, JSON, Gateway, relaying
from tests.integration.scripted import Dialogue, Received, Send, Wait, event, reply, stream
from tests.unit.clock import DrivenClock
from tests.waiting import until

COUNTED = {"input": 40, "output": 11, "cached_input": 32, "reasoning": 7}


def sum_of(gp: Gateway, name: str, **labels: str) -> float:
    text = gp.state.metrics.exposition().decode()
    lines = re.findall(rf"^gatepass_{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(float(value) for found, value in lines if wanted <= set(found.split(",")))


def key_of(name: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer the-key-of-{name}"}


async def test_tokens_and_requests_are_counted_by_caller_and_model():
    """Two callers, a stream and a whole reply; one model has another name at the upstream, one is not configured."""
    access = {"keys": [{"name": name, "hash": hash_key(f"the-key-of-{name}")} for name in ("alice", "bob")]}
    models = {"gpt": {"upstream": "chat", "name": "gpt-2026-deploy"}, "*": {"upstream": "chat"}}
    usage = event({"id": "x", "choices": [], "usage": DETAILED_USAGE})
    streamed = {**HELLO, "model": "gpt", "stream": True, "stream_options": {"include_usage": True}}
    dialogues: list[Dialogue] = [
        [Send(stream(delta(content="hi"), delta("stop"), usage, DONE))],
        [Send(reply({**COMPLETION, "usage": DETAILED_USAGE}))],
        [Send(reply(COMPLETION))],
    ]
    async with relaying(*dialogues, access=access, models=models) as (_, gp):
        for caller, body in (
            ("alice", streamed),
            ("bob", {**HELLO, "model": "gpt"}),
            ("bob", {**HELLO, "model": "invented"}),
        ):
            assert (await gp.ask(body, headers=key_of(caller)).answer()).status == 200
        assert (await gp.ask(headers=key_of("mallory")).answer()).status == 401
        for caller in ("alice", "bob"):
            labels = {"caller": caller, "model": "gpt", "upstream": "chat", "operation": "chat"}
            assert sum_of(gp, "requests_total", outcome="ok", **labels) == 1
            assert sum_of(gp, "attempts_total", **labels) == 1
            for kind, count in COUNTED.items():
                assert sum_of(gp, f"{kind}_tokens_total", **labels) == count
        assert sum_of(gp, "output_tokens_total", caller="bob", model="other") == 1
        assert sum_of(gp, "time_to_first_token_seconds_count", model="gpt") == 1
        assert sum_of(gp, "time_per_output_token_seconds_count", model="gpt") == 1
        assert sum_of(gp, "request_duration_seconds_count", model="gpt") == 2
        refused = {"caller": "none", "model": "none", "upstream": "none", "operation": "chat"}
        assert sum_of(gp, "errors_total", code="invalid_api_key", hop="client", **refused) == 1


async def test_a_request_that_waits_for_a_connection_is_seen_while_it_waits_and_afterwards():
    release = asyncio.Event()
    good = Send(reply(COMPLETION))
    async with relaying([good], [Wait(release), good], [good], chat={"max_connections": 1}) as (upstream, gp):
        await gp.ask().answer()  # a second request with an unknown model would wait for the first one's reply
        first = asyncio.create_task(gp.ask().answer())
        await upstream.requested(2)
        second = asyncio.create_task(gp.ask().answer())
        await until(lambda: sum_of(gp, "pool_waiting_requests", upstream="chat") == 1)
        assert sum_of(gp, "upstream_connections", upstream="chat", state="busy") == 1
        assert sum_of(gp, "requests_in_flight", caller="local", model="other", upstream="chat") == 2
        release.set()
        assert [answer.status for answer in (await first, await second)] == [200, 200]
        assert sum_of(gp, "pool_wait_seconds_count", upstream="chat") == 1
        assert sum_of(gp, "pool_waiting_requests", upstream="chat") == 0
        assert sum_of(gp, "upstream_connections_limit", upstream="chat") == 1


def listing(request: Received) -> Dialogue:
    listed = {"object": "list", "data": [{"id": "gpt-4o"}, {"id": "bge"}]}
    return [Send(reply(listed if request.target.endswith("/models") else COMPLETION))]


async def test_with_the_file_of_init_models_have_their_names_soon_after_the_start():
    """The upstream's first request is a client's; then the list is read. Names that only clients invent are `other`."""
    clock = DrivenClock()
    async with relaying(answer=listing, reads_lists=True, clock=clock) as (upstream, gp):
        await clock.advance(LISTS_AFTER_S - 0.1)
        assert (await gp.ask({**HELLO, "model": "invented"}).answer()).status == 200
        await clock.advance(0.2)
        assert (await gp.ask(None, "/v1/models", method="GET").answer()).status == 200  # waits for the same fetch
        for body in ({**HELLO, "model": "gpt-4o"}, {**HELLO, "model": "invented"}):
            assert (await gp.ask(body).answer()).status == 200
        assert sum_of(gp, "requests_total", model="gpt-4o") == 1
        assert sum_of(gp, "requests_total", model="other") == 2
        assert [one.target for one in upstream.received] == [CHAT, "/v1/models", CHAT, CHAT]


async def test_without_the_list_models_have_their_names_after_a_scrape():
    """The first chat is counted before the list is known. Names that only clients invent stay `other`."""
    async with relaying(answer=listing) as (upstream, gp):
        for body in ({**HELLO, "model": "gpt-4o"}, {**HELLO, "model": "invented"}):
            assert (await gp.ask(body).answer()).status == 200
        assert (await gp.ask(None, "/metrics", method="GET").answer()).status == 200
        await upstream.requested(3)
        await until(lambda: not gp.state.metrics.series)
        for body in ({**HELLO, "model": "gpt-4o"}, {**HELLO, "model": "invented"}):
            assert (await gp.ask(body).answer()).status == 200
        assert sum_of(gp, "requests_total", model="gpt-4o", upstream="chat", status="200") == 1
        assert sum_of(gp, "output_tokens_total", model="gpt-4o") == 1
        assert sum_of(gp, "request_duration_seconds_count", model="gpt-4o") == 1
        assert sum_of(gp, "requests_total", model="other") == 3
        for _ in range(2):  # the list is fresh
            assert (await gp.ask(None, "/metrics", method="GET").answer()).status == 200
        assert len(upstream.received) == 5
