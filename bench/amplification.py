"""Requests that failing upstreams receive, beside LiteLLM: `python -m bench.amplification`, four minutes.

The model's name says how its two upstreams fail. gatepass repeats because `retry` names chats, LiteLLM by default.
Requests arrive at their rate, whatever happens to those before them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b

import click
import httpx2

from bench.candidates import Launch, litellm_launch
from bench.environments import SetupFailed
from bench.instance import NotReady
from bench.machine import machine
from bench.paths import LOGS, ROOT, SCRATCH
from bench.processes import Child, NotEnoughCores, cores, free_port
from bench.report import aligned

FAULTS = {"errors-30": "30 % errors", "errors-100": "100 % errors", "cuts": "100 % cuts"}
RATES = (50, 5)
GOOD = "good"
MOST = 1.2
"""The promise for gatepass at RATES[0], of two digits. At 5 a second, the three repeats that are always allowed are
more."""
READY_S, ANSWER_S, SETTLE_S = 90.0, 120.0, 1.0

CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000, "model": "m", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}  # fmt: skip
ERROR = {"error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind, for a model of its own: what a gateway remembers of another load does not count."""

    fault: str
    rate: int

    @property
    def model(self) -> str:
        return f"{self.fault}-at-{self.rate}"

    @property
    def name(self) -> str:
        return f"{self.rate}/s, {FAULTS[self.fault]}"


LOADS = tuple(Load(fault, rate) for rate in RATES for fault in FAULTS)


@dataclass(frozen=True, slots=True)
class Result:
    load: Load
    gateway: str
    offered: int
    received: int
    """By both upstreams."""
    answered: int
    """Complete answers."""

    @property
    def ratio(self) -> float:
        return self.received / self.offered


class Upstream:
    """A server that fails as the model's name says. It counts what it receives."""

    def __init__(self) -> None:
        self.received = Counter[str]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                model = json.loads(body)["model"] if body else GOOD
                self.received[model] += 1
                if model.startswith("cuts"):
                    writer.write(STREAM)
                    await writer.drain()
                    break
                share = int(re.sub(r"\D*(\d*).*", r"\1", model) or 0) / 100
                draw = blake2b(b"%d" % self.received[model], digest_size=1).digest()[0] / 256
                status, answer = (500, ERROR) if draw < share else (200, CHAT)
                data = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n" % status)
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(data), data))
        writer.transport.abort()


def gatepass(urls: Sequence[str], port: int) -> Launch:
    """Return the command of gatepass with two targets and `may_have_run` for chats."""
    names = [f"upstream-{at}" for at in range(len(urls))]
    retry = {"on": ["refused", "may_have_run"], "operations": ["chat"]}
    entry = {"targets": [{"upstream": name} for name in names], "retry": retry}
    config = {
        "upstreams": {name: {"base_url": url} for name, url in zip(names, urls, strict=True)},
        "models": dict.fromkeys((GOOD, *(load.model for load in LOADS)), entry),
    }
    path = SCRATCH / "amplification-gatepass.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    command = (sys.executable, "-m", "gatepass", "serve", "--config", path, "--port", str(port))
    return Launch(command, {"PYTHONPATH": str(ROOT / "src")})


def litellm(urls: Sequence[str], port: int) -> Launch:
    """Return the command of LiteLLM with two deployments of each model and its defaults; raise SetupFailed."""
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": url, "api_key": "upstream-key"}}
        for name in (GOOD, *(load.model for load in LOADS))
        for url in urls
    ]
    path = SCRATCH / "amplification-litellm.yaml"
    path.write_text(json.dumps({"model_list": models}), encoding="utf-8")
    return litellm_launch(path, port, {})


GATEWAYS = {"gatepass": gatepass, "LiteLLM": litellm}


async def _ask(client: httpx2.AsyncClient, model: str) -> bool:
    """Send one chat. Return whether its answer is complete."""
    is_stream = model.startswith("cuts")
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": is_stream}
    try:
        reply = await client.post("/v1/chat/completions", json=body)
    except httpx2.HTTPError:
        return False
    return reply.status_code == 200 and '"error"' not in reply.text and (not is_stream or "[DONE]" in reply.text)


