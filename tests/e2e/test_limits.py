"""What real clients do at each refusal of gatepass's own limits and queue: they wait, or they stop with its text.

The table on the page of the faults is the expectation. The clock of gatepass stands still: a limit stays used up until
a client was refused, and then it is reset. The clients wait in real time.
"""

import asyncio
import logging
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.clients.host_faults import CLIENTS, SDKS, TEXT, VERSIONS, by_host, by_sdk, table
from tests.e2e.hosts import programs
from tests.e2e.hosts.turns import Turn
from tests.e2e.hosts.upstream import APIS
from tests.integration.answers import VECTORS
from tests.integration.gateway import HELLO, Gateway, gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, Wait, reply, stream
from tests.unit.clock import DrivenClock
from tests.unit.sse.responses import message, part, response
from tests.waiting import until

ALL_USED = 900_000
RUN_S = 100.0


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    says: str
    """A part of the error's text."""
    limits: dict[str, Any] | None
    """Those of the model; None: its upstream has one place and no queue."""
    wait_s: int | None = None


REFUSALS = {
    "`requests` of a minute": Refusal(429, "limit of 1 request per minute", {"requests": {"minute": 1}}, 2),
    "`tokens` of a minute": Refusal(429, f"limit of {ALL_USED} tokens per min", {"tokens": {"minute": ALL_USED}}, 2),
    "`max_concurrent`": Refusal(429, "limit of 1 concurrent request", {"max_concurrent": 1}, 1),
    "a full queue": Refusal(503, "wait for a place", None, 1),
    "`requests` of a day": Refusal(429, "limit of 1 request per day", {"requests": {"day": 1}}),
    "more `tokens` than a limit has": Refusal(400, "limit of 1000 tokens per minute", {"tokens": {"minute": 1_000}}),
}
KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CLIENTS, ("plain",)),
    "openai, Python": ("plain", "raw", "respond", "respond_in_stream", "embed"),
    "anthropic, Python": ("plain", "raw"),
}
"""The kinds of calls of each client."""


def model_of(refusal: str, client: str, kind: str) -> str:
    return f"{[*REFUSALS].index(refusal)}-{CLIENTS.index(client)}-{kind}"


def kinds_of(refusal: str, client: str) -> list[str]:
    """The kinds of calls that meet the refusal: an embedding reserves its few words alone."""
    return [kind for kind in KINDS[client] if kind != "embed" or REFUSALS[refusal].status != 400]


MODELS = {
    model_of(refusal, client, kind): refusal
    for refusal in REFUSALS
    for client in KINDS
    for kind in kinds_of(refusal, client)
}


class Upstream:
    """Answers well. The first request for a model that has one place ends after a client was refused."""

    def __init__(self) -> None:
        self.refused = defaultdict[str, asyncio.Event](asyncio.Event)
        self.requests = defaultdict[str, int](int)

    def answer(self, request: Received) -> Dialogue:
        path, body = request.target.partition("?")[0], request.json()
        model: str = body["model"]
        self.requests[model] += 1
        if self.requests[model] == 1:
            used = {"prompt_tokens": 1, "completion_tokens": ALL_USED - 1, "total_tokens": ALL_USED}
            held = [Wait(self.refused[model])] if is_held(model) else []
            return [*held, Send(reply({**APIS[path].whole(body, Turn(TEXT)), "usage": used}))]
        if body.get("stream"):
            return [Send(stream(*APIS[path].events(body, Turn(TEXT)), end=LAST_CHUNK))]
        if path == "/v1/embeddings":
            return [Send(reply(VECTORS))]
        if path == "/v1/responses":
            return [Send(reply(response(message(part(TEXT)))))]
        return [Send(reply(APIS[path].whole(body, Turn(TEXT))))]


def is_held(model: str) -> bool:
    return REFUSALS[MODELS[model]].wait_s == 1


