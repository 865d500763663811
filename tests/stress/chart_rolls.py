"""A rolling upgrade of four replicas under 50 streams, by the times of the Helm chart: `make chart-rolls`.

The times of the probes and of a pod's end are those of deploy/kubernetes.yaml. This program does what Kubernetes does:
it starts a pod, sends connections to it while its readiness probe succeeds, removes an old pod from the Service a
second after its end was requested, runs the preStop sleep, sends SIGTERM, and kills it after the grace period. A
connection to a pod that does not listen is refused. Meanwhile the store of the replicas is lost and comes back.

It runs twice: for a file in a ConfigMap of its own with the preStop sleep and `server.drain_delay_s`, and with the
latter alone, as the chart does with `config`. It exits 1 if a request fails, a stream is incomplete, or a pod is killed
or restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.e2e.store.server import StoreServer
from tests.integration.issuer import minted
from tests.integration.processes import Serving, serving
from tests.integration.scripted import Scripted
from tests.stress.rolls import Load, Result, clients, copy, is_ready, upstream

MANIFESTS = Path(__file__).parents[2] / "deploy/kubernetes.yaml"
REPLICAS = 4
LOAD = Load(concurrency=50, events=80, event_s=0.1)
"""Streams of 8 s: longer than the delay of a pod's end, and shorter than its drain."""
PROPAGATION_S = 1.0
"""Until every node of a cluster knows that a pod is no longer an endpoint of the Service."""
TOKEN_S = 10
STORE_LOST_S = 8.0


@dataclass(frozen=True, slots=True)
class Probe:
    path: str
    period_s: float
    timeout_s: float
    failures: int

    async def succeeds(self, port: int) -> bool:
        return await is_ready(port, self.path, self.timeout_s)


