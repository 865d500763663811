"""What clients do where targets are limited or unavailable, and how often gatepass asks the targets for them.

The table on the page of the faults is the expectation. The SDKs have their own retries, the agent hosts one: they
repeat for minutes otherwise.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.clients.host_faults import AGENTS, CLIENTS, SDKS, TEXT, by_host, by_sdk, table
from tests.e2e.hosts.turns import Turn
from tests.e2e.hosts.upstream import APIS
from tests.integration.gateway import HELLO, Gateway, gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, reply, stream

AT_ONCE = 5
"""The hosts wait more than they compute."""
SHORTER = 0.75
"""The share of the seconds of the page that is waited at least: both the clients' waits and gatepass's are drawn."""
ALWAYS = 1_000
RUN_S = 80.0


@dataclass(frozen=True, slots=True)
class Fault:
    status: int
    wait_s: int | None
    """`retry-after`."""
    fails: tuple[int, ...]
    """The number of requests that each target answers so before it answers well."""
    is_retried: bool = True
    """Whether the model has `retry: {on: [refused]}`."""
    is_known: bool = False
    """Whether another client met it just before."""


FAULTS = {
    "one target: 429 for 1 s, no `retry`": Fault(429, 1, (1,), is_retried=False),
    "one target: 429 for 1 s": Fault(429, 1, (1,)),
    "all targets: 429 for 1 s": Fault(429, 1, (1, 1)),
    "all targets: 429 for 11 s": Fault(429, 11, (1, 1)),
    "all targets: 429 for 300 s": Fault(429, 300, (ALWAYS, ALWAYS)),
    "the same, and gatepass knows it": Fault(429, 300, (ALWAYS, ALWAYS), is_known=True),
    "first target: 503 for 1 s": Fault(503, 1, (ALWAYS, 0)),
    "all targets: 503 for 1 s": Fault(503, 1, (ALWAYS, ALWAYS)),
    "all targets: 503 without a wait": Fault(503, None, (ALWAYS, ALWAYS)),
}


def model_of(fault: str, client: str) -> str:
    return f"{[*FAULTS].index(fault)}-{CLIENTS.index(client)}"


class Target:
    """An upstream that answers as the fault of the model says."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.requests = Counter[str]()

    def answer(self, request: Received) -> Dialogue:
        api, body = APIS[request.target.partition("?")[0]], request.json()
        model: str = body["model"]
        fault = [*FAULTS.values()][int(model.partition("-")[0])]
        self.requests[model] += 1
        if self.requests[model] <= fault.fails[self.place]:
            error = {"error": {"message": "Slow down.", "type": "server_error", "code": None}}
            wait = {} if fault.wait_s is None else {"retry_after": str(fault.wait_s)}
            return [Send(reply(error, fault.status, **wait))]
        turn = Turn(TEXT)
        if body.get("stream"):
            return [Send(stream(*api.events(body, turn), end=LAST_CHUNK))]
        return [Send(reply(api.whole(body, turn)))]


async def ends_of_sdk(client: str, port: int) -> dict[str, str]:
    """Return how the SDK ends with the model of each fault."""
    results = await by_sdk(client, port, {model_of(fault, client): "plain" for fault in FAULTS}, RUN_S)
    return {model: "error" if result["error"] else "answer" for model, result in results.items()}


async def ends_of_hosts(port: int, folder: Path) -> dict[str, str]:
    """Return how each agent host ends with the model of each fault. The longest waits begin first."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def end(client: str, fault: str) -> tuple[str, str]:
        model = model_of(fault, client)
        async with slots:
            answers, _ = await by_host(client, port, model, folder)
        return model, "answer" if answers else "error"

    longest = sorted(FAULTS, key=lambda fault: -(FAULTS[fault].wait_s or 0))
    return dict(await asyncio.gather(*(end(client, fault) for fault in longest for client in reversed(AGENTS))))


async def ask_before(gp: Gateway) -> None:
    for fault, found in FAULTS.items():
        for client in CLIENTS if found.is_known else ():
            assert (await gp.ask({**HELLO, "model": model_of(fault, client)}).answer()).status == found.status


async def test_clients_do_at_each_429_and_503_what_the_page_says(tmp_path, caplog):
    """Each cell: how it ends, the seconds from the first call to the last one's end, and each call's attempts."""
    expected, targets = table([*FAULTS]), (Target(0), Target(1))
    models = {
        model_of(fault, client): {
            "targets": [{"upstream": f"up-{place}"} for place in range(len(found.fails))],
            "retry": {"on": ["refused"]} if found.is_retried else None,
        }
        for fault, found in FAULTS.items()
        for client in CLIENTS
    }
    async with Scripted(answer=targets[0].answer) as first, Scripted(answer=targets[1].answer) as second:
        upstreams = {f"up-{place}": {"base_url": f"{one.url}/v1"} for place, one in enumerate((first, second))}
        async with gateway(upstreams=upstreams, models=models) as gp:
            await ask_before(gp)
            for target in targets:
                target.requests.clear()
            caplog.set_level(logging.INFO, "gatepass.access")
            runs = (ends_of_hosts(gp.port, tmp_path), *(ends_of_sdk(client, gp.port) for client in SDKS))
            ends = {model: end for one in await asyncio.gather(*runs) for model, end in one.items()}
    found, off = {}, {}
    for (fault, client), cell in expected.items():
        model = model_of(fault, client)
        calls = [one for one in caplog.records if one.name == "gatepass.access" and one.fields["model"] == model]
        attempts = [one.fields.get("attempts", 0) for one in calls]
        assert sum(attempts) == sum(target.requests[model] for target in targets)
        assert (calls[-1].fields["status"] == 200) is (ends[model] == "answer")
        took_s = calls[-1].created - calls[0].created + calls[0].fields["duration_s"]
        shown_s = int(cell.split(", ")[1].removesuffix(" s"))
        if took_s <= SHORTER * shown_s - 1:
            off[fault, client] = took_s
        found[fault, client] = f"{ends[model]}, {shown_s} s, {'+'.join(map(str, attempts))}"
    assert found == expected
    assert off == {}