async def use_up(gp: Gateway, upstream: Upstream, held: AsyncExitStack) -> None:
    """Use the limit of each model, and all places."""
    for model in MODELS:
        request = gp.ask({**HELLO, "model": model})
        if is_held(model):
            await held.enter_async_context(request)
        else:
            assert (await request.answer()).status == (400 if REFUSALS[MODELS[model]].status == 400 else 200)
    await until(lambda: all(upstream.requests[model] for model in MODELS if is_held(model)))


async def ends_of(client: str, port: int, folder: Path, slots: asyncio.Semaphore) -> dict[str, dict[str, Any] | None]:
    """Return the error of each call, or None for an answer, by model."""
    kinds = {model_of(refusal, client, kind): kind for refusal in REFUSALS for kind in kinds_of(refusal, client)}
    if client in SDKS:
        results = await by_sdk(client, port, kinds, RUN_S)
        return {model: result["error"] for model, result in results.items()}

    async def end(model: str) -> dict[str, Any] | None:
        async with slots:
            answers, printed = await by_host(client, port, model, folder)
        return None if answers else {"message": printed}

    return dict(zip(kinds, await asyncio.gather(*map(end, kinds)), strict=True))


async def release(gp: Gateway, upstream: Upstream, calls: dict[str, list[logging.LogRecord]]) -> None:
    """Raise the limit of a model, or end the request that holds its place, once a client was refused."""
    assert gp.state.admission is not None
    limits = {limit.owner[1]: limit for limit in gp.state.admission.all_limits()}
    waiting = {model for model in MODELS if REFUSALS[MODELS[model]].wait_s}
    while waiting:
        try:
            model = (await until(lambda: [one for one in waiting if calls.get(one)], RUN_S))[0]
        except TimeoutError:
            raise AssertionError(f"no client was refused for {sorted(waiting)}") from None
        waiting.remove(model)
        if is_held(model):
            upstream.refused[model].set()
        else:
            limits[model].most += 1_000_000


class Calls(logging.Handler):
    """The access records of each model: those of the clients, not of the requests that use its limit up."""

    def __init__(self) -> None:
        super().__init__()
        self.of: defaultdict[str, list[logging.LogRecord]] = defaultdict(list)

    def emit(self, record: logging.LogRecord) -> None:
        fields = vars(record)["fields"]
        if "user_agent" in fields:
            self.of[fields["model"]].append(record)


def cell_of(calls: list[logging.LogRecord], error: object) -> str:
    refused = sum(vars(call)["fields"]["status"] != 200 for call in calls)
    if error is not None:
        return "error at once" if len(calls) == 1 else f"error after {len(calls)} calls"
    return "waits, answer" if refused == 1 else f"answer after {refused} refusals"