async def _await_ready(client: httpx2.AsyncClient, child: Child) -> None:
    began_s = time.monotonic()
    while not await _ask(client, GOOD):
        if child.ended or time.monotonic() - began_s > READY_S:
            raise NotReady(f"did not start: {child.tail()} (see {child.log.name})")
        await asyncio.sleep(0.1)


async def _measure(client: httpx2.AsyncClient, gateway: str, upstream: Upstream, load: Load, seconds: float) -> Result:
    asked, began_s = list[asyncio.Task[bool]](), time.monotonic()
    for number in range(round(load.rate * seconds)):
        await asyncio.sleep(began_s + number / load.rate - time.monotonic())
        asked.append(asyncio.create_task(_ask(client, load.model)))
    answered = sum(await asyncio.gather(*asked))
    await asyncio.sleep(SETTLE_S)
    return Result(load, gateway, len(asked), upstream.received[load.model], answered)


async def _run(seconds: float, gateway_core: int) -> tuple[list[Result], list[str]]:
    results, missing = list[Result](), list[str]()
    for name, launcher in GATEWAYS.items():
        upstream = Upstream()
        async with (
            await asyncio.start_server(upstream.serve, "127.0.0.1", 0) as first,
            await asyncio.start_server(upstream.serve, "127.0.0.1", 0) as second,
        ):
            urls = [f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}/v1" for one in (first, second)]
            port = free_port()
            try:
                launch = launcher(urls, port)
                log = LOGS / f"amplification-{name.lower()}.log"
                limits = httpx2.Limits(max_connections=None)
                base_url = f"http://127.0.0.1:{port}"
                with Child(launch.command, gateway_core, log, launch.env) as child:
                    async with httpx2.AsyncClient(base_url=base_url, timeout=ANSWER_S, limits=limits) as client:
                        await _await_ready(client, child)
                        results += [await _measure(client, name, upstream, load, seconds) for load in LOADS]
            except (SetupFailed, NotReady) as error:
                missing.append(f"{name}: {error}")
            await asyncio.sleep(SETTLE_S)  # the upstreams notice that the gateway has ended
    return results, missing


def table(results: Sequence[Result]) -> Iterator[list[str]]:
    """Yield the header and a row for each load and gateway."""
    yield ["load", "gateway", "offered", "at upstreams", "ratio", "answered"]
    for load in LOADS:
        for one in (result for result in results if result.load == load):
            yield [load.name, one.gateway, str(one.offered), str(one.received), f"{one.ratio:.2f}", str(one.answered)]


def missed(results: Sequence[Result]) -> list[str]:
    """Return the loads in which gatepass sends more than it promises."""
    of_promise = [one for one in results if one.gateway == "gatepass" and one.load.rate == RATES[0]]
    return [f"{one.load.name}: {one.ratio:.2f} > {MOST}" for one in of_promise if round(one.ratio, 2) > MOST]


@click.command()
@click.option("--seconds", type=click.FloatRange(10), default=10.0, show_default=True, help="Length of a load.")
def main(seconds: float) -> None:
    """Offer requests to gatepass and to LiteLLM before failing upstreams, and print how many the upstreams receive."""
    try:
        gateway_core, rig_core = cores()
    except NotEnoughCores as error:
        raise click.ClickException(str(error)) from error
    os.sched_setaffinity(0, {rig_core})
    for folder in (LOGS, SCRATCH):
        folder.mkdir(parents=True, exist_ok=True)
    load = machine()["load before the run"]
    results, missing = asyncio.run(_run(seconds, gateway_core))
    print("\n".join(aligned([*table(results)])))
    print(f"\ntwo upstreams, {seconds:g} s of each load; load of the machine before the run {load}")
    print("gatepass: retry {on: [refused, may_have_run], operations: [chat]}; LiteLLM: its defaults, which")
    print("pass over a deployment that fails, as breaker does")
    if missing or (faults := missed(results)):
        raise click.ClickException("; ".join(missing or faults))


if __name__ == "__main__":
    main()