@dataclass(frozen=True, slots=True)
class Times:
    """What a Deployment says about the life of its pods."""

    startup: Probe
    readiness: Probe
    liveness: Probe
    sleep_s: float
    delay_s: float
    """Of `server.drain_delay_s`."""
    grace_s: float

    @classmethod
    def read(cls, manifests: Path = MANIFESTS) -> Times:
        objects: list[dict[str, Any]] = list(YAML(typ="safe").load_all(manifests.read_text()))
        (spec,) = [one["spec"] for one in objects if one["kind"] == "Deployment"]
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        pod = spec["template"]["spec"]
        (running,) = pod["containers"]
        probes = [running[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
        found = [
            Probe(one["httpGet"]["path"], one["periodSeconds"], one["timeoutSeconds"], one["failureThreshold"])
            for one in probes
        ]
        sleep_s = running["lifecycle"]["preStop"]["sleep"]["seconds"]
        return cls(found[0], found[1], found[2], sleep_s, sleep_s, pod["terminationGracePeriodSeconds"])


@dataclass
class Cluster:
    """The pods of one Deployment behind its Service."""

    times: Times
    config: Path
    ready: set[int] = field(default_factory=set)
    """The ports of the endpoints of the Service."""
    restarts: int = 0
    kills: int = 0
    refused: int = 0
    ends_s: list[float] = field(default_factory=list)
    """How long the end of each pod took."""

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Forward a connection to an endpoint at random, as kube-proxy does: it does not try a second one."""
        with contextlib.closing(writer):
            try:
                port = random.choice(sorted(self.ready))
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
            except (OSError, IndexError):
                self.refused += 1
                return
            with contextlib.closing(to_writer):
                await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))

    async def watch(self, port: int, ended: asyncio.Event) -> None:
        """Probe a pod until its end begins: its readiness, and whether it would be restarted."""

        async def readiness() -> None:
            failed = 0
            while not ended.is_set():
                failed = 0 if await self.times.readiness.succeeds(port) else failed + 1
                if not failed and not ended.is_set():
                    self.ready.add(port)
                elif failed >= self.times.readiness.failures:
                    self.ready.discard(port)
                await asyncio.sleep(self.times.readiness.period_s)

        async def liveness() -> None:
            failed = 0
            while not ended.is_set():
                failed = 0 if await self.times.liveness.succeeds(port) else failed + 1
                self.restarts += failed == self.times.liveness.failures
                await asyncio.sleep(self.times.liveness.period_s)

        async with asyncio.TaskGroup() as group:
            group.create_task(readiness())
            group.create_task(liveness())

    @asynccontextmanager
    async def pod(self) -> AsyncIterator[Serving]:
        """Run a pod that is ready. The end of the block ends it, as `kubectl delete pod` does."""
        async with serving("--config", str(self.config), "--port", "0") as running:
            port = await running.port
            for _ in range(self.times.startup.failures):
                if await self.times.startup.succeeds(port):
                    break
                await asyncio.sleep(self.times.startup.period_s)
            ended = asyncio.Event()
            watching = asyncio.create_task(self.watch(port, ended))
            try:
                async with asyncio.timeout(60):
                    while port not in self.ready:
                        await asyncio.sleep(0.1)
                yield running
            finally:
                began_s = time.monotonic()
                ended.set()
                asyncio.get_running_loop().call_later(PROPAGATION_S, self.ready.discard, port)
                await asyncio.sleep(self.times.sleep_s)
                running.process.terminate()
                try:
                    async with asyncio.timeout(self.times.grace_s - self.times.sleep_s):
                        await running.process.wait()
                except TimeoutError:
                    self.kills += 1
                    running.process.kill()
                self.ends_s.append(time.monotonic() - began_s)
                watching.cancel()
                await asyncio.wait([watching])


@dataclass
class Upgrade:
    """What an upgrade did to its clients."""

    results: list[Result]
    cluster: Cluster
    without_store: int
    """Pods that reported the loss of the store."""

    @property
    def faults(self) -> list[str]:
        failed = [failure for result in self.results for failure in result.failures]
        return failed + ["a pod was killed"] * self.cluster.kills + ["a pod was restarted"] * self.cluster.restarts


async def upgrade(load: Load, replicas: int, times: Times) -> Upgrade:
    """Replace each pod."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = stack.enter_context(StoreServer(folder))
        issuer = Scripted(answer=lambda _: minted(f"t{time.monotonic_ns()}", TOKEN_S))
        token_url = (await stack.enter_async_context(issuer)).url
        base_url = f"{(await stack.enter_async_context(upstream(load))).url}/v1"
        document = {
            "server": {
                "drain_delay_s": times.delay_s,
                "drain_timeout_s": times.grace_s - times.sleep_s - times.delay_s - 5,
            },
            "credentials": {"corp": {"type": "oauth2", "token_url": token_url, "client_id": "a", "client_secret": "b"}},
            "upstreams": {
                "chat": {"base_url": base_url, "credential": "corp", "limits": {"requests": {"minute": 1_000_000}}}
            },
            "store": store.settings(),
        }
        config = folder / "gatepass.json"
        config.write_text(json.dumps(document))
        config.chmod(0o600)
        cluster = Cluster(times, config)
        pods: list[AsyncExitStack] = []
        running: list[Serving] = []

        async def start() -> None:
            pod = AsyncExitStack()
            stack.push_async_exit(pod)
            running.append(await pod.enter_async_context(cluster.pod()))
            pods.append(pod)

        await asyncio.gather(*(start() for _ in range(replicas)))
        service = await asyncio.start_server(cluster.serve, "127.0.0.1", 0, backlog=1024)
        await stack.enter_async_context(service)

        async def lose_the_store() -> None:
            store.stop()
            await asyncio.sleep(STORE_LOST_S)
            store.start()

        async with clients(service.sockets[0].getsockname()[1], load) as results:
            endings = []
            for number, old in enumerate(pods[:replicas]):
                if number == replicas // 2:
                    endings.append(asyncio.create_task(lose_the_store()))
                await start()
                # Kubernetes starts the next pod while this one ends
                endings.append(asyncio.create_task(old.aclose()))
            await asyncio.gather(*endings)
        without_store = sum(pod.count("store_unavailable") > 0 for pod in running)
    return Upgrade(results, cluster, without_store)


def main() -> int:
    times = Times.read()
    readiness, liveness = times.readiness, times.liveness
    print(
        f"deploy/kubernetes.yaml: readiness every {readiness.period_s} s, liveness {liveness.failures} times every"
        f" {liveness.period_s} s, delay {times.delay_s} s",
        flush=True,
    )
    failed = 0
    with_config = replace(times, sleep_s=0, grace_s=times.grace_s - times.sleep_s)
    for way, own in {"own ConfigMap": times, "config": with_config}.items():
        began_s = time.monotonic()
        done = asyncio.run(upgrade(LOAD, REPLICAS, own))
        (result,), cluster = done.results, done.cluster
        print(
            f"{way} (sleep {own.sleep_s} s, grace period {own.grace_s} s): {REPLICAS} replicas replaced in"
            f" {time.monotonic() - began_s:.0f} s under {LOAD.concurrency} streams of"
            f" {LOAD.events * LOAD.event_s:.0f} s: {len(done.faults)} of {result.requests} requests failed;"
            f" {done.without_store} pods without a store for {STORE_LOST_S:.0f} s; the longest end of a pod took"
            f" {max(cluster.ends_s):.1f} s; {cluster.kills} killed, {cluster.restarts} restarted,"
            f" {cluster.refused} connections refused",
            flush=True,
        )
        for fault in done.faults[:5]:
            print(f"  {fault}", flush=True)
        failed += len(done.faults) or not done.without_store
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