async def test_clients_do_at_each_refusal_of_gatepass_what_the_page_says(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(programs, "RUN_S", RUN_S)
    clock, upstream, calls, slots = DrivenClock(), Upstream(), Calls(), asyncio.Semaphore(4)
    caplog.set_level(logging.INFO, "gatepass.access")  # which also forgets what earlier tests found disabled
    monkeypatch.setattr(logging.getLogger("gatepass.access"), "handlers", [calls])
    async with Scripted(answer=upstream.answer) as server:
        one = {"base_url": f"{server.url}/v1"}
        full = {
            model: {**one, "max_in_flight": 1, "queue": 0} for model in MODELS if REFUSALS[MODELS[model]].limits is None
        }
        models = {
            model: {"upstream": model} if model in full else {"upstream": "up", "limits": REFUSALS[refusal].limits}
            for model, refusal in MODELS.items()
        }
        async with gateway(upstreams={"up": one, **full}, models=models, clock=clock) as gp, AsyncExitStack() as held:
            await use_up(gp, upstream, held)
            clock.suspend(59)
            releasing = asyncio.create_task(release(gp, upstream, calls.of))
            runs = [ends_of(client, gp.port, tmp_path, slots) for client in CLIENTS]
            ends = {model: end for run in await asyncio.gather(*runs) for model, end in run.items()}
            await releasing
    found = defaultdict[tuple[str, str], set[str]](set)
    for client in KINDS:
        for name, refusal in REFUSALS.items():
            for kind in kinds_of(name, client):
                model = model_of(name, client, kind)
                seen, error = calls.of[model], ends[model]
                assert vars(seen[0])["fields"]["status"] == refusal.status
                found[name, client].add(cell_of(seen, error))
                if refusal.wait_s and len(seen) > 1:
                    assert seen[1].created - seen[0].created > refusal.wait_s - 0.1
                if error is not None:
                    assert refusal.says in error["message"]
                if error is not None and client in SDKS:
                    code = "limit_reached" if refusal.status == 429 else "invalid_request"
                    expected = ({429: "RateLimitError", 400: "BadRequestError"}[refusal.status], refusal.status, code)
                    assert (error["class"], error["status"], error["code"]) == expected
    shown = {place: " or ".join(sorted(cells)) for place, cells in found.items()}
    print(*(f"| {name} | {' | '.join(shown[name, client] for client in CLIENTS)} |" for name in REFUSALS), sep="\n")
    assert shown == table([*REFUSALS])


WAITS = {"60 s, by a limit of a minute": "ours", "61 s, by an upstream": "theirs"}
EARLY_S = 30.0
"""A retry before has ignored the wait."""


async def test_sdks_obey_the_wait_for_a_limit_of_a_minute_and_some_no_longer_one(monkeypatch, caplog):
    """Each limit is used up in one burst. Once a client was refused it has room, and the upstream after EARLY_S."""
    calls, begun = Calls(), dict[str, float]()
    caplog.set_level(logging.INFO, "gatepass.access")
    monkeypatch.setattr(logging.getLogger("gatepass.access"), "handlers", [calls])
    names = {(whose, client): f"{whose}-{at}" for whose in WAITS.values() for at, client in enumerate(VERSIONS)}

    def answer(request: Received) -> Dialogue:
        path, body = request.target.partition("?")[0], request.json()
        now_s = asyncio.get_running_loop().time()
        if body["model"].startswith("theirs") and now_s < begun.setdefault(body["model"], now_s) + EARLY_S:
            return [Send(reply({"error": {"message": "busy", "type": "rate_limit_error"}}, 429, retry_after="61"))]
        return [Send(reply(APIS[path].whole(body, Turn(TEXT))))]

    async with Scripted(answer=answer) as server:
        ours = [names["ours", client] for client in VERSIONS]
        models = {name: {"upstream": "up", "limits": {"requests": {"minute": 1}}} for name in ours}
        upstreams = {"up": {"base_url": f"{server.url}/v1"}}
        async with gateway(upstreams=upstreams, models={**models, "*": {"upstream": "up"}}, clock=DrivenClock()) as gp:
            for name in ours:
                assert (await gp.ask({**HELLO, "model": name}).answer()).status == 200
            assert gp.state.admission is not None
            limits = {limit.owner[1]: limit for limit in gp.state.admission.all_limits()}

            async def release() -> None:
                for name in ours:
                    await until(partial(calls.of.get, name), RUN_S)
                    limits[name].most += 1_000

            releasing = asyncio.create_task(release())
            kinds = {client: {names[whose, client]: "plain" for whose in WAITS.values()} for client in VERSIONS}
            runs = [by_sdk(client, gp.port, kinds[client], RUN_S) for client in VERSIONS]
            results = {name: result for run in await asyncio.gather(*runs) for name, result in run.items()}
            await releasing
    for (whose, _), name in names.items():
        first, second = calls.of[name][:2]
        error = results[name]["error"]
        assert (second.created - first.created > EARLY_S) is (error is None), (name, error)
        assert error is None or (whose, error["class"]) == ("theirs", "RateLimitError")
    found = {
        (wait, one): cell_of(calls.of[names[whose, one]], results[names[whose, one]]["error"])
        for wait, whose in WAITS.items()
        for one in VERSIONS
    }
    print(*(f"| {wait} | {' | '.join(found[wait, one] for one in VERSIONS)} |" for wait in WAITS), sep="\n")
    assert found == table([*WAITS], [*VERSIONS])
